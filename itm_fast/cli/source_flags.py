"""Where a command's similarities come from: files of scores or embeddings, trained models, original checkpoints."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from itm_fast.choices import Precision, WordTokenizer
from itm_fast.cli.console import print_warning

if TYPE_CHECKING:
    from itm_fast.models import MatchingModel
    from itm_fast.similarities.scorers import TileScorer

_HUB = "hf-hub:"
_ARRAYS = (".npy", ".npz", ".json", ".txt", ".csv", ".tsv")
_KINDS = (
    "expected similarities (.npy, .npz, .json, .txt, .csv), embeddings (IMAGES.npy,CAPTIONS.npy, or a folder of "
    "itm-fast embed), the folder of a model, hf-hub:owner/name, or the checkpoint of an original repository, also "
    "CHECKPOINT@VOCABULARY"
)


@dataclass(frozen=True)
class ModelOptions:
    """What a model or a checkpoint needs beside itself to score a data set; the flags of ``itm-fast evaluate``."""

    data: Path | None = None
    split: str = "test"
    tokenizer: WordTokenizer | None = None
    vocab: Path | None = None
    concepts: Path | None = None
    plain_captions: bool = False
    ignore_options: tuple[str, ...] = ()
    drop_blank: bool = False
    device: str = "auto"
    precision: Precision = "float32"

    def on(self, split: str) -> ModelOptions:
        """The same with another split."""
        return dataclasses.replace(self, split=split)


def is_model(source: str) -> bool:
    """Whether a source is a model or a checkpoint, which scores any split, and not a file of one split."""
    return with_vocabulary(source)[1] is not None or (Path(source).suffix not in _ARRAYS and not is_embedded(source))


def is_embedded(source: str) -> bool:
    """Whether it is a folder that ``itm-fast embed`` wrote."""
    return (Path(source) / "embeddings.json").is_file()


def with_vocabulary(source: str) -> tuple[str, Path | None]:
    """A source and the vocabulary that was put behind an @, or None: CHECKPOINT@VOCABULARY."""
    model, at, vocabulary = source.rpartition("@")
    if not at or not model or not vocabulary or source.startswith(_HUB) or Path(source).exists():
        return source, None  # on the hub a revision is behind the @
    return model, Path(vocabulary)


def open_source(source: str, options: ModelOptions) -> TileScorer:
    """The similarities of a source.

    Args:
        source: .npy, .npz, .json, .txt or .csv of similarities, IMAGES.npy,CAPTIONS.npy or a folder of
            ``itm-fast embed`` of embeddings, the folder of a trained model, hf-hub:owner/name, or any other file: a
            checkpoint of an original repository, also CHECKPOINT@VOCABULARY.
        options: what models need.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: it holds something else.
        ValueError: a model without data.
    """
    from itm_fast.similarities.scorers import DotProductScorer, MatrixScorer
    from itm_fast.sources.array_files import open_array

    if is_embedded(source):
        from itm_fast.evaluation import read_embeddings

        return read_embeddings(source).scorer()
    if not is_model(source):
        images, comma, captions = source.partition(",")
        if comma:
            return DotProductScorer(open_array(Path(images)), open_array(Path(captions)))
        return MatrixScorer(open_array(Path(source)))
    path = Path(with_vocabulary(source)[0])
    if not source.startswith(_HUB) and not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder; {_KINDS}")
    if options.data is None:
        raise ValueError(f"{source} is a model, which needs --data, the data set to score; {_KINDS}")
    return open_model(source, options.data, options, original=path.is_file())


def open_model(model: str, data: Path, options: ModelOptions, *, original: bool) -> TileScorer:
    """A trained model, or a checkpoint of an original repository, on a split of a data set.

    Args:
        model: a folder, hf-hub:owner/name, or the file of a checkpoint, also CHECKPOINT@VOCABULARY.
        data: the data set, or the folder above its precomp/.
        options: what else is needed.
        original: what ``model`` is where it is not there.
    """
    from itm_fast.data import PrecompDataset, open_split
    from itm_fast.data.readers.data_folders import data_set_folder
    from itm_fast.sources.devices import resolve_device
    from itm_fast.sources.trained_model import ModelScorer

    name, vocabulary = with_vocabulary(model)
    device, tokenizer = resolve_device(options.device, print_warning), options.tokenizer
    path, data, loaded_whole = Path(name), data_set_folder(data), False
    if path.is_file() or (original and not path.is_dir()):
        loaded = _original(path, data, options, vocabulary or options.vocab)
        tokenizer = tokenizer or (None if loaded.vocabulary.tokenizer else "nltk")  # as all original codes do
    elif vocabulary is not None:
        raise ValueError(f"{name} brings its vocabulary: leave out what is behind the @, which is for checkpoints")
    else:
        loaded, loaded_whole = _ours(path), True
    config = loaded.config
    dataset = open_split(
        data, options.split, config.image_size, resampling=config.resampling, drop_blank=options.drop_blank
    )
    if isinstance(dataset, PrecompDataset) and loaded.config.img_dim != dataset.dim:
        raise ValueError(
            f"{name} was trained on features {loaded.config.img_dim} wide, but those of {data}, split "
            f"{options.split!r}, are {dataset.dim} wide"
        )
    if device.type != "cpu":
        loaded = loaded.to(device)
    # Made before the look at all features, so that it says first what does not fit.
    scorer = ModelScorer(loaded, dataset, tokenizer=tokenizer, device=device, precision=options.precision)
    scorer.notes += dataset.look()
    if options.vocab is not None and loaded_whole:
        scorer.notes.append(f"--vocab {options.vocab} is not read for {name}, which brings its vocabulary.")
    return scorer


def _ours(model: Path) -> MatchingModel:
    from itm_fast.models import load_model

    if model.is_dir() and not (model / "config.json").is_file() and (model / "best" / "config.json").is_file():
        model = model / "best"  # of a run of itm-fast train
    return load_model(model)


def _original(model: Path, data: Path, options: ModelOptions, named: Path | None) -> MatchingModel:
    from itm_fast.data import load_vocabulary
    from itm_fast.errors import DataError
    from itm_fast.originals import load_original

    if not model.is_file():
        raise FileNotFoundError(f"{model}: no such file; expected a checkpoint such as model_best.pth.tar")
    places = _vocabularies(model, data, named)
    for number, place in enumerate(places, start=1):
        try:
            return load_original(
                model,
                load_vocabulary(place),
                concepts=options.concepts,
                as_released=not options.plain_captions,
                ignore_options=options.ignore_options,
            )
        except DataError as error:
            if number < len(places):
                continue  # the vocabularies of a folder differ in size: the number of the checkpoint's words decides
            if "vocabulary" not in str(error):
                raise
            tried = ", ".join(map(str, places))
            raise DataError(
                f"{error}; read {tried}: give the right one as --vocab, or as {model}@VOCABULARY"
            ) from error
    raise AssertionError("there is always a place")


def _vocabularies(model: Path, data: Path, named: Path | None) -> list[Path]:
    """Where the vocabulary of a checkpoint may be: what is named, or beside the checkpoint, or in the data set."""
    from itm_fast.data.readers.data_folders import all_vocabularies, vocabularies_in
    from itm_fast.pretrained import pretrained_folder

    if named is None:
        found = [*vocabularies_in(model.parent, data), *vocabularies_in(data, data)]
        found += [model.parent] if _is_of_bert(model.parent) else []
        if found:
            return list(dict.fromkeys(found))
        raise FileNotFoundError(
            f"{model}: its vocabulary is neither beside it nor in {data} (vocab.json): give it as --vocab (of BERT the "
            f"folder with vocab.txt, or a name in the cache such as bert-base-uncased), or as {model}@VOCABULARY"
        )
    if not named.exists() and named.suffix not in (".json", ".pkl", ".txt"):
        files = "vocab.txt or tokenizer.json; or the file of a vocabulary"
        return [pretrained_folder(str(named), argument="--vocab", files=files)]
    if not named.is_dir() or _is_of_bert(named):
        return [named]
    found = vocabularies_in(named, data)
    if found:
        return found
    held = all_vocabularies(named)
    if not held:
        raise FileNotFoundError(f"{named}: holds no vocabulary (*vocab.json, *vocab.pkl; of BERT vocab.txt)")
    raise FileNotFoundError(
        f"{named}: holds {', '.join(path.name for path in held)}, none of them called after the data set {data}: give "
        f"the one the checkpoint was trained with, such as --vocab {held[0]}"
    )


def _is_of_bert(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("vocab.txt", "tokenizer.json"))
