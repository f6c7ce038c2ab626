"""Flags as they are read off dataclasses, and the help made of them."""

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
import tyro

from itm_fast.cli import main as cli
from itm_fast.cli.flags import Flag, flags_of
from itm_fast.cli.help import print_help
from itm_fast.cli.train import flags_of_model
from itm_fast.registry import MODELS, preset_names, presets


@dataclass(frozen=True, kw_only=True)
class Files:
    """Files."""

    output: Path
    """Where to."""
    more: Path | None = None
    """Text over two lines, the first of which ends within text-
    text; units."""


@dataclass(frozen=True)
class Options(Files):
    """About them."""

    kind: Literal["a", "b"] | None = None
    """Kind; None is either."""
    ks: tuple[int, ...] = (1, 5)
    """Cut-offs."""
    on: bool = True
    off: bool = False
    hidden: tyro.conf.Suppress[int] = 0


def test_flags():
    text = "Text over two lines, the first of which ends within text-text; units."
    assert flags_of(Options) == [
        Flag("output", "Files", "Where to.", "PATH", is_positional=True),
        Flag("more", "Files", text, "PATH"),
        Flag("kind", "Flags", "Kind; None is either.", "NAME", ("a", "b"), "None"),
        Flag("ks", "Flags", "Cut-offs.", "INT", (), "1 5", takes_many=True),
        Flag("on", "Flags", "", default="on"),
        Flag("off", "Flags", ""),
    ]
    assert {flag.name: flag.default for flag in flags_of(Options, Options(output=Path("x"), ks=(3,)))}["ks"] == "3"


def test_help(capsys):
    print_help("itm-fast x OUTPUT [FLAGS]", "About it.\n\nMore.", flags_of(Options))
    assert capsys.readouterr().out.splitlines() == [
        "usage: itm-fast x OUTPUT [FLAGS]",
        "",
        "About it.",
        "",
        "More.",
        "",
        "Arguments",
        "  OUTPUT                  Where to.",
        "",
        "Files",
        "  --more PATH             Text over two lines, the first of which ends within",
        "                          text-text; units.",
        "",
        "Flags",
        "  --kind NAME             Kind; None is either. One of: a, b. (default: None)",
        "  --ks INT ...            Cut-offs. (default: 1 5)",
        "  --[no-]on               (default: on)",
        "  --off",
        "",
        "  --help                  Show this text and exit.",
    ]


def commands_of_train():
    return [["train"], *(["train", model] for model in MODELS)]


@pytest.mark.parametrize(
    "words", [[], *([name] for name in cli.COMMANDS if name != "train"), *commands_of_train()], ids=" ".join
)
def test_help_of_each_command_fits_80_columns(words, capsys):
    assert cli.main([*words, "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(" ".join(["usage: itm-fast", *words[:1]]))
    assert max(map(len, out.splitlines())) <= 80
    assert "\x1b" not in out


@pytest.mark.parametrize("name", [name for name in cli.COMMANDS if name != "train"])
def test_each_flag_is_explained_and_accepted(name, capsys):
    """What the help shows is what the parser takes: a flag unknown to it would be named in the error."""
    import importlib

    command = cli.COMMANDS[name]
    flags = flags_of(getattr(importlib.import_module(command.module), command.arguments))
    assert all(flag.help for flag in flags)
    values = {"INT": "1", "FLOAT": "1", "PATH": "x", "TEXT": "x", "": ""}
    words = [flag.choices[0] if flag.choices else "x" for flag in flags if flag.is_positional]
    for flag in flags:
        if not flag.is_positional:
            value = flag.choices[0] if flag.choices else values[flag.metavar]
            words += [f"--{flag.name}", *([value] if value else [])]
    assert not isinstance(
        cli._parse(getattr(importlib.import_module(command.module), command.arguments), name, words), int
    )
    assert capsys.readouterr().err == ""


def test_flags_of_models_are_explained():
    assert all(flag.help for model in MODELS for flag in flags_of_model(model))


def test_names_of_presets():
    assert {model: preset_names(model) for model in MODELS} == {model: tuple(presets(model)) for model in MODELS}


def test_help_and_version_import_neither_torch_nor_tyro():
    calls = [["--help"], ["--version"], ["train", "--help"], *([name, "--help"] for name in cli.COMMANDS), ["nonsense"]]
    program = (
        f"import sys, itm_fast.cli.main as m\nfor call in {calls!r}: m.main(call)\n"
        "assert not {'torch', 'tyro', 'rich', 'numpy'} & set(sys.modules), sorted(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_sgraf_takes_scans_switch(tmp_path, capsys):
    """Its presets have max_violation on; SCAN's command lines name it all the same."""
    for switch in ("--max_violation", "--no-max-violation"):
        assert cli.main(["train", "sgraf", switch, "--data-path", str(tmp_path / "none")]) == 2
        assert "no such folder" in capsys.readouterr().err


def test_suggestions(capsys):
    assert cli.main(["evaluate", "--protcol", "cxc"]) == 2
    assert "perhaps you meant --protocol (see" in capsys.readouterr().err
    assert cli.main(["corelate"]) == 2
    assert "perhaps you meant correlate;" in capsys.readouterr().err


def test_version(capsys):
    from itm_fast import build_info

    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"itm-fast {build_info()['version']}\n"


def test_as_a_module_and_as_a_script():
    """`python -m itm_fast` and what `itm-fast` starts print the same."""
    script = "import sys; from itm_fast.cli.main import main; sys.argv[0] = 'itm-fast'; sys.exit(main())"
    root = Path(__file__).parents[2]
    outputs = [
        subprocess.run([sys.executable, *start, *words], capture_output=True, text=True, cwd=root)
        for words in (["evaluate", "--help"], ["evaluat"])
        for start in (["-m", "itm_fast"], ["-c", script])
    ]
    assert [done.returncode for done in outputs] == [0, 0, 2, 2]
    assert outputs[0].stdout == outputs[1].stdout != ""
    assert outputs[2].stderr == outputs[3].stderr != ""


@pytest.mark.parametrize(
    ("environment", "is_bold"),
    [
        ({}, False),
        ({"FORCE_COLOR": "1"}, True),
        ({"CLICOLOR_FORCE": "1"}, True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
    ],
)
def test_colours_of_help_in_a_pipe(environment, is_bold, capsys, monkeypatch):
    for name in ("FORCE_COLOR", "CLICOLOR_FORCE", "NO_COLOR", "CLICOLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    cli.main(["info", "--help"])
    out = capsys.readouterr().out
    assert ("\x1b[1m" in out) is is_bold
    assert re.sub(r"\x1b\[\d*m", "", out).startswith("usage: itm-fast info")
