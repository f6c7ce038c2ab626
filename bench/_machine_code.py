"""What the built kernels' machine code says: registers, and what the loop of the tile product issues.

`make test` keeps the machine code in build/cubins; nvdisasm (pip install nvidia-cuda-nvdisasm) reads it.
"""

import functools
import importlib.metadata
import re
import shutil
import subprocess
from pathlib import Path

import _cubins

CUBINS = Path(__file__).resolve().parents[1] / "build" / "cubins"
PRODUCTS = {"bfloat16": "ProductBf16", "tf32": "ProductTf32", "float32": "ProductTf32x3"}  # of the mangled names


def disassembler():
    """nvdisasm's path: on the path, or of the package nvidia-cuda-nvdisasm; None without either."""
    try:
        files = importlib.metadata.files("nvidia-cuda-nvdisasm") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    ours = next((file.locate() for file in files if file.name == "nvdisasm"), None)
    return shutil.which("nvdisasm") or (str(ours) if ours else None)


def kept(stem, arch):
    """The machine code of a kernel file for an architecture ("90"), None where there is none."""
    names = (f"{stem}.compute_{arch}.cubin", f"{stem}.compute_{arch}.sm_{arch}.cubin")
    return next((CUBINS / name for name in names if (CUBINS / name).is_file()), None)


@functools.cache
def kernels(cubin):
    """Kernel -> its instructions, and the place of each label among them."""
    code = subprocess.run([disassembler(), "-c", str(cubin)], capture_output=True, text=True, check=True).stdout
    found = {}
    _, *parts = re.split(r"\n\.text\.(\S+):\n", code)
    for name, body in zip(parts[::2], parts[1::2], strict=True):
        instructions, labels = [], {}
        for line in body.split("\n"):
            if label := re.match(r"\.(L_x_\d+):", line.strip()):
                labels[label[1]] = len(instructions)
            elif instruction := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(.*?);?\s*$", line):
                instructions.append(instruction[1])
        found[name] = instructions, labels
    return found


def loops(instructions, labels):
    """(first, last) instruction of every loop: backward branches."""
    for at, instruction in enumerate(instructions):
        branch = re.search(r"BRA.*?`\(\.?(L_x_\d+)\)", instruction)
        if branch and labels.get(branch[1], at + 1) <= at:
            yield labels[branch[1]], at


def tile_product(arch, dtype, steps_of_stage):
    """Registers of a thread of the tile kernel, and what a warp issues for 128 bytes of K; None: not built here."""
    cubin = kept("tiles", arch)
    if cubin is None or disassembler() is None:
        return None
    name = next(name for name in kernels(cubin) if "tiles_kernel" in name and f"{PRODUCTS[dtype]}ELb1" in name)
    instructions, labels = kernels(cubin)[name]
    around = sorted(
        (last - first + 1, sum("HMMA" in text for text in instructions[first : last + 1]))
        for first, last in loops(instructions, labels)
        if any("HMMA" in text for text in instructions[first : last + 1])
    )
    inner, outer = around[0], around[-1]
    issued = outer[0] if inner == outer else outer[0] + (steps_of_stage - 1) * inner[0]
    return {"registers": _cubins.usage(cubin)[name][0], "issued": issued}
