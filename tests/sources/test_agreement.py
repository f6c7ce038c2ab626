"""Members of an ensemble that are of another order, or the other way round, are said."""

import numpy as np
import pytest

import itm_fast
from itm_fast.evaluation import EnsembleScorer

N, D = 40, 16
RNG = np.random.default_rng(0)
MEANING = RNG.standard_normal((N, D))
ROWS, COLUMNS = RNG.permutation(N), RNG.permutation(5 * N)
WITH_THEIR_CAPTIONS = (5 * ROWS[:, None] + np.arange(5)).ravel()


def model(seed):
    rng = np.random.default_rng(seed)
    images = MEANING + 0.5 * rng.standard_normal((N, D))
    captions = MEANING.repeat(5, 0) + rng.standard_normal((5 * N, D))
    return (images @ captions.T).astype(np.float32)


def warnings_of(*members, **options):
    scorer = EnsembleScorer(members, **options)
    notes = itm_fast.evaluate(scorer)["conditions"]["notes"]
    return [note for note in notes if "agrees with" in note or "the other way round" in note]


FIRST, SECOND, THIRD = (model(seed) for seed in range(3))


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (SECOND[ROWS], "member 1 agrees with member 2 no more than"),
        (SECOND[:, COLUMNS], "member 1 agrees with member 2 no more than"),
        # Each image still has its own captions, so that recall of the mean is high, and means nothing.
        (SECOND[ROWS][:, WITH_THEIR_CAPTIONS], "member 1 agrees with member 2 no more than"),
        (1 - SECOND, "member 1 orders pairs the other way round than member 2"),
    ],
    ids=["rows", "columns", "rows with their columns", "distances"],
)
@pytest.mark.parametrize("normalise", ["none", "zscore"])
def test_a_member_that_does_not_fit_is_said(other, said, normalise):
    (note,) = warnings_of(FIRST, other, normalise=normalise)
    assert note.startswith(f"WARNING: {said}")


def test_the_one_that_does_not_fit_is_named():
    (note,) = warnings_of(FIRST, SECOND, THIRD[ROWS], names=["a", "b", "c"])
    assert note.startswith("WARNING: c agrees with every other member no more than")


@pytest.mark.parametrize(
    ("members", "options"),
    [
        ([FIRST, SECOND], {}),
        ([FIRST, SECOND, THIRD], {}),
        ([FIRST, FIRST], {"names": ["same", "same"]}),
        ([FIRST, SECOND, THIRD[ROWS]], {"weights": (0.5, 0.5, 0)}),
        ([FIRST, np.zeros_like(FIRST)], {}),
        ([FIRST[:12, :60], SECOND[ROWS][:12, :60]], {}),
        ([FIRST, np.where(SECOND > 0, SECOND, -np.inf)], {}),
    ],
    ids=["two", "three", "twice", "without weight", "constant", "few", "without candidates"],
)
def test_others_are_not(members, options):
    assert warnings_of(*members, **options) == []
