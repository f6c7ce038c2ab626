"""A training run from its settings: data, vocabulary, model, SAM, validation, and the loop over them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from itm_fast.config import DataConfig, SAMConfig, TrainingConfig
from itm_fast.data.batches import BatchPlan, training_captions
from itm_fast.data.collate import Collator
from itm_fast.data.readers.data_folders import all_vocabularies, vocabularies_in
from itm_fast.data.readers.images import open_split
from itm_fast.data.readers.precomp import CaptionedSplit, PrecompDataset
from itm_fast.data.text.caption_tokens import CaptionTokens
from itm_fast.data.text.caption_vocabulary import CaptionVocabulary, load_vocabulary
from itm_fast.data.text.tokenizers import resolve_tokenizer
from itm_fast.data.text.vocabulary import Vocabulary
from itm_fast.errors import DataError
from itm_fast.evaluation.evaluate import evaluate
from itm_fast.files.reading import read_json
from itm_fast.files.writing import written_aside
from itm_fast.models.base import MatchingConfig, MatchingModel
from itm_fast.nn.losses.semantic_margin import SemanticMarginLoss
from itm_fast.registry import model_class
from itm_fast.relevance import Cider
from itm_fast.relevance.cider import TokenizerName
from itm_fast.relevance.corpus import Corpus
from itm_fast.sources.fitting import check_has_regions, check_lengths
from itm_fast.sources.sharded import ShardedScorer
from itm_fast.sources.trained_model import ModelScorer
from itm_fast.training.distributed import World, joined_world
from itm_fast.training.log import RunLog
from itm_fast.training.loop import CHECKPOINT, Result, train
from itm_fast.training.state import load_checkpoint

SETTINGS = "train.json"

Notice = Callable[[str], None]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class RunSettings:
    """All that a run depends on, as written to its train.json."""

    model: str
    """Name of the model in the registry."""
    model_config: MatchingConfig
    """The model's configuration."""
    data: DataConfig
    training: TrainingConfig
    sam: SAMConfig

    def save(self, path: Path) -> None:
        """Write as JSON, aside and then renamed."""
        with written_aside(path) as aside:
            aside.write_text(json.dumps(dataclasses.asdict(self), indent=2, default=str) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> RunSettings:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            DataError: It is something else.
        """
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; expected the folder of a run that `itm-fast train` began")
        try:
            found = read_json(path)
            paths = {name: Path(found["data"][name]) for name in ("data_path", "vocab_path") if found["data"][name]}
            training = {**found["training"], "trackers": tuple(found["training"]["trackers"])}
            return cls(
                found["model"],
                model_class(found["model"]).config_class(**found["model_config"]),
                DataConfig(**{**found["data"], **paths}),
                TrainingConfig(**training),
                SAMConfig(**found["sam"]),
            )
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{path}: not the settings of a run: {error}") from error


def run_training(
    settings: RunSettings,
    folder: Path,
    *,
    resume: bool = False,
    log_folder: Path | None = None,
    notice: Notice = lambda message: None,
    progress: Progress = lambda done, total: None,
) -> Result:
    """Train as the settings say; started by torchrun, together with the other processes.

    Args:
        settings: The run's.
        folder: Gets train.json, checkpoint.pt, best/ and, without `log_folder`, the log.
        resume: Go on from the folder's checkpoint.
        log_folder: Gets log.jsonl and tensorboard/.
        notice: Called with what people should read.
        progress: Called with (steps done, steps in all).

    Returns:
        Losses and the best validation.

    Raises:
        FileNotFoundError: A file of the data, or of the run to resume, is missing.
        DataError: A file does not hold what it should.
        ValueError: Settings that do not fit the data.
        DivergedError: The loss is no longer a number.
        OSError: The disk is full.
    """
    device = _device(settings.training.device)
    if not resume and (folder / CHECKPOINT).exists():
        raise ValueError(f"{folder} holds a run already: go on with --resume {folder}, or give another --model-name")
    with joined_world(device) as world:
        if world.size > 1 and device.type == "cuda":
            device = torch.device("cuda", world.local_rank)
        prepared = _prepare(settings, device, world, notice if world.is_first else lambda message: None)
        fingerprint = _fingerprint(settings, prepared)
        state = load_checkpoint(folder / CHECKPOINT, fingerprint) if resume else None  # before anything is written
        if state is None:
            prepared.model.load_pretrained()
        log = None
        if world.is_first:
            folder.mkdir(parents=True, exist_ok=True)
            (log_folder or folder).mkdir(parents=True, exist_ok=True)
            settings.save(folder / SETTINGS)
            from_step = state["step"] if state else 0
            log = RunLog(log_folder or folder, trackers=settings.training.trackers, from_step=from_step, notice=notice)
        try:
            return train(
                prepared.model,
                prepared.plan,
                settings.training,
                margin=prepared.margin,
                triplet_weight=settings.sam.sam_triplet_weight if prepared.margin else 1.0,
                validate=prepared.validate,
                folder=folder,
                log=log,
                settings=fingerprint,
                resume=state,
                world=world,
                progress=progress if world.is_first else lambda done, total: None,
            )
        finally:
            if log:
                log.close()


@dataclass(frozen=True)
class _Prepared:
    model: MatchingModel
    plan: BatchPlan
    margin: SemanticMarginLoss | None
    validate: Callable[[], dict[str, Any]]


def _prepare(settings: RunSettings, device: torch.device, world: World, notice: Notice) -> _Prepared:
    data, training = settings.data, settings.training
    image_size = settings.model_config.image_size
    train_set, val_set = (
        open_split(data.folder, split, image_size, drop_blank=data.drop_blank)
        for split in (data.train_split, data.val_split)
    )
    _check_features(settings, train_set, val_set)
    for dataset in (train_set, val_set):
        for note in (*dataset.notes, *dataset.look()):
            notice(note)
    own = settings.model_config.own_vocabulary()
    vocabulary = find_vocabulary(data, train_set, val_set, notice) if own is None else own
    torch.manual_seed(training.seed)
    kind = model_class(settings.model)
    model = kind(settings.model_config, vocabulary).to(device)
    tokens, val_tokens = (model.tokens_of(split.captions, data.tokenizer) for split in (train_set, val_set))
    if tokens.n_attached_stops:
        notice(
            f"nltk's punkt_tab data is not installed: in at most {tokens.n_attached_stops} training captions a full "
            "stop stays on its word"
        )
    for split, encoded in ((data.train_split, tokens), (data.val_split, val_tokens)):
        unknown = encoded.unknown_note(vocabulary)
        if unknown is not None:
            notice(f"split {split}: {unknown}")
    check_lengths(model, tokens, train_set)
    check_lengths(model, val_tokens, val_set)
    captions = training_captions(train_set, data, training.seed)
    model.prepare(tokens, captions)
    plan = BatchPlan(
        Collator(train_set, tokens, has_image_tokens=model.reads_image_tokens(training=True)),
        training.batch_size,
        training.num_epochs,
        caption_indices=captions,
        seed=training.seed,
        augment=model.size_augment() if training.size_augment else None,
        rank=world.rank,
        world_size=world.size,
    )
    margin = _semantic_margin(settings, train_set, captions.tolist()) if settings.sam.sam else None
    return _Prepared(model, plan, margin, _validator(settings, model, val_set, val_tokens, device, world))


def _check_features(settings: RunSettings, *datasets: CaptionedSplit) -> None:
    for dataset in datasets:
        if not isinstance(dataset, PrecompDataset):
            continue  # images fit every model that reads images
        check_has_regions(model_class(settings.model), dataset)
        if dataset.dim != settings.model_config.img_dim:
            raise ValueError(
                f"the features of {dataset.folder}, split {dataset.split!r}, are {dataset.dim} wide, but img_dim is "
                f"{settings.model_config.img_dim}; give --img-dim {dataset.dim}"
            )
        n_regions = getattr(settings.model_config, "n_regions", dataset.max_regions)
        if dataset.max_regions != n_regions:
            raise ValueError(
                f"the images of {dataset.folder}, split {dataset.split!r}, have {dataset.max_regions} regions, but "
                f"n_regions is {n_regions}; give --n-regions {dataset.max_regions}"
            )


def find_vocabulary(
    data: DataConfig, train_set: CaptionedSplit, val_set: CaptionedSplit, notice: Notice = lambda message: None
) -> CaptionVocabulary:
    """The vocabulary that the settings name, the data set's own, or a new one of its captions.

    Args:
        data: Says where to look.
        train_set: Its captions make a new vocabulary ...
        val_set: ... together with these.
        notice: Called when a new one is made.

    Raises:
        FileNotFoundError: `vocab_path` names no vocabulary.
        DataError: The file is no vocabulary.
    """
    if data.vocab_path is not None and not data.vocab_path.is_dir():
        return load_vocabulary(data.vocab_path)
    if data.vocab_path is not None:
        found = vocabularies_in(data.vocab_path, data.folder)
        if found:
            return Vocabulary.load(found[0])
        held = ", ".join(path.name for path in all_vocabularies(data.vocab_path)) or "no vocabulary"
        raise FileNotFoundError(
            f"{data.vocab_path}: holds {held}, but not {data.data_name}_vocab.json or .pkl; give --vocab-path the file"
        )
    if (data.folder / "vocab.json").is_file():
        return Vocabulary.load(data.folder / "vocab.json")
    split = resolve_tokenizer(data.tokenizer)
    vocabulary = Vocabulary.build(split(caption) for caption in [*train_set.captions, *val_set.captions])
    notice(f"{data.folder} has no vocab.json: made one of {len(vocabulary)} words from the captions of train and dev")
    return vocabulary


def _semantic_margin(settings: RunSettings, dataset: CaptionedSplit, captions: list[int]) -> SemanticMarginLoss:
    """SAM with CIDEr's document frequencies from the training captions that are left, as the paper's code has it."""
    sam, owners = settings.sam, dataset.caption_to_image.tolist()
    left: dict[int, list[str]] = {}
    for caption in captions:
        left.setdefault(owners[caption], []).append(dataset.captions[caption])
    return SemanticMarginLoss(
        corpus_of(dataset, Cider(tokenizer=settings.data.cider_tokenizer).fit(list(left.values()))),
        temperature=sam.sam_temperature,
        sampling=sam.sam_sampling,
        variant=sam.sam_variant,
        margin_max=sam.sam_margin_max,
        t2i_margin=sam.sam_t2i_margin,
        weight=sam.sam_weight,
        triplet_weight=0.0,
        seed=settings.training.seed,
    )


def corpus_of(
    dataset: CaptionedSplit,
    fitted: Cider | None = None,
    *,
    tokenizer: TokenizerName = "split",
    progress: Progress | None = None,
) -> Corpus:
    """φ of the captions of a split to its images.

    Args:
        dataset: The split.
        fitted: Has document frequencies; None: those of the split.
        tokenizer: As ``Cider`` takes it, where none is given.
        progress: Called with (captions done, captions in all).

    Raises:
        ValueError: An image has no caption.
    """
    references = dataset.captions_by_image()
    empty = next((image for image, captions in enumerate(references) if not captions), None)
    if empty is not None:
        raise ValueError(
            f"image {empty} of {dataset.folder}, split {dataset.split!r}, has no caption, so that no caption has a "
            "relevance to it; leave relevance (SAM, NCS) out, or the image"
        )
    in_order = bool((np.diff(dataset.caption_to_image) >= 0).all())
    cider = Cider(tokenizer=tokenizer).fit(references) if fitted is None else fitted
    return cider.encode(references, None if in_order else dataset.captions, progress=progress)


def _validator(
    settings: RunSettings,
    model: MatchingModel,
    dataset: CaptionedSplit,
    tokens: CaptionTokens,
    device: torch.device,
    world: World,
) -> Callable[[], dict[str, Any]]:
    relevance = None
    if settings.training.select == "nsum":
        relevance = corpus_of(dataset, tokenizer=settings.data.cider_tokenizer)

    def validate() -> dict[str, Any]:
        scorer = ModelScorer(model, dataset, tokenizer=settings.data.tokenizer, tokens=tokens, device=device)
        shared = scorer if world.size == 1 else ShardedScorer(scorer, world.rank, world.size, device)
        report = evaluate(shared, relevance, ks=(1, 5, 10))
        sums = {name: report[name] for name in ("rsum", "nsum", "nsum(N)") if name in report}
        wanted = ("R@1", "R@5", "R@10", "medr", "meanr", "NCS@1", "NCS@5", "NCS@10")
        found = {way: {name: report[way][name] for name in wanted if name in report[way]} for way in ("i2t", "t2i")}
        return {**sums, **found}

    return validate


def _fingerprint(settings: RunSettings, prepared: _Prepared) -> dict[str, Any]:
    """What must not change when a run is resumed; the length of the run and its log may."""
    training = settings.training
    return {
        "model": settings.model,
        "model_config": json.dumps(dataclasses.asdict(prepared.model.config), sort_keys=True, default=str),
        "sam": json.dumps(dataclasses.asdict(settings.sam), sort_keys=True),
        "vocabulary": prepared.model.vocabulary.fingerprint,
        "steps_per_epoch": prepared.plan.steps_per_epoch,
        "batch_size": training.batch_size,
        "accumulation_steps": training.accumulation_steps,
        "optim": training.optim,
        "seed": training.seed,
        "size_augment": training.size_augment,
        "data_subset": settings.data.data_subset,
    }


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f'device is {name!r}; expected "auto", "cpu", "cuda" or "cuda:N"') from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device is {name!r}, but torch {torch.__version__} finds no CUDA device; --device cpu works")
    return device
