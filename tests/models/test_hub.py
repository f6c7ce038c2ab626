"""The hub's layout: a repository in its cache loads without network, a folder is pushed whole, names are checked."""

import builtins
import importlib
import shutil
from types import SimpleNamespace

import pytest
import torch

from itm_fast.errors import DataError
from itm_fast.models import SCAN, SCANConfig, load_model, push_model, save_model

hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed (pip install 'itm-fast[train]')")
RESULTS = {"rsum": 12.5, "i2t": {"R@1": 1.25, "R@5": 5.0}, "t2i": {"R@1": 0.5, "R@5": 4.0}, "is_best": True}


@pytest.fixture
def model(vocabulary):
    torch.manual_seed(0)
    return SCAN(SCANConfig(img_dim=10, word_dim=5, embed_size=8), vocabulary)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and no network."""
    importlib.import_module("huggingface_hub.constants")
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def cached(folder, cache, name, revision="0" * 40):
    """What a download leaves: snapshots/{commit}, and the commit's name under refs."""
    home = cache / ("models--" + name.replace("/", "--"))
    shutil.copytree(folder, home / "snapshots" / revision)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(revision)


def test_a_repository_in_the_cache(model, cache, tmp_path):
    save_model(model, tmp_path / "model", RESULTS)
    cached(tmp_path / "model", cache, "someone/scan")
    for name in ("hf-hub:someone/scan", f"hf-hub:someone/scan@{'0' * 40}"):
        torch.testing.assert_close(load_model(name).state_dict(), model.state_dict(), rtol=0, atol=0)


def test_a_repository_that_is_not_there(cache):
    with pytest.raises(FileNotFoundError, match=r"hf-hub:someone/else: not in the cache \(.*hub\) and not to be had"):
        load_model("hf-hub:someone/else")


@pytest.mark.parametrize("name", ["scan", "a/b/c", "/scan", "a/", "../.."])
def test_names(name, tmp_path):
    with pytest.raises(ValueError, match='expected "owner/name"'):
        load_model(f"hf-hub:{name}")
    with pytest.raises(ValueError, match='expected "owner/name"'):
        push_model(tmp_path, name)


@pytest.fixture
def api(monkeypatch):
    calls = []

    class Api:
        def __init__(self, token):
            calls.append(("token", token))

        def create_repo(self, repo_id, private, exist_ok):
            calls.append(("create", repo_id, private, exist_ok))

        def upload_folder(self, **options):
            calls.append(("upload", options["repo_id"], options["folder_path"], options["ignore_patterns"]))
            return SimpleNamespace(commit_url="address of the commit")

    monkeypatch.setattr(hub, "HfApi", Api)
    return calls


def test_push(model, tmp_path, api):
    save_model(model, tmp_path)
    assert push_model(tmp_path, "someone/scan", private=True) == "address of the commit"
    assert api[1:] == [("create", "someone/scan", True, True), ("upload", "someone/scan", str(tmp_path), [".*"])]


def test_what_cannot_be_loaded_is_not_pushed(model, tmp_path, api):
    save_model(model, tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"half")
    with pytest.raises(DataError, match="not a safetensors file"):
        push_model(tmp_path, "someone/scan")
    assert api == []


def test_the_readme_has_what_the_run_found(model, tmp_path):
    save_model(model, tmp_path, RESULTS)
    text = (tmp_path / "README.md").read_text()
    assert text.startswith("---\nlibrary_name: itm-fast\n")
    assert "- scan\n---\n" in text
    assert "| R@1 | 1.2 | 0.5 |" in text
    assert "rsum 12.5" in text
    save_model(model, tmp_path)
    assert "rsum" not in (tmp_path / "README.md").read_text()


def test_without_the_library(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("huggingface_hub"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'itm-fast\[train\]'"):
        load_model("hf-hub:someone/scan")
