"""Counts of the models' operators and of attention beyond 128 regions: what they are at least, and what they say."""

import json

import _machine_code
import emulated_operators
import pytest
import roofline_attention
import roofline_models
import torch
from emulation import compiler, statistics

import itm_fast


def test_counts_of_sgr_hold_its_products():
    n, dim, width = 3, 64, 16
    counts = roofline_models.sgr_training(n, torch.float32, dim, width)
    n_words = int(roofline_models.scan_batch(n, n, dim=1)[2].sum())
    of_vectors = 2 * n * n_words * dim * width  # each of a product forward and two backward
    assert counts["tensor FLOP"] > 3 * of_vectors
    assert counts["memory bytes"] > 4 * 3 * n * n_words * (dim + width)


def test_lists_of_levels_hold_their_products_and_gather_nothing():
    n, k, n_words, dim = 6, 5, 7, 64
    found, gathered = (roofline_models.esl_lists(n, k, n_words, kernels, True, dim) for kernels in (True, False))
    products = 2 * n * k * 36 * n_words * dim
    assert gathered["tensor FLOP"] == 4 * products  # S twice, and both gradients
    assert found["tensor FLOP"] >= 4 * products
    assert found["memory bytes"] < gathered["memory bytes"]


def test_lists_of_vectors_hold_their_products():
    n, k, dim, width = 6, 5, 64, 256
    forward, both = (roofline_models.sgr_lists(n, k, backward, dim, width) for backward in (False, True))
    words = roofline_models.scan_batch(n, 5 * n, dim=1)[2]
    chosen = words[torch.randint(5 * n, (n * k,), generator=torch.Generator().manual_seed(0))]
    n_rows = int(chosen.sum())
    assert forward["tensor FLOP"] >= 2 * n_rows * dim * (2 * 36 + width)
    assert both["tensor FLOP"] >= forward["tensor FLOP"] + 2 * n_rows * dim * (6 * 36 + 2 * width)
    assert both["memory bytes"] > forward["memory bytes"] + 2 * 2 * n_rows * dim  # differences, and their squares
    assert both["launches"] > forward["launches"]


def test_what_attention_to_patches_costs():
    counts = roofline_attention.scoring(577, 40, 8, 8, 1024)
    assert counts["tensor FLOP"] == 2 * 1024 * 8 * (584 * 40 * 8 + 584 * 584)
    assert counts["launches"] == 3 + 3 + 3  # 6 MB of S: a round
    counts = roofline_attention.scoring(577, 40, 128, 128, 1024)
    assert counts["launches"] == 3 + 3 * 3 + 3 * 64
    parts, together = roofline_attention.parts_of(counts, "H100 SXM", "bfloat16")
    assert not together
    assert parts["torch's products"]["tensor cores"] == counts["tensor FLOP"] / 989 / 1e9
    assert parts["product"]["tensor cores"] == pytest.approx(counts["mma"] * 4096 / 989e12 * 1e3)
    ms, binds = roofline_attention.bound(counts, "H100 SXM", "bfloat16")
    assert ms == pytest.approx(sum(max(of.values()) for of in parts.values()))
    assert "FMAs" not in binds
    assert roofline_attention.parts_of(roofline_attention.scoring(197, 40, 8, 8, 64), "A100 80 GB", "bfloat16")[1]


@pytest.mark.skipif(compiler() is None, reason="the emulator needs a C++ compiler (CXX, c++)")
@pytest.mark.parametrize("n_patches", [133, 797])  # the latter by blocks of 16 columns where a block has 99 KB
def test_counts_of_attention_are_the_kernels_own(n_patches, monkeypatch):
    n_images, n_captions, n_words = 3, 4, 9
    regions, words = torch.randn(n_images, n_patches, 8), torch.randn(n_captions, n_words, 8)
    library = emulated_operators.library(False)[1]
    before = statistics(library)
    with emulated_operators.emulated(), torch.no_grad():
        found = itm_fast.cross_attention_similarity(regions, words, None)
    torch.testing.assert_close(found, itm_fast.cross_attention_similarity(regions, words, None), rtol=1e-5, atol=1e-5)
    done = {name: count - before[name] for name, count in statistics(library).items()}
    for name in ("SCRATCH_BYTES", "CACHED_BYTES"):
        monkeypatch.setattr(roofline_attention, name, emulated_operators.SCRATCH_BYTES)
    counts = roofline_attention.scoring(n_patches, n_words, n_images, n_captions, 8, 4)
    assert counts["launches"] > 3 + 3 + 3  # several rounds
    assert done["launches"] == counts["launches"] - counts["torch launches"]
    assert done["matrix_products"] == counts["mma"]


@pytest.mark.skipif(compiler() is None, reason="the emulator needs a C++ compiler (CXX, c++)")
def test_launches_of_the_gradients_are_the_operators_own(monkeypatch):
    regions, words = torch.randn(3, 133, 8, requires_grad=True), torch.randn(40, 9, 8, requires_grad=True)
    library = emulated_operators.library(False)[1]
    with emulated_operators.emulated():
        scores = itm_fast.cross_attention_similarity(regions, words, None)
        before = statistics(library)["launches"]
        scores.sum().backward()
    found = regions.grad, words.grad
    regions.grad = words.grad = None
    itm_fast.cross_attention_similarity(regions, words, None).sum().backward()
    torch.testing.assert_close((regions.grad, words.grad), found, rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(roofline_attention, "SCRATCH_BYTES", emulated_operators.SCRATCH_BYTES)
    counts = roofline_attention.gradients(133, 9, 3, 40, 8, 4)
    assert statistics(library)["launches"] - before == counts["launches"] - counts["torch launches"]
    assert counts["launches"] > 2 + 11 + 1  # several rounds


def test_what_the_gradients_of_patches_cost(monkeypatch):
    code = {"registers": 128, "product": 1.5, "gram": 2.0, "around": 200}
    monkeypatch.setattr(_machine_code, "gradient_kernel", lambda _: code)
    counts = roofline_attention.gradients(577, 40, 8, 8, 1024)
    assert counts["tensor FLOP"] == 2 * 1024 * 8 * (3 * 580 * 40 * 8 + 580 * 580)
    of_product, of_square = (
        3 * 2 * 640 * 320 * 592 * 8,
        3 * 2 * 640 * 608 * 320 * 8,
    )  # whole warps, stages of 16 numbers
    assert counts["TF32 FLOP"] == of_product + of_square
    parts, together = roofline_attention.parts_of(counts, "H100 SXM", "bfloat16")
    assert not together
    assert parts["G a"]["tensor cores"] == pytest.approx(of_product / 495e9)
    assert parts["a aᵀ"]["tensor cores"] == pytest.approx(of_square / 495e9)
    ms, binds = roofline_attention.bound(counts, "H100 SXM", "bfloat16")
    assert ms == pytest.approx(sum(max(of.values()) for of in parts.values()))
    assert "a aᵀ: tensor cores" in binds
    parts, _ = roofline_attention.parts_of(counts, "RTX 5090", "bfloat16")
    n_fmas = 584 * 577 * 40 * 8 * 8
    assert parts["G a"]["float32 FMAs"] == pytest.approx(2 * n_fmas / 105e9)
    assert parts["G a"]["issue slots"] == pytest.approx(1.5 * n_fmas / 128 / 170 / 2.41e6)
    blocks = 145 * 146 // 2 * 8 * 8
    assert parts["a aᵀ"]["float32 FMAs"] == pytest.approx(2 * 48 * 16 * blocks / 105e9)


@pytest.mark.parametrize("arch", ["80", "86", "90", "100", "120"])
def test_the_machine_code_of_the_gradients_is_read(arch):
    if _machine_code.disassembler() is None or _machine_code.kept("chunks", arch) is None:
        pytest.skip("no machine code in build/cubins, or no nvdisasm: make test, with nvcc, keeps it")
    code = _machine_code.gradient_kernel(arch)
    assert code["registers"] <= 128
    assert 1 < code["product"] < 1.6  # 32 FMAs for two loads of G and one of four weights
    assert 1 < code["gram"] < 2.2
    assert 100 < code["around"] < 300


@pytest.mark.parametrize("arch", ["80", "90", "100"])
def test_the_machine_code_of_attention_is_read(arch):
    if _machine_code.disassembler() is None or _machine_code.kept("attention_chunks", arch) is None:
        pytest.skip("no machine code in build/cubins, or no nvdisasm: make test, with nvcc, keeps it")
    for columns, threads in ((64, 256), (64, 512), (32, 512), (16, 512)):
        code = _machine_code.attention_kernels(arch, columns, threads)
        assert code["hmma"] == columns // 16 * 4 * roofline_attention.PARTS
        assert code["hmma"] < code["step"] < 3 * code["hmma"]
        assert 10 < (code["load"] + code["weigh"]) / (min(columns, 32) / 2) < 30
        assert code["registers"] * threads <= 65536
        assert 20 < code["segment"] < 1000
        assert 10 < code["along"] < 60
        assert 20 < code["group"] < 150


def test_says_that_nothing_was_measured(capsys, monkeypatch):
    few = ("a case", roofline_attention.scoring(197, 40, 2, 2, 64), "bfloat16")
    monkeypatch.setattr(roofline_models, "cases", lambda _: [few])
    assert roofline_models.main([]) == 0
    assert "not measured: nobody has run this on a GPU" in capsys.readouterr().out
    assert roofline_models.main(["--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["measured"] is False
    assert record["cases"][0]["dtype"] == "bfloat16"
