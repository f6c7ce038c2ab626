"""Files of captions in the forms of the field: one table of forms, read alike, or refused by name, by every reader."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from itm_fast.cli.cider import CiderMatrix
from itm_fast.cli.cider import run as cider
from itm_fast.data import PrecompDataset, make_data, read_captioned_images
from itm_fast.data.readers.caption_lines import read_caption_lines, read_captions
from itm_fast.data.readers.reference_captions import read_names, read_references, read_texts
from itm_fast.errors import DataError
from itm_fast.relevance import Cider

NAMES = ["1000092795.jpg", "10002456.jpg", "1000268201.jpg"]
# Captions that try a reader: a comma, a bar of quotes, a number in front, a name of a file among the words.
CAPTIONS = [
    ["Two young guys , talking", '"Stop" says a sign', "2 dogs run", "a man and 1.jpg on a screen", "a red hat"],
    ["a cat on a mat", "the cat sleeps , again", "one cat", "a grey cat", "cats"],
    ["a bus | a tram", "an old bus", "3 , 4 buses", "a bus in town", "the bus stop"],
]
FLAT = [caption for five in CAPTIONS for caption in five]
NAMED = [
    (name, number, caption) for name, five in zip(NAMES, CAPTIONS, strict=True) for number, caption in enumerate(five)
]


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


# Forms of text, by how they write a name, the number of the caption and the caption.
TEXT = {
    "Flickr30K's token": "{0}#{1}\t{2}",
    "token with blanks": "{0}#{1} {2}",
    "name, tab": "{0}\t{2}",
    "path, tab": "flickr30k-images/{0}\t{2}",
    "tab and number": "{0}\t{1}\t{2}",
    "capitals": "{4}.JPG\t{2}",
    "png": "{4}.png\t{2}",
    "id, tab": "{4}\t{2}",
    "id and number, tab": "{4}#{1}\t{2}",
    "quoted CSV": "{0},{3}",
    "numbered CSV": "{0},{1},{3}",
    "id in CSV": "{4},{3}",
    "caption first, tab": "{2}\t{0}",
    "caption first, CSV": "{3},{0}",
}
HEADINGS = {"quoted CSV": "image,caption", "name, tab": "filepath\ttitle", "numbered CSV": "image_name,number,comment"}


def _lines(form: str) -> list[str]:
    pattern = TEXT[form]
    return [
        pattern.format(name, number, caption, _quoted(caption), name.removesuffix(".jpg"))
        for name, number, caption in NAMED
    ]


def _write(folder: Path, form: str, heading: bool = False) -> Path:
    path = folder / "captions.txt"
    lines = [HEADINGS[form], *_lines(form)] if heading else _lines(form)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


@pytest.mark.parametrize(("form", "heading"), [*((form, False) for form in TEXT), *((form, True) for form in HEADINGS)])
def test_names_are_never_words(form, heading, tmp_path):
    path = _write(tmp_path, form, heading)
    assert read_references(path) == CAPTIONS
    assert read_texts(path) == FLAT
    items = read_captioned_images(path)
    assert items.captions == FLAT
    assert items.caption_to_image.tolist() == [place for place in range(3) for _ in range(5)]
    assert [Path(name).stem for name in items.image_names] == [Path(name).stem for name in NAMES]
    assert items.caption_ids[6] == f"{items.image_names[1]}#1"
    with pytest.raises(DataError, match=r"captions\.txt: holds .* a line, such as .*; expected captions alone"):
        read_captions(path)


def test_kaggles_bars(tmp_path):
    lines = [f"{name}| {number}| {caption} ." for name, number, caption in NAMED if "|" not in caption]
    lines[7] = lines[7].replace("2| one", "2   one")  # as one line of its file is
    (tmp_path / "results.csv").write_text("image_name| comment_number| comment\n" + "\n".join(lines))
    assert read_texts(tmp_path / "results.csv") == [f"{caption} ." for caption in FLAT if "|" not in caption]
    assert list(map(len, read_references(tmp_path / "results.csv"))) == [5, 5, 4]


@pytest.mark.parametrize(
    "lines",
    [
        FLAT,
        ["2 dogs", "3 , 4 buses", "10 men", "5 , 6", "7"],
        ["a.jpg is written here", "a dog", "a cat", "a bus", "a tram"],
        ["x\ty", "a\tb", "c\td", "e\tf", "g\th"],
        ["[a dog]", "{a cat}", "[1", "2]", "{}x"],
    ],
)
def test_captions_alone_stay_what_they_are(lines, tmp_path):
    (tmp_path / "captions.txt").write_text("\n".join(lines))
    assert read_captions(tmp_path / "captions.txt") == lines
    assert read_references(tmp_path / "captions.txt") == [lines[i : i + 5] for i in range(0, len(lines), 5)]
    assert read_caption_lines(tmp_path / "captions.txt").names is None


def test_a_number_that_is_there_once_is_the_captions_own(tmp_path):
    path = tmp_path / "captions.txt"
    path.write_text("".join(f"{770337 + place}\t{caption}\n" for place, caption in enumerate(FLAT)))
    assert read_references(path) == CAPTIONS
    assert read_texts(path) == FLAT
    with pytest.raises(DataError, match="captions without the names of their images"):
        read_captioned_images(path)


TOKENS = _lines("Flickr30K's token")
BAD_LINES = [
    (
        [*TOKENS[:3], "a man", *TOKENS[4:]],
        "captions.txt:4: 'a man' is not what most lines of the file are",
    ),
    ([*TOKENS[:3], f"{NAMES[0]}#3\t", *TOKENS[4:]], "captions.txt:4: 1000092795.jpg without a caption"),
    ([f"{line}\tmore" for line in TOKENS], "captions.txt:1: '1000092795.jpg#0"),
    ([TOKENS[0], TOKENS[5], TOKENS[1]], "caption 2 is of image 1000092795.jpg, whose other captions come before those"),
    (["title", *TOKENS], "captions.txt:1: 'title' is not what most lines"),
    (["[1, 34, 2]", "[1, 7, 2]"], "captions.txt: holds "),
    (['{"a.jpg": ["a dog"]}'], "captions.txt: holds JSON, not lines of captions; name it .json"),
    (["[", '"a dog",', '"a cat"', "]"], "captions.txt: holds JSON"),
    (['{"image": "a", "caption": "b"}', '{"image": "c", "caption": "d"}'], "or .jsonl for one object a line"),
]


@pytest.mark.parametrize(("lines", "fragment"), BAD_LINES)
def test_lines_that_do_not_fit(lines, fragment, tmp_path):
    (tmp_path / "captions.txt").write_text("\n".join(lines))
    with pytest.raises(DataError) as raised:
        read_references(tmp_path / "captions.txt")
    assert fragment in str(raised.value)


TEST = [{"image": f"val2014/{name}", "caption": five} for name, five in zip(NAMES, CAPTIONS, strict=True)]
TRAIN = [{"image": f"val2014/{name}", "caption": caption, "image_id": f"coco_{name}"} for name, _, caption in NAMED]
JSON: dict[str, Any] = {
    "lists": TEST,
    "one by one": TRAIN,
    "names of others": [{"filename": e["image"], "captions": e["caption"], "split": "test"} for e in TEST],
    "results": [{"image_id": int(Path(e["image"]).stem), "caption": e["caption"]} for e in TRAIN],
    "dict": {e["image"]: e["caption"] for e in TEST},
}


@pytest.mark.parametrize("content", JSON.values(), ids=JSON.keys())
def test_json(content, tmp_path):
    path = tmp_path / "captions.json"
    path.write_text(json.dumps(content))
    assert read_references(path) == CAPTIONS
    assert read_texts(path) == FLAT
    items = read_captioned_images(path)
    assert (items.captions, items.caption_to_image.tolist()) == (FLAT, [n for n in range(3) for _ in range(5)])
    assert read_names(path) == items.image_names
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, content)))
    if isinstance(content, list):
        assert read_references(tmp_path / "captions.jsonl") == CAPTIONS


def test_an_image_again_later_keeps_its_captions(tmp_path):
    path = tmp_path / "captions.json"
    path.write_text(json.dumps([TRAIN[0], TRAIN[5], TRAIN[1]]))
    items = read_captioned_images(path)
    assert items.caption_to_image.tolist() == [0, 1, 0]
    assert items.caption_ids == [f"{items.image_names[0]}#0", f"{items.image_names[1]}#0", f"{items.image_names[0]}#1"]
    with pytest.raises(DataError, match="the captions of an image must follow each other"):
        read_references(path)


def test_a_split_of_many(tmp_path):
    path = tmp_path / "reid.json"
    path.write_text(
        json.dumps([{**entry, "split": split} for entry, split in zip(TEST, ("train", "test", "val"), strict=True)])
    )
    assert read_captioned_images(path).captions == CAPTIONS[1]
    with pytest.raises(DataError, match="has no images of split 'dev'; splits: test, train, val"):
        read_captioned_images(path, split="dev")
    with pytest.raises(DataError, match="holds the splits test, train, val; name one"):
        read_references(path)


BAD_JSON = [
    ("a dog", "holds a str"),
    (["a dog", "a cat"], "image 0 has 'a dog', expected a list of captions"),
    ({"a.jpg": "a dog"}, "image 'a.jpg' has 'a dog', expected a list of captions"),
    ([["a dog"], "a cat"], "image 1 has 'a cat', expected a list of captions"),
    ([{"id": 1, "conversations": []}], "its first object holds 'id', 'conversations', no image and caption"),
    ([{"image": "a", "caption": "b"}, {"image": "a"}], "[1] is {'image': 'a'}, without image or caption"),
    ([{"image": "a", "caption": [1]}], "[0]: caption is [1]; expected a caption, or a list of captions"),
    ([{"image": ["a"], "caption": "b"}], "[0]: image is ['a']; expected the name"),
    ([{"image": "a", "caption": []}], "[0]: caption is []"),
    ({"images": [], "annotations": []}, "holds no images"),
    ({"images": [{"filename": "a", "split": "test", "sentences": []}]}, "holds images without captions"),
]


@pytest.mark.parametrize(("content", "fragment"), BAD_JSON)
@pytest.mark.filterwarnings("ignore::itm_fast.errors.DataWarning")
def test_json_that_does_not_fit(content, fragment, tmp_path):
    (tmp_path / "captions.json").write_text(json.dumps(content))
    with pytest.raises(DataError) as raised:
        read_references(tmp_path / "captions.json")
    assert fragment in str(raised.value)


def test_cider_of_every_form_is_that_of_the_captions(tmp_path):
    right = Cider().fit(CAPTIONS).relevance(CAPTIONS, FLAT).numpy()
    token = _write(tmp_path, "Flickr30K's token")
    (tmp_path / "train.json").write_text(json.dumps(TRAIN))
    for path, candidates in ((token, None), (tmp_path / "train.json", token), (token, tmp_path / "train.json")):
        assert cider(CiderMatrix(references=path, output=tmp_path / "phi.npy", candidates=candidates)) == 0
        np.testing.assert_allclose(np.load(tmp_path / "phi.npy"), right, rtol=1e-6)


def test_data_sets_and_made_data(tmp_path):
    token = _write(tmp_path, "Flickr30K's token")
    np.save(tmp_path / "train_ims.npy", np.zeros((3, 2, 4), np.float32))
    (tmp_path / "train_caps.txt").write_bytes(token.read_bytes())
    with pytest.raises(DataError, match=r"train_caps\.txt: holds a file's name, a tab and a caption a line"):
        PrecompDataset(tmp_path, "train")
    made = make_data(tmp_path / "made", captions=token, n_train=1, n_dev=1, n_test=1, max_regions=2, dim=4)
    assert (made.folder / "train_caps.txt").read_text().splitlines()[0] == FLAT[0]
    (tmp_path / "four.json").write_text(json.dumps([*CAPTIONS[:2], CAPTIONS[2][:4]]))
    with pytest.raises(DataError, match=r"four\.json: image 2 has 4 captions; expected five an image"):
        make_data(
            tmp_path / "other", captions=tmp_path / "four.json", n_train=1, n_dev=1, n_test=1, max_regions=2, dim=4
        )
