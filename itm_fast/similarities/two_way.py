"""Similarities that differ between the two directions, as re-ranking leaves them."""

from __future__ import annotations

from typing import NoReturn

from itm_fast.choices import Query
from itm_fast.similarities.scorers import Sims, TileScorer, as_scorer


class TwoWayScorer:
    """One source of similarities for image queries and another for caption queries, both images x captions.

    Every metric that takes a tile scorer takes it and reads the one that its direction asks for; each is read by a pass
    of its own. -inf stands for pairs that were no candidates: they come last and are all alike.

    Attributes:
        n_images: rows of both.
        n_captions: columns of both.
        images_to_captions: scores of the pairs where images are the queries (i2t).
        captions_to_images: scores of the pairs where captions are (t2i).
    """

    def __init__(self, images_to_captions: Sims, captions_to_images: Sims) -> None:
        """Keep both without a copy.

        Args:
            images_to_captions: (n_images, n_captions) matrix, pair of embeddings or tile scorer (``as_scorer``).
            captions_to_images: likewise, also (n_images, n_captions): turn a (captions, images) matrix (``sims.T``).

        Raises:
            ValueError: they differ in size.
            TypeError: unsupported types, or one of them has two directions itself.

        Source: the two matrices of zengyan-97/X-VLM and salesforce/ALBEF (score_matrix_i2t, score_matrix_t2i.T).

        Example:
            >>> import torch
            >>> from itm_fast.metrics import recall_at_k
            >>> sims = TwoWayScorer(torch.eye(2), torch.eye(2).flip(0))
            >>> [float(recall_at_k(sims, (1,), query=q, captions_per_image=1)) for q in ("image", "caption")]
            [100.0, 0.0]
        """
        sides = []
        for name, side in (("images_to_captions", images_to_captions), ("captions_to_images", captions_to_images)):
            if isinstance(side, TwoWayScorer):
                raise TypeError(f"{name} is a TwoWayScorer, expected the similarities of one direction")
            sides.append(as_scorer(side))
        self.images_to_captions, self.captions_to_images = sides
        self.n_images, self.n_captions = sides[0].n_images, sides[0].n_captions
        sizes = [f"{side.n_images} x {side.n_captions}" for side in sides]
        if sizes[0] != sizes[1]:
            turned = (sides[1].n_captions, sides[1].n_images) == (self.n_images, self.n_captions)
            remedy = "captions_to_images looks transposed, pass it as .T" if turned else "both are images x captions"
            raise ValueError(f"images_to_captions is {sizes[0]}, but captions_to_images is {sizes[1]}; {remedy}")

    def __call__(self, rows: slice, columns: slice, /) -> NoReturn:
        """There is no tile of both directions: TypeError."""
        raise TypeError("sims is a TwoWayScorer, whose pairs have two scores; read one with of_query(sims, query)")


def of_query(scorer: TileScorer, query: Query) -> TileScorer:
    """The similarities that queries of one direction are ranked by.

    Args:
        scorer: a tile scorer; other than a ``TwoWayScorer``, itself.
        query: "image" or "caption".

    Example:
        >>> import torch
        >>> from itm_fast.similarities.scorers import as_scorer
        >>> both = TwoWayScorer(torch.zeros(1, 1), torch.ones(1, 1))
        >>> of_query(both, "caption")(slice(0, 1), slice(0, 1))
        tensor([[1.]])
    """
    if not isinstance(scorer, TwoWayScorer):
        return scorer
    return scorer.images_to_captions if query == "image" else scorer.captions_to_images
