"""What the built kernels' machine code says: registers, and what the loop of the tile product issues.

`make test` keeps the machine code in build/cubins; nvdisasm (pip install nvidia-cuda-nvdisasm) reads it.
"""

import functools
import importlib.metadata
import itertools
import re
import shutil
import subprocess
from pathlib import Path

import _cubins

CUBINS = Path(__file__).resolve().parents[1] / "build" / "cubins"
PRODUCTS = {"bfloat16": "ProductBf16", "tf32": "ProductTf32", "float32": "ProductTf32x3"}  # of the mangled names


def disassembler():
    """nvdisasm's path: on the path, or of the package nvidia-cuda-nvdisasm; None without either."""
    try:
        files = importlib.metadata.files("nvidia-cuda-nvdisasm") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    ours = next((file.locate() for file in files if file.name == "nvdisasm"), None)
    return shutil.which("nvdisasm") or (str(ours) if ours else None)


def kept(stem, arch):
    """The machine code of a kernel file for an architecture ("90"), None where there is none."""
    alone = CUBINS / f"{stem}.compute_{arch}.cubin"  # nvcc's name where the front end worked for this device only
    found = [path for path in (*CUBINS.glob(f"{stem}.compute_*.sm_{arch}.cubin"), alone) if path.is_file()]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


@functools.cache
def kernels(cubin):
    """Kernel -> its instructions, and the place of each label among them."""
    code = subprocess.run([disassembler(), "-c", str(cubin)], capture_output=True, text=True, check=True).stdout
    found = {}
    _, *parts = re.split(r"\n\.text\.(\S+):\n", code)
    for name, body in zip(parts[::2], parts[1::2], strict=True):
        instructions, labels = [], {}
        for line in body.split("\n"):
            if label := re.match(r"\.(L_x_\d+):", line.strip()):
                labels[label[1]] = len(instructions)
            elif instruction := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(.*?);?\s*$", line):
                instructions.append(instruction[1])
        found[name] = instructions, labels
    return found


def loops(instructions, labels):
    """(first, last) instruction of every loop: backward branches."""
    for at, instruction in enumerate(instructions):
        branch = re.search(r"BRA.*?`\(\.?(L_x_\d+)\)", instruction)
        if branch and labels.get(branch[1], at + 1) <= at:
            yield labels[branch[1]], at


def _count(instructions, pattern):
    return sum(re.search(pattern, text) is not None for text in instructions)


def basic_blocks(instructions, labels):
    """The runs of instructions that are entered at the first and left after the last only."""
    starts = {0, *labels.values()}
    # BRA.DIV leaves for lanes that are not together, which these kernels' never are.
    leaves = re.compile(r"\b(BRA|EXIT|RET|BREAK|CALL)\b(?!\.DIV)")
    starts |= {at + 1 for at, text in enumerate(instructions) if leaves.search(text)}
    edges = [*sorted(starts), len(instructions)]
    return [instructions[begin:end] for begin, end in itertools.pairwise(edges) if end > begin]


def _shortest(candidates):
    return min((len(block) for block in candidates), default=0)


@functools.cache
def tile_kernel(arch, dtype):
    """What a warp of the tile kernel with clipped_l2norm issues, from its machine code; None: not built here.

    Returns:
        registers: of a thread.
        stage: instructions for 64 bytes of K, and hmma, ldsm: tensor-core instructions and matrix loads among them.
        row_number: for an element of S in the sum over a row and query group (32 rows at a time).
        whole, partial: for the weights of 8 rows and 32 columns, and where the context ends among them.
        products: for w^T G w of 40 rows and 32 columns with the sums and the quotient: 25 products of 8 x 8 of G.
    """
    cubin = kept("tiles", arch)
    if cubin is None or disassembler() is None:
        return None
    name = next(
        name for name in kernels(cubin) if "tiles_kernel" in name and f"{PRODUCTS[dtype]}ENS0_10ScaledRows" in name
    )
    instructions, labels = kernels(cubin)[name]
    found = [instructions[first : last + 1] for first, last in loops(instructions, labels)]
    stage = min((loop for loop in found if _count(loop, "LDSM")), key=len)
    sums = [
        loop
        for loop in found
        if _count(loop, r"\bFFMA") and _count(loop, r"\bLDS\b") and not _count(loop, r"MUFU|HMMA|STS|SHFL|BAR")
    ]
    blocks = basic_blocks(instructions, labels)
    weights = [block for block in blocks if _count(block, r"MUFU\.EX2") == 8 and not _count(block, "STS|HMMA|SHFL")]
    of_gram = [block for block in blocks if _count(block, "HMMA") and _count(block, "LDG")]
    return {
        "registers": _cubins.usage(cubin)[name][0],
        "stage": len(stage),
        "hmma": _count(stage, "HMMA"),
        "ldsm": _count(stage, "LDSM"),
        "row_number": min(len(loop) / _count(loop, r"\bLDS\b") for loop in sums),
        "whole": _shortest(block for block in weights if not _count(block, "FSEL")),
        "partial": _shortest(block for block in weights if _count(block, "FSEL")),
        "products": sum(len(block) for block in of_gram if not _count(block, "LDS")),
    }


@functools.cache
def attention_kernels(arch, columns, threads):
    """What a warp of the kernels of attention_chunks.cu issues with clipped_l2norm; None: not built here.

    Returns:
        registers: of a thread.
        load, weigh: instructions for S, and for the weights, of 16 rows and 32 columns.
        step, segment: for 16 rows and 32 columns of the Gram matrix, and around up to eight of them; hmma: of a step.
        group, along: of the numbers of four rows, for a group and for each 32 columns of it.
    """
    cubin = kept("attention_chunks", arch)
    if cubin is None or disassembler() is None:
        return None
    shape = f"attend_kernelINS0_10ScaledRowsELi{columns}ELi{threads}E"
    name = next(name for name in kernels(cubin) if shape in name)
    instructions, labels = kernels(cubin)[name]
    found = [instructions[first : last + 1] for first, last in loops(instructions, labels)]
    step, segment = sorted((loop for loop in found if _count(loop, "HMMA")), key=len)[:2]
    weigh = min((loop for loop in found if _count(loop, r"MUFU\.EX2") == 16), key=len)
    load = min((loop for loop in found if _count(loop, r"\bSTS") == 4 and _count(loop, r"\bLDG") >= 4), key=len)
    rows = next(name for name in kernels(cubin) if "number_rows_kernelINS0_10ScaledRows" in name)
    of_rows, their_loops = kernels(cubin)[rows][0], list(loops(*kernels(cubin)[rows]))
    loads = [place for place in their_loops if _count(of_rows[place[0] : place[1] + 1], r"\bLDG") == 1]
    first, last = max(loads, key=lambda place: place[1] - place[0])
    along = last - first + 1
    group = min(end - begin + 1 for begin, end in their_loops if begin < first and last < end)
    return {
        "registers": _cubins.usage(cubin)[name][0],
        "load": len(load),
        "weigh": len(weigh),
        "step": len(step),
        "hmma": _count(step, "HMMA"),
        "segment": len(segment) - len(step),
        "along": along,
        "group": group - along,
    }
