"""The semantic margin loss as an operator: opcheck, compilation, strides, autocast, and what it refuses."""

import pytest
import torch
from test_semantic_margin import WAYS, random_batch, seeded
from test_triplet import NAN

from itm_fast import semantic_margin_loss, triplet_loss

OPERATOR = torch.ops.itm_fast.semantic_margin_loss.default


@pytest.mark.all_backends
@pytest.mark.parametrize(("variant", "sampling"), WAYS)
@pytest.mark.compiled
def test_gradcheck_and_opcheck(variant, sampling):
    sims, relevance = random_batch(5, seed=3)
    sims.requires_grad_()
    image_ids = torch.tensor([1, 1, 2, 3, 4])

    def loss(s):
        return semantic_margin_loss(
            s, relevance, variant=variant, sampling=sampling, image_ids=image_ids, generator=seeded(), reduction="mean"
        )

    assert torch.autograd.gradcheck(loss, sims)
    uniform = torch.rand(2, 5, generator=seeded(), dtype=torch.float64)
    options = (10.0, sampling, variant, 1.0, None, False, True)
    torch.library.opcheck(OPERATOR, (sims, relevance, False, image_ids, None, uniform, *options))
    if sampling != "all":
        choice = torch.ops.itm_fast.semantic_negatives.default
        chosen = choice(sims.detach(), image_ids, uniform, sampling, variant)
        torch.library.opcheck(choice, (sims.detach(), image_ids, uniform, sampling, variant))
        given_pairs = (sims.detach().bfloat16().requires_grad_(), relevance[:3].float(), True, None, chosen, None)
        torch.library.opcheck(OPERATOR, (*given_pairs, *options))


@pytest.mark.parametrize(("variant", "sampling"), [*WAYS, ("released", "mixed")])
@pytest.mark.compiled
def test_compiled_under_autocast_and_with_any_strides(variant, sampling):
    sims, relevance = random_batch(6, torch.float32)
    options = {"variant": variant, "sampling": sampling, "image_ids": torch.tensor([0, 0, 1, 2, 3, 4])}

    def call(function, s, p):
        torch.manual_seed(0)
        s = s.detach().requires_grad_()
        loss = function(s, p, **options)
        loss.backward()
        return loss.detach(), s.grad

    want, want_gradient = call(semantic_margin_loss, sims, relevance)
    torch.compiler.reset()  # each way is another graph, and their number is limited
    compiled = torch.compile(semantic_margin_loss, fullgraph=True, backend="aot_eager")
    wide_sims, wide_relevance = torch.full((6, 18), NAN), torch.full((12, 12), NAN, dtype=torch.float64)
    wide_sims[:, ::3], wide_relevance[::2, ::2] = sims, relevance
    for found in (
        call(compiled, sims, relevance),
        call(semantic_margin_loss, wide_sims[:, ::3], wide_relevance[::2, ::2]),
        call(semantic_margin_loss, sims.T.contiguous().T, relevance.T.contiguous().T),
    ):
        assert torch.equal(found[0], want)
        assert torch.equal(found[1], want_gradient)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(call(semantic_margin_loss, sims, relevance)[0], want)


SIMS, RELEVANCE = torch.rand(3, 3), torch.rand(3, 3)
PAIRS = torch.tensor([1, 2, 0])


@pytest.mark.parametrize(
    ("arguments", "error", "fragment"),
    [
        ({"sims": SIMS[:2]}, ValueError, r"sims must be a square matrix .* got \(2, 3\)"),
        ({"sims": SIMS.int()}, TypeError, "sims must be float32, .* got torch.int32"),
        ({"relevance": None}, TypeError, "relevance must be a torch.Tensor or a callable, got NoneType"),
        ({"relevance": SIMS[:2]}, ValueError, r"relevance must have shape \(3, 3\), got \(2, 3\)"),
        ({"relevance": SIMS.bfloat16()}, TypeError, "relevance must be float32 or float64, got torch.bfloat16"),
        ({"relevance": SIMS.to("meta")}, ValueError, "relevance must be on the device of sims, cpu, got meta"),
        ({"relevance": lambda r, c: 1.0}, TypeError, "the callable relevance returns must be a torch.Tensor"),
        ({"relevance": lambda r, c: r[:2].float()}, ValueError, r"returns must have shape \(9,\), got \(2,\)"),
        ({"relevance": lambda r, c: r}, TypeError, "returns must be float32 or float64, got torch.int64"),
        ({"temperature": 0.0}, ValueError, "temperature must be a finite number above 0, got 0.0"),
        ({"temperature": "10"}, TypeError, "temperature must be a number, got str"),
        ({"margin_max": NAN}, ValueError, "margin_max must be a finite number, got nan"),
        ({"margin_min": "0"}, TypeError, "margin_min must be a number, got str"),
        ({"margin_min": 2.0}, ValueError, "margin_min must be at most margin_max, got 2.0 and 1.0"),
        (
            {"sampling": "hardset"},
            ValueError,
            "sampling must be one of 'all', .* got 'hardset'; perhaps you meant hardest",
        ),
        ({"sampling": "soft"}, ValueError, "'SN' for variant 'fixed', got 'soft'"),
        ({"sampling": "all", "variant": "literal"}, ValueError, "for variant 'literal', got 'all'"),
        (
            {"sampling": "all", "variant": "released"},
            ValueError,
            "for variant 'released', got 'all'",
        ),
        ({"variant": "paper"}, ValueError, "variant must be one of 'fixed', 'literal', 'released', got 'paper'"),
        ({"t2i_margin": "both"}, ValueError, "t2i_margin must be one of 'column', 'row', got 'both'"),
        ({"t2i_margin": "column", "variant": "literal"}, ValueError, "t2i_margin 'column' .* got variant 'literal'"),
        ({"image_ids": PAIRS[:2]}, ValueError, r"image_ids must have shape \(3,\), one per pair, got \(2,\)"),
        ({"image_ids": SIMS[0]}, TypeError, "image_ids must be int64, got torch.float32"),
        ({"negatives": PAIRS}, TypeError, r"negatives must be a pair \(m, l\) of int64 tensors or None, got Tensor"),
        ({"negatives": (PAIRS, None)}, TypeError, r"negatives\[1\] must be an int64 tensor, got NoneType"),
        ({"negatives": (PAIRS[:2], PAIRS)}, ValueError, r"negatives\[0\] must have shape \(3,\)"),
        ({"negatives": (PAIRS, PAIRS + 1)}, ValueError, r"negatives\[1\]\[1\] is 3; expected a pair, 0 to 2, or -1"),
        ({"negatives": (PAIRS - 2, PAIRS)}, ValueError, r"negatives\[0\]\[2\] is -2"),
        (
            {"negatives": (PAIRS, PAIRS + 1), "relevance": lambda r, c: RELEVANCE[r, c]},
            ValueError,
            r"negatives\[1\]\[1\] is 3",
        ),
        ({"generator": 3}, TypeError, "generator must be a torch.Generator or None, got int"),
        ({"reduction": "none"}, ValueError, "reduction must be one of 'mean', 'sum', got 'none'"),
        ({"sampling": "all", "return_negatives": True}, ValueError, "return_negatives needs one negative per query"),
    ],
)
def test_bad_input_is_named(arguments, error, fragment):
    with pytest.raises(error, match=fragment):
        semantic_margin_loss(**{"sims": SIMS, "relevance": RELEVANCE, **arguments})


@pytest.mark.all_backends
@pytest.mark.parametrize(
    ("changed", "error", "fragment"),
    [
        ({1: RELEVANCE[:2]}, ValueError, r"relevance must have shape \[?\(?3, 3"),
        ({2: True, 1: RELEVANCE[:2]}, ValueError, "relevance must have shape"),
        ({1: RELEVANCE.half()}, TypeError, "relevance must be float32 or float64"),
        ({3: PAIRS[:2]}, ValueError, "image_ids must have shape"),
        ({4: PAIRS}, ValueError, r"negatives must have shape \(2, 3\)"),
        ({4: torch.zeros(2, 3)}, TypeError, "negatives must be int64"),
        ({7: "random"}, ValueError, "sampling random needs uniform"),
        ({7: "random", 5: torch.rand(2, 3)}, TypeError, "uniform must be float64"),
        ({7: "mixed"}, ValueError, "sampling mixed is not known"),
        ({7: "soft"}, ValueError, "sampling does not fit the variant"),
        ({7: "all", 8: "literal"}, ValueError, "sampling all needs variant fixed"),
        ({7: "all", 2: True}, ValueError, "sampling all needs variant fixed"),
        ({8: "paper"}, ValueError, "variant paper is not known"),
    ],
)
def test_the_operator_itself_refuses_what_it_cannot_read(changed, error, fragment, backend):
    with pytest.raises(error if backend == "cpu" else RuntimeError, match=fragment):
        OPERATOR(*operands(changed))


def operands(changed):
    arguments = [SIMS, RELEVANCE, False, None, None, None, 10.0, "hardest", "fixed", 1.0, None, False, False]
    for position, value in changed.items():
        arguments[position] = value
    return arguments


@pytest.mark.all_backends
def test_negatives_out_of_range_are_refused_or_make_the_loss_nan(backend):
    given = operands({4: torch.stack([PAIRS, PAIRS + 7])})
    if backend == "cpu":
        with pytest.raises(ValueError, match=r"negatives\[1\]\[0\] is 8"):
            OPERATOR(*given)
    else:  # a device is not waited for
        loss, chosen, gradient = OPERATOR(*given)
        assert loss.isnan()
        assert torch.equal(chosen, given[4])
        assert gradient.isfinite().all()


@pytest.mark.all_backends
def test_random_draws_outside_their_range_stay_in_the_batch():
    uniform = torch.tensor([[NAN, -1.0, 1.0], [float("inf"), 1e300, -float("inf")]], dtype=torch.float64)
    chosen = torch.ops.itm_fast.semantic_negatives(SIMS, None, uniform, "random", "fixed")
    assert chosen.tolist() == [[1, 0, 1], [2, 2, 0]]


@pytest.mark.compiled
def test_one_graph_serves_every_size_and_number():
    torch.compiler.reset()
    sam, triplet = (
        torch.compile(function, fullgraph=True, dynamic=True, backend="aot_eager")
        for function in (semantic_margin_loss, triplet_loss)
    )
    for n in (4, 7):
        sims, relevance = random_batch(n)
        for sampling in ("hardest", "random"):
            torch.manual_seed(0)
            found = sam(sims, relevance, sampling=sampling, temperature=n / 2)
            torch.manual_seed(0)
            assert torch.equal(found, semantic_margin_loss(sims, relevance, sampling=sampling, temperature=n / 2))
        assert torch.equal(triplet(sims, margin=n / 10), triplet_loss(sims, margin=n / 10))
