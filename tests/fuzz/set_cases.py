"""Sets of captioned images."""

import importlib.util
import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fuzz.case import Case, at, js, of_file
from fuzz.text_cases import KARPATHY

from itm_fast.data.readers.description import describe
from itm_fast.data.readers.formats import format_of, read_captioned_images
from itm_fast.data.readers.found_path import FoundPath
from itm_fast.data.readers.qrels import read_graded_pairs


def _read_set(path: Path) -> Any:
    """A set with all its images, read as `inspect` does and as `embed`."""
    found = FoundPath(path)
    form = format_of(found)
    if form is not None:
        describe(found, form)
    items = read_captioned_images(path)
    for file in items.packed or ():
        file.read_bytes()
    return items


def _set(name: str, content: Callable[[], bytes]) -> Case:
    return Case(lambda: {name: content()}, at(name, _read_set), lambda r: len(r.captions) == 4)


_COCO_SET = {
    "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
    "annotations": [{"id": n, "image_id": 1 + n // 2, "caption": f"a dog {n}"} for n in range(4)],
}
_TABLE = b"image,caption,split,language\n" + b"".join(b"%d.jpg,a dog %d,test,en\n" % (n // 2, n) for n in range(4))
_BEIR = {
    "corpus.jsonl": b'{"_id": "d0", "image": "a.jpg"}\n{"_id": "d1", "image": "b.jpg"}',
    "queries.jsonl": b"\n".join(js({"_id": f"q{n}", "text": f"a dog {n}"}) for n in range(4)),
    "qrels.tsv": b"query-id\tcorpus-id\tscore\n" + b"".join(b"q%d\td%d\t1\n" % (n, n // 2) for n in range(4)),
}


def _tar(form: int) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        for name, content in (
            ("a.jpg", b"\xff\xd8x"),
            ("a.txt", b"x\ny"),
            ("b.jpg", b"y"),
            ("b.json", js({"caption": ["z", "w"]})),
        ):
            entry = tarfile.TarInfo("long/" * (30 * (form != tarfile.USTAR_FORMAT)) + name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


def _parquet(**options: Any) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"image": {"bytes": b"\xff\xd8" * 9, "path": f"{n}.jpg"}, "caption": ["x", f"y{n}"]} for n in range(2)]
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file, **options)
    return file.getvalue()


SETS = {
    "set of COCO": _set("a.json", lambda: js(_COCO_SET)),
    "set of RSICD": of_file(
        "a.json", js({**KARPATHY, "dataset": "rsicd"}), _read_set, lambda r: r.format.startswith("RSICD")
    ),
    "set of a table": _set("a.csv", lambda: _TABLE),
    "set of tar": _set("a.tar", lambda: _tar(tarfile.USTAR_FORMAT)),
    "set of tar with long names": _set("a.tar", lambda: _tar(tarfile.PAX_FORMAT)),
    "set of tar of GNU": _set("a.tar", lambda: _tar(tarfile.GNU_FORMAT)),
    "set of BEIR": Case(lambda: dict(_BEIR), _read_set, lambda r: len(r.captions) == 4),
    "graded pairs": of_file("a.txt", b"1 0 a 2\n1 0 b 0\n", read_graded_pairs, lambda r: len(r) == 2),
}
if importlib.util.find_spec("pyarrow") is not None:
    SETS["set of parquet"] = _set("a.parquet", _parquet)
    SETS["set of parquet, unpacked"] = _set("a.parquet", lambda: _parquet(compression="none", use_dictionary=False))
