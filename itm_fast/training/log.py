"""What a run says while it goes on: a line of JSON per event, and the trackers that are installed."""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from itm_fast.config import Tracker
from itm_fast.files.writing import written_aside

_INSTALL = {"tensorboard": "pip install 'itm-fast[train]'", "wandb": "pip install wandb"}


class RunLog:
    """log.jsonl of a run, and TensorBoard or W&B beside it.

    A line is {"step", "seconds", "kind", ...}: seconds since the run began, kind "train", "validation" or "notice".
    """

    def __init__(
        self,
        folder: Path,
        *,
        trackers: Sequence[Tracker] = (),
        from_step: int = 0,
        notice: Callable[[str], None] = lambda message: None,
    ) -> None:
        """Open, and forget what a killed run did after its last checkpoint.

        Args:
            folder: Gets log.jsonl and, of TensorBoard, the folder tensorboard.
            trackers: Where the numbers go beside.
            from_step: Lines of later steps are dropped; 0 begins a new log.
            notice: Called with what people should read.
        """
        self._path, self._notice, self._started = folder / "log.jsonl", notice, time.monotonic()
        kept = _lines_until(self._path, from_step)
        with written_aside(self._path) as aside:
            aside.write_text("".join(kept), encoding="utf-8")
        self._file = self._path.open("a", encoding="utf-8")
        self._close: list[Callable[[], None]] = [self._file.close]
        self._write_scalars = [found for name in trackers if (found := self._tracker(name, folder, from_step))]

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """One line; numbers also go to the trackers, nested ones under their path."""
        seconds = round(time.monotonic() - self._started, 3)
        self._file.write(json.dumps({"step": step, "seconds": seconds, "kind": kind, **values}) + "\n")
        self._file.flush()
        scalars = {f"{kind}/{name}": value for name, value in _numbers(values)}
        for write in self._write_scalars:
            write(scalars, step)

    def notice(self, step: int, message: str) -> None:
        """Something that people should read."""
        self._notice(message)
        self.write("notice", step, {"message": message})

    def close(self) -> None:
        """No more lines."""
        for close in self._close:
            close()

    def _tracker(self, name: Tracker, folder: Path, from_step: int) -> Callable[[dict[str, float], int], None] | None:
        try:
            if name == "tensorboard":
                writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter(
                    str(folder / "tensorboard"), purge_step=from_step + 1 if from_step else None
                )

                self._close.append(writer.close)

                def to_tensorboard(scalars: dict[str, float], step: int) -> None:
                    for key, value in scalars.items():
                        writer.add_scalar(key, value, step)
                    writer.flush()

                return to_tensorboard
            run = importlib.import_module("wandb").init(project="itm-fast", name=folder.name, dir=str(folder))
            self._close.append(run.finish)
        except ImportError:
            self._notice(f"{name} is not installed, so that the log is {self._path} alone: {_INSTALL[name]}")
            return None
        return lambda scalars, step: run.log(scalars, step=step)


def _lines_until(path: Path, step: int) -> list[str]:
    if not step or not path.is_file():
        return []
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):  # the last line of a killed run may be half a line
            continue
        written = entry.get("step") if isinstance(entry, dict) else None
        if isinstance(written, int) and written <= step:
            kept.append(line)
    return kept


def _numbers(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    found = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            found += _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            found.append((f"{prefix}{name}", float(value)))
    return found
