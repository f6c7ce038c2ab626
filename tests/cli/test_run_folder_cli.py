"""itm-fast evaluate --run: folders from scores and from a model, texts, names, bad input."""

import json
from datetime import datetime

import numpy as np
import pytest
import torch

from itm_fast.cli import main as cli
from itm_fast.data import Vocabulary
from itm_fast.evaluation import load_run
from itm_fast.models import SCAN, save_model

CAPTIONS = [
    f"a {animal} {does}"
    for animal in ("dog", "cat", "bird", "horse")
    for does in ("runs", "sits", "eats", "drinks", "is")
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "sims.npy", rng.standard_normal((4, 20), dtype=np.float32))
    np.save(tmp_path / "images.npy", rng.standard_normal((4, 8), dtype=np.float32))
    np.save(tmp_path / "embeddings.npy", rng.standard_normal((20, 8), dtype=np.float32))
    np.save(tmp_path / "phi.npy", rng.random((4, 20)))
    np.save(tmp_path / "test_ims.npy", rng.standard_normal((4, 3, 6), dtype=np.float32))
    (tmp_path / "test_caps.txt").write_text("\n".join(CAPTIONS) + "\n")
    (tmp_path / "names.txt").write_text("a.jpg\nb.jpg\nc.jpg\nd.jpg\n")
    (tmp_path / "nested.json").write_text(json.dumps([CAPTIONS[i : i + 5] for i in range(0, 20, 5)]))
    (tmp_path / "flat.json").write_text(json.dumps(CAPTIONS))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys, *argv):
    code = cli.main(["evaluate", *argv])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


SIMS = ["--sims", "sims.npy"]


def test_scores(folder, capsys):
    code, out, err = run(capsys, *SIMS, "--relevance", "phi.npy", "--run", "one", "--depth", "7", "--json")
    assert (code, err) == (0, "")
    read = load_run("one")
    assert read.report == json.loads(out)
    assert read.name == "one"
    assert read.source == {"kind": "sims", "path": "sims.npy"}
    sims, phi = np.load("sims.npy"), np.load("phi.npy")
    order = np.argsort(-sims, axis=1)[:, :7]
    np.testing.assert_array_equal(read.i2t.retrieved, order)
    np.testing.assert_allclose(read.i2t.relevance, np.take_along_axis(phi, order, 1), rtol=1e-6)
    assert read.t2i.retrieved.shape == (20, 7)
    assert (read.t2i.retrieved[:, 4:] == -1).all()  # there are four images
    assert read.curves["ks"] == list(range(1, 11))  # to the largest cut-off of the report
    assert datetime.fromisoformat(read.date).tzinfo is not None
    assert read.captions is read.image_names is None
    assert read.attention == ()


@pytest.mark.parametrize("texts", ["test_caps.txt", "nested.json", "flat.json"])
def test_captions_and_names_from_files(folder, capsys, texts):
    flags = ["--captions-file", texts, "--image-names", "names.txt", "--name", "two words"]
    assert run(capsys, *SIMS, "--run", "one", *flags)[0] == 0
    read = load_run("one")
    assert list(read.captions) == CAPTIONS
    assert read.image_names == ("a.jpg", "b.jpg", "c.jpg", "d.jpg")
    assert read.name == "two words"
    assert read.curves == {}


def test_captions_from_those_of_the_relevance(folder, capsys):
    flags = ["--images", "images.npy", "--captions", "embeddings.npy", "--relevance", "test_caps.txt"]
    assert run(capsys, *flags, "--run", "one")[0] == 0
    read = load_run("one")
    assert list(read.captions) == CAPTIONS
    assert read.source == {
        "kind": "embeddings",
        "path": "images.npy",
        "captions": "embeddings.npy",
        "similarity": "dot",
    }
    assert read.i2t.relevance is not None


def test_a_model_with_cross_attention(folder, capsys):
    torch.manual_seed(0)
    vocabulary = Vocabulary.build([caption.split() for caption in CAPTIONS], threshold=1)
    config = SCAN.config_class(img_dim=6, word_dim=5, embed_size=8)
    save_model(SCAN(config, vocabulary), folder / "model")
    flags = ["--model", "model", "--data", ".", "--tokenizer", "split", "--run", "runs"]
    assert run(capsys, *flags)[0] == 0
    read = load_run("runs")
    assert list(read.captions) == CAPTIONS
    assert read.image_names is None
    made = {"generated": False}
    assert read.source == {"kind": "model", "path": "model", "model": "scan", "data": ".", "split": "test", **made}
    assert read.attention
    for one in read.attention:
        assert one.words == ("<start>", *CAPTIONS[one.caption].split(), "<end>")
        assert one.weights.shape == (5, 3)
    failures = torch.nonzero(read.i2t.ranks > 0).flatten()
    shown = {(one.image, one.caption) for one in read.attention}
    for image in failures.tolist():
        assert {(image, int(read.i2t.retrieved[image, 0])), (image, int(read.i2t.best_positive[image]))} <= shown
    (folder / "test_ids.txt").write_text("7\n8\n9\n5\n")
    (folder / "id_mapping.json").write_text(json.dumps({"5": "train/5.jpg", "7": "7.jpg", "8": "8.jpg", "9": "9.jpg"}))
    assert run(capsys, *flags)[0] == 0  # an earlier run is replaced
    assert load_run("runs").image_names == ("7.jpg", "8.jpg", "9.jpg", "train/5.jpg")
    assert load_run("runs").source["generated"] is False
    (folder / "README.txt").write_text("Generated by `itm-fast make-data`: no photograph.\n")
    assert run(capsys, *flags)[0] == 0
    assert load_run("runs").source["generated"] is True
    (folder / "id_mapping.json").write_text(json.dumps({"5": "train/5.jpg"}))
    code, _, err = run(capsys, *flags)
    assert code == 2
    assert "id_mapping.json: has no image 7" in err


@pytest.mark.parametrize(
    ("flags", "fragment"),
    [
        (["--run", "missing/run"], "missing: no such folder to make run in"),
        (["--run", "sims.npy"], "sims.npy: is a file"),
        (["--run", "."], ".: holds files, but no run"),
        (["--run", "one", "--depth", "0"], "depth is 0"),
        (["--run", "one", "--captions-file", "none.txt"], "none.txt: no such file; expected captions or names"),
        (["--run", "one", "--captions-file", "names.txt"], "names.txt: holds names of files, such as"),
        (["--run", "one", "--image-names", "test_caps.txt"], "20 image names, but the similarities are of 4"),
        (["--run", "one", "--captions-file", "bad.json"], "bad.json: image 0 has 1"),
        (["--name", "x"], "--name goes with --run"),
        (["--captions-file", "flat.json"], "--captions-file goes with --run"),
        (["--image-names", "names.txt"], "--image-names goes with --run"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(folder, capsys, flags, fragment):
    (folder / "bad.json").write_text("[1]")
    before = sorted(folder.iterdir())
    code, out, err = run(capsys, *SIMS, *flags)
    assert (code, out) == (2, "")
    assert fragment in err
    assert err.count("\n") == 1
    assert sorted(folder.iterdir()) == before
