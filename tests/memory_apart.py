"""What a bench needs and takes, in a process of its own: others' memory, freed before, would be taken again."""

import contextlib
import multiprocessing

import torch

from itm_fast.benchmark import BenchSettings, cases
from itm_fast.benchmark.memory import extra_mb


def apart(measured, *args):
    """What a function of this file returns in such a process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["memory_apart"])
    with context.Pool(1) as process:
        return process.apply(measured, args)


def needed_and_taken(options):
    """MB by name: what a case says that it needs, and the peak of its second call; None where that cannot be read."""
    torch.set_num_threads(1)
    settings = BenchSettings(**options)
    case = cases.build_case(settings)
    found = {}
    with contextlib.nullcontext() if settings.backward else torch.inference_mode():
        for name, needed in case.needed_mb.items():
            case.calls[name]()
            found[name] = needed, extra_mb(case.calls[name])
    return found


def peak_of_ones(n):
    """MB that a float32 tensor of n ones takes for a moment."""
    return extra_mb(lambda: torch.ones(n).sum())
