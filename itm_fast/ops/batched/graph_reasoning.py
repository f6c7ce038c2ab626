"""SGR's graph reasoning: linear maps of all nodes of some images, attention in captions padded to the longest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear

from itm_fast.ops._counts import may_be_read
from itm_fast.ops.batched.products import Captions, product, wide

BLOCK_NUMBERS = 1 << 24  # of nodes, or of padded nodes, at a time


class _Nodes:
    """Nodes of images (images, n_nodes, width): the captions as a whole, then their words; and one row for padding."""

    def __init__(self, local: Tensor, word_counts: Tensor, max_words: int | None) -> None:
        if max_words is None:
            max_words = _most(word_counts)
        captions = Captions(word_counts.to(local.device, non_blocking=True), local.shape[1])
        n_captions, device = len(captions.counts), local.device
        self.n_nodes, self.n_captions = n_captions + len(captions.of_words), n_captions
        self.longest = max_words + 1
        whole = torch.arange(n_captions, device=device)[:, None]
        place = torch.arange(max_words, device=device)
        is_word = place < captions.counts[:, None]
        words = torch.where(is_word, n_captions + captions.first[:, None] + place, whole)
        self.valid = torch.cat([torch.ones_like(is_word[:, :1]), is_word], dim=1)  # (n_captions, longest)
        self.places = torch.cat([whole, words], dim=1)  # likewise; of padding the caption's whole
        self.fit = captions.fit & (captions.counts <= max_words)  # (n_captions,)

    def blocks(self, n_images: int, width: int) -> Iterator[slice]:
        """Captions whose padded nodes are in memory at a time."""
        step = max(1, BLOCK_NUMBERS // (n_images * self.longest * width))
        return (slice(first, first + step) for first in range(0, self.n_captions, step))

    def padded(self, nodes: Tensor, block: slice) -> Tensor:
        """(images, n_nodes, width) -> (images captions, longest, width)."""
        places = self.places[block]
        return nodes.index_select(1, places.flatten()).view(-1, self.longest, nodes.shape[2])

    def put(self, into: Tensor, padded: Tensor, block: slice) -> None:
        """The inverse of `padded`; padding goes into the last row of (images, n_nodes + 1, width)."""
        places = torch.where(self.valid[block], self.places[block], self.n_nodes).flatten()
        into.index_copy_(1, places, padded.reshape(len(into), -1, into.shape[2]))


def _most(word_counts: Tensor) -> int:
    if not may_be_read(word_counts):
        raise ValueError(
            f"word_counts are on {word_counts.device}, where nobody waits to look at them: say max_words, the most "
            "words of a caption, or give the counts on the CPU"
        )
    return max(1, int(word_counts.max())) if len(word_counts) else 1


class _Step(NamedTuple):
    form: Tensor
    form_bias: Tensor
    weight: Tensor
    bias: Tensor


class _Edges(NamedTuple):
    """Of some captions of some images, one after another; rows are all nodes, or the first in the last step."""

    rows: Tensor  # (pairs, rows, width), times the form
    nodes: Tensor  # (pairs, longest, width)
    weights: Tensor  # (pairs, rows, longest), softmax, in `wide`


def forward(
    whole: Tensor,
    local: Tensor,
    word_counts: Tensor,
    forms: Tensor,
    form_biases: Tensor,
    weights: Tensor,
    biases: Tensor,
    max_words: int | None,
) -> Tensor:
    """The whole pairs' vectors (n_images, n_captions, width) after the last step."""
    _check(whole, local, word_counts, forms, form_biases, weights, biases)
    vectors = torch.empty_like(whole, memory_format=torch.contiguous_format)
    nodes = _Nodes(local, word_counts, max_words)
    steps = [_Step(*parameters) for parameters in zip(forms, form_biases, weights, biases, strict=True)]
    for images in _image_blocks(whole, nodes) if whole.numel() else ():
        *_, (_, last) = _steps(nodes, torch.cat([whole[images], local[images]], dim=1), steps)
        vectors[images] = last
    return vectors.masked_fill_(~nodes.fit[:, None], torch.nan)


def backward(
    grad: Tensor,
    whole: Tensor,
    local: Tensor,
    word_counts: Tensor,
    forms: Tensor,
    form_biases: Tensor,
    weights: Tensor,
    biases: Tensor,
    max_words: int | None,
) -> tuple[Tensor, ...]:
    """Gradients of all but the counts."""
    nodes = _Nodes(local, word_counts, max_words)
    steps = [_Step(*parameters) for parameters in zip(forms, form_biases, weights, biases, strict=True)]
    of_vectors = [torch.zeros_like(x, memory_format=torch.contiguous_format) for x in (whole, local)]
    sums = [x.new_zeros(x.shape, dtype=wide(x.dtype)) for x in (forms, form_biases, weights, biases)]
    for images in _image_blocks(whole, nodes) if whole.numel() else ():
        given = torch.cat([whole[images], local[images]], dim=1)
        made = list(_steps(nodes, given, steps))
        of_next = grad[images].masked_fill(~nodes.fit[:, None], 0)
        for number in range(len(steps) - 1, -1, -1):
            before = made[number - 1][1] if number else given
            gathered, result = made.pop()
            of_step = _Step(*(total[number] for total in sums))
            of_next = _step_backward(nodes, steps[number], of_step, before, gathered, of_next * (result > 0))
        of_vectors[0][images], of_vectors[1][images] = torch.split(of_next, [nodes.n_captions, local.shape[1]], dim=1)
    return *of_vectors, *(total.to(whole.dtype) for total in sums)


def _check(
    whole: Tensor,
    local: Tensor,
    word_counts: Tensor,
    forms: Tensor,
    form_biases: Tensor,
    weights: Tensor,
    biases: Tensor,
) -> None:
    if whole.ndim != 3 or local.ndim != 3:
        raise ValueError(f"whole and local must have three dimensions, got {list(whole.shape)} and {list(local.shape)}")
    (n_images, _, width), steps = whole.shape, len(forms)
    if not steps or not width:
        raise ValueError(f"forms must have at least one step and one number, got {list(forms.shape)}")
    for name, given, shape in (
        ("whole", whole, [n_images, len(word_counts), width]),
        ("local", local, [n_images, local.shape[1], width]),
        ("forms", forms, [steps, width, width]),
        ("form_biases", form_biases, [steps, width]),
        ("weights", weights, [steps, width, width]),
        ("biases", biases, [steps, width]),
    ):
        if list(given.shape) != shape:
            raise ValueError(f"{name} must have shape {shape}, got {list(given.shape)}")
        if given.dtype != whole.dtype:
            raise TypeError(f"{name} must be {whole.dtype} as all others, got {given.dtype}")


def _image_blocks(whole: Tensor, nodes: _Nodes) -> Iterator[slice]:
    """Images whose nodes are in memory at a time."""
    step = max(1, BLOCK_NUMBERS // (nodes.n_nodes * whole.shape[2]))
    return (slice(first, first + step) for first in range(0, len(whole), step))


def _steps(nodes: _Nodes, given: Tensor, steps: list[_Step]) -> Iterator[tuple[Tensor, Tensor]]:
    """Of each step what its nodes gather, and its result: of the last one for the captions as a whole only."""
    for number, step in enumerate(steps):
        gathered = _gathered(nodes, given, step, only_whole=number == len(steps) - 1)
        given = linear(gathered, step.weight, step.bias).relu_()
        yield gathered, given


def _gathered(nodes: _Nodes, given: Tensor, step: _Step, *, only_whole: bool) -> Tensor:
    n_images, _, width = given.shape
    rows = linear(given[:, : nodes.n_captions] if only_whole else given, step.form, step.form_bias)
    gathered = given.new_zeros(n_images, nodes.n_captions if only_whole else nodes.n_nodes + 1, width)
    for block in nodes.blocks(n_images, width):
        edges = _edges(nodes, rows, given, block, only_whole=only_whole)
        sums = edges.weights.to(given.dtype) @ edges.nodes
        if only_whole:
            gathered[:, block] = sums.view(n_images, -1, width)
        else:
            nodes.put(gathered, sums, block)
    return gathered[:, : nodes.n_nodes]


def _edges(nodes: _Nodes, rows: Tensor, given: Tensor, block: slice, *, only_whole: bool) -> _Edges:
    of_captions = nodes.padded(given, block)
    of_rows = rows[:, block].flatten(0, 1)[:, None] if only_whole else nodes.padded(rows, block)
    logits = product(of_rows, of_captions.transpose(1, 2))
    missing = ~nodes.valid[block].repeat(len(given), 1)[:, None]
    return _Edges(of_rows, of_captions, logits.masked_fill_(missing, -torch.inf).softmax(2))


def _step_backward(
    nodes: _Nodes, step: _Step, of_step: _Step, given: Tensor, gathered: Tensor, of_mapped: Tensor
) -> Tensor:
    """Gradient of a step's nodes; those of its parameters are added to `of_step`."""
    n_images, _, width = given.shape
    only_whole = gathered.shape[1] == nodes.n_captions
    flat = of_mapped.flatten(0, 1)
    of_step.weight.add_(product(flat.T, gathered.flatten(0, 1)))
    of_step.bias.add_(flat.sum(0, dtype=of_step.bias.dtype))
    of_gathered = of_mapped @ step.weight
    rows_given = given[:, : nodes.n_captions] if only_whole else given
    rows = linear(rows_given, step.form, step.form_bias)
    of_rows = given.new_zeros(n_images, rows.shape[1] + (not only_whole), width)
    of_given = given.new_zeros(n_images, nodes.n_nodes + 1, width)
    for block in nodes.blocks(n_images, width):
        edges = _edges(nodes, rows, given, block, only_whole=only_whole)
        if only_whole:
            of_sums = of_gathered[:, block].flatten(0, 1)[:, None]
        else:
            missing = ~nodes.valid[block].repeat(n_images, 1)[..., None]
            of_sums = nodes.padded(of_gathered, block).masked_fill_(missing, 0)
        of_weights = product(of_sums, edges.nodes.transpose(1, 2))
        along = (of_weights * edges.weights).sum(2, keepdim=True)
        of_logits = of_weights.sub_(along).mul_(edges.weights).to(given.dtype)
        through = of_logits @ edges.nodes
        if only_whole:
            of_rows[:, block] = through.view(n_images, -1, width)
        else:
            nodes.put(of_rows, through, block)
        of_nodes = edges.weights.to(given.dtype).transpose(1, 2) @ of_sums
        nodes.put(of_given, of_nodes.baddbmm_(of_logits.transpose(1, 2), edges.rows), block)
    of_rows = of_rows[:, : rows.shape[1]]
    flat = of_rows.flatten(0, 1)
    of_step.form.add_(product(flat.T, rows_given.flatten(0, 1)))
    of_step.form_bias.add_(flat.sum(0, dtype=of_step.form_bias.dtype))
    of_given = of_given[:, : nodes.n_nodes]
    of_given[:, : rows.shape[1]] += of_rows @ step.form
    return of_given
