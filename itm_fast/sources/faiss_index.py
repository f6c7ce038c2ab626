"""Embeddings as indices of faiss: built shard by shard, searched shard by shard, and how many neighbours they find."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from itm_fast.errors import DataError
from itm_fast.files.reading import read_json
from itm_fast.files.writing import written_aside
from itm_fast.metrics.list_ranks import in_order
from itm_fast.metrics.retrieved import TopK
from itm_fast.ops.ranking import NO_ITEM
from itm_fast.similarities.scorers import Vectors, as_float_tensor
from itm_fast.similarities.tiles import Progress

IndexKind: TypeAlias = Literal["flat", "ivf", "hnsw"]

CARD = "index.json"
_FORMAT = "itm-fast faiss index 1"
_BLOCK = 1 << 14  # vectors added at a time
_TRAINED_ON = 64  # vectors a list of IVF
_NEIGHBOURS, _EF_CONSTRUCTION = 32, 80  # of HNSW
_LEAST_A_LIST = 39  # below it faiss warns that lists are trained on too little


def build_index(
    vectors: Vectors,
    folder: str | Path,
    kind: IndexKind,
    *,
    shard_size: int = 1_000_000,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write indices of vectors by inner product, one file a shard, and index.json.

    Only the vectors of one shard are in memory.

    Args:
        vectors: (n, dim), also memory-mapped.
        folder: to write to; made if it is not there, files of those names are replaced.
        kind: "flat": exact. "ivf": lists around 4 √n centroids, of which a sixteenth is looked at. "hnsw": a graph of
            32 neighbours.
        shard_size: vectors of a shard.
        seed: of the sample that the lists are trained on.
        progress: called with (vectors done, vectors in all).

    Returns:
        The content of index.json.

    Raises:
        ValueError: no vectors, a shard size below 1, an unknown kind.
        ImportError: faiss is not installed.

    Source: facebookresearch/faiss.
    """
    faiss, folder, n = _faiss(), Path(folder), len(vectors)
    if kind not in ("flat", "ivf", "hnsw"):
        raise ValueError(f'kind is {kind!r}, expected "flat", "ivf" or "hnsw"')
    if shard_size < 1 or not n:
        raise ValueError(f"shard_size is {shard_size} of {n} vectors, expected at least 1 of at least 1")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CARD).unlink(missing_ok=True)  # the card comes last, so that half an index is none
    shards = []
    for number, first in enumerate(range(0, n, shard_size)):
        stop = min(first + shard_size, n)
        index = _empty(faiss, kind, vectors, range(first, stop), np.random.default_rng(seed + number))
        for start in range(first, stop, _BLOCK):
            index.add(_block(vectors, slice(start, min(start + _BLOCK, stop))))
            if progress is not None:
                progress(min(start + _BLOCK, stop), n)
        name = f"{kind}.{number:04}.faiss"
        with written_aside(folder / name) as aside:
            faiss.write_index(index, str(aside))
        shards.append({"file": name, "first": first, "n": stop - first})
    card = {"format": _FORMAT, "kind": kind, "metric": "inner product", "n": n, "dim": int(vectors.shape[1])}
    card |= {"shards": shards}
    with written_aside(folder / CARD) as aside:
        aside.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    return card


def search_index(folder: str | Path, queries: Tensor, k: int) -> TopK:
    """The k best of an index for each query; a shard at a time is read.

    Args:
        folder: written by ``build_index``.
        queries: (n_queries, dim).
        k: items; fewer where there are fewer.

    Returns:
        (n_queries, k) scores and items, higher score first, then lower index; NO_ITEM where too few were found.

    Raises:
        FileNotFoundError, DataError: there is no such index, or a file of it is damaged.
        ValueError: vectors of another width, k below 1.
        ImportError: faiss is not installed.
    """
    faiss, folder = _faiss(), Path(folder)
    card = _card(folder)
    if k < 1 or queries.ndim != 2 or queries.shape[1] != card["dim"]:
        raise ValueError(
            f"k is {k} and queries have shape {tuple(queries.shape)}; expected at least 1 and (n, {card['dim']})"
        )
    k = min(k, int(card["n"]))
    asked = np.ascontiguousarray(as_float_tensor(queries).float().cpu().numpy())
    values = torch.full((len(asked), k), -torch.inf)
    items = torch.full((len(asked), k), NO_ITEM)
    for shard in card["shards"]:
        index = _read(faiss, folder / str(shard["file"]), shard, card)
        _set_effort(faiss, index, k)
        scores, found = (torch.from_numpy(part) for part in index.search(asked, min(k, int(shard["n"]))))
        numbers = torch.where(found < 0, NO_ITEM, found + int(shard["first"]))
        scores = scores.masked_fill(found < 0, -torch.inf)
        both = in_order(torch.cat([items, numbers], 1), torch.cat([values, scores], 1))
        values, items = both.values[:, :k], both.indices[:, :k]
    return TopK(values, items)


def found_share(exact: TopK, found: TopK) -> float:
    """Percent of the exact lists that others hold: recall of an index against exact search.

    Example:
        >>> of = [TopK(torch.zeros(1, 2), torch.tensor([items])) for items in ([3, 1], [1, 7])]
        >>> found_share(*of)
        50.0
    """
    same = (exact.indices[:, :, None] == found.indices[:, None, :]).any(2)
    return 100.0 * float(same.double().mean())


def _empty(faiss: Any, kind: IndexKind, vectors: Vectors, shard: range, generator: np.random.Generator) -> Any:
    """An index without vectors, with lists where it has such."""
    dim = int(vectors.shape[1])
    if kind == "flat":
        return faiss.IndexFlatIP(dim)
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(dim, _NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = _EF_CONSTRUCTION
        return index
    n_lists = max(1, min(round(4 * math.sqrt(len(shard))), len(shard) // _LEAST_A_LIST))
    sample = np.sort(generator.choice(len(shard), min(len(shard), _TRAINED_ON * n_lists), replace=False)) + shard.start
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, n_lists, faiss.METRIC_INNER_PRODUCT)
    index.train(_block(vectors, sample))
    return index


def _set_effort(faiss: Any, index: Any, k: int) -> None:
    """How much of an index is looked at."""
    if isinstance(index, faiss.IndexIVF):
        index.nprobe = max(1, index.nlist // 16)
    elif isinstance(index, faiss.IndexHNSW):
        index.hnsw.efSearch = max(64, 2 * k)


def _block(vectors: Vectors, some: Any) -> Any:
    return np.ascontiguousarray(as_float_tensor(vectors[some]).float().cpu().numpy())


def _read(faiss: Any, path: Path, shard: dict[str, Any], card: dict[str, Any]) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file, which {CARD} names; build the index again")
    try:
        index = faiss.read_index(str(path))
    except RuntimeError as error:
        raise DataError(f"{path}: not an index of faiss, or cut short; build the index again") from error
    if (index.ntotal, index.d) != (shard["n"], card["dim"]):
        raise DataError(
            f"{path}: {index.ntotal} vectors {index.d} wide, but {CARD} has {shard['n']} of {card['dim']}; build the "
            "index again"
        )
    return index


def _card(folder: Path) -> dict[str, Any]:
    path = folder / CARD
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; itm-fast index writes one")
    card = read_json(path)
    if not isinstance(card, dict) or card.get("format") != _FORMAT or not all(_is_shard(one) for one in _shards(card)):
        raise DataError(f"{path}: not written by itm-fast index; build the index again")
    return card


def _shards(card: dict[str, Any]) -> Iterator[Any]:
    shards = card.get("shards")
    sizes = (card.get("n"), card.get("dim"))
    if not isinstance(shards, list) or not shards or not all(isinstance(one, int) for one in sizes):
        yield None
        return
    yield from shards


def _is_shard(shard: Any) -> bool:
    return (
        isinstance(shard, dict)
        and isinstance(shard.get("file"), str)
        and Path(shard["file"]).name == shard["file"]
        and all(isinstance(shard.get(name), int) for name in ("first", "n"))
    )


def _faiss() -> Any:
    try:
        return importlib.import_module("faiss")
    except ImportError as error:
        raise ImportError("itm-fast index needs faiss, an optional library: pip install 'itm-fast[index]'") from error
