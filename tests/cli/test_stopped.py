"""Ctrl-C and SIGTERM at many moments: the files that are there are whole, and nothing else is."""

import itertools
import json
import signal

import numpy as np
import pytest
import torch
from forked_commands import PRELOADED_PAGE, forked_commands
from safetensors.torch import load_file

from itm_fast.data import make_data

SMALL = ["--n-train", "40", "--n-test", "20", "--max-regions", "5", "--dim", "12"]
COMMANDS = {
    "make-data": ["made", *SMALL[:4], "--n-dev", "20", "--max-regions", "36", "--dim", "256"],
    "evaluate": ["--sims", "sims.npy", "--relevance", "caps.txt", "--output", "report.json"],
    "cider": ["caps.txt", "phi.npy", "--save-frequencies", "df"],
    "train": [
        *("scan", "--data-path", "data", "--tokenizer", "split", "--img-dim", "12", "--word-dim", "8"),
        *("--embed-size", "16", "--batch-size", "30", "--num-epochs", "4", "--val-step", "3", "--save-step", "1"),
        *("--model-name", "run"),
    ],
    "demo": ["--folder", "demo", *SMALL, "--embed-size", "8", "--num-epochs", "2", "--batch-size", "50"],
}
# Sent in turn, a second one a millisecond after the first.
SIGNALS = [[signal.SIGINT], [signal.SIGTERM], [signal.SIGINT, signal.SIGINT], [signal.SIGTERM, signal.SIGINT]]
MOMENTS = [0.05, 0.25, 0.4, 0.55, 0.7]  # shares of the time of a run that is left alone


@pytest.fixture(scope="module")
def forked():
    with forked_commands(*PRELOADED_PAGE) as run:
        yield run


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    rng = np.random.default_rng(0)
    words = rng.choice(list("abcdefghijklmnopqrstuvwxyz"), (3000, 9))
    (folder / "caps.txt").write_text("".join(f"{' '.join(caption)}\n" for caption in words))
    np.save(folder / "sims.npy", rng.standard_normal((600, 3000), dtype=np.float32))
    make_data(folder / "data", n_train=30, n_dev=6, n_test=6, max_regions=5, dim=12)
    return folder


def check_whole(path, n_captions=3000):
    """Raises unless the file can be read to its end."""
    if path.suffix == ".npy":
        array = np.load(path, mmap_mode="r")
        assert np.abs(np.asarray(array[-1])).sum() > 0
        assert path.name != "phi.npy" or array.shape == (600, n_captions)
    elif path.suffix == ".json":
        json.loads(path.read_text())
    elif path.suffix == ".pt":
        torch.load(path, weights_only=True)
    elif path.suffix == ".safetensors" or path.name == "df":
        load_file(path)
    elif path.suffix == ".jsonl":
        assert all(json.loads(line) for line in path.read_text().splitlines())
    elif path.name.endswith("_caps.txt"):
        assert path.read_text().count("\n") == 5 * len(
            path.with_name(path.name.replace("caps", "ids")).read_text().split()
        )


@pytest.mark.parametrize("command", COMMANDS)
def test_files_are_whole(command, forked, inputs, tmp_path):
    def fresh(number):
        folder = tmp_path / str(number) / "here"
        folder.mkdir(parents=True)
        for path in inputs.iterdir():
            (folder / path.name).symlink_to(path)
        return folder

    arguments = [command, *COMMANDS[command]]
    whole = fresh("whole")
    exits, seconds_alone = forked(arguments, whole)
    assert exits == [0], (whole.parent / "stderr0").read_text()
    wanted = {str(path.relative_to(whole)) for path in whole.rglob("*") if "tensorboard" not in path.parts}
    codes = []
    for number, (moment, signals) in enumerate(zip(MOMENTS, itertools.cycle(SIGNALS), strict=False)):
        folder = fresh(number)
        first, *others = [int(one) for one in signals]
        sent = [[moment * seconds_alone, first], *([0.001, one] for one in others)]
        (code,), _ = forked(arguments, folder, signals=sent)
        errors = (folder.parent / "stderr0").read_text()
        codes.append(code)
        assert code in (0, *(128 + one for one in signals), *(-one for one in signals)), (moment, signals, errors)
        assert "Traceback" not in errors, errors
        assert code <= 0 or errors.endswith("itm-fast: error: interrupted\n"), errors
        found = [path for path in folder.rglob("*") if "tensorboard" not in path.parts]
        assert not {str(path.relative_to(folder)) for path in found} - wanted
        for path in found:
            check_whole(path)
    assert any(code > 0 for code in codes), codes
