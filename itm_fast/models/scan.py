"""SCAN: region and word encoders, stacked cross attention, hinge loss."""

from dataclasses import dataclass

from torch import Tensor, nn

from itm_fast.data.vocabulary import Vocabulary
from itm_fast.nn.encoders.gru import GRUEncoder
from itm_fast.nn.encoders.regions import PrecompEncType, RegionEncoder
from itm_fast.nn.losses.triplet import TripletLoss
from itm_fast.nn.similarity.cross_attention import CrossAttention
from itm_fast.ops import _checks
from itm_fast.ops.cross_attention import AggFunc, CrossAttn, RawFeatureNorm

_OPTIONS = {
    "precomp_enc_type": PrecompEncType,
    "cross_attn": CrossAttn,
    "raw_feature_norm": RawFeatureNorm,
    "agg_func": AggFunc,
}


@dataclass(frozen=True)
class SCANConfig:
    """SCAN's flags with its defaults; names as in kuanghuei/SCAN, train.py.

    Raises:
        ValueError: A number is out of range, or an option is unknown.
        TypeError: A number is none.
    """

    img_dim: int = 2048
    """Numbers per precomputed region feature."""
    word_dim: int = 300
    """Numbers per word vector before the GRU."""
    embed_size: int = 1024
    """Numbers per region and word embedding."""
    num_layers: int = 1
    """Layers of the GRU."""
    bi_gru: bool = False
    """Run the GRU in both directions and average them."""
    no_imgnorm: bool = False
    """Leave region embeddings at their own length."""
    no_txtnorm: bool = False
    """Leave word embeddings at their own length."""
    precomp_enc_type: PrecompEncType = "basic"
    """Region encoder: "basic" or "weight_norm"."""
    cross_attn: CrossAttn = "t2i"
    """Who attends: "t2i" words to regions, "i2t" regions to words."""
    raw_feature_norm: RawFeatureNorm = "clipped_l2norm"
    """First normalisation of the similarities."""
    agg_func: AggFunc = "LogSumExp"
    """Aggregation over the attending side."""
    lambda_softmax: float = 9.0
    """Inverse temperature of the attention."""
    lambda_lse: float = 6.0
    """Inverse temperature of LogSumExp."""
    margin: float = 0.2
    """Margin of the hinge loss, in units of the similarities."""
    max_violation: bool = False
    """Only the hardest negatives count."""

    def __post_init__(self) -> None:
        for name in ("img_dim", "word_dim", "embed_size", "num_layers"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
        for name, options in _OPTIONS.items():
            _checks.check_choice(name, getattr(self, name), options)
        _checks.check_finite("lambda_softmax", self.lambda_softmax, positive=False)
        _checks.check_finite("lambda_lse", self.lambda_lse, positive=True)
        _checks.check_finite("margin", self.margin, positive=False)


# The four rows of the paper's Flickr30K table; all of them with --max_violation --bi_gru.
PRESETS = {
    "t-i LSE": SCANConfig(max_violation=True, bi_gru=True),
    "t-i AVG": SCANConfig(max_violation=True, bi_gru=True, agg_func="Mean"),
    "i-t LSE": SCANConfig(max_violation=True, bi_gru=True, cross_attn="i2t", lambda_softmax=4.0, lambda_lse=5.0),
    "i-t AVG": SCANConfig(max_violation=True, bi_gru=True, cross_attn="i2t", lambda_softmax=4.0, agg_func="Mean"),
}


class SCAN(nn.Module):
    """Stacked cross attention for image-text matching.

    Source:
        Lee et al., ECCV 2018; kuanghuei/SCAN.
    """

    def __init__(self, config: SCANConfig, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.config, self.vocabulary = config, vocabulary
        self.img_enc = RegionEncoder(
            config.img_dim,
            config.embed_size,
            precomp_enc_type=config.precomp_enc_type,
            no_imgnorm=config.no_imgnorm,
        )
        self.txt_enc = GRUEncoder(
            len(vocabulary),
            config.word_dim,
            config.embed_size,
            num_layers=config.num_layers,
            bi_gru=config.bi_gru,
            no_txtnorm=config.no_txtnorm,
        )
        self.cross_attention = CrossAttention(
            config.cross_attn,
            config.raw_feature_norm,
            config.agg_func,
            config.lambda_softmax,
            config.lambda_lse,
        )
        self.loss = TripletLoss(config.margin, config.max_violation)

    def encode_images(self, images: Tensor) -> Tensor:
        """(n, max_regions, img_dim) -> regions (n, max_regions, embed_size)."""
        regions: Tensor = self.img_enc(images)
        return regions

    def encode_captions(self, tokens: Tensor, word_counts: Tensor) -> Tensor:
        """Tokens (n, max_words) int64, word_counts (n,) int64 -> words (n, max_words, embed_size)."""
        words: Tensor = self.txt_enc(tokens, word_counts)
        return words

    def similarity(self, regions: Tensor, words: Tensor, word_counts: Tensor) -> Tensor:
        """Regions of n images, words of m captions -> sims (n, m)."""
        sims: Tensor = self.cross_attention(regions, words, word_counts)
        return sims
