"""What all operators promise alike, in one table: torch.func, and counts as people have them."""

import numpy as np
import pytest
import torch

import itm_fast
from itm_fast.ops._counts import counted, counted_in_place

pytestmark = pytest.mark.all_backends


def made(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed + len(shape) + sum(shape))
    return torch.nn.functional.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


# What is differentiated by name, what counts whose rows, and the other arguments.
SIDES = {"word_counts": "words", "region_counts": "regions"}
PAIRS = {"regions": made(3, 5, 8), "words": made(4, 6, 8)}
STEPS = {"forms": made(2, 4, 4), "form_biases": made(2, 4), "weights": made(2, 4, 4, seed=1), "biases": made(2, 4)}
PACKED = {"word_counts": torch.tensor([3, 1, 2])}
LATE = {"queries": made(4, 6, 8), "documents": made(3, 5, 8)}
LENGTHS = {"query_lengths": "queries", "document_lengths": "documents"}
PHI = {"relevance": 3 * made(5, 5).abs()}
PATCHES = {"regions": PAIRS["regions"], "words": PAIRS["words"], "logits": made(3, 5, 2)}
OPERATORS = {
    "cross_attention_similarity": (PAIRS, SIDES, {}),
    "max_similarity": (PAIRS, SIDES, {}),
    "maxsim": (LATE, LENGTHS, {}),
    "level_attention": ({**PAIRS, "temperature": torch.tensor(3.0, dtype=torch.float64)}, SIDES, {"word_counts": None}),
    "patch_word_similarity": (PATCHES, {"word_counts": "words"}, {"scores": made(3, 4, 5)}),
    "generalised_pooling": ({"vectors": made(3, 5, 8), "theta": made(3, 5)}, {"counts": "vectors"}, {}),
    "attended_similarity": (
        {"regions": made(3, 5, 8), "words": made(6, 8), "weight": made(4, 8), "bias": made(1, 4)[0]},
        {},
        PACKED,
    ),
    "graph_reasoning": ({"whole": made(3, 3, 4), "local": made(3, 6, 4), **STEPS}, {}, PACKED),
    "triplet_loss": ({"sims": made(5, 5)}, {}, {}),
    "semantic_margin_loss": ({"sims": made(5, 5)}, {}, PHI),
}
LOSSES = ("triplet_loss", "semantic_margin_loss")
every_operator = pytest.mark.parametrize("name", OPERATORS)
with_counts = pytest.mark.parametrize(
    ("name", "counts"), [(name, counts) for name, (_, padded, _) in OPERATORS.items() for counts in padded]
)


def test_the_table_has_every_operator_with_gradients():
    modules = {home for name, home in itm_fast._HOMES.items() if home.startswith("itm_fast.ops.")}
    without = {"itm_fast.ops._library", "itm_fast.ops._ragged"}
    assert {itm_fast._HOMES[name] for name in OPERATORS} == modules - without


def scalar(name, others):
    """The operator as a function of a dict of tensors, weighted so that every result counts differently."""

    def of(tensors):
        result = getattr(itm_fast, name)(**tensors, **others)
        weights = torch.arange(1.0, result.numel() + 1, dtype=result.dtype).view(result.shape)
        return (weights * result).sum()

    return of


@every_operator
def test_torch_func_grad_is_that_of_autograd(name):
    tensors, _, others = OPERATORS[name]
    function = scalar(name, others)
    leaves = {key: tensor.clone().requires_grad_() for key, tensor in tensors.items()}
    function(leaves).backward()
    found, value = torch.func.grad_and_value(function)(tensors)
    assert value == function(leaves)
    assert all(leaf.grad.any() for key, leaf in leaves.items() if key != "form_biases")
    for key, leaf in leaves.items():
        # A product of torch's may round otherwise where its operand lies elsewhere in memory.
        torch.testing.assert_close(found[key], leaf.grad, rtol=1e-14, atol=1e-14 * float(leaf.grad.abs().max()))


@every_operator
def test_a_second_derivative_is_none_or_refused(name):
    tensors, _, others = OPERATORS[name]

    def of_gradients(tensors):
        return sum((g * g).sum() for g in torch.func.grad(scalar(name, others))(tensors).values())

    if name in LOSSES:
        assert not torch.func.grad(of_gradients)(tensors)["sims"].any()
    else:
        with pytest.raises(RuntimeError, match="can be differentiated once only"):
            torch.func.grad(of_gradients)(tensors)


@every_operator
def test_vmap_is_refused_with_what_to_do(name):
    tensors, _, others = OPERATORS[name]
    twice = {key: torch.stack([tensor, tensor]) for key, tensor in tensors.items()}
    for function in (scalar(name, others), torch.func.grad(scalar(name, others))):
        with pytest.raises(RuntimeError, match=r"cannot be mapped by torch.vmap .* write a loop: torch.stack"):
            torch.func.vmap(function)(twice)


def forms_of(counts, most):
    """Counts as people have them, by name; all mean the same."""
    mask = torch.arange(most) < counts[:, None]
    return {
        "list": counts.tolist(),
        "tuple": tuple(counts.tolist()),
        "list of tensors": list(counts),
        "int32": counts.int(),
        "int16": counts.short(),
        "uint8": counts.to(torch.uint8),
        "array": counts.numpy(),
        "uint16 array": counts.numpy().astype(np.uint16),
        "big-endian array": counts.numpy().astype(">i4"),
        "mask": mask,
        "mask of lists": mask.tolist(),
        "mask as an array": mask.numpy(),
    }


@with_counts
def test_counts_in_every_form_mean_the_same(name, counts):
    tensors, padded, others = OPERATORS[name]
    call, of = getattr(itm_fast, name), padded[counts]
    n, most = tensors[of].shape[:2]
    numbers = torch.tensor([2, 5, 1, 4])[:n]
    want = call(**{**tensors, **others, counts: numbers})
    assert not torch.equal(want, call(**{**tensors, **others, counts: None}))
    for form, given in forms_of(numbers, most).items():
        assert torch.equal(call(**{**tensors, **others, counts: given}), want), form
    # Padding before what is there: the same vectors at the end of their rows, NaN before them.
    before = most - numbers
    behind = (torch.arange(most) - before[:, None]) % most
    moved = tensors[of].take_along_dim(behind[..., None], 1)
    mask = torch.arange(most) >= before[:, None]
    moved = moved.masked_fill(~mask[..., None], torch.nan).requires_grad_()
    found = call(**{**tensors, **others, of: moved, counts: mask})
    assert torch.equal(found, want)
    found.sum().backward()
    assert not moved.grad[~mask].any()
    assert moved.grad[mask].any(-1).any()


@pytest.mark.parametrize("form", ["list", "int32", "uint8"])
@pytest.mark.compiled
def test_counts_are_converted_in_a_compiled_graph(form):
    counts = torch.tensor([2, 6, 1, 3])
    compiled = torch.compile(itm_fast.max_similarity, fullgraph=True, backend="aot_eager")
    want = itm_fast.max_similarity(*PAIRS.values(), counts)
    assert torch.equal(compiled(*PAIRS.values(), forms_of(counts, 6)[form]), want)


@pytest.mark.parametrize("name", ["attended_similarity", "graph_reasoning"])
def test_counts_of_packed_words(name):
    tensors, _, others = OPERATORS[name]
    call, want = getattr(itm_fast, name), getattr(itm_fast, name)(**tensors, **others)
    for form, given in forms_of(others["word_counts"], 3).items():
        if "mask" in form:
            with pytest.raises(ValueError, match=r"words are packed without padding, .* take mask.sum\(1\)"):
                call(**tensors, word_counts=given)
        else:
            assert torch.equal(call(**tensors, word_counts=given), want), form
    with pytest.raises(TypeError, match="word_counts is None, but words are packed"):
        call(**tensors, word_counts=None)


MASK = torch.tensor([[True, True, False, False]] * 3)
HOLES, NOTHING = MASK.clone(), MASK.clone()
HOLES[1, 3], NOTHING[2] = True, False


@with_counts
@pytest.mark.parametrize(
    ("given", "exception", "message"),
    [
        (HOLES, ValueError, r"\[1\] has holes; a row of a mask must be one run of True"),
        (NOTHING, ValueError, r"\[2\] is False everywhere"),
        (MASK[:2], ValueError, r"is a mask of shape \(2, 4\); expected \(3, 4\)"),
        (
            MASK.long(),
            ValueError,
            r"must have shape \(3,\), one count per row of \w+, got \(3, 4\); a mask must be bool",
        ),
        ([2, 1], ValueError, r"must have shape \(3,\), one count per row of \w+, got \(2,\)"),
        ([2.0, 1.0, 1.0], TypeError, "integers, a boolean mask, or None, got list of torch.float32"),
        (torch.ones(3), TypeError, "integers, a boolean mask, or None, got torch.float32"),
        (np.ones(3), TypeError, "integers, a boolean mask, or None, got ndarray of torch.float64"),
        ([[True], [True, False], [True]], TypeError, "got list: expected sequence of length 1"),
        ("three", TypeError, "integers, a boolean mask, or None, got str: new"),
    ],
)
def test_counts_that_are_none_are_named(name, counts, given, exception, message):
    tensors, padded, others = OPERATORS[name]
    of = padded[counts]
    tensors = {key: tensor[:3, :4] if key in (of, "theta") else tensor for key, tensor in tensors.items()}
    with pytest.raises(exception, match=rf"^{counts}.*{message}"):
        getattr(itm_fast, name)(**{**tensors, **others, counts: given})


@pytest.mark.parametrize("device", ["cpu", "meta"])  # nothing on "meta" can be waited for: there is nothing to read
def test_int64_counts_are_taken_as_they_are(device):
    vectors, counts = torch.empty(3, 4, 2, device=device), torch.ones(3, dtype=torch.int64, device=device)
    same, ready = counted("counts", counts, "vectors", vectors)
    assert same is vectors
    assert ready is counts
    assert counted("counts", counts.int(), "vectors", vectors)[1].dtype == torch.int64
    assert counted("counts", [1, 2, 3], "vectors", vectors)[1].device.type == device


def test_counts_of_another_device_are_refused_but_for_the_cpus():
    vectors = torch.empty(3, 4, 2)
    with pytest.raises(ValueError, match="counts must be on the device of vectors, cpu, or on the CPU, got meta"):
        counted("counts", torch.ones(3, dtype=torch.int64, device="meta"), "vectors", vectors)
    moved = counted("counts", torch.ones(3, dtype=torch.int64), "vectors", vectors.to("meta"))[1]
    assert moved.device.type == "meta"


def test_where_places_matter_padding_stays_behind():
    vectors = torch.empty(3, 4, 2)
    assert counted_in_place("word_counts", MASK, "words", vectors).tolist() == [2, 2, 2]
    with pytest.raises(ValueError, match="word_counts is a mask with padding before words; here it must be behind"):
        counted_in_place("word_counts", ~MASK, "words", vectors)
