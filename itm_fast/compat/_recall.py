"""What the originals' evaluation functions return, from ranks."""

from typing import Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor

from itm_fast.metrics.positives import make_positives
from itm_fast.metrics.ranks import one_way
from itm_fast.similarities.scorers import TileScorer

Recalls = tuple[float, float, float, float, float]
Retrieved = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


def recall_of(
    scorer: TileScorer,
    query: Literal["image", "caption"],
    captions_per_image: int,
    n_queries: int | None,
    return_ranks: bool,
) -> Recalls | tuple[Recalls, Retrieved]:
    """(R@1, R@5, R@10, median rank, mean rank), ranks from 1; and (ranks from 0, first items) where asked for.

    Args:
        scorer: Similarities of images (rows) and captions by tile.
        query: Who asks.
        captions_per_image: Captions c of image c // captions_per_image.
        n_queries: Queries that count, the first ones; None: all.
        return_ranks: Return ranks and first items too.

    Raises:
        ValueError: There are not as many queries.
    """
    n_all = scorer.n_images if query == "image" else scorer.n_captions
    if n_queries is not None and n_queries not in range(1, n_all + 1):
        of = "images" if query == "image" else f"captions of npts images, {captions_per_image} of each"
        raise ValueError(f"npts asks for {n_queries} queries ({of}), expected 1 ... {n_all}: there are no more")
    positives = make_positives(scorer.n_images, scorer.n_captions, captions_per_image=captions_per_image)
    found, top = one_way(scorer, positives, query, k=1 if return_ranks else 0)
    best = found.best[:n_queries].double()
    recalls = recalls_of(best)
    if not return_ranks:
        return recalls
    return recalls, (best.numpy(), top.indices[:n_queries, 0].double().numpy())


def recalls_of(ranks: Tensor) -> Recalls:
    """Ranks from 0, float64 -> (R@1, R@5, R@10, median rank, mean rank), ranks from 1."""
    r1, r5, r10 = (100.0 * float((ranks < k).double().mean()) for k in (1, 5, 10))
    return r1, r5, r10, float(np.floor(np.median(ranks.numpy())) + 1), float(ranks.mean() + 1)
