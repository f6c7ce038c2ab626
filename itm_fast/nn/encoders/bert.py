"""Captions to embeddings by BERT, or by another transformer of text: a word piece each, or their mean."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from itm_fast.nn.encoders.regions import l2_normalise
from itm_fast.nn.encoders.transformer import load_transformer, made_transformer
from itm_fast.ops._blocks import padding
from itm_fast.ops._counts import Counts, counted_in_place
from itm_fast.shown import named_options


class BERTEncoder(nn.Module):
    """A transformer's last hidden states and a linear map: an embedding a word piece, "[CLS]" and "[SEP]" included.

    Of CLIP and SigLIP it is the text tower; SigLIP's reads every caption padded to its context, as it was trained.

    State dict: `bert.*` as transformers has it, `linear.weight` (embed_size, hidden_size), `linear.bias`. Made with
    random weights; `load_pretrained` reads others.

    Source:
        woodfrog/vse_infty, lib/encoders.py, EncoderText.
    """

    def __init__(self, bert_config: Mapping[str, Any], embed_size: int, *, no_txtnorm: bool = False) -> None:
        """Initialise as the original does, but for the pretrained weights.

        Args:
            bert_config: Options of the transformer, as its config.json has them.
            embed_size: Numbers per embedding.
            no_txtnorm: Leave the embeddings at their own length.

        Raises:
            ValueError: The options are those of no encoder of text.
            ImportError: transformers is not installed.
        """
        super().__init__()
        self.bert: Any = made_transformer(bert_config, "bert_config", "text", 'text_encoder "bert"')
        options = self.bert.config
        if not hasattr(options, "vocab_size"):
            raise ValueError(f"bert_config: {options.model_type} is no encoder of text; expected one such as bert")
        self.max_words: int | None = getattr(options, "max_position_embeddings", None)
        embeddings = getattr(self.bert, "embeddings", None)
        padding = getattr(getattr(embeddings, "position_embeddings", None), "padding_idx", None)
        if self.max_words is not None and padding is not None:
            self.max_words -= padding + 1  # RoBERTa's begin behind the padding's
        # trained so: its captions mean something else when they are padded less
        self.is_padded_to_the_end = str(options.model_type).startswith("siglip")
        self.no_txtnorm = no_txtnorm
        self.linear = nn.Linear(options.hidden_size, embed_size)

    def forward(self, tokens: Tensor, word_counts: Counts = None) -> Tensor:
        """Tokens (n, max_words) and their counts (n,) or mask -> words (n, max_words, embed_size), padding exactly 0.

        In place of the tokens their `states` may be given, (n, max_words, hidden_size).

        Raises:
            ValueError: A caption is longer than what the transformer has positions for.
        """
        if self.max_words is not None and tokens.shape[1] > self.max_words:
            raise ValueError(
                f"tokens: a caption has {tokens.shape[1]} word pieces, but the text encoder has only {self.max_words} "
                "positions; shorten it"
            )
        word_counts = counted_in_place("word_counts", word_counts, "tokens", tokens)
        valid = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        if word_counts is not None:
            valid = ~padding(word_counts, tokens.shape[1])
        words = self.mapped(tokens if tokens.ndim == 3 else self.states(tokens, valid))
        words = words if self.no_txtnorm else l2_normalise(words)
        return words.masked_fill(~valid[..., None], 0)

    def mapped(self, states: Tensor) -> Tensor:
        """Hidden states (n, max_words, hidden_size) -> words (n, max_words, embed_size) of whatever length."""
        words: Tensor = self.linear(states)
        return words

    def states(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """Tokens (n, max_words), valid bool (n, max_words) -> last hidden states (n, max_words, hidden_size)."""
        if not self.is_padded_to_the_end:
            states: Tensor = self.bert(input_ids=tokens, attention_mask=valid.long()).last_hidden_state
            return states
        pad, missing = self.bert.config.pad_token_id or 0, (self.max_words or 0) - tokens.shape[1]
        whole = nn.functional.pad(tokens.masked_fill(~valid, pad), (0, missing), value=pad)
        states = self.bert(input_ids=whole).last_hidden_state
        return states[:, : tokens.shape[1]]

    def extra_repr(self) -> str:
        """The options that its layers do not show, for print(model)."""
        return named_options(self, "no_txtnorm")

    def load_pretrained(self, folder: Path) -> None:
        """Reads the transformer's weights.

        Args:
            folder: As transformers' save_pretrained leaves it, of the transformer or of CLIP or SigLIP as a whole.

        Raises:
            DataError: There are no weights, or those of another architecture.
        """
        load_transformer(self.bert, folder, "text")


class SentenceBERTEncoder(BERTEncoder):
    """The mean of a caption's word pieces, as VSE++ takes the mean of an image's regions, at unit length."""

    def __init__(self, bert_config: Mapping[str, Any], embed_size: int, *, use_abs: bool = False) -> None:
        """Initialise as `BERTEncoder` does.

        Args:
            bert_config: Options of the transformer, as its config.json has them.
            embed_size: Numbers per caption.
            use_abs: Take absolute values at the end, for order embeddings.
        """
        super().__init__(bert_config, embed_size, no_txtnorm=True)
        self.use_abs = use_abs

    def forward(self, tokens: Tensor, word_counts: Counts = None) -> Tensor:
        """Tokens (n, max_words), or their states, and counts (n,) or mask -> embeddings (n, embed_size) of length 1."""
        embeddings = nn.functional.normalize(super().forward(tokens, word_counts).sum(1), dim=1)  # a sum's direction
        return torch.abs(embeddings) if self.use_abs else embeddings

    def extra_repr(self) -> str:
        """The options that its layers do not show, for print(model)."""
        return named_options(self, "use_abs")
