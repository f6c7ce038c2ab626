"""What a bench needs and takes, in a process of its own: others' memory, freed before, would be taken again."""

import contextlib
import ctypes
import multiprocessing

import torch

from itm_fast.benchmark import BenchSettings, cases
from itm_fast.benchmark.memory import extra_mb


def apart(measured, *args):
    """What a function of this file returns in such a process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["itm_fast.benchmark"])  # before Python 3.13, it finds what is installed only
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


def peaks_above_files(folder):
    """MB that are no file's while 64 MB are searched, scored by late interaction and read from one group of parquet."""
    import numpy as np
    from search import above_the_map

    from itm_fast.data.readers import parquet_rows
    from itm_fast.similarities import RaggedScorer, RaggedVectors, ragged
    from itm_fast.sources.search import best_rows, search_vectors

    torch.set_num_threads(1)
    _return_what_is_freed()
    ragged._BLOCK_BYTES = parquet_rows._KEPT = 2 << 20
    vectors = np.load(folder / "vectors.npy", mmap_mode="r")
    halves = np.load(folder / "halves.npy", mmap_mode="r")
    queries = torch.ones(3, vectors.shape[1])
    pages = RaggedVectors(halves, np.arange(0, len(halves) + 1, 64))
    asked = RaggedVectors(queries, np.array([0, 1, 3]))

    def of_parquet():
        images = parquet_rows.ParquetImages(folder / "images.parquet", "image")
        return [len(images.read(row)) for row in range(images_in(folder))]

    calls = {
        "search": lambda: search_vectors(vectors, queries, 5),
        "late interaction": lambda: best_rows(RaggedScorer(pages, asked), 5),
        "parquet": of_parquet,
    }
    found = {}
    for name, call in calls.items():
        call()
        found[name] = above_the_map(call)
    return found


def _return_what_is_freed():
    """Blocks go back to the system at once: glibc keeps up to 64 MB a heap, and a second heap where threads meet."""
    m_mmap_threshold = -3
    getattr(ctypes.CDLL(None), "mallopt", lambda *_: None)(m_mmap_threshold, 1 << 16)


def images_in(folder):
    """Rows of a .parquet file."""
    import pyarrow.parquet as pq

    return pq.ParquetFile(folder / "images.parquet").metadata.num_rows
