"""Every format of captioned images: the same ten images read alike from all of them, and a table of faults of each."""

import gzip
import io
import json
import tarfile

import captioned_sets
import numpy as np
import pytest
from captioned_sets import CAPTIONS, EVERY, IMAGES, IN_PARQUET, IN_TAR, JSON, NAMES

from itm_fast.cli import main as cli
from itm_fast.data import find_images, read_captioned_images
from itm_fast.data.readers.formats import FORMATS, format_of
from itm_fast.data.readers.found_path import FoundPath
from itm_fast.data.readers.image_file import read_image, stored_size
from itm_fast.data.readers.qrels import read_graded_pairs
from itm_fast.data.readers.reference_captions import read_names, read_references, read_texts
from itm_fast.errors import DataError, DataWarning

FLAT = [text for five in CAPTIONS for text in five]
OWNERS = [place for place in range(10) for _ in range(5)]
FORMAT = {
    "coco": "COCO's captions_*.json",
    "karpathy": "Karpathy's dataset_*.json",
    "rsicd": "RSICD's or RSITMD's dataset_*.json",
    "albef_lists": 'list of {"image", "caption"} as of ALBEF and BLIP',
    "albef_rows": 'list of {"image", "caption"} as of ALBEF and BLIP',
    "caption_lists": "{image: [captions]}",
    "token": "lines of a name and a caption (.token, results.csv, CSV, TSV)",
    "kaggle": "lines of a name and a caption (.token, results.csv, CSV, TSV)",
    "table": "table with headings (CSV, TSV)",
    "tsv": "table with headings (CSV, TSV)",
    "flickr_annotations": "table with headings (CSV, TSV)",
    "tar_lines": "web-dataset .tar",
    "tar_json": "web-dataset .tar",
    "parquet_lists": "Hugging Face parquet",
    "parquet_rows": "Hugging Face parquet",
    "beir": "MTEB's, MIEB's or BEIR's queries, corpus and qrels",
    "beir_text": "MTEB's, MIEB's or BEIR's queries, corpus and qrels",
}
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
    assert {form.name for form in FORMATS} == set(FORMAT.values())


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
    ("coco", ("images", 0, "id"), "50", "images[0]: id is '50'"),
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


# Tar


def tar(folder, **changes):
    """Three samples; a member's content replaced, None takes it away."""
    members = {}
    for place in range(3):
        members[f"{place}.jpg"], members[f"{place}.txt"] = IMAGES[place], "\n".join(CAPTIONS[place]).encode()
    members |= {name.replace("_", "."): content for name, content in changes.items()}
    kept = [(name.removeprefix("s"), content) for name, content in sorted(members.items()) if content is not None]
    return captioned_sets.write_tar(folder / "a.tar", kept)


TAR_FAULTS = [
    ({"1.jpg": None}, "a.tar: sample 1 has text and no image"),
    ({"1.png": IMAGES[0]}, "a.tar:1.png: sample 1 has two images, 1.jpg and this one"),
    ({"1.txt": b"a dog\n\na cat"}, "image 1.jpg has a caption that is blank"),
    ({"1.txt": b"\xff\xfea\0"}, "a.tar:1.txt: not UTF-8 but UTF-16"),
    ({"1.txt": b"x" * 2**21}, "a.tar:1.txt: 2097152 bytes, expected the captions of an image"),
    ({"1.txt": None, "1.json": b"{"}, "a.tar:1.json: not JSON"),
    ({"1.txt": None, "1.json": b'{"url": 1}'}, "a.tar:1.json: {'url': 1}; expected an object with a caption"),
    ({"1.txt": None, "1.json": b'{"caption": [1]}'}, "a.tar:1.json: caption is [1]"),
    ({"1.txt": None, "1.json": b"[]"}, "a.tar:1.json: []; expected an object"),
]


@pytest.mark.parametrize(("changes", "fragment"), TAR_FAULTS)
def test_faults_of_tar(changes, fragment, tmp_path):
    path = tar(tmp_path, **changes)
    with pytest.raises(DataError) as caught:
        read_captioned_images(path)
    assert str(tmp_path) in str(caught.value)
    assert fragment in str(caught.value)


def test_a_tar_cut_anywhere_is_refused(tmp_path):
    """Also where the library takes what is left for the whole."""
    content = tar(tmp_path).read_bytes()
    ends = len(content.rstrip(b"\0")) // 512 * 512 + 512  # the first block of zeros
    for length in [0, 100, *range(512, ends, 700), ends]:
        (tmp_path / "a.tar").write_bytes(content[:length])
        with pytest.raises(DataError, match=r"a\.tar.*(damaged|cut short|empty|no captioned images)") as caught:
            read_captioned_images(tmp_path / "a.tar")
        assert length < 1500 or "after " in str(caught.value) or "cut short" in str(caught.value)
    (tmp_path / "a.tar").write_bytes(content[: content.index(CAPTIONS[2][4].encode())])
    with pytest.raises(DataError, match=r"a\.tar:2\.txt: cut short: its \d+ bytes begin at \d+, and the file ends at"):
        read_captioned_images(tmp_path / "a.tar")
    (tmp_path / "a.tar").write_bytes(content[: ends + 512])
    assert len(read_captioned_images(tmp_path / "a.tar").captions) == 15


def test_a_damaged_header_is_not_the_end(tmp_path):
    content = bytearray(tar(tmp_path).read_bytes())
    place = content.index(b"1.txt")
    content[place + 150] ^= 1  # within the check sum
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.tar: damaged or cut short after 1\.jpg"):
        read_captioned_images(tmp_path / "a.tar")


def test_a_tar_that_became_shorter(tmp_path):
    items = read_captioned_images(tar(tmp_path))
    assert [stored_size(file) for file in items.packed] == list(map(len, IMAGES[:3]))
    (tmp_path / "a.tar").write_bytes((tmp_path / "a.tar").read_bytes()[:3000])
    with pytest.raises(DataError, match=r"a\.tar:2\.jpg: no image that can be read .*cut short"):
        read_image(items.packed[2])


def test_keys_that_begin_again_in_every_shard_and_images_without_text(tmp_path):
    for shard in ("train-000000", "train-000001", "val-000000"):
        tar(tmp_path, **({"1.txt": None} if shard.startswith("val") else {})).rename(tmp_path / f"{shard}.tar")
    items = read_captioned_images(tmp_path, split="train")
    assert items.image_names == [f"train-00000{shard}/{place}.jpg" for shard in (0, 1) for place in range(3)]
    items = read_captioned_images(tmp_path, split="val")
    assert np.bincount(items.caption_to_image).tolist() == [5, 0, 5]
    with pytest.raises(DataError, match="has no images of split 'test'; splits: train, val"):
        read_captioned_images(tmp_path)


def test_a_packed_tar_is_refused_by_name(tmp_path):
    path = tar(tmp_path)
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(DataError, match=r"b\.tar\.gz: packed; .* gunzip it"):
        read_captioned_images(tmp_path / "b.tar.gz")


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=["gnu", "pax"])
def test_long_names_folders_and_other_members(form, tmp_path):
    stem = "a" * 150 + "/" + "é" * 40
    with tarfile.open(tmp_path / "a.tar", "w", format=form) as archive:
        folder = tarfile.TarInfo("a" * 150)
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, content in ((f"{stem}.jpg", IMAGES[0]), (f"{stem}.txt", b"a dog"), (f"{stem}.cls", b"1")):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    items = read_captioned_images(tmp_path / "a.tar")
    assert (items.captions, items.image_names) == (["a dog"], [f"{stem}.jpg"])
    assert items.packed[0].read_bytes() == IMAGES[0]


def test_what_the_webdataset_library_writes(tmp_path):
    wds = pytest.importorskip("webdataset", reason="webdataset is not installed")
    with wds.TarWriter(str(tmp_path / "0.tar")) as sink:
        for place in range(10):
            sink.write({"__key__": f"s{place:07}", "jpg": IMAGES[place], "txt": "\n".join(CAPTIONS[place])})
    items = read_captioned_images(tmp_path / "0.tar")
    assert items.captions == FLAT
    assert [file.read_bytes() for file in items.packed] == IMAGES


# Parquet


def parquet(folder, rows, name="a.parquet", **options):
    pq = pyarrow()
    import pyarrow as pa

    pq.write_table(pa.Table.from_pylist(rows), folder / name, **options)
    return folder / name


def rows(n=3):
    return [{"image": {"bytes": IMAGES[i], "path": NAMES[i]}, "caption": CAPTIONS[i]} for i in range(n)]


PARQUET_FAULTS = [
    ([{"image": rows(1)[0]["image"]}], "columns image; expected one of captions"),
    ([{"caption": "a dog"}], "columns caption; expected one of captions"),
    ([{"image": "a.jpg", "caption": "a dog"}, {"image": None, "caption": "a cat"}], "row 1: no image"),
    ([{"image": "a.jpg", "caption": "a dog"}, {"image": "b.jpg", "caption": None}], "row 1: caption is None"),
    ([{"image": "a.jpg", "caption": ["a dog", " "]}], "image a.jpg has a caption that is blank"),
    ([{"image": "a.jpg", "caption": 7}], "row 0: caption is 7"),
    ([{"image": "/a.jpg", "caption": "a dog"}], "expected a file below the folder of images"),
]


@pytest.mark.parametrize(("content", "fragment"), PARQUET_FAULTS)
def test_faults_of_parquet(content, fragment, tmp_path):
    path = parquet(tmp_path, content)
    with pytest.raises(DataError) as caught:
        read_captioned_images(path)
    assert str(path) in str(caught.value)
    assert fragment in str(caught.value)


def test_a_parquet_that_is_cut_short(tmp_path):
    path = parquet(tmp_path, rows())
    content = path.read_bytes()
    for length in (4, 20, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match=r"a\.parquet: no parquet, damaged or cut short"):
            read_captioned_images(path)


def test_an_image_that_is_not_in_its_row(tmp_path):
    path = parquet(tmp_path, [*rows(), {"image": {"bytes": None, "path": "x.jpg"}, "caption": ["a dog"]}])
    items = read_captioned_images(path)
    assert items.packed[2].read_bytes() == IMAGES[2]
    with pytest.raises(DataError, match=r"a\.parquet: row 3: no image in column image"):
        items.packed[3].read_bytes()
    with pytest.raises(DataError, match=r"a\.parquet: row 3: image: no image that can be read"):
        read_image(items.packed[3])


@pytest.mark.parametrize("group", [1, 7, 100])
def test_images_in_any_order_and_by_several_threads(group, tmp_path, monkeypatch):
    from concurrent.futures import ThreadPoolExecutor

    from itm_fast.data.readers import parquet_rows

    n = 100
    content = [{"image": {"bytes": bytes([i]) * 50, "path": None}, "caption": [f"caption {i}"]} for i in range(n)]
    path = parquet(tmp_path, content, row_group_size=group)
    monkeypatch.setattr(parquet_rows, "_KEPT", 1000)
    items = read_captioned_images(path)
    assert items.image_names[3] == "000000003"
    order = np.random.default_rng(0).permutation(n).tolist()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda place: items.packed[place].read_bytes(), order))
    assert found == [content[place]["image"]["bytes"] for place in order]
    images = items.packed[0].images
    assert sum(len(image) for _, part in images._kept for image in part) <= 1000


def test_a_process_of_its_own_opens_it_again(tmp_path):
    import pickle

    items = read_captioned_images(parquet(tmp_path, rows()))
    assert items.packed[1].read_bytes() == IMAGES[1]
    again = pickle.loads(pickle.dumps(items.packed))
    assert [file.read_bytes() for file in again] == IMAGES[:3]


@pytest.mark.parametrize(
    ("column", "value", "texts"),
    [
        ("sentences", [{"raw": "a dog", "sentid": 1}, {"raw": "a cat", "sentid": 2}], ["a dog", "a cat"]),
        ("sentences", {"raw": "a dog", "tokens": ["a", "dog"]}, ["a dog"]),
        ("text", "a dog", ["a dog"]),
    ],
)
def test_forms_of_captions_in_parquet(column, value, texts, tmp_path):
    path = parquet(tmp_path, [{"filename": "a.jpg", column: value, "sentids": list(range(len(texts)))}])
    items = read_captioned_images(path)
    assert (items.captions, items.caption_ids) == (texts, list(range(len(texts))))


def test_without_pyarrow_it_says_what_to_install(tmp_path, monkeypatch):
    import sys

    (tmp_path / "a.parquet").write_bytes(b"PAR1" + bytes(100))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"reading parquet needs pyarrow: pip install 'itm-fast\[parquet\]'"):
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


# inspect


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
