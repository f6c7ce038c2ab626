"""What lies beside the weights: options of any class are read, what a reader leaves over is named, arrays are skipped.

Each test runs over all readers.
"""

import argparse
import collections
import gzip
import os
import pathlib
import re
import shutil
import sys
import types

import numpy as np
import pytest
import torch
from original_files import KINDS, VOCABULARY, content_of, made, scores
from safetensors.torch import save

from itm_fast.cli import main as cli
from itm_fast.data import make_data
from itm_fast.errors import DataError
from itm_fast.originals import load_original
from itm_fast.training.state import save_checkpoint


def read(tmp_path, content, concepts=None, **options):
    torch.save(content, tmp_path / "model.pth")
    needs = "gc1.weight" in content["model"][-2]
    return load_original(tmp_path / "model.pth", VOCABULARY, concepts=concepts if needs else None, **options)


@pytest.mark.parametrize("name", KINDS)
def test_every_option_of_the_original_is_known(name, tmp_path, concepts):
    model = made(name)
    loaded = read(tmp_path, content_of(model), concepts, as_released=False)
    assert loaded.name == name
    assert loaded.notes == []
    if name != "cvse":  # whose concepts are not those of the model
        torch.testing.assert_close(scores(loaded), scores(model), rtol=0, atol=0)


@pytest.mark.parametrize("name", KINDS)
def test_an_unknown_option_is_named(name, tmp_path, concepts):
    content = content_of(made(name), fusion_gate=0.3, heads=[1, 2], use_gate=False)
    with pytest.raises(DataError, match=rf"taken for {name}, but .*fusion_gate=0\.3, heads=\[1, 2\] are unknown") as it:
        read(tmp_path, content, concepts)
    assert "use_gate" not in str(it.value)
    assert "--ignore-options fusion_gate heads" in str(it.value)
    loaded = read(tmp_path, content, concepts, as_released=False, ignore_options=["fusion_gate", "heads", "other"])
    assert loaded.notes == [
        "options of the checkpoint that are unknown here and off in it: use_gate",
        "options of the checkpoint that were ignored: fusion_gate, heads",
    ]
    with pytest.raises(TypeError, match="ignore_options is 'heads'; expected a list of names"):
        read(tmp_path, content, concepts, ignore_options="heads")


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        *((name, "use_abs", True) for name in KINDS if name != "vsepp"),
        *((name, "measure", "order") for name in KINDS if name != "vsepp"),
        *((name, "no_imgnorm", True) for name in ("vsrn", "esl", "chan", "cvse")),
        *((name, "no_txtnorm", True) for name in ("vsepp", "vsrn", "esl", "chan", "cvse")),
        *((name, "precomp_enc_type", "transformer") for name in KINDS),
        ("esl", "kernel_size", 3),
        ("cvse", "activation_type", "sigmoid"),
        ("cvse", "use_BatchNorm", False),
        ("chan", "text_enc_type", "bert"),
        ("sgraf", "module_name", "SAF"),
    ],
)
def test_an_option_with_another_value_is_named(name, option, value, tmp_path, concepts):
    with pytest.raises(DataError, match=f"option {option} is {value!r}"):
        read(tmp_path, content_of(made(name), **{option: value}), concepts)


@pytest.mark.parametrize("name", KINDS)
def test_weights_without_a_place_are_named(name, tmp_path, concepts):
    content = content_of(made(name))
    content["model"][1]["gate.weight"] = torch.zeros(2)
    with pytest.raises(DataError, match=r"gate\.weight"):
        read(tmp_path, content, concepts)
    content = content_of(made(name))
    content["sim_head"] = collections.OrderedDict(weight=torch.zeros(2, 2))
    with pytest.raises(DataError, match="holds weights under 'sim_head' beside those of 'model'"):
        read(tmp_path, content, concepts)
    del content["sim_head"]
    content["model_ema"] = [{"weight": torch.zeros(2)}]
    with pytest.raises(DataError, match="holds weights under 'model_ema'"):
        read(tmp_path, content, concepts)
    del content["model_ema"]
    content |= {"optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}, "rng_state": torch.zeros(3), "lr": 0.1}
    assert read(tmp_path, content, concepts).name == name


def of_module(monkeypatch, path, base, is_dict):
    """A class of a module that the reader does not have: its items are attributes, and of an EasyDict both."""

    def __init__(self, items):
        if is_dict:
            dict.__init__(self, items)
        self.__dict__.update(items)

    module, _, name = path.rpartition(".")
    kind = type(name, (base,), {"__module__": module, "__init__": __init__})
    made_up = types.ModuleType(module)
    setattr(made_up, name, kind)
    monkeypatch.setitem(sys.modules, module, made_up)
    return kind


HOLDERS = {
    "Namespace": lambda _: lambda items: argparse.Namespace(**items),
    "dict": lambda _: dict,
    "OrderedDict": lambda _: collections.OrderedDict,
    "SimpleNamespace": lambda _: lambda items: types.SimpleNamespace(**items),
    "EasyDict": lambda patch: of_module(patch, "easydict.EasyDict", dict, is_dict=True),
    "Config": lambda patch: of_module(patch, "fork_options.Config", object, is_dict=False),
}


@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize("name", KINDS)
def test_options_of_any_class(name, holder, tmp_path, concepts, monkeypatch):
    kind = HOLDERS[holder](monkeypatch)
    content = content_of(made(name, margin=0.125), gpus={0, 1}, data_path=pathlib.PosixPath("/data"))
    options = vars(content["opt"]) | {"vocab_size": np.int64(9), "lr_update": np.float32(15), "max_violation": np.True_}
    options |= {"margin": torch.tensor(0.125), "device": torch.device("cpu"), "seed": np.uint8(3)}
    content |= {"opt": kind(options), "best_rsum": np.float32(1), "kept": np.ones((2, 3)), "names": [np.array(["a"])]}
    loaded = read(tmp_path, content, concepts)
    assert (loaded.name, loaded.config.margin, loaded.config.max_violation) == (name, 0.125, True)
    assert isinstance(loaded.config.max_violation, bool)
    content["args"] = content.pop("opt")
    assert read(tmp_path, content, concepts).config == loaded.config


@pytest.mark.parametrize("value", ["Namespace(no_imgnorm=True)", ["--no_imgnorm"], 3])
@pytest.mark.parametrize("name", KINDS)
def test_options_are_never_lost(name, value, tmp_path, concepts):
    with pytest.raises(DataError, match=f"its options, 'opt', are a {type(value).__name__}; expected a Namespace"):
        read(tmp_path, {**content_of(made(name)), "opt": value}, concepts)


@pytest.mark.parametrize("name", ["sgraf", "vsrn", "vse_infty", "esl", "cvse"])
def test_that_there_are_no_options_is_said(name, tmp_path, concepts):
    content = content_of(made(name))
    del content["opt"]
    notes = read(tmp_path, content, concepts).notes
    assert notes[-1] == "the checkpoint holds no options: the original's defaults were taken"


class Command:
    """What an attacker would write."""

    def __reduce__(self):
        return shutil.which, ("true",)


class System:
    """The same, of a module that torch blocks."""

    def __reduce__(self):
        return os.system, ("true",)


@pytest.mark.parametrize("asks", ["shutil.which", f"{os.name}.system", "fork_colours.Colour"])
@pytest.mark.parametrize("name", KINDS)
def test_other_classes_are_named(name, asks, tmp_path, concepts, monkeypatch):
    if asks.endswith("Colour"):
        value = of_module(monkeypatch, asks, object, is_dict=False)({"red": 1})
    else:
        value = System() if asks.endswith("system") else Command()
    for content in (content_of(made(name), extra=value), {**content_of(made(name)), "extra": value}):
        with pytest.raises(DataError, match=rf"model\.pth: not a checkpoint that .* asks for {asks}, which was not"):
            read(tmp_path, content, concepts)


def test_torchs_own_advice_is_left_out(tmp_path):
    contents = {"class": {"opt": Command()}, "protocol": {"opt": argparse.Namespace()}, "cut": {"a": torch.zeros(9)}}
    for name, content in contents.items():
        torch.save(content, tmp_path / "model.pth", pickle_protocol=4 if name == "protocol" else 2)
        if name == "cut":
            (tmp_path / "model.pth").write_bytes((tmp_path / "model.pth").read_bytes()[:300])
        with pytest.raises(DataError, match=r"model\.pth: not a checkpoint that can be read safely: \w") as error:
            load_original(tmp_path / "model.pth", VOCABULARY)
        assert "\x1b" not in str(error.value)
        assert "\n" not in str(error.value)
        assert not re.search("add_safe_globals|weights_only", str(error.value))


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        ([torch.zeros(2)], "found a list"),
        ({}, "found nothing"),
        ({"state_dict": {}, "epoch": 3}, "found 'state_dict', 'epoch'"),
        ({"model": {"fc.weight": torch.zeros(2)}, "opt": 1}, "found dict under 'model', among 'model', 'opt'"),
        ({"model": [{"a": np.ones(2)}, {}]}, r"model\[0\]\['a'\] is a NumPy array; expected a tensor"),
        ({"model": [{}, {"a": 3}]}, r"model\[1\]\['a'\] is a int; expected a tensor"),
        ({"model": [{}, {3: torch.zeros(2)}]}, r"model\[1\]\[3\] is a Tensor; expected a tensor under a name"),
        ({"model": [{}, {}, {}], "move_gt": np.ones(3)}, "of no model known here"),
    ],
)
def test_files_of_another_form_are_described(content, fragment, tmp_path):
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(DataError, match=fragment):
        load_original(tmp_path / "model.pth", VOCABULARY)


def test_the_command_line(tmp_path, capsys):
    make_data(tmp_path / "data", n_train=5, n_dev=1, n_test=4, max_regions=7, dim=12)
    VOCABULARY.save(tmp_path / "vocab.json")
    torch.save(content_of(made("scan"), window_sizes=[1, 2]), tmp_path / "model.pth")
    command = ["evaluate", "--checkpoint", str(tmp_path / "model.pth"), "--vocab", str(tmp_path / "vocab.json")]
    command += ["--data", str(tmp_path / "data"), "--tokenizer", "split"]
    assert cli.main(command) == 2
    assert "window_sizes=[1, 2] are unknown" in capsys.readouterr().err
    assert cli.main([*command, "--ignore-options", "window_sizes"]) == 0
    assert "options of the checkpoint that were ignored: window_sizes" in capsys.readouterr().out
    for flags in (["--ignore-options", "a"], ["--plain-captions"]):
        assert cli.main(["evaluate", "--sims", "s.npy", *flags]) == 2
        assert f"{flags[0]} goes with --checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "module.module."])
@pytest.mark.parametrize("name", ["scan", "vse_infty"])
def test_what_wrappers_put_before_names_is_left_out(name, prefix, tmp_path):
    model = made(name)
    content = content_of(model)
    content["model"] = [{f"{prefix}{key}": value for key, value in part.items()} for part in content["model"]]
    torch.testing.assert_close(scores(read(tmp_path, content)), scores(model), rtol=0, atol=0)


def test_weights_that_were_made_integers(tmp_path):
    content = content_of(made("scan"))
    content["model"][0]["fc.weight"] = (127 * content["model"][0]["fc.weight"]).to(torch.int8)
    with pytest.raises(
        DataError, match=r"taken for scan, but img_enc\.fc\.weight is torch\.int8; expected torch\.float32"
    ):
        read(tmp_path, content)


@pytest.mark.parametrize("given", ["vocab.json", VOCABULARY.word2idx, list(VOCABULARY.word2idx)])
def test_what_is_no_vocabulary(given, tmp_path):
    torch.save(content_of(made("scan")), tmp_path / "model.pth")
    with pytest.raises(TypeError, match=r"vocabulary must be a Vocabulary, .*; load_vocabulary\(path\) reads one"):
        load_original(tmp_path / "model.pth", given)


def test_a_training_state_of_ours_is_told_from_checkpoints_of_others(tmp_path):
    save_checkpoint(tmp_path / "checkpoint.pt", {"step": 3}, {})
    with pytest.raises(DataError, match=r"itm-fast training state 1, of no original repository; give .*best"):
        load_original(tmp_path / "checkpoint.pt", VOCABULARY)


def test_options_that_scores_hang_on_are_missed(tmp_path):
    content = content_of(made("scan"))
    del content["opt"].raw_feature_norm, content["opt"].agg_func, content["opt"].learning_rate
    assert read(tmp_path, content).notes == [
        "the options of the checkpoint lack some that scores hang on; taken for them: "
        "raw_feature_norm=clipped_l2norm, agg_func=LogSumExp"
    ]


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("scan", "no_imgnorm=False, no_txtnorm=False"),
        ("vsepp", "no_imgnorm=False, use_abs=False"),
        ("sgraf", "no_imgnorm=False, no_txtnorm=False"),
        ("vse_infty", "no_imgnorm=False, no_txtnorm=False"),
        ("chan", "belta=0.1"),
    ],
)
def test_options_that_scores_hang_on_are_missed_of_every_model(name, taken, tmp_path):
    content = content_of(made(name))
    assert read(tmp_path, content).notes == []
    for option in taken.split(", "):
        delattr(content["opt"], option.partition("=")[0])
    assert read(tmp_path, content).notes[0].endswith(f"taken for them: {taken}")


@pytest.mark.parametrize("value", ["False", "0", "", [], {}])
def test_a_switch_that_is_a_text_is_neither_on_nor_off(value, tmp_path):
    """A text such as "False" was on."""
    content = content_of(made("scan"), no_imgnorm=value)
    with pytest.raises(DataError, match="no_imgnorm must be True or False, got "):
        read(tmp_path, content)
    assert read(tmp_path, content_of(made("scan"), no_imgnorm=0)).notes == []


@pytest.mark.parametrize(
    ("cut", "said"),
    [
        (lambda whole: whole[: len(whole) // 2], r"cut short: of \d+ bytes that begin as torch\.save writes them"),
        (lambda whole: b"", "writes no such file: it is empty"),
        (gzip.compress, "gzip, not what its name says: unpack it"),
        (lambda whole: save({"a": torch.zeros(1)}), "writes no such file: it is safetensors, which holds no options"),
        (lambda whole: save({"a" * 71: torch.zeros(1)}), "it is safetensors"),  # whose first byte is a pickle's
        (lambda whole: bytes(999), r"writes no such file: it begins with b'\\x00"),
    ],
)
def test_files_that_torch_save_did_not_write_or_not_to_the_end(cut, said, tmp_path):
    torch.save(content_of(made("scan")), tmp_path / "whole.pth")
    path = tmp_path / "a.pth"
    path.write_bytes(cut((tmp_path / "whole.pth").read_bytes()))
    with pytest.raises(DataError, match=rf"a\.pth: not a checkpoint that can be read safely: .*{said}"):
        load_original(path, VOCABULARY)
