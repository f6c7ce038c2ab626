"""Exact top-10 of 100 queries over a million memory-mapped embeddings, beside the bare product of the same numbers."""

import re
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import torch
from _interleaved import arguments, finish, report, timed

from itm_fast.sources.search import search_vectors

ROWS = 1 << 16  # written at a time


def add_flags(parser):
    parser.add_argument("--dim", type=int, default=512, help="numbers an embedding")
    parser.add_argument("--queries", type=int, default=100, help="queries at a time")
    parser.add_argument("--folder", type=Path, help="where the embeddings lie meanwhile, 6 bytes a number")


def write(folder, args):
    """The same embeddings in both dtypes, on disk."""
    n = max(int(1_000_000 * args.scale), 10)
    paths = {dtype: Path(folder, f"{dtype}.npy") for dtype in ("float32", "float16")}
    maps = {
        dtype: np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(n, args.dim))
        for dtype, path in paths.items()
    }
    rng = np.random.default_rng(0)
    for start in range(0, n, ROWS):
        rows = rng.standard_normal((min(ROWS, n - start), args.dim), dtype=np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        for mapped in maps.values():
            mapped[start : start + ROWS] = rows
    return paths


def above_the_map(call):
    """Peak of memory that is no file's, in MB, above what was there before; None where the system does not say."""
    status, stop, peak = Path("/proc/self/status"), threading.Event(), [0.0]

    def now():
        found = re.search(r"RssAnon:\s+(\d+)", status.read_text(encoding="utf-8"))
        return None if found is None else int(found[1]) / 1024

    if not status.exists() or now() is None:
        return None
    before = now()

    def watch():
        while not stop.wait(0.002):
            peak[0] = max(peak[0], now() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        call()
    finally:
        stop.set()
        watcher.join()
    return max(peak[0], now() - before)


def main(argv=None):
    args = arguments(argv, __doc__, add_flags)
    queries = torch.randn(args.queries, args.dim, generator=torch.Generator().manual_seed(1))
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        paths = write(folder, args)
        galleries = {dtype: np.load(path, mmap_mode="r") for dtype, path in paths.items()}
        whole = torch.from_numpy(np.load(paths["float32"], mmap_mode="c"))  # "c": torch warns of what is read-only
        calls = {
            "search, float32 memory map": lambda: search_vectors(galleries["float32"], queries, 10),
            "search, float16 memory map": lambda: search_vectors(galleries["float16"], queries, 10),
            "bare product, float32": lambda: queries @ whole.T,
            "product, then torch.topk": lambda: (queries @ whole.T).topk(10),
        }
        found, expected = calls["search, float32 memory map"](), calls["product, then torch.topk"]()
        torch.testing.assert_close(found.values, expected.values, rtol=0, atol=1e-4)
        above = [above_the_map(call) for name, call in calls.items() if name.startswith("search")]
        ms = timed(calls, args.rounds)
        ours, halves, bare, _ = ms.values()
        bars = [("float32 / bare product", ours / bare, 1.05), ("float16 / bare product", halves / bare, 1.25)]
        if None not in above:
            bars.append(("memory above the map, MB", max(above), 1000.0))
        shape = f"{len(whole)} x {args.dim}, top-10 of {args.queries} queries"
        return finish(args, [report(args, "search", shape, ms, bars)])


if __name__ == "__main__":
    sys.exit(main())
