"""itm-fast rerank and itm-fast ensemble: sources of all kinds, searches, output, and one line on bad input."""

import argparse
import json

import numpy as np
import pytest
import torch

from itm_fast.cli import main as cli
from itm_fast.data import PrecompDataset, Vocabulary, make_data
from itm_fast.evaluation import EnsembleScorer, evaluate, rerank
from itm_fast.models import load_model, model_class, save_model
from itm_fast.sources.trained_model import ModelScorer

DIM = 12


def model_of(name, vocabulary, seed=0, **options):
    torch.manual_seed(seed)
    config = model_class(name).config_class(img_dim=DIM, word_dim=6, embed_size=8, **options)
    return model_class(name)(config, vocabulary).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data set with three untrained models and a checkpoint in SCAN's layout, and files of the scores of one."""
    folder = tmp_path_factory.mktemp("rerank")
    made = make_data(folder / "data", n_train=20, n_dev=6, n_test=8, max_regions=4, dim=DIM)
    assert made is not None
    vocabulary = Vocabulary.load(folder / "data" / "vocab.json")
    save_model(model_of("vsepp", vocabulary), folder / "vsepp")
    for cross_attn in ("t2i", "i2t"):
        save_model(model_of("scan", vocabulary, cross_attn=cross_attn), folder / cross_attn)
    scan = model_of("scan", vocabulary, seed=1)
    options = argparse.Namespace(**{name: getattr(scan.config, name) for name in scan.config.__dataclass_fields__})
    content = {"model": [scan.img_enc.state_dict(), scan.txt_enc.state_dict()], "opt": options, "best_rsum": 1.0}
    torch.save(content, folder / "model_best.pth.tar")
    for split, n_images in (("test", 8), ("dev", 6)):
        sims = matrix(folder, "t2i", split)
        assert sims.shape == (n_images, 5 * n_images)
        np.save(folder / f"{split}.npy", sims)
    rng = np.random.default_rng(0)
    np.save(folder / "images.npy", rng.standard_normal((8, 3), dtype=np.float32))
    np.save(folder / "captions.npy", rng.standard_normal((40, 3), dtype=np.float32))
    bad = matrix(folder, "t2i", "test")
    bad[2, 9] = np.nan
    np.save(folder / "nan.npy", bad)
    for name, images in (("ids", list(range(8))), ("other", [9, *range(1, 8)])):
        (folder / f"{name}.json").write_text(json.dumps({"image_ids": images, "caption_ids": list(range(40))}))
    return folder


def scorer(folder, model, split):
    return ModelScorer(load_model(folder / model), PrecompDataset(folder / "data", split), tokenizer="split")


def matrix(folder, model, split):
    of = scorer(folder, model, split)
    return of(slice(0, of.n_images), slice(0, of.n_captions)).numpy()


@pytest.fixture
def run(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)

    def call(command, *flags):
        code = cli.main([command, *flags])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


DATA = ("--data", "data", "--tokenizer", "split")


def test_rerank_models(folder, run):
    code, out, _ = run(
        "rerank", "--coarse", "vsepp", "--fine", "t2i", "--k", "10", *DATA, "--json", "--output", "r.json"
    )
    assert code == 0
    found = json.loads(out)
    expected = rerank(matrix(folder, "vsepp", "test"), matrix(folder, "t2i", "test"), 10).to_dict()
    for key in ("i2t", "t2i", "coarse", "rsum"):
        assert found[key] == expected[key]
    assert found["conditions"]["n_scored"] == expected["conditions"]["n_scored"] <= 320
    assert json.loads((folder / "r.json").read_text()) == found


def test_half_precision_reaches_the_models(folder, run):
    """Of both commands; the figures of the fast model are those of bfloat16."""
    flags = [*DATA, "--precision", "bfloat16", "--device", "cpu", "--json"]
    code, out, _ = run("rerank", "--coarse", "vsepp", "--fine", "test.npy", "--k", "10", *flags)
    found = json.loads(out)
    assert code == 0
    data = PrecompDataset(folder / "data", "test")
    coarse = ModelScorer(load_model(folder / "vsepp"), data, tokenizer="split", precision="bfloat16")
    sims = coarse(slice(0, 8), slice(0, 40)).numpy()
    assert not np.array_equal(sims, matrix(folder, "vsepp", "test"))
    expected = rerank(sims, np.load(folder / "test.npy"), 10).to_dict()
    assert found["coarse"] == expected["coarse"]
    assert any("The model ran in bfloat16" in note for note in found["conditions"]["notes"])
    code, _, _ = run("ensemble", "vsepp", "t2i", *flags, "--save-results", "mean.npy")
    assert code == 0
    fine = ModelScorer(load_model(folder / "t2i"), data, tokenizer="split", precision="bfloat16")
    mean = (sims.astype(float) + fine(slice(0, 8), slice(0, 40)).numpy()) / 2
    np.testing.assert_allclose(np.load(folder / "mean.npy"), mean, atol=1e-6)


def test_rerank_files_and_alpha(folder, run):
    files = ["--coarse", "images.npy,captions.npy", "--fine", "test.npy", "--k", "4", "--ks", "1", "3"]
    code, out, _ = run("rerank", *files, "--alpha", "0.5", "--beta", "-1", "--json")
    assert code == 0
    images, captions = np.load(folder / "images.npy"), np.load(folder / "captions.npy")
    expected = rerank((images, captions), np.load(folder / "test.npy"), 4, alpha=0.5, beta=-1, ks=(1, 3))
    assert json.loads(out)["t2i"] == expected.to_dict()["t2i"]
    code, out, _ = run("rerank", *files)
    assert code == 0
    assert "coarse stage t2i" in out
    assert "Coarse stage" in out
    assert "medr" not in out.split("\n")[1]


def test_alpha_is_searched_on_dev(folder, run):
    code, out, _ = run("rerank", "--coarse", "vsepp", "--fine", "test.npy", "--dev-fine", "dev.npy", *DATA, "--json")
    assert code == 0
    found = json.loads(out)
    assert len(found["search"]["tried"]) == 8
    assert found["conditions"]["alpha"] == found["search"]["alpha"]
    alpha = found["search"]["tried"][3][0]
    dev = rerank(matrix(folder, "vsepp", "dev"), np.load(folder / "dev.npy"), 128, alpha=alpha)
    assert found["search"]["tried"][3][1] == pytest.approx(dev["rsum"])
    code, out, _ = run(
        *("rerank", "--coarse", "vsepp", "--fine", "t2i", "--search-alpha-on", "dev", "--alphas", "0", "2", *DATA)
    )
    assert code == 0
    assert "searched on the validation set: rsum" in out


def test_ensemble_of_a_model_a_checkpoint_a_file_and_embeddings(folder, run):
    members = ["i2t", "model_best.pth.tar", "test.npy", "images.npy,captions.npy"]
    code, out, _ = run("ensemble", *members, "--normalise", "zscore", *DATA, "--json")
    assert code == 0
    found = json.loads(out)
    assert [member["name"] for member in found["members"]] == members
    from itm_fast.originals import load_original

    vocabulary = Vocabulary.load(folder / "data" / "vocab.json")
    data = PrecompDataset(folder / "data", "test")
    checkpoint = ModelScorer(load_original(folder / "model_best.pth.tar", vocabulary), data, tokenizer="split")
    embeddings = np.load(folder / "images.npy"), np.load(folder / "captions.npy")
    scorers = [scorer(folder, "i2t", "test"), checkpoint, np.load(folder / "test.npy"), embeddings]
    expected = evaluate(EnsembleScorer(scorers, normalise="zscore")).to_dict()
    assert found["i2t"] == expected["i2t"]
    assert found["t2i"] == expected["t2i"]


def test_weights_are_searched_on_dev(folder, run):
    code, out, _ = run("ensemble", "t2i", "i2t", "--search-weights-on", "dev", "--step", "0.25", *DATA, "--json")
    assert code == 0
    found = json.loads(out)
    weights = found["search"]["weights"]
    assert [member["weight"] for member in found["members"]] == weights
    dev = [matrix(folder, name, "dev") for name in ("t2i", "i2t")]
    for tried, rsum in found["search"]["tried"]:
        assert rsum == pytest.approx(evaluate(EnsembleScorer(dev, weights=tried))["rsum"])
    test = [matrix(folder, name, "test") for name in ("t2i", "i2t")]
    assert found["rsum"] == pytest.approx(evaluate(EnsembleScorer(test, weights=weights))["rsum"])
    code, out, _ = run("ensemble", "test.npy", "i2t", "--dev-members", "dev.npy", "i2t", "--step", "0.5", *DATA)
    assert code == 0
    assert "the best of 3 tried; each member scored all its pairs once" in out


def test_what_a_search_found_is_what_is_evaluated(folder, run):
    for split, n in (("t", 8), ("d", 6)):
        own = np.repeat(np.eye(n), 5, axis=1)
        np.save(folder / f"right_{split}.npy", own)
        np.save(folder / f"wrong_{split}.npy", -2 * own)
    dev = ("--dev-members", "right_d.npy", "wrong_d.npy", "--step", "0.25")
    code, out, _ = run("ensemble", "right_t.npy", "wrong_t.npy", *dev, "--json")
    assert code == 0
    found = json.loads(out)
    assert [member["weight"] for member in found["members"]] == found["search"]["weights"] == [0.75, 0.25]
    assert found["rsum"] == 600
    dev = ("--dev-coarse", "right_d.npy", "--dev-fine", "wrong_d.npy", "--alphas", "0", "4")
    code, out, _ = run("rerank", "--coarse", "right_t.npy", "--fine", "wrong_t.npy", *dev, "--json")
    assert code == 0
    found = json.loads(out)
    assert found["conditions"]["alpha"] == found["search"]["alpha"] == 4
    assert found["rsum"] == 600


def test_given_weights_and_ids(run):
    code, out, _ = run("ensemble", "test.npy", "test.npy", "--weights", "0.25", "0.75", "--ids", "ids.json", "ids.json")
    assert code == 0
    assert "0.25" in out


@pytest.mark.parametrize(
    ("flags", "fragment"),
    [
        (["rerank", "--fine", "test.npy"], "--coarse is missing"),
        (["rerank", "--coarse", "test.npy"], "--fine is missing"),
        (["rerank", "--coarse", "none", "--fine", "test.npy"], "none: no such file or folder; expected similarities"),
        (["rerank", "--coarse", "none.npy", "--fine", "test.npy"], "none.npy: No such file"),
        (["rerank", "--coarse", "vsepp", "--fine", "t2i"], "vsepp is a model, which needs --data"),
        (["rerank", "--coarse", "test.npy", "--fine", "test.npy", "--k", "9"], "k is 9, but R@10 is asked for"),
        (["rerank", "--coarse", "test.npy", "--fine", "dev.npy"], "fine scores are of 6 images x 30 captions"),
        (["rerank", "--coarse", "test.npy", "--fine", "nan.npy"], "fine is NaN at row (image) 2, column (caption) 9"),
        (["rerank", "--coarse", "test.npy", "--fine", "test.npy", "--search-alpha-on", "dev"], "as --dev-coarse"),
        (["rerank", "--coarse", "t2i", "--fine", "i2t", "--alphas", "1", *DATA], "--alphas goes with"),
        (
            ["rerank", "--coarse", "t2i", "--fine", "i2t", "--alpha", "1", "--search-alpha-on", "dev", *DATA],
            "exclude each other",
        ),
        (["rerank", "--coarse", "test.npy", "--fine", "test.npy", "--protocol", "coco-1k"], "expects 5000 images"),
        (["rerank", "--coarse", "test.npy", "--fine", "test.npy", "--device", "cuda"], "--device goes with a model"),
        (["rerank", "--coarse", "vsepp", "--fine", "dev.npy", "--device", "cuda:99", *DATA], "'cuda:99', but"),
        (["ensemble", "test.npy", "test.npy", "--precision", "float16"], "--precision goes with a model"),
        (["ensemble", "vsepp", "test.npy", "--device", "tpu", *DATA], "device is 'tpu'; expected"),
        (["ensemble"], "at least two members, given 0"),
        (["ensemble", "test.npy"], "at least two members, given 1"),
        (["ensemble", "test.npy", "dev.npy"], "test.npy is of 8 images x 40 captions, but dev.npy of 6 x 30"),
        (["ensemble", "test.npy", "nan.npy"], "nan.npy is NaN at row (image) 2, column (caption) 9"),
        (["ensemble", "test.npy", "test.npy", "--weights", "0.5", "0.6"], "weights sum to 1.1"),
        (["ensemble", "test.npy", "test.npy", "--weights", "-1", "2"], "weights[0] is -1.0"),
        (["ensemble", "test.npy", "test.npy", "--ids", "ids.json", "other.json"], "first at 0: 0 and 9"),
        (["ensemble", *["test.npy"] * 3, "--ids", "ids.json", "ids.json"], "--ids has 2 files"),
        (["ensemble", "test.npy", "test.npy", "--search-weights-on", "dev"], "as --dev-members"),
        (["ensemble", "test.npy", "test.npy", "--dev-members", "dev.npy"], "--dev-members has 1"),
        (["ensemble", "t2i", "i2t", "--search-weights-on", "dev", "--weights", "1", "0", *DATA], "exclude each other"),
        (["ensemble", "test.npy", "data/vocab.json"], "data/vocab.json"),
        (
            ["ensemble", "test.npy", "test.npy", "--normalise", "minmax"],
            "--normalise: invalid choice 'minmax'; expected one of none, rank, zscore",
        ),
    ],
)
def test_bad_input_is_one_line_and_code_2(run, flags, fragment):
    code, out, err = run(*flags)
    assert (code, out) == (2, "")
    assert fragment in err
    assert err.startswith("itm-fast: error: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "named", "what"),
    [
        (["ensemble", "test.npy", "test.npy", *DATA], "--data, --tokenizer", "a model or a checkpoint"),
        (["ensemble", "test.npy", "test.npy", "--step", "0.5"], "--step", "--search-weights-on"),
        (
            ["rerank", "--coarse", "test.npy", "--fine", "test.npy", "--k", "10", "--dev-caption-to-image", "map.npy"],
            "--dev-caption-to-image",
            "--search-alpha-on",
        ),
    ],
)
def test_flags_that_nothing_reads_are_said(run, flags, named, what):
    code, _, err = run(*flags)
    assert (code, err) == (0, f"itm-fast: warning: {named}: no effect without {what}\n")


def test_embeddings_by_cosine(folder, run):
    images, captions = (np.load(folder / f"{name}.npy") for name in ("images", "captions"))
    unit = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in (images, captions)]
    sources = "images.npy,captions.npy", "test.npy"
    sims, other = unit[0] @ unit[1].T, np.load(folder / "test.npy")
    _, out, _ = run("rerank", "--coarse", sources[0], "--fine", sources[1], "--k", "10", "--json")
    assert any(note.startswith("coarse: WARNING: Embeddings") for note in json.loads(out)["conditions"]["notes"])
    _, out, _ = run("rerank", "--coarse", sources[0], "--fine", sources[1], "--k", "10", "--normalise", "--json")
    assert json.loads(out)["i2t"] == rerank(sims, other, 10).to_dict()["i2t"]
    _, out, _ = run("ensemble", *sources)
    assert "WARNING: Embeddings of images.npy,captions.npy are compared by dot product" in out
    _, out, _ = run("ensemble", *sources, "--normalise-embeddings", "--json", "--save-results", "saved.npy")
    assert json.loads(out)["i2t"] == evaluate(EnsembleScorer([sims, other])).to_dict()["i2t"]
    np.testing.assert_allclose(np.load(folder / "saved.npy"), (sims + other) / 2, atol=1e-6)
    code, _, err = run("rerank", "--coarse", "test.npy", "--fine", "test.npy", "--k", "10", "--normalise")
    assert (code, err.count("\n")) == (2, 1)
    assert "neither coarse nor fine is one" in err


def test_ks_below_ten(run):
    code, out, _ = run("rerank", "--coarse", "test.npy", "--fine", "test.npy", "--k", "5", "--ks", "1", "5")
    assert code == 0
    assert "rsum was left out: it needs k of at least 10, given 5" in out
