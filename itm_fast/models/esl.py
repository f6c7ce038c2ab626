"""ESL: regions and words on nine levels of width, every pair of which adds to the similarity."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from torch import Tensor

from itm_fast.config import TrainingConfig
from itm_fast.data.augment import SizeAugment
from itm_fast.data.text.caption_vocabulary import CaptionVocabulary
from itm_fast.models.axes import caption_encoder, image_encoder, n_tokens
from itm_fast.models.base import MatchingModel, Preset, TextConfig, missing_regions, outside_autocast, without_missing
from itm_fast.nn.encoders.grid import GridEncoder
from itm_fast.nn.encoders.gru import GRUEncoder
from itm_fast.nn.encoders.regions import MLPRegionEncoder, l2_normalise
from itm_fast.nn.similarity.esl import ESLSimilarity
from itm_fast.ops import _checks
from itm_fast.ops._counts import Counts
from itm_fast.ops._ragged import Packed

PrecompEncType = Literal["basic", "backbone"]


@dataclass(frozen=True)
class ESLConfig(TextConfig):
    """ESL's flags with its defaults; names as in CrossmodalGroup/ESL, arguments.py.

    Raises:
        ValueError: A number is out of range.
        TypeError: A number is none.
    """

    embed_size: int = 512
    """Numbers per region and word embedding, a multiple of 256."""
    precomp_enc_type: PrecompEncType = "basic"
    """What images are where image_encoder says nothing: "basic" regions, or the "backbone"'s grid."""
    heuristic_strategy: bool = False
    """ESL-H, whose levels are two-tap filters; otherwise ESL-A, whose levels are learned, sparse maps."""

    def __post_init__(self) -> None:
        _checks.check_choice("precomp_enc_type", self.precomp_enc_type, PrecompEncType)
        super().__post_init__()


_A, _H = ESLConfig(max_violation=True), ESLConfig(max_violation=True, heuristic_strategy=True)
_F30K = TrainingConfig(
    learning_rate=5e-4,
    optim="adamw",
    weight_decay=1e-4,
    vse_mean_warmup_epochs=1,
    size_augment=True,
)
_COCO = replace(_F30K, num_epochs=20, lr_update=10)
_GRID = {
    "precomp_enc_type": "backbone",
    "input_scale_factor": 2.0,
    "embedding_warmup_epochs": 1,
    "backbone_warmup_epochs": 0,
}
_CLIP_NAME = "openai/clip-vit-base-patch32"
_CLIP = {
    "image_encoder": "patches",
    "text_encoder": "clip",
    "backbone_path": _CLIP_NAME,
    "bert_path": _CLIP_NAME,
    "backbone_lr_factor": 0.1,
    "embedding_warmup_epochs": 1,
}
# The paper's are those with BERT on regions. A BiGRU in BERT's place is ours; so are grids, whose options its code has
# from VSE-infinity and whose settings are VSE-infinity's here, and CLIP's towers, of which its repository speaks.
_KINDS: dict[str, dict[str, Any]] = {
    "": {},
    "-bert": {"text_enc_type": "bert"},
    "-grid-bert": {**_GRID, "text_enc_type": "bert"},
    "-wsl-grid-bert": {**_GRID, "text_enc_type": "bert", "backbone_source": "wsl"},
    "-clip": _CLIP,
}
PRESETS = {
    f"{data}-{strategy}{kind}": Preset(replace(model, **options), schedule)
    for kind, options in _KINDS.items()
    for data, schedule in (("f30k", _F30K), ("coco", _COCO))
    for strategy, model in (("h", _H), ("a", _A))
}


class ESL(MatchingModel):
    """Enhanced semantic similarity learning.

    Images and captions are encoded down to their levels, so that evaluation projects each caption once. As in the
    original, regions that the size augmentation drops take part as regions of zeros; those that an image does not have
    take no part.

    Source:
        Zhang et al., IEEE TCSVT 2023; CrossmodalGroup/ESL.
    """

    name: ClassVar[str] = "esl"
    config_class = ESLConfig
    config: ESLConfig
    sim_enc: ESLSimilarity

    def __init__(self, config: ESLConfig, vocabulary: CaptionVocabulary) -> None:
        super().__init__(config, vocabulary)
        size = config.embed_size
        if config.image_kind == "grid":
            self.img_enc = GridEncoder(config.backbone_source, size)
        else:
            self.img_enc = image_encoder(self.config, lambda dim: MLPRegionEncoder(dim, size))
        n_words = len(vocabulary) + 1  # the mask of the size augmentation
        self.txt_enc = caption_encoder(
            self.config,
            lambda: GRUEncoder(n_words, config.word_dim, size, num_layers=config.num_layers, bi_gru=True),
        )
        self.sim_enc = ESLSimilarity(config.embed_size, heuristic=config.heuristic_strategy)

    def encode_images(self, images: Tensor, region_counts: Counts = None) -> Tensor:
        """(n, max_regions, img_dim), or pixels with a backbone -> levels of the regions (n, max_regions, width)."""
        images = without_missing(images, region_counts)[0]
        return self.sim_enc.image_levels(l2_normalise(self.img_enc(images)))

    def encode_captions(self, tokens: Tensor, word_counts: Counts) -> Tensor:
        """Tokens (n, max_words) int64, word_counts (n,) int64 -> levels of the words (n, max_words, width)."""
        return self.sim_enc.caption_levels(self.txt_enc(tokens, word_counts), word_counts)

    @outside_autocast
    def similarity(self, images: Tensor, captions: Tensor, word_counts: Counts, region_counts: Counts = None) -> Tensor:
        """Levels of n images and of m captions -> sims (n, m)."""
        return self.sim_enc.attend(images, captions, word_counts, missing_regions(images, region_counts))

    def similarity_of_candidates(
        self, images: Tensor, captions: Packed, candidates: Tensor, region_counts: Counts = None
    ) -> Tensor:
        """Levels of n images, of words (total, width), candidates (n, k) -> sims (n, k), -inf where -1."""
        return self.sim_enc.attend(images, captions, None, missing_regions(images, region_counts), candidates)

    def size_augment(self) -> SizeAugment:
        """Drops regions, or tokens of a backbone, and words while training."""
        pieces, n_cells = self.vocabulary, n_tokens(self.config, self.img_enc)
        return SizeAugment(len(pieces), pieces.mask_id, pieces.continues, n_cells=n_cells, zeros_count=True)
