"""Relevance against what people said: Crisscrossed Captions' image-caption judgements (SITS), Pearson's r."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from itm_fast.errors import DataError
from itm_fast.evaluation.rated_pairs import read_rated_pairs
from itm_fast.files.ids import as_spelt, coco_ids, integer_id
from itm_fast.files.reading import read_json
from itm_fast.relevance import Cider

_COLUMNS = ("caption", "image")
_ORIGINAL = "c2i_original"  # the caption was written for the image


@dataclass(frozen=True, eq=False)
class Judgements:
    """Judged pairs.

    Attributes:
        captions: (n,) ids of captions.
        images: (n,) file names of images.
        scores: (n,) float64, mean of the raters, 0 ... 5.
        original: (n,) bool, whether the caption was written for the image.
    """

    captions: list[str]
    images: list[str]
    scores: npt.NDArray[np.float64]
    original: npt.NDArray[np.bool_]


def read_judgements(path: str | Path) -> Judgements:
    """Read a SITS file of Crisscrossed Captions.

    Args:
        path: .csv or .csv.gz with the columns caption, image, agg_score, sampling_method.

    Returns:
        All its rows.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: another header, a row that does not fit; with file and line.

    Source: google-research-datasets/Crisscrossed-Captions, data/sits_{val,test}.csv.
    """
    rated = read_rated_pairs(path, _COLUMNS[:2])
    original = np.array([method == _ORIGINAL for method in rated.methods], dtype=bool)
    return Judgements(rated.left, rated.right, rated.scores, original)


def correlation(relevance: npt.ArrayLike, judgements: Judgements) -> dict[str, float]:
    """Pearson's r between the relevance of each pair and its judgement.

    Args:
        relevance: (n,) of every judged pair; ``judgements.original`` for binary relevance.
        judgements: the pairs.

    Returns:
        {"all": r over all pairs, "non-gt": r over those whose caption was written for another image}; NaN where one
        side does not vary.

    Raises:
        ValueError: not one number a pair.

    Source: protocol of the WACV 2022 paper's correlation table, pooled over pairs (binary relevance: 0.711 there).

    Example:
        >>> judged = Judgements(["a", "b"], ["x", "y"], np.array([5.0, 1.0]), np.array([True, False]))
        >>> round(correlation([1.0, 0.0], judged)["all"], 6)
        1.0
    """
    x = np.asarray(relevance, dtype=np.float64)
    if x.shape != judgements.scores.shape:
        raise ValueError(f"relevance has shape {x.shape}, expected one number a judged pair: {judgements.scores.shape}")
    others = ~judgements.original
    return {"all": _pearson(x, judgements.scores), "non-gt": _pearson(x[others], judgements.scores[others])}


def cider_of_pairs(
    judgements: Judgements,
    karpathy: str | Path,
    cider: Cider | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> npt.NDArray[np.float64]:
    """φ of every judged pair, from the captions of Karpathy's dataset_coco.json.

    Args:
        judgements: the pairs.
        karpathy: the JSON file, {"images": [{"filename", "split", "sentences": [{"sentid", "raw"}]}]}.
        cider: options; fitted here on the images of the pairs. None: CIDEr-D, lower-case, split.
        progress: called with (captions read, captions in all).

    Returns:
        (n,) float64. A caption written for its image is among the image's references.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: the file does not hold that, or lacks a judged image or caption.
    """
    path = Path(karpathy)
    try:
        entries = read_json(path)["images"]
        images = {
            entry["filename"]: {integer_id(s["sentid"]): s["raw"] for s in entry["sentences"]} for entry in entries
        }
        if not all(isinstance(raw, str) for sentences in images.values() for raw in sentences.values()):
            raise TypeError("a caption that is no string")
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: not Karpathy's dataset_coco.json: {type(error).__name__} {error}") from error
    judged = as_spelt(judgements.images, images)
    missing = next((name for name in judged if name not in images), None)
    if missing is not None:
        raise DataError(f"{path}: has no image {missing!r}, which was judged")
    names = list(dict.fromkeys(judged))
    texts = {sentid: raw for sentences in images.values() for sentid, raw in sentences.items()}
    ids = coco_ids(judgements.captions, "captions that were judged")
    unknown = next((sentid for sentid in ids if sentid not in texts), None)
    if unknown is not None:
        raise DataError(f"{path}: has no sentence {unknown}, which was judged")
    references = [[*images[name].values()] for name in names]
    distinct = list(dict.fromkeys(ids))
    corpus = (
        (cider or Cider()).fit(references).encode(references, [texts[sentid] for sentid in distinct], progress=progress)
    )
    row, column = ({key: place for place, key in enumerate(keys)} for keys in (names, distinct))
    pairs = corpus.pairs([row[name] for name in judged], [column[sentid] for sentid in ids])
    return pairs.double().numpy()


def _pearson(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> float:
    if len(x) < 2 or x.std() == 0 or y.std() == 0:
        return math.nan
    return float(np.corrcoef(x, y)[0, 1])
