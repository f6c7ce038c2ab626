"""`itm-fast inspect`: every format by its name, what is odd, and other things than captioned images."""

import io
import json
import sys

import numpy as np
import pytest
import torch
from captioned_sets import EVERY, FORMAT, IN_PARQUET, IN_TAR

from itm_fast.cli import main as cli
from itm_fast.data import Vocabulary

every_format = pytest.mark.parametrize("write", EVERY, ids=lambda write: write.__name__)


@pytest.fixture
def written(tmp_path):
    """Writes the ten images in a format; skips where its library is not installed."""

    def write(form):
        if form in IN_PARQUET:
            pytest.importorskip("pyarrow", reason="parquet needs pyarrow, of the extra [parquet]")
        return form(tmp_path)

    return write


def inspected(capsys, *argv):
    capsys.readouterr()
    code = cli.main(["inspect", *map(str, argv)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@every_format
def test_inspect_names_every_format(write, written, capsys):
    path = written(write)
    code, out, _ = inspected(capsys, path, "--json")
    assert code == 0
    about = json.loads(out)
    assert about["format"] == FORMAT[write.__name__]
    figures = about["splits"]["test" if "test" in about["splits"] else "all"]
    assert figures == {"n_images": 10, "n_owners": 10, "n_captions": 50, "fewest": 5, "most": 5}
    assert about["odd"] == []
    assert about["images"] == ("in it" if write in (*IN_PARQUET, *IN_TAR) else "named")
    code, out, err = inspected(capsys, path)
    assert (code, err) == (0, "")
    assert out.startswith(f"{path}: {FORMAT[write.__name__]}\n")
    assert "10 images, 50 captions (5 an image)" in out


def test_inspect_says_what_is_odd(tmp_path, capsys):
    content = [
        {"image": "a.jpg", "caption": ["a dog", "a dog", " "], "split": "test"},
        {"image": "b.jpg", "caption": ["a dog"], "split": "test"},
        {"image": "a.jpg", "caption": ["a cat"], "split": "train"},
        {"image": "a.png", "caption": ["a bird"], "split": "train"},
    ]
    (tmp_path / "odd.json").write_text(json.dumps(content))
    code, out, _ = inspected(capsys, tmp_path / "odd.json", "--images-folder", tmp_path, "--split", "test", "--json")
    assert code == 0
    about = json.loads(out)
    assert about["splits"]["test"] == {"n_images": 2, "n_owners": 2, "n_captions": 4, "fewest": 1, "most": 3}
    assert about["odd"] == [
        "1 images are in several splits: image a",
        "test: 1 captions are blank: image a.jpg",
        "test: 1 captions are there once more of the same image: image a.jpg",
        "test: 1 captions are also another image's, word for word: image b.jpg",
        f"train: refused by every command: {tmp_path}/odd.json: image a.png is there twice, expected distinct ones",
        f"2 of 2 images are not in {tmp_path}: the first is a.jpg",
    ]


def _files(folder):
    """What commands take beside captioned images, each with what is said of it."""
    names, ids = [f"{place}.jpg" for place in range(3)], {"image_ids": [1, 2], "caption_ids": [3, 4, 5]}
    np.save(folder / "pool.npy", np.array(names))
    np.save(folder / "owners.npy", np.array([0, 0, 1]))
    np.savez(folder / "ids.npz", image_ids=np.array([1, 2]), caption_ids=np.array([3, 4, 5]))
    np.savez(folder / "several.npz", sims=np.zeros((2, 3)), other=np.zeros(4))
    np.savetxt(folder / "sims.txt", np.zeros((2, 3)))
    torch.save({"model": {}, "epoch": 3}, folder / "model_best.pth.tar")
    Vocabulary.build([["a", "dog"]], 1).save(folder / "vocab.json")
    written = {
        "names.txt": "".join(f"{name}\n" for name in names),
        "owners.txt": "0\n0\n1\n",
        "spice.csv": "0.5,0.25\n0,1\n",
        "sits_test.csv": "caption,image,agg_score,sampling_method\n1,2,4.5,c2i_original\n1,3,0.5,c2i_isim\n",
        "run.trec": "q1 Q0 a 1 0.9 mine\nq1 Q0 b 2 0.8 mine\nq2 Q0 a 1 0.7 mine\n",
        "ids.json": json.dumps(ids),
        "pairs.json": json.dumps({**ids, "image_to_captions": {"1": [3, 4]}}),
        "positives.json": json.dumps({"7": [1, 2], "8": [3]}),
        "txt2img.json": json.dumps({"0": 0, "1": 0}),
        "id_mapping.json": json.dumps({"1": "1.jpg", "2": "2.jpg"}),
        "report.json": json.dumps({"i2t": {}, "t2i": {}, "conditions": {"protocol": "coco-5k"}}),
        "sims.json": "[[0.5, 1], [0, 2]]",
    }
    for name, text in written.items():
        (folder / name).write_text(text)
    return {
        "pool.npy": "names of images, or ids\n  names: 3\n  first: 0.jpg",
        "owners.npy": "array\n  shape: [3]",
        "ids.npz": "ids of images and captions\n  arrays: image_ids 2, caption_ids 3",
        "several.npz": "several arrays\n  arrays: sims 2 x 3, other 4",
        "sims.txt": "array\n  shape: [2, 3]",
        "sims.json": "array\n  shape: [2, 2]",
        "model_best.pth.tar": "file of torch.save, such as a checkpoint",
        "vocab.json": "vocabulary\n  words: 6",
        "names.txt": "names of images, one a line\n  names: 3",
        "owners.txt": "whole numbers, one a line: ids of images, or rows of captions' images\n  lines: 3",
        "spice.csv": "matrix of numbers, as the NCS repository's SPICE\n  rows: 2\n  columns: 2",
        "sits_test.csv": "Crisscrossed Captions' ratings of captions and images (SITS)\n  pairs: 2\n  scores: 0.5 to",
        "run.trec": "run of TREC\n  name: mine\n  queries: 2\n  items: 2\n  retrieved: 3",
        "ids.json": "ids of images and captions\n  image_ids: 2\n  caption_ids: 3",
        "pairs.json": "ids and positives (protocol positives)\n  image_ids: 2\n  caption_ids: 3\n  image_to_",
        "positives.json": "ids by id: positives, as ECCV Caption has them, or img2txt\n  queries: 2\n  pairs: 3",
        "txt2img.json": "an id by id: owners (txt2img)\n  captions: 2",
        "id_mapping.json": "names of images by id (id_mapping.json)\n  images: 2",
        "report.json": "report of itm-fast evaluate\n  protocol: coco-5k",
    }


def test_inspect_of_what_goes_with_captions(tmp_path, capsys):
    for name, said in _files(tmp_path).items():
        code, out, err = inspected(capsys, tmp_path / name)
        assert (code, err, out.removeprefix(f"{tmp_path / name}: ")[: len(said)]) == (0, "", said)


def test_inspect_of_folders(tmp_path, capsys):
    for name in ("a/best", "clip", "cxc"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "a/best/config.json").write_text('{"model": "vsepp", "config": {}}')
    (tmp_path / "clip/config.json").write_text('{"model_type": "clip"}')
    (tmp_path / "cxc/sts_test.csv.gz").write_bytes(b"")
    (tmp_path / "cxc/sits_test.csv").write_bytes(b"")
    for name, said in (
        ("a", "run of itm-fast train, its best model of itm-fast\n  model: vsepp"),
        ("a/best", "model of itm-fast\n  model: vsepp"),
        ("clip", "folder of a transformers model\n  model: clip"),
        ("cxc", "annotations of protocols\n  holds: Crisscrossed Captions' ratings: sts, sits (protocols cxc,"),
    ):
        code, out, err = inspected(capsys, tmp_path / name)
        assert (code, err) == (0, "")
        assert said in out


def test_inspect_of_other_things(tmp_path, capsys):
    np.save(tmp_path / "test_ims.npy", np.zeros((2, 3, 4), np.float32))
    (tmp_path / "test_caps.txt").write_text("a dog\n" * 10)
    (tmp_path / "dev_caps.txt").write_text("a dog\n" * 10)
    (tmp_path / "lists.json").write_text('[["a", "b"], ["c"]]')
    (tmp_path / "qrels.trec").write_text("1 0 a 2\n1 0 b 0\n")
    (tmp_path / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n1\ta\t2\n1\tb\t0\n")
    (tmp_path / "photo.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "none").mkdir()
    for path, fragments in (
        (tmp_path, ["data set in SCAN's layout", "test: 2 images, 3 x 4, 10 captions (5 an image)", "odd: dev: "]),
        (tmp_path / "test_caps.txt", ["captions alone, one a line", "captions: 10"]),
        (tmp_path / "lists.json", ["captions alone, in lists", "captions: 3"]),
        (tmp_path / "qrels.trec", ["relevance judgements (qrels)", "judgements: 2", "grades: [0.0, 2.0]"]),
        (tmp_path / "qrels.tsv", ["relevance judgements (qrels)", "documents: 2"]),
        (tmp_path / "test_ims.npy", ["array", "shape: [2, 3, 4]", "dtype: float32"]),
    ):
        code, out, _ = inspected(capsys, path)
        assert (code, [part for part in fragments if part not in out]) == (0, [])
    for path, fragment in (
        (tmp_path / "none", "holds 0 files, but no captioned images; expected"),
        (tmp_path / "photo.png", "no captioned images; expected one of: COCO's captions_*.json; RSICD's"),
        (tmp_path / "missing", "missing: no such file or folder"),
    ):
        code, out, err = inspected(capsys, path)
        assert (code, out) == (2, "")
        assert fragment in err


def test_inspect_prints_what_no_encoding_has(tmp_path, monkeypatch):
    """Half of a surrogate pair, which JSON can hold; stdout refuses it by itself."""
    (tmp_path / "report.json").write_text(r'{"i2t": {}, "t2i": {}, "conditions": {"protocol": "\ud800"}}')
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "utf-8"))
    assert cli.main(["inspect", str(tmp_path / "report.json")]) == 0
    assert rb"\ud800" in sys.stdout.buffer.getvalue()


def test_a_folder_of_several_things_names_them(tmp_path, capsys):
    """The demo's folder: data, a model, a run, pages."""
    (tmp_path / "demo" / "model").mkdir(parents=True)
    (tmp_path / "demo" / "model" / "config.json").write_text('{"model": "scan"}')
    (tmp_path / "demo" / "sets").mkdir()
    (tmp_path / "demo" / "sets" / "a.token").write_text("1.jpg#0\ta dog\n")
    (tmp_path / "demo" / "data").mkdir()
    (tmp_path / "demo" / "data" / "test_caps.txt").write_text("a dog\n" * 5)
    np.save(tmp_path / "demo" / "data" / "test_ims.npy", np.ones((1, 2, 3), np.float32))
    code, out, _ = inspected(capsys, tmp_path / "demo")
    assert code == 0
    assert out.splitlines() == [
        f"{tmp_path}/demo: folder of several things, each to be inspected by itself",
        "  data/: data set in SCAN's layout",
        "  model/: model of itm-fast",
    ]


def test_checkpoints_that_end_in_tar_are_no_shards(tmp_path, capsys):
    (tmp_path / "model_best.pth.tar").write_bytes(b"PK\x03\x04" + bytes(600))
    code, _, err = inspected(capsys, tmp_path)
    assert (code, "holds 1 files, but no captioned images" in err) == (2, True)
