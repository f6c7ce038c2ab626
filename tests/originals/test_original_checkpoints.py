"""Checkpoints in each original's layout: read back to the same scores; what does not fit or is not safe is refused."""

import argparse
import dataclasses
import os
import pickle

import numpy as np
import pytest
import torch

from itm_fast.cli import main as cli
from itm_fast.data import Vocabulary, make_data
from itm_fast.errors import DataError
from itm_fast.models import model_class
from itm_fast.originals import load_original

VOCABULARY = Vocabulary(["<pad>", "<start>", "<end>", "<unk>", *"abcdefg"])
SMALL = {"img_dim": 12, "word_dim": 6, "embed_size": 8}
CASES = {
    "scan": ("scan", {"bi_gru": True, "cross_attn": "i2t", "agg_func": "Mean", "lambda_softmax": 4.0}),
    "scan, weight_norm": ("scan", {"precomp_enc_type": "weight_norm", "num_layers": 2}),
    "vsepp": ("vsepp", {"measure": "order", "use_abs": True, "margin": 0.05}),
    "sgr": ("sgraf", {"sim_dim": 5, "n_regions": 7, "sgr_step": 2}),
    "saf": ("sgraf", {"sim_dim": 5, "n_regions": 7, "module_name": "SAF"}),
    "vsrn, Flickr30K": ("vsrn", {}),
    "vsrn, COCO": ("vsrn", {"encoder": "coco_precomp"}),
    "vse_infty": ("vse_infty", {"max_violation": True}),
}


def made(case):
    name, options = CASES[case]
    torch.manual_seed(0)
    model = model_class(name)(model_class(name).config_class(**SMALL, **options), VOCABULARY)
    for module in model.modules():  # so that the statistics matter
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.uniform_(-1, 1)
            module.weight.data.uniform_(0.5, 1)
    return model.eval()


def write(path, model, *, prefix="", old=False, change=lambda content: None):
    """As the originals do: a list of state dicts and the options as a Namespace."""
    parts = [model.get_submodule(part).state_dict() for part in ("img_enc", "txt_enc")]
    if model.name == "sgraf":
        parts.append(model.sim_enc.state_dict())
    state = [{prefix + key: value for key, value in part.items()} for part in parts]
    flags = dataclasses.asdict(model.config)
    for ours in ("encoder", "n_regions", "dropout"):
        flags.pop(ours, None)
    options = argparse.Namespace(**flags, data_name="f30k_precomp", workers=10, num_epochs=30)
    content = {"epoch": 7, "model": state, "best_rsum": np.float64(401.5), "opt": options, "Eiters": 123}
    change(content)
    torch.save(content, path, _use_new_zipfile_serialization=not old, pickle_protocol=2)


def scores(model):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(3, 7, 12, generator=generator)
    tokens, counts = torch.tensor([[1, 4, 5, 2], [1, 6, 2, 0]]), torch.tensor([4, 3])
    with torch.no_grad():
        return model.similarity(model.encode_images(images), model.encode_captions(tokens, counts), counts)


@pytest.mark.parametrize("old", [False, True], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("case", CASES)
def test_round_trip(case, prefix, old, tmp_path):
    model = made(case)
    write(tmp_path / "model_best.pth.tar", model, prefix=prefix, old=old)
    loaded = load_original(tmp_path / "model_best.pth.tar", VOCABULARY)
    assert type(loaded) is type(model)
    assert loaded.config == model.config or model.name in ("sgraf", "vsrn")  # whose options have not all of it
    torch.testing.assert_close(scores(loaded), scores(model), rtol=0, atol=0)


class Python2Pickle:
    """Strings of one byte a character, as Python 2 pickled them."""

    class Pickler(pickle._Pickler):
        def save_str(self, text):
            encoded = text.encode("latin1")
            assert len(encoded) < 256
            self.write(pickle.SHORT_BINSTRING + bytes([len(encoded)]) + encoded)
            self.memoize(text)

        dispatch = {**pickle._Pickler.dispatch, str: save_str}  # noqa: RUF012

    @classmethod
    def dump(cls, value, file, protocol):
        cls.Pickler(file, protocol).dump(value)


def test_files_of_python_2(tmp_path):
    model = made("scan")
    write(tmp_path / "new.pth", model)
    with torch.serialization.safe_globals([argparse.Namespace]):
        content = torch.load(tmp_path / "new.pth", weights_only=False)
    content["opt"].logger_name = "caf\xe9"
    options = {"pickle_module": Python2Pickle, "pickle_protocol": 2, "_use_new_zipfile_serialization": False}
    torch.save(content, tmp_path / "old.pth", **options)
    torch.testing.assert_close(scores(load_original(tmp_path / "old.pth", VOCABULARY)), scores(model), rtol=0, atol=0)


def test_only_cvse_takes_concepts(tmp_path):
    write(tmp_path / "m.pth", made("scan"))
    with pytest.raises(ValueError, match=r"concepts is for CVSE's checkpoints, but .*m\.pth is of scan"):
        load_original(tmp_path / "m.pth", VOCABULARY, concepts=tmp_path)


def test_counters_of_batches_may_be_missing(tmp_path):
    def without(content):
        for part in content["model"]:
            for key in [key for key in part if key.endswith("num_batches_tracked")]:
                del part[key]

    write(tmp_path / "old.pth", made("vse_infty"), change=without)
    torch.testing.assert_close(scores(load_original(tmp_path / "old.pth", VOCABULARY)), scores(made("vse_infty")))


class Command:
    """What an attacker would write."""

    def __reduce__(self):
        return os.system, ("echo attacked > /dev/null",)


def missing(content):
    del content["model"][1]["rnn.bias_hh_l0"]


def unknown(content):
    content["model"][0] = {"cnn.weight": torch.zeros(2)}


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        (missing, r"taken for scan, but its txt_enc does not fit: (.|\n)*Missing key(.|\n)*rnn\.bias_hh_l0"),
        (lambda c: c["model"][0].update(more=torch.zeros(1)), "of no model known here"),
        (unknown, "of no model known here .*its image part begins with cnn.weight"),
        (lambda c: c.update(opt=None), "neither cross_attn nor measure"),
        (lambda c: c.update(model={}), r'expected \{"model": \[image, caption'),
        (lambda c: setattr(c["opt"], "agg_func", "Median"), "its options do not fit: agg_func must be one of"),
        (lambda c: c.update(opt=Command()), "not a checkpoint that can be read safely"),
    ],
)
def test_what_is_refused(change, fragment, tmp_path):
    write(tmp_path / "bad.pth", made("scan"), change=change)
    with pytest.raises(DataError, match=fragment):
        load_original(tmp_path / "bad.pth", VOCABULARY)


@pytest.mark.parametrize("content", [b"", b"text", b"\x80\x02}q\x00", b"PK\x03\x04"])
def test_garbage(content, tmp_path):
    (tmp_path / "bad.pth").write_bytes(content)
    with pytest.raises(DataError, match=r"bad\.pth: not a checkpoint that can be read safely"):
        load_original(tmp_path / "bad.pth", VOCABULARY)


def test_another_vocabulary_is_named_by_size_and_hash(tmp_path):
    write(tmp_path / "model.pth", made("scan"))
    with pytest.raises(DataError, match=r"of 11 words, but the one given has 4 words, sha256 [0-9a-f]{12}"):
        load_original(tmp_path / "model.pth", Vocabulary(["<pad>", "<start>", "<end>", "<unk>"]))


def test_itm_fast_evaluate_understands_it(tmp_path, capsys):
    make_data(tmp_path / "data", n_train=5, n_dev=1, n_test=4, max_regions=7, dim=12)
    vocabulary = Vocabulary.load(tmp_path / "data" / "vocab.json")
    model = model_class("scan")(model_class("scan").config_class(**SMALL), vocabulary)
    write(tmp_path / "model.pth", model)
    flags = ["--data", str(tmp_path / "data"), "--tokenizer", "split", "--json"]
    assert cli.main(["evaluate", "--checkpoint", str(tmp_path / "model.pth"), *flags]) == 0
    assert '"rsum"' in capsys.readouterr().out
    VOCABULARY.save(tmp_path / "other.json")
    command = ["evaluate", "--checkpoint", str(tmp_path / "model.pth"), "--vocab", str(tmp_path / "other.json")]
    assert cli.main([*command, *flags]) == 2
    assert "11 words, sha256" in capsys.readouterr().err
    make_data(tmp_path / "wide", n_train=5, n_dev=1, n_test=4, max_regions=7, dim=13)
    vocabulary.save(tmp_path / "wide" / "vocab.json")
    flags[1] = str(tmp_path / "wide")
    assert cli.main(["evaluate", "--checkpoint", str(tmp_path / "model.pth"), *flags]) == 2
    assert "trained on features 12 wide, but those of" in capsys.readouterr().err
