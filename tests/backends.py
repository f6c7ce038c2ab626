"""One suite for every backend: tests marked `all_backends` run on the CPU's kernels, on emulated CUDA kernels, on those
with races found, and on a CUDA device, with the same inputs and tolerances. Those marked `all_backends(of=BATCHED)` run
the device's batched products on CPU tensors instead of emulated kernels.

A backend's kernels take the place of the CPU's: tests make CPU tensors and call the public functions.
"""

import contextlib
import os

import pytest

BACKENDS = ("cpu", "emulated", "emulated-races", "cuda")
BATCHED = ("cpu", "batched", "cuda")  # of operators whose device kernels are torch's products: nothing to emulate


@contextlib.contextmanager
def cuda():
    """CPU tensors go to the device, to its kernels, and back."""
    import emulated_operators
    import torch

    def moved(values, device):
        return [value.to(device) if isinstance(value, torch.Tensor) else value for value in values]

    def on_device(operator):
        mutable = [a.alias_info is not None and a.alias_info.is_write for a in operator.default._schema.arguments]

        def run(*arguments):
            given = moved(arguments, "cuda")
            result = operator(*given)
            for argument, copy, is_mutable in zip(arguments, given, mutable, strict=False):
                if is_mutable:
                    argument.copy_(copy)
            return tuple(moved(result, "cpu")) if isinstance(result, tuple) else moved([result], "cpu")[0]

        return run

    names = {*emulated_operators.operators(), *emulated_operators.batched_kernels()}
    functions = {name: on_device(getattr(torch.ops.itm_fast, name)) for name in names}
    takes_lists = torch.cuda.get_device_capability() >= (8, 0)
    with emulated_operators.in_place_of_the_cpus(functions, takes_lists=takes_lists):
        yield


@contextlib.contextmanager
def backend_named(name):
    """The kernels of a backend, or a skip that says what is missing."""
    if name == "cpu":
        yield
        return
    # here: who needs none of them need not wait for torch
    import emulated_operators
    import torch
    from emulation import compiler

    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    if name.startswith("emulated") and compiler() is None:
        pytest.skip("the emulator needs a C++ compiler (CXX, c++)")
    if name.startswith("emulated") and "libasan" in os.environ.get("LD_PRELOAD", ""):
        pytest.skip("the emulator's fibres have a sanitizer test of their own")
    if name == "batched":
        with emulated_operators.in_place_of_the_cpus(emulated_operators.batched_kernels()):
            yield
    elif name == "cuda":
        with cuda():
            yield
    else:
        pessimistic = os.environ.get("ITM_FAST_EMULATOR") == "pessimistic"
        with emulated_operators.emulated(watched=name == "emulated-races", pessimistic=pessimistic):
            yield


@pytest.fixture(autouse=True, scope="module")
def backend(request):
    """The backend's name; its kernels run until the test ends."""
    name = getattr(request, "param", "cpu")
    with backend_named(name):
        yield name


def pytest_generate_tests(metafunc):
    """Runs marked tests on every backend."""
    marker = metafunc.definition.get_closest_marker("all_backends")
    if marker is not None:
        backends, without = marker.kwargs.get("of", BACKENDS), marker.kwargs.get("without", ())
        metafunc.parametrize("backend", [b for b in backends if b not in without], indirect=True, scope="module")
