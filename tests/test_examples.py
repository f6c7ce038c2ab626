"""The notebooks of examples/ run from top to bottom and print what they show, but for cells that are marked."""

import contextlib
import doctest
import io
import json
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
LOOSE = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def code_cells(notebook: Path) -> list[dict]:
    return [cell for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def shown(cell: dict) -> str:
    return "".join("".join(output["text"]) for output in cell["outputs"] if output["output_type"] == "stream")


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_and_prints_what_is_shown(notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("MPLBACKEND", "Agg")
    namespace = {"__name__": "notebook"}
    with torch.random.fork_rng():
        for number, cell in enumerate(code_cells(notebook), start=1):
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile("".join(cell["source"]), f"{notebook.name}, code cell {number}", "exec"), namespace)
            if "varies" not in cell["metadata"].get("tags", ()):
                same = doctest.OutputChecker().check_output(shown(cell).strip(), out.getvalue().strip(), LOOSE)
                assert same, f"{notebook.name}, code cell {number}: what came out is\n{out.getvalue()}"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_keeps_its_outputs_and_no_place_of_the_machine_it_was_made_on(notebook: Path):
    text = notebook.read_text(encoding="utf-8")
    cells = code_cells(notebook)
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs), "no picture is kept"
    assert any(shown(cell) for cell in cells)
    assert not any(output["output_type"] == "error" or output.get("name") == "stderr" for output in outputs)
    assert "/home/" not in text
    assert "/tmp/" not in text
    assert len(text) < 500_000


def test_every_notebook_is_named_by_the_page():
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert len(NOTEBOOKS) == 3
    assert all(f"({path.name})" in page for path in NOTEBOOKS)
