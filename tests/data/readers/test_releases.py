"""The formats of one public release each: known by what is in them, read in their order; and faults of each."""

import json

import pytest
import release_sets

from itm_fast.data import find_images, read_captioned_images
from itm_fast.data.readers.formats import FORMATS, format_of
from itm_fast.data.readers.found_path import FoundPath
from itm_fast.data.readers.releases import RELEASES
from itm_fast.errors import DataError

# The others are in formats that many have: a list of objects, lines of a name and a caption, queries and a corpus.
OWN = {
    "urban1k": "texts beside images of the same names, as Urban1k's",
    "docci": "DOCCI's docci_descriptions.jsonlines",
    "dci": "Densely Captioned Images' splits.json and annotations",
    "iiw": "ImageInWords' data.jsonl",
    "xm3600": "Crossmodal-3600's captions.jsonl",
    "xtd10": "XTD10's test_1kcaptions_*.txt",
    "multi30k": "Multi30k's captions, line by line",
    "coco-cn": "COCO-CN's captions and lists of splits",
    "winoground": "Winoground's examples.jsonl",
    "sugarcrepe": "SugarCrepe's pairs",
    "sugarcrepe-pp": "SugarCrepe++'s triplets",
}


@pytest.mark.parametrize("name", OWN)
def test_a_release_is_known_by_its_content(tmp_path, name):
    path = release_sets.EVERY[name](tmp_path)
    assert next(form.name for form in FORMATS if form.recognises(FoundPath(path))) == OWN[name]
    assert [form.name for form in RELEASES if form.recognises(FoundPath(path))] == [OWN[name]]
    assert format_of(FoundPath(path)).name == OWN[name]


def test_every_release_has_a_set():
    assert {form.name for form in RELEASES} == set(OWN.values())


@pytest.mark.parametrize("name", ["flickr30k-cn", "rococo", "vidore"])
def test_what_is_in_a_common_format_stays_so(tmp_path, name):
    form = format_of(FoundPath(release_sets.EVERY[name](tmp_path)))
    assert form not in RELEASES


def test_images_of_a_folder_are_in_it(tmp_path):
    path = release_sets.urban1k(tmp_path)
    items = read_captioned_images(path)
    assert [file.name for file in find_images(items, [])] == [f"{number}.jpg" for number in range(1, 13)]


def test_languages_and_splits(tmp_path):
    items = read_captioned_images(release_sets.multi30k(tmp_path), split="test_2016")
    assert (len(items.image_names), len(items.captions)) == (12, 120)
    assert items.languages == ["de"] * 60 + ["en"] * 60
    assert items.captions[13] == "ein Hund rennt 2 test_2016 1"
    with pytest.raises(DataError, match="has no images of split 'test'; perhaps you meant test_2016"):
        read_captioned_images(tmp_path / "task2")
    items = read_captioned_images(release_sets.coco_cn(tmp_path))
    assert items.captions_by_image()[1] == ["一只狗 3 0", "一只狗 3 1"]
    assert set(items.languages) == {"zh"}


def _cut(path):
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def _json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


FAULTS = [
    ("xtd10", lambda p: _cut(p / "MIC/test_1kcaptions_de.txt"), "11 lines, but test_image_names.txt names 12 images"),
    ("coco-cn", lambda p: _cut(p / "imageid.human-written-caption.txt"), ""),
    (
        "coco-cn",
        lambda p: (p / "coco-cn_test.txt").write_text("COCO_x\n"),
        "_test.txt:1: image COCO_x has no caption",
    ),
    ("dci", lambda p: (p / "annotations/00001-data.json").unlink(), "00001-data.json is not in"),
    ("dci", lambda p: _json(p / "splits.json", lambda c: c.update(test=["../x"])), "expected the names of files in"),
    (
        "dci",
        lambda p: _json(p / "annotations/00002-data.json", lambda c: c.pop("extra_caption")),
        "expected image, ",
    ),
    ("urban1k", lambda p: (p / "image/3.jpg").unlink(), "3.txt: no image of that name"),
    ("urban1k", lambda p: (p / "caption/3.txt").write_text(" \n"), "a caption that is blank"),
    (
        "sugarcrepe",
        lambda p: _json(p / "swap_obj.json", lambda c: c["1"].pop("caption")),
        "have text for filename, ",
    ),
]


@pytest.mark.parametrize(("name", "spoil", "said"), FAULTS, ids=[f"{name}-{said[:20]}" for name, _, said in FAULTS])
def test_faults(tmp_path, name, spoil, said):
    path = release_sets.EVERY[name](tmp_path)
    spoil(path)
    split = {"coco-cn": "test"}.get(name, "test")
    if not said:
        assert len(read_captioned_images(path, split=split).captions_by_image()[-1]) == 1
        return
    with pytest.raises(DataError) as caught:
        read_captioned_images(path, split=split)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_translations_and_descriptions_are_two_sets(tmp_path):
    path = release_sets.multi30k(tmp_path)
    (path / "task1").mkdir()
    (path / "task1/test_2016.fr").write_text("un chien\n" * 12)
    with pytest.raises(DataError, match=r"captions of test_2016 are in .* and .*task1; name one of them"):
        read_captioned_images(path, split="test_2016")
