"""Top-k, ranks, recall and NCS of MSCOCO's 5K x 25K, from embeddings and from matrices."""

import sys

import torch
from _interleaved import arguments, extra_mb, finish, report, timed

from itm_fast import evaluate
from itm_fast.metrics import make_positives
from itm_fast.metrics.ranks import stream_ranks
from itm_fast.similarities.scorers import as_scorer


def embeddings(args):
    n = max(int(5000 * args.scale), 40)
    generator = torch.Generator().manual_seed(0)
    images = torch.nn.functional.normalize(torch.randn(n, 1024, generator=generator), dim=1)
    noise = torch.randn(5 * n, 1024, generator=generator) / 8
    captions = torch.nn.functional.normalize(images.repeat_interleave(5, 0) + noise, dim=1)
    return images, captions


def from_embeddings(args, images, captions):
    positives = make_positives(len(images), len(captions))

    def one_pass():
        return stream_ranks(as_scorer((images, captions)), positives, k=10)

    extra = extra_mb(one_pass)
    sims = images @ captions.T
    found = one_pass()
    order = torch.sort(sims[:100], dim=1, descending=True, stable=True)
    top = found.top.image
    torch.testing.assert_close(top.values[:100], order.values[:, :10], rtol=0, atol=1e-5)
    calls = {
        "fused: top-10 and ranks, both directions": one_pass,
        "bare GEMM of the scores": lambda: images @ captions.T,
        "GEMM, torch.topk on both axes": lambda: [(images @ captions.T).topk(10, dim=dim) for dim in (0, 1)],
    }
    ms = timed(calls, max(2, args.rounds // 2))
    first = ms["fused: top-10 and ranks, both directions"]
    bars = [("fused / bare GEMM", first / ms["bare GEMM of the scores"], 1.3)]
    if extra is not None:
        bars.append(("extra memory, MB", extra, 300.0))
    shape = f"{len(images)} images x {len(captions)} captions, D = 1024, float32"
    return report(args, "retrieval from embeddings", shape, ms, bars), sims


def from_matrices(args, sims):
    generator = torch.Generator().manual_seed(1)
    phi = torch.rand(sims.shape, generator=generator) ** 8 * 3
    ks = (1, 5, 10, 30) if len(sims) >= 40 else (1, 5, 10)
    calls = {
        "fused: recall, both directions": lambda: evaluate(sims),
        "torch.topk(k=10) on both axes": lambda: [sims.topk(10, dim=dim) for dim in (0, 1)],
        "fused: recall, NCS, NCS(N), SR up to 30": lambda: evaluate(sims, phi, ks=ks, m=30),
    }
    ms = timed(calls, max(2, args.rounds // 2))
    recall, other, semantics = ms.values()
    bars = [
        ("torch.topk / recall", other / recall, -1.0),
        ("NCS and SR on top of recall, s", (semantics - recall) / 1e3, 3.0),
    ]
    return report(args, "metrics from matrices", f"{sims.shape[0]} x {sims.shape[1]}, float32", ms, bars)


def main(argv=None):
    args = arguments(argv, __doc__)
    first, sims = from_embeddings(args, *embeddings(args))
    return finish(args, [first, from_matrices(args, sims)])


if __name__ == "__main__":
    sys.exit(main())
