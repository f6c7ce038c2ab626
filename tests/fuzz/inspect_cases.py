"""What `itm-fast inspect` says of files beside captioned images."""

import contextlib
import io
import pickle
from pathlib import Path

import numpy as np
import torch
from fuzz.case import Case, Files, js, npy, npz, pt
from fuzz.text_cases import LINES
from fuzz.vocabulary_cases import FIELDS

from itm_fast.cli.inspect import Inspect, run

_IDS = {"image_ids": [1, 2], "caption_ids": [1, 2, 3]}
_FIGURES = {"R@1": 50.0}
# What is said first of a path; the path, "." for the folder; its files.
_SAID: dict[str, tuple[str, Files]] = {
    "names of images, or ids": ("n.npy", {"n.npy": npy(["a.jpg", "b.jpg"])}),
    "several arrays": ("a.npz", {"a.npz": npz(a=np.arange(2), b=np.arange(3))}),
    "file of torch.save": ("a.pth", {"a.pth": pt({"a": torch.ones(2), "b": torch.ones(2)})}),
    "vocabulary, pickled": ("v.pkl", {"v.pkl": pickle.dumps(FIELDS, 2)}),
    "ids and positives": ("p.json", {"p.json": js({**_IDS, "image_to_captions": {"1": [1, 2], "2": [3]}})}),
    "report of itm-fast evaluate": (
        "r.json",
        {"r.json": js({"i2t": _FIGURES, "t2i": _FIGURES, "conditions": {"protocol": "coco-5k"}})},
    ),
    "vocabulary": ("v.json", {"v.json": js(FIELDS)}),
    "names of images by id": ("m.json", {"m.json": js({"3": "3.png", "4": "4.png"})}),
    "ids by id": ("p.json", {"p.json": js({"7": [1, 2], "8": [3]})}),
    "an id by id": ("o.json", {"o.json": js({"0": 0, "1": 0})}),
    "array": ("a.json", {"a.json": js([[0.5, 1], [2, 3]])}),
    "captions alone, in lists": ("c.json", {"c.json": js([["a dog"], ["a cat", "the sea"]])}),
    "captions alone, one a line": ("c.txt", {"c.txt": LINES}),
    "Crisscrossed Captions' ratings": (
        "s.csv",
        {"s.csv": b"caption1,caption2,agg_score,sampling_method\n1,2,4.5,x\n"},
    ),
    "run of TREC": ("a.trec", {"a.trec": b"q1 Q0 d1 1 0.5 me\nq1 Q0 d2 2 0.25 me\n"}),
    "relevance judgements": ("q.jsonl", {"q.jsonl": js({"query-id": "q", "corpus-id": "d", "score": 1})}),
    "names of images, one a line": ("n.txt", {"n.txt": b"1.jpg\n2.jpg\n"}),
    "whole numbers, one a line": ("n.txt", {"n.txt": b"7\n9\n"}),
    "matrix of numbers": ("m.csv", {"m.csv": b"0.5,1\n2,3\n"}),
    "folder of a transformers model": (".", {"config.json": js({"model_type": "clip"})}),
    "run of itm-fast train": (".", {"best/config.json": js({"model": "scan"})}),
    "annotations of protocols": (".", {"sts_test.csv": b"x", "coco_test_ids.npy": b"x"}),
    "data set in SCAN's layout": (".", {"test_ims.npy": npy(np.ones((2, 1, 3))), "test_caps.txt": LINES}),
}


def _said(path: Path) -> str:
    """What is printed, to a stream as the command line has it."""
    out = io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace")
    with contextlib.redirect_stdout(out):
        run(Inspect(path=path))
        out.flush()
    return out.buffer.getvalue().decode()


def _case(said: str, name: str, files: Files) -> Case:
    return Case(lambda: dict(files), lambda folder: _said(folder / name), lambda r: f": {said}" in r.partition("\n")[0])


INSPECTED = {f"inspect: {said}": _case(said, name, files) for said, (name, files) in _SAID.items()}
