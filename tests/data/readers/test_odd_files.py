"""Sets as they come from other machines and programs: what can only mean one thing is read, the rest is named."""

import gzip
import json
import pickle
import unicodedata

import numpy as np
import pytest
from captioned_sets import IMAGES

from itm_fast.data import PrecompDataset, Vocabulary, find_images, read_captioned_images
from itm_fast.data.readers.caption_lines import read_captions
from itm_fast.data.readers.image_file import read_image
from itm_fast.data.readers.reference_captions import read_references
from itm_fast.errors import DataError
from itm_fast.files.ids import read_ids
from itm_fast.files.trec import read_qrels, read_trec_run
from itm_fast.originals import load_original
from itm_fast.sources.array_files import open_array


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8", newline="")
    return path


def listed(*names):
    return [{"image": name, "caption": f"caption {place}"} for place, name in enumerate(names)]


@pytest.mark.parametrize(
    ("names", "below"),
    [
        (["/home/x/coco/val2014/1.jpg", "/home/x/coco/val2014/2.jpg"], ["1.jpg", "2.jpg"]),
        (["/home/x/coco/val2014/1.jpg", "/home/x/coco/train2014/1.jpg"], ["val2014/1.jpg", "train2014/1.jpg"]),
        (["C:\\coco\\val2014\\1.jpg", "C:\\coco\\val2014\\2.jpg"], ["1.jpg", "2.jpg"]),
        (["val2014\\1.jpg", "val2014\\2.jpg"], ["val2014/1.jpg", "val2014/2.jpg"]),
    ],
)
def test_paths_of_another_machine(names, below, tmp_path):
    items = read_captioned_images(write(tmp_path / "a.json", listed(*names)))
    assert items.image_names == below
    assert any("paths of one machine" in note for note in items.notes) is (names[0][1] in ":h")
    for name in below:
        place = tmp_path / "images" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    assert find_images(items, [tmp_path / "images"]) == [tmp_path / "images" / name for name in below]


@pytest.mark.parametrize("name", ["/1.jpg", "/home/x/../1.jpg"])
def test_paths_that_lead_elsewhere_are_refused(name, tmp_path):
    path = write(tmp_path / "a.json", listed("/home/x/2.jpg", name))
    with pytest.raises(DataError, match="below the folder of images"):
        read_captioned_images(path)


def test_names_as_another_system_writes_them(tmp_path):
    (tmp_path / "images").mkdir()
    names = [unicodedata.normalize("NFD", "café.jpg"), "b.JPG", "c.jpg", "c.JPG"]
    for name in names:
        (tmp_path / "images" / name).touch()
    items = read_captioned_images(write(tmp_path / "a.json", {"café.jpg": ["x"], "b": ["y"], "c.JPG": ["z"]}))
    assert [path.name for path in find_images(items, [tmp_path / "images"])] == [*names[:2], "c.JPG"]
    items = read_captioned_images(write(tmp_path / "a.json", listed("c.Jpg")))
    with pytest.raises(FileNotFoundError, match="1 of 1 images are not in"):
        find_images(items, [tmp_path / "images"])  # which of the two?


TABLES = {
    "a list of Python's": 'image,caption,split\n1.jpg,"[\'a dog\', ""it\'s b""]",test\n',
    "semicolons": "image;caption\r\n1.jpg;a dog\r\n1.jpg;it's b\r\n",
    "semicolons, three": "image;split;caption\n1.jpg;test;a dog\n1.jpg;test;it's b\n",
}


@pytest.mark.parametrize("name", TABLES)
def test_tables(name, tmp_path):
    items = read_captioned_images(write(tmp_path / "a.csv", TABLES[name]))
    assert (items.captions, items.image_names) == (["a dog", "it's b"], ["1.jpg"])


def test_brackets_that_are_no_list_are_words(tmp_path):
    items = read_captioned_images(
        write(tmp_path / "a.csv", "image,caption,split\n1.jpg,[a dog],x\n2.jpg,[1],x\n"), split="x"
    )
    assert items.captions == ["[a dog]", "[1]"]


def test_ids_as_whole_floats(tmp_path):
    coco = {
        "images": [{"id": 9.0, "file_name": "9.jpg"}, {"id": 3, "file_name": "3.jpg"}],
        "annotations": [{"image_id": 9.0, "id": 2.0, "caption": "x"}, {"image_id": 3, "id": 1, "caption": "y"}],
    }
    items = read_captioned_images(write(tmp_path / "c.json", coco))
    assert (items.image_ids, items.caption_ids) == ([3, 9], [1, 2])
    coco["annotations"][0]["image_id"] = "000000000009"
    (tmp_path / "captions.json").write_text(json.dumps(coco))
    assert read_captioned_images(tmp_path / "captions.json").image_ids == items.image_ids
    coco["annotations"][0]["image_id"] = 9.5
    with pytest.raises(DataError, match=r"annotations\[0\]: image_id is 9\.5"):
        read_captioned_images(write(tmp_path / "c.json", coco))
    entries = [{"image_id": 391895.0, "caption": "x"}, {"image_id": 7.0, "caption": "y"}]
    assert read_captioned_images(write(tmp_path / "a.json", entries)).image_names == ["391895", "7"]


def test_json_lines_with_blank_lines_and_under_another_name(tmp_path):
    lines = "".join(json.dumps(entry) + "\r\n" for entry in listed("1.jpg", "2.jpg"))
    assert len(read_captioned_images(write(tmp_path / "a.jsonl", f"{lines}\r\n")).captions) == 2
    with pytest.raises(DataError, match=r"JSON lines, one object a line, are read from a file called \.jsonl"):
        read_captioned_images(write(tmp_path / "a.json", lines))


def test_an_object_of_something_else_is_named_by_its_keys(tmp_path):
    path = write(tmp_path / "a.json", {"train": listed("1.jpg"), "data": {}})
    with pytest.raises(DataError, match=r"holds a dict with 'train' \(a list\), 'data' \(a dict\); expected"):
        read_captioned_images(path)


def test_judgements_as_other_tools_keep_them(tmp_path):
    (tmp_path / "q.txt").write_text("q1 0 d1 1.0\r\nq1 0 d2 0.0\r\n", newline="")
    assert read_qrels(tmp_path / "q.txt") == {"q1": {"d1": 1, "d2": 0}}
    (tmp_path / "q.txt").write_text("q1 0 d1 1.5\n")
    with pytest.raises(DataError, match=r"the grade is '1\.5', expected a whole number"):
        read_qrels(tmp_path / "q.txt")
    path = write(tmp_path / "q.json", {"q1": {"d1": 1}})
    for read in (read_qrels, read_trec_run):
        with pytest.raises(DataError, match="holds JSON, expected text: a run has six columns"):
            read(path)


def parquet(path, rows):
    pq = pytest.importorskip("pyarrow.parquet", reason="parquet needs pyarrow, of the extra [parquet]")
    import pyarrow as pa

    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {key: [row[key] for row in rows] for key in rows[0] if key != "image"}
    images = pa.array([{"bytes": IMAGES[place], "path": name} for place, name in (row["image"] for row in rows)], kind)
    pq.write_table(pa.table({"image": images, **columns}), path)
    return path


def test_images_of_parquet_that_share_a_path_or_have_none(tmp_path):
    rows = [{"image": (place, "image.jpg"), "caption": f"caption {place}"} for place in range(3)]
    items = read_captioned_images(parquet(tmp_path / "a.parquet", rows))
    assert items.caption_to_image.tolist() == [0, 1, 2]
    assert [file.read_bytes() for file in items.packed] == IMAGES[:3]
    rows = [{"image": (place // 2, None), "caption": f"caption {place}", "image_id": place // 2} for place in range(4)]
    items = read_captioned_images(parquet(tmp_path / "b.parquet", rows))
    assert (items.caption_to_image.tolist(), items.image_ids) == ([0, 0, 1, 1], [0, 1])


@pytest.mark.parametrize("name", ["a.json", "a.parquet", "a.tar", "a.token", "a.jpg"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "a pointer of Git LFS, .*git lfs pull"),
        (b"\n<!DOCTYPE html>\n<html>404</html>\n", "a web page, not the file itself"),
    ],
)
def test_what_came_in_place_of_the_file(content, said, name, tmp_path):
    (tmp_path / name).write_bytes(content)
    read = read_image if name == "a.jpg" else read_captioned_images
    with pytest.raises(DataError, match=said) as caught:
        read(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


READERS = {
    "features": ("test_ims.npy", lambda path: PrecompDataset(path.parent, "test")),
    "captions": ("test_caps.txt", lambda path: PrecompDataset(path.parent, "test")),
    "vocabulary": ("vocab.json", Vocabulary.load),
    "run": ("run.trec", read_trec_run),
    "ids, .json": ("ids.json", read_ids),
    "ids, .txt": ("ids.txt", read_ids),
    "ids, .npz": ("ids.npz", read_ids),
    "checkpoint": ("model.pth.tar", lambda path: load_original(path, Vocabulary.build([["a"] * 4]))),
    **{f"array, {end}": (f"a{end}", open_array) for end in (".npy", ".npz", ".pt", ".safetensors", ".json", ".txt")},
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid 0\n", "a pointer of Git LFS, not the file itself"),
        (b"<html>404</html>\n", "a web page, not the file itself"),
        (gzip.compress(b"[[1, 2]]", mtime=0), "gzip"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
    ],
)
def test_what_came_in_place_of_other_files(content, said, reader, tmp_path):
    np.save(tmp_path / "test_ims.npy", np.ones((2, 3, 4), np.float32))
    (tmp_path / "test_caps.txt").write_text("a dog\na cat\n")
    name, read = READERS[reader]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        read(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (gzip.compress(b"a dog\na cat\n", mtime=0), "not text but gzip: name it .gz, or unpack it"),
        (b"PK\x03\x04\x14\0", "not text but a zip archive: unpack it"),
        (pickle.dumps(["a dog"]), "not text but a pickle of Python"),
        (b"1 34 56 2 0\n1 7 2 0 0\n", "holds numbers alone, such as '1 34 56 2 0': ids of tokens, no captions"),
        (b"['a dog', 'a red dog']\n['a cat']\n", "holds a list or an object a line, such as"),
    ],
)
def test_what_is_no_text_of_captions(content, said, tmp_path):
    path = tmp_path / "captions.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=said):
        read_captions(path)


def test_a_name_before_captions_is_no_caption(tmp_path):
    path = tmp_path / "captions.json"
    path.write_text(json.dumps([["a dog", "see 1.jpg"], ["2.jpg", "a cat"]]))
    with pytest.raises(DataError, match=r"the list of image 1 begins with a file's name, '2\.jpg'; expected captions"):
        read_references(path)
    path.write_text(json.dumps([["a dog", "see 1.jpg"], ["see 2.jpg", "a cat"]]))
    assert len(read_references(path)) == 2


@pytest.mark.parametrize("kind", ["json", "jsonl", "csv"])
@pytest.mark.parametrize(
    ("labels", "n_false"), [((1, 0, 1), 1), ((True, False, False), 2), ((1, 1, 1), 0), ((0, 0, 0), 0), ((0, 1, 2), 0)]
)
def test_labels_that_may_say_which_captions_are_wrong(labels, n_false, kind, tmp_path, recwarn):
    rows = [{"image": f"{n}.jpg", "caption": "a dog", "label": label} for n, label in enumerate(labels)]
    path = tmp_path / f"a.{kind}"
    if kind == "csv":
        write(path, "image,caption,label\n" + "".join(f"{','.join(map(str, row.values()))}\n" for row in rows))
    else:
        write(path, rows if kind == "json" else "".join(f"{json.dumps(row)}\n" for row in rows))
    assert len(read_captioned_images(path).captions) == 3
    said = [str(warning.message) for warning in recwarn]
    assert [f"{n_false} of 3 captions have a label of 0 or false" in text for text in said] == [True] * (n_false > 0)
