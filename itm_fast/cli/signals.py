"""Ctrl-C, `kill` and a closed terminal: they unwind a command, so that half-written files go and whole ones stay."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))

_AGAIN = 0.001  # seconds until a signal that was swallowed comes again

_Handler = Callable[[int, FrameType | None], None] | signal.Handlers


class Stopped(KeyboardInterrupt):
    """A signal that ends the process.

    Attributes:
        number: the signal's.
        exit_code: 128 and the signal's number, as shells have it: 130 of Ctrl-C.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.strsignal(number))
        self.number = number
        self.exit_code = 128 + number


@contextmanager
def signals_unwind() -> Iterator[None]:
    """While it lasts, the first signal raises `Stopped`, the second lets the clean-up end, the third kills.

    For a process that ends right after: then signals kill it without a word, or, once one has been raised, wait for
    the clean-up as above. Signals that were ignored before, as under nohup, still are.
    """
    handled = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]

    def on_first(number: int, frame: FrameType | None) -> NoReturn:
        _handle(handled, on_second)
        raise Stopped(number)

    def on_second(number: int, frame: FrameType | None) -> None:
        _handle(handled, signal.SIG_DFL)

    is_armed = False

    def on_swallowed(unraisable: sys.UnraisableHookArgs) -> None:
        # Python lets nothing be raised by some of its calls, a weak reference's say, of which an import makes many.
        swallowed = unraisable.exc_value
        if not isinstance(swallowed, Stopped) or not hasattr(signal, "setitimer"):
            say(unraisable)
            return

        def on_alarm(_: int, frame: FrameType | None) -> None:
            if frame is not None and frame.f_code is on_swallowed.__code__:
                signal.setitimer(signal.ITIMER_REAL, _AGAIN)  # still here, where nothing can be raised either
            else:
                on_first(swallowed.number, frame)

        nonlocal is_armed
        is_armed = True
        _handle(handled, on_first)
        signal.signal(signal.SIGALRM, on_alarm)
        signal.setitimer(signal.ITIMER_REAL, _AGAIN)

    say, sys.unraisablehook = sys.unraisablehook, on_swallowed
    _handle(handled, on_first)
    try:
        yield
    finally:
        sys.unraisablehook = say
        if is_armed:
            signal.setitimer(signal.ITIMER_REAL, 0)  # the command has ended before it came again
        if any(signal.getsignal(number) is on_first for number in handled):
            _handle(handled, signal.SIG_DFL)


def _handle(numbers: list[signal.Signals], handler: _Handler) -> None:
    for number in numbers:
        signal.signal(number, handler)
