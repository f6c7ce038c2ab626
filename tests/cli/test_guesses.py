"""What people type as the originals have it: folders of vocabularies, precomp/ below, checkpoints, results."""

import argparse
import json
import shutil

import numpy as np
import pytest
import torch

from itm_fast.cli import main as cli
from itm_fast.data import PrecompDataset, Vocabulary, load_vocabulary, make_data
from itm_fast.evaluation import EnsembleScorer, evaluate
from itm_fast.models import model_class
from itm_fast.originals import load_original
from itm_fast.sources.trained_model import ModelScorer

DIM = 6


def checkpoint(path, vocabulary, seed):
    torch.manual_seed(seed)
    config = model_class("scan").config_class(img_dim=DIM, word_dim=4, embed_size=8)
    model = model_class("scan")(config, vocabulary)
    options = argparse.Namespace(**{name: getattr(config, name) for name in config.__dataclass_fields__})
    path.parent.mkdir(exist_ok=True)
    torch.save({"model": [model.img_enc.state_dict(), model.txt_enc.state_dict()], "opt": options}, path)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """data/f30k/precomp, two vocabularies in vocab, and a checkpoint trained with each."""
    place = tmp_path_factory.mktemp("guesses")
    make_data(place / "data" / "f30k" / "precomp", n_train=12, n_dev=10, n_test=10, max_regions=3, dim=DIM)
    small = Vocabulary.load(place / "data" / "f30k" / "precomp" / "vocab.json")
    (place / "data" / "f30k" / "precomp" / "vocab.json").unlink()
    large = Vocabulary([*(small.token(index) for index in range(len(small))), "one-more", "another"])
    (place / "vocab").mkdir()
    small.save(place / "vocab" / "f30k_precomp_vocab.json")
    large.save(place / "vocab" / "coco_precomp_vocab.json")
    checkpoint(place / "small" / "model_best.pth.tar", small, 0)
    checkpoint(place / "large" / "model_best.pth.tar", large, 1)
    return place


@pytest.fixture
def run(place, tmp_path, monkeypatch, capsys):
    """Runs a command in a copy of the place; the report if it went well, else the line on stderr."""
    shutil.copytree(place, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)

    def call(command, *flags):
        more = ["--tokenizer", "split"] if {"--sims", "--images"}.isdisjoint(flags) else []
        code = cli.main([command, *flags, *more, *(["--json"] if command != "train" else [])])
        captured = capsys.readouterr()
        assert code == 0 or (captured.err.count("\n") == 1 and code == 2)
        return captured.err if code else json.loads(captured.out) if command != "train" else captured.out

    return call


def scorer(place, name, vocabulary):
    dataset = PrecompDataset(place / "data" / "f30k" / "precomp", "test")
    model = load_original(place / name / "model_best.pth.tar", load_vocabulary(place / "vocab" / vocabulary))
    return ModelScorer(model, dataset, tokenizer="split")


def expected(place, *members):
    scorers = [scorer(place, *member) for member in members]
    report = evaluate(scorers[0] if len(scorers) == 1 else EnsembleScorer(scorers)).to_dict()
    return {key: report[key] for key in ("i2t", "t2i", "rsum")}


SMALL, LARGE = ("small", "f30k_precomp_vocab.json"), ("large", "coco_precomp_vocab.json")


@pytest.mark.parametrize(
    ("flags", "right"),
    [
        (["--checkpoint", "small/model_best.pth.tar", "--vocab", "vocab"], SMALL),
        (["--model", "small/model_best.pth.tar", "--vocab", "vocab"], SMALL),
        (["--model", "small/model_best.pth.tar@vocab/f30k_precomp_vocab.json"], SMALL),
        (["--model", "large/model_best.pth.tar", "--vocab", "vocab/coco_precomp_vocab.json"], LARGE),
        (["--checkpoint", "large/model_best.pth.tar@vocab/coco_precomp_vocab.json", "--vocab", "vocab"], LARGE),
    ],
)
@pytest.mark.parametrize("data", ["data/f30k", "data/f30k/precomp"])
def test_vocabularies_and_checkpoints(place, run, flags, right, data):
    found = run("evaluate", *flags, "--data", data)
    assert {key: found[key] for key in ("i2t", "t2i", "rsum")} == expected(place, right)


@pytest.mark.parametrize("name", ["vocab.json", "coco_precomp_vocab.json", "anything_vocab.json"])
def test_a_vocabulary_beside_the_checkpoint(place, run, tmp_path, name):
    shutil.copy(tmp_path / "vocab" / LARGE[1], tmp_path / "large" / name)
    found = run("evaluate", "--model", "large/model_best.pth.tar", "--data", "data/f30k")
    assert found["rsum"] == expected(place, LARGE)["rsum"]


def test_the_number_of_words_decides_between_vocabularies_that_may_be_meant(place, run, tmp_path):
    shutil.copy(tmp_path / "vocab" / SMALL[1], tmp_path / "large" / "vocab.json")  # of another model
    shutil.copy(tmp_path / "vocab" / LARGE[1], tmp_path / "data" / "f30k" / "precomp" / "vocab.json")
    found = run("evaluate", "--model", "large/model_best.pth.tar", "--data", "data/f30k")
    assert found["rsum"] == expected(place, LARGE)["rsum"]


@pytest.mark.parametrize("beside", [False, True])
def test_an_ensemble_of_two_vocabularies(place, run, tmp_path, beside):
    members = [f"{name}/model_best.pth.tar" for name, _ in (SMALL, LARGE)]
    if beside:
        for name, vocabulary in (SMALL, LARGE):
            shutil.copy(tmp_path / "vocab" / vocabulary, tmp_path / name)
    else:
        members = [f"{path}@vocab/{vocabulary}" for path, (_, vocabulary) in zip(members, (SMALL, LARGE), strict=True)]
    found = run("ensemble", *members, "--data", "data/f30k", "--save-results", "mean.npy")
    assert found["rsum"] == expected(place, SMALL, LARGE)["rsum"]
    assert run("evaluate", "--sims", "mean.npy")["i2t"] == found["i2t"]
    again = run("rerank", "--coarse", members[0], "--fine", members[1], "--k", "10", "--data", "data/f30k")
    assert again["coarse"]["i2t"]["R@1"] == expected(place, SMALL)["i2t"]["R@1"]


def test_save_results(place, run, tmp_path):
    flags = ["--model", "small/model_best.pth.tar", "--vocab", "vocab", "--data", "data/f30k"]
    found = run("evaluate", *flags, "--save-results", "sims.npy")
    sims = np.load(tmp_path / "sims.npy")
    of = scorer(place, *SMALL)
    np.testing.assert_array_equal(sims, of(slice(0, 10), slice(0, 50)).numpy())
    assert sims.dtype == np.float32
    assert found["rsum"] == expected(place, SMALL)["rsum"]
    np.savetxt(tmp_path / "sim_best.txt", sims)  # as ESL leaves them
    np.savetxt(tmp_path / "owners.txt", np.arange(50) // 5, fmt="%d")
    for more in (["--sims", "sims.npy"], ["--sims", "sim_best.txt", "--caption-to-image", "owners.txt"]):
        assert run("evaluate", *more)["i2t"] == found["i2t"]
    np.save("images.npy", np.arange(20.0).reshape(10, 2) + 1)
    np.save("captions.npy", np.arange(100.0).reshape(50, 2) - 30)
    files = ["--images", "images.npy", "--captions", "captions.npy", "--save-results", "dot.npy"]
    found = run("evaluate", *files)
    assert "Embeddings are compared by dot product" in found["conditions"]["notes"][0]
    assert np.load("dot.npy").max() > 1
    assert run("evaluate", *files, "--normalise")["conditions"]["notes"] == []
    assert 0.99 < np.load("dot.npy").max() < 1.01
    assert "the name of a .npy file" in run("evaluate", *files[:-1], "dot.txt")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--model", "large/model_best.pth.tar", "--data", "data/f30k"],
            "its vocabulary is neither beside it nor in data/f30k/precomp (vocab.json): give it as --vocab",
        ),
        (
            ["--model", "small/model_best.pth.tar", "--vocab", "vocab/coco_precomp_vocab.json", "--data", "data/f30k"],
            "give the right one as --vocab, or as small/model_best.pth.tar@VOCABULARY",
        ),
        (
            ["--model", "small/model_best.pth.tar", "--vocab", "vocab", "--data", "data"],
            "takes --data data/f30k/precomp",
        ),
        (
            ["--model", "small/model_best.pth.tar", "--vocab", "no-such-bert", "--data", "data/f30k"],
            "--vocab is 'no-such-bert': no folder here, and no model of that name in the cache",
        ),
        (
            ["--model", "small/model_best.pth.tar", "--vocab", "data", "--data", "data/f30k"],
            "data: holds no vocabulary",
        ),
        (["--model", "vocab@x.json", "--data", "data/f30k"], "vocab brings its vocabulary: leave out what is behind"),
    ],
)
def test_what_to_type(run, flags, message):
    assert message in run("evaluate", *flags)


def test_a_folder_of_vocabularies_of_other_data_sets(run, tmp_path):
    (tmp_path / "data" / "f30k" / "precomp").rename(tmp_path / "data" / "mine")
    flags = ["--model", "small/model_best.pth.tar", "--vocab", "vocab", "--data", "data/mine"]
    message = run("evaluate", *flags)
    assert "vocab: holds coco_precomp_vocab.json, f30k_precomp_vocab.json, none of them called after" in message
    assert "such as --vocab vocab/coco_precomp_vocab.json" in message


def test_a_name_in_the_cache_of_transformers(tmp_path, monkeypatch):
    from itm_fast.cli.source_flags import _vocabularies

    cache = tmp_path / "hub" / "models--bert-base-uncased"
    snapshot = cache / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("0123")
    (snapshot / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\ndog\n")
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model_best.pth.tar"
    (found,) = _vocabularies(path, tmp_path, type(path)("bert-base-uncased"))
    assert len(load_vocabulary(found)) == 6


TINY = "--img_dim 6 --word_dim 4 --embed_size 8 --batch_size 16 --num_epochs 1 --vocab_path vocab --model_name run"


@pytest.mark.parametrize(
    "data",
    [
        [
            "--data_path",
            "data/f30k",
            "--data_name",
            "f30k_precomp",
        ],  # as VSE-infinity has it: precomp/ whatever the name
        ["--data_path", "data/f30k", "--data_name", "precomp"],
        ["--data_path", "data/f30k"],
        ["--data_path", "data", "--data_name", "f30k"],
    ],
)
def test_train(run, data, tmp_path):
    assert "--data data/f30k/precomp" in run("train", "vsepp", *data, *TINY.split())
    assert run("evaluate", "--model", "run", "--data", "data/f30k")["rsum"] > 0  # the run's own folder: its best model


def test_train_splits_characters_for_sam_if_told(run, tmp_path, capsys):
    folder = tmp_path / "data" / "f30k" / "precomp"
    for split, n_images in (("train", 12), ("dev", 10)):
        lines = [f"第{chr(0x4E00 + 7 * i)}只{chr(0x5E00 + 9 * c)}在海滩上跑" for i in range(n_images) for c in range(5)]
        (folder / f"{split}_caps.txt").write_text("\n".join(lines) + "\n", "utf-8")
    flags = ["train", "vsepp", "--data_path", "data/f30k", *TINY.split(), "--tokenizer", "split"]
    flags += ["--sam", "--select", "nsum", "--trackers"]
    assert cli.main(flags) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert ["captions are in a script without blanks" in line for line in said] == [True, True]
    assert "60 of 60" in said[0]
    assert "50 of 50" in said[1]  # of dev, for nsum
    assert cli.main([*flags, "--model_name", "other", "--cider_tokenizer", "characters"]) == 0
    assert "warning" not in capsys.readouterr().err


def test_train_says_what_to_type(run, tmp_path):
    (tmp_path / "data" / "f30k" / "precomp").rename(tmp_path / "data" / "f30k_precomp")
    message = run("train", "vsepp", "--data_path", "data", "--data_name", "precomp", *TINY.split())
    assert "data/precomp: no such folder; what is near it takes --data-path data --data-name f30k_precomp" in message
