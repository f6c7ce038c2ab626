"""What the CUDA kernels will do, counted from their launches and their machine code, next to what GPUs can do at most.

Predicted, not measured: nobody has run the kernels on a GPU. The counts of tensor-core instructions and of bytes that
tiles read are compared with the emulator's own in tests/cuda/test_roofline.py. Registers and what warps issue are read
from the machine code that `make test` keeps. Where two blocks fit into a multiprocessor, one's product runs beside the
other's epilogue, and each resource serves both; where one fits, they come one after the other. Latencies, barriers and
the aggregation of a caption's values are not counted, nor is the clock that a device keeps under load.
"""

import argparse
import json
import re
import sys
from collections import Counter
from pathlib import Path

import _machine_code
import torch
from _cases import scan_batch

from itm_fast.cli.console import print_table

# csrc/cuda/similarity.h, tile_product.cuh, attention_tile.cuh, csrc/cuda/ops/similarity.cpp
TILE_VECTORS, TILE_CONTEXTS, TILE_QUERIES = 128, 32, 16
WARP_ROWS, WARP_COLUMNS = 64, {"bfloat16": 64, "tf32": 64, "float32": 32}
STAGE_BYTES, STEP_BYTES = 64, 32
COLUMNS_OF_ATTENTION = 32  # of a warp; 8 rows at a time
ROWS_AT_A_TIME = 128  # whose numbers a warp makes for a query group, four columns of S at a time
FLOP_OF_MMA = {"bfloat16": 2 * 16 * 8 * 16, "float32": 2 * 16 * 8 * 8, "tf32": 2 * 16 * 8 * 8}
PRODUCTS = {"bfloat16": 1, "float32": 3, "tf32": 1}  # float32 is three products of TF32
BYTES = {"bfloat16": 2, "float32": 4, "tf32": 4}
MMAS_OF_GRAM, BYTES_OF_GRAM = 6, 512  # of 8 x 8 numbers of a Gram matrix with 32 columns: in two parts, 16 bytes a lane
FLOP_OF_WEIGHT = 12  # of an element of S beside its exponential: clip, norm, scale, sums
FLOP_OF_LARGEST = 3  # of an element of S: a comparison, two choices

# NVIDIA's data sheets (dense, boost clock): TFLOP/s of tensor cores and of float32 FMAs, TB/s of memory. Exponentials:
# 16 a clock and multiprocessor. L2: 5,120 bytes a clock as in the A100's white paper, assumed of the others too.
# RTX 5090: products of 16 bits with float32 sums run at half the rate of those with float16 sums.
# mma.sync, which the kernels use, is known to stay below the first figure on H100 and B200.
DEVICES = {
    "A100 80 GB": {
        "bfloat16": 312,
        "tf32": 156,
        "fma": 19.5,
        "memory": 2.04,
        "sms": 108,
        "GHz": 1.41,
        "arch": "80",
        "L2 MB": 40,
    },
    "H100 SXM": {
        "bfloat16": 989,
        "tf32": 495,
        "fma": 67,
        "memory": 3.35,
        "sms": 132,
        "GHz": 1.98,
        "arch": "90",
        "L2 MB": 50,
    },
    "B200": {
        "bfloat16": 2250,
        "tf32": 1125,
        "fma": 75,
        "memory": 8.0,
        "sms": 148,
        "GHz": 1.97,
        "arch": "100",
        "L2 MB": 126,
    },
    "A40": {
        "bfloat16": 150,
        "tf32": 75,
        "fma": 37.4,
        "memory": 0.696,
        "sms": 84,
        "GHz": 1.74,
        "arch": "86",
        "L2 MB": 6,
    },
    "RTX 5090": {
        "bfloat16": 210,
        "tf32": 105,
        "fma": 105,
        "memory": 1.79,
        "sms": 170,
        "GHz": 2.41,
        "arch": "120",
        "L2 MB": 96,
    },
}
# Of a multiprocessor; a block reserves 1 KB beside its own.
SHARED_KB = {"80": 164, "86": 100, "90": 228, "100": 228, "120": 100}
EXPS_OF_CLOCK, L2_BYTES_OF_CLOCK, SHARED_BYTES_OF_CLOCK, ISSUES_OF_CLOCK = 16, 5120, 128, 4
MICROSECONDS_OF_LAUNCH = 4  # assumed, outside CUDA graphs


def up(n, multiple):
    """The next multiple."""
    return -(-n // multiple) * multiple


def tiles(counts, most_groups):
    """Counts of each tile's groups, as the kernel `plan_tiles` cuts them."""
    found, taken = [], []
    for count in counts:
        if taken and (sum(taken) + count > TILE_VECTORS or len(taken) == most_groups):
            found.append(taken)
            taken = []
        taken = [*taken, count]
    return [*found, taken] if taken else found


def plan(counts, most_groups):
    """Vectors of each tile."""
    return [sum(tile) for tile in tiles(counts, most_groups)]


def fours_of(tile):
    """How many fours of columns the groups of a tile have alone, and share."""
    whole, shared, begin = 0, 0, 0
    for count in tile:
        inside = max(0, (begin + count) // 4 - up(begin, 4) // 4)
        whole += inside
        shared += up(begin + count, 4) // 4 - begin // 4 - inside
        begin += count
    return whole, shared


def product_counts(context_tiles, query_tiles, dim, dtype):
    """Tensor-core instructions of warps, and bytes read from L2, by the products of all pairs of tiles."""
    row_bytes = dim * BYTES[dtype]
    stages, columns = up(row_bytes, STAGE_BYTES) // STAGE_BYTES, WARP_COLUMNS[dtype]
    warps = sum(up(n, WARP_ROWS) // WARP_ROWS for n in context_tiles) * sum(
        up(n, columns) // columns for n in query_tiles
    )
    steps = warps * stages * STAGE_BYTES // STEP_BYTES
    from_l2 = row_bytes * (len(query_tiles) * sum(context_tiles) + len(context_tiles) * sum(query_tiles))
    return {
        "mma": steps * WARP_ROWS // 16 * columns // 8 * PRODUCTS[dtype],
        "warp stages": warps * stages,
        "L2 bytes": from_l2,
        # Written once, read by each warp: of 16 vectors 512 bytes a step.
        "shared bytes": from_l2 + steps * (WARP_ROWS + columns) // 16 * 512,
        "sims": warps * WARP_ROWS * columns,
    }


def attention_counts(context_counts, context_tiles, query_groups):
    """What the attention to all contexts of all columns does after the product; query_groups: counts of each tile's."""
    strips = sum(up(sum(tile), COLUMNS_OF_ATTENTION) // COLUMNS_OF_ATTENTION for tile in query_groups)
    blocks = [up(n, 8) // 8 for n in context_counts]
    gram = strips * sum(n * (n + 1) // 2 for n in blocks)
    passes = sum(up(n, WARP_ROWS) for n in context_tiles) / ROWS_AT_A_TIME
    whole, shared = (sum(of) for of in zip(*map(fours_of, query_groups), strict=True))
    weights = strips * COLUMNS_OF_ATTENTION * 8 * sum(blocks)
    return {
        "gram mma": MMAS_OF_GRAM * gram,
        "gram bytes": BYTES_OF_GRAM * gram,
        "weights": weights,
        "contexts": {n: strips * count for n, count in sorted(Counter(context_counts).items())},
        # Of the numbers of all rows and query groups: groups, fours of columns, those with others' among them.
        "groups": passes * sum(map(len, query_groups)),
        "fours": passes * whole,
        "parts": passes * shared,
        # S and the rows' numbers are read for each weight, S once more for the rows' numbers.
        "attention bytes": 4 * (2 * weights + passes * ROWS_AT_A_TIME * 4 * (whole + shared)) + BYTES_OF_GRAM * gram,
    }


def gram_flop(count):
    """FLOP of G a for one query over `count` context vectors in the backward pass."""
    return 2 * up(count, 8) * count


def scoring(region_counts, word_counts, dim, dtype, cross_attn="t2i"):
    """Counts of scoring all images with all captions by tiles."""
    context, query = (region_counts, word_counts) if cross_attn == "t2i" else (word_counts, region_counts)
    query_groups = tiles(query, TILE_QUERIES)
    context_tiles, query_tiles = plan(context, TILE_CONTEXTS), [sum(tile) for tile in query_groups]
    scores = product_counts(context_tiles, query_tiles, dim, dtype)
    gram = dict.fromkeys(scores, 0)
    for tile in context_tiles:
        of_tile = product_counts([tile], [tile], dim, dtype)
        gram = {name: gram[name] + of_tile[name] for name in gram}
    attention = attention_counts(context, context_tiles, query_groups)
    n_vectors, n_context, n_query = sum(context) + sum(query), sum(context), sum(query)
    n_weights = n_context * n_query
    return {
        **attention,
        "launches": 5,  # norms, two plans, Gram matrices, scores
        "torch launches": 0,
        "host waits": 0,
        "tensor FLOP": (scores["mma"] + gram["mma"]) * FLOP_OF_MMA[dtype],
        "mma": scores["mma"] + gram["mma"] + attention["gram mma"],
        "gram TF32 FLOP": attention["gram mma"] * FLOP_OF_MMA["tf32"],
        "useful FLOP": 2 * n_weights * dim,
        "FMA FLOP": FLOP_OF_WEIGHT * n_weights,
        "exps": attention["weights"] + n_query * len(context),
        **{name: scores[name] + gram[name] for name in ("warp stages", "L2 bytes", "shared bytes", "sims")},
        "memory bytes": 2 * n_vectors * dim * BYTES[dtype] + 4 * len(context) * len(query),
    }


def training(region_counts, word_counts, max_words, dim, dtype, cross_attn="t2i"):
    """Counts of scores, triplet loss and gradients of a batch. The backward products are torch's, padding included."""
    forward = scoring(region_counts, word_counts, dim, dtype, cross_attn)
    max_regions = max(region_counts)
    longest = (max_regions, max_words) if cross_attn == "t2i" else (max_words, max_regions)
    counts = (region_counts, word_counts) if cross_attn == "t2i" else (word_counts, region_counts)
    rows, columns = up(longest[0], 4) * len(counts[0]), up(longest[1], 8) * len(counts[1])
    n_weights = sum(counts[0]) * sum(counts[1])
    gram = sum(gram_flop(n) for n in counts[0]) * sum(counts[1])
    sims, operand = 4 * rows * columns, BYTES[dtype] * (rows + columns) * dim
    products, by_fma = 3 * 2 * rows * columns * dim, dtype == "float32"  # torch's float32 uses no tensor cores
    backward = {
        "launches": 5,  # two copies with norms, the gradient of S, two last steps
        "torch launches": 5,  # S, Gram matrices, two products with dS, the sum of kappa
        "host waits": 0,
        "tensor FLOP": 0 if by_fma else products,
        "useful FLOP": 3 * 2 * n_weights * dim,
        "FMA FLOP": 2 * gram + 2 * FLOP_OF_WEIGHT * n_weights + (products if by_fma else 0),
        "exps": n_weights + sum(counts[1]) * len(counts[0]),
        "memory bytes": 3 * operand + 4 * sims + 8 * (rows + columns) * dim,
    }
    loss = {"launches": 1, "torch launches": 2, "host waits": 0}  # and two counters set to 0
    total = {name: forward.get(name, 0) + backward.get(name, 0) + loss.get(name, 0) for name in backward}
    return {**forward, **total}


def steps(count):
    """Vectors of each step of a group that is streamed."""
    return [min(TILE_VECTORS, count - begin) for begin in range(0, count, TILE_VECTORS)]


def late_interaction(document_counts, query_counts, dim, dtype):
    """Counts of max_similarity of documents, the contexts, beyond 128 vectors: by the kernel of largest.cu."""
    context = [n for count in document_counts for n in steps(count)]
    product = product_counts(context, steps(sum(query_counts)), dim, dtype)
    n_pairs, n_query = len(document_counts) * len(query_counts), sum(query_counts)
    n_sims = sum(document_counts) * n_query
    return {
        **product,
        "launches": 4,  # two plans, the largest similarities, scores
        "torch launches": 0,
        "host waits": 0,
        "tensor FLOP": product["mma"] * FLOP_OF_MMA[dtype],
        "useful FLOP": 2 * n_sims * dim,
        "FMA FLOP": FLOP_OF_LARGEST * n_sims,
        "exps": 0,
        "attention bytes": 4 * n_sims,
        "memory bytes": (sum(document_counts) + n_query) * dim * BYTES[dtype]
        + 2 * 4 * n_query * len(document_counts)
        + 4 * n_pairs,
    }


def shared_of_tile():
    """Bytes of shared memory that a block of the tile kernel has at most, as its source asserts."""
    source = Path(__file__).resolve().parents[1] / "csrc" / "cuda" / "tiles.cu"
    return 1024 * int(re.search(r"sizeof\(TileShared\) <= (\d+) \* 1024", source.read_text(encoding="utf-8"))[1])


def blocks_of_tile(arch, dtype, registers):
    """How many blocks of the tile kernel are in a multiprocessor at a time."""
    threads = 32 * TILE_VECTORS // WARP_ROWS * TILE_VECTORS // WARP_COLUMNS[dtype]
    of_registers = 65536 // (up(registers, 8) * threads)
    return min(of_registers, SHARED_KB[arch] * 1024 // (shared_of_tile() + 1024), 2048 // threads)


def of_context(rows, code):
    """Instructions for a context and 32 columns; of more rows than stay in registers from the last ones' growth."""
    most = max(code["context"])
    if rows <= most:
        return code["context"][rows]
    last, before, first = (code["context"][most - 8 * i] for i in range(3))
    growth, more = last - before, up(rows, 8) // 8 - most // 8
    return last + more * growth + more * (more + 1) // 2 * (growth - (before - first))


def instructions_of_an_element(counts, code, dtype):
    """Of S, after the product: for itself, and for what is around query groups and contexts, whatever their sizes."""
    # Of no block of rows, by those of one, two and three: each adds its weights, and one more product than the last.
    around = sum(n * c for n, c in zip((3, -3, 1), (code["context"][rows] for rows in (8, 16, 24)), strict=True))
    outside = counts["groups"] * code["group"] + sum(counts["contexts"].values()) * around
    after = issued(counts, code, dtype)[1]
    return 32 * (after - outside) / counts["weights"], 32 * outside / counts["weights"]


def issued(counts, code, dtype):
    """Instructions that warps issue for the product, and for what follows it."""
    after = counts["sims"] / (WARP_ROWS * WARP_COLUMNS[dtype]) * code["store"]
    if "weights" in counts:
        after += sum(n * of_context(rows, code) for rows, n in counts["contexts"].items())
        after += counts["groups"] * code["group"] + counts["fours"] * code["four"]
        after += counts["parts"] * code["part"]
    return counts["warp stages"] * code["stage"], after


def resources(counts, device, dtype):
    """Resource -> milliseconds at least of the product, and of what follows it."""
    limits = DEVICES[device]
    tensor = limits["bfloat16" if dtype == "bfloat16" else "tf32"]
    clocks = limits["sms"] * limits["GHz"] * 1e6  # of all multiprocessors, a millisecond
    l2 = L2_BYTES_OF_CLOCK * limits["GHz"] * 1e6
    code = _machine_code.tile_kernel(limits["arch"], dtype)
    slots = (0, 0) if code is None else tuple(n / ISSUES_OF_CLOCK / clocks for n in issued(counts, code, dtype))
    return {
        "tensor cores": (
            counts["tensor FLOP"] / tensor / 1e9,
            counts.get("gram TF32 FLOP", 0) / limits["tf32"] / 1e9,
        ),
        "shared memory": (
            counts["shared bytes"] / SHARED_BYTES_OF_CLOCK / clocks,
            (4 * counts["sims"] + counts["attention bytes"]) / SHARED_BYTES_OF_CLOCK / clocks,
        ),
        **({} if code is None else {"issue slots": slots}),
        "float32 FMAs": (0, counts["FMA FLOP"] / limits["fma"] / 1e9),
        "exponentials": (0, counts["exps"] / EXPS_OF_CLOCK / clocks),
        "L2, by the tiles": (counts["L2 bytes"] / l2, counts.get("gram bytes", 0) / l2),
        "memory": (counts["memory bytes"] / limits["memory"] / 1e9, 0),
        "launches": ((counts["launches"] + counts["torch launches"]) * MICROSECONDS_OF_LAUNCH / 1e3, 0),
    }


def predicted_ms(counts, device, dtype):
    """Milliseconds that each resource needs at least; issue slots are missing where no machine code was kept."""
    return {name: product + after for name, (product, after) in resources(counts, device, dtype).items()}


def bound(counts, device, dtype):
    """Milliseconds at least, and what binds: of one block a multiprocessor, the product's and the epilogue's add up."""
    ms, of = predicted_ms(counts, device, dtype), resources(counts, device, dtype)
    arch = DEVICES[device]["arch"]
    code = _machine_code.tile_kernel(arch, dtype)
    product, after = (max(of, key=lambda name: of[name][part]) for part in (0, 1))
    alone = code is not None and blocks_of_tile(arch, dtype, code["registers"]) == 1
    if alone and product not in ("launches", "memory"):
        return of[product][0] + of[after][1], f"{product}, then {after}"
    return max((ms[name], name) for name in ms)


def of_tensor_cores(counts, device, dtype):
    """The part of the time at least in which the product keeps the tensor cores busy."""
    return resources(counts, device, dtype)["tensor cores"][0] / bound(counts, device, dtype)[0]


def cases(scale=1.0):
    """Name, counts and dtype of each case: SCAN's training step, the evaluation of COCO, late interaction."""
    n_images, n_captions = max(2, int(5000 * scale)), max(2, int(25000 * scale))
    _, words, word_counts = scan_batch(128, 128, dim=1)
    torch.manual_seed(0)
    lengths = torch.distributions.Gamma(6.0, 6.0 / 12).sample((n_captions,)).round().clamp(3, 50).long().tolist()
    for dtype in ("bfloat16", "tf32", "float32"):
        for cross_attn in ("t2i", "i2t"):
            counts = training([36] * 128, word_counts.tolist(), words.shape[1], 1024, dtype, cross_attn)
            yield f"training step, B = 128, {cross_attn}", counts, dtype
        counts = scoring([36] * n_images, lengths, 1024, dtype)
        yield f"{n_images} x {n_captions} evaluation, t2i", counts, dtype

    n_documents = max(2, int(1000 * scale))
    for vectors, of_query in ((300, 32), (1024, 1024)):
        counts = late_interaction([vectors] * n_documents, [of_query], 128, "bfloat16")
        yield f"1 query of {of_query} x {n_documents} documents of {vectors}, dim 128", counts, "bfloat16"


AMOUNTS = {
    "tensor cores": "tensor FLOP",
    "shared memory": "shared bytes",
    "float32 FMAs": "FMA FLOP",
    "exponentials": "exps",
    "L2, by the tiles": "L2 bytes",
    "memory": "memory bytes",
}


def _of_kernel(counts, device, dtype):
    arch = DEVICES[device]["arch"]
    code = _machine_code.tile_kernel(arch, dtype)
    if code is None:
        return "its machine code is not here: make test keeps it"
    blocks = blocks_of_tile(arch, dtype, code["registers"])
    said = (
        f"{code['registers']} registers, {shared_of_tile() // 1024} KB, {blocks} block{'s' * (blocks > 1)}, "
        f"HMMA : LDSM {code['hmma'] / code['ldsm']:.3g}, {100 * of_tensor_cores(counts, device, dtype):.0f} % of the "
        "tensor cores"
    )
    if "weights" in counts:
        own, around = instructions_of_an_element(counts, code, dtype)
        said += f", {own:.3g} instructions an element after the product and {around:.2g} around groups and contexts"
    return said


def show(record):
    """Prints one case's table."""
    counts, ms = record["counts"], record["predicted_ms"]
    rows = [
        [
            name,
            f"{counts[AMOUNTS[name]]:.2e}" if name in AMOUNTS else "",
            *(f"{ms[device][name]:.3g}" if name in ms[device] else "unknown" for device in DEVICES),
        ]
        for name in dict.fromkeys(name for device in DEVICES for name in ms[device])
    ]
    print_table(["resource", "amount", *DEVICES], rows, title=f"{record['case']}, {record['dtype']}")
    for device, (milliseconds, binding) in record["bound"].items():
        print(f"{device}: at least {milliseconds:.3g} ms ({binding}); tile kernel: {record['kernel'][device]}")
    print(
        f"{counts['launches']} launches, {counts['torch launches']} of torch's, {counts['host waits']} host waits; "
        f"{counts['useful FLOP']:.2e} FLOP without padding\n"
    )


def report(argv, description, cases_of, columns, show_record, headline):
    """What both rooflines do with their arguments: print every case, or one JSON object.

    Args:
        argv: The command's arguments.
        description: Of the command.
        cases_of: A factor on the sizes -> (name, counts, dtype) of each case.
        columns: What is predicted: name -> function of counts, device and dtype.
        show_record: Prints a case: its name, dtype, counts, and `columns` by device.
        headline: Of the tables.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the images and captions")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    args = parser.parse_args(argv)
    records = [
        {
            "case": name,
            "dtype": dtype,
            "counts": counts,
            **{column: {device: of(counts, device, dtype) for device in DEVICES} for column, of in columns.items()},
        }
        for name, counts, dtype in cases_of(args.scale)
    ]
    if args.json:
        print(json.dumps({"measured": False, "cases": records}))
        return 0
    print(f"Predicted from counts, not measured: nobody has run {headline}")
    for record in records:
        show_record(record)
    return 0


def main(argv):
    """Prints the tables."""
    columns = {"predicted_ms": predicted_ms, "bound": bound, "kernel": _of_kernel}
    return report(argv, __doc__, cases, columns, show, "these kernels on a GPU. Milliseconds at least.")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
