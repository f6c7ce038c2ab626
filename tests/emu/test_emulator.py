"""The emulator itself: what it computes, every fault it must find, every barrier it must miss."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from emulation import CUDA, ORDERS, PARTS, Device, EmulationError, build, compiler
from kernels import SCHEDULES

HERE = Path(__file__).parent
SELFTEST = HERE / "selftest.cu"


@pytest.fixture(scope="module")
def plain():
    return Device(build(SELFTEST, hooks=False))


@pytest.fixture(scope="module")
def watched():
    return Device(build(SELFTEST, hooks=True))


def bits_of(x):
    """bfloat16 bits of float32 numbers that are exact in it."""
    return (np.asarray(x, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def run_sum(device, n, seed=0):
    x = np.random.default_rng(seed).integers(-8, 8, n).astype(np.float32)  # sums are exact in any order
    out = device.empty(1 + -(-n // 256))
    device.run("sum", device.array(x), out, device.array(np.zeros(1, np.int32)), n)
    assert out.numpy()[0] == x.sum()


def run_transpose(device, n, padded=1):
    x = np.random.default_rng(n).standard_normal((n, n)).astype(np.float32)
    out = device.empty((n, n))
    device.run("transpose", device.array(x), out, n, padded)
    assert np.array_equal(out.numpy(), x.T)


def run_product(device, k):
    rng = np.random.default_rng(k)
    a, b = rng.integers(-9, 9, (16, k)), rng.integers(-9, 9, (8, k))
    out = device.empty((16, 8))
    padded = -(-k // 8) * 8  # rows begin at addresses of 16 bytes
    wide_a, wide_b = np.zeros((16, padded)), np.zeros((8, padded))
    wide_a[:, :k], wide_b[:, :k] = a, b
    device.run("product", device.array(bits_of(wide_a)), device.array(bits_of(wide_b)), out, padded)
    assert np.array_equal(out.numpy(), a @ b.T)


@pytest.mark.parametrize(("order", "seed"), SCHEDULES)
def test_results_do_not_depend_on_the_schedule(plain, order, seed):
    for resident_blocks in (1, 3):
        plain.configure(order, seed, resident_blocks=resident_blocks)
        for n in (1, 255, 256, 257, 2000):
            run_sum(plain, n)
        for n in (1, 31, 33, 70):
            run_transpose(plain, n)
        for k in (1, 16, 24, 64, 200):
            run_product(plain, k)


@pytest.mark.parametrize(("order", "seed"), SCHEDULES[:6])
def test_correct_kernels_are_clean(watched, order, seed):
    for preemption in (0.0, 0.05):
        watched.configure(order, seed, resident_blocks=2, preemption=preemption, check_races=True)
        run_sum(watched, 1000)
        run_transpose(watched, 40)
        run_product(watched, 72)
    assert watched.statistics()["races"] == 0
    assert watched.statistics()["accesses"] > 1000


def test_number_types_and_matrix_loads(plain):
    """Distinct integers, exact in every type: a wrong place in a layout shows."""
    rng = np.random.default_rng(0)
    a, b = rng.integers(-40, 40, (16, 16)), rng.integers(-40, 40, (16, 8))
    p, q = rng.integers(-900, 900, (16, 8)), rng.integers(-900, 900, (8, 8))
    out = plain.empty((2, 16, 8))
    wide = np.concatenate([p.ravel(), q.ravel()]).astype(np.float32)
    plain.configure("random", 1)
    plain.run("types", plain.array(a.astype(np.float16)), plain.array(b.astype(np.float16)), plain.array(wide), out)
    assert np.array_equal(out.numpy()[0], a @ b)
    assert np.array_equal(out.numpy()[1], p @ q)


def test_collectives(plain):
    plain.configure("random", 5)
    out = plain.empty((64, 16))
    plain.run("collectives", out)
    found = out.numpy()
    t = np.arange(64)
    lane, warp = t % 32, t // 32 * 32
    assert np.array_equal(found[:, 0], warp + 3)
    assert np.array_equal(found[:, 1], t // 8 * 8 + 3)
    assert np.array_equal(found[:, 2], t ^ 5)
    assert np.array_equal(found[:, 3], np.where(lane < 28, t + 4, t))
    assert np.array_equal(found[:, 4], np.where(t % 16 >= 4, t - 4, t))
    assert (found[:, 5] == 11).all()
    assert (found[:, 6] == 2).all()
    assert (found[:, 7] == 32).all()
    assert (found[:, 8] == 1).all()
    assert (found[:, 9] == 0).all()
    assert np.array_equal(found[lane < 16, 10], t[lane < 16] ^ 1)
    assert np.array_equal(found[:, 11], [(np.arange(8) + i // 8 * 8 ^ 21).max() for i in lane])


def test_half_precision_numbers_are_ieee(plain):
    to_float = plain.function("f16_to_float", ctypes.c_float, ctypes.c_uint16)
    to_half = plain.function("float_to_f16", ctypes.c_uint16, ctypes.c_float)
    to_bf16 = plain.function("float_to_bf16", ctypes.c_uint16, ctypes.c_float)
    bits = np.arange(0, 65536, 7, dtype=np.uint16)
    expected = bits.view(np.float16).astype(np.float32)
    found = np.array([to_float(int(b)) for b in bits], np.float32)
    np.testing.assert_array_equal(found, expected)
    rng = np.random.default_rng(0)
    numbers = (rng.standard_normal(4000) * 10.0 ** rng.integers(-9, 6, 4000)).astype(np.float32)
    numbers = np.concatenate([numbers, np.float32([0, -0.0, 65519, 65520, 2**-24, 2**-25, 1.5 * 2**-24, np.inf])])
    with np.errstate(over="ignore"):
        halves = numbers.astype(np.float16).view(np.uint16)
    assert [to_half(float(x)) for x in numbers] == halves.tolist()
    import torch

    brains = torch.from_numpy(numbers).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    assert [to_bf16(float(x)) for x in numbers] == brains.tolist()


FAULTS = {
    0: r"shared memory out of bounds: byte \d+ of 128",
    1: r"global memory out of bounds: byte \d+ of a buffer of 400",
    2: "divergent __syncthreads: lines",
    3: "deadlock:",
    4: "two blocks write",
    5: "a read of what nobody wrote, shared byte 12",
    6: "asynchronous copies it never waited for",
    7: "meet in different places",
    8: "a lane outside its mask",
    9: "aligned to 16 bytes",
    10: r"races with a (read|write), shared byte 0|nobody wrote",
    11: r"races with a (read|write), shared|nobody wrote",
    12: "deadlock:",
    13: "global memory out of bounds: byte -4",
    15: "a read of what nobody wrote, global byte 4",
}


@pytest.mark.parametrize(("which", "message"), FAULTS.items())
@pytest.mark.parametrize("order", ORDERS)
def test_every_fault_is_found(watched, which, message, order):
    watched.configure(order, 1, check_races=True)
    x, out = watched.array(np.ones(100, np.float32)), watched.empty(100)
    # Lanes that leave while others name them are found at one side or the other, as the order has it.
    message = {3: "exit", 12: "exit"}.get(which, message)
    with pytest.raises(EmulationError, match=r"deadlock|exit" if message == "exit" else message) as raised:
        watched.run("fault", x, out, 100, which)
    assert "fault_kernel" in str(raised.value)
    watched.run("fault", x, out, 100, 99)  # and the device goes on


def test_a_report_names_the_line(watched):
    if shutil.which("addr2line") is None:
        pytest.skip("addr2line is not installed")
    watched.configure(check_races=True)
    with pytest.raises(EmulationError, match=r"selftest\.cu:(\d+)") as raised:
        watched.run("fault", watched.array(np.ones(100, np.float32)), watched.empty(100), 100, 10)
    line = int(str(raised.value).split("selftest.cu:")[1].split()[0].strip(",;"))
    assert "no barrier between" in SELFTEST.read_text(encoding="utf-8").splitlines()[line - 1]


def test_who_exits_is_not_waited_for(watched):
    watched.configure(check_races=False)
    out = watched.array(np.zeros(100, np.float32))
    watched.run("fault", out, out, 100, 14)
    assert out.numpy()[0] == 1


@pytest.mark.parametrize(("threads", "shared"), [(0, 0), (1025, 0), (64, 228 * 1024)])
def test_launches_that_no_device_takes(plain, threads, shared):
    with pytest.raises(EmulationError, match="invalid launch configuration"):
        plain.run("bad_launch", plain.empty(2000), threads, shared)
    with pytest.raises(EmulationError, match="shared struct has 128 bytes, but the launch gave 16"):
        plain.run("little_shared", plain.empty(1))


def test_memory_that_is_used_again_has_one_record(watched):
    """An operator's tensors take the memory of freed ones, whose records are still there."""
    library = watched._library
    library.emu_adopt.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    library.emu_forget.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    memory, out = np.ones(4096, np.float32), watched.empty((32, 32))
    address = memory.ctypes.data

    def transpose(first):
        library.emu_take_error()
        library.transpose(ctypes.c_void_p(address + 4 * first), ctypes.c_void_p(out.pointer), 32, 1)
        return library.emu_take_error().decode()

    watched.configure(check_races=True)
    try:
        library.emu_adopt(address, 4 * 1600, 0)
        library.emu_adopt(address + 4 * 800, 4 * 1600, 0)  # the rest of the first is not forgotten
        assert "nobody wrote" in transpose(1000)
        library.emu_adopt(address + 4 * 400, 4 * 1024, 1)  # in both
        assert not transpose(400)
        assert "nobody wrote" in transpose(1200)
        library.emu_adopt(address, 4 * 4096, 0)  # around all of them: what was written stays so
        assert not transpose(400)
        library.emu_forget(address + 4 * 500, 4 * 8)
        library.emu_adopt(address + 4 * 500, 4 * 8, 0)
        assert "nobody wrote" in transpose(400)
    finally:
        library.emu_release()


def test_thread_indices_are_no_memory(watched):
    """The emulator may keep them where a tensor lay, whose record says that nobody has written there."""
    library, out = watched._library, watched.empty(64, np.uintp)
    library.emu_adopt.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    watched.configure(check_races=True)
    watched.run("places", out)
    places = out.numpy()
    try:
        for place in places:
            library.emu_adopt(int(place), 12, 0)
        watched.run("places", out)
    finally:
        library.emu_release()
    assert np.array_equal(out.numpy(), places)


MUTANTS = [
    (1, run_sum, 1000),
    (2, run_sum, 1000),
    (4, run_sum, 1000),
    (1, run_transpose, 40),
    (1, run_product, 72),
    (2, run_product, 72),
]


@pytest.mark.parametrize(("bug", "kernel", "size"), MUTANTS)
def test_every_barrier_that_is_left_out_is_missed(watched, bug, kernel, size):
    for order in ORDERS:
        watched.configure(order, 3, check_races=True)
        with watched.without(bug), pytest.raises(EmulationError, match=r"race|nobody wrote|exit|another block"):
            kernel(watched, size)


def test_a_wait_that_is_too_lax_is_missed(plain):
    with plain.without(3), pytest.raises((AssertionError, EmulationError)):
        run_product(plain, 72)


def test_traffic_is_counted(watched):
    watched.configure(traffic=True)
    for padded, ways in ((1, 1), (0, 32)):
        watched.traffic()
        run_transpose(watched, 64, padded)
        rows = watched.traffic()
        reads = [row for row in rows if row["shared"] and not row["write"]]
        assert [row["units"] for row in reads] == [ways * row["ideal"] for row in reads]
        for row in rows:
            if not row["shared"]:
                assert row["units"] == row["ideal"] == 4 * row["requests"]  # 128 bytes a warp
    watched.configure()


def test_the_emulator_is_clean_under_sanitizers(tmp_path):
    program = tmp_path / "sanitized"
    flags = ["-std=c++20", "-O0", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
    parts = [*(HERE / f"{part}.cpp" for part in (*PARTS, "sanitized")), *("-x", "c++", SELFTEST)]
    command = [*compiler(), *flags, f"-I{HERE}", f"-I{CUDA}", *map(str, parts), "-o", str(program), "-ldl"]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if "cannot find" in built.stderr:
        pytest.skip("the compiler has no sanitizer libraries")
    assert built.returncode == 0, built.stderr
    done = subprocess.run(
        [str(program)], capture_output=True, text=True, check=False, env={"ASAN_OPTIONS": "detect_leaks=0"}
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == str(4 * 2 * 7)


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_120"])
def test_the_same_file_compiles_for_a_device(tmp_path, arch):
    command = ["nvcc", "-std=c++20", f"-arch={arch}", f"-I{CUDA}", "-Xptxas", "-v", "-cubin", str(SELFTEST)]
    done = subprocess.run(
        [*command, "-o", str(tmp_path / "kernels.cubin")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("0 bytes spill stores") >= 6
