"""Captions to embeddings by a GRU: every step a word, or the last one the caption."""

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from itm_fast.nn.encoders.regions import l2_normalise


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

    def forward(self, tokens: Tensor, word_counts: Tensor) -> Tensor:
        """Tokens (n, max_words) and word_counts (n,) int64 -> words (n, max_words, embed_size), padding exactly 0."""
        vectors = self.dropout(self.embed(tokens))
        packed = pack_padded_sequence(vectors, word_counts.cpu(), batch_first=True, enforce_sorted=False)
        states = self.get_submodule(self.rnn_name)(packed)[0]
        words, _ = pad_packed_sequence(states, batch_first=True, total_length=tokens.shape[1])
        if self.bi_gru:
            words = (words[..., : self.embed_size] + words[..., self.embed_size :]) / 2
        return words if self.no_txtnorm else l2_normalise(words)


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

    def forward(self, tokens: Tensor, word_counts: Tensor) -> Tensor:
        """Tokens (n, max_words) and word_counts (n,) int64 -> embeddings (n, embed_size) of unit length."""
        packed = pack_padded_sequence(self.embed(tokens), word_counts.cpu(), batch_first=True, enforce_sorted=False)
        embeddings: Tensor = nn.functional.normalize(self.rnn(packed)[1][-1], dim=1)
        return torch.abs(embeddings) if self.use_abs else embeddings
