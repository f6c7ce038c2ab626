"""VSRN: regions that reason about each other, one vector an image; a captioning head helps while training."""

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from itm_fast.config import TrainingConfig
from itm_fast.data.collate import Batch
from itm_fast.data.text.caption_vocabulary import CaptionVocabulary
from itm_fast.models.axes import caption_encoder, image_encoder
from itm_fast.models.base import EmbeddingModel, Encoded, MatchingConfig, Preset, without_missing
from itm_fast.nn.decoders.captioning import CaptioningHead
from itm_fast.nn.encoders.bert import SentenceBERTEncoder
from itm_fast.nn.encoders.gru import SentenceGRUEncoder
from itm_fast.nn.encoders.reasoning import DataName, ReasoningRegionEncoder
from itm_fast.ops import _checks
from itm_fast.ops._counts import Counts


@dataclass(frozen=True)
class VSRNConfig(MatchingConfig):
    """VSRN's flags with its defaults; names as in KunpengLi1994/VSRN, train.py.

    Raises:
        ValueError: A number is out of range, or an option is unknown.
        TypeError: A number is none.
    """

    embed_size: int = 2048
    """Numbers per embedding."""
    encoder: DataName = "f30k_precomp"
    """The original's image encoder for Flickr30K ends in a BatchNorm, the one for COCO normalises its regions."""
    dim_hidden: int = 512
    """Numbers of the captioning head's states."""
    dim_word: int = 300
    """Numbers of the captioning head's word vectors."""
    input_dropout_p: float = 0.2
    """Dropout of the regions before the captioning head."""
    rnn_dropout_p: float = 0.2
    """Dropout of what the captioning head's decoder reads."""
    max_len: int = 60
    """Tokens of a caption that the captioning head writes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_sizes("dim_hidden", "dim_word")
        if self.max_len < 2:
            raise ValueError(f"max_len must be at least 2, got {self.max_len}")
        for name in ("input_dropout_p", "rnn_dropout_p"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, got {getattr(self, name)}")
        _checks.check_choice("encoder", self.encoder, DataName)


_F30K = VSRNConfig(max_violation=True)
PRESETS = {
    "f30k": Preset(_F30K, TrainingConfig(lr_update=10)),
    "coco": Preset(replace(_F30K, encoder="coco_precomp"), TrainingConfig()),
}


class VSRN(EmbeddingModel):
    """Visual semantic reasoning network.

    Source:
        Li et al., ICCV 2019; KunpengLi1994/VSRN. There the captioning head, listed twice, stepped twice an iteration
        under the torch of its day; here once.
    """

    name: ClassVar[str] = "vsrn"
    config_class = VSRNConfig
    config: VSRNConfig

    def __init__(self, config: VSRNConfig, vocabulary: CaptionVocabulary) -> None:
        super().__init__(config, vocabulary)
        self.img_enc = image_encoder(
            self.config, lambda dim: ReasoningRegionEncoder(dim, config.embed_size, data_name=config.encoder)
        )
        self.txt_enc = caption_encoder(
            self.config,
            lambda: SentenceGRUEncoder(
                len(vocabulary), config.word_dim, config.embed_size, num_layers=config.num_layers
            ),
            SentenceBERTEncoder,
        )
        self.caption_head = CaptioningHead(
            config.embed_size,
            len(vocabulary),
            dim_hidden=config.dim_hidden,
            dim_word=config.dim_word,
            input_dropout_p=config.input_dropout_p,
            rnn_dropout_p=config.rnn_dropout_p,
            max_len=config.max_len,
        )

    def encode_images(self, images: Tensor, region_counts: Counts = None) -> Tensor:
        """(n, max_regions, img_dim), region_counts (n,) int64 or None = all valid -> embeddings (n, embed_size)."""
        embeddings: Tensor = self.img_enc(*without_missing(images, region_counts))[0]
        return embeddings

    def forward(self, batch: Batch) -> Encoded:
        """Encode a batch; each pair's extra loss is the captioning head's."""
        images, region_counts = without_missing(*self.regions_of(batch))
        embeddings, regions = self.img_enc(images, region_counts)
        captions = self.encode_captions(self.words_of(batch), batch.word_counts)
        losses = self.caption_head(regions, batch.tokens, batch.word_counts, region_counts)
        return Encoded(embeddings, captions, losses)

    def extra_loss(self, extra_losses: Tensor) -> Tensor:
        """The mean over the batch, as in the original, whose hinge is a sum."""
        return extra_losses.mean()
