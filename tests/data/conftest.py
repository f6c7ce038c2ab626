import os
from pathlib import Path

import numpy as np
import pytest


def find_shared():
    """The folder of real captions: ITM_FAST_SHARED, or `shared` beside the checkout."""
    named = os.environ.get("ITM_FAST_SHARED")
    return Path(named) if named else Path(__file__).resolve().parents[2].parent / "shared"


@pytest.fixture(scope="session")
def real_captions():
    path = find_shared() / "data" / "flickr30k" / "test_caps.txt"
    if not path.is_file():
        pytest.skip("no real captions: set ITM_FAST_SHARED to a folder with data/flickr30k/test_caps.txt")
    return path


@pytest.fixture
def write_split(tmp_path):
    """Write one small split of SCAN's layout; returns (folder, features of the distinct images)."""

    def write(split="train", n_images=4, repeated=False, dtype=np.float32, ids=None, max_regions=3, dim=6):
        rng = np.random.default_rng(7)
        distinct = rng.standard_normal((n_images, max_regions, dim)).astype(dtype)
        np.save(tmp_path / f"{split}_ims.npy", np.repeat(distinct, 5, axis=0) if repeated else distinct)
        lines = [f"Caption {c} of image {c // 5} ." for c in range(5 * n_images)]
        (tmp_path / f"{split}_caps.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        if ids is not None:
            (tmp_path / f"{split}_ids.txt").write_text("\n".join(map(str, ids)) + "\n")
        return tmp_path, distinct

    return write
