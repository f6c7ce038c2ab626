"""Tile products in GFLOP/s: our own, oneDNN's as torch exports it, torch's mm, numpy's BLAS, and the processor's peak.

Ours and oneDNN's multiply one tile a thread, as the operators do; torch and numpy get the tiles of all threads as one
product. The peak is that of multiply-adds alone, measured by a program that is compiled here (CXX, or c++).
"""

import json
import math
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from _interleaved import arguments, finish, machine, timed

from itm_fast import build_info
from itm_fast.cli.console import print_table

SHAPES = ((36, 64, 128), (36, 256, 1024), (72, 64, 1024), (144, 256, 128), (144, 512, 256), (144, 256, 1024))
DTYPES = (torch.float32, torch.float64, torch.bfloat16)
MULTIPLY_ADDS = 600_000_000  # in a timed call: what is packed and allocated before is not to be seen
PEAK = Path(__file__).parent / "fma_peak.cpp"


def peaks(n_threads):
    """GFLOP/s by dtype that multiply-adds alone reach."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "fma_peak"
        compiler = shlex.split(os.environ.get("CXX", "c++"))
        options = ["-O3", "-march=native", "-std=c++20", "-Wno-psabi", "-pthread"]
        subprocess.run([*compiler, *options, PEAK, "-o", program], check=True)
        lines = subprocess.run([program, str(n_threads)], check=True, capture_output=True, text=True).stdout.split("\n")
    return {getattr(torch, name): float(figure) for name, _, figure in (line.partition(" ") for line in lines if line)}


def multiplied_by(kind, rows, columns, repeats):
    def call():
        os.environ["ITM_FAST_GEMM"] = kind
        torch.ops.itm_fast.tile_product(rows, columns, repeats)
        del os.environ["ITM_FAST_GEMM"]

    return call


def repeated(call, repeats):
    def calls():
        for _ in range(repeats):
            call()

    return calls


def available(dtype):
    """Which of ours and oneDNN's multiply this dtype here."""
    kinds = {}
    for kind in ("own", "brgemm"):
        os.environ["ITM_FAST_GEMM"] = kind
        try:
            info = build_info()
        except RuntimeError:
            continue  # no brgemm in this torch, or none for this processor
        finally:
            del os.environ["ITM_FAST_GEMM"]
        name = info["gemm_bfloat16"] if dtype == torch.bfloat16 else kind
        if dtype != torch.float64 or kind == "own":
            kinds[kind] = f"{kind}, {name}" if name == "widened to float32" else kind
    return kinds


def tile(dtype, shape, n_threads, rounds, multiply_adds):
    """GFLOP/s of every kind for one shape."""
    m, n, k = shape
    rows, columns = torch.randn(m, k, dtype=torch.float64).to(dtype), torch.randn(n, k, dtype=torch.float64).to(dtype)
    tall = torch.cat([rows] * n_threads)
    repeats = math.ceil(multiply_adds / (m * n * k))
    calls = {name: multiplied_by(kind, rows, columns, repeats) for kind, name in available(dtype).items()}
    out = torch.empty(len(tall), n, dtype=dtype)
    calls["torch mm"] = repeated(lambda: torch.mm(tall, columns.T, out=out), repeats)
    flops = 2.0 * m * n * k * repeats * n_threads
    ms = timed(calls, rounds)
    if dtype != torch.bfloat16:  # by itself: its threads go on waiting at full speed where the next call would run
        left, right, product = tall.numpy(), columns.numpy().T, out.numpy()
        ms |= timed({"numpy": repeated(lambda: left.dot(right, out=product), repeats)}, rounds)
    return {name: flops / (one * 1e6) for name, one in ms.items()}


def with_threads(args):
    """The tables of one number of threads."""
    cases, peak = [], peaks(args.threads)
    for dtype in DTYPES:
        rates = {shape: tile(dtype, shape, args.threads, args.rounds, MULTIPLY_ADDS * args.scale) for shape in SHAPES}
        names = list(dict.fromkeys(name for found in rates.values() for name in found))
        title = f"{str(dtype).removeprefix('torch.')}, threads: {args.threads}"
        rows = [
            [" x ".join(map(str, shape)), *(f"{found[name]:.1f}" for name in names)] for shape, found in rates.items()
        ]
        most = f"multiply-adds alone {peak[dtype]:.1f}" if dtype in peak else "no multiply-adds of its own"
        print_table(["rows x columns x K", *names], rows, f"{title}, GFLOP/s; {most}")
        shown = {" x ".join(map(str, shape)): found for shape, found in rates.items()}
        cases.append({"title": title, "gflops": shown, "peak": peak.get(dtype), "milliseconds": {}})
    print(f"{machine()}; medians; numpy apart from the others, which took turns\n", flush=True)
    return cases


def main(argv=None):
    args = arguments(
        argv, __doc__, lambda parser: parser.add_argument("--only", action="store_true", help="no 1 thread")
    )
    if args.only:
        return finish(args, with_threads(args))
    cases = []
    for n_threads in sorted({1, args.threads}):  # each in a process of its own: numpy's threads are chosen at its start
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "cases.json"
            given = [
                "--only",
                "--threads",
                str(n_threads),
                "--rounds",
                str(args.rounds),
                "--scale",
                str(args.scale),
                "--json",
                str(output),
            ]
            threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(n_threads))
            subprocess.run([sys.executable, __file__, *given], env={**os.environ, **threads}, check=True)
            cases += json.loads(output.read_text(encoding="utf-8"))["cases"]
    return finish(args, cases)


if __name__ == "__main__":
    sys.exit(main())
