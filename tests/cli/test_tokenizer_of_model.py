"""A model's folder, a data set and the command line about what splits captions: who is followed, and what is said."""

import argparse
import importlib.util
import json
import shutil

import numpy as np
import pytest
import torch

from itm_fast.cli import main as cli
from itm_fast.data import CaptionTokens, PrecompDataset, Vocabulary, make_data
from itm_fast.models import load_model, model_class, save_model
from itm_fast.sources.trained_model import ModelScorer

pytestmark = pytest.mark.skipif(  # asked for, not imported: every process collects this file, and nltk takes a second
    importlib.util.find_spec("nltk") is None, reason="nltk is not installed (pip install 'itm-fast[text]')"
)
DIM = 12
UNKEPT = "which tokenizer the vocabulary was made with is not kept with it: captions are split by nltk"
WARNING = "WARNING: captions are split by {}, as asked for (--tokenizer), but the vocabulary says {}: leave"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Captions whose full stops are no words of their own at white space, and are for nltk."""
    folder = tmp_path_factory.mktemp("data")
    make_data(folder, n_train=12, n_dev=6, n_test=8, max_regions=4, dim=DIM)
    path = folder / "test_caps.txt"
    path.write_text("".join(f"{line.removesuffix(' .')}.\n" for line in path.read_text().splitlines()))
    return folder


def save(data, folder, tokenizer, name="vsepp", seed=0):
    """An untrained model whose vocabulary is kept with this tokenizer."""
    vocabulary = Vocabulary.load(data / "vocab.json")
    vocabulary.tokenizer = tokenizer
    torch.manual_seed(seed)
    model = model_class(name)(model_class(name).config_class(img_dim=DIM, word_dim=6, embed_size=8), vocabulary)
    save_model(model, folder)


def report(capsys, *arguments):
    capsys.readouterr()
    assert cli.main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def expected(data, folder, tokenizer):
    """The share of unknown words, which tells the tokenizers apart, and the similarities."""
    model, dataset = load_model(folder), PrecompDataset(data, "test")
    tokens = CaptionTokens.from_captions(dataset.captions, model.vocabulary, tokenizer)
    scorer = ModelScorer(model, dataset, tokens=tokens)
    return tokens.unknown_words(model.vocabulary), scorer(slice(0, 8), slice(0, 40))


@pytest.mark.parametrize(
    ("kept", "flag", "used", "note"),
    [
        ("nltk", None, "nltk", None),
        ("split", None, "split", None),
        ("nltk", "nltk", "nltk", None),
        ("split", "split", "split", None),
        ("nltk", "split", "split", WARNING.format("split", "nltk")),
        ("split", "nltk", "nltk", WARNING.format("nltk", "split")),
        (None, None, "nltk", UNKEPT),
        (None, "nltk", "nltk", None),
        (None, "split", "split", None),
    ],
)
def test_evaluate(data, tmp_path, capsys, kept, flag, used, note):
    save(data, tmp_path / "model", kept)
    assert json.loads((tmp_path / "model" / "config.json").read_text())["tokenizer"] == kept
    flags = ["--vocab", data / "vocab.json", *([] if flag is None else ["--tokenizer", flag])]
    saved = ["--save-results", tmp_path / "sims.npy"]
    found = report(capsys, "evaluate", "--model", tmp_path / "model", "--data", data, *flags, *saved)
    unread = f"--vocab {data / 'vocab.json'} is not read for {tmp_path / 'model'}, which brings its vocabulary."
    assert unread in found["conditions"]["notes"]
    unknown, sims = expected(data, tmp_path / "model", used)
    torch.testing.assert_close(torch.from_numpy(np.load(tmp_path / "sims.npy")), sims, rtol=0, atol=0)
    notes = found["conditions"]["notes"]
    assert next(one for one in notes if "are not in the vocabulary" in one).startswith(unknown)
    assert [one[: len(note or "")] for one in notes if "--tokenizer" in one and "not in the vocabulary" not in one] == (
        [] if note is None else [note]
    )


def test_old_folders_know_none(data, tmp_path, capsys):
    """As they were written before: neither the card nor the vocabulary says it. A word in either is enough."""
    save(data, tmp_path / "model", "split")
    for name in ("config.json", "vocab.json"):
        content = json.loads((tmp_path / "model" / name).read_text())
        assert content.pop("tokenizer") == "split"
        (tmp_path / "model" / name).write_text(json.dumps(content))
    arguments = ["evaluate", "--model", tmp_path / "model", "--data", data]
    assert any(UNKEPT in note for note in report(capsys, *arguments)["conditions"]["notes"])
    for name in ("config.json", "vocab.json"):
        shutil.copytree(tmp_path / "model", tmp_path / name)
        content = json.loads((tmp_path / name / name).read_text())
        (tmp_path / name / name).write_text(json.dumps({**content, "tokenizer": "split"}))
        assert load_model(tmp_path / name).vocabulary.tokenizer == "split"
        arguments[2] = tmp_path / name
        assert not any(UNKEPT in note for note in report(capsys, *arguments)["conditions"]["notes"])


@pytest.mark.parametrize(
    ("name", "value", "fragment"),
    [
        ("config.json", "nltk", "config.json: tokenizer is 'nltk', but that of vocab.json beside it is 'split'"),
        ("config.json", 3, "config.json: tokenizer is 3, but that of vocab.json"),
        ("vocab.json", "ptb", "vocab.json: tokenizer is 'ptb'; expected one of nltk, split, or none"),
        ("vocab.json", ["split"], "vocab.json: tokenizer is ['split']; expected one of nltk, split"),
    ],
)
def test_folders_that_contradict_themselves(data, tmp_path, capsys, name, value, fragment):
    save(data, tmp_path / "model", "split")
    content = json.loads((tmp_path / "model" / name).read_text())
    (tmp_path / "model" / name).write_text(json.dumps({**content, "tokenizer": value}))
    assert cli.main(["evaluate", "--model", str(tmp_path / "model"), "--data", str(data)]) == 2
    assert fragment in capsys.readouterr().err


def test_each_model_of_two_has_its_own(data, tmp_path, capsys):
    for number, tokenizer in enumerate(("split", "nltk")):
        save(data, tmp_path / tokenizer, tokenizer, seed=number)
    models = [tmp_path / "split", tmp_path / "nltk"]
    unknown, sims = zip(*(expected(data, model, model.name) for model in models), strict=True)
    assert unknown[0] != unknown[1]
    found = report(capsys, "ensemble", *models, "--data", data, "--save-results", tmp_path / "mean.npy")
    mean = sum(one.double() for one in sims) / 2
    torch.testing.assert_close(torch.from_numpy(np.load(tmp_path / "mean.npy")), mean)
    notes = "\n".join(found["conditions"]["notes"])
    assert all(f"{model}: {share}" in notes for model, share in zip(models, unknown, strict=True))
    found = report(capsys, "rerank", "--coarse", models[0], "--fine", models[1], "--k", "10", "--data", data)
    assert all(share in "\n".join(found["conditions"]["notes"]) for share in unknown)


@pytest.mark.parametrize(
    ("kept", "flag", "used", "note"),
    [
        ("split", None, "split", None),
        ("nltk", None, "nltk", None),
        ("split", "split", "split", None),
        ("split", "nltk", "nltk", WARNING.format("nltk", "split")),
        (None, None, "nltk", UNKEPT),
        (None, "split", "split", None),
        ("no vocabulary", None, "nltk", "has no vocab.json: made one of "),
        ("no vocabulary", "split", "split", "from the captions of train and dev, split by split"),
    ],
)
def test_train(data, tmp_path, capsys, kept, flag, used, note):
    """What a run is trained with is kept with its model, whatever the data set says; going on stays with it."""
    shutil.copytree(data, tmp_path / "data")
    vocabulary = Vocabulary.load(data / "vocab.json")
    (tmp_path / "data" / "vocab.json").unlink()
    if kept != "no vocabulary":
        vocabulary.tokenizer = kept
        vocabulary.save(tmp_path / "data" / "vocab.json")
    flags = ["--data-path", tmp_path / "data", "--img-dim", DIM, "--word-dim", 6, "--embed-size", 8, "--batch-size", 20]
    flags += ["--num-epochs", 1, "--trackers", "--model-name", tmp_path / "run"]
    flags += [] if flag is None else ["--tokenizer", flag]
    assert cli.main(["train", "vsepp", *map(str, flags)]) == 0
    printed = capsys.readouterr()
    assert printed.out.endswith(f"itm-fast evaluate --model {tmp_path / 'run' / 'best'} --data {tmp_path / 'data'}\n")
    said = [line for line in printed.err.splitlines() if "split by" in line]
    assert len(said) == (note is not None)
    assert note is None or note in said[0]
    model = load_model(tmp_path / "run" / "best")
    assert model.vocabulary.tokenizer == used
    assert cli.main(["train", "--resume", str(tmp_path / "run"), "--num-epochs", "2"]) == 0
    assert load_model(tmp_path / "run" / "best").vocabulary.tokenizer == used
    found = report(capsys, "evaluate", "--model", tmp_path / "run", "--data", tmp_path / "data")
    unknown, _ = expected(tmp_path / "data", tmp_path / "run" / "best", used)
    assert any(note.startswith(unknown) for note in found["conditions"]["notes"])


@pytest.mark.parametrize(("kept", "used"), [(None, "nltk"), ("split", "split")])
def test_a_checkpoint_of_an_original_is_split_by_nltk(data, tmp_path, capsys, kept, used):
    """As all the originals do, and without a note; a vocabulary that says otherwise is followed."""
    save(data, tmp_path / "model", kept, name="scan")
    model = load_model(tmp_path / "model")
    options = argparse.Namespace(**{name: getattr(model.config, name) for name in model.config.__dataclass_fields__})
    parts = [model.img_enc.state_dict(), model.txt_enc.state_dict()]
    torch.save({"model": parts, "opt": options}, tmp_path / "model_best.pth.tar")
    flags = ["--vocab", tmp_path / "model" / "vocab.json", "--save-results", tmp_path / "sims.npy"]
    found = report(capsys, "evaluate", "--checkpoint", tmp_path / "model_best.pth.tar", "--data", data, *flags)
    unknown, sims = expected(data, tmp_path / "model", used)
    np.testing.assert_array_equal(np.load(tmp_path / "sims.npy"), sims)
    notes = found["conditions"]["notes"]
    assert any(note.startswith(unknown) for note in notes)
    assert not any(note.startswith(("WARNING", UNKEPT)) for note in notes)
