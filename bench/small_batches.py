"""SCAN's similarity of small batches, forward + backward, on one and on more threads, quiet and beside busy processes.

Small work stays on one thread (csrc/cpu/parallel.h); ITM_FAST_GRAIN=1 in the environment shares out everything instead.
"""

import contextlib
import subprocess
import sys

import torch
from _cases import FLAGS, scan_batch
from _interleaved import arguments, finish, machine, timed

from itm_fast import cross_attention_similarity
from itm_fast.cli.console import print_table

SIZES = (4, 8, 16, 32, 64, 128)
CALLS = 5  # of the smallest batches in each timed turn: a turn is then longer than a slice of the scheduler


@contextlib.contextmanager
def busy(n_processes):
    """Processes that count for as long as it lasts."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n_processes)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def step(regions, words, word_counts, n_threads, calls):
    def call():
        torch.set_num_threads(n_threads)
        for _ in range(calls):
            inputs = regions.detach().requires_grad_(), words.detach().requires_grad_()
            cross_attention_similarity(*inputs, word_counts, **FLAGS["t2i"]).sum().backward()

    return call


def main(argv=None):
    args = arguments(
        argv, __doc__, lambda parser: parser.add_argument("--busy", type=int, default=1, help="busy processes beside")
    )
    cases, rows = [], []
    for n in sorted({max(2, int(size * args.scale)) for size in SIZES}):
        batch = scan_batch(n, n)
        calls = CALLS if n <= 16 else 1
        shape = f"{n} x {n}, 36 regions, D = 1024, {int(batch[2].sum())} words, float32"
        steps = {f"{threads} threads": step(*batch, threads, calls) for threads in dict.fromkeys((1, args.threads))}
        results = {}
        for beside in (0, args.busy):
            with busy(beside):
                found = timed(steps, args.rounds)
            results |= {f"{name}, {beside} busy": ms / calls for name, ms in found.items()}
        rows.append([f"{n} x {n}", *(f"{ms:.2f}" for ms in results.values())])
        cases.append({"title": f"{n} x {n}", "shape": shape, "milliseconds": results, "bars": []})
    print_table(["batch", *results], rows, "ms a training step of the similarity (t2i), medians")
    print(machine())
    return finish(args, cases)


if __name__ == "__main__":
    sys.exit(main())
