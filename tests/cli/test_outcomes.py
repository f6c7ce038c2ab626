"""What every command has in common: JSON, progress, colours, exit codes, full disks, readers that leave."""

import contextlib
import csv
import errno
import importlib
import json
import os
import pty
import re
import resource
import select
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from itm_fast.cli import main as cli
from itm_fast.cli.console import print_json, print_table, wants_colour
from itm_fast.cli.failures import explained
from itm_fast.cli.flags import flags_of
from itm_fast.cli.train import flags_of_model
from itm_fast.data import make_data
from itm_fast.files.writing import written_aside

COLOURS = ("NO_COLOR", "FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE")
TINY = ["--n-train", "20", "--n-test", "10", "--max-regions", "4", "--dim", "12"]
RUNS = {
    "make-data": ["made", *TINY, "--n-dev", "5"],
    "train": [
        *("vsepp", "--data-path", "data", "--tokenizer", "split", "--img-dim", "12", "--word-dim", "8"),
        *("--embed-size", "16", "--batch-size", "30", "--num-epochs", "1", "--trackers"),
    ],
    "evaluate": ["--sims", "sims.npy", "--relevance", "caps.txt", "--ks", "1", "--output", "report.json"],
    "cider": ["caps.txt", "phi.npy"],
    "correlate": ["sits.csv", "--captions", "karpathy.json"],
    "demo": [
        "--folder",
        "demo",
        *TINY,
        "--embed-size",
        "8",
        "--num-epochs",
        "1",
        "--batch-size",
        "50",
        "--repeats",
        "1",
    ],
    "info": [],
    "models": [],
    "protocols": [],
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    captions = [" ".join(words) for words in rng.choice(list("abcdefgh"), (50, 4))]
    (tmp_path / "caps.txt").write_text("".join(f"{caption}\n" for caption in captions))
    np.save(tmp_path / "sims.npy", rng.standard_normal((10, 50)))
    rows = [("caption", "image", "agg_score", "sampling_method")]
    rows += [(f"x:{i}", f"{i // 5}.jpg", i % 5, "c2i_original") for i in range(50)]
    with (tmp_path / "sits.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    images = [
        {"filename": f"{n}.jpg", "sentences": [{"sentid": i, "raw": captions[i]} for i in range(5 * n, 5 * n + 5)]}
        for n in range(10)
    ]
    (tmp_path / "karpathy.json").write_text(json.dumps({"images": images}))
    for name in COLOURS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def not_json(constant):
    raise AssertionError(f"{constant} is not JSON")


@contextlib.contextmanager
def stderr_on_a_terminal():
    """Within it stderr is a terminal; yields the list of what that was sent, complete afterwards."""
    ours, its = pty.openpty()
    shown = []

    def read():
        with contextlib.suppress(OSError):  # nobody has it open any more
            while True:
                shown.append(os.read(ours, 65536).decode(errors="replace"))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        with os.fdopen(its, "w") as stderr, contextlib.redirect_stderr(stderr):
            yield shown
    finally:
        reader.join(10)
        os.close(ours)


@pytest.mark.slow
@pytest.mark.parametrize("command", RUNS)
def test_json_on_stdout_and_progress_on_a_terminal(command, folder, capsys, monkeypatch):
    if command == "train":
        make_data("data", n_train=12, n_dev=5, n_test=5, max_regions=4, dim=12)
    monkeypatch.setenv("TERM", "xterm")
    with stderr_on_a_terminal() as shown:
        assert cli.main([command, *RUNS[command], "--json"]) == 0
    assert isinstance(json.loads(capsys.readouterr().out, parse_constant=not_json), dict)
    screen = "".join(shown)
    if command in ("info", "models", "protocols"):
        assert screen == ""
    else:
        assert re.search(r"\d % .*left", screen)
        assert screen.count("\x1b[?25h") == screen.count("\x1b[?25l") > 0  # the cursor is back


def test_every_command_has_json():
    for name, command in cli.COMMANDS.items():
        if name != "completion":  # its result is a script
            arguments = getattr(importlib.import_module(command.module), command.arguments)
            flags = flags_of_model("scan") if name == "train" else flags_of(arguments)
            assert "json" in {flag.name for flag in flags}, name


def test_json_has_no_nan(capsys):
    print_json({"a": [float("nan"), (1.5, {"b": -float("inf")})]})
    assert json.loads(capsys.readouterr().out, parse_constant=not_json) == {"a": [None, [1.5, {"b": None}]]}


def out_of_memory(kind):
    try:
        np.empty((2**40, 2**10)) if kind == "numpy" else torch.empty(2**50)
    except (MemoryError, RuntimeError) as error:
        return error
    raise AssertionError("there is a lot of memory")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ValueError("k is 0"), 2, r"k is 0"),
        (ImportError("pip install 'itm-fast[text]'"), 2, r"pip install 'itm-fast\[text\]'"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, r"No space left on device"),
        (OSError(errno.ENOSPC, "No space left on device", "a.npy"), 2, r"a\.npy: No space left on device"),
        (MemoryError(), 1, r"out of memory"),
        (out_of_memory("numpy"), 1, r"out of memory: Unable to allocate .*"),
        (out_of_memory("torch"), 1, r"out of memory: .*"),
        (KeyError("x"), 1, r"unexpected KeyError in main\.py, line \d+: 'x'; .*ITM_FAST_DEBUG=1.*"),
        (RuntimeError("x"), 1, r"unexpected RuntimeError in main\.py, line \d+: x; .*"),
    ],
)
def test_errors_are_one_line_and_a_code(error, code, line, capsys, monkeypatch):
    def fail(arguments):
        raise error

    monkeypatch.setattr(cli, "_run", fail)
    assert cli.main(["info"]) == code
    assert re.fullmatch(f"itm-fast: error: {line}\n", capsys.readouterr().err)
    monkeypatch.setenv("ITM_FAST_DEBUG", "1")
    with pytest.raises(type(error)):
        cli.main(["info"])


def test_the_place_of_a_mistake_is_ours():
    """Of the frames that an error went through, the last one in the package: not the library below it."""
    with pytest.raises(AttributeError) as caught, written_aside("x"):
        flags_of(json)
    assert "in flags.py, line" in explained(caught.value)[0]
    with pytest.raises(TypeError) as caught:
        print_json({"a": object()})  # raised by the json module
    assert "in console.py, line" in explained(RuntimeError().with_traceback(caught.tb))[0]


@pytest.mark.parametrize(
    ("command", "file"),
    [
        (["cider", "caps.txt", "phi.npy"], "phi.npy"),
        (["cider", "caps.txt", "phi.npy", "--save-frequencies", "df"], "df"),
        (["evaluate", "--sims", "sims.npy", "--output", "report.json"], "report.json"),
        (["make-data", "made", *TINY], "made/train_ims.npy"),
    ],
)
def test_a_file_that_does_not_fit_is_one_line(command, file, folder, capsys):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, limits[1]))
    try:
        code = cli.main(command)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    errors = capsys.readouterr().err.splitlines()
    assert code == 2
    assert errors[-1].startswith(f"itm-fast: error: {file}: ")
    assert "File too large" in errors[-1]
    assert not [path for path in folder.rglob("*") if path.name.startswith(".") or path.name == Path(file).name]


def test_a_reader_that_left_is_141():
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "itm_fast", "--help"], stdout=writer, stderr=subprocess.PIPE, text=True
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize(
    ("environment", "is_terminal", "wanted"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"NO_COLOR": "1"}, True, False),
        ({"NO_COLOR": ""}, True, True),
        ({"TERM": "dumb"}, True, False),
        ({"CLICOLOR": "0"}, True, False),
        ({"CLICOLOR": "1"}, False, False),
        ({"CLICOLOR_FORCE": "1"}, False, True),
        ({"FORCE_COLOR": "1"}, False, True),
        ({"FORCE_COLOR": "0"}, False, False),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, True, False),
    ],
)
def test_colours(environment, is_terminal, wanted, folder, capsys, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stdout.isatty", lambda: is_terminal)
    assert wants_colour(sys.stdout) is wanted
    print_table(["name", "value"], [["a", 1]])
    assert ("\x1b[" in capsys.readouterr().out) is wanted


def on_a_terminal(words, folder, **environment):
    """What a command shows when all of its output goes to a terminal."""
    ours, its = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "60", "PYTHONPATH": str(Path(__file__).parents[2]), **environment}
    process = subprocess.Popen(
        [sys.executable, "-m", "itm_fast", *words], stdin=its, stdout=its, stderr=its, env=env, cwd=folder
    )
    os.close(its)
    shown = b""
    while process.poll() is None or select.select([ours], [], [], 0)[0]:
        if select.select([ours], [], [], 0.1)[0]:
            try:
                shown += os.read(ours, 65536)
            except OSError:  # nobody has it open any more
                break
    os.close(ours)
    return process.wait(), shown.decode().replace("\r\n", "\n")


def test_on_a_terminal(folder):
    code, shown = on_a_terminal(["evaluate", "--protcol", "cxc"], folder)
    assert code == 2
    assert re.fullmatch(r"itm-fast: error: Unrecognized options: --protcol.*--protocol \(see .*\)\n", shown)
    code, shown = on_a_terminal(["evaluate", "--help"], folder)
    assert code == 0
    assert "\x1b[1mProtocol\x1b[0m" in shown
    plain = re.sub(r"\x1b\[\d*m", "", shown)
    assert max(map(len, plain.splitlines())) <= 60
    assert on_a_terminal(["evaluate", "--help"], folder, NO_COLOR="1") == (0, plain)
