"""What encodes images and captions, made from its settings: any of each goes with any model that has use for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal, TypeVar

from torch import nn

from itm_fast.config import ImageAxis, TextAxis
from itm_fast.data.text.caption_vocabulary import CaptionVocabulary, check_is_vocabulary, pretrained_pieces
from itm_fast.data.text.vocabulary import Vocabulary
from itm_fast.nn.encoders.bert import BERTEncoder
from itm_fast.nn.encoders.grid import BACKBONES, PIXELS_PER_CELL, GridTower, load_backbone
from itm_fast.nn.encoders.patches import PatchTower, TowerTokens
from itm_fast.nn.encoders.pixels import PixelEncoder
from itm_fast.pretrained import pretrained_folder, text_architecture, vision_architecture

Tower = GridTower | PatchTower


@dataclass(frozen=True)
class Axes(ImageAxis, TextAxis):
    """Both axes, and the sizes at their ends.

    Raises:
        ValueError: A number is out of range, or an option is unknown.
        TypeError: A number is none.
    """

    reads_apart: ClassVar[Literal["class alone", "class first"] | None] = None
    """What a model reads whose class token is set apart: that alone, or that and then the patches; None: it has no
    vector of the whole image that a class token could be."""

    img_dim: int = 2048
    """Numbers per precomputed region feature."""
    embed_size: int = 1024
    """Numbers per embedding: of a region and a word, or of an image and a caption."""

    @property
    def n_cells(self) -> int | None:
        """Cells of an image's grid; None: images are something else."""
        return ((self.image_size or 0) // PIXELS_PER_CELL) ** 2 if self.image_kind == "grid" else None

    def __post_init__(self) -> None:
        ImageAxis.__post_init__(self)
        TextAxis.__post_init__(self)
        if self.class_token == "apart" and self.reads_apart is None:
            raise ValueError(
                f'class_token is "apart", but {type(self).__name__.removesuffix("Config")} has no vector of the whole '
                'image that a class token could be; expected "kept" or "dropped"'
            )

    @property
    def has_class_first(self) -> bool:
        """Whether the first token of an image is no patch, but stands for the whole image."""
        return self.image_kind == "patches" and self.class_token == "apart" and self.reads_apart == "class first"


C = TypeVar("C", bound=Axes)


def image_encoder(config: Axes, head: Callable[[int], nn.Module]) -> nn.Module:
    """What encodes images: the model's own encoder of regions, behind a backbone where the settings have one.

    Args:
        config: With backbone_config, if images are patches.
        head: From the numbers per region to the model's encoder of regions.
    """
    if config.image_kind == "regions":
        return head(config.img_dim)
    tower = image_tower(config)
    return PixelEncoder(tower, head(tower.dim))


def image_tower(config: Axes) -> Tower:
    """The backbone of a grid or of patches, with random weights."""
    if config.image_kind == "grid":
        return GridTower(config.backbone_source)
    tokens: TowerTokens = "all" if config.class_token == "kept" else "patches"
    if config.class_token == "apart" and config.reads_apart is not None:
        tokens = config.reads_apart
    return PatchTower(config.backbone_config or {}, tokens=tokens)


def n_tokens(config: Axes, encoder: nn.Module) -> int | None:
    """Tokens that a backbone makes of an image; None: images are regions."""
    tower = getattr(encoder, "tower", None)
    return tower.n_tokens() if isinstance(tower, PatchTower) else config.n_cells


def caption_encoder(
    config: Axes,
    gru: Callable[[], nn.Module],
    transformer: Callable[..., BERTEncoder] = BERTEncoder,
    **options: bool,
) -> nn.Module:
    """What encodes captions.

    Args:
        config: With bert_config, unless it is the GRU.
        gru: Makes the model's own encoder of words.
        transformer: Makes the one that stands in its place, of an architecture and embed_size.
        options: Of the latter.
    """
    if config.text_kind == "bigru":
        return gru()
    return transformer(config.bert_config or {}, config.embed_size, **options)


def with_architecture(config: C) -> C:
    """The configuration with all that the model is made of: what its folder needs to be read without those of others.

    Raises:
        FileNotFoundError: bert_path or backbone_path is not on this machine.
        DataError: It is no transformer's.
    """
    if config.text_kind != "bigru" and config.bert_config is None:
        found = text_architecture(pretrained_folder(config.bert_path), config.text_kind)
        config = replace(config, bert_config=found)
    if config.image_kind == "patches" and config.backbone_config is None:
        config = replace(config, backbone_config=vision_architecture(_backbone_folder(config)))
    return config


def own_vocabulary(config: Axes) -> CaptionVocabulary | None:
    """What bert_path splits captions into; None for a GRU, which takes the words of the data."""
    return None if config.text_kind == "bigru" else pretrained_pieces(pretrained_folder(config.bert_path))


def load_towers(config: Axes, image: Tower | None, captions: nn.Module | None) -> None:
    """Give backbone and transformer their pretrained weights.

    Raises:
        ValueError: The configuration does not say which.
        FileNotFoundError: A file or folder is missing.
        DataError: It does not hold weights that fit.
    """
    if isinstance(image, GridTower):
        load_backbone(image.resnet, config.backbone_source, config.backbone_path)
    elif image is not None:
        image.load_pretrained(_backbone_folder(config))
    if isinstance(captions, BERTEncoder):
        captions.load_pretrained(pretrained_folder(config.bert_path))


def check_grid(config: Axes) -> None:
    """Raise ValueError unless a grid's images can be cut into cells, and regions are as wide as those."""
    image_size = config.image_size or 0
    if image_size % PIXELS_PER_CELL or not image_size:
        raise ValueError(
            f"input_scale_factor {config.input_scale_factor} makes images of {image_size} pixels; expected a "
            f"multiple of {PIXELS_PER_CELL} pixels, such as {config.input_scale_factor} rounded to eighths"
        )
    dim = BACKBONES[config.backbone_source].dim
    if config.img_dim != dim:
        raise ValueError(f"img_dim must be {dim}, the width of {config.backbone_source}'s cells, got {config.img_dim}")


def check_vocabulary(config: Axes, vocabulary: CaptionVocabulary) -> None:
    """Raise ValueError unless a transformer gets its own pieces, and a GRU words; TypeError where it is none."""
    check_is_vocabulary(vocabulary)
    has_words = isinstance(vocabulary, Vocabulary)
    if config.text_kind == "bigru":
        return
    if has_words:
        flag = "text_enc_type" if config.text_encoder is None else "text_encoder"
        raise ValueError(
            f'{flag} is "{config.text_kind}", but the vocabulary is of {vocabulary.fingerprint}; expected word pieces, '
            "such as BERT's vocab.txt"
        )
    n_rows = (config.bert_config or {}).get("vocab_size", len(vocabulary))
    if n_rows < len(vocabulary):
        raise ValueError(f"the vocabulary has {vocabulary.fingerprint}, but bert_config's vocab_size is {n_rows}")


def _backbone_folder(config: Axes) -> Path:
    return pretrained_folder(
        config.backbone_path, argument="backbone_path", files="the weights and preprocessor_config.json"
    )
