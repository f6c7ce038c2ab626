"""LAPS: patches of a vision transformer, chosen by each caption and aggregated, against BERT's word pieces."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor, nn

from itm_fast.choices import Resampling
from itm_fast.config import TrainingConfig
from itm_fast.data.augment import SizeAugment
from itm_fast.data.text.caption_vocabulary import CaptionVocabulary
from itm_fast.models.axes import caption_encoder, image_encoder, image_tower
from itm_fast.models.base import MatchingConfig, MatchingModel, Preset, missing_regions, outside_autocast
from itm_fast.nn.encoders.bert import BERTEncoder
from itm_fast.nn.encoders.gru import GRUEncoder
from itm_fast.nn.encoders.patches import PatchTower
from itm_fast.nn.encoders.regions import RegionEncoder
from itm_fast.nn.similarity.laps import LAPSSimilarity
from itm_fast.ops._counts import Counts
from itm_fast.ops._ragged import Packed

_IMAGENET = {"mean": [0.485, 0.456, 0.406], "deviation": [0.229, 0.224, 0.225]}


@dataclass(frozen=True)
class LAPSConfig(MatchingConfig):
    """LAPS's flags with its defaults; names as in CrossmodalGroup/LAPS, arguments.py.

    Raises:
        ValueError: A number is out of range, or an option is unknown.
        TypeError: A number is none.
    """

    reads_apart = "class first"
    embed_size: int = 512
    """Numbers per patch and word, at least 5."""
    num_patches: int = 196
    """Patches of an image, the share of which the aggregated tokens are; images may have any number."""
    sparse_ratio: float = 0.5
    """Share of the patches that is kept for a caption."""
    aggr_ratio: float = 0.4
    """Aggregated tokens per kept patch."""
    imagenet_pixels: bool = True
    """Pixels of patches by ImageNet's mean and deviation, resized bicubically, as the original takes them whatever the
    transformer learnt from; otherwise as its processor says."""

    @property
    def resampling(self) -> Resampling:
        """Bicubic with imagenet_pixels."""
        return "bicubic" if self.imagenet_pixels and self.image_kind == "patches" else super().resampling

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_sizes("num_patches")


_VIT = LAPSConfig(
    image_encoder="patches",
    text_encoder="bert",
    backbone_path="google/vit-base-patch16-224-in21k",
    embedding_warmup_epochs=0,
    backbone_warmup_epochs=0,
    backbone_lr_factor=0.1,
    max_violation=True,
)
_SWIN = replace(
    _VIT,
    backbone_path="microsoft/swin-base-patch4-window7-224",
    num_patches=49,
    sparse_ratio=0.8,
    aggr_ratio=0.6,
)
_SCHEDULE = TrainingConfig(
    batch_size=64,
    learning_rate=2e-4,
    lr_schedules=(9, 15, 20, 25),
    optim="adamw",
    weight_decay=1e-4,
    vse_mean_warmup_epochs=1,
    size_augment=True,
)
PRESETS = {
    f"{data}-{kind}": Preset(model, _SCHEDULE)
    for data in ("f30k", "coco")
    for kind, model in (("vit", _VIT), ("swin", _SWIN))
}


class _Patches(nn.Module):
    """A tower and a linear map, under the original's names: `visual_encoder.*`, `vision_proj.*`."""

    def __init__(self, tower: PatchTower, embed_size: int) -> None:
        super().__init__()
        self._tower = (tower,)  # no module of this one: its parameters are those of visual_encoder
        self.visual_encoder = tower.transformer
        self.vision_proj = nn.Identity() if tower.dim == embed_size else nn.Linear(tower.dim, embed_size)

    @property
    def tower(self) -> PatchTower:
        return self._tower[0]

    def forward(self, images: Tensor) -> Tensor:
        """Pixels (n, 3, size, size), or the tower's tokens of them, (n, n_tokens, dim) -> (n, n_tokens, embed_size)."""
        tokens: Tensor = self.vision_proj(self.tower(images) if images.ndim == 4 else images)
        return tokens


class _Pieces(BERTEncoder):
    """BERT with its linear map under the original's name, `fc.*`; there is none where the widths are the same."""

    def __init__(self, bert_config: Mapping[str, Any], embed_size: int) -> None:
        super().__init__(bert_config, embed_size, no_txtnorm=True)
        self.fc = nn.Identity() if self.linear.in_features == embed_size else self.linear
        del self.linear

    def mapped(self, states: Tensor) -> Tensor:
        words: Tensor = self.fc(states)
        return words


class LAPS(MatchingModel):
    """Linguistic-aware patch slimming: patches chosen by each caption, aggregated, against its words both ways.

    The original adds to its loss a square that no parameter has a part in, since it always keeps the same share of the
    patches; here it is left out. What the size augmentation leaves out are words only.

    State dict: the original's.

    Source:
        Fu et al., CVPR 2024; CrossmodalGroup/LAPS.
    """

    name: ClassVar[str] = "laps"
    config_class = LAPSConfig
    config: LAPSConfig
    cross_net: LAPSSimilarity

    def __init__(self, config: LAPSConfig, vocabulary: CaptionVocabulary) -> None:
        super().__init__(config, vocabulary)
        size = config.embed_size
        if config.image_kind == "patches" and config.imagenet_pixels:
            self.config = replace(self.config, backbone_config={**(self.config.backbone_config or {}), **_IMAGENET})
        tower = image_tower(self.config) if config.image_kind == "patches" else None
        if isinstance(tower, PatchTower):
            self.img_enc = _Patches(tower, size)
        else:
            self.img_enc = image_encoder(self.config, lambda dim: RegionEncoder(dim, size, no_imgnorm=True))
        self.txt_enc = caption_encoder(
            self.config,
            lambda: GRUEncoder(
                len(vocabulary) + 1,  # the mask of the size augmentation
                config.word_dim,
                size,
                num_layers=config.num_layers,
                bi_gru=True,
                no_txtnorm=True,
            ),
            _Pieces,
        )
        self.cross_net = LAPSSimilarity(
            size,
            config.num_patches,
            config.sparse_ratio,
            config.aggr_ratio,
            class_token=None
            if config.image_kind == "patches" and not config.has_class_first
            else config.has_class_first,
        )

    @outside_autocast
    def similarity(self, images: Tensor, captions: Tensor, word_counts: Counts, region_counts: Counts = None) -> Tensor:
        """Patches of n images, words of m captions -> sims (n, m)."""
        sims: Tensor = self.cross_net(images, captions, word_counts, missing_regions(images, region_counts))
        return sims

    @outside_autocast
    def similarity_of_candidates(
        self, images: Tensor, captions: Packed, candidates: Tensor, region_counts: Counts = None
    ) -> Tensor:
        """Patches of n images, words (total, embed_size), candidates (n, k) -> sims (n, k), -inf where -1."""
        sims: Tensor = self.cross_net(images, captions, None, missing_regions(images, region_counts), candidates)
        return sims

    def size_augment(self) -> SizeAugment:
        """Drops words while training."""
        pieces = self.vocabulary
        return SizeAugment(len(pieces), pieces.mask_id, pieces.continues, keeps_images=True)

    def learning_rate_factor(self, parameter: str) -> float:
        """The share of the backbone, under the original's name, too."""
        if parameter.startswith("img_enc.visual_encoder."):
            return self.config.backbone_lr_factor
        return super().learning_rate_factor(parameter)

    def learning_rate_decay(self, parameter: str) -> float:
        """The learning rate falls to three tenths."""
        return 0.3
