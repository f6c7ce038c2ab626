"""Where a command's similarities come from: files of scores or embeddings, trained models, original checkpoints."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from itm_fast.models import MatchingModel
    from itm_fast.similarities.scorers import TileScorer

_HUB = "hf-hub:"
_ARRAYS = (".npy", ".npz", ".json")
_KINDS = (
    "expected similarities (.npy, .npz, .json), embeddings (IMAGES.npy,CAPTIONS.npy, or a folder of itm-fast "
    "embed), the folder of a model, hf-hub:owner/name, or the checkpoint of an original repository"
)


@dataclass(frozen=True)
class ModelOptions:
    """What a model or a checkpoint needs beside itself to score a data set; the flags of ``itm-fast evaluate``."""

    data: Path | None = None
    split: str = "test"
    tokenizer: Literal["nltk", "split"] = "nltk"
    vocab: Path | None = None
    concepts: Path | None = None

    def on(self, split: str) -> ModelOptions:
        """The same with another split."""
        return dataclasses.replace(self, split=split)


def is_model(source: str) -> bool:
    """Whether a source is a model or a checkpoint, which scores any split, and not a file of one split."""
    return Path(source).suffix not in _ARRAYS and not _is_embedded(source)


def _is_embedded(source: str) -> bool:
    """Whether it is a folder that ``itm-fast embed`` wrote."""
    return (Path(source) / "embeddings.json").is_file()


def open_source(source: str, options: ModelOptions) -> TileScorer:
    """The similarities of a source.

    Args:
        source: NAME.npy, .npz or .json of similarities, IMAGES.npy,CAPTIONS.npy or a folder of ``itm-fast embed`` of
            embeddings, the folder of a trained model, hf-hub:owner/name, or any other file: a checkpoint of an original
            repository.
        options: what models need.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: it holds something else.
        ValueError: a model without data.
    """
    from itm_fast.similarities.scorers import DotProductScorer, MatrixScorer
    from itm_fast.sources.array_files import open_array

    if _is_embedded(source):
        from itm_fast.evaluation import read_embeddings

        return read_embeddings(source).scorer()
    if not is_model(source):
        images, comma, captions = source.partition(",")
        if comma:
            return DotProductScorer(open_array(Path(images)), open_array(Path(captions)))
        return MatrixScorer(open_array(Path(source)))
    path = Path(source)
    if not source.startswith(_HUB) and not path.exists():
        raise FileNotFoundError(f"{source}: no such file or folder; {_KINDS}")
    if options.data is None:
        raise ValueError(f"{source} is a model, which needs --data, the data set to score; {_KINDS}")
    return open_model(path, options.data, options, original=path.is_file())


def open_model(model: Path, data: Path, options: ModelOptions, *, original: bool) -> TileScorer:
    """A trained model, or a checkpoint of an original repository, on a split of a data set."""
    from itm_fast.data import PrecompDataset, open_split
    from itm_fast.sources.trained_model import ModelScorer

    loaded = _original(model, data, options) if original else _ours(model)
    dataset = open_split(data, options.split, loaded.config.image_size)
    if isinstance(dataset, PrecompDataset) and loaded.config.img_dim != dataset.dim:
        raise ValueError(
            f"{model} was trained on features {loaded.config.img_dim} wide, but those of {data}, split "
            f"{options.split!r}, are {dataset.dim} wide"
        )
    return ModelScorer(loaded, dataset, tokenizer=options.tokenizer)


def _ours(model: Path) -> MatchingModel:
    from itm_fast.models import load_model

    return load_model(model)


def _original(model: Path, data: Path, options: ModelOptions) -> MatchingModel:
    from itm_fast.data import load_vocabulary
    from itm_fast.originals import load_original

    return load_original(model, load_vocabulary(options.vocab or data / "vocab.json"), concepts=options.concepts)
