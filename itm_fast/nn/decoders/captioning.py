"""VSRN's captioning head: regions to the words of the caption, as a loss while training."""

import torch
from torch import Tensor, nn

from itm_fast.nn.encoders.gru import counts_or_all
from itm_fast.nn.encoders.reasoning import state_after
from itm_fast.ops._blocks import padding
from itm_fast.ops._counts import Counts, counted
from itm_fast.shown import named_options


class CaptioningHead(nn.Module):
    """A GRU reads the regions, a GRU with attention over them writes the caption, word by given word.

    The original leaves it out of its checkpoints, and decodes all of `max_len` steps, most of them masked; here only as
    many as the longest caption has.

    Source:
        Li et al., ICCV 2019, section 3.4; KunpengLi1994/VSRN, misc and models of its captioning part.
    """

    def __init__(
        self,
        dim_vid: int,
        n_words: int,
        *,
        dim_hidden: int = 512,
        dim_word: int = 300,
        input_dropout_p: float = 0.2,
        rnn_dropout_p: float = 0.2,
        max_len: int = 60,
    ) -> None:
        """Initialise as torch does.

        Args:
            dim_vid: Numbers per region.
            n_words: Size of the vocabulary.
            dim_hidden: Numbers of both GRUs' states.
            dim_word: Numbers per word vector.
            input_dropout_p: Dropout of the regions before the first GRU.
            rnn_dropout_p: Dropout of what the second GRU reads.
            max_len: Tokens of a caption that are written, the last of a longer one replaced by its end.
        """
        super().__init__()
        self.max_len = max_len
        self.vid2hid = nn.Linear(dim_vid, dim_hidden)
        self.encoder = nn.GRU(dim_hidden, dim_hidden, batch_first=True)
        self.embedding = nn.Embedding(n_words, dim_word)
        self.attend_region = nn.Linear(dim_hidden, dim_hidden)
        self.attend_state = nn.Linear(dim_hidden, dim_hidden, bias=False)
        self.attend_score = nn.Linear(dim_hidden, 1, bias=False)
        self.decoder = nn.GRUCell(dim_word + dim_hidden, dim_hidden)
        self.out = nn.Linear(dim_hidden, n_words)
        self.input_dropout, self.rnn_dropout = nn.Dropout(input_dropout_p), nn.Dropout(rnn_dropout_p)

    def forward(
        self, regions: Tensor, tokens: Tensor, word_counts: Counts = None, region_counts: Counts = None
    ) -> Tensor:
        """Negative log-likelihood of each image's caption.

        Args:
            regions: (n, max_regions, dim_vid) floating.
            tokens: (n, max_words) int64, "<start>" ... "<end>", zero-padded.
            word_counts: (n,) integers, or a mask (n, max_words); None: all are words.
            region_counts: (n,) or (n, max_regions), likewise for the regions of each image.

        Returns:
            (n,), summed over a caption's words after "<start>" and one padding after "<end>", as in the original.
        """
        regions, region_counts = counted("region_counts", region_counts, "regions", regions)
        tokens, counts = counted("word_counts", word_counts, "tokens", tokens)
        tokens, word_counts = _cut(tokens, counts_or_all(counts, tokens), self.max_len)
        is_word = torch.arange(tokens.shape[1], device=tokens.device) < word_counts[:, None]
        targets = nn.functional.pad(tokens * is_word, (0, 1))[:, 1:]  # the next word, and the padding after the last
        encoded, state = self.encoder(self.input_dropout(self.vid2hid(regions)))
        state = state[0] if region_counts is None else state_after(encoded, region_counts)
        missing = None if region_counts is None else padding(region_counts, regions.shape[1])[..., None]
        keys, words = self.attend_region(encoded), self.embedding(tokens)
        states = []
        for step in range(tokens.shape[1]):
            scores = self.attend_score(torch.tanh(keys + self.attend_state(state)[:, None]))
            if missing is not None:
                scores = scores.masked_fill(missing, -torch.inf)
            context = (scores.softmax(1) * encoded).sum(1)
            state = self.decoder(self.rnn_dropout(torch.cat([words[:, step], context], dim=1)), state)
            states.append(state)
        logits = self.out(torch.stack(states, dim=1))  # (n, max_words, n_words)
        losses = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        return (losses.view_as(targets) * is_word).sum(1)

    def extra_repr(self) -> str:
        """The options that its layers do not show, for print(model)."""
        return named_options(self, "max_len")


def _cut(tokens: Tensor, word_counts: Tensor, max_len: int) -> tuple[Tensor, Tensor]:
    """At most `max_len` tokens; a longer caption's last one is its end."""
    if tokens.shape[1] <= max_len:
        return tokens, word_counts
    ends = tokens.gather(1, word_counts[:, None] - 1)[:, 0]
    cut = tokens[:, :max_len].clone()
    is_longer = word_counts > max_len
    cut[is_longer, -1] = ends[is_longer]
    return cut, word_counts.clamp(max=max_len)
