"""The counts of bench/roofline.py are those of the kernels: compared with what the emulator counts."""

import itertools
import json
import re
from collections import Counter

import _machine_code
import emulated_operators
import pytest
import roofline
import torch
from emulation import Device, build, compiler, statistics
from similarity_kernels import SOURCES, Largest, score_by_tiles

import itm_fast

COUNTS = [3, 17, 36, 36, 1, 50, 20, 9]


def vectors(counts, dim, dtype):
    generator = torch.Generator().manual_seed(len(counts))
    return torch.randn(len(counts), max(counts), dim, generator=generator).to(dtype), torch.tensor(counts)


@pytest.mark.skipif(compiler() is None, reason="the emulator needs a C++ compiler (CXX, c++)")
@pytest.mark.parametrize(("dtype", "name"), [(torch.float32, "float32"), (torch.bfloat16, "bfloat16")])
def test_tensor_core_instructions_and_bytes_are_the_kernels_own(dtype, name):
    device = Device(build(*SOURCES, hooks=True))
    regions, words = vectors([36] * 7, 144, dtype), vectors(COUNTS, 144, dtype)
    device.configure(traffic=True)
    device.traffic()
    before = device.statistics()["matrix_products"]
    score_by_tiles(device, *regions, *words)
    done = device.statistics()["matrix_products"] - before
    traffic = device.traffic()
    copies = [row for row in traffic if row["line"].startswith("tile_product") and not row["shared"]]
    want = roofline.scoring([36] * 7, COUNTS, 144, name)
    assert done == want["mma"]
    read = 32 * sum(row["units"] for row in copies if row["bytes"] == 16)
    assert read == pytest.approx(want["L2 bytes"], rel=0.02)  # last sectors of rows
    assert roofline.plan([36] * 7, 32) == [108, 108, 36]
    # A matrix load reads eight rows of 16 bytes for each of its matrices.
    matrices = sum(
        row["requests"]
        for row in traffic
        if row["line"].startswith("tile_product") and row["shared"] and not row["write"] and row["bytes"] == 16
    )
    assert 128 * matrices == want["shared bytes"] - want["L2 bytes"]


@pytest.mark.skipif(compiler() is None, reason="the emulator needs a C++ compiler (CXX, c++)")
def test_counts_of_late_interaction_are_the_kernels_own():
    device = Device(build(*SOURCES, hooks=True))
    documents, queries = vectors([300, 140, 257], 128, torch.bfloat16), vectors(COUNTS, 128, torch.bfloat16)
    device.configure(traffic=True)
    device.traffic()
    before = device.statistics()
    Largest(device, *documents, *queries).scores()
    after, traffic = device.statistics(), device.traffic()
    want = roofline.late_interaction([300, 140, 257], COUNTS, 128, "bfloat16")
    assert after["matrix_products"] - before["matrix_products"] == want["mma"]
    assert after["launches"] - before["launches"] == want["launches"]
    copies = [row for row in traffic if row["line"].startswith("tile_product") and not row["shared"]]
    assert 32 * sum(row["units"] for row in copies if row["bytes"] == 16) == want["L2 bytes"]


@pytest.mark.skipif(compiler() is None, reason="the emulator needs a C++ compiler (CXX, c++)")
def test_launches_are_those_of_the_operators():
    # Few enough for one round of the emulated build's little scratch memory.
    regions, words = vectors([36] * 4, 24, torch.bfloat16)[0].requires_grad_(), vectors(COUNTS[:4], 24, torch.bfloat16)
    words[0].requires_grad_()
    library = emulated_operators.library(False)[1]

    def launches(work):
        before = statistics(library)["launches"]
        work()
        return statistics(library)["launches"] - before

    def step():
        sims = itm_fast.cross_attention_similarity(regions, *words)
        itm_fast.triplet_loss(sims).backward()

    with emulated_operators.emulated():
        assert launches(step) == roofline.training([36] * 4, COUNTS[:4], 36, 24, "bfloat16")["launches"]
        with torch.no_grad():
            scoring = launches(lambda: itm_fast.cross_attention_similarity(regions, *words))
    assert scoring == roofline.scoring([36] * 4, COUNTS[:4], 24, "bfloat16")["launches"]


@pytest.mark.parametrize("arch", ["80", "86", "90", "100", "120"])
def test_the_machine_code_of_the_build_is_read(arch):
    if _machine_code.disassembler() is None or _machine_code.kept("tiles", arch) is None:
        pytest.skip("no machine code in build/cubins, or no nvdisasm: make test, with nvcc, keeps it")
    found = {dtype: _machine_code.tile_kernel(arch, dtype) for dtype in ("bfloat16", "tf32", "float32")}
    for dtype, code in found.items():
        steps = roofline.STAGE_BYTES // roofline.STEP_BYTES
        assert code["hmma"] == steps * 4 * roofline.WARP_COLUMNS[dtype] // 8 * roofline.PRODUCTS[dtype]
        assert code["ldsm"] == steps * (4 + roofline.WARP_COLUMNS[dtype] // 16)
        assert code["hmma"] < code["stage"] < 7 * code["hmma"]
        small = roofline.SHARED_KB[arch] == 100
        assert roofline.blocks_of_tile(arch, dtype, code["registers"]) == (1 if small or dtype == "float32" else 2)
        assert code["store"] >= 2 * 4 * roofline.WARP_COLUMNS[dtype] // 8  # 8 bytes a lane
        # Of 16 numbers two instructions each, and four loads; of 36 rows 36 exponentials and 90 products.
        assert 16 * 2 + 4 < code["four"] < 50
        assert 12 * 2 + 4 < code["part"] < code["group"]
        assert 36 + 90 < code["context"][36] == code["context"][33] < code["context"][37]
        counts = roofline.scoring([36] * 50, [12] * 50, 1024, dtype)
        own, around = roofline.instructions_of_an_element(counts, code, dtype)
        assert 8 < own < 20
        assert 1 < around < 5
        assert own + around < 20
    assert found["bfloat16"]["stage"] < found["tf32"]["stage"] < 2 * found["float32"]["stage"]


def test_a_kernel_that_the_build_lacks_is_named_with_its_file(monkeypatch, tmp_path):
    old = tmp_path / "tiles.compute_90.sm_90.cubin"
    monkeypatch.setattr(_machine_code, "kept", lambda *_: old)
    monkeypatch.setattr(_machine_code, "disassembler", lambda: "nvdisasm")
    monkeypatch.setattr(_machine_code, "kernels", lambda _: {"of_another_name": ([], {})})
    said = rf"no kernel \w+ScaledRows\w* in {re.escape(str(old))}.*: build again"
    with pytest.raises(LookupError, match=said):
        _machine_code.tile_kernel.__wrapped__("90", "bfloat16")
    with pytest.raises(LookupError, match=said):
        _machine_code.attention_kernels.__wrapped__("90", 64, 256)


CODE = {
    "stage": 180,
    "hmma": 64,
    "ldsm": 16,
    "store": 64,
    "group": 50,
    "four": 63,
    "part": 32,
    "context": {rows: 20 * rows for rows in range(1, 41)},
}


@pytest.mark.parametrize("tile", [[4, 8], [3, 1, 7, 12, 2], [1, 1, 1], [5, 9, 36]])
def test_fours_of_columns_that_groups_share(tile):
    whole, shared = roofline.fours_of(tile)
    places = [(group, place // 4) for group, begin in enumerate(itertools.accumulate([0, *tile[:-1]]))
              for place in range(begin, begin + tile[group])]  # fmt: skip
    found = Counter(places)
    assert whole == sum(n == 4 for n in found.values())
    assert shared == len(found) - whole


def test_product_and_epilogue_add_up_where_one_block_fits(monkeypatch):
    counts = roofline.scoring([36] * 500, [12] * 500, 1024, "bfloat16")
    monkeypatch.setattr(_machine_code, "tile_kernel", lambda *_: {**CODE, "registers": 238})
    assert roofline.blocks_of_tile("80", "bfloat16", 238) == 2
    ms = roofline.predicted_ms(counts, "A100 80 GB", "bfloat16")
    assert roofline.bound(counts, "A100 80 GB", "bfloat16")[0] == max(ms.values())
    together = roofline.of_tensor_cores(counts, "A100 80 GB", "bfloat16")
    monkeypatch.setattr(roofline, "blocks_of_tile", lambda *_: 1)
    of = roofline.resources(counts, "A100 80 GB", "bfloat16")
    alone = roofline.bound(counts, "A100 80 GB", "bfloat16")
    assert alone[0] == pytest.approx(max(a for a, _ in of.values()) + max(b for _, b in of.values()))
    assert roofline.of_tensor_cores(counts, "A100 80 GB", "bfloat16") < together < 1


def test_bounds_follow_from_counts():
    counts = roofline.training([36] * 128, [12] * 128, 12, 1024, "bfloat16")
    assert counts["host waits"] == 0
    assert counts["useful FLOP"] == 4 * 2 * 128 * 36 * 128 * 12 * 1024
    assert counts["tensor FLOP"] > counts["useful FLOP"]
    times = roofline.predicted_ms(counts, "H100 SXM", "bfloat16")
    in_gram = counts["gram TF32 FLOP"] / 495e12 * 1e3
    assert times["tensor cores"] == pytest.approx(counts["tensor FLOP"] / 989e12 * 1e3 + in_gram)


def test_says_that_nothing_was_measured(capsys):
    assert roofline.main(["--scale", "0.01"]) == 0
    text = capsys.readouterr().out
    assert "not measured: nobody has run these kernels on a GPU" in text
    assert roofline.main(["--scale", "0.01", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["measured"] is False
    assert len(record["cases"]) == 11
