"""SGR's and SAF's training step: the fused module, and plain torch in the original's order, a caption at a time."""

import copy
import sys

import torch
from _cases import scan_batch
from _interleaved import arguments, extra_mb_apart, finish, report, timed

from itm_fast.nn.encoders.regions import l2_normalise
from itm_fast.nn.linear import TileLinear
from itm_fast.nn.similarity.sgraf import SGRAFSimilarity


def as_in_the_original(module, regions, words, word_counts):
    image = module.v_global_w(regions)
    columns = []
    for caption, n_words in zip(words, word_counts, strict=True):
        caption = caption[None, :n_words]
        whole = module.t_global_w.embedding_global(caption.mean(1))
        common = module.t_global_w.embedding_local(caption) * whole[:, None]
        whole = l2_normalise((module.t_global_w.embedding_common(common).softmax(1) * caption).sum(1))
        caption = caption.repeat(len(regions), 1, 1)
        sims = regions @ caption.transpose(1, 2)  # (n_images, n_regions, n_words)
        attention = (9 * l2_normalise(torch.nn.functional.leaky_relu(sims, 0.1))).softmax(1)
        context = l2_normalise(attention.transpose(1, 2) @ regions)
        local = l2_normalise(module.sim_tranloc_w((context - caption).square()))
        overall = l2_normalise(module.sim_tranglo_w((image - whole).square()))
        nodes = torch.cat([overall[:, None], local], dim=1)
        if hasattr(module, "SGR_module"):
            for step in module.SGR_module:
                edges = (step.graph_query_w(nodes) @ step.graph_key_w(nodes).transpose(1, 2)).softmax(2)
                nodes = step.sim_graph_w(edges @ nodes).relu()
            vector = nodes[:, 0]
        else:
            gate = module.SAF_module.bn(module.SAF_module.attn_sim_w(nodes).transpose(1, 2)).sigmoid()
            gate = gate / (gate.abs().sum(2, keepdim=True) + 1e-8)
            vector = l2_normalise((gate @ nodes)[:, 0])
        columns.append(module.sim_eval_w(vector).sigmoid())
    return torch.cat(columns, dim=1)


def calls_of(module_name, n):
    torch.manual_seed(0)
    regions, words, word_counts = scan_batch(n, n)
    module = SGRAFSimilarity(module_name=module_name, dropout=0.0)  # with dropout, the two would differ
    regions.requires_grad_()
    words.requires_grad_()
    plain = copy.deepcopy(module)
    for layer in plain.modules():
        if isinstance(layer, TileLinear):
            layer.__class__ = torch.nn.Linear

    def step(similarity, parameters):
        sims = similarity(regions, words, word_counts)
        leaves = [regions, words, *parameters]
        return sims.detach(), *torch.autograd.grad(sims.diagonal().sum() - sims.mean(), leaves)

    return {
        "fused": lambda: step(module, module.parameters()),
        "plain torch": lambda: step(lambda *batch: as_in_the_original(plain, *batch), plain.parameters()),
    }


def case(args, module_name, n):
    n = max(int(n * args.scale), 4)
    calls = calls_of(module_name, n)
    for found, want in zip(*(call() for call in calls.values()), strict=True):
        torch.testing.assert_close(found, want, rtol=0, atol=1e-3 * float(want.abs().max()) + 1e-6)
    ms = timed(calls, args.rounds)
    memory = extra_mb_apart(calls, calls_of, module_name, n)
    fused, torch_ = list(calls)
    bars = [("plain torch / ours", ms[torch_] / ms[fused], -3.0)]
    if memory[fused]:
        print(f"extra memory: {', '.join(f'{name} {mb:.0f} MB' for name, mb in memory.items())}")
        bars.append(("memory, ours / plain torch", memory[fused] / memory[torch_], 0.25))
    n_words = int(scan_batch(n, n)[2].sum())
    shape = f"{n} x {n}, 36 regions, {n_words} words, D = 1024, sim_dim 256, float32"
    return report(args, f"{module_name}, training step", shape, ms, bars)


def main(argv=None):
    args = arguments(argv, __doc__)
    return finish(args, [case(args, module_name, 32) for module_name in ("SGR", "SAF")])


if __name__ == "__main__":
    sys.exit(main())
