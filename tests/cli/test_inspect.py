"""`itm-fast inspect`: every format by its name, what is odd, and other things than captioned images."""

import json

import numpy as np
import pytest
from captioned_sets import EVERY, FORMAT, IN_PARQUET, IN_TAR

from itm_fast.cli import main as cli

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
