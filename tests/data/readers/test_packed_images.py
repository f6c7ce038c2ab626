"""Images inside web-dataset tar and parquet: faults, cuts, forms of captions, what their own libraries write."""

import gzip
import io
import tarfile

import captioned_sets
import numpy as np
import pytest
from captioned_sets import CAPTIONS, IMAGES, NAMES

from itm_fast.data import read_captioned_images
from itm_fast.data.readers.image_file import read_image, stored_size
from itm_fast.errors import DataError

FLAT = [text for five in CAPTIONS for text in five]


def pyarrow():
    return pytest.importorskip("pyarrow.parquet", reason="parquet needs pyarrow, of the extra [parquet]")


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
