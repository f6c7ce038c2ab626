"""Run folders: written and read again, replaced, damaged, foreign."""

import hashlib
import json
from dataclasses import fields, replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from itm_fast.errors import DataError
from itm_fast.runs.folder import Attention, QueryResults, Run, load_run, save_run

LATER = ("ncs", "ncs_own_left_out", "others_relevance")  # what the first format of run folders lacks


def results(n, n_items, depth=3, *, optional=True):
    generator = torch.Generator().manual_seed(n)
    retrieved = torch.stack([torch.randperm(n_items, generator=generator)[:depth] for _ in range(n)])
    listed = torch.rand(n, depth, generator=generator)
    return QueryResults(
        ranks=torch.randint(n_items, (n,), generator=generator),
        fold_ranks=torch.zeros(n, dtype=torch.int64) if optional else None,
        retrieved=retrieved,
        retrieved_sims=listed,
        best_positive=retrieved[:, 0].clone(),
        best_positive_sims=listed[:, 0].clone(),
        relevance=listed * 2 if optional else None,
        positive_relevance=listed[:, 1].clone() if optional else None,
        annotated=listed > 0.5 if optional else None,
        ncs=100 * listed[:, :2] if optional else None,
        ncs_own_left_out=50 * listed[:, :2] if optional else None,
        others_relevance=listed.sort(descending=True).values if optional else None,
    )


def make_run(**changes):
    run = Run(
        name="tiny – SCAN",
        report={"rsum": 12.5, "i2t": {"R@1": 1.0}},
        i2t=results(4, 8),
        t2i=results(8, 4),
        caption_to_image=torch.arange(8) // 2,
        captions=tuple(f"caption {c}, „ü\u2028“" for c in range(8)),
        image_names=None,
        curves={"ks": [1, 2, 3], "ncs": {"i2t": [1.0, 2.0, 3.0], "t2i": [1.0, 2.0, 3.0]}},
        attention=(Attention(1, 3, ("a", "dog"), torch.tensor([[0.25, 0.75, 0.0], [1.0, 0.0, 0.0]])),),
        source={"kind": "sims", "path": "sims.npy"},
        date="2026-11-29T13:40:00+01:00",
    )
    return replace(run, **changes)


def assert_equal(found, expected):
    for direction in ("i2t", "t2i"):
        for field in fields(QueryResults):
            a, b = (getattr(getattr(run, direction), field.name) for run in (found, expected))
            assert (a is None) == (b is None), field.name
            if a is not None:
                torch.testing.assert_close(a, b, rtol=0, atol=0)
    for name in ("name", "report", "captions", "image_names", "curves", "source", "date"):
        assert getattr(found, name) == getattr(expected, name)
    assert torch.equal(found.caption_to_image, expected.caption_to_image)
    assert len(found.attention) == len(expected.attention)
    for one, other in zip(found.attention, expected.attention, strict=True):
        assert (one.image, one.caption, one.words) == (other.image, other.caption, other.words)
        assert torch.equal(one.weights, other.weights)


@pytest.mark.parametrize("optional", [True, False])
def test_what_was_saved_is_loaded(tmp_path, optional):
    run = make_run(i2t=results(4, 8, optional=optional), t2i=results(8, 4, optional=optional))
    save_run(run, tmp_path / "run")
    assert_equal(load_run(tmp_path / "run"), run)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "attention.safetensors",
        "queries.safetensors",
        "report.json",
        "run.json",
    ]
    assert json.loads((tmp_path / "run" / "report.json").read_text()) == run.report


def test_the_least_there_can_be(tmp_path):
    run = make_run(captions=None, curves={}, attention=())
    save_run(run, tmp_path)  # an empty folder will do
    assert_equal(load_run(tmp_path), run)


def test_tensors_that_share_memory_or_are_views(tmp_path):
    ranks = torch.zeros(4, dtype=torch.int64)
    i2t = replace(results(4, 8), ranks=ranks, fold_ranks=ranks, retrieved_sims=torch.rand(3, 4).T)
    save_run(make_run(i2t=i2t), tmp_path)
    assert torch.equal(load_run(tmp_path).i2t.retrieved_sims, i2t.retrieved_sims)


def test_a_run_is_replaced_and_other_files_stay(tmp_path):
    save_run(make_run(), tmp_path / "run")
    (tmp_path / "run" / "report.html").write_text("page")
    save_run(make_run(name="second", attention=()), tmp_path / "run")
    assert load_run(tmp_path / "run").name == "second"
    assert (tmp_path / "run" / "report.html").read_text() == "page"


def test_foreign_folders_are_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds files, but no run"):
        save_run(make_run(), tmp_path)
    with pytest.raises(FileExistsError, match="is a file"):
        save_run(make_run(), tmp_path / "notes.txt")
    with pytest.raises(FileNotFoundError, match="no such folder to make run in"):
        save_run(make_run(), tmp_path / "missing" / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_what_json_has_not_is_refused_before_the_old_run_is_touched(tmp_path):
    save_run(make_run(), tmp_path)
    for changes in ({"curves": {"ncs": {1.0}}}, {"report": {"rsum": torch.ones(1)}}, {"source": {"path": tmp_path}}):
        with pytest.raises(TypeError, match="not JSON serializable"):
            save_run(make_run(**changes, name="second"), tmp_path)
    assert_equal(load_run(tmp_path), make_run())


def test_interrupted_writing_is_refused(tmp_path, monkeypatch):
    save_run(make_run(), tmp_path)

    def full(*_, **__):
        raise OSError("disk is full")

    monkeypatch.setattr("itm_fast.runs.folder.save_file", full)
    with pytest.raises(OSError, match="disk is full"):
        save_run(make_run(report={"rsum": 2.0}), tmp_path)
    with pytest.raises(DataError, match=r"report\.json: not the file that run\.json was written with"):
        load_run(tmp_path)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("name", ["run.json", "report.json", "queries.safetensors", "attention.safetensors"])
def test_missing_and_truncated_files_are_named(tmp_path, name):
    save_run(make_run(), tmp_path)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=name.replace(".", r"\.")):
        load_run(tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=rf"{name}: no such file; a run folder"):
        load_run(tmp_path)


def test_a_run_of_the_first_format_is_read(tmp_path):
    run = make_run()
    save_run(run, tmp_path)
    later = {f"{direction}.{name}" for direction in ("i2t", "t2i") for name in LATER}
    tensors = load_file(tmp_path / "queries.safetensors")
    assert later < set(tensors)
    save_file({name: found for name, found in tensors.items() if name not in later}, tmp_path / "queries.safetensors")
    card = json.loads((tmp_path / "run.json").read_text())
    del card["date"]
    (tmp_path / "run.json").write_text(json.dumps(card | {"format": "itm-fast run 1"}))
    sign(tmp_path)
    i2t, t2i = (replace(results, **dict.fromkeys(LATER)) for results in (run.i2t, run.t2i))
    assert_equal(load_run(tmp_path), replace(run, i2t=i2t, t2i=t2i, date=""))


def sign(folder):
    """Make the digests true again, as somebody would who writes such folders by hand."""
    card = json.loads((folder / "run.json").read_text())
    card["files"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in card["files"]}
    (folder / "run.json").write_text(json.dumps(card))


@pytest.mark.parametrize(
    ("entry", "value", "fragment"),
    [
        ("format", "itm-fast run 9", "format is 'itm-fast run 9', expected 'itm-fast run 1'"),
        ("format", None, "format is None"),
        ("date", 3, "date is 3, expected a str"),
        ("name", 3, "name is 3, expected a str"),
        ("source", [], "source is"),
        ("curves", None, "curves is None"),
        ("attention", {}, "attention is"),
        ("attention", [{"image": 0}], r"run\.json: attention\[0\]: expected"),
        ("attention", [], r"attention\.safetensors: 1 pairs, but run\.json has 0"),
        ("attention", [{"image": 9, "caption": 0, "words": ["a", "b"]}], "image 9 and caption 0, which are not there"),
        ("attention", [{"image": 0, "caption": 0, "words": ["a"]}], r"attention\.safetensors: weights has shape"),
        ("files", {}, r"report\.json: not the file"),
        ("captions", ["one"], "captions has 1 entries, expected 8"),
        ("captions", "text", "captions: expected a list of strings"),
        ("image_names", [1], "image_names: expected a list of strings"),
    ],
)
def test_a_card_of_something_else(tmp_path, entry, value, fragment):
    save_run(make_run(), tmp_path)
    card = json.loads((tmp_path / "run.json").read_text())
    card[entry] = value
    (tmp_path / "run.json").write_text(json.dumps(card))
    with pytest.raises(DataError, match=fragment):
        load_run(tmp_path)


@pytest.mark.parametrize(
    ("tensor", "value", "fragment"),
    [
        ("i2t.ranks", None, r"i2t\.ranks is missing"),
        ("caption_to_image", None, "caption_to_image is missing"),
        ("more", torch.zeros(1), "more is not of a run"),
        ("i2t.ranks", torch.zeros(4), r"ranks is torch\.float32, expected a tensor of torch\.int64"),
        ("i2t.ranks", torch.zeros(5, dtype=torch.int64), r"ranks has shape \(5,\), expected \(4,\)"),
        ("i2t.relevance", None, "relevance and positive_relevance go together"),
        ("t2i.retrieved", torch.full((8, 3), 4), "t2i: retrieved holds 4 ... 4, expected -1 ... 3"),
        ("t2i.retrieved", torch.zeros(8, dtype=torch.int64), r"expected \(n_queries, depth\)"),
        ("i2t.fold_ranks", torch.full((4,), -2), "fold_ranks holds -2 ... -2"),
        ("i2t.ncs", torch.zeros(5, 2), r"ncs has shape \(5, 2\), expected \(4, 2\)"),
        ("i2t.ncs", torch.zeros(4), r"ncs has shape \(4,\), expected \(4, 1\)"),
        ("t2i.others_relevance", torch.zeros(8, 2, dtype=torch.float64), r"others_relevance is torch\.float64"),
        ("caption_to_image", torch.full((8,), 4), "caption_to_image holds 4 ... 4"),
        ("caption_to_image", torch.zeros(7, dtype=torch.int64), "caption_to_image has shape"),
        ("caption_to_image", torch.zeros(8), r"caption_to_image is torch\.float32"),
    ],
)
def test_queries_of_something_else(tmp_path, tensor, value, fragment):
    save_run(make_run(), tmp_path)
    path = tmp_path / "queries.safetensors"
    tensors = {**load_file(path), tensor: value}
    save_file({name: content for name, content in tensors.items() if content is not None}, path)
    sign(tmp_path)
    with pytest.raises(DataError, match=fragment) as error:
        load_run(tmp_path)
    assert "queries.safetensors" in str(error.value)


@pytest.mark.parametrize("content", ["[]", "{", '"text"', "[" * 100_000])
def test_json_that_is_no_report(tmp_path, content):
    save_run(make_run(), tmp_path)
    (tmp_path / "report.json").write_text(content)
    sign(tmp_path)
    with pytest.raises(DataError, match=r"report\.json"):
        load_run(tmp_path)


def test_safetensors_that_are_none(tmp_path):
    save_run(make_run(), tmp_path)
    (tmp_path / "queries.safetensors").write_bytes(b"\x80\x04pickle")
    sign(tmp_path)
    with pytest.raises(DataError, match=r"queries\.safetensors: not a safetensors file"):
        load_run(tmp_path)
