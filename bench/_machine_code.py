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
# Of the mangled names, and the instruction that tells a product's loop from the others' of its kernel.
PRODUCTS = {
    "bfloat16": ("ProductsOf64", r"HMMA\.16816\.F32\.BF16"),
    "tf32": ("ProductsOf64", r"HMMA\.1688\.F32\.TF32"),
    "float32": ("ProductsOf32", r"HMMA\.1688\.F32\.TF32"),
}


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


def named(cubin, part):
    """The kernel whose mangled name holds this.

    Raises:
        LookupError: There is none: the file was built from other sources.
    """
    return _first((name for name in kernels(cubin) if part in name), f"kernel {part}", cubin)


def _first(found, what, cubin):
    for one in found:
        return one
    raise LookupError(f"no {what} in {cubin}, which other sources were built to: build again (make test)")


def loops(instructions, labels):
    """(first, last) instruction of every loop: backward branches."""
    for at, instruction in enumerate(instructions):
        branch = re.search(r"BRA.*?`\(\.?(L_x_\d+)\)", instruction)
        if branch and labels.get(branch[1], at + 1) <= at:
            yield labels[branch[1]], at


def count(instructions, pattern):
    """How many of some instructions a pattern is found in."""
    return sum(re.search(pattern, text) is not None for text in instructions)


LEAVES = re.compile(r"\b(BRA|EXIT|RET|BREAK|CALL)\b(?!\.DIV)")  # BRA.DIV: lanes that are not together, which none are


def basic_blocks(instructions, labels):
    """The (first, end) of each run of instructions that is entered at the first and left after the last only."""
    starts = {0, *labels.values()}
    starts |= {at + 1 for at, text in enumerate(instructions) if LEAVES.search(text)}
    edges = [*sorted(starts), len(instructions)]
    return [(begin, end) for begin, end in itertools.pairwise(edges) if end > begin]


def shortest_way(instructions, labels, loop, wanted):
    """Instructions of the shortest way once through a loop on which each kind of instruction is met so many times.

    Args:
        instructions, labels: A kernel's.
        loop: Its first and last instruction; loops inside are gone through once, or not where there is a way around.
        wanted: Pattern of an instruction, or a function of a block's instructions -> how often.
    """
    first, last = loop
    blocks = [(begin, end) for begin, end in basic_blocks(instructions, labels) if first <= begin <= last]
    numbers = {begin: number for number, (begin, _) in enumerate(blocks)}
    ways = [{} for _ in blocks]
    ways[0] = {(0,) * len(wanted): 0}
    ends = {}
    for number, (begin, end) in enumerate(blocks):
        block = instructions[begin:end]
        met = [kind(block) if callable(kind) else count(block, kind) for kind in wanted]
        here = {}
        for so_far, length in ways[number].items():
            state = tuple(a + b for a, b in zip(so_far, met, strict=True))
            if all(a <= most for a, most in zip(state, wanted.values(), strict=True)):
                here[state] = length + end - begin
        if end - 1 == last:
            ends = here
        branch = re.search(r"\bBRA\b(?!\.DIV).*?`\(\.?(L_x_\d+)\)", block[-1])
        conditional = re.match(r"@|BRA(\.\w+)*\s+!?U?P\d", block[-1])
        following = [end] if conditional or not LEAVES.search(block[-1]) else []
        for place in [*following, *([labels[branch[1]]] if branch else [])]:
            if place > begin and place in numbers:
                to = ways[numbers[place]]
                for state, length in here.items():
                    to[state] = min(length, to.get(state, length))
    return ends[tuple(wanted.values())]


CLIP = r"\bFFMA\b.*\|"  # s + bend |s|

ROWS_IN_REGISTERS = 40  # of a context; kBlocksInRegisters of attention_tile.cuh


@functools.cache
def tile_kernel(arch, dtype):
    """What a warp of the tile kernel with clipped_l2norm issues, from its machine code; None: not built here.

    Returns:
        registers: of a thread.
        stage: instructions for 64 bytes of K, and hmma, ldsm: tensor-core instructions and matrix loads among them.
        store: to leave S of a warp's rows and columns in shared memory.
        group: for the numbers of a query group's rows, 32 rows four times, beside what its columns need.
        four, part: for four columns of it in one place; where others' are among them.
        context: for a context of so many rows and 32 columns, from its first instruction to the quotient.
    """
    cubin = kept("tiles", arch)
    if cubin is None or disassembler() is None:
        return None
    products, of_product = PRODUCTS[dtype]  # a kernel of several has a loop and a store for each
    name = named(cubin, f"tiles_kernelINS1_12{products}ENS0_10ScaledRows")
    code = instructions, labels = kernels(cubin)[name]
    found = {place: instructions[place[0] : place[1] + 1] for place in loops(instructions, labels)}

    def smallest(chosen):
        return min((place for place, loop in found.items() if chosen(loop)), key=lambda place: place[1] - place[0])

    loading = [place for place, loop in found.items() if count(loop, "LDSM")]
    stages = [a for a in loading if not any(a != b and a[0] <= b[0] and b[1] <= a[1] for b in loading)]
    stage = _first((found[place] for place in stages if count(found[place], of_product)), "loop of the product", cubin)
    blocks = [instructions[begin:end] for begin, end in basic_blocks(instructions, labels)]
    # Norms of four rows by squares: the sums of magnitudes have no other FMAs, two rows are elsewhere.
    columns = smallest(
        lambda loop: count(loop, r"LDS\.128") == 4 and count(loop, "FFMA") >= 32 and not count(loop, "MUFU")
    )
    groups = min(
        (place for place in found if place[0] < columns[0] and columns[1] < place[1]),
        key=lambda place: place[1] - place[0],
    )
    # A way for each number of blocks of 8 rows.
    products = {rows: 3 * -(-rows // 8) * (-(-rows // 8) + 1) for rows in range(1, ROWS_IN_REGISTERS + 1)}
    contexts = smallest(lambda loop: count(loop, "HMMA") >= sum(set(products.values())))
    # Around them, without fours of columns; with what the first and the last share with other groups, three at most.
    alone, shared = (shortest_way(*code, groups, {r"MUFU\.SQRT": 4, r"MUFU\.RCP": 4, CLIP: 4 * n}) for n in (0, 2 * 3))
    context = {}
    for rows in range(1, ROWS_IN_REGISTERS + 1):
        context[rows] = shortest_way(*code, contexts, {r"MUFU\.EX2": 4 * -(-rows // 4), "HMMA": products[rows]})
    return {
        "registers": _cubins.usage(cubin)[name][0],
        "stage": len(stage),
        "hmma": count(stage, "HMMA"),
        "ldsm": count(stage, "LDSM"),
        "store": sum(len(block) for block in blocks if count(block, r"STS\.64") >= 16) // len(stages),
        "group": alone,
        "four": shortest_way(*code, columns, {CLIP: 16}),
        "part": (shared - alone) / 2,
        "context": context,
    }


@functools.cache
def gradient_kernel(arch):
    """What a warp of chunks.cu's kernel issues for attention's gradients where S lies in memory; None: not built here.

    Returns:
        registers: of a thread.
        product, gram: instructions for each FMA in the loops of G a, and of the Gram matrix's gradient.
        around: instructions around the latter.
    """
    cubin = kept("chunks", arch)
    if cubin is None or disassembler() is None:
        return None
    name = named(cubin, "chunk_kernelIfLb0ELb1E")
    instructions, labels = kernels(cubin)[name]
    found = sorted(loops(instructions, labels), key=lambda place: place[1] - place[0])
    of = {place: instructions[place[0] : place[1] + 1] for place in found}
    wide = [place for place in found if count(of[place], "FFMA") >= 32]
    gram = _first((place for place in wide if count(of[place], r"\bLDS")), "loop of the Gram matrix's gradient", cubin)
    product = _first((place for place in wide if not count(of[place], r"\bLDS")), "loop of G a", cubin)
    outer = _first((place for place in found if place[0] < gram[0] and gram[1] < place[1]), "loop around it", cubin)
    return {
        "registers": _cubins.usage(cubin)[name][0],
        "product": len(of[product]) / count(of[product], "FFMA"),
        "gram": len(of[gram]) / count(of[gram], "FFMA"),
        "around": len(of[outer]) - len(of[gram]),
    }


@functools.cache
def attention_kernels(arch, columns, threads):
    """What a warp of the kernels of attention_chunks.cu issues with clipped_l2norm; None: not built here.

    Returns:
        registers: of a thread.
        load, weigh: instructions for S, and for the weights, of 16 rows and 32 columns, or 16 where a block has 16.
        step, segment: for 16 rows and 32 columns of the Gram matrix, and around up to eight of them; hmma: of a step.
        group, along: of the numbers of four rows, for a group and for each 32 columns of it.
    """
    cubin = kept("attention_chunks", arch)
    if cubin is None or disassembler() is None:
        return None
    name = named(cubin, f"attend_kernelINS0_10ScaledRowsELi{columns}ELi{threads}E")
    instructions, labels = kernels(cubin)[name]
    found = [instructions[first : last + 1] for first, last in loops(instructions, labels)]
    step, segment = sorted((loop for loop in found if count(loop, "HMMA")), key=len)[:2]
    own = min(columns, 32) // 8  # columns of a lane
    weigh = min((loop for loop in found if count(loop, r"MUFU\.EX2") == 4 * own), key=len)
    load = min((loop for loop in found if count(loop, r"\bSTS") == own and count(loop, r"\bLDG") >= 4), key=len)
    rows = named(cubin, "number_rows_kernelINS0_10ScaledRows")
    of_rows, their_loops = kernels(cubin)[rows][0], list(loops(*kernels(cubin)[rows]))
    loads = [place for place in their_loops if count(of_rows[place[0] : place[1] + 1], r"\bLDG") == 1]
    first, last = max(loads, key=lambda place: place[1] - place[0])
    along = last - first + 1
    group = min(end - begin + 1 for begin, end in their_loops if begin < first and last < end)
    return {
        "registers": _cubins.usage(cubin)[name][0],
        "load": len(load),
        "weigh": len(weigh),
        "step": len(step),
        "hmma": count(step, "HMMA"),
        "segment": len(segment) - len(step),
        "along": along,
        "group": group - along,
    }
