"""The hinge losses over a batch's score matrix, forward + backward: fused, and plain torch."""

import sys

import torch
from _interleaved import arguments, finish, report, timed

from itm_fast import reference, semantic_margin_loss, triplet_loss

CALLS = 1000  # in each timed turn at full size, whose milliseconds are then the microseconds of one call


def main(argv=None):
    args = arguments(argv, __doc__)
    n, n_calls = max(int(128 * args.scale), 2), max(int(CALLS * min(args.scale, 1)), 1)
    sims = torch.randn(n, n, generator=torch.Generator().manual_seed(0)).requires_grad_()
    phi = 10 * torch.rand(n, n, generator=torch.Generator().manual_seed(1))

    def repeated(loss, *relevance, **options):
        def turn():
            for _ in range(n_calls):
                sims.grad = None
                loss(sims, *relevance, **options).backward()

        return turn

    calls = {
        "fused triplet": repeated(triplet_loss),
        "fused triplet, all negatives": repeated(triplet_loss, max_violation=False),
        "fused SAM": repeated(semantic_margin_loss, phi),
        "fused SAM, soft as released": repeated(semantic_margin_loss, phi, variant="released", sampling="soft"),
        "fused SAM, phi as a callable": repeated(semantic_margin_loss, lambda rows, columns: phi[rows, columns]),
        "plain torch triplet": repeated(reference.triplet_loss),
        "plain torch SAM": repeated(reference.semantic_margin_loss, phi),
    }
    ms = timed(calls, args.rounds)
    bars = [
        ("plain torch / fused, triplet", ms["plain torch triplet"] / ms["fused triplet"], -1.0),
        ("plain torch / fused, SAM", ms["plain torch SAM"] / ms["fused SAM"], -1.0),
    ]
    if args.scale == 1.0:
        bars.append(("fused SAM, microseconds a call", ms["fused SAM"], 150.0))
    shape = f"{n_calls} calls, B = {n}, float32, forward + backward"
    return finish(args, [report(args, "losses", shape, ms, bars)])


if __name__ == "__main__":
    sys.exit(main())
