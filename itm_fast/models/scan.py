"""SCAN: region and word encoders, stacked cross attention, hinge loss."""

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from itm_fast.choices import AggFunc, CrossAttn, RawFeatureNorm
from itm_fast.config import TrainingConfig
from itm_fast.data.text.caption_vocabulary import CaptionVocabulary
from itm_fast.models.axes import caption_encoder, image_encoder
from itm_fast.models.base import MatchingConfig, MatchingModel, Preset, missing_regions
from itm_fast.nn.encoders.gru import GRUEncoder
from itm_fast.nn.encoders.regions import PrecompEncType, RegionEncoder
from itm_fast.nn.similarity.cross_attention import CrossAttention
from itm_fast.ops import _checks
from itm_fast.ops._counts import Counts
from itm_fast.ops._ragged import Packed

_OPTIONS = {
    "precomp_enc_type": PrecompEncType,
    "cross_attn": CrossAttn,
    "raw_feature_norm": RawFeatureNorm,
    "agg_func": AggFunc,
}


@dataclass(frozen=True)
class SCANConfig(MatchingConfig):
    """SCAN's flags with its defaults; names as in kuanghuei/SCAN, train.py.

    Raises:
        ValueError: A number is out of range, or an option is unknown.
        TypeError: A number is none.
    """

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

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, options in _OPTIONS.items():
            _checks.check_choice(name, getattr(self, name), options)
        _checks.check_finite("lambda_softmax", self.lambda_softmax, positive=False)
        _checks.check_finite("lambda_lse", self.lambda_lse, positive=True)


# The four rows of the paper's tables; all of them with --max_violation --bi_gru.
_T_I = SCANConfig(max_violation=True, bi_gru=True)
_I_T = SCANConfig(max_violation=True, bi_gru=True, cross_attn="i2t", lambda_softmax=4.0, lambda_lse=5.0)
_F30K = TrainingConfig()
_COCO = TrainingConfig(num_epochs=20, lr_update=10, learning_rate=5e-4)
PRESETS = {
    "f30k-t-i-lse": Preset(_T_I, _F30K),
    "f30k-t-i-avg": Preset(replace(_T_I, agg_func="Mean"), _F30K),
    "f30k-i-t-lse": Preset(_I_T, _F30K),
    "f30k-i-t-avg": Preset(replace(_I_T, agg_func="Mean"), _F30K),
    "coco-t-i-lse": Preset(_T_I, _COCO),
    "coco-t-i-avg": Preset(replace(_T_I, agg_func="Mean"), _COCO),
    "coco-i-t-lse": Preset(replace(_I_T, lambda_lse=20.0), _COCO),
    "coco-i-t-avg": Preset(replace(_I_T, agg_func="Mean"), _COCO),
}


class SCAN(MatchingModel):
    """Stacked cross attention for image-text matching.

    Source:
        Lee et al., ECCV 2018; kuanghuei/SCAN.
    """

    name: ClassVar[str] = "scan"
    config_class = SCANConfig
    config: SCANConfig

    def __init__(self, config: SCANConfig, vocabulary: CaptionVocabulary) -> None:
        super().__init__(config, vocabulary)
        self.img_enc = image_encoder(
            self.config,
            lambda dim: RegionEncoder(
                dim, config.embed_size, precomp_enc_type=config.precomp_enc_type, no_imgnorm=config.no_imgnorm
            ),
        )
        self.txt_enc = caption_encoder(
            self.config,
            lambda: GRUEncoder(
                len(vocabulary),
                config.word_dim,
                config.embed_size,
                num_layers=config.num_layers,
                bi_gru=config.bi_gru,
                no_txtnorm=config.no_txtnorm,
            ),
            no_txtnorm=config.no_txtnorm,
        )
        self.sim_enc = CrossAttention(
            config.cross_attn,
            config.raw_feature_norm,
            config.agg_func,
            config.lambda_softmax,
            config.lambda_lse,
        )

    def similarity_of_candidates(
        self, images: Tensor, captions: Packed, candidates: Tensor, region_counts: Counts = None
    ) -> Tensor:
        """Images as encoded, words of captions (total, dim), candidates (n, k) -> sims (n, k), -inf where -1."""
        sims: Tensor = self.sim_enc(images, captions, None, missing_regions(images, region_counts), candidates)
        return sims
