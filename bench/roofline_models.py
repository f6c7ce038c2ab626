"""What the models' operators will do on a GPU, counted from the calls they make, next to what GPUs can do at most.

Predicted, not measured: nobody has run them on a GPU. The batched products of SGR are run on tensors that hold no
values, and every call that is no view is counted: a launch, what it reads and writes, and the products' FLOP. Of 16-bit
inputs the kernels of csrc/cuda/attended_vectors.cu are such calls, and what their blocks read is counted too; that
of csrc/cuda/listed_products.cu likewise, for SGR's vectors of given pairs, and for ESL beside the same with members
that are gathered. Attention to more than 128 regions is counted by bench/roofline_attention.py. `memory` takes every
tensor from memory and back; what a 40 to 50 MB L2 cache keeps of a block makes it less.
"""

import contextlib
import sys

import roofline
import roofline_attention
import torch
from _cases import scan_batch
from roofline import (
    DEVICES,
    L2_BYTES_OF_CLOCK,
    MICROSECONDS_OF_LAUNCH,
    SHARED_BYTES_OF_CLOCK,
    TILE_VECTORS,
    WARP_COLUMNS,
    WARP_ROWS,
    up,
)
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import itm_fast
from itm_fast.cli.console import print_table
from itm_fast.nn.caption_groups import parts_of_captions
from itm_fast.ops import _counts
from itm_fast.ops.batched import (
    attended_similarity,
    attended_vectors,
    graph_reasoning,
    level_attention,
    listed,
    pair_rows,
    products,
)

MB = 1 << 20
# csrc/cuda/attended_vectors.cu: of a block; K at a time; a warp's loads of 16 x 16 numbers for it.
WORDS, COLUMNS, WARPS, CHUNK, FRAGMENTS_OF_CHUNK, BYTES_OF_FRAGMENTS = 64, 256, 8, 32, 12, 512


class Counter(TorchDispatchMode):
    """Launches, bytes and FLOP of the calls made meanwhile."""

    def __init__(self):
        super().__init__()
        self.counts = {"launches": 0, "tensor FLOP": 0, "memory bytes": 0, "L2 bytes": 0, "shared bytes": 0}

    def product(self, a, b):
        """`products.product` on a device: 16-bit operands, a float32 result, one launch."""
        result = a.new_empty(*a.shape[:-1], b.shape[-1], dtype=products.wide(a.dtype))
        self._add((a, b), result, 2 * result.numel() * a.shape[-1])
        return result

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        aliases = [r.alias_info for r in function._schema.returns]
        is_view = any(alias is not None and not alias.is_write for alias in aliases)
        name = function.name().removeprefix("aten::")
        if is_view or name.startswith(("prim::", "empty", "new_empty", "_unsafe_view")):
            return result
        flop = 0
        if name.startswith("itm_fast::attended_words"):
            sums, *arguments = arguments
            arguments += [sums[: len(arguments[0])]] * 2  # at most; read and written
        elif name.startswith("itm_fast::attended"):
            flop = self._of_vectors(function.name(), *arguments)
            arguments = self._of_block(function.name(), *arguments)
        if name.startswith("itm_fast::listed"):
            flop = self._of_lists(name, *arguments)
        if name.startswith("itm_fast::listed_products"):
            arguments = [x[: numbers.numel()] for x, numbers in zip(arguments[:2], arguments[2:], strict=True)]
        if name.startswith(("mm", "bmm", "addmm", "baddbmm")):
            first = [x for x in arguments if isinstance(x, torch.Tensor)][-2]
            flop = 2 * first.shape[-1] * result.numel()
        if name.startswith("index_copy_"):  # of what is indexed only that is moved
            self._add((), (arguments[3], arguments[3]), flop)
        elif name.startswith("index_put_"):  # values are read, what they are added to is read and written
            self._add((), (arguments[2],) * 3, flop)
        elif name.startswith(("index_select", "index.Tensor")):
            self._add((), (result, result), flop)
        else:
            self._add((arguments, options), result, flop)
        return result

    def _of_vectors(self, name, *arguments):
        """FLOP of the kernels of csrc/cuda/attended_vectors.cu; counts what blocks read of L2 and shared memory."""
        backward = name.endswith("gradients")
        self.counts["launches"] += backward  # its rows are a launch of their own
        weights, _, words, weight, *_ = arguments[3:] if backward else arguments
        (n_images, n_words, pitch), (inner, outer) = weights.shape, weight.shape
        dim, width = (inner, outer) if backward else (outer, inner)
        blocks, size = n_images * -(-n_words // WORDS), words.element_size()
        if backward:
            across, chunks = -(-dim // COLUMNS), -(-width // CHUNK)
            copied = (WORDS + COLUMNS) * (width + pitch)
            fragments = chunks * FRAGMENTS_OF_CHUNK + pitch // 16 * 12
            from_l2 = copied + WORDS * COLUMNS
        else:
            across, chunks = 1, -(-dim // CHUNK)
            from_l2 = WORDS * pitch + dim * (pitch + WORDS + width)
            copied = from_l2 + WORDS * dim  # and the squares
            fragments = chunks * (FRAGMENTS_OF_CHUNK + pitch / 16 * 2.5)
        self.counts["L2 bytes"] += size * blocks * across * from_l2
        self.counts["shared bytes"] += blocks * across * (size * copied + WARPS * BYTES_OF_FRAGMENTS * fragments)
        return 2 * blocks * WORDS * dim * (pitch + width)

    def _of_block(self, name, *arguments):
        """What the same kernels touch of their arguments."""
        *others, images, numbers, _vectors = arguments
        if images is None:
            return arguments
        regions = 4 if name.endswith("gradients") else 1
        return [x[: len(images) if i == regions else numbers.numel()] for i, x in enumerate(others)]

    def _of_lists(self, name, *arguments):
        """FLOP of csrc/cuda/listed_products.cu, tiles filled up; counts what blocks read of L2 and shared memory."""
        if name.endswith("sums_"):
            _, left, right, _, numbers, *_ = arguments
            n, columns = numbers.numel(), right.shape[1]
            sums = arguments[0]
            self.counts["memory bytes"] += sums.numel() * sums.element_size()  # read and written
        else:
            left, right, _, numbers = arguments
            n, columns = len(numbers), numbers.shape[1] * right.shape[1]
        (_, rows, dim), size = left.shape, left.element_size()
        across = WARP_COLUMNS[str(left.dtype).removeprefix("torch.")]
        copied = rows * -(-columns // TILE_VECTORS) + columns * -(-rows // TILE_VECTORS)
        warps = up(rows, WARP_ROWS) // WARP_ROWS * up(columns, across) // across
        self.counts["L2 bytes"] += size * n * copied * dim
        self.counts["shared bytes"] += size * n * dim * (copied + warps * (WARP_ROWS + across))
        return 2 * n * dim * up(rows, WARP_ROWS) * up(columns, across)

    def _add(self, read, written, flop):
        tensors = [x for x in tree_leaves((read, written)) if isinstance(x, torch.Tensor)]
        self.counts["launches"] += 1
        self.counts["tensor FLOP"] += flop
        self.counts["memory bytes"] += sum(
            min(x.numel() * x.element_size(), x.untyped_storage().nbytes()) for x in tensors
        )


@contextlib.contextmanager
def counted(*modules, kernels=True, reads=None):
    """Counts what is called meanwhile on tensors without values, as on a device, with the kernels that it has.

    reads: what the host reads where it must.
    """
    with FakeTensorMode(), Counter() as counter:
        replaced = [(module, module.product) for module in (*modules, products)]
        for module, _ in replaced:
            module.product = counter.product
        products.FUSED_ON = ("cpu",) if kernels else ()  # whose tensors stand for a device's
        read_on, _counts.READ_ON = _counts.READ_ON, ()
        read, pair_rows.read = pair_rows.read, reads
        try:
            yield counter.counts
        finally:
            products.FUSED_ON, _counts.READ_ON, pair_rows.read = ("cuda",), read_on, read
            for module, product in replaced:
                module.product = product


def sgr_training(n, dtype, dim=1024, width=256, steps=3):
    """Counts of SGR's vectors and reasoning, forward and backward, of n images of 36 regions with n captions."""
    word_counts = sorted(scan_batch(n, n, dim=1)[2].tolist())
    assert itm_fast.attended_similarity
    assert itm_fast.graph_reasoning
    with counted(attended_similarity, attended_vectors, graph_reasoning) as found:
        for part in parts_of_captions(word_counts, 1 << 26, is_padded=True):
            shapes = ((n, 36, dim), (sum(part), dim), (width, dim), (width,))
            regions, flat, weight, bias = (torch.empty(shape, dtype=dtype) for shape in shapes)
            counts = torch.empty(len(part), dtype=torch.int64)
            local, lengths = attended_similarity.forward(regions, flat, counts, weight, bias, 9.0)
            attended_similarity.backward(local, local, lengths, regions, flat, counts, weight, 9.0)
            matrices, lines = (torch.empty(steps, *shape, dtype=dtype) for shape in ((width, width), (width,)))
            whole = torch.empty(n, len(part), width, dtype=dtype)
            given = (whole, local, counts, matrices, lines, matrices, lines, max(part))
            graph_reasoning.backward(graph_reasoning.forward(*given), *given)
    return found


def esl_lists(n, k, n_words, kernels, backward, dim=1022, dtype=torch.bfloat16):
    """Counts of ESL's similarity of k captions for each of n images of 36 regions, of 5 n captions, and gradients."""
    assert itm_fast.level_attention
    with counted(level_attention, listed, kernels=kernels) as found:
        shapes = ((n, 36, dim), (5 * n, n_words, dim))
        vectors = [torch.empty(shape, dtype=dtype) for shape in shapes]
        word_counts, candidates = torch.empty(5 * n, dtype=torch.int64), torch.empty(n, k, dtype=torch.int64)
        given = (*vectors, word_counts, None, candidates, torch.empty(()), False)
        scores = level_attention.forward_of_given(*given)
        if backward:
            level_attention.backward_of_given(scores, *given, True, True, True)
    return found


def sgr_lists(n, k, backward, dim=1024, width=256, dtype=torch.bfloat16):
    """Counts of SGR's vectors of k captions for each of n images of 36 regions, of 5 n captions, and gradients."""
    assert itm_fast.attended_similarity
    word_counts = scan_batch(n, 5 * n, dim=1)[2]
    chosen = torch.randint(5 * n, (n * k,), generator=torch.Generator().manual_seed(0))
    told = [*word_counts[chosen].cumsum(0).tolist(), *torch.arange(n).repeat_interleave(k).tolist(), 0]
    n_words = int(word_counts.sum())
    with counted(attended_similarity, attended_vectors, listed, reads=lambda _: told) as found:
        shapes = ((n, 36, dim), (n_words, dim), (width, dim), (width,))
        regions, words, weight, bias = (torch.empty(shape, dtype=dtype) for shape in shapes)
        counts, candidates = torch.empty(5 * n, dtype=torch.int64), torch.empty(n, k, dtype=torch.int64)
        given = (regions, words, counts, None, candidates, weight)
        units, lengths = attended_similarity.forward_of_given(*given, bias, False, 9.0)
        if backward:
            attended_similarity.backward_of_given(units, units, lengths, *given, False, 9.0)
    return found


def cases(scale=1.0):
    """Name, counts and dtype of each case."""
    n, n_lists = max(2, int(128 * scale)), max(2, int(1000 * scale))
    for dtype in (torch.bfloat16, torch.float32):
        yield f"SGR training step, B = {n}", sgr_training(n, dtype), str(dtype).removeprefix("torch.")
    for kernels in (True, False):
        for backward in (False, True):
            name = f"ESL, {n} captions of 32 words for each of {n_lists} images" + ", and gradients" * backward
            yield name + ", gathered" * (not kernels), esl_lists(n_lists, n, 32, kernels, backward), "bfloat16"
    for backward in (False, True):
        name = f"SGR's vectors, {n} captions for each of {n_lists} images" + ", and gradients" * backward
        yield name, sgr_lists(n_lists, n, backward), "bfloat16"
    for n_patches in (197, 577):
        name = f"{n} images of {n_patches} patches x {n} captions of 40 words, t2i"
        yield name, roofline_attention.scoring(n_patches, 40, n, n, 1024), "bfloat16"
        yield f"{name}, gradients", roofline_attention.gradients(n_patches, 40, n, n, 1024), "bfloat16"


def predicted_ms(counts, device, dtype):
    """Milliseconds that each resource needs at least."""
    if "patches" in counts:
        return roofline_attention.predicted_ms(counts, device, dtype)
    limits = DEVICES[device]
    clocks = limits["sms"] * limits["GHz"] * 1e6
    by_fma = dtype == "float32"  # torch's float32 products use no tensor cores unless TF32 is allowed
    tensor = limits["fma"] if by_fma else limits[dtype]
    return {
        "float32 FMAs, products" if by_fma else "tensor cores": counts["tensor FLOP"] / tensor / 1e9,
        "shared memory, ours": counts["shared bytes"] / SHARED_BYTES_OF_CLOCK / clocks,
        "L2": counts["L2 bytes"] / (L2_BYTES_OF_CLOCK * limits["GHz"]) / 1e6,
        "memory": counts["memory bytes"] / limits["memory"] / 1e9,
        "launches": counts["launches"] * MICROSECONDS_OF_LAUNCH / 1e3,
    }


def bound(counts, device, dtype):
    """Milliseconds at least, and what binds."""
    if "patches" in counts:
        return roofline_attention.bound(counts, device, dtype)
    ms = predicted_ms(counts, device, dtype)
    return max((of, name) for name, of in ms.items())


def _of_kernel(counts, device, dtype):
    return roofline_attention.kernel(counts, device) if "patches" in counts else ""


def show(record):
    """Prints one case's table."""
    ms = record["predicted_ms"]
    rows = [[name, *(f"{ms[device][name]:.3g}" for device in DEVICES)] for name in next(iter(ms.values()))]
    print_table(["resource", *DEVICES], rows, title=f"{record['case']}, {record['dtype']}")
    for device, (milliseconds, binding) in record["bound"].items():
        kernel = record["kernel"][device]
        print(f"{device}: {milliseconds:.3g} ms ({binding})" + (f"; the last kernel: {kernel}" if kernel else ""))
    print("; ".join(f"{amount:.3g} {name}" for name, amount in record["counts"].items() if amount), end="\n\n")


def main(argv):
    """Prints the tables."""
    columns = {"predicted_ms": predicted_ms, "bound": bound, "kernel": _of_kernel}
    headline = "this on a GPU. Milliseconds at least; memory: at most."
    return roofline.report(argv, __doc__, cases, columns, show, headline)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
