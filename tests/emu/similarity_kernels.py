"""The similarities' kernels in the order in which the operators launch them, on emulated memory."""

import ctypes
import functools

import numpy as np
import torch
from emulation import CUDA
from kernels import HERE, NUMBERS, raw

SOURCES = (
    *(
        CUDA / f"{name}.cu"
        for name in (
            "vectors",
            "tiles",
            "largest",
            "gather",
            "chunks",
            "attention_chunks",
            "gradients",
        )
    ),
    HERE / "exports_similarity.cu",
)
FEATURE_NORMS = ("clipped_l2norm", "l2norm", "clipped_l1norm", "l1norm", "clipped", "no_norm", "softmax")
AGGREGATIONS = ("LogSumExp", "Mean", "Sum", "Max")
PRODUCTS = {torch.bfloat16: 0, torch.float16: 1, torch.float32: 3}
TF32 = 2
MULTIPROCESSORS = 1  # few, so that a block has several tiles

POINTER, INT, LONG, DOUBLE = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64, ctypes.c_double


def structure(name, *fields):
    """A POD of csrc/cuda/similarity.h: (type, "names in order") pairs."""
    members = [(member, kind) for kind, names in fields for member in names.split()]
    return type(name, (ctypes.Structure,), {"_fields_": members})


Options = structure(
    "SimilarityOptions", (DOUBLE, "lambda_softmax lambda_lse"), (INT, "feature_norm aggregation attends")
)
VectorsArgs = structure(
    "VectorsArgs",
    (POINTER, "data counts copy norms"),
    (LONG, "group_stride vector_stride number_stride"),
    (INT, "n_groups max dim pitch padded_dim"),
)
PlanArgs = structure(
    "PlanArgs", (POINTER, "counts sizes offsets tile_begin n_tiles"), (INT, "n_groups max limit most_groups")
)
ListsArgs = structure(
    "ListsArgs",
    (POINTER, "candidates counts groups sizes offsets tile_begin tile_end n_tiles scores"),
    (INT, "n_lists length n_groups max limit most_groups"),
)
Side = structure(
    "Side",
    (POINTER, "data sizes offsets tile_begin tile_end n_tiles groups"),
    (INT, "n_groups max most_tiles list_length"),
)
TilesArgs = structure(
    "TilesArgs",
    (Side, "context query"),
    (POINTER, "gram norms scores"),
    (LONG, "context_stride query_stride"),
    (Options, "options"),
    (INT, "dim gram_blocks norm_pitch multiprocessors"),
)
GramArgs = structure("GramArgs", (Side, "context"), (POINTER, "gram"), (INT, "dim pitch multiprocessors"))
LargestArgs = structure(
    "LargestArgs",
    (Side, "context query"),
    (POINTER, "largest rows"),
    (LONG, "pitch"),
    (INT, "dim multiprocessors"),
)
PairsArgs = structure(
    "PairsArgs",
    (POINTER, "largest rows sizes offsets groups scores grad_scores"),
    (LONG, "pitch context_stride query_stride"),
    (Options, "options"),
    (INT, "n_contexts n_queries"),
)
GatherArgs = structure(
    "GatherArgs",
    (POINTER, "context query rows weights grad_scores sources sizes offsets out sums"),
    (LONG, "pitch context_stride query_stride"),
    (INT, "n_contexts n_queries context_max query_max dim padded_dim first_round last_round means"),
)
ChunkArgs = structure(
    "ChunkArgs",
    (POINTER, "sims context_counts query_counts gram norms scores grad_scores scale grad_sims grad_gram kappa"),
    (POINTER, "weights products"),
    (LONG, "context_stride query_stride"),
    (Options, "options"),
    (INT, "n_contexts n_queries context_max query_max context_pitch query_pitch queries_per_tile splits gram_numbers"),
    (INT, "part"),
)
AttentionArgs = structure(
    "AttentionArgs",
    (POINTER, "sims context_counts query_sizes query_offsets norms numbers gram powers units values"),
    (LONG, "values_pitch"),
    (Options, "options"),
    (INT, "n_contexts n_queries context_max context_pitch query_pitch"),
)
SplitGramArgs = structure("SplitGramArgs", (POINTER, "gram out powers units"), (INT, "n_contexts pitch"))
GradientsArgs = structure(
    "GradientsArgs",
    (POINTER, "product vectors square kappa norms scale counts out"),
    (INT, "n_groups max dim pitch padded_dim splits square_numbers"),
)


def options(
    *, raw_feature_norm="clipped_l2norm", agg_func="LogSumExp", lambda_softmax=9.0, lambda_lse=6.0, attends=True
):
    """SimilarityOptions from the operator's arguments."""
    return Options(
        lambda_softmax,
        lambda_lse,
        FEATURE_NORMS.index(raw_feature_norm),
        AGGREGATIONS.index(agg_func),
        int(attends),
    )


def up(n, multiple):
    return -(-n // multiple) * multiple


def lower_numbers(pitch):
    """Of the 4 x 4 blocks on and below the diagonal."""
    return pitch // 4 * (pitch // 4 + 1) // 2 * 16


class Batch:
    """A padded batch of groups on the device, with what the kernels derive from it."""

    def __init__(self, device, vectors, counts):
        self.device, self.dtype = device, vectors.dtype
        self.n, self.max, self.dim = vectors.shape
        self.data = device.array(raw(vectors.contiguous()))
        self.counts = None if counts is None else device.array(counts.numpy())

    def prepare(self, pitch, *, padded_dim=None, to=None):
        """Norms, and the copy where `to` names its type."""
        wide = np.float64 if self.dtype == torch.float64 else np.float32
        padded_dim = padded_dim or self.dim
        self.pitch, self.padded_dim, self.copy_type = pitch, padded_dim, to
        self.norms = self.device.empty((self.n, pitch), wide)
        self.copy = None
        if to is not None:
            self.copy = self.device.empty((self.n, pitch, padded_dim), raw(torch.empty(0, dtype=to)).dtype)
        args = VectorsArgs(
            self.data.pointer, pointer(self.counts), pointer(self.copy), self.norms.pointer, self.max * self.dim,
            self.dim, 1, self.n, self.max, self.dim, pitch, padded_dim,
        )  # fmt: skip
        self.device.run("prepare_vectors_", ctypes.byref(args), NUMBERS[self.dtype], NUMBERS[to or self.dtype])

    def plan(self, most_groups):
        """The cutting into tiles, as a Side."""
        self.tables = {
            "sizes": self.device.empty(self.n, np.int32),
            "offsets": self.device.empty(self.n + 1, np.int32),
            "tile_begin": self.device.empty(self.n + 1, np.int32),
            "n_tiles": self.device.empty(1, np.int32),
        }
        pointers = {name: table.pointer for name, table in self.tables.items()}
        args = PlanArgs(
            counts=pointer(self.counts), **pointers, n_groups=self.n, max=self.max, limit=128, most_groups=most_groups
        )
        self.device.run("plan_tiles_", ctypes.byref(args))
        return Side(
            data=self.data.pointer, **pointers, tile_end=pointers["tile_begin"] + 4, n_groups=self.n, max=self.max,
            most_tiles=self.n,
        )  # fmt: skip

    def lists(self, candidates, most_groups, scores):
        """The members of lists of these groups, as a Side; scores of places without a member are written."""
        names = ("groups", "sizes", "offsets", "tile_begin", "tile_end")
        self.listed = {name: self.device.empty(candidates.numel(), np.int32) for name in names}
        self.listed["n_tiles"] = self.device.array(np.zeros(1, np.int32))
        self.candidates = self.device.array(candidates.numpy())
        pointers = {name: table.pointer for name, table in self.listed.items()}
        args = ListsArgs(
            candidates=self.candidates.pointer, counts=pointer(self.counts), **pointers, scores=scores.pointer,
            n_lists=len(candidates), length=candidates.shape[1], n_groups=self.n, max=self.max, limit=128,
            most_groups=most_groups,
        )  # fmt: skip
        self.device.run("plan_lists_", ctypes.byref(args))
        return Side(
            data=self.data.pointer, **pointers, n_groups=self.n, max=self.max, most_tiles=candidates.numel(),
            list_length=candidates.shape[1],
        )  # fmt: skip

    def vectors(self):
        """The prepared copy as a tensor in float32 or float64."""
        content = torch.from_numpy(self.copy.numpy())
        return (content.view(self.copy_type) if content.dtype != self.copy_type else content).to(self.wide())

    def wide(self):
        return torch.float64 if self.dtype == torch.float64 else torch.float32


def pointer(array):
    return None if array is None else array.pointer


def score_by_tiles(
    device, context, context_counts, query, query_counts, *, product=None, contexts_are_rows=True, **flags
):
    """(n_contexts, n_queries) scores, or their transpose, as the operator returns them."""
    flags = options(**flags)
    left, right = Batch(device, context, context_counts), Batch(device, query, query_counts)
    product = PRODUCTS[context.dtype] if product is None else product
    right.prepare(right.max)
    context_side, query_side = left.plan(32), right.plan(16)
    pitch = up(left.max, 8)
    blocks = pitch // 8 * (pitch // 8 + 1) // 2
    gram = device.empty((left.n, blocks, 128))
    if flags.attends:
        args = GramArgs(context_side, gram.pointer, left.dim, pitch, MULTIPROCESSORS)
        device.run("gram_tiles_", ctypes.byref(args), product)
    scores = device.empty((left.n, right.n) if contexts_are_rows else (right.n, left.n))
    strides = (right.n, 1) if contexts_are_rows else (1, left.n)
    args = TilesArgs(
        context_side, query_side, gram.pointer, right.norms.pointer, scores.pointer, *strides, flags, left.dim, blocks,
        right.max, MULTIPROCESSORS,
    )  # fmt: skip
    device.run("score_tiles_", ctypes.byref(args), product)
    return torch.from_numpy(scores.numpy())


def score_lists(device, context, context_counts, query, query_counts, candidates, *, contexts_own, **flags):
    """(n_lists, k) scores of candidates (n_lists, k): queries of each context, or contexts of each query."""
    flags = options(**flags)
    left, right = Batch(device, context, context_counts), Batch(device, query, query_counts)
    product = PRODUCTS[context.dtype]
    right.prepare(right.max)
    pitch = up(left.max, 8)
    blocks = pitch // 8 * (pitch // 8 + 1) // 2
    gram = device.empty((left.n, blocks, 128))
    if flags.attends:
        args = GramArgs(left.plan(32), gram.pointer, left.dim, pitch, MULTIPROCESSORS)
        device.run("gram_tiles_", ctypes.byref(args), product)
    scores = device.empty(tuple(candidates.shape))
    owner, member = (left, right) if contexts_own else (right, left)
    owners, members = owner.plan(1), member.lists(candidates, 16 if contexts_own else 32, scores)
    sides, strides = ((owners, members), (0, 1)) if contexts_own else ((members, owners), (1, 0))
    args = TilesArgs(
        *sides, gram.pointer, right.norms.pointer, scores.pointer, *strides, flags, left.dim, blocks, right.max,
        MULTIPROCESSORS,
    )  # fmt: skip
    device.run("score_tiles_", ctypes.byref(args), product)
    return torch.from_numpy(scores.numpy())


def stream_lists(device, context, context_counts, query, query_counts, candidates, *, contexts_own, **flags):
    """As `score_lists`, of groups of any size and without attention."""
    left, right = Batch(device, context, context_counts), Batch(device, query, query_counts)
    n_lists, length = candidates.shape
    scores = device.empty((n_lists, length))
    owner, member = (left, right) if contexts_own else (right, left)
    owners, members = owner.plan(1), member.lists(candidates, 16 if contexts_own else 32, scores)
    largest, pitch = device.empty((n_lists, length * right.max)), right.max * (length if contexts_own else 1)
    sides = (owners, members) if contexts_own else (members, owners)
    args = LargestArgs(*sides, largest.pointer, None, pitch, left.dim, MULTIPROCESSORS)
    device.run("find_largest_", ctypes.byref(args), PRODUCTS[context.dtype])
    offsets, strides = (members.offsets, (0, 1)) if contexts_own else (None, (1, 0))
    args = PairsArgs(
        largest.pointer, None, sides[1].sizes, offsets, members.groups, scores.pointer, None, pitch, *strides,
        options(attends=False, **flags), n_lists, length,
    )  # fmt: skip
    device.run("score_largest_", ctypes.byref(args))
    return torch.from_numpy(scores.numpy())


class Largest:
    """The largest similarities of all query vectors, some contexts at a time, and what follows from them."""

    def __init__(self, device, context, context_counts, query, query_counts, *, product=None, **flags):
        self.device, self.options = device, options(attends=False, **flags)
        self.left, self.right = Batch(device, context, context_counts), Batch(device, query, query_counts)
        self.product = PRODUCTS[context.dtype] if product is None else product
        self.sides = [batch.plan(32) for batch in (self.left, self.right)]
        self.pitch = up(self.right.n * self.right.max, 8)
        self.largest = device.empty((self.left.n, self.pitch))
        self.rows = device.empty((self.left.n, self.pitch), np.int32)
        args = LargestArgs(
            *self.sides, self.largest.pointer, self.rows.pointer, self.pitch, self.left.dim, MULTIPROCESSORS
        )
        device.run("find_largest_", ctypes.byref(args), self.product)

    def _pairs(self, scores=None, grad_scores=None):
        query = self.sides[1]
        args = PairsArgs(
            self.largest.pointer, self.rows.pointer, query.sizes, query.offsets, None, pointer(scores),
            pointer(grad_scores), self.pitch, self.right.n, 1, self.options, self.left.n, self.right.n,
        )  # fmt: skip
        self.device.run("score_largest_", ctypes.byref(args))

    def scores(self):
        """(n_contexts, n_queries)."""
        scores = self.device.empty((self.left.n, self.right.n))
        self._pairs(scores=scores)
        return torch.from_numpy(scores.numpy())

    def gradients(self, cotangent, *, contexts_at_a_time=None):
        """Gradients of context and queries for a cotangent (n_contexts, n_queries), from the rows alone.

        The maximum's are those of the rows that `scores` has left.
        """
        grad_scores = self.device.array(cotangent.float().numpy())
        left, right, query = self.left, self.right, self.sides[1]
        exponentials, means = (self.options.aggregation == AGGREGATIONS.index(name) for name in ("LogSumExp", "Mean"))
        sources = self.device.empty(self.pitch, np.int32)
        args = GatherArgs(
            context=left.data.pointer, query=right.data.pointer, rows=self.rows.pointer,
            weights=self.largest.pointer if exponentials else None, sources=sources.pointer, sizes=query.sizes,
            offsets=query.offsets, pitch=self.pitch, context_stride=right.n, query_stride=1, n_contexts=left.n,
            n_queries=right.n, context_max=left.max, query_max=right.max, dim=left.dim, padded_dim=left.dim,
            means=int(means),
        )  # fmt: skip
        self.device.run("place_queries_", ctypes.byref(args))
        if exponentials:
            self.device.run("multiply_chosen_", ctypes.byref(args), NUMBERS[left.dtype])
            self._pairs(grad_scores=grad_scores)
        number = raw(torch.empty(0, dtype=left.dtype)).dtype
        results = [self.device.empty((batch.n, batch.max, batch.dim), number) for batch in (left, right)]
        sums = self.device.empty((right.n, right.max, right.dim))
        step = contexts_at_a_time or left.n
        for first in range(0, left.n, step):
            n = min(step, left.n - first)
            of_context, of_rows = first * left.max * left.dim * number.itemsize, 4 * first * self.pitch
            args.context, args.rows = left.data.pointer + of_context, self.rows.pointer + of_rows
            args.weights = self.largest.pointer + of_rows if exponentials else None
            args.grad_scores = grad_scores.pointer + 4 * first * right.n
            args.n_contexts, args.first_round, args.last_round = n, int(first == 0), int(first + n == left.n)
            args.out, args.sums = results[0].pointer + of_context, sums.pointer
            self.device.run("gather_contexts_", ctypes.byref(args), NUMBERS[left.dtype])
            args.out = results[1].pointer
            self.device.run("gather_queries_", ctypes.byref(args), NUMBERS[left.dtype])
        found = [torch.from_numpy(result.numpy()) for result in results]
        return tuple(grad.view(left.dtype) if grad.dtype != left.dtype else grad for grad in found)


class Chunk:
    """S of all pairs in memory, and the kernels that work on it."""

    def __init__(
        self, device, context, context_counts, query, query_counts, *, on_chip=True, splits=1, in_parts=False, **flags
    ):
        self.in_parts = in_parts and flags.get("attends", True) and context.dtype != torch.float64
        on_chip = on_chip and context.dtype != torch.float64
        self.device, self.on_chip, self.splits = device, on_chip, splits
        self.left, self.right = Batch(device, context, context_counts), Batch(device, query, query_counts)
        copy_type = context.dtype
        padded_dim = up(self.left.dim, 8)
        self.left.prepare(up(self.left.max, 4), padded_dim=padded_dim, to=copy_type)
        self.right.prepare(up(self.right.max, 8), padded_dim=padded_dim, to=copy_type)
        self.number = NUMBERS[self.left.wide()]
        self.grad_type, self.scale = context.dtype, None
        x, y = self.left.vectors(), self.right.vectors()
        self.x, self.y = x.flatten(0, 1), y.flatten(0, 1)
        self.sims = device.array((self.x @ self.y.T).numpy())
        gram = device.array((x @ x.transpose(1, 2)).numpy())
        shape = self.sims.shape
        queries_per_tile = max(1, 64 // self.right.pitch)
        self.scratch = [None if on_chip else device.empty(shape, self.sims.dtype) for _ in range(2)]
        self.held = gram
        self.args = ChunkArgs(
            sims=self.sims.pointer, context_counts=pointer(self.left.counts), query_counts=pointer(self.right.counts),
            gram=gram.pointer, norms=self.right.norms.pointer, weights=pointer(self.scratch[0]),
            products=pointer(self.scratch[1]), context_stride=self.right.n, query_stride=1, options=options(**flags),
            n_contexts=self.left.n, n_queries=self.right.n, context_max=self.left.max, query_max=self.right.max,
            context_pitch=self.left.pitch, query_pitch=self.right.pitch, queries_per_tile=queries_per_tile,
            splits=min(splits, -(-self.right.n // queries_per_tile)),
            gram_numbers=lower_numbers(self.left.pitch),
        )  # fmt: skip

    def scores(self):
        """(n_contexts, n_queries)."""
        scores = self.device.empty((self.left.n, self.right.n), self.sims.dtype)
        self.args.scores = scores.pointer
        self.device.run("score_chunk_", ctypes.byref(self.args), self.number, int(self.on_chip))
        return torch.from_numpy(scores.numpy())

    def scores_by_tensor_cores(self, columns=64, threads=256):
        """(n_contexts, n_queries), by blocks of so many columns of S and threads."""
        given, query, n, pitch = self.args, self.right.plan(16), self.left.n, self.left.pitch
        blocks = up(pitch, 16) // 16
        n_steps = sum(range(2, 2 * -(-blocks // 2) + 1, 2)) - blocks % 2
        parts, powers, units = (self.device.empty(shape) for shape in ((n, n_steps, 512), (n, 16 * blocks), (n,)))
        split = SplitGramArgs(self.held.pointer, parts.pointer, powers.pointer, units.pointer, n, pitch)
        self.device.run("split_gram_", ctypes.byref(split))
        values_pitch = up(self.right.n * self.right.max, 8)
        values, numbers = self.device.empty((n, values_pitch)), self.device.empty((n, self.right.n, pitch))
        args = AttentionArgs(
            given.sims, given.context_counts, query.sizes, query.offsets, given.norms, numbers.pointer, parts.pointer,
            powers.pointer, units.pointer, values.pointer, values_pitch, given.options, n, self.right.n, self.left.max,
            pitch, self.right.pitch,
        )  # fmt: skip
        self.device.run("attend_chunk_", ctypes.byref(args), columns, threads)
        scores = self.device.empty((n, self.right.n))
        pairs = PairsArgs(
            values.pointer, None, query.sizes, query.offsets, None, scores.pointer, None, values_pitch, self.right.n,
            1, given.options, n, self.right.n,
        )  # fmt: skip
        self.device.run("score_largest_", ctypes.byref(pairs))
        return torch.from_numpy(scores.numpy())

    def gradients(self, cotangent):
        """Gradients of context and queries for a cotangent (n_contexts, n_queries)."""
        wide, attends = self.sims.dtype, self.args.options.attends
        grad_scores = self.device.array(cotangent.to(self.left.wide()).numpy())
        split = self.grad_type != self.left.wide()
        grad_sims = self.device.empty(self.sims.shape, np.int16) if split else self.sims
        gram = self.device.empty((self.args.splits, self.left.n, self.args.gram_numbers), wide)
        kappa = self.device.empty((self.left.n, self.right.n * self.right.pitch), wide)
        if self.grad_type == torch.float16:
            self.scale = self.device.empty(1)
            self.device.run("scale_for_float16_", grad_scores, cotangent.numel(), self.scale)
            self.args.scale = self.scale.pointer
        self.args.grad_scores, self.args.grad_sims = grad_scores.pointer, grad_sims.pointer
        self.args.grad_gram, self.args.kappa = gram.pointer, kappa.pointer
        run = functools.partial(self.device.run, "gradient_chunk_", ctypes.byref(self.args), self.number)
        if self.in_parts:
            gram = self._in_parts(lambda: run(NUMBERS[self.grad_type], int(self.on_chip)))
        else:
            run(NUMBERS[self.grad_type], int(self.on_chip))
        grad = torch.from_numpy(grad_sims.numpy())
        grad = (grad.view(self.grad_type) if split else grad).to(self.left.wide())
        total = self.device.array(kappa.numpy().sum(0)) if attends else None
        return (
            self.finish(self.left, grad @ self.y, gram if attends else None, None),
            self.finish(self.right, grad.T @ self.x, None, total),
        )

    def _in_parts(self, run):
        """The kernel before and after G a; the Gram matrices' gradient. Both products as the operator makes them."""
        n, pitch, columns = self.left.n, self.left.pitch, self.right.n * self.right.pitch
        weights = self.device.array(np.zeros((n * pitch, columns), np.float32))
        self.args.weights, self.args.part = weights.pointer, 1
        run()
        transposed = torch.from_numpy(weights.numpy()).view(n, columns, pitch)
        gram = torch.from_numpy(self.held.numpy()).view(n, pitch, pitch)
        products = self.device.array((gram @ transposed.transpose(1, 2)).reshape(n * pitch, columns).numpy())
        self.args.products, self.args.part = products.pointer, 2
        run()
        left, right = (torch.from_numpy(x.numpy()).view(n, pitch, columns) for x in (products, weights))
        self.args.splits, self.args.gram_numbers = 1, pitch * pitch
        return self.device.array((left @ right.transpose(1, 2)).numpy())

    def finish(self, of, product, square, kappa):
        """One side's gradient in the type of the input."""
        attends = self.args.options.attends
        product = self.device.array(product.numpy())
        out = self.device.empty((of.n, of.max, of.dim), raw(torch.empty(0, dtype=of.dtype)).dtype)
        args = GradientsArgs(
            product.pointer, of.copy.pointer, pointer(square), pointer(kappa), of.norms.pointer if attends else None,
            pointer(self.scale), pointer(of.counts), out.pointer, of.n, of.max, of.dim, of.pitch, of.padded_dim,
            self.args.splits, self.args.gram_numbers,
        )  # fmt: skip
        self.device.run("finish_gradients_", ctypes.byref(args), self.number, NUMBERS[of.copy_type], NUMBERS[of.dtype])
        grad = torch.from_numpy(out.numpy())
        return grad.view(of.dtype) if grad.dtype != of.dtype else grad
