"""Generalised pooling: a learned weight for the k-th largest number of every channel."""

import math

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from itm_fast.ops._counts import Counts, counted, may_be_read
from itm_fast.ops.generalised_pooling import generalised_pooling
from itm_fast.shown import named_options

TEMPERATURE = 0.1


class GPO(nn.Module):
    """Generalised pooling operator: one vector of each set of vectors.

    pooled_d = sum_k theta_k x_(k),d with x_(k),d the k-th largest number of channel d. The weights theta depend on the
    size of the set only, so that they are computed once for every size that occurs in a batch; where the sizes are on a
    device, for every one that could.

    State dict: `gru.*` (both directions), `linear.weight` (1, d_hid).

    Source:
        Chen et al., Learning the Best Pooling Strategy for Visual Semantic Embedding, CVPR 2021; woodfrog/vse_infty.
    """

    def __init__(self, d_pe: int = 32, d_hid: int = 32) -> None:
        """Initialise as torch does.

        Args:
            d_pe: Numbers that encode a position, even.
            d_hid: Numbers of the GRU's state.

        Raises:
            ValueError: `d_pe` is odd, or a size is below 1.
        """
        super().__init__()
        if d_pe < 2 or d_pe % 2 or d_hid < 1:
            raise ValueError(f"d_pe must be even and at least 2, d_hid at least 1, got {d_pe} and {d_hid}")
        self.d_pe, self.d_hid = d_pe, d_hid
        self.gru = nn.GRU(d_pe, d_hid, 1, batch_first=True, bidirectional=True)
        self.linear = nn.Linear(d_hid, 1, bias=False)

    def forward(self, vectors: Tensor, counts: Counts = None) -> Tensor:
        """Sets of vectors (n, max, dim), counts (n,) or mask (n, max) or None = all valid -> pooled (n, dim).

        What lies beyond a count is never read.
        """
        vectors, counts = counted("counts", counts, "vectors", vectors)
        n, most, _ = vectors.shape
        if counts is None:
            theta = self.weights(torch.tensor([most]), most).expand(n, -1)
        elif not may_be_read(counts):  # where nobody waits to know which sizes there are
            theta = self.weights(torch.arange(1, most + 1), most)[counts.clamp(1, most) - 1]
        else:
            sizes, which = torch.unique(counts, return_inverse=True)
            theta = self.weights(sizes, most)[which.to(self.linear.weight.device)]
        return generalised_pooling(vectors, theta.to(vectors), counts)

    def extra_repr(self) -> str:
        """The options, for print(model)."""
        return named_options(self, "d_pe", "d_hid")

    def weights(self, sizes: Tensor, most: int) -> Tensor:
        """Theta of sets of these sizes, (len(sizes),) int64 on the CPU: (len(sizes), most), 0 beyond the size."""
        weight = self.linear.weight
        positions = positional_encoding(most, self.d_pe).to(weight)
        packed = pack_padded_sequence(
            positions.expand(len(sizes), -1, -1), sizes, batch_first=True, enforce_sorted=False
        )
        states, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=most)
        scores = self.linear((states[..., : self.d_hid] + states[..., self.d_hid :]) / 2).squeeze(-1)
        beyond = torch.arange(most, device=weight.device) >= sizes.to(weight.device)[:, None]
        return torch.softmax(scores.masked_fill(beyond, -torch.inf) / TEMPERATURE, dim=1)


def positional_encoding(n: int, dim: int) -> Tensor:
    """Sines (even channels) and cosines (odd ones) of the positions 0 ... n - 1: (n, dim) float32.

    Source:
        Vaswani et al., Attention Is All You Need, NeurIPS 2017, section 3.5.
    """
    frequencies = torch.exp(torch.arange(0, dim, 2) * (-math.log(10000.0) / dim))
    angles = torch.arange(n)[:, None] * frequencies
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)
