"""Which device a name is, on machines that this one is not; and what models score in 16 bits on the CPU."""

import numpy as np
import pytest
import torch
from small_models import small_model

from itm_fast.data import PrecompDataset, Vocabulary, make_data
from itm_fast.models import MODELS
from itm_fast.ops import _library
from itm_fast.sources.devices import resolve_device
from itm_fast.sources.trained_model import ModelScorer


@pytest.fixture
def machine(monkeypatch):
    """Makes torch find so many CUDA devices, and the kernels there or not."""

    def make(n_devices, reason=None):
        _library.load()
        monkeypatch.setattr(torch.cuda, "is_available", lambda: n_devices > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: n_devices)
        monkeypatch.setattr(_library, "no_cuda", reason)

    return make


@pytest.mark.parametrize(
    ("name", "n_devices", "reason", "expected"),
    [
        ("auto", 0, None, "cpu"),
        ("auto", 2, None, "cuda"),
        ("auto", 2, "built without nvcc", "cpu"),
        ("cpu", 2, None, "cpu"),
        ("cpu", 0, "built without nvcc", "cpu"),
        ("cuda", 1, None, "cuda"),
        ("cuda:1", 2, None, "cuda:1"),
    ],
)
def test_a_device(machine, name, n_devices, reason, expected):
    machine(n_devices, reason)
    notices = []
    assert resolve_device(name, notices.append) == torch.device(expected)
    said = ["there is a CUDA device, but this build has no CUDA kernels (built without nvcc): the CPU is used"]
    assert notices == (said if name == "auto" and n_devices and reason else [])


@pytest.mark.parametrize(
    ("name", "n_devices", "reason", "fragment"),
    [
        ("cuda", 0, None, r"device is 'cuda', but torch .* finds no CUDA device; --device cpu works"),
        ("cuda:0", 0, None, r"device is 'cuda:0', but torch .* finds no CUDA device"),
        ("cuda:2", 2, None, r"device is 'cuda:2', but the CUDA devices of this machine end at 'cuda:1'"),
        ("cuda", 1, "built without nvcc", r"no CUDA kernels \(built without nvcc\); --device cpu works"),
        ("gpu", 1, None, r"device is 'gpu'; expected \"auto\", \"cpu\", \"cuda\" or \"cuda:N\""),
        ("cuda:x", 1, None, r"device is 'cuda:x'; expected \"auto\""),
        ("mps", 1, None, r"device is 'mps'; expected \"auto\""),
        ("", 1, None, r"device is ''; expected \"auto\""),
    ],
)
def test_a_device_that_is_not_there(machine, name, n_devices, reason, fragment):
    machine(n_devices, reason)
    with pytest.raises(ValueError, match=fragment):
        resolve_device(name)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    make_data(folder, n_train=4, n_dev=4, n_test=9, max_regions=4, dim=12)
    return PrecompDataset(folder, "test"), Vocabulary.load(folder / "vocab.json")


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", MODELS)
def test_half_precision(data, name, precision):
    """Near to float32 and not the same, by tiles as by pairs; the similarities themselves are float32."""
    dataset, vocabulary = data
    model = small_model(name, vocabulary, 12).eval()
    whole = slice(0, dataset.n_images), slice(0, dataset.n_captions)
    wanted = ModelScorer(model, dataset, batch_size=5)(*whole)
    scorer = ModelScorer(model, dataset, precision=precision, batch_size=5)
    found = scorer(*whole)
    assert found.dtype == torch.float32
    assert not torch.equal(found, wanted)
    # LAPS chooses patches, and another one where two score nearly alike.
    near = {"rtol": 0.05, "atol": 0.15 if name == "laps" else 0.05}
    torch.testing.assert_close(found, wanted, **near)
    rows, columns = (places.flatten() for places in np.meshgrid(np.arange(9), np.arange(45), indexing="ij"))
    torch.testing.assert_close(scorer.score_pairs(rows, columns), found.flatten(), **near)
    (note,) = (note for note in scorer.notes if precision in note)
    assert f"ran in {precision} (autocast) on cpu" in note


def test_float32_says_nothing(data):
    dataset, vocabulary = data
    (note,) = ModelScorer(small_model("vsepp", vocabulary, 12).eval(), dataset).notes
    assert "are not in the vocabulary" in note
