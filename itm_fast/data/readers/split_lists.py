"""COCO-CN: captions by image in one file, and a list of images a split beside it.

Source: li-xirong/coco-cn, version 201805: imageid.human-written-caption.txt, "COCO_val2014_000000000042#0", a tab and a
caption a line; coco-cn_train.txt, coco-cn_val.txt and coco-cn_test.txt, an image a line, perhaps more behind it.
"""

from __future__ import annotations

from itm_fast.data.readers.captioned_images import Entry
from itm_fast.data.readers.found_path import FoundPath
from itm_fast.errors import DataError
from itm_fast.files.plain_text import read_lines

_CAPTIONS = "imageid.human-written-caption.txt"
_SPLITS = ("train", "val", "test")


def is_coco_cn(found: FoundPath) -> bool:
    """Whether a folder has the captions and a list of a split."""
    names = {path.name for path in found.files}
    return _CAPTIONS in names and any(f"coco-cn_{split}.txt" in names for split in _SPLITS)


def read_coco_cn(found: FoundPath) -> list[Entry]:
    """The captions that people wrote, of the images of every split, in the order of its list.

    Raises:
        DataError: a line is no image and caption; an image of a list has no caption.
    """
    files = {path.name: path for path in found.files}
    source = files[_CAPTIONS]
    captions: dict[str, list[str]] = {}
    for number, line in enumerate(read_lines(source, "image, tab and caption"), start=1):
        key, _, text = line.partition("\t")
        if not text.strip() or not key.strip():
            raise DataError(f"{source}:{number}: {line!r:.60}; expected an image#number, a tab and a caption")
        captions.setdefault(key.partition("#")[0].strip(), []).append(text.strip())
    entries = []
    for split in _SPLITS:
        if f"coco-cn_{split}.txt" not in files:
            continue
        path = files[f"coco-cn_{split}.txt"]
        for number, line in enumerate(read_lines(path, "image"), start=1):
            name = line.split()[0]
            if name not in captions:
                raise DataError(f"{path}:{number}: image {name} has no caption in {source.name}")
            entries.append(Entry(name, captions[name], split=split, language="zh"))
    return entries
