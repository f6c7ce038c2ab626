"""Every choice of every command: in order, without None, and the nearest said to a name that is none."""

import os
import re
import subprocess
import sys
from functools import partial
from typing import get_args

import pytest

from itm_fast.choices import ProtocolName, in_order, perhaps
from itm_fast.cli import main as cli
from itm_fast.cli.completion import all_flags
from itm_fast.data import PrecompDataset, make_data
from itm_fast.evaluation.protocols import check_protocol
from itm_fast.registry import MODELS, find_preset, model_class, preset_names

ALL = all_flags()
FLAGS = [
    pytest.param(context, flag, id=f"{context} --{flag.name}")
    for context, flags in ALL.items()
    for flag in flags
    if flag.choices
]


def mistyped(choice):
    """A slip at the end of a name."""
    return choice + choice[-1]


def lists_in(text, before="expected one of|models:|presets:|commands:"):
    """The lists of choices in a message."""
    return [listed.strip().split(", ") for listed in re.findall(f"(?:{before}) ([^;.()]+)", text)]


def test_there_are_choices_to_look_at():
    names = {f"{param.values[0]} --{param.values[1].name}" for param in FLAGS}
    assert len(names) > 60
    assert {"evaluate --protocol", "bench --operator", "train --model", "train scan --preset"} <= names


@pytest.mark.parametrize(("context", "flag"), FLAGS)
def test_choices_are_in_order_and_hold_no_none(context, flag):
    assert list(flag.choices) == sorted(flag.choices, key=str.casefold)
    assert "None" not in flag.choices
    for choice in flag.choices:
        assert perhaps(mistyped(choice), flag.choices) == f"; perhaps you meant {choice}"


@pytest.mark.parametrize("context", ALL)
def test_help_lists_them_so(context, capsys):
    assert cli.main([*context.split(), "--help"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    if context != "train":  # its help is a page of models with their presets
        assert sorted(lists_in(out, "One of:")) == sorted(list(flag.choices) for flag in ALL[context] if flag.choices)


@pytest.mark.parametrize(("context", "flag"), FLAGS)
def test_a_mistyped_choice_is_answered_with_the_nearest(context, flag, capsys):
    choice = flag.choices[-1]
    others = [
        other.choices[0] if other.choices else "x" for other in ALL[context] if other.is_positional and other != flag
    ]
    words = [mistyped(choice)] if flag.is_positional else [*others, f"--{flag.name}", mistyped(choice)]
    assert cli.main([*context.split(), *words]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert f"'{mistyped(choice)}'; perhaps you meant {choice};" in said.err
    assert list(flag.choices) in lists_in(said.err)
    assert "None" not in said.err
    if not flag.is_positional:
        assert f"--{flag.name}" in said.err or f"no preset '{mistyped(choice)}'" in said.err


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_a_mistyped_command(name, capsys):
    assert cli.main([mistyped(name)]) == 2
    said = capsys.readouterr().err
    assert f"no command '{mistyped(name)}'; perhaps you meant {name}; commands: " in said
    assert lists_in(said.partition(" (see")[0]) == [in_order(cli.COMMANDS)]


@pytest.mark.parametrize("flag", ["--cross-atn", "--agg-fun"])
def test_a_mistyped_flag(flag, capsys):
    assert cli.main(["bench", "cross-attention", flag, "t2i"]) == 2
    assert f"perhaps you meant {flag[:5]}" in capsys.readouterr().err


@pytest.mark.parametrize("seed", ["0", "1"])
def test_the_order_is_not_that_of_hashes(seed):
    """Of a process, which draws its own seed; tyro's own lists came from sets."""
    program = "import sys; from itm_fast.cli.main import main; main(['evaluate', '--protocol', 'x'])"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ, "PYTHONHASHSEED": seed}
    )
    assert "one of coco-1k, coco-5k, coco-all, coco-cn, coco-fg, coco-fg-originals, cxc, " in done.stderr


PROTOCOLS = get_args(ProtocolName)


@pytest.mark.parametrize(
    ("call", "name", "choices"),
    [
        *((model_class, name, MODELS) for name in MODELS),
        *((check_protocol, name, PROTOCOLS) for name in PROTOCOLS),
        *((partial(find_preset, model), name, preset_names(model)) for model in MODELS for name in preset_names(model)),
    ],
)
def test_names_in_python(call, name, choices):
    with pytest.raises(ValueError, match=re.escape(f"{mistyped(name)!r}; perhaps you meant {name};")) as raised:
        call(mistyped(name))
    assert lists_in(str(raised.value)) == [in_order(choices)]


def test_splits(tmp_path, capsys):
    make_data(tmp_path, n_train=4, n_dev=2, n_test=2, max_regions=2, dim=4)
    with pytest.raises(FileNotFoundError, match="splits present: dev, test, train; perhaps you meant test"):
        PrecompDataset(tmp_path, "tests")
    (tmp_path / "test_ims.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"splits present: dev, test, train\. "):  # it is test that was meant
        PrecompDataset(tmp_path, "test")


@pytest.mark.parametrize(
    ("given", "choices", "nearest"),
    [
        ("", ["a"], None),
        ("a", ["a", "ab"], None),  # it is one
        ("SCAN", ["scan", "sgraf"], "scan"),
        ("coco", ["coco-fg", "coco-5k", "coco-1k", "cxc"], "coco-1k"),
        ("vse", ["vsrn", "vse_infty"], "vse_infty"),  # cut short
        ("eccv-caption", ["cxc", "eccv"], "eccv"),  # more behind it
        ("clip", ["scan", "vsepp"], None),
        (7, [0, 1], None),
        ("median", [None, "Mean", "Max"], "Mean"),
    ],
)
def test_the_nearest(given, choices, nearest):
    assert perhaps(given, choices) == ("" if nearest is None else f"; perhaps you meant {nearest}")
