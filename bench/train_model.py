"""A whole training step of SCAN: encoders, similarity, loss, Adam; fused and on the reference similarity."""

import sys

import torch
from _cases import FLAGS
from _interleaved import apart, arguments, finish, peak_mb, report, timed

from itm_fast import reference
from itm_fast.data.collate import Batch
from itm_fast.data.text.vocabulary import Vocabulary
from itm_fast.models import SCAN, SCANConfig
from itm_fast.training.objective import Objective

N_WORDS = 8481  # of Flickr30K's vocabulary


class ReferenceSCAN(SCAN):
    """The same model on the readable similarity, which is the original's order of computation."""

    def similarity(self, images, captions, word_counts):
        return reference.cross_attention_similarity(
            images, captions, word_counts, **FLAGS[self.config.cross_attn], agg_func=self.config.agg_func
        )


def batch_of(n):
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    counts = torch.distributions.Gamma(6.0, 6.0 / 14).sample((n,)).round().clamp(3, 50).long()
    tokens = torch.randint(4, N_WORDS, (n, int(counts.max())), generator=generator)
    tokens[torch.arange(tokens.shape[1]) >= counts[:, None]] = 0
    ids = torch.arange(n)
    return Batch(torch.rand(n, 36, 2048, generator=generator), tokens, counts, ids, 5 * ids, torch.full((n,), 36))


def stepper(cross_attn, n, is_fused):
    """A function that makes one step and returns its loss."""
    torch.manual_seed(0)
    config = SCANConfig(bi_gru=True, max_violation=True, **FLAGS[cross_attn])
    words = Vocabulary(["<pad>", "<start>", "<end>", "<unk>", *map(str, range(N_WORDS - 4))])
    objective = Objective((SCAN if is_fused else ReferenceSCAN)(config, words))
    optimizer = torch.optim.Adam(objective.parameters(), lr=2e-4)
    batch = batch_of(n)

    def step():
        loss = objective(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(objective.parameters(), 2.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


def peak_of_two_steps(cross_attn, n, is_fused):
    """MB resident at most in the process while two steps are made."""
    step = stepper(cross_attn, n, is_fused)
    step()
    step()
    return peak_mb()


def case(args, cross_attn):
    n = max(int(128 * args.scale), 2)
    calls = {name: stepper(cross_attn, n, name == "fused") for name in ("fused", "reference")}
    losses = [call() for call in calls.values()]
    torch.testing.assert_close(*map(torch.tensor, losses), rtol=1e-4, atol=1e-4)
    ms = timed(calls, args.rounds, once=("reference",))
    bars = [("reference / fused", ms["reference"] / ms["fused"], -3.0)]
    fused, plain = (apart(peak_of_two_steps, cross_attn, n, is_fused) for is_fused in (True, False))
    print(f"peak RSS of the process: fused {fused:.0f} MB, reference {plain:.0f} MB")
    bars.append(("peak RSS, fused / reference", fused / plain, 1 / 3))
    shape = f"B = {n}, 36 regions of 2048, D = 1024, {int(batch_of(n).word_counts.sum())} words, BiGRU, Adam, float32"
    return report(args, f"SCAN {cross_attn}, training step", shape, ms, bars)


def main(argv=None):
    args = arguments(argv, __doc__)
    return finish(args, [case(args, cross_attn) for cross_attn in ("t2i", "i2t")])


if __name__ == "__main__":
    sys.exit(main())
