"""Embeddings and their extractions, caches of tokens, folders of encoders."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuzz.case import Case, Files, js, npy

from itm_fast.data.text.caption_states import CaptionStates
from itm_fast.sources.embedders.loading import _library_of
from itm_fast.sources.embedders.token_encoder import is_token_level
from itm_fast.sources.embedding_files import read_embeddings
from itm_fast.sources.extraction import _batches, _State
from itm_fast.sources.stored_rows import RaggedRows, StoredRows, VectorRows
from itm_fast.training.token_cache import TokenCache

_ROWS = np.arange(12, dtype=np.float16).reshape(4, 3)
_OFFSETS = np.array([0, 1, 4])
_ITEMS = {"image_ids": [1, 2], "caption_ids": [1, 2], "image_names": ["a", "b"], "image_paths": ["a", "b"]}
_NO_SIZES, _ONE_SIZE = (hashlib.sha256(bytes(8 * n)).hexdigest() for n in (0, 1))
_PROGRESS = {"rows": {"images": 1, "captions": 3}, "conditions": {"model": "m"}, "sizes": _ONE_SIZE}
_BEGUN = {"rows": {"images": 0, "captions": 1}, "conditions": {"model": "m"}, "sizes": _NO_SIZES}


def _embeddings() -> Files:
    items = {**_ITEMS, "caption_ids": [1, 2, 3]}
    return {
        "images.npy": npy(np.arange(6.0).reshape(2, 3), np.float32),
        "captions.npy": npy(np.ones((3, 3)), np.float32),
        "caption_to_image.npy": npy([0, 0, 1]),
        "items.json": js({**items, "captions": ["x", "y", "z"]}),
        "embeddings.json": js({"model": "clip", "notes": ["n"]}),
    }


def _ragged() -> Files:
    sides = ("images", "captions")
    return {
        **{f"{kind}.npy": npy(_ROWS) for kind in sides},
        **{f"{kind}_offsets.npy": npy(_OFFSETS) for kind in sides},
        "caption_to_image.npy": npy([0, 1]),
        "items.json": js({**_ITEMS, "captions": ["x", "y"]}),
        "embeddings.json": js({"model": "colpali", "per_token": True, "notes": []}),
    }


def _read_ragged(folder: Path) -> Any:
    found = read_embeddings(folder)
    return found.images[0:1].packed().vectors.shape if found.per_token else None


def _progress(folder: Path) -> Any:
    return _State(folder, {"model": "m"}, np.zeros(2, dtype=np.int64), False).rows


def _continued(kind: type[StoredRows]) -> Callable[[Path], Any]:
    """Captions of an extraction that was interrupted after the first of two."""

    def read(folder: Path) -> Any:
        state = _State(folder, {"model": "m"}, np.zeros(2, dtype=np.int64), False)
        rows = kind(state, "captions", 2, "float16")
        batches = _batches(np.arange(2), 1, state.rows["captions"])
        vectors = torch.from_numpy(_ROWS[1:]).float()
        encoded = ((batch, [vectors] if kind is RaggedRows else vectors[:1]) for batch in batches)
        rows.fill(encoded, ["x", "y"], None)
        return np.load(folder / "captions.npy").tolist()

    return read


def _cached(folder: Path) -> Any:
    """Tokens of two captions, of which those of the first are there."""
    cache = TokenCache(folder, torch.device("cpu"), "float32", True, lambda text: None)
    path, offsets_path = folder / "test_captions.npy", folder / "test_captions_offsets.npy"
    tokens = torch.from_numpy(_ROWS)
    cache._fill(
        path,
        "captions of test",
        {"captions": "c"},
        _OFFSETS,
        torch.nn.Identity(),
        lambda rows: torch.cat([tokens[_OFFSETS[row] : _OFFSETS[row + 1]] for row in rows]),
    )
    states = CaptionStates(np.ones(4, np.int32), _OFFSETS, 0, path=path, offsets_path=offsets_path)
    return states.states([0, 1]).sum().item()


def _cache(name: str, rows: int) -> Files:
    return {
        name: npy(_ROWS),
        "test_captions_offsets.npy": npy(_OFFSETS),
        "test_captions.json": js({"conditions": {"captions": "c", "precision": "float32"}, "rows": rows}),
    }


_ENCODER = {"model_type": "colpali", "architectures": ["ColPaliForRetrieval"]}


def _recognised(folder: Path) -> Any:
    return _library_of(folder), is_token_level(folder)


EMBEDDINGS = {
    "embeddings": Case(_embeddings, read_embeddings, lambda r: r.images.shape == (2, 3)),
    "embeddings a token": Case(_ragged, _read_ragged, (1, 3)),
    "progress of embeddings": Case(lambda: {"progress.json": js(_PROGRESS)}, _progress, {"images": 1, "captions": 3}),
    "interrupted extraction": Case(
        lambda: {"progress.json": js(_BEGUN), "captions.npy.part": npy(_ROWS[:2])},
        _continued(VectorRows),
        lambda r: r == _ROWS[:2].tolist(),
    ),
    "interrupted extraction a token": Case(
        lambda: {
            "progress.json": js(_BEGUN),
            "captions.npy.part": npy(_ROWS[:1]),
            "captions_offsets.npy.part": npy(_OFFSETS[:2]),
        },
        _continued(RaggedRows),
        lambda r: r == _ROWS.tolist(),
    ),
    "cache of tokens": Case(lambda: _cache("test_captions.npy", 2), _cached, float(_ROWS.sum())),
    "begun cache of tokens": Case(lambda: _cache("test_captions.part.npy", 1), _cached, float(_ROWS.sum())),
    "folder of an encoder": Case(lambda: {"config.json": js(_ENCODER)}, _recognised, ("transformers", True)),
}
