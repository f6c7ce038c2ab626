"""nvcc's view of the kernels: they compile for every architecture, without spills, within their budgets, and to the
instructions that the design counts on."""

import functools
import hashlib
import itertools
import re
import shutil
import subprocess
from pathlib import Path

import _cubins as cubins
import pytest
from _machine_code import disassembler, kept
from emulation import CUDA, build_folder, kernel_headers, made_once

pytestmark = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")

ARCHITECTURES = ("75", "80", "86", "90", "100", "120")
# Registers a thread, threads and shared bytes of a block at most; they bound how many warps fit.
BUDGETS = {
    "attended_vectors.cu": (128, 256, 81 * 1024),
    "attention_chunks.cu": (128, 512, 99 * 1024),  # at most: the operator works in memory where contexts need more
    "chunks.cu": (128, 256, 99 * 1024 // 2),  # at most: the operator works in place where S of a pair needs more
    "cider.cu": (80, 256, 28 * 1024),
    "gather.cu": (64, 256, 19 * 1024),
    "gradients.cu": (128, 128, 5 * 1024),
    "largest.cu": (255, 256, 81 * 1024),
    "listed_products.cu": (255, 256, 81 * 1024),
    "ranking.cu": (64, 256, 9 * 1024),
    "semantic_margin.cu": (64, 256, 20 * 1024),
    "tiles.cu": (255, 256, 81 * 1024),
    "topk.cu": (96, 256, 99 * 1024 // 2),  # at most: longer lists are kept in memory
    "triplet.cu": (64, 256, 6 * 1024),
    "vectors.cu": (64, 1024, 9 * 1024),
}
SHARED_BYTES_OF_SM, THREADS_OF_SM, REGISTERS_OF_SM = 100 * 1024, 1536, 65536  # the least from 8.0 on
# 7.5 has less of them: what asks for what it needs is told so, and what has tile products is not launched there.
SHARED_BYTES_OF_TURING, THREADS_OF_TURING = 64 * 1024, 1024
TILE_PRODUCTS = ("attended_vectors.cu", "largest.cu", "listed_products.cu", "tiles.cu")
FITS_ITSELF = (*TILE_PRODUCTS, "attention_chunks.cu", "chunks.cu", "topk.cu")
# Kernels with tile products keep sums in registers: threads of a block, and blocks that must fit by registers, by a
# part of their names. Two fit by shared memory from 164 KB (8.0) on; the architectures with 100 KB run one.
PRODUCT_BLOCKS = {
    "tiles_kernel": (128, 2),  # or one of 256
    "ProductTf32x3": (256, 1),
    "Product": (128, 2),
    "attended_vectors": (256, 2),
}
# In every kernel whose mangled name holds the first string: a pattern of machine code.
INSTRUCTIONS = {
    "attended_vectors.cu": [
        ("vectors_kernelIN4simt4bf16E", r"HMMA\.16816\.F32\.BF16"),
        ("gradients_kernelIN4simt4bf16E", r"HMMA\.16816\.F32\.BF16"),
        ("vectors_kernelIN4simt3f16E", r"HMMA\.16816\.F32 "),
        ("vectors_kernel", r"LDGSTS\.E\.BYPASS.*\.128"),
        ("gradients_kernel", r"LDGSTS\.E\.BYPASS.*\.128"),
        ("vectors_kernel", r"LDSM\.16\.M88\.4"),
        ("gradients_kernel", r"STG\.E\.128"),
        ("words_kernel", r"LDG\.E\.128"),
    ],
    "attention_chunks.cu": [
        ("attend_kernel", r"HMMA\.16816\.F32 "),
        ("attend_kernel", r"LD(G|)\.E\.128"),  # the Gram matrices
        ("attend_kernel", r"LDS\.128"),  # and the weights
        ("number_rows_kernelINS0_10ScaledRows", r"LD(G|)\.E\.128"),
        ("number_rows_kernelINS0_13SoftmaxOfRows", r"LD(G|)\.E\.128"),
        ("split_gram", r"STG?\.E\.128"),
    ],
    "tiles.cu": [
        ("tiles_kernel", r"HMMA\.16816\.F32\.BF16"),
        ("tiles_kernel", r"HMMA\.16816\.F32 "),
        ("tiles_kernel", r"HMMA\.1688\.F32\.TF32"),
        ("gram_kernelINS0_11ProductBf16", r"HMMA\.16816\.F32\.BF16"),
        ("kernel", r"LDGSTS\.E\.BYPASS.*\.128"),  # vectors: 16 bytes a lane, past the registers
        ("kernel", r"LDSM\.16\.M88\.4"),
        ("Rows", r"LDG\.E\.128"),  # Gram matrices
        ("Rows", r"HMMA\.1688\.F32\.TF32"),  # and the attention's products with them
    ],
    "largest.cu": [
        ("largest_kernelINS0_11ProductBf16", r"HMMA\.16816\.F32\.BF16"),
        ("largest_kernelINS0_10ProductF16", r"HMMA\.16816\.F32 "),
        ("largest_kernelINS0_11ProductTf32E", r"HMMA\.1688\.F32\.TF32"),
        ("largest_kernelINS0_13ProductTf32x3", r"HMMA\.1688\.F32\.TF32"),
        ("largest_kernel", r"LDGSTS\.E\.BYPASS.*\.128"),
        ("largest_kernel", r"LDSM\.16\.M88\.4"),
    ],
    "listed_products.cu": [
        ("listed_kernelINS0_11ProductBf16", r"HMMA\.16816\.F32\.BF16"),
        ("listed_kernelINS0_10ProductF16", r"HMMA\.16816\.F32 "),
        ("listed_kernelINS0_11ProductTf32E", r"HMMA\.1688\.F32\.TF32"),
        ("listed_kernelINS0_13ProductTf32x3", r"HMMA\.1688\.F32\.TF32"),
        ("listed_kernel", r"LDGSTS\.E\.BYPASS.*\.128"),
        ("listed_kernel", r"LDSM\.16\.M88\.4"),
    ],
    "gather.cu": [
        ("kernelIfE", r"LDG\.E\.128"),
        ("kernelIN4simt3f16E", r"LDG\.E\.64"),
        ("kernelIN4simt4bf16E", r"LDG\.E\.64"),
    ],
    "chunks.cu": [("chunk_kernelIfLb1ELb1", r"LDG\.E\.128|LD\.E\.128")],  # S into shared memory
}
OF_TURING = {"chunks.cu": [("chunk_kernelIfLb1", r"LDG\.E\.128|LD\.E\.128")]}  # the forward pass runs there only


def test_every_kernel_file_has_a_budget():
    assert {path.name for path in CUDA.glob("*.cu")} == set(BUDGETS)


@pytest.mark.parametrize(
    "name", sorted(set(BUDGETS) - {"attention_chunks.cu", "chunks.cu", "topk.cu"})
)  # these ask for what they need
def test_shared_memory_is_asserted_to_fit(name):
    source = (CUDA / name).read_text(encoding="utf-8")
    asserted = re.findall(r"sizeof\((\w+)(?:<\w+>)?\) <= (\d+) \* 1024", source)
    assert {struct for struct, _ in asserted} == set(re.findall(r"simt::shared<(\w+)", source))
    assert {int(kilobytes) * 1024 for _, kilobytes in asserted} == {BUDGETS[name][2]}


def sources_of(name):
    """The files that a kernel file's machine code is made from."""
    return [CUDA / name, *kernel_headers()]


def compiled(name, arch):
    """The machine code's file, kept by the content of the sources and the compiler."""
    command = ["nvcc", "-std=c++20", f"-arch=sm_{arch}", f"-I{CUDA}", "-Werror", "all-warnings", "-cubin"]
    key = hashlib.sha256(f"{nvcc_version()} {command}".encode())
    for path in sorted(sources_of(name)):
        key.update(path.read_bytes())
    cubin = build_folder() / f"{Path(name).stem}-sm{arch}-{key.hexdigest()[:16]}.cubin"
    with made_once(cubin) as aside:
        if aside is not None:
            done = subprocess.run(
                [*command, "-o", str(aside), str(CUDA / name)], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
    return cubin


def machine_code(name, arch):
    """A file's machine code: the build's (`make test` keeps it) unless a source is newer, else compiled here."""
    newest, path = max(path.stat().st_mtime for path in sources_of(name)), kept(Path(name).stem, arch)
    if path is not None and path.stat().st_mtime > newest:
        return path
    return compiled(name, arch)


@functools.cache
def nvcc_version():
    return subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("name", BUDGETS)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_compiles_within_its_budget(name, arch):
    kernels = cubins.usage(machine_code(name, arch))
    assert kernels
    assert all(stack == 0 for _, stack in kernels.values())  # so nothing is spilled either
    registers = max(registers for registers, _ in kernels.values())
    most_registers, threads, shared_bytes = BUDGETS[name]
    assert registers <= most_registers
    turing = arch == "75"
    if name in TILE_PRODUCTS and not turing:  # which never runs them
        assert 2 * (shared_bytes + 1024) <= 164 * 1024
        for kernel, (of_kernel, _) in kernels.items():
            threads, blocks = next((of for part, of in PRODUCT_BLOCKS.items() if part in kernel), (256, 1))
            assert REGISTERS_OF_SM // (-(-of_kernel // 8) * 8 * threads) >= blocks, kernel
        return
    shared_of_sm, threads_of_sm = (
        (SHARED_BYTES_OF_TURING, THREADS_OF_TURING) if turing else (SHARED_BYTES_OF_SM, THREADS_OF_SM)
    )
    blocks = min(
        REGISTERS_OF_SM // (-(-registers // 8) * 8 * threads),
        2 if turing and name in FITS_ITSELF else shared_of_sm // shared_bytes,
        threads_of_sm // threads,
    )
    assert blocks * threads >= threads_of_sm / 4  # at least a quarter of the threads that fit


STACKED = """
__global__ void straight(float* out) { out[threadIdx.x] = 1.0f; }
__global__ void stacked(float* out, int n) {
  float numbers[40];
  for (int i = 0; i < 40; i++) numbers[i] = out[i * n];
  for (int i = 0; i < n; i++) out[i] = numbers[int(out[i])];
}
"""


def test_machine_code_is_read_as_the_assembler_reports_it(tmp_path):
    source, cubin = tmp_path / "stacked.cu", tmp_path / "stacked.cubin"
    source.write_text(STACKED, encoding="utf-8")
    command = ["nvcc", "-arch=sm_80", "-Xptxas", "-v", "-cubin", "-o", str(cubin), str(source)]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    said = re.findall(
        r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame.*?Used (\d+) registers", report, re.DOTALL
    )
    assert [int(stack) > 0 for name, stack, _ in sorted(said)] == [True, False]
    assert cubins.usage(cubin) == {name: (int(registers), int(stack)) for name, stack, registers in said}


@pytest.mark.parametrize(
    ("arch", "name"),
    [*itertools.product(("80", "90", "120"), INSTRUCTIONS), *itertools.product(("75",), OF_TURING)],
)
def test_machine_code_has_the_instructions_of_the_design(name, arch):
    if disassembler() is None:
        pytest.skip("nvdisasm is not installed (pip install nvidia-cuda-nvdisasm)")
    cubin = machine_code(name, arch)
    code = subprocess.run([disassembler(), "-c", str(cubin)], capture_output=True, text=True, check=True).stdout
    kernels = dict(re.findall(r"\.section\s+\.text\.(\S+?),.*?\n(.*?)(?=\.section\s|\Z)", code, re.DOTALL))
    assert kernels
    assert not any(re.search(r"\b(STL|LDL)\b", text) for text in kernels.values())  # nothing goes through the stack
    for part, pattern in (OF_TURING if arch == "75" else INSTRUCTIONS)[name]:
        chosen = {kernel: text for kernel, text in kernels.items() if part in kernel}
        assert chosen, part
        for kernel, text in chosen.items():
            assert re.search(pattern, text), (kernel, pattern)
