"""SGR and SAF: similarity vectors of words and regions, reasoned over or filtered."""

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from itm_fast.config import TrainingConfig
from itm_fast.data.text.caption_vocabulary import CaptionVocabulary
from itm_fast.models.axes import caption_encoder, image_encoder, n_tokens
from itm_fast.models.base import MatchingConfig, MatchingModel, Preset, of_n_regions, outside_autocast
from itm_fast.nn.encoders.gru import GRUEncoder
from itm_fast.nn.encoders.regions import RegionEncoder
from itm_fast.nn.similarity.sgraf import ModuleName, SGRAFSimilarity
from itm_fast.ops import _checks
from itm_fast.ops._counts import Counts


@dataclass(frozen=True)
class SGRAFConfig(MatchingConfig):
    """SGRAF's flags with its defaults; names as in Paranioar/SGRAF, opts.py.

    There `--bi_gru` and `--max_violation` switch off what is on by default; here they switch it on, and it is on.

    Raises:
        ValueError: A number is out of range, or an option is unknown.
        TypeError: A number is none.
    """

    reads_apart = "class first"
    sim_dim: int = 256
    """Numbers per similarity vector."""
    bi_gru: bool = True
    """Run the GRU in both directions and average them."""
    no_imgnorm: bool = False
    """Leave region embeddings at their own length."""
    no_txtnorm: bool = False
    """Leave word embeddings at their own length."""
    module_name: ModuleName = "SGR"
    """"SGR" graph reasoning or "SAF" attention filtration; the paper's SGRAF averages the similarities of both."""
    sgr_step: int = 3
    """Steps of graph reasoning."""
    n_regions: int = 36
    """Regions of every image: the image's BatchNorm has one channel each. With a backbone, as many as it makes."""
    dropout: float = 0.4
    """Of word vectors and of the attention to whole images and captions."""
    max_violation: bool = True
    """Only the hardest negatives count."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_sizes("sim_dim", "sgr_step", "n_regions")
        _checks.check_choice("module_name", self.module_name, ModuleName)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {self.dropout}")


_SGR, _SAF = SGRAFConfig(), SGRAFConfig(module_name="SAF")
_COCO = TrainingConfig(num_epochs=20, lr_update=10)
PRESETS = {
    "f30k-sgr": Preset(_SGR, replace(_COCO, num_epochs=40, lr_update=30)),
    "f30k-saf": Preset(_SAF, replace(_COCO, num_epochs=30, lr_update=20)),
    "coco-sgr": Preset(_SGR, _COCO),
    "coco-saf": Preset(_SAF, _COCO),
}


class SGRAF(MatchingModel):
    """Similarity graph reasoning, or similarity attention filtration.

    Source:
        Diao et al., AAAI 2021; Paranioar/SGRAF.
    """

    name: ClassVar[str] = "sgraf"
    config_class = SGRAFConfig
    config: SGRAFConfig

    def __init__(self, config: SGRAFConfig, vocabulary: CaptionVocabulary) -> None:
        super().__init__(config, vocabulary)
        self.img_enc = image_encoder(
            self.config, lambda dim: RegionEncoder(dim, config.embed_size, no_imgnorm=config.no_imgnorm)
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
                dropout=config.dropout,
                rnn_name="cap_rnn",
            ),
            no_txtnorm=config.no_txtnorm,
        )
        self.n_regions = n_tokens(self.config, self.img_enc) or config.n_regions
        self.sim_enc = SGRAFSimilarity(
            config.embed_size,
            config.sim_dim,
            module_name=config.module_name,
            sgr_step=config.sgr_step,
            n_regions=self.n_regions - int(config.has_class_first),
            dropout=config.dropout,
            class_token=config.has_class_first,
        )

    def encode_images(self, images: Tensor, region_counts: Counts = None) -> Tensor:
        """(n, max_regions, img_dim), region_counts (n,) int64 or None = all valid -> (n, n_regions, embed_size)."""
        return super().encode_images(*of_n_regions(images, region_counts, self.n_regions))

    @outside_autocast
    def similarity(self, images: Tensor, captions: Tensor, word_counts: Counts, region_counts: Counts = None) -> Tensor:
        """Regions of n images, words of m captions -> sims (n, m) in (0, 1)."""
        return super().similarity(images, captions, word_counts, region_counts)
