"""open_array: every format gives the same numbers; what is damaged, ambiguous or dangerous is refused in words."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from itm_fast.errors import DataError
from itm_fast.sources.array_files import open_array

SIMS = np.random.default_rng(0).standard_normal((4, 20)).astype(np.float32)


class Bomb:
    """Leaves a file behind where it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch exploded",)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert not (tmp_path / "exploded").exists()


def write(name, content):
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return name


def saved(name, value):
    torch.save(value, name)
    return name


def npy(name, value):
    np.save(name, value)
    return name


WRITERS = {
    "sims.npy": lambda name: np.save(name, SIMS),
    "fortran.npy": lambda name: np.save(name, np.asfortranarray(SIMS)),
    "sims.npz": lambda name: np.savez(name, sims=SIMS, npts=np.array(4)),
    "small.npz": lambda name: np.savez_compressed(name, SIMS),
    "sims.txt": lambda name: np.savetxt(name, SIMS),
    "sims.json": lambda name: write(name, json.dumps(SIMS.tolist())),
    "indented.json": lambda name: write(name, json.dumps(SIMS.tolist(), indent=1)),
    "dict.json": lambda name: write(name, json.dumps({"sims": SIMS.tolist(), "npts": 4})),
    "sims.pt": lambda name: torch.save(torch.from_numpy(SIMS), name),
    "parameter.pth": lambda name: torch.save(torch.nn.Parameter(torch.from_numpy(SIMS)), name),
    "old.pt": lambda name: torch.save(torch.from_numpy(SIMS), name, _use_new_zipfile_serialization=False),
    "dict.pth": lambda name: torch.save({"sims": torch.from_numpy(SIMS), "ids": torch.arange(4), "epoch": 3}, name),
    "sims.safetensors": lambda name: save_file({"sims": torch.from_numpy(SIMS), "n": torch.zeros(1)}, name),
}


@pytest.mark.parametrize("name", WRITERS)
def test_formats(name):
    WRITERS[name](name)
    found = open_array(name, 2)
    assert isinstance(found, torch.Tensor) == name.endswith((".pt", ".pth", ".safetensors"))
    assert not getattr(found, "requires_grad", False)
    np.testing.assert_array_equal(np.asarray(found), SIMS)


def test_names_and_narrow_types():
    torch.save({"a": torch.zeros(2, 3), "b": torch.ones(2, 3, dtype=torch.bfloat16)}, "two.pt")
    assert open_array("two.pt:b").dtype == torch.bfloat16
    np.savez("two.npz", a=np.zeros((2, 3)), b=np.zeros((3, 2)))
    assert open_array("two.npz:b", 2).shape == (3, 2)
    torch.save([torch.zeros(2, 3), torch.ones(1)], "list.pt")
    assert open_array("list.pt:1").tolist() == [1]
    np.save("odd:name.npy", SIMS)
    assert open_array("odd:name.npy").shape == (4, 20)
    assert open_array(write("map.json", "[0, 0, 1, 2]"), 1).dtype.kind == "i"
    assert open_array(write("map.txt", "0\n0\n1\n2"), 1).dtype.kind == "i"
    assert open_array(write("vector.txt", "0.5\n2\n"), 1).tolist() == [0.5, 2]


def test_text():
    write("sims.tsv", "0.5\t0.25\n")
    assert open_array("sims.tsv", 2).tolist() == [[0.5, 0.25]]
    by_hand = "# by hand\n\n1.0\t2 # first\n3, -0.4\r\n\n"
    for content in ("\ufeff1,2\n3,-.4\n", "1,2,\n3 , -0.4,\n", "1 2\n3 -4e-1\n", "1,2\n3,-.4", by_hand):
        assert open_array(write("rows.txt", content), 2).tolist() == [[1, 2], [3, -0.4]]
        assert open_array(write("rows.csv", content), 2).tolist() == [[1, 2], [3, -0.4]]
    for content, fragment in (
        ("1 2\n3\n", "rows.txt:2: 1 numbers, but the first row has 2"),
        ("1 2\nthree 4\n", "rows.txt:2: could not convert"),
        ("1,5 2,5\n3,5 4,5\n", "rows.txt:1: could not convert"),  # decimal commas, not eight numbers
        ("1,,2\n3,,4\n", "rows.txt:1: could not convert"),  # an empty column
        (",a,b\n0,0.1,0.2\n", "a row of numbers, as np.savetxt writes it, without headings"),
        ("0,1,2\n0.5,0.1,0.2\n", "rows.txt: its first row counts 0 ... 2: a heading or an index; leave it out"),
        ("0,0.5\n1,0.1\n2,0.3\n", "rows.txt: its first column counts 0 ... 2: a heading or an index"),
        ("# nothing\n\n", "rows.txt: holds no numbers"),
        (b"\xff\xfe1\x00", "rows.txt:1: "),
        ("(1+2j) 3\n", "rows.txt:1: "),
    ):
        with pytest.raises(DataError) as raised:
            open_array(write("rows.txt", content))
        assert fragment in str(raised.value)


@given(
    st.lists(st.lists(st.floats(allow_nan=False) | st.integers(-9, 9), min_size=2, max_size=2), min_size=1, max_size=4),
    st.sampled_from([None, 0, 2]),
)
def test_json_as_the_json_module_reads_it(tmp_path_factory, rows, indent):
    path = tmp_path_factory.getbasetemp() / "rows.json"
    path.write_text(json.dumps(rows, indent=indent))  # infinities are written as Infinity
    np.testing.assert_array_equal(open_array(path, 2), np.array(json.loads(path.read_text()), dtype=float))


@pytest.mark.parametrize("dtype", ["float16", "float32", ">f8", "int64"])
def test_pickled_dict(dtype):
    np.save("results.npy", {"npts": 4, "sims": np.asfortranarray(SIMS.astype(dtype)), "name": "x"})
    found = open_array("results.npy", 2, pickled=True)
    assert found.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(found, SIMS.astype(dtype))
    np.testing.assert_array_equal(open_array("results.npy:sims", pickled=True), SIMS.astype(dtype))
    np.save("plain.npy", SIMS)
    np.testing.assert_array_equal(open_array("plain.npy", 2, pickled=True), SIMS)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles_that_would_run_something(protocol):
    header = b"\x93NUMPY\x01\x00\x46\x00{'descr': '|O', 'fortran_order': False, 'shape': (), }" + b" " * 15 + b"\n"
    for content in ({"sims": Bomb()}, {"npts": 1, "sims": SIMS, "more": [Bomb()]}, np.array(Bomb(), dtype=object)):
        write("bomb.npy", header + pickle.dumps(content, protocol=protocol))
        with pytest.raises(DataError, match="refused, nothing was run: the pickle asks for"):
            open_array("bomb.npy", pickled=True)
        with pytest.raises(DataError, match="read only if asked for"):
            open_array("bomb.npy")


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.995])
def test_truncated(name, share):
    WRITERS[name](name)
    content = Path(name).read_bytes()
    write(name, content[: int(share * len(content))])
    with pytest.raises(DataError, match=name):
        open_array(name, 2)


@pytest.mark.parametrize(
    ("make", "fragment"),
    [
        (lambda: npy("a.npy", SIMS[0]), "a.npy: has shape (20,), expected 2 axes"),
        (lambda: npy("a.npy", SIMS > 0), "holds bool, expected real numbers"),
        (lambda: npy("a.npy", SIMS.astype(complex)), "holds complex128, expected real numbers"),
        (lambda: npy("a.npy", SIMS.astype(str)), "expected real numbers"),
        (lambda: npy("a.npy", np.zeros((2, 2), "V2")), "NumPy has no bfloat16"),
        (lambda: npy("a.npy", {"npts": 1, "sims": SIMS}), "a pickle, which is read only if asked for"),
        (lambda: write("a.npy", "no array"), "a.npy: not a plain .npy array"),
        (lambda: saved("a.pt", {"i2t": torch.zeros(2, 2), "t2i": torch.zeros(2, 2)}), "choose with a.pt:NAME"),
        (lambda: saved("a.pt", {"i2t": torch.zeros(2, 2)}) + ":t2i", "holds i2t (2, 2); no 't2i'"),
        (lambda: saved("a.pt", {"sims": torch.zeros(2, 2)}) + ":sim", "no 'sim'; perhaps you meant sims; choose with"),
        (lambda: saved("a.pt", torch.zeros(2, 2)) + ":t2i", "holds a single array"),
        (lambda: saved("a.pt", {"epoch": 3}), "holds no arrays; expected one array of 2 axes"),
        (lambda: saved("a.pt", 7), "holds a int, expected a tensor"),
        (lambda: saved("a.pt", torch.zeros(2, 2) > 0), "holds torch.bool"),
        (lambda: saved("a.pt", torch.eye(2).to_sparse()), "torch.sparse_coo, expected real numbers"),
        (lambda: saved("a.pt", {"sims": SIMS}), "only tensors are read, nothing was run: the file asks for numpy"),
        (lambda: saved("a.pt", Bomb()), "nothing was run: the file asks for"),
        (lambda: write("a.pt", "text"), "a.pt: not a file of torch.save, or cut short"),
        (lambda: write("a.json", "[[1, 2], [3]]"), "row 1 has 1 numbers, but row 0 has 2"),
        (lambda: write("a.json", '[[1, 2], ["3", 4]]'), "expected a list of numbers or of rows of numbers"),
        (lambda: write("a.json", "[[1, 2], [true, false]]"), "expected a list of numbers or of rows of numbers"),
        (lambda: write("a.json", "[[1, 2] [3, 4]]"), "not JSON, or cut short, after row 0"),
        (lambda: write("a.json", "[[1, 2], [3, 4]] 5"), "not JSON, or cut short, after row 1"),
        (lambda: write("a.json", "[[[1], [2]]]"), "not JSON, or cut short, in row 0"),
        (lambda: write("a.json", "[]"), "has shape (0,), expected 2 axes"),
        (lambda: write("a.json", "7"), "holds a int, expected a list"),
        (lambda: write("a.json", b"\xff\xfe"), "a.json: not JSON"),
        (lambda: write("a.csv.xz", "1,2"), "not known as a file of arrays; expected .npy, .npz"),
    ],
)
def test_refused(make, fragment):
    with pytest.raises(DataError) as raised:
        open_array(make(), 2)
    assert fragment in str(raised.value)


@pytest.mark.parametrize("name", ["none.npy", "none.pt", "none.pt:sims", "none.json", "none.safetensors"])
def test_missing(name):
    with pytest.raises(FileNotFoundError):
        open_array(name)


@pytest.mark.slow
def test_large_files_are_mapped():
    # 128 MiB a file, of which a few numbers are read: far less may become resident.
    large = torch.zeros(64, 1 << 19)
    np.save("large.npy", large.numpy())
    torch.save(large, "large.pt")
    save_file({"sims": large}, "large.safetensors")
    code = """
import resource, torch
from itm_fast.sources.array_files import open_array
torch.zeros(2)
for name in ("large.npy", "large.pt", "large.safetensors"):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    open_array(name, 2)[3, :5]
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    unit = 1 if sys.platform == "darwin" else 1024
    assert [int(grown) * unit < 64 << 20 for grown in done.stdout.split()] == [True] * 3
