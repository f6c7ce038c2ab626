"""Winoground, SugarCrepe and SugarCrepe++: text, image and group scores on tiny sets in their layouts."""

import itertools
import json

import numpy as np
import pytest
import release_sets

from itm_fast.errors import DataError
from itm_fast.evaluation import Ids, RunKeeper, evaluate
from itm_fast.evaluation.protocols.pair_choices import CHOICES, read_examples


def dots(a, b):
    """Similarities of rows of a and of b, each by itself."""
    return np.einsum("id,jd->ij", a, b)


@pytest.fixture
def embedded():
    rng = np.random.default_rng(0)
    return lambda n: rng.standard_normal((n, 6)).astype(np.float64)


def test_winoground(tmp_path, embedded):
    path = release_sets.winoground(tmp_path, 40)
    images, captions = embedded(80), embedded(80)
    report = evaluate((images, captions), protocol="winoground", annotations=path)
    s = dots(images, captions)
    text = [s[i, i] > s[i, i + 1] and s[i + 1, i + 1] > s[i + 1, i] for i in range(0, 80, 2)]
    image = [s[i, i] > s[i + 1, i] and s[i + 1, i + 1] > s[i, i + 1] for i in range(0, 80, 2)]
    assert report["text"] == pytest.approx(100 * np.mean(text))
    assert report["image"] == pytest.approx(100 * np.mean(image))
    assert report["group"] == pytest.approx(100 * np.mean(np.logical_and(text, image)))
    assert report["conditions"]["n_pairs"] == 160  # and no more
    assert "these files have 40 examples, the release of winoground has 400" in " ".join(report["conditions"]["notes"])
    assert repr(report).startswith("Report(text=")
    table = str(report)
    assert "chance  25.0   25.0   16.7" in table
    assert "group" in report.to_latex("CLIP")


def test_sugarcrepe_by_file(tmp_path, embedded):
    folder = release_sets.sugarcrepe(tmp_path)
    images, captions = embedded(4), embedded(16)
    report = evaluate((images, captions), protocol="sugarcrepe", annotations=folder)
    s = dots(images, captions)
    order = [name for name in report["choices"] if name not in ("all", "mean")]
    assert order == ["add_att", "swap_obj"]  # the release's order, whatever the folder's
    for place, name in enumerate(order):
        right = [s[i, 8 * place + 2 * i] > s[i, 8 * place + 2 * i + 1] for i in range(4)]
        assert report["choices"][name]["text"] == pytest.approx(100 * np.mean(right))
    assert report["choices"]["mean"]["text"] == pytest.approx(
        np.mean([report["choices"][name]["text"] for name in order])
    )
    one = evaluate((images, captions[8:]), protocol="sugarcrepe", annotations=folder / "swap_obj.json")
    assert one["text"] == report["choices"]["swap_obj"]["text"]
    assert list(one["choices"]) == ["all"]


def test_sugarcrepe_pp_also_of_text_alone(tmp_path, embedded):
    folder = release_sets.sugarcrepe_pp(tmp_path, 9)
    images, captions = embedded(3), embedded(27)
    report = evaluate((images, captions), protocol="sugarcrepe-pp", annotations=folder)
    s, unit = dots(images, captions), captions / np.linalg.norm(captions, axis=1, keepdims=True)
    t = dots(unit, unit)
    image = [s[i % 3, 3 * i] > s[i % 3, 3 * i + 2] < s[i % 3, 3 * i + 1] for i in range(9)]
    alone = [t[3 * i, 3 * i + 1] > max(t[3 * i, 3 * i + 2], t[3 * i + 1, 3 * i + 2]) for i in range(9)]
    assert report["text"] == pytest.approx(100 * np.mean(image))
    assert report["text alone"] == pytest.approx(100 * np.mean(alone))
    of_sims = evaluate(s, protocol="sugarcrepe-pp", annotations=folder)
    assert of_sims["text"] == report["text"]
    assert "text alone" not in of_sims
    assert any(
        note.startswith("text alone: ") or "text alone left out" in note for note in of_sims["conditions"]["notes"]
    )


@pytest.mark.parametrize("name", CHOICES)
def test_chance_is_what_random_orders_score(name):
    """Every order of the scores that are compared is as likely."""
    rules = CHOICES[name]
    for scores in (rules.scores, rules.of_captions):
        pairs = sorted({pair for above in scores.values() for two in above for pair in two})
        right = {
            name: np.mean([
                all(order[pairs.index(a)] > order[pairs.index(b)] for a, b in above)
                for order in itertools.permutations(range(len(pairs)))
            ])
            for name, above in scores.items()
        }  # fmt: skip
        assert {key: 100 * value for key, value in right.items()} == pytest.approx({k: rules.chance[k] for k in right})


def test_equal_similarities_are_not_right(tmp_path):
    path = release_sets.winoground(tmp_path)
    report = evaluate(np.zeros((8, 8)), protocol="winoground", annotations=path)
    assert (report["text"], report["group"], report["choices"]["all"]["n_tied"]) == (0, 0, 4)
    assert any("right and wrong have one similarity in every example" in note for note in report["conditions"]["notes"])


def test_by_ids(tmp_path, embedded):
    path = release_sets.winoground(tmp_path)
    images, captions = embedded(8), embedded(8)
    found = read_examples(path, "winoground")
    order = np.random.default_rng(3).permutation(8)
    ids = Ids([found.ids.images[i] for i in order], [found.ids.captions[i] for i in order])
    again = evaluate((images[order], captions[order]), protocol="winoground", annotations=path, ids=ids)
    assert again["choices"] == evaluate((images, captions), protocol="winoground", annotations=path)["choices"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"folds": 2}, "folds has no use with protocol winoground"),
        ({"keep": RunKeeper()}, "keep .--run, .* has no use with protocol winoground"),
        ({"relevance": np.eye(8)}, "relevance has no use with protocol winoground"),
    ],
)
def test_options_without_use_are_refused(tmp_path, options, said):
    path = release_sets.winoground(tmp_path)
    with pytest.raises(ValueError, match=said):
        evaluate(np.eye(8), options.pop("relevance", None), protocol="winoground", annotations=path, **options)


def test_what_is_something_else_is_refused(tmp_path):
    pairs, triplets = release_sets.sugarcrepe(tmp_path), tmp_path / "pp"
    triplets.mkdir()
    triplets = release_sets.sugarcrepe_pp(triplets)
    for path, name, said in (
        (pairs, "sugarcrepe-pp", "holds SugarCrepe's pairs; protocol sugarcrepe-pp reads SugarCrepe"),
        (triplets, "sugarcrepe", "holds SugarCrepe..'s triplets; protocol sugarcrepe reads"),
        (pairs, "winoground", "protocol winoground reads Winoground's examples.jsonl, which https"),
    ):
        with pytest.raises(DataError, match=said):
            evaluate(np.eye(8), protocol=name, annotations=path)
    thing = {"id": 0, "image_0": "a", "image_1": "b", "caption_0": "x", "caption_1": None}
    (tmp_path / "examples.jsonl").write_text(json.dumps({**thing, "caption_1": "y"}) + "\n" + json.dumps(thing) + "\n")
    with pytest.raises(DataError, match=r"examples\.jsonl: \[1\] is .*; Winoground's examples\.jsonl have text for"):
        evaluate(np.eye(4), protocol="winoground", annotations=tmp_path / "examples.jsonl")
    path = release_sets.winoground(tmp_path)
    with pytest.raises(ValueError, match="NaN at row"):
        evaluate(np.full((8, 8), np.nan), protocol="winoground", annotations=path)
