"""VSE-infinity: regions, or the cells of images, and words pooled by a learned weight for each rank."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from torch import Tensor

from itm_fast.config import TrainingConfig
from itm_fast.data.augment import SizeAugment
from itm_fast.data.text.caption_vocabulary import CaptionVocabulary
from itm_fast.models.axes import caption_encoder, image_encoder, n_tokens
from itm_fast.models.base import EmbeddingModel, Preset, TextConfig, without_missing
from itm_fast.nn.encoders.bert import BERTEncoder
from itm_fast.nn.encoders.grid import GridEncoder
from itm_fast.nn.encoders.gru import GRUEncoder
from itm_fast.nn.encoders.regions import MLPRegionEncoder, l2_normalise
from itm_fast.nn.pooling.gpo import GPO
from itm_fast.ops import _checks
from itm_fast.ops._counts import Counts

PrecompEncType = Literal["basic", "backbone"]


@dataclass(frozen=True)
class VSEInftyConfig(TextConfig):
    """VSE-infinity's flags with its defaults; names as in woodfrog/vse_infty, arguments.py.

    Raises:
        ValueError: A number is out of range, or an option is unknown.
        TypeError: A number is none.
    """

    no_imgnorm: bool = False
    """Leave image embeddings at their own length."""
    no_txtnorm: bool = False
    """Leave caption embeddings at their own length."""
    precomp_enc_type: PrecompEncType = "basic"
    """What images are where image_encoder says nothing: "basic" regions, or the "backbone"'s grid."""

    def __post_init__(self) -> None:
        _checks.check_choice("precomp_enc_type", self.precomp_enc_type, PrecompEncType)
        super().__post_init__()
        if self.embed_size % 2:
            raise ValueError(f"embed_size must be even, got {self.embed_size}")


REGION_SCHEDULE = TrainingConfig(
    num_epochs=25,
    learning_rate=5e-4,
    lr_update=15,
    optim="adamw",
    weight_decay=1e-2,
    vse_mean_warmup_epochs=1,
    size_augment=True,
)
_REGIONS = VSEInftyConfig(max_violation=True)
_GRID = replace(
    _REGIONS,
    precomp_enc_type="backbone",
    input_scale_factor=2.0,
    embedding_warmup_epochs=1,
    backbone_warmup_epochs=0,
)
# What has BERT or a backbone decays as the original says; the decay of the BiGRU branch is what torch's AdamW does
# unasked.
_SCHEDULE = replace(REGION_SCHEDULE, weight_decay=1e-4)
_OF_BOTH = {
    "": Preset(_REGIONS, REGION_SCHEDULE),
    "-bert": Preset(replace(_REGIONS, text_enc_type="bert"), _SCHEDULE),
    "-grid": Preset(_GRID, _SCHEDULE),
    "-grid-bert": Preset(replace(_GRID, text_enc_type="bert"), _SCHEDULE),
    "-wsl-grid-bert": Preset(replace(_GRID, text_enc_type="bert", backbone_source="wsl"), _SCHEDULE),
}
PRESETS = {f"{data}{kind}": preset for data in ("f30k", "coco") for kind, preset in _OF_BOTH.items()}


class _PooledRegions(MLPRegionEncoder):
    def __init__(self, img_dim: int, config: VSEInftyConfig) -> None:
        super().__init__(img_dim, config.embed_size)
        self.no_imgnorm = config.no_imgnorm
        self.gpool = GPO()

    def forward(self, images: Tensor, region_counts: Tensor | None = None) -> Tensor:
        embeddings: Tensor = self.gpool(super().forward(images), region_counts)
        return embeddings if self.no_imgnorm else l2_normalise(embeddings)


class _PooledGrid(GridEncoder):
    def __init__(self, config: VSEInftyConfig) -> None:
        super().__init__(config.backbone_source, config.embed_size)
        self.no_imgnorm = config.no_imgnorm
        self.image_encoder["gpool"] = GPO()

    def pooled(self, images: Tensor, cell_counts: Tensor | None) -> Tensor:
        embeddings: Tensor = self.image_encoder["gpool"](self(images), cell_counts)
        return embeddings if self.no_imgnorm else l2_normalise(embeddings)


class _PooledWords(GRUEncoder):
    def __init__(self, config: VSEInftyConfig, n_words: int) -> None:
        super().__init__(
            n_words, config.word_dim, config.embed_size, num_layers=config.num_layers, bi_gru=True, no_txtnorm=True
        )
        self.no_pooled_norm = config.no_txtnorm
        self.gpool = GPO()

    def forward(self, tokens: Tensor, word_counts: Counts = None) -> Tensor:
        embeddings: Tensor = self.gpool(super().forward(tokens, word_counts), word_counts)
        return embeddings if self.no_pooled_norm else l2_normalise(embeddings)


class _PooledPieces(BERTEncoder):
    def __init__(self, bert_config: Mapping[str, Any], embed_size: int, *, no_txtnorm: bool) -> None:
        super().__init__(bert_config, embed_size, no_txtnorm=True)
        self.no_pooled_norm = no_txtnorm
        self.gpool = GPO()

    def forward(self, tokens: Tensor, word_counts: Counts = None) -> Tensor:
        embeddings: Tensor = self.gpool(super().forward(tokens, word_counts), word_counts)
        return embeddings if self.no_pooled_norm else l2_normalise(embeddings)


class VSEInfty(EmbeddingModel):
    """Visual-semantic embeddings with generalised pooling.

    The BiGRU has one more id than words, the mask of the size augmentation.

    Source:
        Chen et al., CVPR 2021; woodfrog/vse_infty, branches bigru and master.
    """

    name: ClassVar[str] = "vse_infty"
    config_class = VSEInftyConfig
    reads_vectors = True  # the mean of one vector by whatever weights
    config: VSEInftyConfig

    def __init__(self, config: VSEInftyConfig, vocabulary: CaptionVocabulary) -> None:
        super().__init__(config, vocabulary)
        if config.image_kind == "grid":
            self.img_enc = _PooledGrid(config)
        else:
            self.img_enc = image_encoder(self.config, lambda dim: _PooledRegions(dim, config))
        self.txt_enc = caption_encoder(
            self.config,
            lambda: _PooledWords(config, len(vocabulary) + 1),
            _PooledPieces,
            no_txtnorm=config.no_txtnorm,
        )

    def encode_images(self, images: Tensor, region_counts: Counts = None) -> Tensor:
        """(n, max_regions, img_dim), region_counts (n,) int64 or None = all valid -> embeddings (n, embed_size).

        With a backbone, red, green and blue from 0 to 255, (n, 3, image_size, image_size), without counts.
        """
        encode = self.img_enc.pooled if isinstance(self.img_enc, _PooledGrid) else self.img_enc
        embeddings: Tensor = encode(*without_missing(images, region_counts))
        return embeddings

    def size_augment(self) -> SizeAugment:
        """Drops regions, or tokens of a backbone, and words while training."""
        n_cells = n_tokens(self.config, self.img_enc)
        return SizeAugment(len(self.vocabulary), self.vocabulary.mask_id, self.vocabulary.continues, n_cells=n_cells)
