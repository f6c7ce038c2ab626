"""Where a cross-attention model looks: attention maps of some pairs, and which pairs are worth looking at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeGuard, runtime_checkable

import torch
from torch import Tensor

from itm_fast.runs.folder import Attention
from itm_fast.runs.query_results import QueryResults

# Shown with attention, of each direction: 12 failures with two pairs each and 6 successes, 60 pairs at most.
_N_FAILURES, _N_SUCCESSES = 12, 6


@runtime_checkable
class PairsOfModel(Protocol):
    """A model and its data set, which gives the regions and words of a pair; ``ModelScorer`` is one."""

    @property
    def model(self) -> Any:
        """The model; one with cross-attention has ``sim_enc.attention(regions, words)``."""
        ...

    def pair(self, image: int, caption: int, /) -> tuple[Tensor, Tensor, tuple[str, ...]]:
        """Encoded regions (n_regions, dim) and words (n_words, dim), and the tokens of these words."""
        ...


def has_attention(scorer: object) -> TypeGuard[PairsOfModel]:
    """Whether a model was evaluated that compares regions with words by attention: SCAN, SGR, SAF, CHAN."""
    return isinstance(scorer, PairsOfModel) and hasattr(getattr(scorer.model, "sim_enc", None), "attention")


@torch.no_grad()
def attention_maps(
    scorer: PairsOfModel, pairs: Sequence[tuple[int, int]], *, numbers: Sequence[tuple[int, int]] | None = None
) -> tuple[Attention, ...]:
    """The attention of a model in some pairs of its data set.

    Args:
        scorer: a model with cross-attention and its data set.
        pairs: (image, caption) each.
        numbers: what the results call them, if a protocol numbers them otherwise.

    Returns:
        One a pair: tokens as the model reads them, start and end included, and (n_words, n_regions) weights.

    Raises:
        ValueError: pairs of a model without cross-attention.
        IndexError: an image or caption that is not there.
    """
    if not pairs:
        return ()
    if not has_attention(scorer):
        raise ValueError(
            f"{type(scorer.model).__name__} has no attention between regions and words; models that have: SCAN, SGRAF, "
            "CHAN"
        )
    similarity = scorer.model.sim_enc
    maps = []
    for (image, caption), (image_number, caption_number) in zip(pairs, numbers or pairs, strict=True):
        regions, words, tokens = scorer.pair(image, caption)
        weights = similarity.attention(regions.float(), words.float()).cpu()
        maps.append(Attention(image_number, caption_number, tokens, weights))
    return tuple(maps)


def shown_pairs(i2t: QueryResults, t2i: QueryResults) -> list[tuple[int, int]]:
    """Pairs (image, caption) worth looking at: the worst failures and a few successes of both directions.

    A failure is a query whose first retrieved item is no positive; worst is where the best positive ranks last. It
    comes with that first item and with its best positive; a success with its first item. Successes are taken evenly
    from all there are.

    Args:
        i2t: of image queries.
        t2i: of caption queries.

    Returns:
        At most 60 distinct pairs, failures first.
    """
    failures, successes = [], []
    for results, is_image in ((i2t, True), (t2i, False)):
        ranks, first, best = results.ranks, results.retrieved[:, 0], results.best_positive
        worst = torch.argsort(ranks, descending=True, stable=True)[:_N_FAILURES]
        shown = [
            (int(query), item) for query in worst[ranks[worst] > 0] for item in (int(first[query]), int(best[query]))
        ]
        failures += [pair if is_image else pair[::-1] for pair in shown if pair[1] >= 0]
        found = torch.nonzero((ranks == 0) & (first >= 0)).flatten().tolist()
        some = found[:: max(1, len(found) // _N_SUCCESSES)][:_N_SUCCESSES]
        successes += [(query, int(first[query])) if is_image else (int(first[query]), query) for query in some]
    return list(dict.fromkeys([*failures, *successes]))
