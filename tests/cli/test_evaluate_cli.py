"""itm-fast evaluate: flags, output, exit codes and error lines."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import release_sets
import torch

from itm_fast.cli import main as cli
from itm_fast.cli.console import print_table, progress_bar
from itm_fast.data import Vocabulary
from itm_fast.evaluation import evaluate


@pytest.fixture
def folder(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    images, captions = (rng.standard_normal((n, 8), dtype=np.float32) for n in (10, 50))
    np.save(tmp_path / "images.npy", images)
    np.save(tmp_path / "captions.npy", captions)
    np.save(tmp_path / "sims.npy", images @ captions.T)
    np.save(tmp_path / "map.npy", np.arange(50) // 5)
    np.save(tmp_path / "pickled.npy", np.array([{"sims": 1}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "archive.npz", sims=images)
    (tmp_path / "text.npy").write_text("no array")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys, *argv):
    code = cli.main(["evaluate", *argv])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_table(folder, capsys):
    code, out, err = run(capsys, "--sims", "sims.npy")
    assert (code, err) == (0, "")
    assert out.startswith("retrieval: whole gallery, rsum ")
    assert "whole gallery t2i" in out


@pytest.mark.parametrize(
    "flags",
    [
        ["--sims", "sims.npy"],
        ["--images", "images.npy", "--captions", "captions.npy"],
        ["--sims", "sims.npy", "--captions_per_image", "5"],
        ["--sims", "sims.npy", "--caption_to_image", "map.npy"],
    ],
)
def test_json(folder, capsys, flags):
    code, out, _ = run(capsys, *flags, "--json", "--output", "report.json")
    expected = evaluate(np.load(folder / "sims.npy")).to_dict()
    assert code == 0
    found = json.loads(out)
    assert found["i2t"] == expected["i2t"]
    assert found["rsum"] == expected["rsum"]
    assert json.loads((folder / "report.json").read_text()) == found


def test_folds_and_ks(folder, capsys):
    _, out, _ = run(capsys, "--sims", "sims.npy", "--folds", "2", "--ks", "3", "--json")
    assert len(json.loads(out)["folds"]) == 2
    assert "R@3" in json.loads(out)["i2t"]


@pytest.mark.parametrize(
    ("flags", "fragment"),
    [
        ([], "no source of similarities given: expected --sims"),
        (["--sims", "sims.npy", "--images", "images.npy", "--captions", "captions.npy"], "more than one source"),
        (["--images", "images.npy"], "--captions is missing"),
        (["--data", "."], "--model is missing"),
        (["--sims", "none.npy"], "none.npy: No such file"),
        (["--sims", "pickled.npy"], "pickled.npy: a pickle, which is read only if asked for"),
        (["--sims", "text.npy"], "text.npy: not a plain .npy array"),
        (["--sims", "archive.npz"], "sims is 10 x 8, but captions_per_image = 5 expects 50 captions"),
        (["--sims", "images.npy"], "captions_per_image = 5 expects 50 captions"),
        (["--images", "captions.npy", "--captions", "images.npy"], "looks transposed"),
        (["--sims", "sims.npy", "--protocol", "coco-1k"], "coco-1k expects 5000 images"),
        (["--sims", "sims.npy", "--folds", "3"], "is not a multiple"),
        (["--sims", "sims.npy", "--output", "missing/report.json"], "no such folder"),
        (["--protocol", "coco"], "--protocol: invalid choice 'coco'; perhaps you meant coco-"),
        (["--folds", "x"], "Error parsing --folds"),
        (["--sims", "sims.npy", "--device", "cuda"], "--device goes with a model or a checkpoint"),
        (["--sims", "sims.npy", "--precision", "bfloat16"], "--precision goes with a model or a checkpoint"),
        (["--sims", "sims.npy", "--trec-depth", "5"], "--trec-depth goes with --export FILE.trec"),
        *(
            (
                ["--trec-run", "a.trec", "--qrels", "a.qrels", *flags],
                f"{flags[0]} goes with other scores than --trec-run",
            )
            for flags in (["--sims", "sims.npy"], ["--protocol", "coco-5k"], ["--ncs"], ["--run", "page"])
        ),
        (["--model", "model", "--data", ".", "--device", "gpu"], "device is 'gpu'; expected"),
        (["--protcol", "coco-1k"], "perhaps you meant --protocol"),
    ],
)
def test_bad_input_is_one_line_and_code_2(folder, capsys, flags, fragment):
    code, out, err = run(capsys, *flags)
    assert (code, out) == (2, "")
    assert fragment in err
    assert err.startswith("itm-fast: error: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        (["--tokenizer", "split"], "a model or a checkpoint"),
        (["--vocab", "vocab.json"], "a model or a checkpoint"),
        (["--drop-blank"], "a model or a checkpoint"),
        (["--word-counts", "counts.npy"], "--images and --captions"),
        (["--agg-func", "Mean"], "--images and --captions"),
        (["--self-score", "0"], "--protocol cxc or coco-all"),
        (["--query-column", "1"], "--protocol cxc or coco-all"),
        (["--cider-tokenizer", "ptb"], "--ncs or --relevance"),
        (["--depth", "5"], "--run"),
        (["--split", "val"], "--data, or captioned images in another flag"),
    ],
)
def test_flags_that_nothing_reads_are_said_and_change_nothing(folder, capsys, flags, what):
    _, expected, _ = run(capsys, "--sims", "sims.npy")
    code, out, err = run(capsys, "--sims", "sims.npy", *flags)
    assert (code, err) == (0, f"itm-fast: warning: {flags[0]}: no effect without {what}\n")
    assert out.splitlines()[:4] == expected.splitlines()[:4]  # the last line has the time


class MeanModel:
    """Mean of words times mean of regions."""

    vocabulary = Vocabulary.build([["a", "dog"], ["a", "cat"]], threshold=1)
    config = SimpleNamespace(img_dim=6, image_size=None, resampling="points")

    def encode_images(self, images):
        return images

    def encode_captions(self, tokens, word_counts):
        return tokens[:, :, None].float() * torch.ones(6)

    def similarity(self, regions, words, word_counts):
        return regions.mean(1) @ words.sum(1).T


def test_model(folder, capsys, monkeypatch):
    rng = np.random.default_rng(0)
    np.save(folder / "dev2_ims.npy", rng.standard_normal((4, 3, 6), dtype=np.float32))
    (folder / "dev2_caps.txt").write_text("a dog\na cat\n" * 10)
    monkeypatch.setattr("itm_fast.models.load_model", lambda path: MeanModel(), raising=False)
    flags = ["--model", "model", "--data", ".", "--tokenizer", "split", "--json"]
    code, out, _ = run(capsys, *flags, "--split", "dev2")
    assert code == 0
    assert json.loads(out)["conditions"]["n_captions"] == 20
    code, out, _ = run(capsys, *flags, "--split", "dev2", "--ncs")
    assert code == 0
    assert json.loads(out)["nsum"] == 0  # every image has the same words, which tell nothing
    code, _, err = run(capsys, *flags)
    assert code == 2
    assert "test_ims.npy: no such file" in err


@pytest.mark.slow
def test_a_reader_that_leaves_is_no_error(folder):
    command = f"{sys.executable} -m itm_fast evaluate --sims {folder / 'sims.npy'} --json | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=_checkout())
    assert done.stderr == ""


def test_debug_raises(folder, monkeypatch):
    monkeypatch.setenv("ITM_FAST_DEBUG", "1")
    with pytest.raises(ValueError, match="no source of similarities"):
        cli.main(["evaluate"])


def test_interrupt_is_130(capsys, monkeypatch):
    monkeypatch.setattr(cli, "_run", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert cli.main(["evaluate"]) == 130
    assert capsys.readouterr().err == "itm-fast: error: interrupted\n"


def test_help_and_unknown_command(capsys):
    assert cli.main(["--help"]) == 0
    assert "evaluate    recall, ranks and NCS" in capsys.readouterr().out
    assert cli.main([]) == 2
    assert cli.main(["evalute"]) == 2
    said = capsys.readouterr().err
    assert f"no command 'evalute'; perhaps you meant evaluate; commands: {', '.join(sorted(cli.COMMANDS))}" in said
    assert cli.main(["evaluate", "--help"]) == 0
    assert "Caption embeddings" in capsys.readouterr().out


def test_help_of_the_command_does_not_import_torch():
    code = (
        "import sys, itm_fast.cli.main as m; before = 'torch' in sys.modules; m.main(['evaluate', '--help']);"
        "assert before or 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.slow
def test_as_a_module(folder):
    done = subprocess.run(
        [sys.executable, "-m", "itm_fast", "evaluate", "--sims", str(folder / "sims.npy"), "--json"],
        capture_output=True,
        text=True,
        cwd=_checkout(),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["conditions"]["n_images"] == 10


def _checkout():
    return Path(__file__).parents[2]


def test_plain_progress_lines(capsys, monkeypatch):
    clock = iter([0.0, 1.0, 6.0, 7.0, 20.0])
    monkeypatch.setattr("itm_fast.cli.console.time.monotonic", lambda: next(clock))
    with progress_bar("score") as progress:
        for done in (1, 2, 3, 4):
            progress(done, 4)
    assert capsys.readouterr().err == "score: 50 %, about 6 s left\nscore: 100 %, about 0 s left\n"


def test_what_was_done_before_takes_no_time(capsys, monkeypatch):
    """Of a run that goes on at 100 of 104: the first call only says so, and the clock begins with it."""
    clock = iter([0.0, 50.0, 56.0, 62.0])
    monkeypatch.setattr("itm_fast.cli.console.time.monotonic", lambda: next(clock))
    with progress_bar("train") as progress:
        for done in (100, 101, 102):
            progress(done, 104, since=100, status=f"loss {done}")
    assert capsys.readouterr().err == (
        "train: 97 %, loss 101, about 18 s left\ntrain: 98 %, loss 102, about 12 s left\n"
    )


def test_progress_bar_on_a_terminal(monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with progress_bar("score") as progress:
        progress(1, 2)
        progress(2, 2)


def test_print_table(capsys):
    print_table(["name", "value"], [["a", 1.5], ["b", 20]], title="numbers")
    out = capsys.readouterr().out
    assert "numbers" in out
    assert "1.5" in out


def test_protocol_positives(folder, capsys):
    pairs = {"image_ids": list(range(10)), "caption_ids": list(range(50)), "image_to_captions": {"3": [1, 2], "4": [7]}}
    (folder / "pairs.json").write_text(json.dumps(pairs))
    flags = ["--sims", "sims.npy", "--protocol", "positives", "--annotations", "pairs.json"]
    code, out, _ = run(capsys, *flags, "--json")
    assert code == 0
    assert json.loads(out)["i2t"]["n_queries"] == 2
    (folder / "ids.json").write_text(json.dumps({"image_ids": list(range(9, -1, -1)), "caption_ids": list(range(50))}))
    np.save("sims.npy", np.load("sims.npy")[::-1])
    _, turned, _ = run(capsys, *flags, "--ids", "ids.json", "--json")
    assert json.loads(turned)["i2t"] == json.loads(out)["i2t"]


@pytest.mark.parametrize(
    ("flags", "fragment"),
    [
        (["--protocol", "positives"], "needs annotations"),
        (["--protocol", "cxc"], "needs embeddings"),
        (["--protocol", "cxc-image-text"], "Crisscrossed-Captions"),
        (["--protocol", "coco-fg"], "its owners publish it at https://github.com/cwj1412"),
        (["--protocol", "coco-fg", "--annotations", "none"], "none: no such folder of annotations"),
        (["--ids", "ids.json"], "ids has no use without a protocol"),
        (["--query-column", "2"], "--query-column"),
    ],
)
def test_bad_protocols_are_one_line_and_code_2(folder, capsys, flags, fragment):
    code, out, err = run(capsys, "--sims", "sims.npy", *flags)
    assert (code, out) == (2, "")
    assert fragment in err
    assert err.count("\n") == 1


class NoEmbeddings(MeanModel):
    """As models with cross-attention."""


class Embeddings(MeanModel):
    """One vector an image and a caption."""

    compares_embeddings = True

    def encode_images(self, images):
        return images.mean(1)

    def encode_captions(self, tokens, word_counts):
        return super().encode_captions(tokens, word_counts).sum(1)


def test_models_as_embeddings(folder):
    from itm_fast.data import PrecompDataset
    from itm_fast.sources.trained_model import ModelScorer

    rng = np.random.default_rng(0)
    np.save(folder / "dev2_ims.npy", rng.standard_normal((4, 3, 6), dtype=np.float32))
    (folder / "dev2_caps.txt").write_text("a dog\na cat a\n" * 10)
    data = PrecompDataset(folder, "dev2")
    found = ModelScorer(Embeddings(), data, tokenizer="split", batch_size=3).as_embeddings()
    assert (found.images.shape, found.captions.shape) == ((4, 6), (20, 6))
    sims = ModelScorer(MeanModel(), data, tokenizer="split")(slice(0, 4), slice(0, 20))
    torch.testing.assert_close(found(slice(0, 4), slice(0, 20)), sims)
    with pytest.raises(ValueError, match="no similarity of two captions or two images"):
        ModelScorer(NoEmbeddings(), data, tokenizer="split").as_embeddings()


def test_a_choice_of_pairs_has_tables_of_its_own(tmp_path, capsys):
    path = release_sets.winoground(tmp_path)
    np.save(tmp_path / "sims.npy", np.eye(8, dtype=np.float32))
    flags = ["evaluate", "--sims", str(tmp_path / "sims.npy"), "--protocol", "winoground", "--annotations", str(path)]
    assert cli.main([*flags, "--export", "csv"]) == 0
    assert capsys.readouterr().out.splitlines()[:2] == ["part,text,image,group,n_examples", "all,100.0,100.0,100.0,4"]
    for more, said in (
        (["--export", "clip-benchmark"], "--export clip-benchmark: protocol winoground compares pairs"),
        (["--run", str(tmp_path / "run")], "keep (--run, --export mteb or trec) has no use with protocol winoground"),
    ):
        assert cli.main([*flags, *more]) == 2
        assert said in capsys.readouterr().err
