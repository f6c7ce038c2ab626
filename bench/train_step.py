"""The similarity of a training batch, forward and backward: fused, reference, closed form and three bare GEMMs."""

import subprocess
import sys
from pathlib import Path

from _cases import FLAGS, packed, scan_batch
from _interleaved import arguments, finish, report, timed

from itm_fast import cross_attention_similarity, reference

PEAK = """
import pathlib, re, sys, torch
sys.path.insert(0, {folder!r})
from _cases import FLAGS, scan_batch
from itm_fast import cross_attention_similarity, reference
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1])
torch.set_num_threads({threads})
regions, words, word_counts = scan_batch({n}, {n}, mean_words=14)
regions.requires_grad_(); words.requires_grad_()
few = (regions[:2], words[:2], word_counts[:2])
{call}(*few, **FLAGS[{cross_attn!r}]).sum().backward()  # code and thread pools are loaded
regions.grad = words.grad = None
pathlib.Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak so far is forgotten
before = peak()
{call}(regions, words, word_counts, **FLAGS[{cross_attn!r}]).sum().backward()
gradients = (regions.numel() + words.numel()) * 4 / 2**20
print((peak() - before) / 1024 - gradients)
"""


def extra_memory(args, call, cross_attn, n):
    """MB above inputs and gradients, in a process of its own."""
    folder = str(Path(__file__).parent)
    code = PEAK.format(folder=folder, threads=args.threads, n=n, call=call, cross_attn=cross_attn)
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def training(args, cross_attn):
    n = max(int(128 * args.scale), 2)
    regions, words, word_counts = scan_batch(n, n, mean_words=14)
    images, valid = regions.reshape(-1, 1024), packed(words, word_counts)
    similarities = images @ valid.T
    shape = f"B = {n}, 36 regions, D = 1024, {int(word_counts.sum())} words, float32"

    def step(similarity):
        def call():
            inputs = regions.detach().requires_grad_(), words.detach().requires_grad_()
            similarity(*inputs, word_counts, **FLAGS[cross_attn]).sum().backward()

        return call

    def three_gemms():
        images @ valid.T, similarities @ valid, similarities.T @ images

    calls = {
        "fused": step(cross_attention_similarity),
        "three bare GEMMs": three_gemms,
        "closed form": step(reference.cross_attention_closed_form),
        "reference": step(reference.cross_attention_similarity),
    }
    ms = timed(calls, args.rounds, once=("closed form", "reference"))
    bars = [
        ("reference / fused", ms["reference"] / ms["fused"], -8.0),
        ("fused / three bare GEMMs", ms["fused"] / ms["three bare GEMMs"], 1.35),
    ]
    if Path("/proc/self/clear_refs").exists():
        of_reference = extra_memory(args, "reference.cross_attention_similarity", cross_attn, n)
        print(f"Peak memory of the reference above inputs and gradients: {of_reference:.0f} MB")
        bars.append(("the same of fused, MB", extra_memory(args, "cross_attention_similarity", cross_attn, n), 150.0))
    return report(args, f"training {cross_attn}", shape, ms, bars)


def main(argv=None):
    args = arguments(argv, __doc__)
    return finish(args, [training(args, "t2i"), training(args, "i2t")])


if __name__ == "__main__":
    sys.exit(main())
