"""The counts of bench/roofline.py are those of the kernels: compared with what the emulator counts."""

import json
import subprocess
import sys
from pathlib import Path

import emulated_operators
import pytest
import roofline
import torch
from emulation import Device, build, compiler, statistics
from similarity_kernels import SOURCES, score_by_tiles

import itm_fast

BENCH = Path(roofline.__file__).parent

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
    copies = [row for row in device.traffic() if row["line"].startswith("tile_product") and not row["shared"]]
    want = roofline.scoring([36] * 7, COUNTS, 144, name)
    assert done == want["mma"]
    read = 32 * sum(row["units"] for row in copies if row["bytes"] == 16)
    assert read == pytest.approx(want["L2 bytes"], rel=0.02)  # last sectors of rows
    assert roofline.plan([36] * 7, 32) == [108, 108, 36]


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


def test_bounds_follow_from_counts():
    counts = roofline.training([36] * 128, [12] * 128, 12, 1024, "bfloat16")
    assert counts["host waits"] == 0
    assert counts["useful FLOP"] == 4 * 2 * 128 * 36 * 128 * 12 * 1024
    assert counts["tensor FLOP"] > counts["useful FLOP"]
    times = roofline.predicted_ms(counts, "H100 SXM", "bfloat16")
    assert times["tensor cores"] == pytest.approx(counts["tensor FLOP"] / 989e12 * 1e3)


def test_says_that_nothing_was_measured():
    command = [sys.executable, str(BENCH / "roofline.py"), "--scale", "0.01"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "not measured: nobody has run these kernels on a GPU" in text
    record = json.loads(subprocess.run([*command, "--json"], capture_output=True, text=True, check=True).stdout)
    assert record["measured"] is False
    assert len(record["cases"]) == 9
