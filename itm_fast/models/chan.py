"""CHAN: each word aligned with its one best region."""

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from itm_fast.config import TrainingConfig
from itm_fast.data.text.caption_vocabulary import CaptionVocabulary
from itm_fast.models.axes import caption_encoder, image_encoder
from itm_fast.models.base import MatchingModel, Preset, TextConfig, missing_regions
from itm_fast.nn.encoders.gru import GRUEncoder
from itm_fast.nn.encoders.regions import RegionEncoder
from itm_fast.nn.similarity.chan import CHANSimilarity, CodingType, PoolingType
from itm_fast.ops import _checks
from itm_fast.ops._counts import Counts
from itm_fast.ops._ragged import Packed


@dataclass(frozen=True)
class CHANConfig(TextConfig):
    """CHAN's flags with its defaults; names as in ppanzx/CHAN, arguments.py.

    Raises:
        ValueError: A number is out of range, or an option is unknown.
        TypeError: A number is none.
    """

    coding_type: CodingType = "VHACoding"
    """Who is aligned: "VHACoding" each word with a region, "THACoding" each region with a word, "VSACoding" softly."""
    pooling_type: PoolingType = "LSEPooling"
    """How the aligned similarities are pooled."""
    alpha: float = 0.1
    """Temperature of VSACoding."""
    belta: float = 0.1
    """Temperature of LSEPooling and SoftmaxPooling."""
    margin: float = 0.05
    """Margin of the hinge loss, in units of the similarities."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _checks.check_choice("coding_type", self.coding_type, CodingType)
        _checks.check_choice("pooling_type", self.pooling_type, PoolingType)
        _checks.check_finite("alpha", self.alpha, positive=True)
        _checks.check_finite("belta", self.belta, positive=True)


_SCHEDULE = TrainingConfig(
    num_epochs=25,
    batch_size=384,
    learning_rate=5e-4,
    optim="adamw",
    weight_decay=1e-2,
    vse_mean_warmup_epochs=1,
)
_BIGRU = CHANConfig(max_violation=True)
# Both without the original's --drop: dropped regions would have to be unknown to the similarity.
_BERT = Preset(
    replace(_BIGRU, text_enc_type="bert", pooling_type="MeanPooling"),
    replace(_SCHEDULE, batch_size=128, weight_decay=1e-4),
)
PRESETS = {
    "f30k": Preset(_BIGRU, _SCHEDULE),
    "coco": Preset(_BIGRU, _SCHEDULE),
    "f30k-bert": _BERT,
    "coco-bert": _BERT,
}


class CHAN(MatchingModel):
    """Cross-modal hard aligning network.

    Source:
        Pan et al., CVPR 2023; ppanzx/CHAN.
    """

    name: ClassVar[str] = "chan"
    config_class = CHANConfig
    config: CHANConfig

    def __init__(self, config: CHANConfig, vocabulary: CaptionVocabulary) -> None:
        super().__init__(config, vocabulary)
        self.img_enc = image_encoder(self.config, lambda dim: RegionEncoder(dim, config.embed_size))
        self.txt_enc = caption_encoder(
            self.config,
            lambda: GRUEncoder(
                len(vocabulary), config.word_dim, config.embed_size, num_layers=config.num_layers, bi_gru=True
            ),
        )
        self.sim_enc = CHANSimilarity(config.coding_type, config.pooling_type, config.alpha, config.belta)

    def similarity_of_candidates(
        self, images: Tensor, captions: Packed, candidates: Tensor, region_counts: Counts = None
    ) -> Tensor:
        """Images as encoded, words of captions (total, dim), candidates (n, k) -> sims (n, k), -inf where -1."""
        sims: Tensor = self.sim_enc(images, captions, None, missing_regions(images, region_counts), candidates)
        return sims
