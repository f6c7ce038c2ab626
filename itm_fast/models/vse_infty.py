"""VSE-infinity: regions, or the cells of images, and words pooled by a learned weight for each rank."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from torch import Tensor

from itm_fast.config import TrainingConfig
from itm_fast.data.augment import SizeAugment, compacted
from itm_fast.data.collate import Batch
from itm_fast.data.text.caption_vocabulary import CaptionVocabulary
from itm_fast.models.base import EmbeddingModel, Encoded, Preset, without_missing
from itm_fast.models.caption_encoders import TextConfig, TextModel
from itm_fast.nn.encoders.bert import BERTEncoder
from itm_fast.nn.encoders.grid import BACKBONES, PIXELS_PER_CELL, BackboneSource, GridEncoder, load_backbone
from itm_fast.nn.encoders.gru import GRUEncoder
from itm_fast.nn.encoders.regions import MLPRegionEncoder, l2_normalise
from itm_fast.nn.pooling.gpo import GPO
from itm_fast.ops import _checks
from itm_fast.ops._counts import Counts

PrecompEncType = Literal["basic", "backbone"]
_IMAGE_SIZE = 256  # pixels at input_scale_factor 1


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
    """Images are "basic", precomputed region features, or files for a CNN, the "backbone", that is trained as well."""
    backbone_source: BackboneSource = "detector"
    """Pretrained CNN: of a region "detector", of hashtags ("wsl"), or of ImageNet (ResNet-101 unless it says else)."""
    backbone_path: str = ""
    """File of its weights; "" takes torchvision's of ImageNet, downloaded once."""
    input_scale_factor: float = 1.0
    """Side of the images, in units of 256 pixels."""
    embedding_warmup_epochs: int = 2
    """First epochs with the CNN fixed; in the one that follows the loss grows to its full weight."""
    backbone_warmup_epochs: int = 5
    """Epochs after which the next earlier stage of the CNN trains, after the last; 0 trains all of them at once."""
    backbone_lr_factor: float = 0.01
    """Share of the learning rate that the CNN has."""

    @property
    def image_size(self) -> int | None:
        """Side in pixels of the images that the CNN reads; None: it takes precomputed features."""
        return None if self.precomp_enc_type == "basic" else int(_IMAGE_SIZE * self.input_scale_factor)

    @property
    def n_cells(self) -> int | None:
        """Cells of an image's grid; None: images are precomputed regions."""
        return None if self.image_size is None else (self.image_size // PIXELS_PER_CELL) ** 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.embed_size % 2:
            raise ValueError(f"embed_size must be even, got {self.embed_size}")
        _checks.check_choice("precomp_enc_type", self.precomp_enc_type, PrecompEncType)
        _checks.check_choice("backbone_source", self.backbone_source, BackboneSource)
        _checks.check_finite("input_scale_factor", self.input_scale_factor, positive=True)
        _checks.check_finite("backbone_lr_factor", self.backbone_lr_factor, positive=False)
        for name in ("embedding_warmup_epochs", "backbone_warmup_epochs"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if self.image_size is not None:
            self._check_grid(self.image_size)

    def _check_grid(self, image_size: int) -> None:
        if image_size % PIXELS_PER_CELL or not image_size:
            raise ValueError(
                f"input_scale_factor {self.input_scale_factor} makes images of {image_size} pixels; expected a "
                f"multiple of {PIXELS_PER_CELL} pixels, such as {self.input_scale_factor} rounded to eighths"
            )
        dim = BACKBONES[self.backbone_source].dim
        if self.img_dim != dim:
            raise ValueError(f"img_dim must be {dim}, the width of {self.backbone_source}'s cells, got {self.img_dim}")


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
    def __init__(self, config: VSEInftyConfig) -> None:
        super().__init__(config.img_dim, config.embed_size)
        self.no_imgnorm = config.no_imgnorm
        self.gpool = GPO()

    def pooled(self, images: Tensor, region_counts: Tensor | None) -> Tensor:
        embeddings: Tensor = self.gpool(self(images), region_counts)
        return embeddings if self.no_imgnorm else l2_normalise(embeddings)


class _PooledGrid(GridEncoder):
    def __init__(self, config: VSEInftyConfig) -> None:
        super().__init__(config.backbone_source, config.embed_size)
        self.no_imgnorm = config.no_imgnorm
        self.image_encoder["gpool"] = GPO()

    def pooled(self, images: Tensor, kept_cells: Tensor | None) -> Tensor:
        cells, cell_counts = self(images), None
        if kept_cells is not None:
            cells, cell_counts = compacted(cells, kept_cells)
        embeddings: Tensor = self.image_encoder["gpool"](cells, cell_counts)
        return embeddings if self.no_imgnorm else l2_normalise(embeddings)


class _PooledWords(GRUEncoder):
    def __init__(self, config: VSEInftyConfig, n_words: int) -> None:
        super().__init__(
            n_words, config.word_dim, config.embed_size, num_layers=config.num_layers, bi_gru=True, no_txtnorm=True
        )
        self.no_pooled_norm = config.no_txtnorm
        self.gpool = GPO()

    def pooled(self, tokens: Tensor, word_counts: Counts) -> Tensor:
        embeddings: Tensor = self.gpool(self(tokens, word_counts), word_counts)
        return embeddings if self.no_pooled_norm else l2_normalise(embeddings)


class _PooledPieces(BERTEncoder):
    def __init__(self, config: VSEInftyConfig) -> None:
        super().__init__(config.bert_config or {}, config.embed_size, no_txtnorm=True)
        self.no_pooled_norm = config.no_txtnorm
        self.gpool = GPO()

    def pooled(self, tokens: Tensor, word_counts: Counts) -> Tensor:
        embeddings: Tensor = self.gpool(self(tokens, word_counts), word_counts)
        return embeddings if self.no_pooled_norm else l2_normalise(embeddings)


class VSEInfty(TextModel, EmbeddingModel):
    """Visual-semantic embeddings with generalised pooling, of regions or grids, and a BiGRU's words or BERT's pieces.

    The BiGRU has one more id than words, the mask of the size augmentation.

    Source:
        Chen et al., CVPR 2021; woodfrog/vse_infty, branches bigru and master.
    """

    name: ClassVar[str] = "vse_infty"
    config_class = VSEInftyConfig
    reads_vectors = True  # the mean of one vector by whatever weights
    config: VSEInftyConfig
    img_enc: _PooledRegions | _PooledGrid
    txt_enc: _PooledWords | _PooledPieces

    def __init__(self, config: VSEInftyConfig, vocabulary: CaptionVocabulary) -> None:
        super().__init__(config, vocabulary)
        self.img_enc = _PooledRegions(config) if config.precomp_enc_type == "basic" else _PooledGrid(config)
        if config.text_enc_type == "bert":
            self.txt_enc = _PooledPieces(self.config)
        else:
            self.txt_enc = _PooledWords(config, len(vocabulary) + 1)

    def forward(self, batch: Batch) -> Encoded:
        """Encode a batch for training."""
        if isinstance(self.img_enc, _PooledRegions):
            return super().forward(batch)
        images = self.img_enc.pooled(batch.regions, batch.kept_cells)
        return Encoded(images, self.encode_captions(batch.tokens, batch.word_counts))

    def encode_images(self, images: Tensor, region_counts: Counts = None) -> Tensor:
        """(n, max_regions, img_dim), region_counts (n,) int64 or None = all valid -> embeddings (n, embed_size).

        With a backbone, red, green and blue from 0 to 255, (n, 3, image_size, image_size), without counts.
        """
        if isinstance(self.img_enc, _PooledRegions):
            return self.img_enc.pooled(*without_missing(images, region_counts))
        return self.img_enc.pooled(images, None)

    def encode_captions(self, tokens: Tensor, word_counts: Counts) -> Tensor:
        """Tokens (n, max_words) int64, word_counts (n,) int64 -> embeddings (n, embed_size)."""
        return self.txt_enc.pooled(tokens, word_counts)

    def size_augment(self) -> SizeAugment:
        """Drops regions, or cells of images, and words while training."""
        return SizeAugment(
            len(self.vocabulary), self.vocabulary.mask_id, self.vocabulary.continues, n_cells=self.config.n_cells
        )

    def load_pretrained(self) -> None:
        """Gives the backbone its weights."""
        super().load_pretrained()
        if isinstance(self.img_enc, _PooledGrid):
            load_backbone(self.img_enc.backbone.resnet, self.config.backbone_source, self.config.backbone_path)

    def follow_schedule(self, step: int, steps_per_epoch: int) -> float:
        """Fixes the backbone, or its first stages, while the embeddings warm up; returns a factor for the loss."""
        if not isinstance(self.img_enc, _PooledGrid):
            return 1.0
        epoch, number = divmod(step, steps_per_epoch)
        since, warmup = epoch - self.config.embedding_warmup_epochs, self.config.backbone_warmup_epochs
        n_fixed = 4 if since < 0 else max(0, 3 - since // warmup) if warmup else 0
        self.img_enc.backbone.resnet.train_stages(n_fixed)
        return number / steps_per_epoch if since == 0 else 1.0

    def learning_rate_factor(self, parameter: str) -> float:
        """The backbone's share."""
        if parameter.startswith("img_enc.backbone."):
            return self.config.backbone_lr_factor
        return super().learning_rate_factor(parameter)
