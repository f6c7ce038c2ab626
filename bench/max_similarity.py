"""Late interaction: fused, plain torch and, where it is installed and survives, maxsim-cpu."""

import subprocess
import sys

import torch
from _interleaved import arguments, finish, report, timed

from itm_fast import max_similarity

SHAPES = {"late interaction": (32, 1000, 512, 128), "regions and words": (12, 1000, 36, 1024)}

PEER = """
import sys, time, statistics, numpy as np, maxsim_cpu
n_query, n_documents, n_tokens, dim, rounds = map(int, sys.argv[1:])
rng = np.random.default_rng(0)
query = rng.standard_normal((n_query, dim), dtype=np.float32)
documents = rng.standard_normal((n_documents, n_tokens, dim), dtype=np.float32)
seconds = []
for _ in range(rounds + 1):
    start = time.perf_counter()
    maxsim_cpu.maxsim_scores(query, documents)
    seconds.append(time.perf_counter() - start)
print(1e3 * statistics.median(seconds[1:]))
"""


def peer(args, shape):
    """Milliseconds of maxsim-cpu, or the reason why there are none; a process of its own, because it may crash."""
    command = [sys.executable, "-c", PEER, *map(str, shape), str(args.rounds)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode == 0:
        return float(result.stdout)
    if result.returncode < 0:
        return f"crashed with signal {-result.returncode}"
    return result.stderr.strip().splitlines()[-1]


def case(args, title):
    n_query, n_documents, n_tokens, dim = SHAPES[title]
    n_documents = max(int(n_documents * args.scale), 2)
    documents, query = torch.randn(n_documents, n_tokens, dim), torch.randn(1, n_query, dim)
    flat = documents.reshape(-1, dim)

    def fused(agg_func="Sum"):
        return max_similarity(documents, query, agg_func=agg_func)[:, 0]

    def plain(agg_func="Sum"):
        largest = (documents @ query[0].T).amax(dim=1)
        return largest.sum(dim=1) if agg_func == "Sum" else (10 * largest).logsumexp(dim=1) / 10

    for agg_func in ("Sum", "LogSumExp"):
        torch.testing.assert_close(fused(agg_func), plain(agg_func), rtol=1e-4, atol=1e-3)
    calls = {
        "fused": fused,
        "bare GEMM": lambda: flat @ query[0].T,
        "plain torch": plain,
        "fused, LogSumExp": lambda: fused("LogSumExp"),
        "plain torch, LogSumExp": lambda: plain("LogSumExp"),
    }
    with torch.inference_mode():
        ms = timed(calls, args.rounds)
    other = peer(args, (n_query, n_documents, n_tokens, dim))
    bars = []
    if isinstance(other, float):
        ms["maxsim-cpu (own process)"] = other
        bars = [("maxsim-cpu / fused", other / ms["fused"], -1.0)]
    else:
        print(f"maxsim-cpu: {other}")
    gigaflop = 2 * n_query * n_documents * n_tokens * dim / 1e9
    shape = f"1 query x {n_documents}, {n_query} x {n_tokens} tokens, D = {dim}, {gigaflop:.2f} GFLOP, float32"
    return report(args, title, shape, ms, bars)


def main(argv=None):
    args = arguments(argv, __doc__)
    return finish(args, [case(args, title) for title in SHAPES])


if __name__ == "__main__":
    sys.exit(main())
