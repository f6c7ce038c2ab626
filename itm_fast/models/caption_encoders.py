"""What the models share whose captions are encoded by a BiGRU or by BERT."""

from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import tyro

from itm_fast.data.text.caption_vocabulary import CaptionVocabulary
from itm_fast.data.text.word_pieces import WordPieces
from itm_fast.models.base import MatchingConfig, MatchingModel
from itm_fast.nn.encoders.bert import BERTEncoder
from itm_fast.nn.encoders.gru import GRUEncoder
from itm_fast.ops import _checks
from itm_fast.pretrained import pretrained_folder, read_config

TextEncType = Literal["bigru", "bert"]

_BERT_FACTOR = 0.1  # share of the learning rate, in VSE-infinity, ESL and CHAN


@dataclass(frozen=True)
class TextConfig(MatchingConfig):
    """How captions are encoded; the flag's name is CHAN's.

    Raises:
        ValueError: A number is out of range, or an option is unknown.
        TypeError: A number is none.
    """

    text_enc_type: TextEncType = "bigru"
    """What encodes captions: "bigru", a GRU over words, or "bert", a pretrained transformer over word pieces."""
    bert_path: str = "bert-base-uncased"
    """The transformer: a folder, or a name in the Hugging Face cache. Nothing is downloaded."""
    bert_config: tyro.conf.Suppress[dict[str, Any] | None] = None
    """Its architecture, as its config.json has it; None: that of bert_path. No flag."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _checks.check_choice("text_enc_type", self.text_enc_type, TextEncType)
        if not isinstance(self.bert_config, dict | None):
            raise TypeError(f"bert_config must be a dictionary or None, got {self.bert_config!r:.80}")

    def own_vocabulary(self) -> WordPieces | None:
        """The word pieces of bert_path, or None for a BiGRU."""
        return WordPieces.load(pretrained_folder(self.bert_path)) if self.text_enc_type == "bert" else None


def caption_encoder(config: TextConfig, n_words: int) -> GRUEncoder | BERTEncoder:
    """The encoder of captions to unit vectors, one a word or a word piece.

    Args:
        config: With bert_config, if it is BERT.
        n_words: Ids that a BiGRU has vectors for.
    """
    if config.text_enc_type == "bert":
        return BERTEncoder(config.bert_config or {}, config.embed_size)
    return GRUEncoder(n_words, config.word_dim, config.embed_size, num_layers=config.num_layers, bi_gru=True)


C = TypeVar("C", bound=TextConfig)


def with_architecture(config: C) -> C:
    """The configuration with all that the model is made of: what its folder needs to be read without bert_path.

    Raises:
        FileNotFoundError: bert_path is not on this machine.
        DataError: It is no transformer's.
    """
    if config.text_enc_type == "bigru" or config.bert_config is not None:
        return config
    return replace(config, bert_config=read_config(pretrained_folder(config.bert_path)))


class TextModel(MatchingModel):
    """A model whose `txt_enc` is a GRU over words, or a `BERTEncoder` over word pieces."""

    config: TextConfig

    def __init__(self, config: TextConfig, vocabulary: CaptionVocabulary) -> None:
        super().__init__(with_architecture(config), vocabulary)
        if config.text_enc_type == "bert":
            _check_pieces(self.config, vocabulary)

    def learning_rate_factor(self, parameter: str) -> float:
        """A tenth for BERT, which is pretrained."""
        return _BERT_FACTOR if parameter.startswith("txt_enc.bert.") else super().learning_rate_factor(parameter)

    def load_pretrained(self) -> None:
        """Read BERT's weights from bert_path.

        Raises:
            FileNotFoundError: bert_path is not on this machine.
            DataError: It does not hold weights that fit.
        """
        super().load_pretrained()
        if isinstance(self.txt_enc, BERTEncoder):
            self.txt_enc.load_pretrained(pretrained_folder(self.config.bert_path))


def _check_pieces(config: TextConfig, vocabulary: CaptionVocabulary) -> None:
    if not isinstance(vocabulary, WordPieces):
        raise ValueError(
            f'text_enc_type is "bert", but the vocabulary is of {vocabulary.fingerprint}; expected word pieces, such '
            "as BERT's vocab.txt"
        )
    n_rows = (config.bert_config or {}).get("vocab_size", len(vocabulary))
    if n_rows < len(vocabulary):
        raise ValueError(f"the vocabulary has {vocabulary.fingerprint}, but bert_config's vocab_size is {n_rows}")
