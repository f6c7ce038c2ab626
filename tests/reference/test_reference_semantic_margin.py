"""The plain-torch SAM loss against golden values of the released code and of the paper's formulas, and by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch

from itm_fast.reference import semantic_margin_loss

GOLDEN = Path(__file__).parents[1] / "golden"
FILES = ["sam_B8_seed101", "sam_B8_seed102", "sam_B32_seed111"]


def loss_and_gradient(arrays, **options):
    images, captions = (torch.from_numpy(arrays[side]).double() for side in ("im", "s"))
    sims = (images @ captions.T).requires_grad_()
    loss = semantic_margin_loss(sims, torch.from_numpy(arrays["phi"]), **options)
    loss.backward()
    return loss.item(), sims.grad.numpy()


@pytest.mark.parametrize("temperature", [3, 5, 10])
@pytest.mark.parametrize("sampling", ["soft", "hard", "random"])
@pytest.mark.parametrize("name", FILES)
def test_golden_of_the_released_code(name, sampling, temperature):
    arrays = np.load(GOLDEN / f"{name}.npz")
    case = f"released_{sampling}_tau{temperature}"
    options = {"variant": "released", "temperature": temperature}
    clear = not any(arrays[f"released_{sampling}_ambiguous{side}"].any() for side in (0, 1) if sampling != "random")
    if clear and sampling != "random":
        options["sampling"] = sampling
    else:
        options["negatives"] = tuple(torch.from_numpy(arrays[f"{case}_idx{side}"]) for side in (0, 1))
    loss, gradient = loss_and_gradient(arrays, **options)
    assert loss == pytest.approx(float(arrays[f"{case}_loss"]), rel=1e-12, abs=1e-12)
    np.testing.assert_array_equal(gradient, arrays[f"{case}_dS"])


@pytest.mark.parametrize("sampling", ["HN", "SN", "RS"])
@pytest.mark.parametrize("masked", ["diag", "sameimg"])
@pytest.mark.parametrize("name", FILES)
def test_golden_of_the_formulas(name, masked, sampling):
    arrays = np.load(GOLDEN / f"{name}.npz")
    case = f"own_{masked}_{sampling}"
    if f"{case}_m" not in arrays:
        pytest.skip("no two captions of one image in this batch")
    options = {"image_ids": torch.from_numpy(arrays["img_id"]) if masked == "sameimg" else None}
    if sampling == "RS":
        options["negatives"] = tuple(torch.from_numpy(arrays[f"{case}_{side}"]) for side in "ml")
    else:
        options["sampling"] = {"HN": "hardest", "SN": "easiest"}[sampling]
    for kind in ("fixed", "literal", "column"):
        options["variant"] = "literal" if kind == "literal" else "fixed"
        options["t2i_margin"] = "column" if kind == "column" else "row"
        for temperature in (3, 5, 10):
            loss, gradient = loss_and_gradient(arrays, temperature=temperature, **options)
            golden = float(arrays[f"{case}_{kind}_tau{temperature}_loss"])
            assert loss == pytest.approx(golden, rel=1e-12, abs=1e-12)
            np.testing.assert_array_equal(gradient, arrays[f"{case}_{kind}_tau{temperature}_dS"])


SIMS = torch.tensor([[0.5, 0.6, 0.1], [0.4, 0.5, 0.2], [0.0, 0.3, 0.5]], dtype=torch.float64)
RELEVANCE = torch.tensor([[3.0, 2.0, 0.0], [1.0, 4.0, 2.0], [0.0, 0.0, 3.0]])


def test_all_negatives_by_hand():
    # Over captions, margins 0.1 0.3 | 0.3 0.2 | 0.3 0.3: 0.2 | 0.2 | 0.1.
    # Over images, by row: image 1, 2 for caption 0: 0.1 0.3 | 0.3 0.2 | 0.3 0.3: - | 0.4 | -.
    assert semantic_margin_loss(SIMS, RELEVANCE, sampling="all").item() == pytest.approx(0.2 + 0.2 + 0.1 + 0.4)
    # By column: 0.2 0.3 | 0.2 0.4 | 0.3 0.1: 0.1 | 0.3 + 0.2 | -.
    by_column = semantic_margin_loss(SIMS, RELEVANCE, sampling="all", t2i_margin="column")
    assert by_column.item() == pytest.approx(0.5 + 0.1 + 0.3 + 0.2)
    image_ids = torch.tensor([1, 1, 2])  # what is left: 0 | 0 | 0.1, images: 0 | 0 | 0
    masked = semantic_margin_loss(SIMS, RELEVANCE, sampling="all", image_ids=image_ids)
    assert masked.item() == pytest.approx(0.1)


def test_random_negatives_leave_out_the_own_image():
    sims = torch.eye(5, dtype=torch.float64) * 0
    sims[0, 1:3] = sims[1:3, 0] = 100.0
    image_ids = torch.tensor([1, 1, 1, 2, 2])
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        loss = semantic_margin_loss(sims, sims * 0 + 1, sampling="random", image_ids=image_ids, generator=generator)
        assert loss == 0
