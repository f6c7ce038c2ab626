"""Files of concepts: those of CVSE's repository, and word vectors as GloVe writes them; nothing is trusted."""

from __future__ import annotations

import io
import json
import pickle
import pickletools
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np

from itm_fast.data.concepts import Concepts, Doubles
from itm_fast.errors import DataError

_MAX_FILE_BYTES = 64 * 2**20  # the authors' largest has 1.1 MB
_DTYPES = {"i4": 4, "i8": 8, "f4": 4, "f8": 8}


def read_concepts(folder: str | Path) -> Concepts:
    """Reads the concepts of CVSE's repository, such as data/f30k_annotations/Concept_annotations_f30k.

    Args:
        folder: With category_concepts.json, {name}_adj_concepts.pkl and {name}_concepts_glove_word2vec.pkl.

    Returns:
        The concepts.

    Raises:
        FileNotFoundError: A file is missing.
        DataError: A file is damaged, asks for more than arrays of numbers, or does not fit the others.
    """
    folder = Path(folder)
    names_path = folder / "category_concepts.json"
    graph_path, vectors_path = (
        _only(folder, pattern) for pattern in ("*_adj_concepts.pkl", "*_concepts_glove_word2vec.pkl")
    )
    words = _read_words(names_path)
    graph = read_arrays(graph_path)
    if not isinstance(graph, dict) or not {"adj_all", "nums"} <= set(graph):
        raise DataError(f"{graph_path}: expected a dict with the arrays adj_all and nums")
    vectors = read_arrays(vectors_path)
    if isinstance(vectors, dict):
        raise DataError(f"{vectors_path}: expected one array (n_concepts, dim), got a dict")
    try:
        return Concepts(words, graph["nums"], graph["adj_all"], vectors)
    except ValueError as error:
        raise DataError(f"{folder}: {names_path.name}, {graph_path.name}, {vectors_path.name}: {error}") from error


def read_word_vectors(path: str | Path, words: Collection[str], dim: int) -> dict[str, Doubles]:
    """Reads the vectors of some words from a text file of GloVe's form, a word and its numbers a line.

    Args:
        path: The file, such as glove.840B.300d.txt.
        words: Which to keep.
        dim: Numbers that a vector must have.

    Returns:
        Those found, float64 (dim,) each.

    Raises:
        FileNotFoundError: There is no such file.
        DataError: A line of a wanted word has another number of numbers, or none of the words is in the file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected word vectors, a word and its numbers a line")
    found: dict[str, Doubles] = {}
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            word, _, rest = line.partition(" ")
            if word not in words or word in found:
                continue
            try:
                vector = np.array(rest.split(), dtype=np.float64)
            except ValueError as error:
                raise DataError(f"{path}, line {number}: {error}") from error
            if vector.shape != (dim,) or not np.isfinite(vector).all():
                raise DataError(f"{path}, line {number}: {len(vector)} numbers; expected {dim} finite ones")
            found[word] = vector
    if not found:
        raise DataError(f"{path}: holds none of the {len(words)} words asked for")
    return found


def read_arrays(path: str | Path) -> Doubles | dict[str, Doubles]:
    """Reads a pickled NumPy array of numbers, or a dict of such, by a machine that can build nothing else.

    Raises:
        FileNotFoundError: There is no such file.
        DataError: The file is too large, damaged, or holds anything else.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if path.stat().st_size > _MAX_FILE_BYTES:
        raise DataError(f"{path}: {path.stat().st_size} bytes; files of concepts have at most {_MAX_FILE_BYTES}")
    content = path.read_bytes()
    try:
        _check_memo(content, path)
        built = _ArrayUnpickler(content, path).load()
    except DataError:
        raise
    except Exception as error:  # a damaged pickle raises nearly every kind of exception
        raise DataError(f"{path}: not a pickle of arrays: {type(error).__name__}: {error}") from error
    if isinstance(built, _Array):
        return built.checked(path)
    if isinstance(built, dict) and all(isinstance(k, str) and isinstance(v, _Array) for k, v in built.items()):
        return {name: array.checked(path) for name, array in built.items()}
    raise DataError(
        f"{path}: the pickle holds a {type(built).__name__}; expected an array of numbers or a dict of them"
    )


class _DType:
    """Stands in for numpy.dtype."""

    def __init__(self, *given: object) -> None:
        self.name, self.order = given[0] if given else None, "<"

    def __setstate__(self, state: tuple[object, ...]) -> None:
        self.order = str(state[1])


class _Array:
    """Stands in for numpy.ndarray: keeps what the pickle says until `checked` has looked at it."""

    state: object = None

    def __init__(self, *given: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        self.state = state

    def checked(self, path: Path) -> Doubles:
        if not isinstance(self.state, tuple) or len(self.state) != 5:
            raise DataError(f"{path}: an array without content")
        _, shape, dtype, is_fortran, content = self.state
        is_known = isinstance(dtype, _DType) and dtype.name in _DTYPES and dtype.order in "<>"
        if not is_known or not isinstance(content, bytes) or not isinstance(shape, tuple):
            raise DataError(f"{path}: an array of other than plain numbers ({', '.join(_DTYPES)})")
        try:
            flat = np.frombuffer(content, dtype=f"{dtype.order}{dtype.name}")
            return flat.reshape(shape, order="F" if is_fortran else "C").astype(np.float64)
        except (ValueError, TypeError) as error:
            raise DataError(f"{path}: an array that contradicts itself: {error}") from error


class _ArrayUnpickler(pickle.Unpickler):
    def __init__(self, content: bytes, path: Path) -> None:
        super().__init__(io.BytesIO(content))
        self._path = path

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        stand_in = {"_reconstruct": _Array, "ndarray": _Array, "dtype": _DType}.get(name)
        if stand_in is None or module not in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray"):
            raise DataError(
                f"{self._path}: refused, nothing was run: the pickle asks for {module}.{name}; files of concepts need "
                "arrays of numbers only"
            )
        return stand_in


def _check_memo(content: bytes, path: Path) -> None:
    """Refuse memo indices that eat memory: the unpickler allocates the whole table up to the largest."""
    for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > count:
            raise DataError(f"{path}: damaged pickle: memo index {argument} at opcode {count}")


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise FileNotFoundError(f"{folder}: expected one file {pattern}, found {names}")
    return found[0]


def _read_words(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        raise FileNotFoundError(f'{path}: no such file; expected {{"word": number, ...}}')
    try:
        numbers = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON: {error}") from error
    if not isinstance(numbers, dict) or any(type(number) is not int for number in numbers.values()):
        raise DataError(f'{path}: expected {{"word": number, ...}}')
    words = sorted(numbers, key=numbers.__getitem__)
    if [numbers[word] for word in words] != list(range(len(words))):
        raise DataError(f"{path}: its numbers are not 0 to {len(words) - 1}, each once")
    return tuple(words)
