"""``itm-fast index``: embeddings as indices of faiss, and how many of the exact neighbours they find."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from itm_fast.cli.console import print_json, progress_bar


@dataclass(frozen=True, kw_only=True)
class Index:
    """Write the embeddings of a folder of itm-fast embed as indices of faiss, and measure them.

    Recall against exact is the share of the exact nearest --k items that the index finds, of queries of the other kind:
    captions for images, images for captions.
    """

    embeddings: Path
    """Folder of itm-fast embed."""

    output: Path
    """Folder to write to: one .faiss file a shard, index.json."""

    faiss: Literal["flat", "ivf", "hnsw"] = "hnsw"
    """Index: exact; lists around centroids; or a graph of neighbours. All keep float32 vectors and compare by inner
    product."""

    of: Literal["images", "captions"] = "images"
    """What is indexed."""

    shard_size: int = 1_000_000
    """Vectors of a file; one file at a time is in memory."""

    k: int = 10
    """Of the recall that is printed."""

    queries: int = 1000
    """Queries of the recall that is printed, taken evenly; 0 measures nothing."""

    json: bool = False
    """Print the figures as JSON."""


def run(args: Index) -> int:
    """Build, measure, print, and return the exit code."""
    import numpy as np

    from itm_fast.evaluation import read_embeddings
    from itm_fast.similarities.scorers import as_float_tensor
    from itm_fast.sources.faiss_index import build_index, found_share, search_index
    from itm_fast.sources.search import search_vectors

    if args.k < 1 or args.queries < 0:
        raise ValueError(f"--k is {args.k} and --queries {args.queries}; expected at least 1 and at least 0")
    embedded = read_embeddings(args.embeddings)
    vectors, others = embedded.arrays("an index of faiss")
    if args.of == "captions":
        vectors, others = others, vectors
    started = time.perf_counter()
    with progress_bar("index") as progress:
        card = build_index(vectors, args.output, args.faiss, shard_size=args.shard_size, progress=progress)
    seconds = time.perf_counter() - started
    figures = {"output": str(args.output), "kind": args.faiss, "n": card["n"], "n_shards": len(card["shards"])}
    figures |= {"bytes": sum((args.output / shard["file"]).stat().st_size for shard in card["shards"])}
    n_queries = min(args.queries, len(others))
    if n_queries:
        chosen = np.linspace(0, len(others) - 1, n_queries).round().astype(np.int64)
        asked = as_float_tensor(others[np.unique(chosen)])
        exact = search_vectors(vectors, asked, args.k)
        begun = time.perf_counter()
        found = search_index(args.output, asked, args.k)
        took = 1000 * (time.perf_counter() - begun) / len(asked)
        figures |= {"k": args.k, "recall": found_share(exact, found), "n_queries": len(asked), "ms_per_query": took}
    if args.json:
        print_json(figures | {"seconds": seconds})
        return 0
    megabytes = figures["bytes"] / 1e6
    print(
        f"{args.output}: {args.faiss}, {card['n']} {args.of} in {len(card['shards'])} files, {megabytes:.1f} MB, "
        f"{seconds:.1f} s"
    )
    if n_queries:
        print(
            f"recall@{args.k} against exact: {figures['recall']:.1f} % of {figures['n_queries']} queries, "
            f"{figures['ms_per_query']:.2f} ms each with reading"
        )
    return 0
