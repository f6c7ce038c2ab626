"""Late interaction of 32 queries with 1,000 documents: ours, eager torch as PyLate does it, and maxsim-cpu beside."""

import os
import sys

import torch
from _interleaved import arguments, extra_mb, finish, report, timed
from max_similarity import peer

from itm_fast import maxsim

QUERIES, QUERY_TOKENS, DOCUMENTS, DIM = 32, 32, 1000, 128
DOCUMENT_TOKENS = (180, 1030)  # passages of text; pages as ColPali has them
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def eager(queries, documents):
    return torch.einsum("ash,bth->abst", queries, documents).max(dim=-1).values.sum(dim=-1)


def made(n_queries, n_documents, n_tokens, dtype, training):
    generator = torch.Generator().manual_seed(0)

    def rows(*shape):
        unit = torch.nn.functional.normalize(torch.randn(*shape, DIM, generator=generator), dim=-1)
        return unit.to(dtype).requires_grad_(training)

    return rows(n_queries, QUERY_TOKENS), rows(n_documents, n_tokens)


def make_calls(*shape, dtype, training):
    queries, documents = made(*shape, dtype, training)

    def call(score):
        with torch.set_grad_enabled(training):
            scores = score(queries, documents)
            if training:
                queries.grad = documents.grad = None
                scores.float().logsumexp(1).sum().backward()
        return scores.detach()

    return {"fused": lambda: call(maxsim), "eager torch": lambda: call(eager)}


def fits(n_queries, n_documents, n_tokens, training):
    """Whether this machine has room for the similarities that eager torch makes, as often as training keeps them."""
    numbers = n_queries * QUERY_TOKENS * n_documents * n_tokens
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 4 * numbers * (3 if training else 1) < free / 2


def case(args, n_tokens, name, training):
    n_queries, n_documents = (max(int(n * args.scale), 2) for n in (QUERIES, DOCUMENTS))
    shape, dtype = (n_queries, n_documents, n_tokens), DTYPES[name]
    calls = make_calls(*shape, dtype=dtype, training=training)
    names = list(calls) if fits(*shape, training) else ["fused"]
    if len(names) == 2:
        fused, plain = (calls[call]() for call in names)
        error = 1e-4 if dtype == torch.float32 else 0.1  # eager torch rounds every similarity
        torch.testing.assert_close(fused, plain.to(fused), rtol=error, atol=error)
    else:
        print("eager torch: no room for its similarities here")
    timed_calls = {call: calls[call] for call in names}
    if not training:
        queries, documents = (x.flatten(0, 1) for x in made(*shape, dtype, False))
        # A product as large, whose result is not kept: a document's similarities with all queries at a time.
        blocks = documents.split(max(1, (1 << 20) // len(queries)))
        timed_calls["bare GEMM"] = lambda: [block @ queries.T for block in blocks][-1]
    ms = timed(timed_calls, args.rounds)
    bars = []
    if "bare GEMM" in ms:
        bars.append(("of the bare GEMM's speed", ms["bare GEMM"] / ms["fused"], -0.95))
    if training and "eager torch" in ms:
        memory = {call: extra_mb(calls[call]) for call in names}
        bars.append(("eager / fused", ms["eager torch"] / ms["fused"], -3.0))
        if None not in memory.values():
            bars.append(("memory, fused / eager", memory["fused"] / max(memory["eager torch"], 1e-9), 0.1))
    if not training and name == "float32":
        other = peer(args, (QUERY_TOKENS, n_documents, n_tokens, DIM))  # one query at a time is what it takes
        if isinstance(other, float):
            ms["maxsim-cpu (own process)"] = n_queries * other
        else:
            print(f"maxsim-cpu: {other}")
    text = f"{n_queries} x {n_documents}, {QUERY_TOKENS} x {n_tokens} tokens, D = {DIM}, {name}"
    return report(args, "training" if training else "forward", text, ms, bars)


def main(argv=None):
    args = arguments(argv, __doc__)
    kinds = [(n, name, training) for n in DOCUMENT_TOKENS for name in DTYPES for training in (False, True)]
    return finish(args, [case(args, *kind) for kind in kinds])


if __name__ == "__main__":
    sys.exit(main())
