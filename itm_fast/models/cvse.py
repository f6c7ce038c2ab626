"""CVSE: what an image or a caption shows by itself, fused with the concepts that people mention together."""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
import tyro
from torch import Tensor, nn

from itm_fast.config import TrainingConfig
from itm_fast.data.collate import Batch
from itm_fast.data.readers.concept_files import read_concepts, read_word_vectors
from itm_fast.data.text.caption_tokens import CaptionTokens
from itm_fast.data.text.concepts import Concepts, singular
from itm_fast.data.text.tokenizers import Tokenizer
from itm_fast.data.text.vocabulary import Vocabulary
from itm_fast.indices import IndexLike
from itm_fast.models.axes import image_encoder, n_tokens
from itm_fast.models.base import (
    EmbeddingModel,
    Encoded,
    FurtherPairs,
    MatchingConfig,
    Preset,
    of_n_regions,
    without_missing,
)
from itm_fast.models.label_completion import neighbours
from itm_fast.nn.encoders.concept_graph import ConceptGraph
from itm_fast.nn.encoders.gru import GRUEncoder, counts_or_all
from itm_fast.nn.encoders.regions import RegionEncoder
from itm_fast.nn.pooling.consensus import Consensus, ConsensusAttention, divergence, fused
from itm_fast.nn.pooling.instance_attention import RegionAttention, WordAttention
from itm_fast.ops import _checks
from itm_fast.ops._blocks import padding
from itm_fast.ops._counts import Counts, counted_in_place

ConceptLabels = Literal["caption", "image_in_training", "image"]
LabelCompletion = Literal["none", "f30k", "coco"]


@dataclass(frozen=True)
class CVSEConfig(MatchingConfig):
    """CVSE's flags with its defaults for Flickr30K; names as in BruceW91/CVSE, train_f30k.py, where it has one.

    There `--max_violation` and `--bi_gru` switch off what is on by default; here they switch it on, and it is on.

    Raises:
        ValueError: A number is out of range, or an option is unknown.
        TypeError: A number is none.
    """

    reads_apart = "class first"
    bi_gru: bool = True
    """Run the GRU in both directions and average them."""
    n_regions: int = 36
    """Regions of every image, with a backbone as many as it makes: the image's BatchNorm has one channel each."""
    dropout_rate: float = 0.4
    """Of word vectors and of the attention to regions and words."""
    n_concepts: int = 300
    """Concepts; the original's num_attribute."""
    input_channel: int = 300
    """Numbers per concept vector before the concept graph."""
    concept_path: str | None = None
    """Folder with the original's files of concepts; None: the most frequent content words of the training captions."""
    glove_path: str | None = None
    """Text file of word vectors, GloVe's, that concepts and words begin from; None: concepts from what the training
    captions hold together, words at random."""
    concept_labels: ConceptLabels = "caption"
    """Which concepts a caption is told to hold: those of its own words ("caption"); while training those of all
    captions of its image ("image_in_training", CVSE); or always those ("image", the SAM repository), which tells the
    captions of a test image about each other."""
    concept_label_ratio: float = 0.35
    """Share of these labels in the concepts of a caption."""
    label_completion: tyro.conf.Suppress[LabelCompletion] = "none"
    """Complete the labels of test captions from the captions near them, by the rule of the original for "f30k" or
    "coco": the score of a pair then depends on the whole test set. Set where its checkpoint is read. No flag."""
    captions_as_bytes: tyro.conf.Suppress[bool] = False
    """Tokenise captions as Python 3 prints bytes, "b'a dog .'", as the original does by mistake. Set where its
    checkpoint is read. No flag."""
    alpha: float = 0.85
    """Share of the instance in the fused embedding while training."""
    alpha_test: float = 0.85
    """The same in evaluation."""
    weight_fused: float = 0.95
    """Share of the fused embedding in the similarities that are ranked by; the rest is the consensus embedding's."""
    max_violation: bool = True
    """Only the hardest negatives count."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.text_kind != "bigru":
            raise ValueError(f'text_encoder is "{self.text_kind}", but concepts of cvse are words, not pieces: "bigru"')
        self._check_sizes("n_regions", "n_concepts", "input_channel")
        _checks.check_choice("concept_labels", self.concept_labels, ConceptLabels)
        _checks.check_choice("label_completion", self.label_completion, LabelCompletion)
        if not 0 <= self.dropout_rate < 1:
            raise ValueError(f"dropout_rate must be at least 0 and below 1, got {self.dropout_rate}")
        for name in ("concept_label_ratio", "alpha", "alpha_test", "weight_fused"):
            if not 0 <= _checks.check_finite(name, getattr(self, name), positive=False) <= 1:
                raise ValueError(f"{name} must be 0 to 1, got {getattr(self, name)}")


_F30K = CVSEConfig(concept_labels="image_in_training")
_COCO = replace(_F30K, concept_label_ratio=0.4, alpha_test=0.9)
# The model that SAM was added to: SAM itself is --sam. Its test captions were told about each other; here they are not.
_SAM = replace(_F30K, alpha=0.75, alpha_test=0.75, weight_fused=1.0)
PRESETS = {
    "f30k": Preset(_F30K, TrainingConfig(num_epochs=50, lr_update=25)),
    "coco": Preset(_COCO, TrainingConfig(num_epochs=30, lr_update=15)),
    "f30k-sam": Preset(_SAM, TrainingConfig(num_epochs=50, lr_update=10, select="nsum")),
    "coco-sam": Preset(_SAM, TrainingConfig(num_epochs=30, lr_update=15, select="nsum")),
}


class _Levels(NamedTuple):
    """What a batch of images or captions is at each level."""

    instances: Tensor
    """(n, embed_size) of unit length."""
    consensus: Consensus


def _printed(caption: str) -> str:
    return str(caption.encode().strip())


def _notes(config: CVSEConfig) -> list[str]:
    """What a reader of figures should know."""
    notes = []
    if config.concept_labels == "image":
        notes.append("each caption was told the concepts of all captions of its image, which tells them apart")
    if config.captions_as_bytes:
        notes.append("captions were tokenised as Python 3 prints bytes (b'a dog .'), as the original does")
    if config.label_completion != "none":
        notes.append(
            "concepts of each caption were completed from captions near it, as in the original, so that scores depend "
            "on the whole test set"
        )
    return notes


class CVSE(EmbeddingModel):
    """Consensus-aware visual-semantic embedding.

    loss = 3 triplet(fused) + 5 triplet(instance) + triplet(consensus) + 2 KL(captions' concepts | images'); SAM goes
    with the fused one, and dropping the triplet loss beside it drops that one only.

    State dict: the original's parts under their names, beside `concept_vectors` (n_concepts, input_channel) and
    `concept_numbers` (n_words,) int64, a word's concept plus 1: all that evaluation needs of the concepts. Until
    `prepare` has read captions, or `set_concepts` was called, concepts are anonymous and no word speaks of any.

    Source:
        Wang et al., Consensus-Aware Visual-Semantic Embedding for Image-Text Matching, ECCV 2020; BruceW91/CVSE.
        Parameters that it has and never uses are not here.
    """

    name: ClassVar[str] = "cvse"
    config_class = CVSEConfig
    config: CVSEConfig
    vocabulary: Vocabulary
    triplet_weight = 3.0
    concept_vectors: Tensor
    concept_numbers: Tensor

    def __init__(self, config: CVSEConfig, vocabulary: Vocabulary) -> None:
        super().__init__(config, vocabulary)
        size, dropout, first = config.embed_size, config.dropout_rate, config.has_class_first
        self.img_enc = image_encoder(self.config, lambda dim: RegionEncoder(dim, size))
        self.n_regions = n_tokens(self.config, self.img_enc) or config.n_regions
        self.txt_enc = GRUEncoder(
            len(vocabulary),
            config.word_dim,
            size,
            num_layers=config.num_layers,
            bi_gru=config.bi_gru,
            dropout=config.dropout_rate,
        )
        nn.init.xavier_uniform_(self.txt_enc.embed.weight)
        self.V_self_atten_enhance = RegionAttention(size, self.n_regions - first, dropout, class_token=first)
        self.T_self_atten_enhance = WordAttention(size, dropout)
        self.V_consensus_level_embedding = ConsensusAttention(size)
        self.T_consensus_level_embedding = ConsensusAttention(size)
        self.C_GCN = ConceptGraph(config.n_concepts, config.input_channel, size)
        self.register_buffer("concept_vectors", torch.randn(config.n_concepts, config.input_channel))
        self.register_buffer("concept_numbers", torch.zeros(len(vocabulary), dtype=torch.int64))
        self.notes += _notes(config)

    def prepare(self, tokens: CaptionTokens, captions: IndexLike) -> None:
        """Take the concepts from the training captions, or from the files that the configuration names.

        Raises:
            FileNotFoundError: A file is missing.
            DataError: A file does not hold what it should.
            ValueError: There are fewer content words than `n_concepts`, or the files have other sizes.
        """
        config = self.config
        if config.concept_path is not None:
            concepts = read_concepts(config.concept_path)
        else:
            sizes = config.n_concepts, config.input_channel
            concepts = Concepts.of_captions(tokens, captions, self.vocabulary, *sizes)
        if config.glove_path is not None:
            concepts = self._begin_from(config.glove_path, concepts)
        self.set_concepts(concepts)

    def _begin_from(self, glove_path: str, concepts: Concepts) -> Concepts:
        """Words and concepts with the vectors of a file; a concept that it does not hold gets their mean."""
        config = self.config
        if config.word_dim != config.input_channel:
            raise ValueError(
                f"word_dim is {config.word_dim} and input_channel {config.input_channel}; expected the same with "
                "glove_path, the numbers per vector of its file"
            )
        vectors = read_word_vectors(glove_path, {*self.vocabulary.word2idx, *concepts.words}, config.word_dim)
        weight = self.txt_enc.get_parameter("embed.weight").data
        for word, vector in vectors.items():
            if word in self.vocabulary:
                weight[self.vocabulary(word)] = torch.from_numpy(vector).to(weight)
        lacking, n = len(set(concepts.words).difference(vectors)), len(concepts.words)
        if 2 * lacking > n:
            self.notes.append(f"{glove_path} lacks {lacking} of {n} concepts, which begin from the mean of the others")
        mean = sum(vectors.values()) / len(vectors)
        rows = torch.stack([torch.as_tensor(vectors.get(word, mean)) for word in concepts.words])
        return replace(concepts, vectors=rows.numpy())

    def set_concepts(self, concepts: Concepts) -> None:
        """Give the concept graph its concepts, and the words theirs.

        Raises:
            ValueError: There are not `n_concepts`, or their vectors are not `input_channel` wide.
        """
        expected = (self.config.n_concepts, self.config.input_channel)
        if concepts.vectors.shape != expected:
            raise ValueError(
                f"concepts has {concepts.vectors.shape[0]} vectors of {concepts.vectors.shape[1]} numbers; expected "
                f"n_concepts = {expected[0]} of input_channel = {expected[1]}"
            )
        self.concept_vectors.copy_(torch.from_numpy(concepts.vectors))
        # the original's files of images' labels hold concepts as they are written, its captions' labels are lemmas
        lemmatise = self.config.concept_labels != "image"
        self.concept_numbers.copy_(torch.from_numpy(concepts.numbers_of(self.vocabulary, lemmatise=lemmatise)))
        self.C_GCN.adj_all.copy_(torch.from_numpy(concepts.adjacency()))

    def tokens_of(self, captions: Iterable[str], tokenizer: Tokenizer | None = None) -> CaptionTokens:
        """Captions as tokens, with `captions_as_bytes` as Python 3 prints their bytes."""
        if self.config.captions_as_bytes:
            captions = map(_printed, captions)
        return super().tokens_of(captions, tokenizer)

    def labels_of(self, captions: Iterable[str], tokenizer: Tokenizer | None = None) -> CaptionTokens:
        """The concepts that captions speak of in evaluation, by their own words.

        Args:
            captions: One text each.
            tokenizer: As in `CaptionTokens.from_captions`.

        Returns:
            Numbers of concepts plus 1 in place of token ids.
        """
        ready = self.vocabulary.tokenizer_for(tokenizer)
        by_caption = self.config.concept_labels != "image"
        if by_caption and self.config.captions_as_bytes:
            captions = (_printed(caption)[1:] for caption in captions)  # without the b
        numbers, word2idx = self.concept_numbers.tolist(), self.vocabulary.word2idx
        flat, offsets = array("i"), array("q", [0])
        for caption in captions:
            for word in dict.fromkeys(ready(caption)):
                if word not in word2idx and by_caption:
                    word = singular(word, word2idx)
                number = numbers[word2idx[word]] if word in word2idx else 0
                if number:
                    flat.append(number)
            offsets.append(len(flat))
        return CaptionTokens(np.array(flat, dtype=np.int32), np.array(offsets, dtype=np.int64))

    @property
    def completes_labels(self) -> bool:
        """Whether labels of captions are completed from those of the captions near them."""
        return self.config.label_completion != "none"

    def complete_labels(self, labels: CaptionTokens, images: Tensor, captions: Tensor) -> CaptionTokens:
        """Labels of all captions of a test set, completed from those near them.

        Args:
            labels: Of m captions, as `labels_of` makes them.
            images: (n, dim) as `encode_images` returns them.
            captions: (m, dim) as `encode_captions` does, with these labels.

        Returns:
            Labels of the m captions.
        """
        size = self.config.embed_size  # the fused embeddings come first
        near = neighbours(images[:, :size].cpu(), captions[:, :size].cpu(), self.config.label_completion)
        own = np.split(labels.flat, labels.offsets[1:-1])
        parts = [np.unique(np.concatenate([own[index] for index in (*some, n)])) for n, some in enumerate(near)]
        offsets = np.cumsum([0, *map(len, parts)])
        return CaptionTokens(np.concatenate([*parts, labels.flat[:0]]), offsets)

    def reads_image_tokens(self, *, training: bool) -> bool:
        """Whether a caption's labels are those of all captions of its image."""
        return self.config.concept_labels == "image" or (training and self.config.concept_labels == "image_in_training")

    def learning_rate_decay(self, parameter: str) -> float:
        """The concept graph's learning rate falls to a fifth."""
        return 0.2 if parameter.startswith("C_GCN.") else 0.1

    def encode_images(self, images: Tensor, region_counts: Counts = None) -> Tensor:
        """(n, max_regions, img_dim) -> embeddings (n, dim) whose dot products are the similarities to rank by.

        With region_counts (n,) int64 nothing beyond them is read; without, images have n_regions.
        """
        return self._to_rank_by(self._images(images, region_counts, self._concepts()))

    def encode_captions(
        self,
        tokens: Tensor,
        word_counts: Counts,
        image_tokens: Tensor | None = None,
        concept_numbers: Tensor | None = None,
    ) -> Tensor:
        """Tokens (n, max_words), word_counts (n,) int64 -> embeddings (n, dim).

        Args:
            tokens: As the vocabulary numbers them.
            word_counts: Valid ones of each caption.
            image_tokens: (n, most) int64, zero-padded, of all captions of each caption's image; read with
                concept_labels "image".
            concept_numbers: (n, most) int64, zero-padded: the labels, numbers of concepts plus 1, instead of those that
                the tokens say.

        Raises:
            ValueError: `image_tokens` is needed.
        """
        word_counts = counts_or_all(counted_in_place("word_counts", word_counts, "tokens", tokens), tokens)
        if concept_numbers is None:
            labels = self._labels(tokens, word_counts, image_tokens, training=False)
        else:
            labels = self._as_rows(concept_numbers)
        return self._to_rank_by(self._captions(tokens, word_counts, labels, self._concepts()))

    def forward(self, batch: Batch) -> Encoded:
        """Encode a batch: the fused embeddings, the others for their losses, the divergence of each pair."""
        concepts = self._concepts()
        labels = self._labels(batch.tokens, batch.word_counts, batch.image_tokens, training=True)
        images = self._images(*self.regions_of(batch), concepts)
        captions = self._captions(batch.tokens, batch.word_counts, labels, concepts)
        alpha = self.config.alpha
        return Encoded(
            fused(images.instances, images.consensus.embeddings, alpha),
            fused(captions.instances, captions.consensus.embeddings, alpha),
            divergence(captions.consensus.log_weights, images.consensus.log_weights),
            (
                FurtherPairs(images.instances, captions.instances, 5.0),
                FurtherPairs(images.consensus.embeddings, captions.consensus.embeddings, 1.0),
            ),
        )

    def extra_loss(self, extra_losses: Tensor) -> Tensor:
        """Twice the sum of the divergences."""
        return 2 * extra_losses.sum()

    def _concepts(self) -> Tensor:
        concepts: Tensor = self.C_GCN(self.concept_vectors)
        return concepts

    def _images(self, images: Tensor, region_counts: Counts, concepts: Tensor) -> _Levels:
        images, counts = of_n_regions(images, region_counts, self.n_regions)
        instances = self.V_self_atten_enhance(without_missing(self.img_enc(images), counts)[0], counts)
        return _Levels(instances, self.V_consensus_level_embedding(instances, concepts))

    def _captions(self, tokens: Tensor, word_counts: Tensor, labels: Tensor, concepts: Tensor) -> _Levels:
        is_padding = padding(word_counts, tokens.shape[1])
        instances = self.T_self_atten_enhance(self.txt_enc(tokens, word_counts), is_padding)
        ratio = self.config.concept_label_ratio
        return _Levels(instances, self.T_consensus_level_embedding(instances, concepts, labels, ratio))

    def _labels(self, tokens: Tensor, word_counts: Tensor, image_tokens: Tensor | None, *, training: bool) -> Tensor:
        """(n, n_concepts) float, 1 where a word speaks of the concept."""
        numbers = self.concept_numbers[tokens].masked_fill(padding(word_counts, tokens.shape[1]), 0)
        if self.reads_image_tokens(training=training):
            if image_tokens is None:
                raise ValueError(
                    f"image_tokens is missing: with concept_labels {self.config.concept_labels!r} captions are "
                    "labelled by all captions of their image; give them, or choose concept_labels 'caption'"
                )
            numbers = self.concept_numbers[image_tokens]
        return self._as_rows(numbers)

    def _as_rows(self, numbers: Tensor) -> Tensor:
        labels = self.concept_vectors.new_zeros(len(numbers), self.config.n_concepts + 1)
        return labels.scatter_(1, numbers, 1.0)[:, 1:]

    def _to_rank_by(self, levels: _Levels) -> Tensor:
        """The embeddings whose dot product is share cos(fused) + (1 - share) cos(consensus)."""
        share = self.config.weight_fused
        embeddings = fused(levels.instances, levels.consensus.embeddings, self.config.alpha_test)
        if share == 1:
            return embeddings
        return torch.cat([share**0.5 * embeddings, (1 - share) ** 0.5 * levels.consensus.embeddings], dim=1)
