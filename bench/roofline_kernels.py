"""Every kernel but those that multiply vectors: registers, blocks of a multiprocessor, and what a call takes at least.

Predicted, not measured: nobody has run them on a GPU. Registers, threads and what warps issue are read from the machine
code that `make test` keeps; bytes are those of each tensor once, from the L2 cache what blocks read of rows. A warp's
instructions are those of the shortest way through the loop that reads the numbers, so that time is at least theirs.
Kernels that multiply vectors are counted by bench/roofline.py, roofline_attention.py and roofline_models.py.
"""

import argparse
import contextlib
import sys
from collections import Counter
from typing import NamedTuple

import _cubins
import _machine_code
from roofline import (
    DEVICES,
    ISSUES_OF_CLOCK,
    L2_BYTES_OF_CLOCK,
    SHARED_KB,
    up,
)

# Of a multiprocessor.
THREADS = {"80": 2048, "86": 1536, "90": 2048, "100": 2048, "120": 1536}
FLOAT64_OF_CLOCK = {"80": 32, "86": 2, "90": 64, "100": 64, "120": 2}
FLOAT64 = r"\bD(ADD|MUL|FMA|SETP|MNMX)\b"
FLOAT, BITS16, FOUR16 = r"LDG\.E\.CONSTANT", r"LDG\.E\.U16\.CONSTANT", r"LDG\.E\.64\.CONSTANT"  # loads of a lane


class Way(NamedTuple):
    """Warps issue an instruction in a loop so often."""

    of: str  # pattern
    times: float
    beside: str = ""  # pattern of another one of that loop


class Kernel(NamedTuple):
    name: str
    file: str
    mangled: str  # part of its name
    shared: int  # bytes of a block
    call: str  # what is counted; "": so little that its latency is all
    memory: float = 0
    l2: float = 0
    ways: tuple[Way, ...] = ()
    flop: float = 0  # of float32 FMAs


IMAGES, CAPTIONS = 5000, 25000
SCORES, BATCH, LARGE_BATCH = IMAGES * CAPTIONS, 128, 4096
WORDS, REGIONS, DIM = 12, 36, 1024
QUERY, DOCUMENT, TOKEN = 32, 180, 128  # late interaction: vectors of a query and a document, their dimension
CHOSEN = BATCH * QUERY * BATCH  # choices of query vectors
BANDS = -(-DOCUMENT // 32)  # of a context's rows
NGRAMS = sum(WORDS - k for k in range(4))


def kernels():
    """All of them."""
    lists = "lists of candidates"
    numbers = CAPTIONS * WORDS * DIM
    hinge = 16 * 4 * LARGE_BATCH
    square = LARGE_BATCH * LARGE_BATCH
    region_numbers = BATCH * REGIONS * DIM
    pairs = 128 * 577 * 577
    training = f"training, {BATCH} queries x {BATCH} documents of {DOCUMENT}"
    of_scores = f"{IMAGES:,} x {CAPTIONS:,}"
    of_batch = f"batch of {LARGE_BATCH:,}"
    return [
        Kernel("norms and copies", "vectors", "vectors_kernelIN4simt4bf16ES", 0, f"norms of {CAPTIONS:,} captions",
               2 * numbers, ways=(Way(BITS16, numbers / 32),)),
        Kernel("plan of tiles", "vectors", "plan_kernel", 8328, ""),
        Kernel("plan of " + lists, "vectors", "lists_kernel", 0, ""),
        Kernel("scores of largest similarities", "largest", "pairs_kernelILb0", 0,
               f"1,000 queries of {QUERY} x 1,000 documents", 4e6 * (QUERY + 1)),
        Kernel("their cotangents", "largest", "pairs_kernelILb1", 0, training, 8 * CHOSEN),
        Kernel("places of query vectors", "gather", "places_kernel", 0, ""),
        Kernel("similarities of rows", "gather", "chosen_kernelIN4simt4bf16E", 0, training,
               2 * BATCH * (QUERY + DOCUMENT) * TOKEN + 12 * CHOSEN, 4 * TOKEN * CHOSEN, (Way(FOUR16, 2 * CHOSEN),)),
        Kernel("gradients of contexts by rows", "gather", "contexts_kernelIN4simt4bf16E", 19456, training,
               2 * BATCH * (QUERY + DOCUMENT) * TOKEN, (2 * TOKEN + 12 * BANDS) * CHOSEN,
               (Way(FOUR16, CHOSEN), Way("VOTE", 8 * BANDS * CHOSEN / 32))),
        Kernel("gradients of queries by rows", "gather", "queries_kernelIN4simt4bf16E", 2048, training,
               2 * BATCH * (QUERY + DOCUMENT) * TOKEN, (2 * TOKEN + 8) * CHOSEN, (Way(FOUR16, CHOSEN),)),
        Kernel("last step of gradients", "gradients", "gradients_kernelIfN4simt4bf16E", 4608,
               f"regions of a batch of {BATCH}", 8 * region_numbers,
               ways=(Way(BITS16, up(REGIONS, 32) // 32 * region_numbers / 32),),
               flop=2 * up(REGIONS, 32) * region_numbers),
        Kernel("float16's scale", "gradients", "scale_kernel", 128, ""),
        Kernel("gradient of SGR's unit vectors", "attended_vectors", "rows_kernelIN4simt4bf16E", 0,
               f"batch of {BATCH}, width 256", 3 * 2 * 256 * BATCH * BATCH * WORDS),
        Kernel("sums of a word's gradients of SGR", "attended_vectors", "words_kernelIN4simt4bf16E", 0,
               f"{BATCH} captions for each of {BATCH} images", (2 * DIM + 8) * BATCH * BATCH * WORDS
               + 2 * 4 * DIM * BATCH * WORDS),
        Kernel("Gram matrices in parts of float16", "attention_chunks", "split_gram_kernel", 14368,
               "128 images of 577 patches", 0, 4 * pairs + 2 * pairs),
        Kernel("CIDEr of all pairs", "cider", "block_kernelIf", 24704, of_scores, 4 * SCORES,
               ways=(Way(FLOAT, 2 * SCORES * -(-NGRAMS // 32), "LDS"),)),
        Kernel("CIDEr of pairs", "cider", "pairs_kernelIf", 0, "1,000,000 pairs, 5 references", 0,
               8e6 * NGRAMS * 6, (Way("SHFL", 2e6 * 5 * NGRAMS),)),
        Kernel("look for NaN", "ranking", "nan_kernelIf", 0, of_scores, 4 * SCORES, ways=(Way(FLOAT, SCORES / 32),)),
        Kernel("ranks, queries are rows", "ranking", "count_kernelIfLb1", 0, f"{of_scores}, 5 positives", 4 * SCORES,
               ways=(Way(FLOAT, 2 * SCORES / 32),)),
        Kernel("ranks, queries are columns", "ranking", "count_kernelIfLb0", 0, f"{of_scores}, 1 positive", 4 * SCORES,
               ways=(Way(FLOAT, SCORES / 32),)),
        Kernel("transposition", "ranking", "transpose_kernelIf", 4224, of_scores, 8 * SCORES,
               ways=(Way(FLOAT, SCORES / 32), Way("STG", SCORES / 32))),
        Kernel("k best", "topk", "keep_kernelIfLb1", 32 + 12 * 2048, f"{of_scores}, k = 100", 4 * SCORES,
               ways=(Way(FLOAT, SCORES / 32),)),
        Kernel("triplet loss, hardest", "triplet", "triplet_hardest_kernelIf", 4104, of_batch,
               8 * square + hinge, 4 * square, (Way(FLOAT, 2 * square / 32),)),
        Kernel("triplet loss, all", "triplet", "triplet_all_kernelIf", 4104, of_batch, 8 * square + hinge, 4 * square,
               (Way(FLOAT, square / 32, "STG"), Way(FLOAT, square / 32))),
        Kernel("semantic margin, one negative", "semantic_margin", "chosen_kernelIf", 4104, of_batch,
               8 * square + hinge, 4 * square, (Way(FLOAT, 2 * square / 32),)),
        Kernel("semantic margin, all", "semantic_margin", "all_kernelIf", 18568, of_batch, 12 * square + hinge,
               8 * square, (Way("STG", square / 32, "LDS"),)),
    ]  # fmt: skip


def issued(code, way):
    """Instructions at least, and float64's among them, of a warp for each that the way counts.

    Raises:
        LookupError: No loop of this machine code has it.
    """
    loops = [place for place in _machine_code.loops(*code) if _count_in(code, place, way.of)]
    innermost = [a for a in loops if not any(a != b and a[0] <= b[0] and b[1] <= a[1] for b in loops)]
    found = []
    for place in innermost:
        times = _count_in(code, place, way.of)
        if way.beside and not _count_in(code, place, way.beside):
            continue
        with contextlib.suppress(KeyError):  # a branch back that is no loop of its own has no such way
            length = _machine_code.shortest_way(*code, place, {way.of: times})
            found.append((length / times, _count_in(code, place, FLOAT64) / times))
    if not found:
        raise LookupError(f"no loop with {way.of} {way.beside}")
    return min(found)


def _count_in(code, place, pattern):
    return _machine_code.count(code[0][place[0] : place[1] + 1], pattern)


def blocks_of(arch, registers, threads, shared):
    """How many blocks are in a multiprocessor at a time."""
    of_registers = 65536 // (up(registers, 8) * threads)
    return min(of_registers, SHARED_KB[arch] * 1024 // (shared + 1024), THREADS[arch] // threads)


def milliseconds(kernel, device, code):
    """Resource -> milliseconds at least, and instructions for each of its first way."""
    limits = DEVICES[device]
    clocks = limits["sms"] * limits["GHz"] * 1e6  # of all multiprocessors, a millisecond
    ways = [(way.times, *issued(code, way)) for way in kernel.ways]
    resources = {
        "memory": kernel.memory / limits["memory"] / 1e9,
        "L2": (kernel.memory + kernel.l2) / (L2_BYTES_OF_CLOCK * limits["GHz"] * 1e6),
        "issue slots": sum(times * n for times, n, _ in ways) / ISSUES_OF_CLOCK / clocks,
        "float64": sum(32 * times * n for times, _, n in ways) / FLOAT64_OF_CLOCK[limits["arch"]] / clocks,
        "float32 FMAs": kernel.flop / limits["fma"] / 1e9,
    }
    return resources, ways[0][1] if ways else None


def row(kernel):
    """What the table says of a kernel; None where a device's machine code is not here."""
    registers, blocks, instructions, bounds = [], [], [], {}
    for device, limits in DEVICES.items():
        cubin = _machine_code.kept(kernel.file, limits["arch"])
        if cubin is None or _machine_code.disassembler() is None:
            return None
        name = _machine_code.named(cubin, kernel.mangled)
        of_thread, _ = _cubins.usage(cubin)[name]
        registers.append(of_thread)
        blocks.append(blocks_of(limits["arch"], of_thread, _cubins.threads(cubin, name), kernel.shared))
        resources, of_way = milliseconds(kernel, device, _machine_code.kernels(cubin)[name])
        instructions.append(of_way)
        binds = max(resources, key=resources.get)
        bounds[device] = (resources[binds], binds)
    usual, _ = Counter(binds for _, binds in bounds.values()).most_common(1)[0]
    cells = [f"{float(f'{ms:.2g}'):g}" + f" ({binds})" * (binds != usual) for ms, binds in bounds.values()]
    return [
        kernel.name,
        _range(registers),
        f"{kernel.shared / 1024:.2g} KB" if kernel.shared else "",
        _range(blocks),
        _range([round(n) if n > 10 else round(n, 1) for n in instructions]) if kernel.ways else "",
        *([kernel.call, usual, *cells] if kernel.call else ["any", "its latency", *[""] * len(DEVICES)]),
    ]


def _range(numbers):
    low, high = min(numbers), max(numbers)
    return f"{low}" if low == high else f"{low} to {high}"


def main(argv):
    """Prints the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args(argv)
    rows = [row(kernel) for kernel in kernels()]
    if None in rows:
        print("its machine code is not here: make test keeps it, and nvdisasm reads it")
        return 1
    print("Predicted from counts, not measured: nobody has run these kernels on a GPU. Milliseconds at least.\n")
    columns = ["kernel", "registers", "shared memory", "blocks", "instructions", "of", "binds", *DEVICES]
    for cells in [columns, ["---"] * len(columns), *rows]:
        print(f"| {' | '.join(cells)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
