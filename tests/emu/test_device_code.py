"""nvcc's view of the kernels: they compile for every architecture, without spills, within their budgets, and to the
instructions that the design counts on."""

import functools
import hashlib
import importlib.metadata
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from emulation import CUDA, build_folder, kernel_headers, made_once

pytestmark = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")

ARCHITECTURES = ("80", "86", "90", "100", "120")
# Registers a thread, threads and shared bytes of a block at most; they bound how many warps fit.
BUDGETS = {
    "chunks.cu": (128, 256, 99 * 1024 // 2),  # at most: the operator works in place where S of a pair needs more
    "cider.cu": (80, 256, 28 * 1024),
    "gradients.cu": (128, 128, 5 * 1024),
    "ranking.cu": (64, 256, 9 * 1024),
    "semantic_margin.cu": (64, 256, 20 * 1024),
    "tiles.cu": (128, 512, 87 * 1024),
    "topk.cu": (96, 256, 99 * 1024 // 2),  # at most: longer lists are kept in memory
    "triplet.cu": (64, 256, 6 * 1024),
    "vectors.cu": (64, 1024, 9 * 1024),
}
SHARED_BYTES_OF_SM, THREADS_OF_SM, REGISTERS_OF_SM = 100 * 1024, 1536, 65536  # the least of the architectures
# In every kernel whose mangled name holds the first string: a pattern of machine code.
INSTRUCTIONS = {
    "tiles.cu": [
        ("tiles_kernelINS0_11ProductBf16", r"HMMA\.16816\.F32\.BF16"),
        ("tiles_kernelINS0_10ProductF16", r"HMMA\.16816\.F32 "),
        ("tiles_kernelINS0_11ProductTf32E", r"HMMA\.1688\.F32\.TF32"),
        ("tiles_kernelINS0_13ProductTf32x3", r"HMMA\.1688\.F32\.TF32"),
        ("gram_kernelINS0_11ProductBf16", r"HMMA\.16816\.F32\.BF16"),
        ("kernel", r"LDGSTS\.E\.BYPASS.*\.128"),  # vectors: 16 bytes a lane, past the registers
        ("kernel", r"LDSM\.16\.M88\.4"),
        ("ELb1EE", r"LDG\.E\.128"),  # Gram matrices
    ],
    "chunks.cu": [("chunk_kernelIfLb1", r"LDG\.E\.128|LD\.E\.128")],  # S into shared memory
}


def test_every_kernel_file_has_a_budget():
    assert {path.name for path in CUDA.glob("*.cu")} == set(BUDGETS)


@pytest.mark.parametrize("name", sorted(set(BUDGETS) - {"chunks.cu", "topk.cu"}))  # these ask for what they need
def test_shared_memory_is_asserted_to_fit(name):
    source = (CUDA / name).read_text(encoding="utf-8")
    asserted = re.findall(r"sizeof\((\w+)(?:<\w+>)?\) <= (\d+) \* 1024", source)
    assert {struct for struct, _ in asserted} == set(re.findall(r"simt::shared<(\w+)", source))
    assert {int(kilobytes) * 1024 for _, kilobytes in asserted} == {BUDGETS[name][2]}


def compiled(name, arch):
    """The compiler's report and the machine code's file, kept by the content of the sources and the compiler."""
    command = ["nvcc", "-std=c++20", f"-arch=sm_{arch}", f"-I{CUDA}", "-Xptxas", "-v", "-cubin"]
    key = hashlib.sha256(f"{nvcc_version()} {command}".encode())
    for path in sorted([CUDA / name, *kernel_headers()]):
        key.update(path.read_bytes())
    cubin = build_folder() / f"{Path(name).stem}-sm{arch}-{key.hexdigest()[:16]}.cubin"
    report = cubin.with_suffix(".txt")
    with made_once(cubin) as aside:
        if aside is not None:
            done = subprocess.run(
                [*command, "-o", str(aside), str(CUDA / name)], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
            report.write_text(done.stderr, encoding="utf-8")
    return report.read_text(encoding="utf-8"), cubin


@functools.cache
def nvcc_version():
    return subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("name", BUDGETS)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_compiles_within_its_budget(name, arch):
    report, _ = compiled(name, arch)
    assert "warning" not in report
    spills = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", report)
    assert spills
    assert {int(number) for kernel in spills for number in kernel} == {0}
    registers = max(int(number) for number in re.findall(r"Used (\d+) registers", report))
    most_registers, threads, shared_bytes = BUDGETS[name]
    assert registers <= most_registers
    blocks = min(
        REGISTERS_OF_SM // (-(-registers // 8) * 8 * threads),
        SHARED_BYTES_OF_SM // shared_bytes,
        THREADS_OF_SM // threads,
    )
    assert blocks * threads >= THREADS_OF_SM / 4  # at least a quarter of the threads that fit


def disassembler():
    """nvdisasm's path: on the path, or of the package nvidia-cuda-nvdisasm; None without either."""
    try:
        files = importlib.metadata.files("nvidia-cuda-nvdisasm") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    ours = next((file.locate() for file in files if file.name == "nvdisasm"), None)
    return shutil.which("nvdisasm") or (str(ours) if ours else None)


@pytest.mark.parametrize("name", INSTRUCTIONS)
@pytest.mark.parametrize("arch", ["80", "90", "120"])
def test_machine_code_has_the_instructions_of_the_design(name, arch):
    if disassembler() is None:
        pytest.skip("nvdisasm is not installed (pip install nvidia-cuda-nvdisasm)")
    _, cubin = compiled(name, arch)
    code = subprocess.run([disassembler(), "-c", str(cubin)], capture_output=True, text=True, check=True).stdout
    kernels = dict(re.findall(r"\.section\s+\.text\.(\S+?),.*?\n(.*?)(?=\.section\s|\Z)", code, re.DOTALL))
    assert kernels
    for text in kernels.values():
        assert not re.search(r"\b(STL|LDL)\b", text)  # nothing goes through the stack
    for part, pattern in INSTRUCTIONS[name]:
        chosen = {kernel: text for kernel, text in kernels.items() if part in kernel}
        assert chosen, part
        for kernel, text in chosen.items():
            assert re.search(pattern, text), (kernel, pattern)
