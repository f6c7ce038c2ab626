"""What a run is made of, from its settings: data, vocabulary, model, SAM, validation."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from itm_fast.config import DataConfig
from itm_fast.data.batches import BatchPlan, training_captions
from itm_fast.data.collate import Collator
from itm_fast.data.readers.data_folders import all_vocabularies, vocabularies_in
from itm_fast.data.readers.image_sets import open_split
from itm_fast.data.readers.images import ImageDataset
from itm_fast.data.readers.precomp import CaptionedSplit, PrecompDataset
from itm_fast.data.text.caption_tokens import CaptionTokens
from itm_fast.data.text.caption_vocabulary import CaptionVocabulary, load_vocabulary, tokenizer_note
from itm_fast.data.text.tokenizers import resolve_tokenizer
from itm_fast.data.text.vocabulary import Vocabulary
from itm_fast.evaluation.evaluate import evaluate
from itm_fast.models.axes import load_towers, with_architecture
from itm_fast.models.base import MatchingModel
from itm_fast.nn.encoders.bert import BERTEncoder
from itm_fast.nn.losses.semantic_margin import SemanticMarginLoss
from itm_fast.registry import model_class
from itm_fast.relevance import Cider
from itm_fast.relevance.cider import TokenizerName
from itm_fast.relevance.corpus import Corpus
from itm_fast.sources.fitting import check_has_regions, check_lengths
from itm_fast.sources.sharded import ShardedScorer
from itm_fast.sources.trained_model import ModelScorer
from itm_fast.training.distributed import World
from itm_fast.training.run_settings import RunSettings
from itm_fast.training.token_cache import TokenCache

Notice = Callable[[str], None]
Progress = Callable[[int, int], None]

_MANY_SEEN = 0.5  # share of the captions of a validation that are trained on; common ones are in both splits


@dataclass(frozen=True)
class Prepared:
    """What a run trains, on what, and how it is validated."""

    model: MatchingModel
    train_set: CaptionedSplit
    val_set: CaptionedSplit
    plan: BatchPlan
    margin: SemanticMarginLoss | None
    triplet_weight: float
    """Of the model's own triplet loss, beside SAM."""
    scorer: Callable[[], ModelScorer]
    """The model, in evaluation mode by then, on `val_set`."""
    validate: Callable[[], dict[str, Any]]


def check_cache_tokens(settings: RunSettings) -> None:
    """Raise ValueError where tokens are to be cached, but no encoder's stay what they are."""
    config = settings.model_config
    of_images = config.image_kind != "regions" and config.backbone_lr_factor == 0
    of_captions = config.text_kind != "bigru" and config.bert_lr_factor == 0
    if settings.data.cache_tokens is not None and not (of_images or of_captions):
        raise ValueError(
            f"cache_tokens is for encoders that never train: image_encoder is {config.image_kind!r} with "
            f"backbone_lr_factor {config.backbone_lr_factor}, text_encoder {config.text_kind!r} with bert_lr_factor "
            f"{config.bert_lr_factor}; give --image-encoder grid or patches and --backbone-lr-factor 0, or "
            "--text-encoder bert or clip and --bert-lr-factor 0"
        )


def prepare(settings: RunSettings, device: torch.device, world: World, notice: Notice) -> Prepared:
    """Read the data and make the model, without its pretrained weights.

    Args:
        settings: The run's.
        device: Of the model.
        world: This process among several.
        notice: Called with what people should read.

    Raises:
        FileNotFoundError: A file of the data is missing.
        DataError: A file does not hold what it should.
        ValueError: Settings that do not fit the data.
    """
    check_cache_tokens(settings)
    for note in _endless_warmups(settings):
        notice(note)
    settings = replace(settings, model_config=with_architecture(settings.model_config))
    data, training = settings.data, settings.training
    train_set, val_set = (
        open_split(
            data.folder,
            split,
            settings.model_config.image_size,
            resampling=settings.model_config.resampling,
            drop_blank=data.drop_blank,
        )
        for split in (data.train_split, data.val_split)
    )
    _check_features(settings, train_set, val_set)
    for dataset in (train_set, val_set):
        for note in (*dataset.notes, *dataset.look()):
            notice(note)
    seen = set(train_set.captions)
    n_seen = sum(caption in seen for caption in val_set.captions)
    if n_seen > _MANY_SEEN * val_set.n_captions:
        notice(
            f"{n_seen} of {val_set.n_captions} captions of split {data.val_split} are in split {data.train_split} word "
            "for word: which model is the best is decided by what it was trained on"
        )
    own = settings.model_config.own_vocabulary()
    vocabulary = find_vocabulary(data, train_set, val_set, notice) if own is None else own
    split_by = tokenizer_note(vocabulary, data.tokenizer)
    if split_by is not None:
        notice(split_by)
    if isinstance(vocabulary, Vocabulary):  # what is trained with is kept with the model
        vocabulary.tokenizer = data.tokenizer or vocabulary.tokenizer or "nltk"
    torch.manual_seed(training.seed)
    kind = model_class(settings.model)
    model = kind(settings.model_config, vocabulary).to(device)
    tokens, val_tokens = (model.tokens_of(split.captions) for split in (train_set, val_set))
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
    if data.cache_tokens is not None:
        cache = TokenCache(data.cache_tokens, device, training.precision, world.size == 1, notice)
        train_set, val_set, tokens, val_tokens = _cached(settings, model, cache, train_set, val_set, tokens, val_tokens)
    captions = training_captions(train_set, data, training.seed)
    if len(captions) < train_set.n_captions:
        notice(f"{len(captions)} of {train_set.n_captions} training captions: --data-percent {data.data_percent:g}")
    n_noted = len(model.notes)
    model.prepare(tokens, captions)
    for note in model.notes[n_noted:]:
        notice(note)
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
    triplet_weight = settings.sam.sam_triplet_weight if margin else 1.0

    def scorer() -> ModelScorer:
        return ModelScorer(model, val_set, tokens=val_tokens, device=device)

    validate = _validator(settings, val_set, scorer, device, world)
    return Prepared(model, train_set, val_set, plan, margin, triplet_weight, scorer, validate)


def _endless_warmups(settings: RunSettings) -> list[str]:
    """What to say where the run is over before a warm-up is."""
    config, training = settings.model_config, settings.training
    has_backbone = config.image_kind != "regions" and config.backbone_lr_factor > 0
    has_transformer = config.text_kind != "bigru" and config.bert_lr_factor > 0
    warmups = (
        ("embedding-warmup-epochs", config.embedding_warmup_epochs, has_backbone, "the backbone never trains"),
        ("bert-warmup-epochs", config.bert_warmup_epochs, has_transformer, "the text encoder never trains"),
        ("vse-mean-warmup-epochs", training.vse_mean_warmup_epochs, config.max_violation, "all negatives always count"),
    )
    return [
        f"--{flag} {n} of --num-epochs {training.num_epochs}: {what}"
        for flag, n, is_there, what in warmups
        if is_there and n >= training.num_epochs
    ]


def _cached(
    settings: RunSettings,
    model: MatchingModel,
    cache: TokenCache,
    train_set: CaptionedSplit,
    val_set: CaptionedSplit,
    tokens: CaptionTokens,
    val_tokens: CaptionTokens,
) -> tuple[CaptionedSplit, CaptionedSplit, CaptionTokens, CaptionTokens]:
    """Both splits and their captions, with the tokens of whichever encoder never trains."""
    config, tower, text = model.config, model.tower, model.txt_enc
    of_images, of_captions = config.backbone_lr_factor == 0, config.bert_lr_factor == 0
    has_text = isinstance(text, BERTEncoder)
    load_towers(config, tower if of_images else None, text if of_captions else None)
    why = "what trains, if only after its warm-up, is not cached"
    if tower is not None and of_images:
        made_with = {
            "class_token": config.class_token,
            "backbone_config": json.dumps(config.backbone_config, sort_keys=True),
        }
        made_with |= {"backbone_source": config.backbone_source} if config.image_kind == "grid" else {}
        train_set, val_set = (
            cache.of_images(tower, split, made_with) if isinstance(split, ImageDataset) else split
            for split in (train_set, val_set)
        )
    elif tower is not None:
        cache.notice(f"images are encoded in every step: backbone_lr_factor is {config.backbone_lr_factor}, {why}")
    if isinstance(text, BERTEncoder) and of_captions:
        made_with = {"bert_config": json.dumps(config.bert_config, sort_keys=True)}
        val_tokens = cache.of_captions(text, val_tokens, settings.data.val_split, made_with)
        if settings.training.size_augment:
            cache.notice("training captions are encoded in every step: size_augment changes them")
        else:
            tokens = cache.of_captions(text, tokens, settings.data.train_split, made_with)
    elif has_text:
        cache.notice(f"captions are encoded in every step: bert_lr_factor is {config.bert_lr_factor}, {why}")
    return train_set, val_set, tokens, val_tokens


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
    tokenizer = data.tokenizer or "nltk"
    words = map(resolve_tokenizer(tokenizer), [*train_set.captions, *val_set.captions])
    vocabulary = Vocabulary.build(words, tokenizer=tokenizer)
    notice(
        f"{data.folder} has no vocab.json: made one of {len(vocabulary)} words from the captions of train and dev, "
        f"split by {tokenizer}"
    )
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
    dataset: CaptionedSplit,
    scorer: Callable[[], ModelScorer],
    device: torch.device,
    world: World,
) -> Callable[[], dict[str, Any]]:
    relevance = None
    if settings.training.select == "nsum":
        relevance = corpus_of(dataset, tokenizer=settings.data.cider_tokenizer)

    def validate() -> dict[str, Any]:
        alone = scorer()
        shared = alone if world.size == 1 else ShardedScorer(alone, world.rank, world.size, device)
        report = evaluate(shared, relevance, ks=(1, 5, 10))
        sums = {name: report[name] for name in ("rsum", "nsum", "nsum(N)") if name in report}
        wanted = ("R@1", "R@5", "R@10", "medr", "meanr", "NCS@1", "NCS@5", "NCS@10")
        found = {way: {name: report[way][name] for name in wanted if name in report[way]} for way in ("i2t", "t2i")}
        return {**sums, **found}

    return validate
