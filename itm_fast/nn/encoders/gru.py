"""Captions to embeddings by a GRU: every step a word, or the last one the caption."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from itm_fast.nn.encoders.packed_gru import packed_states
from itm_fast.nn.encoders.regions import l2_normalise
from itm_fast.ops._counts import Counts, counted, counted_in_place
from itm_fast.shown import named_options


def not_compiled(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """What `torch.compiler.disable` does, whose import of the compiler, a second, waits for the first compilation."""

    @functools.wraps(forward)
    def call(*args: Any, **options: Any) -> Tensor:
        if torch.compiler.is_compiling():
            forward_alone: Callable[..., Tensor] = torch.compiler.disable(forward)  # type: ignore[no-untyped-call]
            return forward_alone(*args, **options)
        return forward(*args, **options)

    return call


def counts_or_all(word_counts: Tensor | None, tokens: Tensor) -> Tensor:
    """The counts (n,), or for None those of tokens (n, max_words) without padding."""
    return torch.full((len(tokens),), tokens.shape[1], device=tokens.device) if word_counts is None else word_counts


def packed_places(tokens: Tensor, word_counts: Tensor) -> PackedSequence:
    """Where the valid tokens of (n, max_words) are, flat, in the order in which a GRU takes them.

    Vectors are made of these only and are put back by one copy: torch's own padding goes back through a copy of
    everything for each step.
    """
    places = torch.arange(tokens.numel(), device=tokens.device).view(tokens.shape)
    return pack_padded_sequence(places, word_counts.cpu(), batch_first=True, enforce_sorted=False)


def last_rows(places: PackedSequence, word_counts: Tensor, max_words: int) -> Tensor:
    """Row of each caption's last token among the packed ones, (n,) int64."""
    last = torch.arange(len(word_counts), device=word_counts.device) * max_words + word_counts - 1
    rows = torch.empty(len(word_counts) * max_words, dtype=torch.int64, device=word_counts.device)
    rows[places.data] = torch.arange(len(places.data), device=word_counts.device)
    return rows[last]


class GRUEncoder(nn.Module):
    """Word embedding and (bidirectional) GRU; the two directions are averaged.

    State dict: `embed.weight` (n_words, word_dim), and `rnn.*` under the name that is asked for. Captions may come in
    any order.

    Source:
        kuanghuei/SCAN, model.py, EncoderText.
    """

    def __init__(
        self,
        n_words: int,
        word_dim: int,
        embed_size: int,
        *,
        num_layers: int = 1,
        bi_gru: bool = False,
        no_txtnorm: bool = False,
        dropout: float = 0.0,
        rnn_name: str = "rnn",
    ) -> None:
        """Initialise as SCAN does.

        Args:
            n_words: Size of the vocabulary.
            word_dim: Numbers per word vector before the GRU.
            embed_size: Numbers per word embedding, whatever the directions.
            num_layers: Layers of the GRU.
            bi_gru: Run in both directions.
            no_txtnorm: Leave the embeddings at their own length.
            dropout: Of the word vectors before the GRU, while training.
            rnn_name: Of the GRU in the state dict; SGRAF calls it cap_rnn.
        """
        super().__init__()
        self.embed_size, self.bi_gru, self.no_txtnorm, self.rnn_name = embed_size, bi_gru, no_txtnorm, rnn_name
        self.embed = nn.Embedding(n_words, word_dim)
        self.add_module(rnn_name, nn.GRU(word_dim, embed_size, num_layers, batch_first=True, bidirectional=bi_gru))
        self.dropout = nn.Dropout(dropout)
        nn.init.uniform_(self.embed.weight, -0.1, 0.1)

    # Every batch has other numbers of captions at each step, and would be a graph of its own.
    @not_compiled
    def forward(self, tokens: Tensor, word_counts: Counts = None) -> Tensor:
        """Tokens (n, max_words), their counts (n,) or mask -> words (n, max_words, embed_size), padding exactly 0."""
        word_counts = counts_or_all(counted_in_place("word_counts", word_counts, "tokens", tokens), tokens)
        places = packed_places(tokens, word_counts)
        vectors = self.dropout(self.embed(tokens.flatten()[places.data]))
        words = packed_states(getattr(self, self.rnn_name), places._replace(data=vectors))
        if self.bi_gru:
            words = (words[:, : self.embed_size] + words[:, self.embed_size :]) / 2
        if not self.no_txtnorm:
            words = l2_normalise(words)
        padded = words.new_zeros(tokens.numel(), self.embed_size).index_copy(0, places.data, words)
        return padded.view(*tokens.shape, self.embed_size)

    def extra_repr(self) -> str:
        """The options that its layers do not show, for print(model)."""
        return named_options(self, "no_txtnorm")


class SentenceGRUEncoder(nn.Module):
    """Word embedding and GRU; its state after the last word is the caption's embedding.

    State dict: `embed.weight` (n_words, word_dim), `rnn.*`. Captions may come in any order.

    Source:
        fartashf/vsepp, model.py, EncoderText.
    """

    def __init__(
        self, n_words: int, word_dim: int, embed_size: int, *, num_layers: int = 1, use_abs: bool = False
    ) -> None:
        """Initialise as VSE++ does.

        Args:
            n_words: Size of the vocabulary.
            word_dim: Numbers per word vector before the GRU.
            embed_size: Numbers per caption.
            num_layers: Layers of the GRU.
            use_abs: Take absolute values at the end, for order embeddings.
        """
        super().__init__()
        self.use_abs = use_abs
        self.embed = nn.Embedding(n_words, word_dim)
        self.rnn = nn.GRU(word_dim, embed_size, num_layers, batch_first=True)
        nn.init.uniform_(self.embed.weight, -0.1, 0.1)

    @not_compiled
    def forward(self, tokens: Tensor, word_counts: Counts = None) -> Tensor:
        """Tokens (n, max_words) and their counts (n,) or mask -> embeddings (n, embed_size) of unit length."""
        tokens, counts = counted("word_counts", word_counts, "tokens", tokens)
        word_counts = counts_or_all(counts, tokens)
        places = packed_places(tokens, word_counts)
        vectors = self.embed(tokens.flatten()[places.data])
        states = packed_states(self.rnn, places._replace(data=vectors))
        embeddings = nn.functional.normalize(states[last_rows(places, word_counts, tokens.shape[1])], dim=1)
        return torch.abs(embeddings) if self.use_abs else embeddings

    def extra_repr(self) -> str:
        """The options that its layers do not show, for print(model)."""
        return named_options(self, "use_abs")
