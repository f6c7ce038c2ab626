"""A training step behind a ViT-base, 197 tokens of 768: SCAN and LAPS, fused and plain torch; the ViT by itself.

The step starts from the tokens, or with --through-vit from pixels: then the ViT trains with it.
"""

import sys
import time

import torch
from _cases import FLAGS
from _interleaved import apart, arguments, finish, peak_mb, report, timed
from laps import as_in_the_original

from itm_fast import reference
from itm_fast.data.collate import Batch
from itm_fast.data.text.vocabulary import Vocabulary
from itm_fast.models import SCAN, model_class
from itm_fast.models.laps import LAPS
from itm_fast.nn.encoders.patches import PatchTower
from itm_fast.training.objective import Objective

N_TOKENS, WIDTH, N_WORDS, SIDE = 197, 768, 30, 224
VIT_BASE = {
    "architecture": {
        "model_type": "vit",
        "hidden_size": WIDTH,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "image_size": SIDE,
        "patch_size": 16,
    },
    "size": SIDE,
    "mean": [0.5] * 3,
    "deviation": [0.5] * 3,
}
OPTIONS = {"scan": {**FLAGS["t2i"], "bi_gru": True, "embed_size": 1024}, "laps": {"embed_size": 512}}


class PlainSCAN(SCAN):
    """The same model on the readable similarity, which is the original's order of computation."""

    def similarity(self, images, captions, word_counts):
        return reference.cross_attention_similarity(
            images, captions, word_counts, **FLAGS["t2i"], agg_func=self.config.agg_func
        )


class PlainLAPS(LAPS):
    """The same model on plain torch, a caption at a time; all captions are equally long here."""

    def similarity(self, images, captions, word_counts):
        return as_in_the_original(self.cross_net, images, captions)


def pixels(n):
    return 255 * torch.rand(n, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def stepper(name, n, is_fused, through_vit):
    """A function that makes one step, and returns its loss: on pixels, or on tokens as a ViT has left them."""
    torch.manual_seed(0)
    kind = model_class(name) if is_fused else {"scan": PlainSCAN, "laps": PlainLAPS}[name]
    # of a tower that is not run only the width counts
    n_layers = VIT_BASE["architecture"]["num_hidden_layers"] if through_vit else 1
    vit = {**VIT_BASE, "architecture": {**VIT_BASE["architecture"], "num_hidden_layers": n_layers}}
    axes = {"image_encoder": "patches", "backbone_config": vit, "text_encoder": "bigru", "max_violation": True}
    words = Vocabulary(["<pad>", "<start>", "<end>", "<unk>", *map(str, range(1000))])
    model = kind(kind.config_class(**axes, **OPTIONS[name]), words)
    model.tower.requires_grad_(through_vit)
    objective = Objective(model)
    trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=2e-4)
    ids = torch.arange(n)
    generator = torch.Generator().manual_seed(0)
    # what is before the tokens asks for their gradient
    images = pixels(n) if through_vit else torch.randn(n, N_TOKENS, WIDTH, generator=generator, requires_grad=True)
    captions = torch.randint(4, len(words), (n, N_WORDS), generator=generator)
    batch = Batch(images, captions, torch.full((n,), N_WORDS), ids, ids, torch.full((n,), N_TOKENS))

    def step():
        loss = objective(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 2.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        images.grad = None
        return float(loss.detach())

    return step


def vit_stepper(n):
    """A function that runs a ViT-base with random weights forwards and backwards."""
    torch.manual_seed(0)
    tower = PatchTower(VIT_BASE)
    images = pixels(n)

    def step():
        tower(images).square().mean().backward()
        tower.zero_grad(set_to_none=True)
        return 0.0

    return step


def counted(call, seconds):
    """The call, with its CPU seconds kept: on a machine that other work shares they say more than the clock."""

    def counting():
        start = time.process_time()
        call()
        seconds.append(time.process_time() - start)

    return counting


def cpu_line(seconds):
    return "CPU seconds of a step: " + ", ".join(f"{name} {min(found):.1f}" for name, found in seconds.items())


def peak_of(make, *args):
    """MB resident at most while a step is made, of the whole process."""
    make(*args)()
    return peak_mb()


def case(args, name):
    n = max(int(64 * args.scale), 2)
    kinds = {"fused": (name, n, True, args.through_vit), "plain torch": (name, n, False, args.through_vit)}
    calls = {kind: stepper(*inputs) for kind, inputs in kinds.items()}
    losses = [call() for call in calls.values()]
    torch.testing.assert_close(*map(torch.tensor, losses), rtol=1e-4, atol=1e-4)
    cpu = {kind: [] for kind in calls}
    ms = timed({kind: counted(call, cpu[kind]) for kind, call in calls.items()}, args.rounds, once=("plain torch",))
    print(cpu_line(cpu))
    bars = [("plain torch / fused", ms["plain torch"] / ms["fused"], -1.0)]
    peaks = [] if args.quick else [apart(peak_of, stepper, *inputs) for inputs in kinds.values()]
    if peaks:
        print(f"peak RSS of the process: fused {peaks[0]:.0f} MB, plain torch {peaks[1]:.0f} MB")
        bars.append(("peak RSS, fused / plain torch", peaks[0] / peaks[1], 1.0))
    dim = OPTIONS[name]["embed_size"]
    shape = f"B = {n}, {N_TOKENS} tokens of {WIDTH}, D = {dim}, {N_WORDS} words, BiGRU, Adam, float32"
    where = "through" if args.through_vit else "behind"
    return report(args, f"{name}, training step {where} a ViT-base", shape, ms, bars) | {
        "peak_mb": peaks,
        "cpu_seconds": cpu,
    }


def backbone(args):
    n = max(int(args.vit_batch * args.scale), 1)
    cpu = {"ViT-base": []}
    ms = timed({"ViT-base": counted(vit_stepper(n), cpu["ViT-base"])}, 2)
    print(cpu_line(cpu))
    peak = apart(peak_of, vit_stepper, n)
    print(f"peak RSS of the process: {peak:.0f} MB")
    shape = f"B = {n}, {SIDE} x {SIDE} pixels, forward + backward, float32"
    return report(args, "ViT-base by itself", shape, ms) | {"peak_mb": [peak], "cpu_seconds": cpu}


def more_flags(parser):
    parser.add_argument("--quick", action="store_true", help="neither the ViT nor memory, which takes processes")
    parser.add_argument("--through-vit", action="store_true", help="from pixels; takes 8 GB at 64 with LAPS fused")
    parser.add_argument("--vit-batch", type=int, default=8, help="images of the ViT's own step")


def main(argv=None):
    args = arguments(argv, __doc__, more_flags)
    cases = [case(args, "scan"), case(args, "laps")]
    return finish(args, cases if args.quick else [*cases, backbone(args)])


if __name__ == "__main__":
    sys.exit(main())
