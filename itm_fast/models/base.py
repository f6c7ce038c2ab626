"""What every model offers: encoders, a similarity, and what it adds to the loss of a batch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn

from itm_fast.config import TrainingConfig, check_switches
from itm_fast.data.augment import SizeAugment, compacted
from itm_fast.data.collate import Batch
from itm_fast.data.text.caption_tokens import CaptionTokens
from itm_fast.data.text.caption_vocabulary import CaptionVocabulary
from itm_fast.data.text.tokenizers import Tokenizer
from itm_fast.indices import IndexLike
from itm_fast.models.axes import (
    Axes,
    Tower,
    check_grid,
    check_vocabulary,
    load_towers,
    own_vocabulary,
    with_architecture,
)
from itm_fast.nn.encoders.bert import BERTEncoder
from itm_fast.nn.losses.triplet import TripletLoss
from itm_fast.ops import _checks
from itm_fast.ops._blocks import padding, valid_counts
from itm_fast.ops._counts import Counts, counted_in_place
from itm_fast.ops._ragged import Packed

TextEncType = Literal["bigru", "bert"]


@dataclass(frozen=True)
class MatchingConfig(Axes):
    """What every model's configuration has; defaults as in SCAN, which the others began from.

    Raises:
        ValueError: A number is out of range.
        TypeError: A number is none.
    """

    word_dim: int = 300
    """Numbers per word vector before the GRU."""
    num_layers: int = 1
    """Layers of the GRU."""
    margin: float = 0.2
    """Margin of the hinge loss, in units of the similarities."""
    max_violation: bool = False
    """Only the hardest negatives count."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_sizes("img_dim", "word_dim", "embed_size", "num_layers")
        _checks.check_finite("margin", self.margin, positive=False)
        check_switches(self)
        if self.image_kind == "grid":
            check_grid(self)

    def own_vocabulary(self) -> CaptionVocabulary | None:
        """The vocabulary that a pretrained text encoder brings; None: that of the data."""
        return own_vocabulary(self)

    def _check_sizes(self, *names: str) -> None:
        """Raises ValueError unless the named numbers are integers of at least 1."""
        for name in names:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")


@dataclass(frozen=True)
class Preset:
    """Hyper-parameters under a name: a model's and its training's."""

    model: MatchingConfig
    """The model's configuration."""
    training: TrainingConfig
    """Epochs, learning rate and the like."""


class FurtherPairs(NamedTuple):
    """Embeddings of the batch's images and captions besides those that are ranked by, with a triplet loss of their own.

    Their similarity is their dot product.
    """

    images: Tensor
    """(B, dim) floating."""
    captions: Tensor
    """(B, dim) floating."""
    weight: float
    """Of `MatchingModel.loss` on them."""


class Encoded(NamedTuple):
    """A batch after the encoders, as `MatchingModel.similarity` takes it."""

    images: Tensor
    """(B, ...) floating."""
    captions: Tensor
    """(B, ...) floating."""
    extra_losses: Tensor | None = None
    """(B,): what each pair costs by itself, such as VSRN's captioning; `MatchingModel.extra_loss` takes it."""
    further: tuple[FurtherPairs, ...] = ()
    """What else has a triplet loss."""


@dataclass(frozen=True)
class TextConfig(MatchingConfig):
    """How captions are encoded, by the flag's name of CHAN.

    Raises:
        ValueError: A number is out of range, or an option is unknown.
        TypeError: A number is none.
    """

    text_enc_type: TextEncType = "bigru"
    """What encodes captions where text_encoder says nothing: "bigru" or "bert"."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _checks.check_choice("text_enc_type", self.text_enc_type, TextEncType)


F = TypeVar("F", bound=Callable[..., Tensor])


def outside_autocast(similarity: F) -> F:
    """Of similarities in plain torch: made outside of autocast, of tensors that are at least float32.

    The fused operators take 16-bit vectors and return float32; plain products would return what they take, and hinges
    of similarities near 1 do not survive bfloat16, which has steps of 0.004 there.
    """

    @functools.wraps(similarity)
    def made(self: object, images: Tensor, captions: Tensor | Packed, *counts: Counts, **named: Counts) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):
            if isinstance(captions, Packed):
                captions = captions._replace(vectors=_at_least_float32(captions.vectors))
            else:
                captions = _at_least_float32(captions)
            return similarity(self, _at_least_float32(images), captions, *counts, **named)

    return cast(F, made)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def missing_regions(images: Tensor, region_counts: Counts) -> Tensor | None:
    """The counts if an image has fewer regions than there are rows, else None; on CUDA this waits for the device.

    Raises:
        ValueError: A count is outside 1 ... max_regions, or a mask is padded before the regions.
    """
    region_counts = counted_in_place("region_counts", region_counts, "images", images)
    if region_counts is None:
        return None
    counts = valid_counts("region_counts", region_counts, images)
    return None if bool((counts == images.shape[1]).all()) else counts


def without_missing(images: Tensor, region_counts: Counts) -> tuple[Tensor, Tensor | None]:
    """Images (n, max_regions, dim), zeros for what is missing, and their counts as `missing_regions` has them."""
    counts = missing_regions(images, region_counts)
    if counts is None:
        return images, None
    return images.masked_fill(padding(counts, images.shape[1])[..., None], 0), counts


def of_n_regions(images: Tensor, region_counts: Counts, n_regions: int) -> tuple[Tensor, Tensor | None]:
    """`without_missing` for models with a parameter a region: zeros up to n_regions, where there are counts."""
    region_counts = counted_in_place("region_counts", region_counts, "images", images)
    if region_counts is not None and images.shape[1] < n_regions:
        images = nn.functional.pad(images, (0, 0, 0, n_regions - images.shape[1]))
    return without_missing(images, region_counts)


def dot_products(images: Tensor, captions: Tensor) -> Tensor:
    """Embeddings (n, dim) and (m, dim) -> (n, m), outside of autocast and at least float32."""
    with torch.autocast(images.device.type, enabled=False):
        images, captions = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (images, captions))
        return torch.matmul(images, captions.T)


class MatchingModel(nn.Module):
    """Base of all models: an encoder of images, one of captions, a similarity.

    Args of a model are its configuration and its vocabulary. State dict: `img_enc.*`, `txt_enc.*` and, where the
    similarity has parameters, `sim_enc.*`, each with the names of the original.
    """

    name: ClassVar[str]
    """As in the registry."""
    config_class: ClassVar[type[MatchingConfig]]
    """The configuration's dataclass."""

    triplet_weight: float = 1.0
    """Of `loss` on `similarity` beside the model's other losses."""
    compares_embeddings: bool = False
    """Whether the similarity is the dot product of one vector an image and one a caption."""
    reads_vectors: ClassVar[bool] = False
    """Whether images may be one vector each, (n, 1, img_dim): whether nothing is lost without regions."""

    img_enc: nn.Module
    txt_enc: nn.Module
    sim_enc: nn.Module

    def __init__(self, config: MatchingConfig, vocabulary: CaptionVocabulary) -> None:
        super().__init__()
        if not isinstance(config, self.config_class):
            raise TypeError(f"config must be a {self.config_class.__name__}, got {config!r:.40}")
        self.config, self.vocabulary = with_architecture(config), vocabulary
        check_vocabulary(self.config, vocabulary)
        self.loss = TripletLoss(config.margin, config.max_violation)
        self.notes: list[str] = []  # what a reader of its figures should know

    def extra_repr(self) -> str:
        """The configuration, for print(model)."""
        return repr(self.config)

    def tokens_of(self, captions: Iterable[str], tokenizer: Tokenizer | None = None) -> CaptionTokens:
        """Captions as the tokens that the model takes; `tokenizer` as in `CaptionTokens.from_captions`."""
        return CaptionTokens.from_captions(captions, self.vocabulary, tokenizer)

    def encode_images(self, images: Tensor, region_counts: Counts = None) -> Tensor:
        """(n, max_regions, img_dim), region_counts (n,) or None = all valid -> what `similarity` takes of images.

        Counts are integers of any kind, or a mask padded behind; nothing beyond one is read. With a backbone, red,
        green and blue from 0 to 255, (n, 3, image_size, image_size), without counts; or what the backbone made of them.
        """
        encoded: Tensor = self.img_enc(without_missing(images, region_counts)[0])
        return encoded

    def encode_captions(self, tokens: Tensor, word_counts: Counts) -> Tensor:
        """Tokens (n, max_words) int64, word_counts (n,) likewise -> what `similarity` takes of captions.

        A transformer takes what it made of the tokens before, (n, max_words, hidden_size) floating, as well.
        """
        encoded: Tensor = self.txt_enc(tokens, word_counts)
        return encoded

    def similarity(self, images: Tensor, captions: Tensor, word_counts: Counts, region_counts: Counts = None) -> Tensor:
        """N images and m captions as encoded, word_counts (m,) int64 -> sims (n, m).

        Where images are encoded as regions, region_counts (n,) int64 says how many there are; None: all.
        """
        sims: Tensor = self.sim_enc(images, captions, word_counts, missing_regions(images, region_counts))
        return sims

    def size_augment(self) -> SizeAugment:
        """What drops this model's regions and words while training.

        Raises:
            ValueError: The model has no use for missing regions.
        """
        raise ValueError(f"size_augment is for models that pool whatever regions are there, and {self.name} does not")

    def load_pretrained(self) -> None:
        """Gives backbone and transformer their weights, before a training begins; a saved model has its own.

        Raises:
            ValueError: The configuration does not say which.
            ImportError: A library that has them is not installed.
            FileNotFoundError: A file of weights is missing.
            DataError: A file of weights is damaged, or another part's.
        """
        load_towers(self.config, self.tower, self.txt_enc)

    @property
    def tower(self) -> Tower | None:
        """What makes tokens of pixels; None: images are precomputed features."""
        tower: Tower | None = getattr(self.img_enc, "tower", None)
        return tower

    def train(self, mode: bool = True) -> MatchingModel:
        """As torch has it; what never trains stays in evaluation mode, without dropout."""
        super().train(mode)
        if self.tower is not None and self.config.backbone_lr_factor == 0:
            self.tower.eval()
        if isinstance(self.txt_enc, BERTEncoder) and self.config.bert_lr_factor == 0:
            self.txt_enc.bert.eval()
        return self

    def checkpoint_gradients(self) -> None:
        """Let transformers compute the inner states of their layers again on the way back, instead of keeping them.

        Raises:
            ValueError: There is no transformer that can.
        """
        parts = (getattr(self.tower, "transformer", None), getattr(self.txt_enc, "bert", None))
        able: list[Any] = [part for part in parts if getattr(part, "supports_gradient_checkpointing", False)]
        if not able:
            raise ValueError("gradient_checkpointing is for transformers that offer it, and this model has none")
        for part in able:
            enable = getattr(part, "activation_checkpointing_enable", None) or part.gradient_checkpointing_enable
            enable()

    def follow_schedule(self, step: int, steps_per_epoch: int) -> float:
        """Fixes the parts that do not train yet at a step, counted from 0; returns a factor for its loss.

        In the first epoch in which the backbone trains, the loss grows to its full weight.
        """
        config, (epoch, number) = self.config, divmod(step, steps_per_epoch)
        if isinstance(self.txt_enc, BERTEncoder):
            waits = config.bert_lr_factor == 0 or epoch < config.bert_warmup_epochs
            self.txt_enc.bert.requires_grad_(not waits)
        if self.tower is None:
            return 1.0
        since, warmup = epoch - config.embedding_warmup_epochs, config.backbone_warmup_epochs
        n_fixed = 4 if since < 0 else max(0, 3 - since // warmup) if warmup else 0
        if config.backbone_lr_factor == 0:
            since, n_fixed = -1, 4
        self.tower.train_stages(n_fixed)
        return number / steps_per_epoch if since == 0 else 1.0

    @property
    def max_words(self) -> int | None:
        """Tokens of the longest caption that can be encoded, start and end counted; None: any."""
        return self.txt_enc.max_words if isinstance(self.txt_enc, BERTEncoder) else None

    def prepare(self, tokens: CaptionTokens, captions: IndexLike) -> None:
        """Take from the training captions what stays as it is; called once, before the first step.

        Args:
            tokens: All captions of the training split.
            captions: Which of them are trained on.
        """

    def reads_image_tokens(self, *, training: bool) -> bool:
        """Whether captions are encoded together with the tokens of all captions of their image."""
        return False

    def learning_rate_factor(self, parameter: str) -> float:
        """Share of the learning rate that a parameter of this name has; pretrained parts have less than 1."""
        if parameter.startswith(("img_enc.tower.", "img_enc.backbone.")):
            return self.config.backbone_lr_factor
        return self.config.bert_lr_factor if parameter.startswith("txt_enc.bert.") else 1.0

    def learning_rate_decay(self, parameter: str) -> float:
        """What the learning rate of a parameter of this name is multiplied by each time that it falls."""
        return 0.1

    def extra_loss(self, extra_losses: Tensor) -> Tensor:
        """`Encoded.extra_losses` of a whole batch, (B,) -> scalar."""
        return extra_losses.sum()

    def forward(self, batch: Batch) -> Encoded:
        """Encode a batch for training."""
        images = self.encode_images(*self.regions_of(batch))
        return Encoded(images, self.encode_captions(self.words_of(batch), batch.word_counts))

    def words_of(self, batch: Batch) -> Tensor:
        """What `encode_captions` takes of a batch: its tokens, or what their encoder made of them before."""
        return batch.tokens if batch.caption_states is None else batch.caption_states

    def regions_of(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """What `encode_images` takes of a batch: its regions and their counts, pixels, or the cells that were kept."""
        if self.tower is None or batch.regions.ndim == 3:
            return batch.regions, batch.region_counts
        if batch.kept_cells is None:
            return batch.regions, None
        return compacted(self.tower(batch.regions), batch.kept_cells)


class EmbeddingModel(MatchingModel):
    """One vector an image, one a caption: their dot product is the similarity."""

    compares_embeddings = True

    def similarity(self, images: Tensor, captions: Tensor, word_counts: Counts, region_counts: Counts = None) -> Tensor:
        """Embeddings (n, dim) and (m, dim) -> sims (n, m); counts have no use here."""
        return dot_products(images, captions)
