"""Which captions of a test set CVSE completes the labels of a caption from."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

_N_CAPTIONS = 10  # nearest by their embeddings
_N_OF_IMAGE = 3  # around the caption in the ranking of the image that it ranks first
# Of both, where they have fewer than three in common: the first ones of the captions, and of the image's.
FIRST = {"f30k": (3, 4), "coco": (2, 1)}
_BLOCK_BYTES = 256 << 20  # of similarities at a time


def neighbours(images: Tensor, captions: Tensor, data_name: str) -> list[list[int]]:
    """The captions near each caption, itself not counted.

    Ten are nearest to it by their embeddings; three lie around it among the captions of the image that comes first for
    it, sorted by their similarity to that image. What both have in common counts if it is three captions at least;
    otherwise the first few of each. Captions that are equal are sorted as in the original, by unstable sorts.

    Args:
        images: (n, dim) embeddings.
        captions: (m, dim) embeddings, of unit length.
        data_name: "f30k" or "coco": how many of each count.

    Returns:
        m lists of indices of captions.

    Source:
        BruceW91/CVSE, evaluation.py, label_complete, and util/utils.py.
    """
    n_first, n_of_image_first = FIRST[data_name]
    near_captions, near_image = _nearest(captions), _around(images.double(), captions.double())
    found = []
    for near, around in zip(near_captions.tolist(), near_image.tolist(), strict=True):
        common = [caption for caption in near if caption in around]
        found.append(common if len(common) >= _N_OF_IMAGE else near[:n_first] + around[:n_of_image_first])
    return found


def _blocks(n_rows: int, n_columns: int) -> Iterator[slice]:
    step = max(1, _BLOCK_BYTES // (8 * max(1, n_columns)))
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))


def _nearest(captions: Tensor) -> Tensor:
    """(m, 10) captions of the largest similarity; that of a caption with itself counts as 0."""
    parts = []
    for rows in _blocks(len(captions), len(captions)):
        sims = captions[rows] @ captions.T
        sims[torch.arange(len(sims)), torch.arange(rows.start, rows.stop)] = 0
        parts.append(sims.sort(dim=1, descending=True).indices[:, :_N_CAPTIONS])
    return torch.cat(parts)


def _around(images: Tensor, captions: Tensor) -> Tensor:
    """(m, 3) captions around each in the ranking of its first image: the first or last three at its ends."""
    best = torch.cat([(captions[rows] @ images.T).argmax(dim=1) for rows in _blocks(len(captions), len(images))])
    n = len(captions)
    width = min(_N_OF_IMAGE, n)
    found = torch.empty(n, width, dtype=torch.int64)
    asked = torch.tensor(sorted(set(best.tolist())), dtype=torch.int64)
    for rows in _blocks(len(asked), n):
        for image, sims in zip(asked[rows], images[asked[rows]] @ captions.T, strict=True):
            order = torch.from_numpy(np.argsort(-sims.numpy()))  # the original's call
            place = torch.empty_like(order)
            place[order] = torch.arange(n)
            asking = (best == image).nonzero()[:, 0]
            at = place[asking]
            start = torch.where(at < n - _N_OF_IMAGE, torch.where(at > 1, at - 1, 0), n - width)
            found[asking] = order[start[:, None] + torch.arange(width)]
    return found
