"""Captions to word embeddings: a GRU whose every step is a word."""

from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from itm_fast.nn.encoders.regions import l2_normalise


class GRUEncoder(nn.Module):
    """Word embedding and (bidirectional) GRU; the two directions are averaged.

    State dict: `embed.weight` (n_words, word_dim), `rnn.*`. Captions may come in any order.

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
    ) -> None:
        """Initialise as SCAN does.

        Args:
            n_words: Size of the vocabulary.
            word_dim: Numbers per word vector before the GRU.
            embed_size: Numbers per word embedding, whatever the directions.
            num_layers: Layers of the GRU.
            bi_gru: Run in both directions.
            no_txtnorm: Leave the embeddings at their own length.
        """
        super().__init__()
        self.embed_size, self.bi_gru, self.no_txtnorm = embed_size, bi_gru, no_txtnorm
        self.embed = nn.Embedding(n_words, word_dim)
        self.rnn = nn.GRU(word_dim, embed_size, num_layers, batch_first=True, bidirectional=bi_gru)
        nn.init.uniform_(self.embed.weight, -0.1, 0.1)

    def forward(self, tokens: Tensor, word_counts: Tensor) -> Tensor:
        """Tokens (n, max_words) and word_counts (n,) int64 -> words (n, max_words, embed_size), padding exactly 0."""
        packed = pack_padded_sequence(self.embed(tokens), word_counts.cpu(), batch_first=True, enforce_sorted=False)
        words, _ = pad_packed_sequence(self.rnn(packed)[0], batch_first=True, total_length=tokens.shape[1])
        if self.bi_gru:
            words = (words[..., : self.embed_size] + words[..., self.embed_size :]) / 2
        return words if self.no_txtnorm else l2_normalise(words)
