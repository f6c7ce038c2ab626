"""Ids, owners, positives, relevance judgements, runs of TREC."""

from pathlib import Path
from typing import Any

import numpy as np
from fuzz.case import Case, image, js, npy, npz, of_file
from fuzz.text_cases import LINES

from itm_fast.data import ImageDataset
from itm_fast.data.readers.images import image_names
from itm_fast.evaluation.protocols.eccv_caption import read_coco_test, read_positives, read_truth
from itm_fast.evaluation.protocols.relevant_pairs import read_relevant_pairs
from itm_fast.files.ids import Ids, read_id_lines, read_ids
from itm_fast.files.owners import read_owners
from itm_fast.files.trec import read_qrels, read_trec_run

_PAIRS = {"image_ids": [1.0, 2], "caption_ids": [1, 2, 3], "image_to_captions": {"1": [1, 2], "2": [3]}}
_OWNERS = lambda path: read_owners(path, 2, 3).tolist()  # noqa: E731
_COCO = [{"original_caption_to_image.json": js({str(n): [n // 5 + 50] for n in range(10)})}, npy(np.arange(10))]
IDS = {
    "ids of lines": of_file(
        "a.txt", b"391895\n000007.jpg\n5.0\n", read_ids, lambda r: r.images == [391895, "000007.jpg", 5]
    ),
    "integer ids of lines": of_file(
        "a.txt", b"391895\n000007.jpg\n5.0\n", read_id_lines, lambda r: r.tolist() == [391895, 7, 5]
    ),
    "ids of .json": of_file("a.json", js(_PAIRS), read_ids, lambda r: r.images == [1, 2] and r.captions == [1, 2, 3]),
    "ids of .npy": of_file("a.npy", npy(np.arange(3.0)), read_ids, lambda r: r.images == [0, 1, 2]),
    "ids of .npz": of_file(
        "a.npz",
        npz(image_ids=np.arange(3.0), caption_ids=np.array(["a", "b"])),
        read_ids,
        lambda r: r.captions == ["a", "b"],
    ),
    "owners of lines": of_file("a.txt", b"0\n0\n1\n", _OWNERS, [0, 0, 1]),
    "owners of a list": of_file("a.json", js([0, 0, 1]), _OWNERS, [0, 0, 1]),
    "owners of txt2img": of_file("a.json", js({"0": 0, "1": 0, "2": 1}), _OWNERS, [0, 0, 1]),
    "owners of img2txt": of_file("a.json", js({"0": [0, 1], "1": [2]}), _OWNERS, [0, 0, 1]),
    "owners of lists": of_file("a.json", js([[0, 1], [2]]), _OWNERS, [0, 0, 1]),
    "owners of .npy": of_file("a.npy", npy([0, 0, 1]), _OWNERS, [0, 0, 1]),
    "owners of .npz": of_file("a.npz", npz(x=np.array([0, 0, 1])), _OWNERS, [0, 0, 1]),
    "positives of .json": of_file(
        "a.json", js(_PAIRS), read_relevant_pairs, lambda r: r.caption_to_images == {1: [1], 2: [1], 3: [2]}
    ),
    "positives of .npz": of_file(
        "a.npz",
        npz(image_ids=np.arange(2), caption_ids=np.arange(2), caption_to_images=np.array([[0, 1], [1, 1]])),
        read_relevant_pairs,
        lambda r: r.image_to_captions == {1: [0, 1]},
    ),
    "positives with grades": of_file(
        "a.json",
        js({**_PAIRS, "image_to_captions": {"1": {"1": 2, "3": 1}}}),
        read_relevant_pairs,
        lambda r: r.image_to_captions == {1: {1: 2, 3: 1}},
    ),
    "qrels": of_file(
        "a.txt", b"q1 0 d1 2\nq1 0 d2 0\nq2 0 d1 1\n", read_qrels, {"q1": {"d1": 2, "d2": 0}, "q2": {"d1": 1}}
    ),
    "qrels of BEIR": of_file("a.tsv", b"query-id\tcorpus-id\tscore\nq1\td1\t2\n", read_qrels, {"q1": {"d1": 2}}),
    "qrels as positives": of_file(
        "a.qrels",
        b"1 0 2 1\n2 0 3 2\n",
        lambda path: read_relevant_pairs(path, Ids([1, 2], [1, 2, 3])),
        lambda r: r.image_to_captions == {1: {2: 1}, 2: {3: 2}},
    ),
    "run": of_file(
        "a.trec",
        b"q1 Q0 d1 1 0.5 me\nq1 Q0 d2 2 0.25 me\n",
        read_trec_run,
        lambda r: (r.items, r.scores.tolist()) == (["d1", "d2"], [0.5, 0.25]),
    ),
    "positives of ECCV": of_file("a.json", js({"7": [1, 2]}), read_positives, {7: [1, 2]}),
    "truth of ECCV": Case(
        lambda: {"eccv_image_to_caption.json": js({"7": [1]}), "eccv_caption_to_image.json": js({"1": [7]})},
        lambda folder: read_truth(folder, "eccv"),
        lambda r: r.caption_to_images == {1: [7]},
    ),
    "test ids of ECCV": Case(
        lambda: {**_COCO[0], "coco_test_ids.npy": _COCO[1]}, read_coco_test, lambda r: r.image_ids == [50, 51]
    ),
    "id of an image file": Case(
        lambda: {
            "train_caps.txt": LINES,
            "train_ids.txt": b"3\n4\n",
            "id_mapping.json": js({"3": "3.png", "000004": "4.png"}),
            "3.png": image("RGB", "PNG"),
            "4.png": image("L", "PNG"),
        },
        lambda folder: _image_data(folder),
        lambda r: r[0] == ["3.png", "4.png"] and r[1].shape == (2, 3, 8, 8),
    ),
}


def _image_data(folder: Path) -> Any:
    (folder / "images").mkdir(exist_ok=True)
    for name in ("3.png", "4.png"):
        (folder / "images" / name).write_bytes((folder / name).read_bytes())
    data = ImageDataset(folder, "train", 8)
    return image_names(data), data.regions(range(data.n_images))
