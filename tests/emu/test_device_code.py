"""nvcc's view of the kernels: they compile for every architecture, without spills, within their budgets."""

import re
import shutil
import subprocess

import pytest
from emulation import CUDA

pytestmark = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")

# Registers a thread at most; with the threads and shared bytes of a block they bound how many warps fit.
BUDGETS = {
    "chunks.cu": (128, 256, 48 * 1024),  # at most: the operator works in place where S of a pair needs more
    "cider.cu": (80, 256, 28 * 1024),
    "gradients.cu": (128, 128, 5 * 1024),
    "ranking.cu": (64, 256, 9 * 1024),
    "semantic_margin.cu": (64, 256, 20 * 1024),
    "tiles.cu": (128, 512, 87 * 1024),
    "topk.cu": (96, 256, 48 * 1024),  # at most: longer lists are kept in memory
    "triplet.cu": (64, 256, 6 * 1024),
    "vectors.cu": (64, 1024, 9 * 1024),
}
SHARED_BYTES_OF_SM, THREADS_OF_SM, REGISTERS_OF_SM = 100 * 1024, 1536, 65536  # the least of the architectures


def test_every_kernel_file_has_a_budget():
    assert {path.name for path in CUDA.glob("*.cu")} == set(BUDGETS)


@pytest.mark.parametrize("name", BUDGETS)
@pytest.mark.parametrize("arch", ["80", "86", "90", "100", "120"])
def test_compiles_within_its_budget(name, arch, tmp_path):
    # sm_120 also as PTX, for what comes after it.
    code = f"code=[sm_{arch},compute_{arch}]" if arch == "120" else f"code=sm_{arch}"
    command = ["nvcc", "-std=c++20", "-gencode", f"arch=compute_{arch},{code}", f"-I{CUDA}", "-Xptxas", "-v", "-c"]
    done = subprocess.run(
        [*command, str(CUDA / name), "-o", str(tmp_path / "kernel.o")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    spills = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", done.stderr)
    assert spills
    assert {int(number) for kernel in spills for number in kernel} == {0}
    registers = max(int(number) for number in re.findall(r"Used (\d+) registers", done.stderr))
    most_registers, threads, shared_bytes = BUDGETS[name]
    assert registers <= most_registers
    blocks = min(
        REGISTERS_OF_SM // (-(-registers // 8) * 8 * threads),
        SHARED_BYTES_OF_SM // shared_bytes,
        THREADS_OF_SM // threads,
    )
    assert blocks * threads >= THREADS_OF_SM / 4  # at least a quarter of the threads that fit
