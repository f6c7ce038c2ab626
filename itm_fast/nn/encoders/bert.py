"""Captions to embeddings by BERT, or by another transformer of word pieces."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from itm_fast.errors import DataError
from itm_fast.nn.encoders.regions import l2_normalise
from itm_fast.ops._blocks import padding
from itm_fast.ops._counts import Counts, counted_in_place
from itm_fast.pretrained import text_library
from itm_fast.shown import named_options


class BERTEncoder(nn.Module):
    """A transformer's last hidden states and a linear map: an embedding a word piece, "[CLS]" and "[SEP]" included.

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
        transformers = _transformers()
        try:
            options = transformers.AutoConfig.for_model(**bert_config)
            self.bert = transformers.AutoModel.from_config(options, dtype=torch.float32, trust_remote_code=False)
        except Exception as error:  # transformers checks little, and late
            reason = str(error).strip().partition(" Should contain one of")[0]
            raise ValueError(f"bert_config: transformers makes no model of it: {reason}") from error
        if getattr(options, "is_encoder_decoder", False) or not hasattr(options, "hidden_size"):
            raise ValueError(f"bert_config: {options.model_type} is no encoder of text; expected one such as bert")
        self.max_words: int | None = getattr(options, "max_position_embeddings", None)
        embeddings = getattr(self.bert, "embeddings", None)
        padding = getattr(getattr(embeddings, "position_embeddings", None), "padding_idx", None)
        if self.max_words is not None and padding is not None:
            self.max_words -= padding + 1  # RoBERTa's begin behind the padding's
        self.no_txtnorm = no_txtnorm
        self.linear = nn.Linear(options.hidden_size, embed_size)

    def forward(self, tokens: Tensor, word_counts: Counts = None) -> Tensor:
        """Tokens (n, max_words) and their counts (n,) or mask -> words (n, max_words, embed_size), padding exactly 0.

        Raises:
            ValueError: A caption is longer than what the transformer has positions for.
        """
        if self.max_words is not None and tokens.shape[1] > self.max_words:
            raise ValueError(
                f"tokens: a caption has {tokens.shape[1]} word pieces, but the text encoder has only {self.max_words} "
                "positions; shorten it"
            )
        word_counts = counted_in_place("word_counts", word_counts, "tokens", tokens)
        valid = torch.ones_like(tokens, dtype=torch.bool)  # (n, max_words)
        if word_counts is not None:
            valid = ~padding(word_counts, tokens.shape[1])
        states = self.bert(input_ids=tokens, attention_mask=valid.long()).last_hidden_state
        words: Tensor = self.linear(states)
        words = words if self.no_txtnorm else l2_normalise(words)
        return words.masked_fill(~valid[..., None], 0)

    def extra_repr(self) -> str:
        """The options that its layers do not show, for print(model)."""
        return named_options(self, "no_txtnorm")

    def load_pretrained(self, folder: Path) -> None:
        """Reads the transformer's weights.

        Args:
            folder: As transformers' save_pretrained leaves it.

        Raises:
            DataError: There are no weights, or those of another architecture.
        """
        transformers = _transformers()
        try:
            pretrained, report = transformers.AutoModel.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, output_loading_info=True
            )
            # What is not in the file is random; only the pooler is never asked.
            missing = sorted(name for name in report["missing_keys"] if not name.startswith("pooler."))
            if missing:
                raise ValueError(f"its weights lack {', '.join(missing[:3])} and {len(missing)} in all")
            self.bert.load_state_dict(pretrained.state_dict(), strict=True)
        except Exception as error:  # a damaged file raises nearly every kind of exception
            raise DataError(f"{folder}: not the weights of this text encoder: {error}") from error


def _transformers() -> Any:
    return text_library("transformers", 'text_enc_type "bert"')
