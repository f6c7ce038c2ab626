"""Where a data set lies near the folder that was named, and its vocabulary in a folder of several."""

from __future__ import annotations

from pathlib import Path

_BELOW = "precomp"  # where VSE-infinity and its descendants keep features and captions of a data set
_SUFFIXES = (".json", ".pkl")


def data_set_folder(named: Path, flags: str = "--data {path}") -> Path:
    """The folder of a data set: the one named, or `precomp/` in it; beside it, where there is no such folder.

    The last is what VSE-infinity and ESL do with their own arguments: `data_path` data/f30k and `data_name`
    f30k_precomp are data/f30k/precomp there.

    Args:
        named: As people say it.
        flags: How they say it, for the message, with {path} or with its {parent} and {name}.

    Raises:
        FileNotFoundError: It holds no data set, but folders near it do; the message says which.
    """
    if named.is_file():  # captioned images of another format
        return named
    places = [named, named / _BELOW] if named.is_dir() else [named, named.parent / _BELOW]
    for place in places:
        if holds_data_set(place):
            return place
    around = named if named.is_dir() else named.parent
    below = sorted(around.iterdir()) if around.is_dir() else []
    near = [place for path in below for place in (path, path / _BELOW) if holds_data_set(place)]
    if near:
        what = "holds no data set ({split}_caps.txt)" if named.is_dir() else "no such folder"
        said = (flags.format(path=path, parent=path.parent, name=path.name) for path in near)
        raise FileNotFoundError(f"{named}: {what}; what is near it takes {', or '.join(said)}")
    return named


def holds_data_set(folder: Path) -> bool:
    """Whether captions of a split are in a folder."""
    return folder.is_dir() and any(folder.glob("*_caps.txt"))


def vocabularies_in(folder: Path, data: Path) -> list[Path]:
    """The vocabularies of a folder that may be a data set's, the likeliest first; [] if it holds none that may be.

    They are called after the data set, as in SCAN's folder `vocab` (f30k_precomp_vocab.json, or .pkl), or plainly
    vocab.json; a single one is taken whatever its name. Whether its words are the model's is for the caller to check.

    Args:
        folder: With vocabularies.
        data: The folder of the data set, which gives the name.
    """
    data = data.absolute()
    stems = dict.fromkeys((data.name, f"{data.parent.name}_{data.name}", data.parent.name, f"{data.name}_{_BELOW}"))
    names = [*(f"{stem}_vocab" for stem in stems), "vocab"]
    found = [folder / f"{name}{suffix}" for name in names for suffix in _SUFFIXES]
    found = [path for path in found if path.is_file()]
    held = all_vocabularies(folder)
    return found or (held if len(held) == 1 else [])


def all_vocabularies(folder: Path) -> list[Path]:
    """The files of a folder that are named as vocabularies."""
    return sorted(path for suffix in _SUFFIXES for path in folder.glob(f"*vocab{suffix}") if path.is_file())
