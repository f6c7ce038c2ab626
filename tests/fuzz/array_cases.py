"""Arrays, precomputed features, concepts; and images."""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuzz.case import Case, Files, image, js, npy, npz, of_file, pt
from fuzz.text_cases import LINES
from safetensors.torch import save

from itm_fast.data import PrecompDataset
from itm_fast.data.readers.concept_files import read_arrays as read_pickled
from itm_fast.data.readers.concept_files import read_concepts
from itm_fast.data.readers.image_file import read_image
from itm_fast.data.readers.relevance_matrix import read_relevance
from itm_fast.report.html import PageOptions, _boxes
from itm_fast.sources.array_files import open_array

ROWS = np.arange(6.0).reshape(2, 3)
_SIMS = lambda **options: lambda path: np.asarray(open_array(path, 2, **options)).tolist()  # noqa: E731
_REGIONS = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def _precomp(**others: bytes) -> Files:
    return {"test_ims.npy": npy(_REGIONS), "test_caps.txt": LINES, **others}


def _whole_split(folder: Path) -> Any:
    data = PrecompDataset(folder, "test")
    data.look()
    return data.caption_to_image.tolist(), data.counted_regions(range(data.n_images))


_PRECOMP_RIGHT = lambda r: r[0] == [0, 0, 1, 1] and r[1][0].shape == (2, 3, 4)  # noqa: E731
_BOXES = lambda path: _boxes(PageOptions(images_folder="x", boxes=path), 2)  # noqa: E731


def _npts() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array({"npts": 2, "sims": ROWS}, dtype=object), allow_pickle=True)
    return file.getvalue()


ARRAYS = {
    "array of .npy": of_file("a.npy", npy(ROWS), _SIMS(), ROWS.tolist()),
    "array of a pickled .npy": of_file("a.npy", _npts(), _SIMS(pickled=True), ROWS.tolist()),
    "array of .npz": of_file("a.npz", npz(sims=ROWS, n=np.arange(2)), _SIMS(), ROWS.tolist()),
    "array of .json": of_file("a.json", js(ROWS.tolist()), _SIMS(), ROWS.tolist()),
    "array of a dict": of_file("a.json", js({"sims": ROWS.tolist(), "n": [2]}), _SIMS(), ROWS.tolist()),
    "array of .txt": of_file("a.txt", b"0 1 2\n3,4,5\n", _SIMS(), ROWS.tolist()),
    "array of .pt": of_file("a.pt", pt({"sims": torch.from_numpy(ROWS), "n": 2}), _SIMS(), ROWS.tolist()),
    "array of an old .pth": of_file(
        "a.pth", pt(torch.from_numpy(ROWS), _use_new_zipfile_serialization=False), _SIMS(), ROWS.tolist()
    ),
    "array of .safetensors": of_file("a.safetensors", save({"sims": torch.from_numpy(ROWS)}), _SIMS(), ROWS.tolist()),
    "relevance of .npy": of_file("a.npy", npy(ROWS), lambda path: read_relevance(path, 2, 3), lambda r: r[1, 2] == 5),
    "precomputed features": Case(_precomp, _whole_split, _PRECOMP_RIGHT),
    "precomputed features with counts": Case(
        lambda: _precomp(**{"test_counts.npy": npy([3, 2]), "test_ids.txt": b"7\n9\n"}), _whole_split, _PRECOMP_RIGHT
    ),
    "precomputed features with owners": Case(
        lambda: _precomp(**{"test_owners.txt": b"0\n0\n1\n1\n"}), _whole_split, _PRECOMP_RIGHT
    ),
    "precomputed vectors": Case(
        lambda: {"test_ims.npy": npy(ROWS), "test_caps.txt": LINES},
        _whole_split,
        lambda r: r[1][0].shape == (2, 1, 3),
    ),
    "boxes": of_file("a.npy", npy(_REGIONS[:, :, :4]), _BOXES, lambda r: r.shape == (2, 3, 4)),
    "concepts": Case(
        lambda: {
            "category_concepts.json": js({"man": 0, "dog": 1}),
            "f30k_adj_concepts.pkl": pickle.dumps({"nums": np.array([1, 2]), "adj_all": np.array([[0, 1], [1, 0]])}, 3),
            "f30k_concepts_glove_word2vec.pkl": pickle.dumps(ROWS, 3),
        },
        read_concepts,
        lambda r: r.words == ("man", "dog") and r.vectors.shape == (2, 3),
    ),
    "pickled arrays": of_file("a.pkl", pickle.dumps(ROWS, 3), read_pickled, lambda r: r.tolist() == ROWS.tolist()),
}

_KINDS = [("RGB", "PNG", {}), ("I;16", "PNG", {}), ("LA", "PNG", {}), ("P", "PNG", {}), ("P", "GIF", {})]
_KINDS += [("CMYK", "TIFF", {}), ("F", "TIFF", {}), ("I;16", "TIFF", {"compression": "tiff_deflate"})]
_KINDS += [("RGB", "JPEG", {}), ("CMYK", "JPEG", {}), ("RGB", "WEBP", {}), ("RGB", "BMP", {}), ("1", "BMP", {})]
IMAGES = {
    f"image {mode} {kind}": of_file(
        f"p.{kind.lower()}", image(mode, kind, **options), read_image, lambda r: r.shape == (3, 12, 12)
    )
    for mode, kind, options in _KINDS
}
