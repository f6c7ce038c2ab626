"""README and docs say what is so: their code runs, outputs shown are outputs seen, commands and links exist.

Blocks of a page run in order, in one namespace and one temporary folder:

    ```python          runs          ```python notest   does not: it needs a download, a GPU or a file of the reader's
    ```sh              is parsed     ```sh run          runs      ```sh fails   runs, and ends with exit code 2
    ```text output     is what the block before printed (... stands for anything); so is what lies between
                       <!-- output --> and <!-- end -->
"""

import contextlib
import dataclasses
import doctest
import importlib
import io
import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from tiny_clip import write_clip

from itm_fast.cli.main import COMMANDS, main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(
    r"^```(?P<language>\w+)(?P<mark>[^\n]*)\n(?P<code>.*?)^```$|^<!-- output -->\n(?P<shown>.*?)^<!-- end -->$",
    re.MULTILINE | re.DOTALL,
)
LOOSE = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


class Block(NamedTuple):
    """A block of a page: its language and mark, its text, and the line of the page that it begins on."""

    kind: str
    code: str
    line: int


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in BLOCK.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        if found["shown"] is not None:
            yield Block("text output", found["shown"], line)
        else:
            yield Block(f"{found['language']} {found['mark'].strip()}".strip(), found["code"], line)


def command_lines(block: Block) -> list[list[str]]:
    """The commands of a shell block, without comments; a line may go on after a backslash."""
    lines = block.code.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=pytest.mark.learning) if page == ROOT / "README.md" else page for page in PAGES],
    ids=lambda page: page.name,
)
def test_blocks_run_and_print_what_is_shown(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    if "openai/clip-vit-base-patch32" in "".join(block.code for block in blocks(page) if block.kind == "python"):
        write_clip(tmp_path / "openai" / "clip-vit-base-patch32")  # tiny, in place of the one that would be downloaded
    namespace, printed = {"__name__": "docs"}, ""
    with torch.random.fork_rng():
        for block in blocks(page):
            where = f"{page.name}:{block.line}"
            if block.kind == "text output":
                shown = doctest.OutputChecker().check_output(block.code.strip(), printed.strip(), LOOSE)
                assert shown, f"{where}: what came out is\n{printed}"
            elif block.kind in ("python", "sh run", "sh fails"):
                printed = run(block, where, namespace)


def run(block: Block, where: str, namespace: dict) -> str:
    """What a block prints."""
    out = io.StringIO()
    errors = out if block.kind == "sh fails" else io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        if block.kind == "python":
            code = "\n" * block.line + block.code  # so that a traceback has the line of the page
            exec(compile(code, where.partition(":")[0], "exec"), namespace)
        else:
            for words in command_lines(block):
                assert words[0] == "itm-fast", f"{where}: only itm-fast is run here"
                code = main(words[1:])
                assert code == (2 if block.kind == "sh fails" else 0), f"{where}: {shlex.join(words)}: exit code {code}"
    return out.getvalue()


@every_page
def test_commands_exist_with_their_flags(page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    from itm_fast.config import DataConfig, SAMConfig, TrainingConfig
    from itm_fast.models.scan import SCANConfig
    from itm_fast.training.run import RunSettings

    settings = RunSettings("scan", SCANConfig(), DataConfig(), TrainingConfig(), SAMConfig())
    monkeypatch.setattr(RunSettings, "load", lambda path: settings)  # of a run that is not here
    for command in COMMANDS.values():
        monkeypatch.setattr(importlib.import_module(command.module), "run", lambda args: 0)
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)[1].split()
    for block in blocks(page):
        for words in command_lines(block) if block.kind.startswith("sh") else ():
            said = f"{page.name}:{block.line}: {shlex.join(words)}"
            if "itm_fast" in words or words[0] == "itm-fast":
                ours = words[words.index("itm_fast" if "itm_fast" in words else "itm-fast") + 1 :]
                assert main(ours) == 0, f"{said}: {capsys.readouterr().err}"
            elif words[0] == "make":
                assert words[1] in targets, said
            else:
                assert words[0] in ("pip", "hf", "python", "export") or (ROOT / words[0]).is_file(), said
                assert words[0] != "python" or (ROOT / words[1]).is_file(), said
    for name in re.findall(r"`itm-fast ([a-z-]+)", page.read_text(encoding="utf-8")):
        assert name in COMMANDS, f"{page.name}: there is no command {name}"


@every_page
def test_flags_in_the_text_exist(page: Path):
    from itm_fast import config
    from itm_fast.cli.train import RunOptions
    from itm_fast.registry import MODELS, model_class

    kinds = [RunOptions, config.DataConfig, config.SAMConfig, config.TrainingConfig]
    kinds += [model_class(name).config_class for name in MODELS]
    modules = [(importlib.import_module(command.module), command.arguments) for command in COMMANDS.values()]
    kinds += [getattr(module, name) for module, name in modules if not hasattr(module, "parse")]
    known = {field.name.replace("_", "-") for kind in kinds for field in dataclasses.fields(kind)}
    known |= {"preset", "resume", "help", "no-build-isolation", "rehearse"}  # of train; of all; of pip; of gpu_check.sh
    found = set(re.findall(r"`(?:itm-fast [^`]*)?--([a-z0-9-]+)", prose(page)))
    assert not found - known, f"no such flags: {found - known}"


def test_nearly_every_python_block_runs():
    kinds = [block.kind for page in PAGES for block in blocks(page)]
    assert kinds.count("python notest") <= 3
    assert kinds.count("python") > 20
    assert not {kind for kind in kinds if kind.startswith("python")} - {"python", "python notest"}


def prose(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_links_lead_somewhere(page: Path):
    for target, _, anchor in (link.partition("#") for link in re.findall(r"\]\(([^)\s]+)\)", prose(page))):
        if target.startswith("http"):
            continue
        found = (page.parent / target).resolve() if target else page
        assert found.exists(), f"{page.name}: {target} is not there"
        assert found.is_relative_to(ROOT)
        assert not anchor or anchor in anchors(found), f"{page.name}: {target} has no heading #{anchor}"


def test_every_page_is_reached():
    linked = {(page.parent / link).resolve() for page in PAGES for link in re.findall(r"\]\(([^)#\s]+)", prose(page))}
    assert not {page for page in PAGES if page.parent == ROOT / "docs"} - linked


def test_the_figure_shows_the_table():
    figure = runpy.run_path(str(ROOT / "scripts" / "speed_figure.py"))
    drawn = figure["draw"](figure["read_table"](PAGES[0].read_text(encoding="utf-8")))
    assert drawn == (ROOT / "docs" / "speed.svg").read_text(encoding="utf-8"), "run python scripts/speed_figure.py"
    assert drawn.count("<rect") > 20
