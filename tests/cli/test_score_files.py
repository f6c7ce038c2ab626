"""itm-fast evaluate on the files of other codes: formats, two directions, per-token embeddings, maps, and bad input."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from itm_fast.cli import main as cli
from itm_fast.evaluation import evaluate
from itm_fast.metrics import TwoWayScorer
from itm_fast.ops.cross_attention import cross_attention_similarity
from itm_fast.ops.max_similarity import max_similarity


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    images, captions = (rng.standard_normal((n, 8), dtype=np.float32) for n in (10, 50))
    regions, words = (rng.standard_normal((n, m, 8), dtype=np.float32) for n, m in ((10, 4), (50, 6)))
    found = {"images": images, "captions": captions, "regions": regions, "words": words, "sims": images @ captions.T}
    found["turned"] = np.ascontiguousarray(rng.standard_normal((50, 10), dtype=np.float32))
    found["word_counts"], found["region_counts"] = rng.integers(1, 7, 50), rng.integers(1, 5, 10)
    for name, array in found.items():
        np.save(f"{name}.npy", array)
    return found


def run(capsys, *flags):
    code = cli.main(["evaluate", *flags, "--json"])
    captured = capsys.readouterr()
    return code, json.loads(captured.out) if captured.out else None, captured.err


def same(found, expected):
    return all(found[key] == expected.to_dict()[key] for key in ("i2t", "t2i", "rsum"))


@pytest.mark.parametrize(
    ("write", "flags"),
    [
        (lambda d: Path("sims.json").write_text(json.dumps(d["sims"].tolist())), ["--sims", "sims.json"]),
        (lambda d: torch.save({"sims": torch.from_numpy(d["sims"]), "epoch": 1}, "s.pt"), ["--sims", "s.pt"]),
        (lambda d: np.savez("s.npz", a=d["sims"], b=d["sims"] * 0), ["--sims", "s.npz:a"]),
        (lambda d: np.save("t.npy", d["sims"].T), ["--sims", "t.npy", "--transposed"]),
        (lambda d: np.save("d.npy", {"npts": 10, "sims": d["sims"]}), ["--sims", "d.npy", "--pickled"]),
        (
            lambda d: save_file({n: torch.from_numpy(d[n]) for n in ("images", "captions")}, "e.safetensors"),
            ["--images", "e.safetensors:images", "--captions", "e.safetensors:captions"],
        ),
        (
            lambda d: torch.save(torch.from_numpy(d["images"]), "images.pth"),
            ["--images", "images.pth", "--captions", "captions.npy", "--similarity", "dot"],
        ),
    ],
)
def test_formats(data, capsys, write, flags):
    write(data)
    code, found, err = run(capsys, *flags)
    assert (code, err) == (0, "")
    assert same(found, evaluate(data["sims"]))


@pytest.mark.parametrize("suffix", ["npy", "npz", "pt", "json"])
def test_caption_to_image(data, capsys, suffix):
    owners = np.sort(np.random.default_rng(1).integers(0, 10, 50))
    write = {
        "npy": lambda: np.save("map.npy", owners),
        "npz": lambda: np.savez("map.npz", caption_to_image=owners),
        "pt": lambda: torch.save(torch.from_numpy(owners), "map.pt"),
        "json": lambda: Path("map.json").write_text(json.dumps(owners.tolist())),
    }
    write[suffix]()
    code, found, _ = run(capsys, "--sims", "sims.npy", "--caption-to-image", f"map.{suffix}")
    assert code == 0
    assert same(found, evaluate(data["sims"], caption_to_image=owners))


def test_two_directions(data, capsys):
    expected = TwoWayScorer(data["sims"], data["turned"].T)
    code, found, _ = run(capsys, "--sims", "sims.npy", "--t2i-sims", "turned.npy")
    assert code == 0
    assert same(found, evaluate(expected))


@pytest.mark.parametrize("no_candidate", ["-200", "-150"])
def test_no_candidate(data, capsys, no_candidate):
    # As X-VLM on two processes leaves it: -200 outside the candidates, whose own scores are shifted by -100.
    sims = np.where(data["sims"] > np.sort(data["sims"])[:, -11:-10], data["sims"] - 100, -200)
    turned = data["turned"].T - 100
    np.save("sims.npy", sims)
    np.save("turned.npy", turned.T)
    np.save("few.npy", np.where(sims > np.sort(sims)[:, -4:-3], sims, -np.inf))
    expected = evaluate(TwoWayScorer(np.where(sims == -200, -np.inf, sims), turned))
    flags = ["--sims", "sims.npy", "--t2i-sims", "turned.npy", "--no-candidate", no_candidate]
    code, found, _ = run(capsys, *flags)
    assert code == 0
    assert same(found, expected)
    assert found["i2t"]["n_undefined"] > 0
    assert found["i2t"]["medr"] is None
    assert cli.main(["evaluate", *flags]) == 0
    assert " - " in capsys.readouterr().out
    _, _, err = run(capsys, *flags[:-1], "-300")
    assert "--no-candidate -300: no score is so low, the lowest is -200, so that every pair is taken" in err
    code, _, err = run(capsys, "--sims", "few.npy")
    assert code == 2
    assert "R@10 is undefined: image" in err
    assert "has 3 candidates" in err


@pytest.mark.parametrize(
    ("flags", "similarity", "options"),
    [
        (["max"], max_similarity, {}),
        (
            ["max", "--cross_attn", "i2t", "--agg_func", "Mean"],
            max_similarity,
            {"cross_attn": "i2t", "agg_func": "Mean"},
        ),
        (["scan"], cross_attention_similarity, {}),
        (
            [
                "scan",
                "--cross-attn",
                "i2t",
                "--raw_feature_norm",
                "softmax",
                "--lambda_softmax",
                "4",
                "--lambda_lse",
                "5",
            ],
            cross_attention_similarity,
            {"cross_attn": "i2t", "raw_feature_norm": "softmax", "lambda_softmax": 4.0, "lambda_lse": 5.0},
        ),
    ],
)
def test_regions_and_words(data, capsys, flags, similarity, options):
    counts = ["--word-counts", "word_counts.npy", "--region-counts", "region_counts.npy"]
    code, found, _ = run(capsys, "--images", "regions.npy", "--captions", "words.npy", *counts, "--similarity", *flags)
    assert code == 0
    tensors = (torch.from_numpy(data[name]) for name in ("regions", "words", "word_counts", "region_counts"))
    assert same(found, evaluate(similarity(*tensors, **options)))


EMBEDDINGS = ["--images", "images.npy", "--captions", "captions.npy"]
TOKENS = ["--images", "regions.npy", "--captions", "words.npy"]


@pytest.mark.parametrize(
    ("flags", "fragment"),
    [
        (["--sims", "turned.npy"], "sims is 50 x 10: it looks transposed; rows are images, columns captions"),
        (["--sims", "sims.npy", "--transposed"], "it looks transposed"),
        (
            ["--sims", "sims.npy", "--t2i-sims", "sims.npy"],
            "sims.npy has shape (10, 50), expected (50, 10), captions as",
        ),
        (["--t2i-sims", "turned.npy"], "--t2i-sims goes with --sims"),
        ([*EMBEDDINGS, "--transposed"], "--transposed goes with --sims"),
        ([*EMBEDDINGS, "--no-candidate", "-100"], "--no-candidate goes with --sims"),
        (["--sims", "word_counts.npy"], "word_counts.npy: has shape (50,), expected 2 axes"),
        ([*EMBEDDINGS, "--cross-attn", "i2t"], "--cross-attn has no use with --similarity dot"),
        ([*EMBEDDINGS, "--word-counts", "word_counts.npy"], "--word-counts has no use with --similarity dot"),
        (
            [*EMBEDDINGS, "--similarity", "max"],
            "images.npy has shape (10, 8), but --similarity max compares (n, most, dim)",
        ),
        (TOKENS, "regions and words take --similarity max or scan"),
        ([*TOKENS, "--similarity", "max"], "--similarity max needs --word-counts"),
        (
            [*TOKENS, "--similarity", "max", "--lambda-softmax", "4"],
            "--lambda-softmax has no use with --similarity max",
        ),
        ([*TOKENS, "--similarity", "scan", "--word-counts", "region_counts.npy"], "word_counts must have shape (50,)"),
        ([*TOKENS, "--similarity", "scan", "--word-counts", "floats.npy"], "integers, a boolean mask, or None, got"),
        (
            [*TOKENS, "--similarity", "scan", "--word-counts", "sims.npy"],
            "sims.npy: has shape (10, 50), expected 1 axis",
        ),
        (["--images", "images.npy", "--captions", "words.npy"], "words.npy has shape (50, 6, 8), but --similarity dot"),
        (["--images", "images.npy", "--captions", "turned.npy"], "images has dim 8, but captions has dim 10"),
        (["--sims", "sims.npy", "--caption-to-image", "sims.npy"], "sims.npy: has shape (10, 50), expected 1 axis"),
        (["--sims", "sims.npy", "--caption-to-image", "region_counts.npy"], "caption_to_image has shape (10,)"),
    ],
)
def test_bad_flags_are_one_line_and_code_2(capsys, flags, fragment):
    np.save("floats.npy", np.ones(50))
    code, report, err = run(capsys, *flags)
    assert (code, report) == (2, None)
    assert fragment in err
    assert err.count("\n") == 1


def test_nan_is_named(data, capsys):
    data["sims"][3, 41] = np.nan
    np.save("sims.npy", data["sims"])
    code, _, err = run(capsys, "--sims", "sims.npy")
    assert code == 2
    assert "sims is NaN at row (image) 3, column (caption) 41" in err
