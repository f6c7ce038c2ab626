"""Signals that would stop a run wait until its step is done; several processes stop after the same one."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

import torch
from torch import distributed

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class HeldSignals:
    """A context that SIGINT, SIGTERM and SIGHUP do not interrupt: the first of them goes to its own handler afterwards.

    Signals that are ignored stay so. Contexts may lie within each other. Outside of the main thread, which no signal
    interrupts, nothing happens.

    Attributes:
        noted: The number of the signal that waits; 0: none does.
    """

    def __init__(self) -> None:
        self.noted = 0
        self._before: dict[signal.Signals, signal.Handlers] = {}

    def __enter__(self) -> HeldSignals:
        if threading.current_thread() is not threading.main_thread():
            return self
        found = {number: signal.getsignal(number) for number in _SIGNALS}
        self._before = {n: handler for n, handler in found.items() if handler not in (signal.SIG_IGN, None)}  # type: ignore[misc]
        try:
            for number in self._before:
                signal.signal(number, self._note)
        except BaseException:  # one came in between
            self._give_back()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._give_back()
        if self.noted and (kind is None or issubclass(kind, KeyboardInterrupt)):
            signal.raise_signal(self.noted)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.noted = self.noted or number

    def _give_back(self) -> None:
        for number, handler in self._before.items():
            if signal.getsignal(number) == self._note:  # another handler has been set since by one that was called
                signal.signal(number, handler)


def stop_together(held: HeldSignals, device: torch.device) -> None:
    """Raise KeyboardInterrupt on every process if a signal waits on one of them; all call it after the same step.

    Args:
        held: This process's.
        device: Of its model.
    """
    noted = torch.tensor(held.noted, device=device)
    distributed.all_reduce(noted, distributed.ReduceOp.MAX)
    if int(noted):
        raise KeyboardInterrupt
