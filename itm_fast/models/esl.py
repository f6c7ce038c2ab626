"""ESL: regions and words on nine levels of width, every pair of which adds to the similarity."""

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from itm_fast.config import TrainingConfig
from itm_fast.data.augment import SizeAugment
from itm_fast.data.text.caption_vocabulary import CaptionVocabulary
from itm_fast.models.base import Preset, missing_regions, outside_autocast, without_missing
from itm_fast.models.caption_encoders import TextConfig, TextModel, caption_encoder
from itm_fast.nn.encoders.regions import MLPRegionEncoder, l2_normalise
from itm_fast.nn.similarity.esl import ESLSimilarity
from itm_fast.ops._counts import Counts
from itm_fast.ops._ragged import Packed


@dataclass(frozen=True)
class ESLConfig(TextConfig):
    """ESL's flags with its defaults; names as in CrossmodalGroup/ESL, arguments.py.

    Raises:
        ValueError: A number is out of range.
        TypeError: A number is none.
    """

    embed_size: int = 512
    """Numbers per region and word embedding, a multiple of 256."""
    heuristic_strategy: bool = False
    """ESL-H, whose levels are two-tap filters; otherwise ESL-A, whose levels are learned, sparse maps."""


_A, _H = ESLConfig(max_violation=True), ESLConfig(max_violation=True, heuristic_strategy=True)
_BERT_A, _BERT_H = replace(_A, text_enc_type="bert"), replace(_H, text_enc_type="bert")
_F30K = TrainingConfig(
    learning_rate=5e-4,
    optim="adamw",
    weight_decay=1e-4,
    vse_mean_warmup_epochs=1,
    size_augment=True,
)
_COCO = replace(_F30K, num_epochs=20, lr_update=10)
# The paper's are those with BERT; a BiGRU in its place is ours.
PRESETS = {
    "f30k-h": Preset(_H, _F30K),
    "f30k-a": Preset(_A, _F30K),
    "coco-h": Preset(_H, _COCO),
    "coco-a": Preset(_A, _COCO),
    "f30k-h-bert": Preset(_BERT_H, _F30K),
    "f30k-a-bert": Preset(_BERT_A, _F30K),
    "coco-h-bert": Preset(_BERT_H, _COCO),
    "coco-a-bert": Preset(_BERT_A, _COCO),
}


class ESL(TextModel):
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
        self.img_enc = MLPRegionEncoder(config.img_dim, config.embed_size)
        self.txt_enc = caption_encoder(self.config, len(vocabulary) + 1)  # the mask of the size augmentation
        self.sim_enc = ESLSimilarity(config.embed_size, heuristic=config.heuristic_strategy)

    def encode_images(self, images: Tensor, region_counts: Counts = None) -> Tensor:
        """(n, max_regions, img_dim) -> levels of the regions (n, max_regions, width)."""
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
        """Drops regions and words while training."""
        return SizeAugment(len(self.vocabulary), self.vocabulary.mask_id, self.vocabulary.continues, zeros_count=True)
