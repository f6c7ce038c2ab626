"""Public releases in their own layouts, read as `inspect` does and as their protocols do; and sets of pages."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import release_sets
from fuzz.case import Case, Files, written

from itm_fast.data.readers.beir_folder import read_judged_folder
from itm_fast.data.readers.description import describe
from itm_fast.data.readers.formats import format_of
from itm_fast.data.readers.found_path import FoundPath
from itm_fast.evaluation.protocols.captioned_sets import SETS, read_captioned_set
from itm_fast.evaluation.protocols.pair_choices import CHOICES, read_examples

_N = {"multi30k": 1, "coco-cn": 3, "vidore": 3}  # images; of the others two
_LEFT_OUT = (".2.", ".3.", ".4.", ".5.", "val")  # of multi30k's, which has a dozen files


@cache
def _made(name: str) -> tuple[Files, str]:
    """The files of a release, and where below their folder its path is."""
    places = []
    files = written(
        lambda folder: places.append(release_sets.EVERY[name](folder, _N.get(name, 2)).relative_to(folder).as_posix())
    )
    if name == "multi30k":
        files = {path: content for path, content in files.items() if not any(part in path for part in _LEFT_OUT)}
    return files, places[0]


def _described(path: Path) -> None:
    found = FoundPath(path)
    form = format_of(found)
    if form is not None:
        describe(found, form)


def _of_set(name: str) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        path = folder / _made(name)[1]
        _described(path)
        found = read_captioned_set(path, name)
        return found.items, found.altered

    return read


def _of_choices(name: str) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        path = folder / _made(name)[1]
        _described(path)
        return read_examples(path, name)

    return read


def _case(name: str, read: Callable[[Path], Any], right: Callable[[Any], bool]) -> Case:
    files = _made(name)[0]
    return Case(lambda: dict(files), read, right, whole=tuple(path for path in files if path.endswith(".jpg")))


RELEASES = {
    **{f"release of {name}": _case(name, _of_set(name), lambda r: len(r[0].image_names) >= 1) for name in SETS},
    **{f"release of {name}": _case(name, _of_choices(name), lambda r: len(r.captions) >= 2) for name in CHOICES},
    "pages": _case(
        "vidore",
        lambda folder: read_judged_folder(folder / _made("vidore")[1], "test"),
        lambda r: r[2]["q0"] == {"p0": 2.0, "p1": 1.0},
    ),
}
