"""VSE-infinity: regions and words pooled by a learned weight for each rank."""

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from itm_fast.config import TrainingConfig
from itm_fast.data.augment import SizeAugment
from itm_fast.data.caption_vocabulary import CaptionVocabulary
from itm_fast.models.base import EmbeddingModel, Preset
from itm_fast.models.text import TextConfig, TextModel
from itm_fast.nn.encoders.bert import BERTEncoder
from itm_fast.nn.encoders.gru import GRUEncoder
from itm_fast.nn.encoders.regions import MLPRegionEncoder, l2_normalise
from itm_fast.nn.pooling.gpo import GPO


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

    def __post_init__(self) -> None:
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
_BERT = Preset(replace(_REGIONS, text_enc_type="bert"), replace(REGION_SCHEDULE, weight_decay=1e-4))
# Both data sets have the same flags; the decay of the BiGRU branch is what torch's AdamW does unasked.
PRESETS = {
    "f30k": Preset(_REGIONS, REGION_SCHEDULE),
    "coco": Preset(_REGIONS, REGION_SCHEDULE),
    "f30k-bert": _BERT,
    "coco-bert": _BERT,
}


class _PooledRegions(MLPRegionEncoder):
    def __init__(self, config: VSEInftyConfig) -> None:
        super().__init__(config.img_dim, config.embed_size)
        self.no_imgnorm = config.no_imgnorm
        self.gpool = GPO()

    def pooled(self, images: Tensor, region_counts: Tensor | None) -> Tensor:
        embeddings: Tensor = self.gpool(self(images), region_counts)
        return embeddings if self.no_imgnorm else l2_normalise(embeddings)


class _PooledWords(GRUEncoder):
    def __init__(self, config: VSEInftyConfig, n_words: int) -> None:
        super().__init__(
            n_words, config.word_dim, config.embed_size, num_layers=config.num_layers, bi_gru=True, no_txtnorm=True
        )
        self.no_pooled_norm = config.no_txtnorm
        self.gpool = GPO()

    def pooled(self, tokens: Tensor, word_counts: Tensor) -> Tensor:
        embeddings: Tensor = self.gpool(self(tokens, word_counts), word_counts)
        return embeddings if self.no_pooled_norm else l2_normalise(embeddings)


class _PooledPieces(BERTEncoder):
    def __init__(self, config: VSEInftyConfig) -> None:
        super().__init__(config.bert_config or {}, config.embed_size, no_txtnorm=True)
        self.no_pooled_norm = config.no_txtnorm
        self.gpool = GPO()

    def pooled(self, tokens: Tensor, word_counts: Tensor) -> Tensor:
        embeddings: Tensor = self.gpool(self(tokens, word_counts), word_counts)
        return embeddings if self.no_pooled_norm else l2_normalise(embeddings)


class VSEInfty(TextModel, EmbeddingModel):
    """Visual-semantic embeddings with generalised pooling, of region features and a BiGRU's words or BERT's pieces.

    The BiGRU has one more id than words, the mask of the size augmentation.

    Source:
        Chen et al., CVPR 2021; woodfrog/vse_infty, branches bigru and master.
    """

    name: ClassVar[str] = "vse_infty"
    config_class = VSEInftyConfig
    config: VSEInftyConfig
    img_enc: _PooledRegions
    txt_enc: _PooledWords | _PooledPieces

    def __init__(self, config: VSEInftyConfig, vocabulary: CaptionVocabulary) -> None:
        super().__init__(config, vocabulary)
        self.img_enc = _PooledRegions(config)
        if config.text_enc_type == "bert":
            self.txt_enc = _PooledPieces(self.config)
        else:
            self.txt_enc = _PooledWords(config, len(vocabulary) + 1)

    def encode_images(self, images: Tensor, region_counts: Tensor | None = None) -> Tensor:
        """(n, max_regions, img_dim), region_counts (n,) int64 or None = all valid -> embeddings (n, embed_size)."""
        return self.img_enc.pooled(images, region_counts)

    def encode_captions(self, tokens: Tensor, word_counts: Tensor) -> Tensor:
        """Tokens (n, max_words) int64, word_counts (n,) int64 -> embeddings (n, embed_size)."""
        return self.txt_enc.pooled(tokens, word_counts)

    def size_augment(self) -> SizeAugment:
        """Drops regions and words while training."""
        return SizeAugment(len(self.vocabulary), self.vocabulary.mask_id, self.vocabulary.continues)
