"""The table of kernels that multiply no vectors: all of them are in it, and the documentation has it."""

import re

import _machine_code
import pytest
import roofline_kernels
from emulation import CUDA, ROOT

# Kernels that other tables have.
MULTIPLY = {
    ("attended_vectors", "vectors_kernel"),
    ("attended_vectors", "gradients_kernel"),
    ("attention_chunks", "attend_kernel"),
    ("attention_chunks", "number_rows_kernel"),
    ("chunks", "chunk_kernel"),
    ("largest", "largest_kernel"),
    ("listed_products", "listed_kernel"),
    ("tiles", "gram_kernel"),
    ("tiles", "tiles_kernel"),
}


def test_every_kernel_is_in_a_table():
    found = {
        (path.stem, name)
        for path in CUDA.glob("*.cu")
        for name in re.findall(r"SIMT_KERNEL\([^()]*\)\s+(\w+)\(", path.read_text(encoding="utf-8"))
    }
    listed = [(kernel.file, kernel.mangled) for kernel in roofline_kernels.kernels()]
    in_table = {
        (file, name) for file, name in found if any(file == of and part.startswith(name) for of, part in listed)
    }
    assert len(found) > 25
    assert found == MULTIPLY | in_table
    assert not MULTIPLY & in_table


def test_the_documentation_has_a_row_for_each():
    text = (ROOT / "docs" / "cuda.md").read_text(encoding="utf-8")
    for kernel in roofline_kernels.kernels():
        row = re.search(rf"^\| {re.escape(kernel.name)} \|.*$", text, re.MULTILINE)
        assert row, kernel.name
        assert f"| {kernel.call or 'any'} |" in row[0]


def test_the_shortest_way_through_the_loop_that_reads():
    labels = {"L_x_1": 1, "L_x_2": 6}
    code = ["S2R", "LDG.E.CONSTANT R1", "@P0 BRA `(.L_x_2)", "STS R1", "DADD R2", "DADD R2", "IADD", "BRA `(.L_x_1)"]
    assert roofline_kernels.issued((code, labels), roofline_kernels.Way(roofline_kernels.FLOAT, 1)) == (4, 2)
    assert roofline_kernels.issued((code, labels), roofline_kernels.Way(roofline_kernels.FLOAT, 1, "STS")) == (4, 2)
    with pytest.raises(LookupError, match="no loop with"):
        roofline_kernels.issued((code, labels), roofline_kernels.Way(roofline_kernels.FLOAT, 1, "LDS"))


def test_the_least_time_is_that_of_the_resource_that_binds():
    kernel = next(kernel for kernel in roofline_kernels.kernels() if kernel.name == "look for NaN")
    labels = {"L_x_1": 0}
    code = ["LDG.E.CONSTANT R1", *["FSETP"] * 7, "BRA `(.L_x_1)"]
    resources, instructions = roofline_kernels.milliseconds(kernel, "H100 SXM", (code, labels))
    assert instructions == 9
    assert resources["memory"] == pytest.approx(4 * 5000 * 25000 / 3.35e9)
    assert resources["issue slots"] == pytest.approx(5000 * 25000 / 32 * 9 / 4 / 132 / 1.98e6)
    assert roofline_kernels.blocks_of("90", 40, 256, 0) == 6
    assert roofline_kernels.blocks_of("120", 40, 256, 24 * 1024) == 4


def test_the_machine_code_of_the_build_is_read(capsys, monkeypatch):
    if _machine_code.disassembler() is None or _machine_code.kept("vectors", "90") is None:
        pytest.skip("no machine code in build/cubins, or no nvdisasm: make test, with nvcc, keeps it")
    two = {name: roofline_kernels.DEVICES[name] for name in ("A100 80 GB", "RTX 5090")}  # each takes six seconds
    monkeypatch.setattr(roofline_kernels, "DEVICES", two)
    assert roofline_kernels.main([]) == 0
    text = capsys.readouterr().out
    assert "not measured: nobody has run these kernels on a GPU" in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == 2 + len(roofline_kernels.kernels())
    assert len({line.count("|") for line in rows}) == 1
