"""Files of concepts: those of CVSE's repository, and word vectors as GloVe writes them; nothing is trusted."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np

from itm_fast.data.text.concepts import Concepts, Doubles
from itm_fast.errors import DataError
from itm_fast.files.pickled_arrays import unpickled_arrays
from itm_fast.files.reading import read_json
from itm_fast.files.text import stream_lines

_MAX_FILE_BYTES = 64 * 2**20  # the authors' largest has 1.1 MB


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
    for number, line in stream_lines(path, errors="replace"):  # a few words of GloVe's largest file are broken
        word, _, rest = line.partition(" ")
        if word not in words or word in found:
            continue
        numbers = rest.split()
        if (number == 1 and len(numbers) == 1 != dim) or (len(numbers) > dim and not _is_number(numbers[0])):
            continue  # word2vec's first line, which says its size; a "word" of several, as GloVe's largest file has
        try:
            vector = np.array(numbers, dtype=np.float64)
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
    built = unpickled_arrays(path.read_bytes(), path)
    if isinstance(built, np.ndarray):
        return built.astype(np.float64)
    arrays = {name: value.astype(np.float64) for name, value in built.items() if isinstance(value, np.ndarray)}
    if len(arrays) < len(built):
        raise DataError(f"{path}: the pickle holds a dict of more than arrays of numbers: {', '.join(built)}")
    return arrays


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise FileNotFoundError(f"{folder}: expected one file {pattern}, found {names}")
    return found[0]


def _read_words(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        raise FileNotFoundError(f'{path}: no such file; expected {{"word": number, ...}}')
    numbers = read_json(path)
    if not isinstance(numbers, dict) or any(type(number) is not int for number in numbers.values()):
        raise DataError(f'{path}: expected {{"word": number, ...}}')
    words = sorted(numbers, key=numbers.__getitem__)
    if [numbers[word] for word in words] != list(range(len(words))):
        raise DataError(f"{path}: its numbers are not 0 to {len(words) - 1}, each once")
    return tuple(words)
