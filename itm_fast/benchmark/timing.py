"""Calls timed in turn in one process, so that a disturbance of the machine meets all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping

import torch

Call = Callable[[], object]


def time_interleaved(
    calls: Mapping[str, Call],
    rounds: int,
    *,
    twice: Collection[str] = (),
    warm_up: Collection[str] | None = None,
    device: torch.device | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, list[float]]:
    """Seconds of every call, one after another in each round.

    Args:
        calls: what to time, by name.
        rounds: times that each is called.
        twice: names of slow calls, which run in the first two rounds only.
        warm_up: names that are called once before, where they are not slow; None: all.
        device: that is waited for around each call, where it works on its own (CUDA).
        progress: called with (calls done, calls in all).

    Returns:
        By name, in the order of ``calls``.

    Example:
        >>> {name: len(seconds) for name, seconds in time_interleaved({"sum": lambda: sum(range(9))}, 3).items()}
        {'sum': 3}
    """
    for name in calls if warm_up is None else warm_up:
        if name not in twice:
            calls[name]()
    wait = _waiting_for(device)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    in_all = sum(min(rounds, 2) if name in twice else rounds for name in calls)
    for number in range(rounds):
        for name, call in calls.items():
            if name in twice and number > 1:
                continue
            wait()
            start = time.perf_counter()
            call()
            wait()
            seconds[name].append(time.perf_counter() - start)
            if progress is not None:
                progress(sum(map(len, seconds.values())), in_all)
    return seconds


def _waiting_for(device: torch.device | None) -> Callable[[], object]:
    if device is not None and device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    return lambda: None
