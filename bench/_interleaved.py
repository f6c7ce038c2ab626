"""Calls timed in turn in one process, so that a disturbance of the machine meets all of them; and a table of ratios."""

import argparse
import json
import multiprocessing
import os
import resource
import statistics
from pathlib import Path

import torch

import itm_fast
from itm_fast.benchmark.memory import extra_mb
from itm_fast.benchmark.timing import time_interleaved
from itm_fast.cli.console import print_table
from itm_fast.ops._devices import processor_name


def arguments(argv, description, add=lambda parser: None):
    """The flags every bench has, and those that `add` adds to the parser; sets the number of threads."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="timed calls of each function")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of torch")
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the number of images and captions")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument("--label", default="", help="name of this run in the file")
    parser.add_argument("--compare", type=Path, help="a file of --json: print how much faster this run is")
    add(parser)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    return args


def timed(calls, rounds, once=()):
    """Median milliseconds by name; those named in `once` are slow and run in the first two rounds only."""
    seconds = time_interleaved(calls, rounds, twice=once)
    return {name: 1e3 * statistics.median(values) for name, values in seconds.items()}


def machine():
    """What ran, in a line."""
    info = itm_fast.build_info()
    return (
        f"{processor_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {info['cpu_isa']}, "
        f"{info['gemm_float32']}"
    )


def peak_mb():
    """Peak resident memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def apart(function, *args):
    """What `function(*args)` returns in a process of its own, whose malloc gives back what is freed."""
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(1 << 18)
    try:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["torch", "itm_fast.models", "itm_fast.ops._library"])  # imported once for all
        with context.Pool(1, maxtasksperchild=1) as processes:
            return processes.apply(_on_threads, (torch.get_num_threads(), function, args))
    finally:
        del os.environ["MALLOC_MMAP_THRESHOLD_"]


def _on_threads(n_threads, function, args):
    torch.set_num_threads(n_threads)
    return function(*args)


def extra_mb_apart(names, make_calls, *args):
    """Peak resident memory by name during the second call of each of `make_calls(*args)`; None off Linux.

    Each runs in a process of its own: the peak is what a call has in use.
    """
    return {name: apart(_second_call, make_calls, args, name) for name in list(names)}


def _second_call(make_calls, args, name):
    call = make_calls(*args)[name]
    call()
    return extra_mb(call)


def report(args, title, shape, results, bars=()):
    """Prints a table of milliseconds and ratios to the fused call, and how the bars (text, value, limit) stand.

    A bar with a limit below 0 asks for at least -limit, otherwise for at most the limit.
    """
    fused = next(iter(results.values()))
    rows = [[name, f"{ms:.{1 if ms >= 10 else 3}f}", f"{ms / fused:.2f}x"] for name, ms in results.items()]
    print_table(["", "ms", "to fused"], rows, f"{title}: {shape}")
    print(f"{machine()}, peak RSS {peak_mb():.0f} MB; medians, interleaved")
    for text, value, limit in bars:
        met = value >= -limit if limit < 0 else value <= limit
        asked = f"{'at least' if limit < 0 else 'at most'} {abs(limit)}"
        print(f"  {text}: {value:.2f} (bar: {asked}) {'met' if met else 'MISSED'}")
    print()
    return {"title": title, "shape": shape, "milliseconds": results, "bars": [list(bar) for bar in bars]}


def finish(args, cases):
    """Writes the file and prints the comparison that were asked for."""
    record = {"label": args.label, "machine": machine(), "peak_rss_mb": peak_mb(), "cases": cases}
    old = None if args.compare is None else json.loads(args.compare.read_text(encoding="utf-8"))
    if args.json is not None:  # after the old file was read: it may be the same one
        args.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    if old is not None:
        before = {case["title"]: case["milliseconds"] for case in old["cases"]}
        rows = [
            [f"{case['title']}: {name}", f"{before[case['title']][name] / ms:.2f}x"]
            for case in cases
            for name, ms in case["milliseconds"].items()
            if name in before.get(case["title"], {})
        ]
        print_table(["faster than " + (old["label"] or str(args.compare)), "by"], rows)
    return 0
