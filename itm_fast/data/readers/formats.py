"""The formats of captioned images that are read, in one table; the first whose content fits is a path's own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from itm_fast.data.readers.beir_folder import SeveralImagesError, is_beir, read_beir, read_pages
from itm_fast.data.readers.caption_entries import EXPECTED, is_entries, read_entries
from itm_fast.data.readers.caption_lines import line_entries
from itm_fast.data.readers.caption_lists import is_caption_lists, read_caption_lists
from itm_fast.data.readers.caption_table import is_table, read_table
from itm_fast.data.readers.captioned_images import CaptionedImages, Entry, collected, of_split
from itm_fast.data.readers.coco_captions import is_coco, read_coco
from itm_fast.data.readers.format import Format
from itm_fast.data.readers.found_path import FoundPath
from itm_fast.data.readers.karpathy import is_karpathy, is_remote_sensing, read_karpathy
from itm_fast.data.readers.parquet_files import is_parquet, read_parquet
from itm_fast.data.readers.releases import RELEASES
from itm_fast.data.readers.tar_shards import is_shards, read_shards
from itm_fast.errors import DataError
from itm_fast.files.plain_text import instead


def _are_named_lines(found: FoundPath) -> bool:
    return found.lines is not None and found.lines.images is not None


def _read_named_lines(found: FoundPath) -> list[Entry]:
    return [] if found.lines is None else line_entries(found.lines)


FORMATS = (
    *RELEASES,
    Format(
        "COCO's captions_*.json",
        is_coco,
        read_coco,
        comes_once=True,
        note="images are in the order of their ids, as torchvision's CocoCaptions has them",
    ),
    Format("RSICD's or RSITMD's dataset_*.json", is_remote_sensing, read_karpathy, comes_once=True),
    Format("Karpathy's dataset_*.json", is_karpathy, read_karpathy, comes_once=True),
    Format('list of {"image", "caption"} as of ALBEF and BLIP', is_entries, read_entries),
    Format("{image: [captions]}", is_caption_lists, read_caption_lists),
    Format("MTEB's, MIEB's or BEIR's queries, corpus and qrels", is_beir, read_beir),
    Format("Hugging Face parquet", is_parquet, read_parquet),
    Format("web-dataset .tar", is_shards, read_shards, comes_once=True),
    Format("table with headings (CSV, TSV)", is_table, read_table),
    Format("lines of a name and a caption (.token, results.csv, CSV, TSV)", _are_named_lines, _read_named_lines),
)

PAGES = Format(
    "pages of documents and what is asked of them, as of BEIR, MTEB or ViDoRe",
    is_beir,
    read_pages,
    note="a question of several pages is counted to the first of the highest grade; protocol vidore takes all",
)


def format_of(found: FoundPath) -> Format | None:
    """The format of a path, or None.

    Raises:
        DataError: the content cannot be read at all, such as JSON that is cut short, or is no file of data.
    """
    other = instead(found.head)
    if other:
        raise DataError(f"{found.path}: {other}")
    return next((form for form in FORMATS if form.recognises(found)), None)


def read_captioned_images(
    path: str | Path,
    *,
    split: str | None = "test",
    image_list: str | Path | None = None,
    drop_blank: bool = False,
) -> CaptionedImages:
    """Read the images and captions of a set, in any format of the table.

    Args:
        path: a file or a folder; what it holds says of which format it is. docs/data.md lists them.
        split: which one, where the file or folder says splits; "test", "val", "train", "restval" of Karpathy's. None:
            it must not have several.
        image_list: .npy of names, or text, one a line: the images and their order, also such without captions. None:
            those of ``path`` in its order.
        drop_blank: leave out captions that are blank; otherwise they are an error.

    Raises:
        FileNotFoundError: there is no such file or folder.
        DataError: it holds something else, an image twice, or one that the list lacks.
        ImportError: parquet, and pyarrow is not installed.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "captions.json"
        ...     _ = path.write_text('{"1.jpg": ["a dog", "a brown dog"], "2.jpg": ["a cat"]}')
        ...     items = read_captioned_images(path)
        >>> items.captions, items.caption_to_image.tolist(), items.caption_ids
        (['a dog', 'a brown dog', 'a cat'], [0, 0, 1], ['1.jpg#0', '1.jpg#1', '2.jpg#0'])
    """
    found = FoundPath(path)
    form = format_of(found)
    if form is None:
        raise not_captioned(found)
    return read_as(form, found, split, image_list=image_list, drop_blank=drop_blank)


def read_captioned_images_or_pages(
    path: str | Path, *, split: str | None = "test", image_list: str | Path | None = None, drop_blank: bool = False
) -> CaptionedImages:
    """The same as `read_captioned_images`, and of a folder where texts have several images each these, with a note."""
    try:
        return read_captioned_images(path, split=split, image_list=image_list, drop_blank=drop_blank)
    except SeveralImagesError:
        items = read_as(PAGES, FoundPath(path), split, image_list=image_list, drop_blank=drop_blank)
    return replace(items, notes=(*items.notes, f"{path}: {PAGES.note}"))


def read_as(
    form: Format,
    found: FoundPath,
    split: str | None,
    *,
    image_list: str | Path | None = None,
    drop_blank: bool = False,
) -> CaptionedImages:
    """Read a path whose format is known; arguments and errors as `read_captioned_images`."""
    where = f"{found.path}"
    entries = of_split(form.read(found), split, where)
    items = collected(entries, where, comes_once=form.comes_once, image_list=image_list, drop_blank=drop_blank)
    return replace(items, format=form.name)


def not_captioned(found: FoundPath) -> DataError:
    """The error of a path that no format recognises."""
    if found.is_folder:
        held = f"holds {len(found.files)} files"
        return DataError(f"{found.path}: {held}, but no captioned images; expected {', '.join(_names(folders=True))}")
    if found.json is not None:
        return DataError(f"{found.path}: holds {_told(found.json)}; expected {EXPECTED}")
    if found.lines is not None:
        return DataError(
            f"{found.path}: captions without the names of their images; expected a name or an id before each caption, "
            "as of Flickr30K's .token file"
        )
    return DataError(f"{found.path}: no captioned images; expected one of: {'; '.join(_names())}")


def _told(content: object) -> str:
    """What a JSON file holds, by the keys that lead into it."""
    if not isinstance(content, dict) or not content:
        return f"a {type(content).__name__}"
    keys = ", ".join(f"{key!r:.30} (a {type(value).__name__})" for key, value in list(content.items())[:4])
    return f"a dict with {keys}{', ...' if len(content) > 4 else ''}"


def _names(folders: bool = False) -> list[str]:
    in_folders = (is_beir, is_parquet, is_shards)
    common = [form for form in FORMATS if form not in RELEASES]
    return [form.name for form in common if not folders or form.recognises in in_folders]
