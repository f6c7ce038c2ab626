"""LAPS's similarity: fused, and plain torch in the original's order, a caption at a time with all its tokens."""

import sys

import torch
from _interleaved import arguments, extra_mb_apart, finish, report, timed
from torch.nn.functional import leaky_relu, normalize

from itm_fast.nn.similarity.laps import LAPSSimilarity

DIM, WORDS = 512, 30
ENCODERS = {"ViT": (197, 196, 0.5, 0.4), "Swin": (49, 49, 0.8, 0.6)}  # tokens, patches, sparse_ratio, aggr_ratio


def as_in_the_original(module, regions, words):
    patches = regions[:, int(module.has_class_token(regions.shape[1])) :]
    own = regions[:, : regions.shape[1] - patches.shape[1]]
    units = normalize(patches, dim=2)
    with torch.no_grad():
        of_images = (normalize(patches.mean(1, keepdim=True), dim=2) * units).sum(2)
    columns = []
    for caption in words:
        with torch.no_grad():
            scores = of_images + (normalize(caption.mean(0), dim=0) * units).sum(2)
        ordered, order = scores.sort(dim=1, descending=True)
        n_kept = module.n_kept(patches.shape[1])
        kept, left_out = (
            patches.gather(1, part[:, :, None].expand(-1, -1, patches.shape[2]))
            for part in order.tensor_split([n_kept], 1)
        )
        weights = module.aggr_net(kept).transpose(1, 2).softmax(2)
        extra = (left_out * ordered[:, n_kept:].softmax(1)[:, :, None]).sum(1, keepdim=True)
        tokens = normalize(torch.cat([own, weights @ kept, extra], 1), dim=2)
        cosines = leaky_relu(normalize(caption, dim=1).expand(len(tokens), -1, -1) @ tokens.transpose(1, 2), 0.1)
        columns.append(cosines.max(2).values.mean(1) + cosines.max(1).values.mean(1))
    return torch.stack(columns, dim=1)


def made_calls(encoder, n_images, n_captions, training):
    n_tokens, *sizes = ENCODERS[encoder]
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    module = LAPSSimilarity(DIM, *sizes).requires_grad_(training)
    regions = torch.randn(n_images, n_tokens, DIM, generator=generator, requires_grad=training)
    words = torch.randn(n_captions, WORDS, DIM, generator=generator, requires_grad=training)

    def call(similarity):
        with torch.set_grad_enabled(training):
            sims = similarity(regions, words)
            if training:
                sims.sum().backward()
        return sims.detach()

    return {
        "fused": lambda: call(module),
        "plain torch": lambda: call(lambda *inputs: as_in_the_original(module, *inputs)),
    }


def case(args, title, encoder, n_images, n_captions, training):
    n_images, n_captions = (max(int(n * args.scale), 4) for n in (n_images, n_captions))
    inputs = encoder, n_images, n_captions, training
    calls = made_calls(*inputs)
    first, second = (value() for value in calls.values())
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)
    ms = timed(calls, args.rounds, once=("plain torch",))
    bars = [("plain torch / fused", ms["plain torch"] / ms["fused"], -5.0)] if training else []
    memory = {} if args.quick else extra_mb_apart(calls, made_calls, *inputs)
    if memory and all(memory.values()):
        print(f"extra memory: {', '.join(f'{name} {mb:.0f} MB' for name, mb in memory.items())}")
        bars += [("fused / plain torch, memory", memory["fused"] / memory["plain torch"], 0.1)] if training else []
    n_tokens = ENCODERS[encoder][0]
    shape = f"{n_images} x {n_captions}, {n_tokens} tokens, {WORDS} words, D = {DIM}, float32"
    return report(args, title, shape, ms, bars) | {"memory_mb": memory}


def quick(parser):
    parser.add_argument("--quick", action="store_true", help="time only: memory takes processes of its own")


def main(argv=None):
    args = arguments(argv, __doc__, quick)
    cases = [
        case(args, "ViT, training step", "ViT", 64, 64, True),
        case(args, "Swin, training step", "Swin", 64, 64, True),
        case(args, "ViT, scoring", "ViT", 100, 100, False),
    ]
    return finish(args, cases)


if __name__ == "__main__":
    sys.exit(main())
