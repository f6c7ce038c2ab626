"""Whose each caption is: one table of forms, taken alike by every function and every file that gives it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import itm_fast
from itm_fast.cli.set_flags import optional_owners
from itm_fast.errors import DataError
from itm_fast.evaluation.rerank import rerank
from itm_fast.files.owners import as_owners, read_owners
from itm_fast.metrics import ncs_at_k, ranks, recall_at_k
from itm_fast.metrics.positives import make_positives
from itm_fast.runs.statistics import both_directions

RIGHT = [0, 0, 2, 1, 1, 2, 2]  # of 4 images, of which the last has no caption
FORMS = {
    "list": RIGHT,
    "tuple": tuple(RIGHT),
    "array": np.array(RIGHT, np.uint8),
    "big-endian": np.array(RIGHT, ">i8"),
    "objects": np.array(RIGHT, object),
    "floats": np.array(RIGHT, np.float32),
    "list of floats": [float(owner) for owner in RIGHT],
    "strings": [str(owner) for owner in RIGHT],
    "tensor": torch.tensor(RIGHT),
    "tensor of floats": torch.tensor(RIGHT, dtype=torch.float64),
    "txt2img": dict(enumerate(RIGHT)),
    "txt2img, strings": {str(caption): str(owner) for caption, owner in enumerate(RIGHT)},
    "txt2img, turned round": dict(reversed(list(enumerate(RIGHT)))),
    "img2txt": {0: [0, 1], 1: [3, 4], 2: [2, 5, 6]},
    "img2txt, strings": {"2": [2, 6, 5], "0": ["0", "1"], "1": [3.0, 4.0], "3": []},
    "img2txt, arrays": {0: np.array([0, 1]), 1: torch.tensor([3, 4]), 2: (2, 5, 6)},
    "lists": [[0, 1], [3, 4], [2, 5, 6], []],
}
ALL = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
SIMS = np.random.default_rng(3).standard_normal((4, 7)).astype(np.float32)
T2I = 100 * np.mean(SIMS.argmax(0) == RIGHT)
I2T = 100 * np.mean([RIGHT[row.argmax()] == image for image, row in enumerate(SIMS[:3])])


@ALL
def test_forms(form):
    found = as_owners(form, 4, 7)
    assert found.dtype == np.int64
    assert found.tolist() == RIGHT
    assert make_positives(4, 7, caption_to_image=form).caption_to_image.tolist() == RIGHT


CALLS = {
    "evaluate": lambda form: itm_fast.evaluate(SIMS, caption_to_image=form)["t2i"]["R@1"],
    "recall": lambda form: recall_at_k(SIMS, ks=(1,), query="caption", caption_to_image=form).item(),
    "ranks": lambda form: 100 * np.mean(ranks(SIMS, query="caption", caption_to_image=form).best.numpy() == 0),
    "rerank": lambda form: rerank(SIMS, SIMS, 4, ks=(1,), caption_to_image=form)["t2i"]["R@1"],
}


@ALL
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_every_function_takes_them(call, form):
    assert call(form) == pytest.approx(T2I)


@ALL
def test_the_sample_of_both_directions_takes_them(form):
    _, groups = both_directions([1.0, 2.0, 3.0, np.nan], np.ones(7), form)
    assert groups.tolist() == [0, 1, 2, 3, *RIGHT]


def test_both_directions_by_hand():
    report = itm_fast.evaluate(SIMS, caption_to_image=FORMS["img2txt"])
    assert (report["i2t"]["R@1"], report["i2t"]["n_queries"]) == (pytest.approx(I2T), 3)
    phi = np.arange(28, dtype=np.float32).reshape(4, 7)
    right = ncs_at_k(SIMS, phi, ks=(1,), query="caption", caption_to_image=RIGHT)
    assert ncs_at_k(SIMS, phi, ks=(1,), query="caption", caption_to_image=FORMS["txt2img"]).tolist() == right.tolist()


def _plain(form: object) -> object:
    if isinstance(form, dict):
        return {key: _plain(value) for key, value in form.items()}
    return np.asarray(form).tolist() if isinstance(form, (np.ndarray, torch.Tensor)) else form


@ALL
def test_files_hold_them(form, tmp_path):
    (tmp_path / "owners.json").write_text(json.dumps(_plain(form)))
    assert read_owners(tmp_path / "owners.json", 4, 7).tolist() == RIGHT
    assert as_owners(optional_owners(tmp_path / "owners.json"), 4, 7).tolist() == RIGHT


def _text(folder: Path) -> Path:
    (folder / "owners.txt").write_text("".join(f"{owner}.0\r\n" for owner in RIGHT))
    return folder / "owners.txt"


def _npy(folder: Path) -> Path:
    np.save(folder / "owners.npy", np.array(RIGHT, float))
    return folder / "owners.npy"


def _npz(folder: Path) -> Path:
    np.savez(folder / "owners.npz", owners=RIGHT)
    return folder / "owners.npz"


@pytest.mark.parametrize("write", [_text, _npy, _npz])
def test_other_files(write, tmp_path):
    assert read_owners(write(tmp_path), 4, 7).tolist() == RIGHT
    assert as_owners(optional_owners(write(tmp_path)), 4, 7).tolist() == RIGHT


BAD = {
    "fraction": ([0, 0, 2, 1, 1, 2, 0.5], "[6] is the float 0.5, of dtype float64, expected integers"),
    "gap": ([0, 0, 2, 1, 1, 2, float("nan")], "[6] is the float nan"),
    "name": (["a.jpg"] * 7, "[0] is 'a.jpg', a str, expected integers: rows of sims"),
    "bools": ([True] * 7, "has dtype bool, expected integers"),
    "row too high": ([0, 0, 2, 1, 1, 2, 4], "[6] is 4, but sims has n_images = 4 rows"),
    "counted from 1": ([1, 1, 3, 2, 2, 3, 4], "counted from 1: rows are counted from 0, so subtract 1"),
    "ids": ([7, 7, 7, 7, 7, 7, 391895], "expected the row of each caption's image, 0 to 3, not its id"),
    "too few": ([0, 0, 2], "has shape (3,), expected (7,), one entry a column"),
    "one an image": ([0, 1, 2, 3], "sims looks transposed"),
    "two axes": (np.zeros((7, 1), int), "has shape (7, 1), expected (7,)"),
    "txt2img too short": (dict(enumerate(RIGHT[:5])), "has no image for 2 of 7 captions, such as 5"),
    "txt2img too long": (dict(enumerate([*RIGHT, 0])), "has caption 7, but sims has n_captions = 7 columns"),
    "txt2img of names": ({"a dog": 0}, "the captions of"),
    "img2txt twice": ({0: [0, 1, 2], 1: [2, 3, 4], 2: [5, 6]}, "has caption 2 twice"),
    "img2txt lacks": ({0: [0, 1], 1: [3, 4], 2: [5, 6]}, "has no image for 1 of 7 captions, such as 2"),
    "img2txt row": ({0: [0, 1], 1: [3, 4], 9: [2, 5, 6]}, "has captions of image 9, but sims has n_images = 4"),
    "img2txt spelt twice": ({"0": [0, 1], "00": [2], "1": [3, 4], "2": [5, 6]}, "an image twice, in two spellings"),
    "mixed dict": ({0: [0, 1], 1: 2}, "is a dict of lists and of numbers"),
    "mixed list": ([[0, 1], 2], "is a list of lists and of numbers"),
    "nested": ([[[0], [1, 2]], [[3, 4]]], "holds lists of different lengths"),
    "ones": ([[2], [0], [1], [3]], "may be captions or images"),
    "text": ("0012", "is the string '0012'"),
    "huge": ([0, 0, 2, 1, 1, 2, 2**70], "[6] is 1180591620717411303424, a int, expected integers"),
}


@pytest.mark.parametrize(("form", "fragment"), BAD.values(), ids=BAD.keys())
def test_what_is_refused_and_by_whom(form, fragment, tmp_path):
    with pytest.raises((ValueError, TypeError)) as raised:
        itm_fast.evaluate(SIMS, caption_to_image=form)
    assert fragment in str(raised.value)
    assert "caption_to_image" in str(raised.value)
    assert "inhomogeneous" not in str(raised.value)
    if isinstance(form, str):
        return
    (tmp_path / "owners.json").write_text(json.dumps(_plain(form)))
    with pytest.raises(DataError, match=r"owners\.json") as raised:
        read_owners(tmp_path / "owners.json", 4, 7)
    assert "inhomogeneous" not in str(raised.value)
