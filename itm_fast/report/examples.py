"""Queries to look at: which are shown, and what a page says of each; makes no HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from itm_fast.report.queries import DIRECTIONS, Direction, Integers, annotated_misses, forgiven, most_relevant
from itm_fast.runs.folder import Attention, Run
from itm_fast.runs.query_results import QueryResults

_SEED = 0  # of the queries that are shown beside the worst: the same in every page


@dataclass(frozen=True)
class Item:
    """An image or a caption of a list.

    Attributes:
        number: row of the image or column of the caption.
        text: the caption, or the image's name.
        rank: 1-based.
        similarity: with the query.
        relevance: its φ, or None.
        positive: whether it is an annotated positive.
        annotated: whether further annotations call it positive.
        aside: for an image, one of its captions; empty for captions.
    """

    number: int
    text: str
    rank: int
    similarity: float
    relevance: float | None
    positive: bool
    annotated: bool
    aside: str = ""


@dataclass(frozen=True)
class Answer:
    """What one run retrieved for a query.

    Attributes:
        rank: 1-based rank of the best positive.
        items: the first retrieved, best first.
        positive: the best positive, if it is not among them.
        remark: why a miss may be none, or empty.
    """

    rank: int
    items: tuple[Item, ...]
    positive: Item | None
    remark: str


@dataclass(frozen=True)
class Example:
    """A query with the answers of all runs.

    Attributes:
        direction: "i2t" or "t2i".
        number: row of the image or column of the caption.
        text: the caption, or the image's name.
        own: captions of a query image.
        answers: one a run.
        worst: the largest rank among the runs.
        tags: "miss" or "hit" (by the first run), "plausible", "gained", "lost".
    """

    direction: Direction
    number: int
    text: str
    own: tuple[str, ...]
    answers: tuple[Answer, ...]
    worst: int
    tags: tuple[str, ...]


@dataclass(frozen=True)
class Change:
    """A query that one run answers at rank 1 and another does not.

    Attributes:
        direction: "i2t" or "t2i".
        number: row of the image or column of the caption.
        text: the caption, or the image's name.
        before: 1-based rank by the first run.
        after: by the other.
    """

    direction: Direction
    number: int
    text: str
    before: int
    after: int


@dataclass(frozen=True)
class AttentionMap:
    """Attention of one pair as a table.

    Attributes:
        series: number of the run.
        image: row of the image.
        image_name: its name.
        caption: its text.
        words: as the model read them.
        weights: one row a word, one column a region.
        largest: the largest weight.
        over: "regions" if the weights of a word sum to 1, "words" if those of a region do.
        positive: whether the caption is one of the image.
    """

    series: int
    image: int
    image_name: str
    caption: str
    words: tuple[str, ...]
    weights: list[list[float]]
    largest: float
    over: str
    positive: bool


def choose_queries(runs: Sequence[Run], direction: Direction, n: int) -> list[int]:
    """The queries to show: the worst failures, those that changed most between runs, and some at random.

    Args:
        runs: the runs.
        direction: whose queries.
        n: how many at most.

    Returns:
        Their numbers, worst first: by the largest rank of any run, then by number.
    """
    ranks = np.stack([getattr(run, direction).ranks.numpy() for run in runs])  # (n_runs, n_queries)
    queries = np.nonzero(ranks[0] >= 0)[0]
    worst = ranks.max(0)
    by_worst = queries[np.argsort(-worst[queries], kind="stable")]
    chosen = [int(q) for q in by_worst[: max(1, n * 6 // 10)] if worst[q] > 0]
    if len(runs) > 1:
        change = np.abs(np.diff(np.log1p(ranks[:2]), axis=0))[0]
        crossed = queries[(ranks[:2, queries] == 0).sum(0) == 1]  # a hit of one, a miss of the other
        chosen += [int(q) for q in crossed[np.argsort(-change[crossed], kind="stable")][: n * 2 // 10]]
    others = np.random.default_rng(_SEED).permutation(queries)
    chosen = list(dict.fromkeys([*chosen, *(int(q) for q in others)]))[:n]
    return sorted(chosen, key=lambda query: (-int(worst[query]), query))


def make_examples(runs: Sequence[Run], n: int, n_items: int = 5) -> list[Example]:
    """Examples of both directions.

    Args:
        runs: the runs.
        n: how many a direction, at most.
        n_items: how many retrieved items of each, at most.

    Returns:
        The examples, worst first.
    """
    captions = next((run.captions for run in runs if run.captions is not None), None)
    names = next((run.image_names for run in runs if run.image_names is not None), None)
    texts = _Texts(runs[0], captions, names)
    made = []
    for direction in DIRECTIONS:
        notes = [_notes(getattr(run, direction), direction) for run in runs]
        for query in choose_queries(runs, direction, n):
            answers = tuple(
                _answer(run, direction, query, n_items, texts, remarks.get(query, ""))
                for run, remarks in zip(runs, notes, strict=True)
            )
            tags = ["hit" if answers[0].rank == 1 else "miss"]
            tags += ["plausible"] if any(answer.remark for answer in answers) else []
            if len(runs) > 1 and (answers[0].rank == 1) != (answers[1].rank == 1):
                tags.append("gained" if answers[1].rank == 1 else "lost")
            text = texts.image(query) if direction == "i2t" else texts.caption(query)
            own = texts.captions_of(query) if direction == "i2t" else ()
            worst = max(answer.rank for answer in answers)
            made.append(Example(direction, query, text, own, answers, worst, tuple(tags)))
    return sorted(made, key=lambda example: -example.worst)


def changed_queries(first: Run, second: Run, direction: Direction) -> tuple[list[Change], list[Change]]:
    """Queries that the second run answers at rank 1 of the whole gallery and the first does not, and the reverse.

    Args:
        first: what is compared with.
        second: what is compared.
        direction: whose queries.

    Returns:
        Gained and lost, the largest changes of rank first.
    """
    texts = _Texts(first, first.captions or second.captions, first.image_names or second.image_names)
    name = texts.image if direction == "i2t" else texts.caption
    before, after = (getattr(run, direction).ranks.numpy() for run in (first, second))
    gained, lost = np.nonzero((after == 0) & (before > 0))[0], np.nonzero((before == 0) & (after > 0))[0]

    def listed(queries: Integers, ranks: Integers) -> list[Change]:
        ordered = queries[np.argsort(-ranks[queries], kind="stable")]
        return [Change(direction, int(q), name(int(q)), int(before[q]) + 1, int(after[q]) + 1) for q in ordered]

    return listed(gained, before), listed(lost, after)


def attention_maps(runs: Sequence[Run]) -> list[AttentionMap]:
    """The attention that the runs kept.

    Args:
        runs: the runs.

    Returns:
        One table a pair.
    """
    made = []
    for series, run in enumerate(runs):
        texts = _Texts(run, run.captions, run.image_names)
        for one in run.attention:
            if not one.weights.numel():
                continue
            name, caption = texts.image(one.image), texts.caption(one.caption)
            largest = float(one.weights.max())
            weights = one.weights.tolist()
            positive = int(run.caption_to_image[one.caption]) == one.image
            made.append(
                AttentionMap(series, one.image, name, caption, one.words, weights, largest, _over(one), positive)
            )
    return made


def _over(attention: Attention) -> str:
    """Whether the weights of a word or those of a region sum to 1, by which sums are nearer to it."""
    words, regions = ((attention.weights.sum(axis) - 1).abs().max().item() for axis in (1, 0))
    return "regions" if words <= regions else "words"


class _Texts:
    """Names of images and captions, or numbers where a run has none."""

    def __init__(self, run: Run, captions: tuple[str, ...] | None, names: tuple[str, ...] | None) -> None:
        self._captions, self._names = captions, names
        owners = run.caption_to_image.numpy()
        self._order = np.argsort(owners, kind="stable")
        self._bounds = np.searchsorted(owners[self._order], np.arange(run.n_images + 1))

    def image(self, number: int) -> str:
        return f"image {number}" if self._names is None else self._names[number]

    def caption(self, number: int) -> str:
        return f"caption {number}" if self._captions is None else self._captions[number]

    def captions_of(self, image: int) -> tuple[str, ...]:
        if self._captions is None:
            return ()
        own = self._order[self._bounds[image] : self._bounds[image + 1]]
        return tuple(self._captions[int(number)] for number in own)


def _answer(run: Run, direction: Direction, query: int, n_items: int, texts: _Texts, remark: str) -> Answer:
    results: QueryResults = getattr(run, direction)
    best, rank = int(results.best_positive[query]), int(results.ranks[query]) + 1
    items = []
    retrieved = results.retrieved[query, :n_items].tolist()
    for place, number in enumerate(retrieved):
        if number < 0:
            break
        owner = (number, query) if direction == "t2i" else (query, number)
        positive = number == best or int(run.caption_to_image[owner[1]]) == owner[0]
        relevance = None if results.relevance is None else float(results.relevance[query, place])
        annotated = results.annotated is not None and bool(results.annotated[query, place]) and not positive
        similarity = float(results.retrieved_sims[query, place])
        items.append(_item(texts, direction, number, place + 1, similarity, relevance, positive, annotated))
    below = None
    if best >= 0 and best not in retrieved:
        relevance = None if results.positive_relevance is None else float(results.positive_relevance[query])
        similarity = float(results.best_positive_sims[query])
        below = _item(texts, direction, best, rank, similarity, relevance, True, False)
    return Answer(rank, tuple(items), below, remark)


def _item(
    texts: _Texts,
    direction: Direction,
    number: int,
    rank: int,
    similarity: float,
    relevance: float | None,
    positive: bool,
    annotated: bool,
) -> Item:
    if direction == "i2t":
        return Item(number, texts.caption(number), rank, similarity, relevance, positive, annotated)
    aside = next(iter(texts.captions_of(number)), "")
    return Item(number, texts.image(number), rank, similarity, relevance, positive, annotated, aside)


def _notes(results: QueryResults, direction: Direction) -> dict[int, str]:
    """Query -> why its miss may be none."""
    others = "captions of other images" if direction == "i2t" else "other images"
    reasons = {
        f"of all {others} the first is the most relevant by φ": most_relevant(results, 1),
        "the first is as relevant by φ as the annotated positive": forgiven(results),
        "further annotations call the first a positive": annotated_misses(results),
    }
    found = [(reason, mask) for reason, mask in reasons.items() if mask is not None]
    return {int(query): reason for reason, mask in found for query in mask.nonzero()}
