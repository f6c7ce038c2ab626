"""VSE++, VSE0 and order embeddings: one vector an image, one a caption."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from torch import Tensor

from itm_fast.config import TrainingConfig
from itm_fast.data.text.caption_vocabulary import CaptionVocabulary
from itm_fast.models.axes import caption_encoder, image_encoder
from itm_fast.models.base import EmbeddingModel, MatchingConfig, Preset, without_missing
from itm_fast.nn.encoders.bert import SentenceBERTEncoder
from itm_fast.nn.encoders.gru import SentenceGRUEncoder
from itm_fast.nn.encoders.regions import MeanRegionEncoder
from itm_fast.nn.similarity.embeddings import order_similarity
from itm_fast.ops import _checks
from itm_fast.ops._counts import Counts

Measure = Literal["cosine", "order"]


@dataclass(frozen=True)
class VSEPPConfig(MatchingConfig):
    """VSE++'s flags with its defaults; names as in fartashf/vsepp, train.py.

    Raises:
        ValueError: A number is out of range, or an option is unknown.
        TypeError: A number is none.
    """

    reads_apart = "class alone"
    img_dim: int = 4096
    """Numbers per precomputed feature; of several regions an image the mean is taken."""
    no_imgnorm: bool = False
    """Leave image embeddings at their own length."""
    use_abs: bool = False
    """Take the absolute value of embeddings."""
    measure: Measure = "cosine"
    """Similarity: "cosine", or "order", how far a caption lies above an image."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _checks.check_choice("measure", self.measure, Measure)


_ORDER = VSEPPConfig(measure="order", use_abs=True, margin=0.05)
_SCHEDULE = TrainingConfig()
PRESETS = {
    "vse++": Preset(VSEPPConfig(max_violation=True), _SCHEDULE),
    "vse0": Preset(VSEPPConfig(no_imgnorm=True), _SCHEDULE),
    "order++": Preset(replace(_ORDER, max_violation=True), replace(_SCHEDULE, learning_rate=1e-3)),
    "order0": Preset(_ORDER, replace(_SCHEDULE, learning_rate=1e-3)),
}


class VSEPP(EmbeddingModel):
    """Visual-semantic embeddings with hard negatives.

    Source:
        Faghri et al., VSE++, BMVC 2018; Vendrov et al., Order-Embeddings, ICLR 2016; fartashf/vsepp.
    """

    name: ClassVar[str] = "vsepp"
    config_class = VSEPPConfig
    reads_vectors = True
    config: VSEPPConfig

    def __init__(self, config: VSEPPConfig, vocabulary: CaptionVocabulary) -> None:
        super().__init__(config, vocabulary)
        self.img_enc = image_encoder(
            self.config,
            lambda dim: MeanRegionEncoder(dim, config.embed_size, no_imgnorm=config.no_imgnorm, use_abs=config.use_abs),
        )
        self.txt_enc = caption_encoder(
            self.config,
            lambda: SentenceGRUEncoder(
                len(vocabulary),
                config.word_dim,
                config.embed_size,
                num_layers=config.num_layers,
                use_abs=config.use_abs,
            ),
            SentenceBERTEncoder,
            use_abs=config.use_abs,
        )
        self.compares_embeddings = config.measure == "cosine"

    def encode_images(self, images: Tensor, region_counts: Counts = None) -> Tensor:
        """(n, max_regions, img_dim), region_counts (n,) int64 or None = all valid -> embeddings (n, embed_size)."""
        embeddings: Tensor = self.img_enc(*without_missing(images, region_counts))
        return embeddings

    def similarity(self, images: Tensor, captions: Tensor, word_counts: Counts, region_counts: Counts = None) -> Tensor:
        """Embeddings (n, embed_size) and (m, embed_size) -> sims (n, m); counts have no use here."""
        if self.config.measure == "order":
            return order_similarity(images, captions)
        return super().similarity(images, captions, word_counts)
