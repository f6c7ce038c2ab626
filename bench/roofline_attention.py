"""Counts of cross attention beyond 128 regions or words: torch's products, attention_chunks.cu, gradients by chunks.cu.

Its kernels come one after the other, so what each needs at least adds up. Where one block of the last fits into a
multiprocessor, its two parts, the weights and the product, add up as well; where two fit, one's runs beside the
other's.
"""

import _machine_code
from roofline import (
    DEVICES,
    EXPS_OF_CLOCK,
    FLOP_OF_WEIGHT,
    ISSUES_OF_CLOCK,
    L2_BYTES_OF_CLOCK,
    MICROSECONDS_OF_LAUNCH,
    SHARED_BYTES_OF_CLOCK,
    SHARED_KB,
    product_counts,
    up,
)
from roofline import steps as tiles_of

MB = 1 << 20
CACHED_BYTES, SCRATCH_BYTES = 24 * MB, 128 * MB  # csrc/cuda/ops/attention.h, host.h
# csrc/cuda/attention_chunks.cu
STEP_ROWS, TILE_COLUMNS, STEP_BYTES, MOST_STEPS = 16, 32, 2048, 8
PARTS = 3  # products of float16 for one of float32
FLOP_OF_MMA, FLOP_OF_MMA_TF32 = 2 * 16 * 8 * 16, 2 * 16 * 8 * 8


def steps_of(rows):
    """16 rows by 32 columns each: the lower half of a Gram matrix."""
    blocks = up(rows, STEP_ROWS) // STEP_ROWS
    tiles = -(-blocks // 2)
    return tiles * (tiles + 1) - blocks % 2


def segments_of(rows, warps):
    """How often the warps of a block, which share the steps, multiply their sums with the weights."""
    n, blocks, segments = steps_of(rows), up(rows, STEP_ROWS) // STEP_ROWS, 0
    for warp in range(warps):
        step, end = n * warp // warps, n * (warp + 1) // warps
        while step < end:
            tile = next(t for t in range(blocks) if (t + 1) * (t + 2) > step)
            left = min(2 * tile + 2, blocks) - (step - tile * (tile + 1))
            step += min(left, end - step, MOST_STEPS)
            segments += 1
    return segments


def bytes_of_block(rows, columns, threads):
    """Bytes of shared memory."""
    return 4 * (threads // 32 * (3 * min(columns, 32) + columns) + up(rows, STEP_ROWS) * columns)


def block_of(rows, arch):
    """Columns and threads of a block, and how many fit: as the host chooses."""
    limit = (SHARED_KB[arch] - 1) * 1024
    if 2 * bytes_of_block(up(rows, 8), 64, 256) + 1024 <= limit:
        return 64, 256, 2
    columns = next((n for n in (64, 32, 16) if bytes_of_block(up(rows, 8), n, 512) <= limit), None)
    if columns is None:
        raise ValueError(f"{rows} vectors do not fit into a block's shared memory on {arch}: chunks.cu does them")
    return columns, 512, 1


def scoring(n_patches, n_words, n_images, n_captions, dim, bytes_of_number=2):
    """Counts that every device has, t2i; images of n_patches, captions padded to n_words."""
    rows, pitch = up(n_patches, 8), up(n_words, 8)
    columns, steps = pitch * n_captions, steps_of(rows)
    of_context = 4 * rows * rows + STEP_BYTES * steps + 4 * up(n_captions * n_words, 8)
    outer = max(1, min(n_images, SCRATCH_BYTES // of_context))
    at_a_time = max(1, min(outer, CACHED_BYTES // (4 * rows * columns)))
    parts = [min(outer, n_images - first) for first in range(0, n_images, outer)]
    rounds, sims = sum(-(-n // at_a_time) for n in parts), rows * columns * n_images
    return {
        "patches": n_patches,
        "words": n_words,
        "images": n_images,
        "captions": n_captions,
        "launches": 3 + 3 * len(parts) + 3 * rounds,  # copies, plan; Gram, split, scores; S, rows' numbers, attention
        "torch launches": len(parts) + rounds,  # among them
        "tensor FLOP": 2 * dim * (sims + rows * rows * n_images),
        "memory bytes": 2 * bytes_of_number * dim * (rows * n_images + columns * rounds),
        "sims": sims,
        "Gram bytes": n_images * (8 * rows * rows + STEP_BYTES * steps),
        "mma": n_images * -(-columns // 64) * steps * 4 * 4 * PARTS,
    }


def _products_of_gradients(counts):
    """G a and a aᵀ of one image, as tiles multiply them in three products of TF32."""
    rows, columns = up(counts["patches"], 4), up(counts["words"], 8) * counts["captions"]
    return {
        "G a": product_counts(tiles_of(rows), tiles_of(columns), rows, "float32"),
        "a aᵀ": product_counts(tiles_of(rows), tiles_of(rows), columns, "float32"),
    }


def gradients(n_patches, n_words, n_images, n_captions, dim, bytes_of_number=2):
    """Counts of the gradients of what `scoring` counts: S once more, two products with dS, G a, a aᵀ."""
    rows, columns = up(n_patches, 4), up(n_words, 8) * n_captions
    at_a_time = max(1, min(n_images, SCRATCH_BYTES // (4 * rows * columns)))
    rounds, sims = -(-n_images // at_a_time), rows * columns * n_images
    counts = {
        "patches": n_patches,
        "words": n_words,
        "images": n_images,
        "captions": n_captions,
        # Copies; S, Gram matrices, zeros, weights, G a, dS, a aᵀ, products, kappa, last step; rounds' sums; last step.
        "launches": 2 + 11 * rounds + 2 * (rounds - 1) + 1,
        "torch launches": 6 * rounds + 2 * (rounds - 1),
        "tensor FLOP": 2 * dim * (3 * sims + rows * rows * n_images),
        # S, a and G a are written, and S is read; dS is written once and read twice.
        "memory bytes": sims * (16 + 3 * bytes_of_number) + 4 * dim * (rows * n_images + 3 * columns * rounds),
        # Where tensor cores make G a and a aᵀ: zeros, S once more, weights and G a between launches, operands of a aᵀ.
        "bytes between launches": sims * (4 + 4 + 8 + 4 + 12),
        "last FMAs": up(rows, 32) * n_patches * dim * n_images,
    }
    ours = _products_of_gradients(counts).values()
    return {**counts, "TF32 FLOP": FLOP_OF_MMA_TF32 * n_images * sum(product["mma"] for product in ours)}


def _by_tensor_cores(counts, device):
    """G a and a aᵀ: resource -> milliseconds at least."""
    limits = DEVICES[device]
    clocks = limits["sms"] * limits["GHz"] * 1e6 / counts["images"]  # an image
    code = _machine_code.tile_kernel(limits["arch"], "float32")
    return {
        of: {
            "tensor cores": counts["images"] * product["mma"] * FLOP_OF_MMA_TF32 / limits["tf32"] / 1e9,
            "shared memory": product["shared bytes"] / SHARED_BYTES_OF_CLOCK / clocks,
            "L2": counts["images"] * product["L2 bytes"] / (L2_BYTES_OF_CLOCK * limits["GHz"] * 1e6),
            "issue slots": (product["warp stages"] * code["stage"] if code else 0) / ISSUES_OF_CLOCK / clocks,
        }
        for of, product in _products_of_gradients(counts).items()
    }


def _by_fmas(counts, device):
    """The same where tensor cores of TF32 are no faster."""
    limits, rows, pitch = DEVICES[device], counts["patches"], up(counts["words"], 8)
    clocks, pairs = limits["sms"] * limits["GHz"] * 1e6, counts["images"] * counts["captions"]
    blocks = pairs * (up(rows, 4) // 4) * (up(rows, 4) // 4 + 1) // 2  # of 4 x 4, each once for a caption
    code = _machine_code.gradient_kernel(limits["arch"]) or {"product": 0, "gram": 0, "around": 0}
    fmas = {"G a": up(rows, 8) * rows * pitch * pairs, "a aᵀ": 16 * up(pitch, 16) * blocks}
    issued = {
        "G a": fmas["G a"] * code["product"],
        "a aᵀ": fmas["a aᵀ"] * code["gram"] + 4 * blocks * code["around"],
    }
    return {
        of: {
            "float32 FMAs": 2 * n / limits["fma"] / 1e9,
            "issue slots": issued[of] / 32 / ISSUES_OF_CLOCK / clocks,
        }
        for of, n in fmas.items()
    }


def _parts_of_gradients(counts, device, dtype):
    limits = DEVICES[device]
    fast = SHARED_KB[limits["arch"]] > 100  # csrc/cuda/ops/host.cpp
    return {
        "torch's products": {"tensor cores": counts["tensor FLOP"] / limits[dtype] / 1e9},
        **(_by_tensor_cores if fast else _by_fmas)(counts, device),
        "tensors": {
            "memory": (counts["memory bytes"] + counts["bytes between launches"] * fast) / limits["memory"] / 1e9
        },
        "last step": {"float32 FMAs": 2 * counts["last FMAs"] / limits["fma"] / 1e9},
    }


def parts_of(counts, device, dtype):
    """Part -> resource -> milliseconds at least; and whether the last two parts run beside each other."""
    if "TF32 FLOP" in counts:
        return _parts_of_gradients(counts, device, dtype), False
    limits = DEVICES[device]
    arch, clocks = limits["arch"], limits["sms"] * limits["GHz"] * 1e6
    l2 = L2_BYTES_OF_CLOCK * limits["GHz"] * 1e6
    n_patches, n_images = counts["patches"], counts["images"]
    columns, threads, blocks = block_of(n_patches, arch)
    n_blocks = n_images * -(-up(counts["words"], 8) * counts["captions"] // columns)
    steps, row_blocks = steps_of(n_patches), up(n_patches, STEP_ROWS) // STEP_ROWS
    numbers = row_blocks * STEP_ROWS * columns * n_blocks  # of S in shared memory
    segments = n_blocks * segments_of(n_patches, threads // 32)
    of_segment = TILE_COLUMNS * columns * 4
    mma = n_blocks * steps * 4 * columns // 16 * PARTS
    code = _machine_code.attention_kernels(arch, columns, threads)
    issued = {"rows": 0, "weights": 0, "product": 0}
    if code is not None:
        groups = n_images * up(n_patches, 8) // 4 * counts["captions"]
        issued = {
            "rows": groups * (code["group"] + code["along"] * -(-counts["words"] // 32)),
            "weights": numbers // (STEP_ROWS * min(columns, 32)) * (code["load"] + code["weigh"]),
            "product": n_blocks * steps * code["step"] + segments * code["segment"],
        }

    # S at a time goes through memory where the L2 cache is smaller.
    of_sims = {"L2": 4 * counts["sims"] / l2}
    spilled = 4 * counts["sims"] / limits["memory"] / 1e9 if limits["L2 MB"] * MB < CACHED_BYTES else 0.0
    if spilled:
        of_sims["memory"] = spilled

    def slots(part):
        return {"issue slots": issued[part] / ISSUES_OF_CLOCK / clocks}

    parts = {
        "torch's products": {
            "tensor cores": counts["tensor FLOP"] / limits[dtype] / 1e9,
            "L2": (4 * counts["sims"] + counts["Gram bytes"]) / l2,
            "memory": counts["memory bytes"] / limits["memory"] / 1e9 + spilled,
        },
        "rows": {**of_sims, **slots("rows")},
        "weights": {
            **of_sims,
            "shared memory": 3 * 4 * numbers / SHARED_BYTES_OF_CLOCK / clocks,
            "exponentials": numbers / EXPS_OF_CLOCK / clocks,
            "float32 FMAs": FLOP_OF_WEIGHT * numbers / limits["fma"] / 1e9,
            **slots("weights"),
        },
        "product": {
            "tensor cores": mma * FLOP_OF_MMA / limits["bfloat16"] / 1e9,
            "L2": n_blocks * steps * STEP_BYTES / l2,
            "shared memory": (n_blocks * steps * STEP_ROWS * columns * 4 + segments * of_segment)
            / SHARED_BYTES_OF_CLOCK
            / clocks,
            **slots("product"),
        },
    }
    return parts, blocks == 2


def predicted_ms(counts, device, dtype):
    """Milliseconds that each resource needs at least, in all parts."""
    total = {}
    for of in parts_of(counts, device, dtype)[0].values():
        for name, ms in of.items():
            total[name] = total.get(name, 0) + ms
    return {**total, "launches": counts["launches"] * MICROSECONDS_OF_LAUNCH / 1e3}


def bound(counts, device, dtype):
    """Milliseconds at least, and what binds in each part."""
    parts, together = parts_of(counts, device, dtype)
    if together:
        weights, product = parts.pop("weights"), parts.pop("product")
        names = [*dict.fromkeys([*weights, *product])]
        parts["attention"] = {name: weights.get(name, 0) + product.get(name, 0) for name in names}
    binds = {part: max(of, key=of.get) for part, of in parts.items()}
    ms = sum(parts[part][name] for part, name in binds.items())
    launches = counts["launches"] * MICROSECONDS_OF_LAUNCH / 1e3
    if launches > ms:
        return launches, f"{counts['launches']} launches"
    return ms, ", ".join(f"{part}: {name} {parts[part][name]:.2g}" for part, name in binds.items())


def kernel(counts, device):
    """The attention kernel's registers, shared memory, blocks and instructions."""
    arch, rows = DEVICES[device]["arch"], counts["patches"]
    if "TF32 FLOP" in counts:
        return ""
    columns, threads, blocks = block_of(rows, arch)
    code = _machine_code.attention_kernels(arch, columns, threads)
    if code is None:
        return "its machine code is not here: make test keeps it"
    return (
        f"{columns} columns, {threads} threads of {code['registers']} registers, "
        f"{bytes_of_block(up(rows, 8), columns, threads) / 1024:.0f} KB, {blocks} block{'s' * (blocks > 1)}, "
        f"{(code['load'] + code['weigh']) / 16:.3g} instructions an element before the product, "
        f"{code['step'] / code['hmma']:.2g} a tensor-core instruction in its loop"
    )
