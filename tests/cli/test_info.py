import json

import pytest

from itm_fast.cli.info import Info, run
from itm_fast.ops import _library


def test_text_says_what_was_built_what_runs_and_why(capsys: pytest.CaptureFixture[str]):
    assert run(Info()) == 0
    text, info = capsys.readouterr().out, _library.build_info()
    assert text.startswith(f"itm-fast {info['version']}\n")
    assert f"for torch {info['built_for_torch']} by {info['compiler']}" in text
    assert f"{info['cpu_isa']} ({info['cpu_isa_reason']})" in text
    assert "CUDA kernels" in text


def test_json(capsys: pytest.CaptureFixture[str]):
    assert run(Info(json=True)) == 0
    assert json.loads(capsys.readouterr().out) == _library.build_info()


def test_operators_that_cannot_be_loaded_give_one_line(capsys: pytest.CaptureFixture[str], monkeypatch):
    def fail():
        raise ImportError("built for torch 1.0, found torch 2.0. Rebuild")

    monkeypatch.setattr(_library, "load", fail)
    assert run(Info()) == 1
    captured = capsys.readouterr()
    assert not captured.out
    assert captured.err == "itm-fast: error: built for torch 1.0, found torch 2.0. Rebuild\n"
