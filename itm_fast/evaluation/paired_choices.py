"""Protocols that ask which of two is right: the shares of examples whose right pairs score above the wrong ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from itm_fast.evaluation.beside_recall import cosines
from itm_fast.evaluation.plan import Request
from itm_fast.evaluation.protocols.pair_choices import Above, Examples, read_examples
from itm_fast.evaluation.sampled_correlation import FloatArray
from itm_fast.evaluation.set_plans import in_order
from itm_fast.similarities.scorers import DotProductScorer, IntArray, TileScorer, as_float_tensor
from itm_fast.similarities.tiles import Progress
from itm_fast.sources.pairs import as_pair_scorer

_ALL = "all"  # examples of all files
_ScoresOf = Callable[[IntArray, IntArray], FloatArray]


def choice_sections(
    scorer: TileScorer, request: Request, progress: Progress | None
) -> tuple[dict[str, Any], list[str]]:
    """The sections of a report, and notes.

    Only the pairs that are compared are scored. An example is right where every pair that has to is strictly above.

    Args:
        scorer: similarities of the images and captions of the files, in their order, or of more, with ids.
        request: with the protocol and its annotations.
        progress: called with (pairs done, pairs in all).

    Returns:
        {"choices": {"all": {"text": percent, ..., "n_examples", "n_tied"}, file: ...}, "chance": {"text": percent,
        ...}, "n_pairs": pairs scored, "dtype": the type of their scores}; a figure each of the rules. "all" is of the
        examples of all files; of several, "mean" is the mean of the files' figures.

    Raises:
        ValueError: NaN, sizes or ids that do not fit, options that have no use here.
        FileNotFoundError, DataError: files of annotations.
    """
    for option in ("captions_per_image", "caption_to_image", "folds"):
        if getattr(request, option) is not None:
            raise ValueError(f"{option} has no use with protocol {request.protocol}, which compares pairs of its files")
    examples = read_examples(request.annotations_folder(), str(request.protocol))
    arranged = in_order(scorer, request, examples.ids)
    rules = examples.rules
    scores, dtype, n_pairs = _scored(arranged.scorer, examples, progress)
    right = {name: _right(above, scores) for name, above in rules.scores.items()}
    notes = [*arranged.notes, *examples.notes]
    if rules.of_captions and isinstance(arranged.scorer, DotProductScorer):
        captions = arranged.scorer.captions
        of_captions = _of_slots(examples.captions, lambda a, b: cosines(captions, captions, a, b))
        right |= {name: _right(above, of_captions) for name, above in rules.of_captions.items()}
    elif rules.of_captions:
        notes.append(
            f"{', '.join(rules.of_captions)} left out: captions are compared with captions, of embeddings only"
        )
    tied = np.any([_tied(above, scores) for above in rules.scores.values()], axis=0)
    if tied.all():
        notes.append("WARNING: right and wrong have one similarity in every example: look at what was scored.")
    figures = {_ALL: _figures(right, tied, slice(0, len(tied)))}
    if len(examples.by_file) > 1:
        ends = np.cumsum(list(examples.by_file.values())).tolist()
        for (file, n), end in zip(examples.by_file.items(), ends, strict=True):
            figures[file] = _figures(right, tied, slice(end - n, end))
        files = [figures[file] for file in examples.by_file]
        figures["mean"] = {name: float(np.mean([one[name] for one in files])) for name in right}
        figures["mean"] |= {name: figures[_ALL][name] for name in ("n_examples", "n_tied")}
    chance = {name: rules.chance[name] for name in right}
    return {"choices": figures, "chance": chance, "n_pairs": n_pairs, "dtype": dtype}, notes


def _scored(
    scorer: TileScorer, examples: Examples, progress: Progress | None
) -> tuple[dict[tuple[int, int], FloatArray], str, int]:
    """Scores by slots, (n_examples,) each, their type, and how many pairs were scored."""
    slots = sorted({pair for above in examples.rules.scores.values() for two in above for pair in two})
    pairs = np.concatenate(
        [examples.images[:, image] * scorer.n_captions + examples.captions[:, caption] for image, caption in slots]
    )
    distinct, places = np.unique(pairs, return_inverse=True)
    rows, columns = np.divmod(distinct, scorer.n_captions)
    of_pairs = as_pair_scorer(scorer, scorer.n_images, scorer.n_captions)
    found = as_float_tensor(of_pairs.score_pairs(rows, columns, progress)).cpu()
    if bool(torch.isnan(found).any()):
        first = int(torch.isnan(found).int().argmax())
        raise ValueError(f"sims is NaN at row (image) {rows[first]}, column (caption) {columns[first]}")
    scores = found.double().numpy()[places.ravel()].reshape(len(slots), -1)
    return dict(zip(slots, scores, strict=True)), str(found.dtype).removeprefix("torch."), len(distinct)


def _of_slots(captions: IntArray, scores_of: _ScoresOf) -> dict[tuple[int, int], FloatArray]:
    """Similarities of every two captions of an example, by slots."""
    n = captions.shape[1]
    return {(a, b): scores_of(captions[:, a], captions[:, b]) for a in range(n) for b in range(a + 1, n)}


def _right(above: Sequence[Above], scores: dict[tuple[int, int], FloatArray]) -> FloatArray:
    found: FloatArray = np.all([scores[right] > scores[wrong] for right, wrong in above], axis=0).astype(np.float64)
    return found


def _tied(above: Sequence[Above], scores: dict[tuple[int, int], FloatArray]) -> FloatArray:
    found: FloatArray = np.any([scores[right] == scores[wrong] for right, wrong in above], axis=0).astype(np.float64)
    return found


def _figures(right: dict[str, FloatArray], tied: FloatArray, some: slice) -> dict[str, Any]:
    shares = {name: float(100 * of[some].mean()) for name, of in right.items()}
    return {**shares, "n_examples": len(tied[some]), "n_tied": int(tied[some].sum())}
