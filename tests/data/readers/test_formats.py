"""Every format of captioned images: the same ten images read alike from all of them, and a table of faults of each."""

import json

import captioned_sets
import numpy as np
import pytest
from captioned_sets import CAPTIONS, EVERY, FORMAT, IMAGES, IN_PARQUET, IN_TAR, JSON, NAMES

from itm_fast.data import find_images, read_captioned_images
from itm_fast.data.readers.formats import FORMATS, format_of
from itm_fast.data.readers.found_path import FoundPath
from itm_fast.data.readers.qrels import read_graded_pairs
from itm_fast.data.readers.reference_captions import read_names, read_references, read_texts
from itm_fast.data.readers.releases import RELEASES
from itm_fast.errors import DataError, DataWarning

FLAT = [text for five in CAPTIONS for text in five]
OWNERS = [place for place in range(10) for _ in range(5)]
every_format = pytest.mark.parametrize("write", EVERY, ids=lambda write: write.__name__)


@pytest.fixture
def written(tmp_path):
    """Writes the ten images in a format; skips where its library is not installed."""

    def write(form):
        if form in IN_PARQUET:
            pytest.importorskip("pyarrow", reason="parquet needs pyarrow, of the extra [parquet]")
        return form(tmp_path)

    return write


def pyarrow():
    return pytest.importorskip("pyarrow.parquet", reason="parquet needs pyarrow, of the extra [parquet]")


@every_format
def test_the_same_images_from_every_format(write, written, tmp_path):
    path = written(write)
    form = format_of(FoundPath(path))
    assert form.name == FORMAT[write.__name__]
    items = read_captioned_images(path)
    assert items.format == form.name
    assert items.captions == FLAT
    assert items.caption_to_image.tolist() == OWNERS
    assert [name.removeprefix("images/") for name in items.image_names] == NAMES
    assert len(set(items.caption_ids)) == 50
    assert items.languages == (["en"] * 50 if write.__name__ in ("table", "tsv") else None)
    captioned_sets.write_images(tmp_path / "images")
    files = find_images(items, [] if items.packed else [tmp_path / "images", tmp_path])
    assert [file.read_bytes() for file in files] == IMAGES
    assert (items.packed is not None) == (write in (*IN_PARQUET, *IN_TAR))


@pytest.mark.filterwarnings("ignore::itm_fast.errors.DataWarning")
@every_format
def test_captions_alone_from_every_format(write, written):
    """What φ, make-data and a run folder take; and the images that are not in order."""
    path = written(write)
    assert read_references(path, split="test" if write.__name__ in ("karpathy", "table", "tsv") else None) == CAPTIONS
    assert read_texts(path, split="test") == FLAT
    assert [name.removeprefix("images/") for name in read_names(path, split="test")] == NAMES


def test_every_format_of_the_table_is_written():
    """Those of one release each in test_releases.py."""
    assert {form.name for form in FORMATS if form not in RELEASES} == set(FORMAT.values())


def test_what_has_no_order_says_so(tmp_path):
    with pytest.warns(DataWarning, match=r"val2014\.json: images are in the order of their ids, as torchvision"):
        read_references(captioned_sets.coco(tmp_path))


# Faults. What is done to the ten images in a format, and what is said of it.


def _changed(content, *place, to):
    """JSON with one value replaced, or taken away."""
    *way, last = place
    inside = content
    for key in way:
        inside = inside[key]
    if to is DEL:
        del inside[last]
    else:
        inside[last] = to
    return content


DEL = object()
JSON_FAULTS = [
    ("coco", ("images", 0, "file_name"), DEL, "images[0]: file_name is None"),
    ("coco", ("images", 0, "id"), 41, "images[1]: id 41 is there twice"),
    ("coco", ("images", 0, "id"), "fifty", "images[0]: id is 'fifty'"),
    ("coco", ("images", 0, "file_name"), NAMES[0], f"image {NAMES[0]} is there twice"),
    ("coco", ("images", 0), DEL, "is of image 50, which is not among the images"),
    ("coco", ("annotations", 3, "caption"), "  ", "image COCO_val2014_000000000042.jpg has a caption that is blank"),
    ("coco", ("annotations", 3, "caption"), None, "annotations[3]: caption is None"),
    ("coco", ("annotations", 3, "id"), 0, "annotations[3]: id 0 is there twice"),
    ("coco", ("annotations", 3), 7, "annotations[3]: is 7"),
    ("karpathy", ("images", 3, "filename"), NAMES[0], f"image {NAMES[0]} is there twice"),
    ("karpathy", ("images", 3, "filename"), "../x.jpg", "expected a file below the folder of images"),
    ("karpathy", ("images", 3, "sentences", 1, "raw"), "", "has a caption that is blank"),
    ("rsicd", ("images", 3, "sentences", 1), "a dog", "images[3]: expected sentences"),
    ("albef_lists", (2, "caption"), [], "[2]: caption is []"),
    ("albef_rows", (2, "image"), DEL, "[2] is {'caption'"),
    ("caption_lists", (NAMES[2],), "a dog", "has 'a dog', expected a list of captions"),
    ("caption_lists", (NAMES[2], 0), " ", f"image {NAMES[2]} has a caption that is blank"),
]


@pytest.mark.parametrize(("form", "place", "to", "fragment"), JSON_FAULTS)
def test_faults_of_json(form, place, to, fragment, tmp_path):
    path = getattr(captioned_sets, form)(tmp_path)
    path.write_text(json.dumps(_changed(json.loads(path.read_text()), *place, to=to)))
    with pytest.raises(DataError) as caught:
        read_captioned_images(path)
    assert str(path) in str(caught.value)
    assert fragment in str(caught.value)


@pytest.mark.parametrize("write", JSON, ids=lambda write: write.__name__)
def test_marks_and_cuts_of_json(write, tmp_path):
    path = write(tmp_path)
    content = path.read_bytes()
    path.write_bytes(b"\xef\xbb\xbf" + content)
    assert read_captioned_images(path).captions == FLAT
    for damaged, said in ((content[:-9], "not JSON, or cut short"), (content.decode().encode("utf-16"), "UTF-16")):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=said):
            read_captioned_images(path)


TEXT_FAULTS = [
    ("token", CAPTIONS[0][1], "a dog\tx", ":2: 'COCO_val2014_000000000041.jpg#1\\ta dog\\tx' has more columns than"),
    ("token", CAPTIONS[0][1], "", ":2: COCO_val2014_000000000041.jpg without a caption"),
    ("kaggle", f"{NAMES[3]}| 2| {CAPTIONS[3][2]}", "a dog", ":19: 'a dog' is not what most lines of the file are"),
    ("table", NAMES[0], f"{NAMES[0]},x", ":3: 5 cells, expected 4"),
    ("table", "split", "caption", ":1: a heading is there twice"),
    ("table", "image,", "picture,", ":1: 4 columns, picture, caption, split, language"),
    ("table", NAMES[0], "", ":3: no image"),
    ("tsv", CAPTIONS[0][0], " ", f"image {NAMES[0]} has a caption that is blank"),
    ("tsv", "\ttest\t", "\tval\t", None),
]


@pytest.mark.parametrize(("form", "old", "new", "fragment"), TEXT_FAULTS)
def test_faults_of_text(form, old, new, fragment, tmp_path):
    path = getattr(captioned_sets, form)(tmp_path)
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    if fragment is None:  # one row of another split
        assert len(read_captioned_images(path).captions) == 49
        assert len(read_captioned_images(path, split="val").captions) == 1
        return
    with pytest.raises(DataError) as caught:
        read_captioned_images(path)
    assert f"{path}" in str(caught.value)
    assert fragment in str(caught.value)


def test_blank_captions_are_left_out_on_request(tmp_path):
    path = captioned_sets.caption_lists(tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), NAMES[2]: ["", "a dog", " "]}))
    with pytest.raises(DataError, match=f"{NAMES[2]} has the first of 2 captions that are blank"):
        read_captioned_images(path)
    items = read_captioned_images(path, drop_blank=True)
    assert np.bincount(items.caption_to_image).tolist() == [5, 5, 1, *[5] * 7]
    assert items.notes == (f"{path}: 2 blank captions left out, the first of image {NAMES[2]}",)


def test_two_ids_of_an_image(tmp_path):
    pq = pyarrow()
    import pyarrow as pa

    rows = [{"filename": "a.jpg", "cocoid": key, "caption": "a dog"} for key in (1, 2)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"image a\.jpg has two ids, 1 and 2"):
        read_captioned_images(tmp_path / "a.parquet")


# Queries, corpus, qrels

BEIR_FAULTS = [
    ("qrels/test.trec", "00 0 d0 1", "00 0 x 1", "'x' is judged, but is not in corpus"),
    ("qrels/test.trec", "00 0 d0 1", "99999 0 d0 1", "'99999' is judged, but is not in queries"),
    ("qrels/test.trec", "00 0 d1 0", "00 0 d1 1", "text 00 is relevant to several images, such as d0 and d1"),
    ("qrels/test.trec", "00 0 d0 1", "00 0 d0 1\n00 0 d0 0", "test.trec:2: item 'd0' is judged twice for query '00'"),
    ("qrels/test.trec", "00 0 d0 1", "00 0 d0 x", "test.trec:1: the grade is 'x', expected a whole number"),
    ("qrels/test.trec", "00 0 d0 1", "00 1", "test.trec:1: 2 columns"),
    ("corpus.jsonl", '"_id": "d1"', '"_id": "d0"', "corpus has the id 'd0' twice"),
    ("corpus.jsonl", '"image_path"', '"x"', "corpus.jsonl:1: _id, x; expected an id"),
    ("queries.tsv", "\ta ", "\t", None),
]


@pytest.mark.parametrize(("file", "old", "new", "fragment"), BEIR_FAULTS)
def test_faults_of_beir(file, old, new, fragment, tmp_path):
    path = captioned_sets.beir_text(tmp_path)
    text = (path / file).read_text()
    assert old in text
    (path / file).write_text(text.replace(old, new, 1))
    if fragment is None:
        assert read_captioned_images(path).captions[0] == FLAT[0].removeprefix("a ")
        return
    with pytest.raises(DataError) as caught:
        read_captioned_images(path)
    assert str(path) in str(caught.value)
    assert fragment in str(caught.value)


def test_texts_alone_are_no_captioned_images(tmp_path):
    path = captioned_sets.beir_text(tmp_path)
    corpus = (path / "corpus.jsonl").read_text().replace("image_path", "text").replace(".jpg", "")
    (path / "corpus.jsonl").write_text(corpus)
    with pytest.raises(DataError, match="neither of queries and corpus are images"):
        read_captioned_images(path)


def test_qrels_of_trec_and_beir(tmp_path):
    (tmp_path / "a.txt").write_text("1 0 a 2\n1 0 b 0\n")
    (tmp_path / "a.tsv").write_text("query-id\tcorpus-id\tscore\n1\ta\t2\n1\tb\t0\n")
    assert (
        read_graded_pairs(tmp_path / "a.txt")
        == read_graded_pairs(tmp_path / "a.tsv")
        == [("1", "a", 2.0), ("1", "b", 0.0)]
    )
