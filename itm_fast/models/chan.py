"""CHAN: each word aligned with its one best region."""

from dataclasses import dataclass
from typing import ClassVar

from itm_fast.config import TrainingConfig
from itm_fast.data.vocabulary import Vocabulary
from itm_fast.models.base import MatchingConfig, MatchingModel, Preset
from itm_fast.nn.encoders.gru import GRUEncoder
from itm_fast.nn.encoders.regions import RegionEncoder
from itm_fast.nn.similarity.chan import CHANSimilarity, CodingType, PoolingType
from itm_fast.ops import _checks


@dataclass(frozen=True)
class CHANConfig(MatchingConfig):
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
PRESETS = {"f30k": Preset(_BIGRU, _SCHEDULE), "coco": Preset(_BIGRU, _SCHEDULE)}


class CHAN(MatchingModel):
    """Cross-modal hard aligning network, of region features and a BiGRU's words.

    Source:
        Pan et al., CVPR 2023; ppanzx/CHAN.
    """

    name: ClassVar[str] = "chan"
    config_class = CHANConfig
    config: CHANConfig

    def __init__(self, config: CHANConfig, vocabulary: Vocabulary) -> None:
        super().__init__(config, vocabulary)
        self.img_enc = RegionEncoder(config.img_dim, config.embed_size)
        self.txt_enc = GRUEncoder(
            len(vocabulary), config.word_dim, config.embed_size, num_layers=config.num_layers, bi_gru=True
        )
        self.sim_enc = CHANSimilarity(config.coding_type, config.pooling_type, config.alpha, config.belta)
