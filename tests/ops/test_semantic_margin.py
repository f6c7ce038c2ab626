import pytest
import torch
from golden_files import golden
from hypothesis import given, settings
from hypothesis import strategies as st
from test_triplet import NAN, SAM_FILES, batches, loss_and_gradient

from itm_fast import reference, semantic_margin_loss, triplet_loss

WAYS = [
    *[("fixed", sampling) for sampling in ("hardest", "easiest", "random", "all")],
    *[("literal", sampling) for sampling in ("hardest", "easiest", "random")],
    *[("released", sampling) for sampling in ("soft", "hard", "random")],
]
PAPERS_NAMES = {"hardest": "HN", "easiest": "SN", "random": "RS"}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def golden_batch(name):
    arrays = golden(f"{name}.npz")
    return arrays, *(torch.from_numpy(arrays[side]).double() for side in ("im", "s", "phi"))


def stored(arrays, prefix, *names):
    return tuple(torch.from_numpy(arrays[f"{prefix}_{name}"]) for name in names)


def random_batch(n, dtype=torch.float64, seed=0):
    generator = seeded(seed)
    sims = torch.randn(n, n, generator=generator, dtype=torch.float64).to(dtype)
    return sims, 10 * torch.rand(n, n, generator=generator, dtype=torch.float64)


@pytest.mark.all_backends
@pytest.mark.parametrize("sampling", ["soft", "hard", "random"])
@pytest.mark.parametrize("name", SAM_FILES)
def test_golden_vectors_of_the_released_code(name, sampling):
    arrays, images, captions, phi = golden_batch(name)
    for temperature in (3, 5, 10):
        case = f"released_{sampling}_tau{temperature}"
        negatives = stored(arrays, case, "idx0", "idx1")
        options = {"temperature": temperature, "variant": "released", "negatives": negatives}
        images, captions = images.detach().requires_grad_(), captions.detach().requires_grad_()
        sims = images @ captions.T
        sims.retain_grad()
        loss = semantic_margin_loss(sims, phi, **options)
        loss.backward()
        want = float(arrays[f"{case}_loss"])
        assert loss.item() == pytest.approx(want, rel=1e-12, abs=1e-12)
        assert torch.equal(sims.grad, torch.from_numpy(arrays[f"{case}_dS"]).double())
        if f"{case}_dim" in arrays:
            for found, side in ((images.grad, "dim"), (captions.grad, "ds")):
                torch.testing.assert_close(found.float(), torch.from_numpy(arrays[f"{case}_{side}"]), rtol=0, atol=2e-6)
        single = semantic_margin_loss(sims.float(), phi.float(), **options)
        assert single.item() == pytest.approx(want, rel=1e-5, abs=1e-5)
        for kind in ("max", "sum"):
            total = 3 * triplet_loss(sims, max_violation=kind == "max") + 5 * loss
            assert total.item() == pytest.approx(float(arrays[f"{case}_plus_triplet_{kind}_loss"]), rel=1e-12)


NAMES = [("hardest", "soft"), ("HN", "soft"), ("easiest", "hard"), ("SN", "hard")]


@pytest.mark.parametrize(("name", "of_the_code"), NAMES)
def test_the_papers_names_mean_the_same_in_the_released_code(name, of_the_code):
    sims, phi = torch.rand(6, 6), 10 * torch.rand(6, 6)
    found, want = (
        semantic_margin_loss(sims, phi, variant="released", sampling=sampling, return_negatives=True)
        for sampling in (name, of_the_code)
    )
    assert torch.equal(found[0], want[0])
    assert all(torch.equal(a, b) for a, b in zip(found[1], want[1], strict=True))


@pytest.mark.all_backends
@pytest.mark.parametrize("sampling", ["soft", "hard"])
@pytest.mark.parametrize("name", SAM_FILES)
def test_the_released_choice_where_it_is_defined(name, sampling):
    arrays, images, captions, phi = golden_batch(name)
    _, chosen = semantic_margin_loss(
        images @ captions.T, phi, variant="released", sampling=sampling, return_negatives=True
    )
    for number in (0, 1):
        (want,) = stored(arrays, f"released_{sampling}_tau3", f"idx{number}")
        clear = ~torch.from_numpy(arrays[f"released_{sampling}_ambiguous{number}"])
        assert torch.equal(chosen[number][clear], want[clear])
        assert clear.sum() >= len(clear) // 2


@pytest.mark.all_backends
@pytest.mark.parametrize("sampling", PAPERS_NAMES)
@pytest.mark.parametrize("masked", ["diag", "sameimg"])
@pytest.mark.parametrize("name", SAM_FILES)
def test_golden_vectors_of_the_formulas(name, masked, sampling):
    arrays, images, captions, phi = golden_batch(name)
    case = f"own_{masked}_{PAPERS_NAMES[sampling]}"
    if f"{case}_m" not in arrays:
        pytest.skip("no two captions of one image in this batch")
    sims, negatives = images @ captions.T, stored(arrays, case, "m", "l")
    chosen = {"image_ids": torch.from_numpy(arrays["img_id"]) if masked == "sameimg" else None}
    chosen |= {"negatives": negatives} if sampling == "random" else {"sampling": sampling}
    n_compared = 0
    for kind in ("fixed", "literal", "column"):
        for temperature in (3, 5, 10):
            options = {"variant": "literal" if kind == "literal" else "fixed", "temperature": temperature, **chosen}
            options["t2i_margin"] = "column" if kind == "column" else "row"
            if f"{case}_{kind}_tau{temperature}_loss" not in arrays:
                continue
            n_compared += 1
            loss, gradient = loss_and_gradient(semantic_margin_loss, sims, relevance=phi, **options)
            want = float(arrays[f"{case}_{kind}_tau{temperature}_loss"])
            assert loss.item() == pytest.approx(want, rel=1e-12, abs=1e-12)
            if f"{case}_{kind}_tau{temperature}_dS" in arrays:
                want_gradient = torch.from_numpy(arrays[f"{case}_{kind}_tau{temperature}_dS"]).double()
                assert torch.equal(gradient, want_gradient)
            single = semantic_margin_loss(sims.float(), phi.float(), **options)
            assert single.item() == pytest.approx(want, rel=1e-5, abs=1e-5)
            _, found = semantic_margin_loss(sims, phi, **options, return_negatives=True)
            assert all(map(torch.equal, found, negatives))
    assert n_compared == 9


@given(
    batch=batches(),
    way=st.sampled_from(WAYS),
    bounds=st.sampled_from([(1.0, None), (None, None), (0.25, 0.0), (None, -0.25)]),
    column=st.booleans(),
    reduction=st.sampled_from(["sum", "mean"]),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
    relevance_dtype=st.sampled_from([torch.float64, torch.float32]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=400, deadline=None)
def test_equals_the_reference_under_ties(batch, way, bounds, column, reduction, dtype, relevance_dtype, seed):
    sims, image_ids = batch
    n = len(sims)
    # Margins are multiples of 1/8: ties and hinges of exactly 0 happen, and no rounding hides one.
    relevance = (torch.randint(0, 17, (n, n), generator=seeded(seed)) / 4).to(relevance_dtype)
    options = {"variant": way[0], "sampling": way[1], "margin_max": bounds[0], "margin_min": bounds[1]}
    options |= {"t2i_margin": "column" if column and way[0] == "fixed" else "row", "image_ids": image_ids}
    options |= {"reduction": reduction, "temperature": 2.0, "relevance": relevance}
    want, want_gradient = loss_and_gradient(reference.semantic_margin_loss, sims, generator=seeded(seed), **options)
    loss, gradient = loss_and_gradient(semantic_margin_loss, sims.to(dtype), generator=seeded(seed), **options)
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert gradient.dtype == dtype
    torch.testing.assert_close(loss.double(), want, rtol=torch.finfo(loss.dtype).eps, atol=0)
    if reduction == "sum":
        assert torch.equal(gradient.double(), want_gradient)
    torch.testing.assert_close(
        gradient.double(), want_gradient, rtol=2 * torch.finfo(dtype).eps, atol=1e-15 if n else 0
    )


@pytest.mark.parametrize(("variant", "sampling"), WAYS)
def test_a_batch_of_several_threads(variant, sampling):
    sims, relevance = random_batch(600)
    options = {"relevance": relevance, "variant": variant, "sampling": sampling, "image_ids": torch.arange(600) % 250}
    want, want_gradient = loss_and_gradient(reference.semantic_margin_loss, sims, generator=seeded(), **options)
    loss, gradient = loss_and_gradient(semantic_margin_loss, sims, generator=seeded(), **options)
    assert loss.item() == pytest.approx(want.item(), rel=1e-12)
    assert torch.equal(gradient, want_gradient)


CALLED = [(*way, "row") for way in [*WAYS, ("released", "mixed"), ("fixed", "HN")]]
CALLED += [(variant, sampling, "column") for variant, sampling, _ in CALLED if variant == "fixed"]


@pytest.mark.all_backends
@pytest.mark.parametrize(("variant", "sampling", "t2i_margin"), CALLED)
def test_a_callable_scores_the_chosen_pairs_once(variant, sampling, t2i_margin):
    sims, relevance = random_batch(9)
    options = {"variant": variant, "sampling": sampling, "t2i_margin": t2i_margin}
    options["image_ids"] = torch.tensor([4, 4, 4, 1, 2, 3, 3, 8, 9])
    calls = []

    def phi(rows, columns):
        calls.append(list(zip(rows.tolist(), columns.tolist(), strict=True)))
        return relevance[rows, columns]

    want, want_gradient = loss_and_gradient(
        semantic_margin_loss, sims, relevance=relevance, generator=seeded(), **options
    )
    loss, gradient = loss_and_gradient(semantic_margin_loss, sims, relevance=phi, generator=seeded(), **options)
    assert torch.equal(loss, want)
    assert torch.equal(gradient, want_gradient)
    pairs = [(i, i) for i in range(9)]
    if sampling == "all":
        assert calls == [[(i, j) for i in range(9) for j in range(9)]]
        return
    _, (m, l) = semantic_margin_loss(sims, relevance, generator=seeded(), return_negatives=True, **options)  # noqa: E741
    pairs += [(i, int(m[i])) for i in range(9)]
    pairs += [(int(l[i]), i) if t2i_margin == "column" else (i, int(l[i])) for i in range(9)]
    assert calls == [pairs]


@pytest.mark.all_backends
def test_a_callable_is_asked_for_the_positive_where_there_is_no_negative():
    def phi(rows, columns):
        assert torch.equal(rows, columns)
        return torch.full((len(rows),), NAN)

    image_ids = torch.zeros(4, dtype=torch.int64)
    loss, (m, l) = semantic_margin_loss(torch.rand(4, 4), phi, image_ids=image_ids, return_negatives=True)  # noqa: E741
    assert loss == 0
    assert m.tolist() == l.tolist() == [-1] * 4


def test_random_negatives_are_uniform_independent_and_reproducible():
    sims, relevance = random_batch(5)
    image_ids = torch.tensor([1, 2, 1, 3, 4])
    generator, n_draws = seeded(), 4000
    options = {"sampling": "random", "image_ids": image_ids, "return_negatives": True}
    drawn = torch.stack(
        [torch.stack(semantic_margin_loss(sims, relevance, generator=generator, **options)[1]) for _ in range(n_draws)]
    )
    for side in (0, 1):
        for pair, allowed in ((0, [1, 3, 4]), (3, [0, 1, 2, 4])):
            counts = torch.bincount(drawn[:, side, pair], minlength=5)
            assert counts.nonzero().flatten().tolist() == allowed
            assert (counts[allowed] - n_draws / len(allowed)).abs().max() < 5 * (n_draws / len(allowed)) ** 0.5
    both = torch.bincount(drawn[:, 0, 3] * 5 + drawn[:, 1, 3])
    assert (both[both > 0] - n_draws / 16).abs().max() < 5 * (n_draws / 16) ** 0.5
    again = semantic_margin_loss(sims, relevance, generator=seeded(), **options)[1]
    assert torch.equal(torch.stack(again), drawn[0])
    torch.manual_seed(0)  # the global generator where none is given
    assert torch.equal(torch.stack(semantic_margin_loss(sims, relevance, **options)[1]), drawn[0])


def test_mixed_is_hard_or_random_by_a_coin():
    sims, relevance = random_batch(12)
    options = {"variant": "released", "return_negatives": True}
    hard = torch.stack(semantic_margin_loss(sims, relevance, sampling="hard", **options)[1])
    generator, n_hard, others = seeded(), 0, set()
    for _ in range(400):
        mixed = torch.stack(semantic_margin_loss(sims, relevance, sampling="mixed", generator=generator, **options)[1])
        if torch.equal(mixed, hard):
            n_hard += 1
        else:
            assert (mixed != torch.arange(12)).all()
            others.add(tuple(mixed.flatten().tolist()))
    assert 150 < n_hard < 250
    assert len(others) == 400 - n_hard


@pytest.mark.all_backends
def test_by_hand():
    sims = torch.tensor([[0.5, 0.6, 0.1], [0.4, 0.5, 0.2], [0.0, 0.3, 0.5]], dtype=torch.float64)
    relevance = torch.tensor([[3.0, 2.0, 0.0], [1.0, 4.0, 2.0], [0.0, 0.0, 3.0]], dtype=torch.float64)
    # Rows: m = 1, 0, 1; columns: l = 1, 0, 1; temperature 10.
    # i2t: 0.1 + 0.1 | 0.3 - 0.1 | 0.3 - 0.2;  t2i: 0.1 - 0.1 | 0.3 + 0.1 | 0.3 - 0.3 (by row)
    loss, (m, l) = semantic_margin_loss(sims, relevance, return_negatives=True)  # noqa: E741
    assert (m.tolist(), l.tolist()) == ([1, 0, 1], [1, 0, 1])
    assert loss.item() == pytest.approx(0.2 + 0.2 + 0.1 + 0.4)
    # By column: (3 - 1) / 10 - 0.1 | (4 - 2) / 10 + 0.1 | (3 - 2) / 10 - 0.3
    by_column = semantic_margin_loss(sims, relevance, t2i_margin="column")
    assert by_column.item() == pytest.approx(0.2 + 0.2 + 0.1 + 0.1 + 0.3)
    assert semantic_margin_loss(sims, relevance, reduction="mean").item() == pytest.approx(0.9 / 3)
    assert semantic_margin_loss(sims, relevance, margin_max=0.15).item() == pytest.approx(0.2 + 0.05 + 0.25)
    # A more relevant negative may be closer than the positive, unless margin_min forbids it.
    relevance[0, 1] = 8.0
    assert semantic_margin_loss(sims, relevance).item() == pytest.approx(0.2 + 0.1 + 0.4)
    assert semantic_margin_loss(sims, relevance, margin_min=0.0).item() == pytest.approx(0.1 + 0.2 + 0.1 + 0.4)


def test_the_papers_names_are_aliases():
    sims, relevance = random_batch(7)
    for name, alias in PAPERS_NAMES.items():
        for variant in ("fixed", "literal"):
            a, b = (
                semantic_margin_loss(sims, relevance, sampling=s, variant=variant, generator=seeded())
                for s in (name, alias)
            )
            assert torch.equal(a, b)


@pytest.mark.all_backends
def test_given_negatives_may_be_none_for_a_query():
    sims, relevance = random_batch(4)
    none, some = torch.tensor([-1, 2, 0, -1]), torch.tensor([3, -1, 1, -1])
    for variant in ("fixed", "literal", "released"):
        options = {"relevance": relevance, "variant": variant, "negatives": (none, some), "margin_max": None}
        want, want_gradient = loss_and_gradient(reference.semantic_margin_loss, sims, **options)
        loss, gradient = loss_and_gradient(semantic_margin_loss, sims, **options)
        assert loss.item() == pytest.approx(want.item(), rel=1e-12)
        assert torch.equal(gradient, want_gradient)
        assert semantic_margin_loss(sims, **options, return_negatives=True)[1][0].tolist() == none.tolist()


@pytest.mark.all_backends
def test_a_released_hinge_of_zero_passes_its_gradient():
    sims, relevance = torch.zeros(3, 3), torch.ones(3, 3)
    negatives = (torch.tensor([1, 2, 0]), torch.tensor([1, 2, 0]))
    for variant, passed in (("released", True), ("fixed", False), ("literal", False)):
        loss, gradient = loss_and_gradient(
            semantic_margin_loss, sims, relevance=relevance, variant=variant, negatives=negatives
        )
        assert loss == 0
        assert gradient.any() == passed


LONELY = [(*way, n, False) for way in [*WAYS, ("released", "mixed")] for n in (0, 1)]
LONELY += [(*way, 40, True) for way in WAYS if way[0] != "released"]  # which masks nothing


@pytest.mark.all_backends
@pytest.mark.parametrize(("variant", "sampling", "n", "one_image"), LONELY)
def test_without_negatives_it_is_zero(n, one_image, variant, sampling):
    sims, relevance = random_batch(n)
    options = {"relevance": relevance, "variant": variant, "sampling": sampling, "margin_max": None}
    options["image_ids"] = torch.zeros(n, dtype=torch.int64) if one_image else None
    for reduction in ("sum", "mean"):
        loss, gradient = loss_and_gradient(semantic_margin_loss, sims, reduction=reduction, **options)
        assert loss == 0
        assert gradient.shape == sims.shape
        assert not gradient.any()
    if sampling != "all":
        _, (m, l) = semantic_margin_loss(sims, **options, return_negatives=True)  # noqa: E741
        assert m.tolist() == l.tolist() == [-1] * n


@pytest.mark.all_backends
def test_scores_of_minus_infinity_are_still_negatives():
    far = torch.full((3, 3), -float("inf")).fill_diagonal_(0.0)
    for sims, sampling in ((far, "hardest"), (-far, "easiest")):
        _, (m, l) = semantic_margin_loss(sims, torch.eye(3), sampling=sampling, return_negatives=True)  # noqa: E741
        assert m.tolist() == l.tolist() == [1, 0, 0]


@pytest.mark.all_backends
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sampling", ["hardest", "easiest", "all"])
def test_nan_ends_in_the_loss_unless_it_is_masked(sampling, dtype):
    image_ids = torch.tensor([5, 5, 7, 8])
    for i in range(4):
        for j in range(4):
            sims = torch.eye(4, dtype=dtype)
            sims[i, j] = NAN
            masked = {i, j} == {0, 1}
            assert semantic_margin_loss(sims, torch.eye(4), sampling=sampling).isnan()
            with_ids = semantic_margin_loss(sims, torch.eye(4), sampling=sampling, image_ids=image_ids)
            assert with_ids.isnan() == (not masked)


@pytest.mark.all_backends
@pytest.mark.parametrize(("variant", "sampling"), WAYS)
def test_nothing_but_nan_is_no_reason_to_crash(variant, sampling):
    for sims, relevance in (
        (torch.full((40, 40), NAN), torch.ones(40, 40)),
        (torch.eye(40), torch.full((40, 40), NAN)),
    ):
        assert semantic_margin_loss(sims, relevance, variant=variant, sampling=sampling).isnan()


@pytest.mark.all_backends
@pytest.mark.parametrize("sampling", ["hardest", "easiest"])
def test_the_first_nan_of_a_row_and_of_a_column_is_chosen(sampling):
    for sims in (torch.eye(5), torch.eye(5).double()):
        sims[1, 0] = sims[3, 0] = sims[2, 1] = sims[2, 3] = NAN
        _, (m, l) = semantic_margin_loss(sims, torch.eye(5), sampling=sampling, return_negatives=True)  # noqa: E741
        assert (m[1], m[2], m[3]) == (0, 1, 0)
        assert (l[0], l[1], l[3]) == (1, 2, 2)
