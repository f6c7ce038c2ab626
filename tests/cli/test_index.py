"""itm-fast index: faiss's indices beside exact search, shards, and damaged folders."""

import json

import numpy as np
import pytest
import torch

from itm_fast.cli import main as cli
from itm_fast.errors import DataError
from itm_fast.metrics.retrieved import TopK
from itm_fast.sources import faiss_index
from itm_fast.sources.search import search_vectors


def test_share_that_is_found():
    lists = [TopK(torch.zeros(2, 2), torch.tensor(items)) for items in ([[3, 1], [2, 0]], [[1, 7], [0, 2]])]
    assert faiss_index.found_share(*lists) == 75


def test_without_faiss(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(ImportError, match=r"pip install 'itm-fast\[index\]'"):
        faiss_index.build_index(np.zeros((3, 2), np.float32), tmp_path, "flat")


@pytest.fixture(scope="module")
def vectors():
    pytest.importorskip("faiss", reason="faiss is not installed: pip install 'itm-fast[index]'")
    rng = np.random.default_rng(0)
    found = rng.standard_normal((900, 16)).astype(np.float16)
    found[7] = found[3]  # equal scores
    return found


@pytest.mark.parametrize("shard_size", [1000, 400, 1])
def test_flat_is_exact(vectors, tmp_path, shard_size):
    some = vectors[: 900 if shard_size > 1 else 12]
    queries = torch.randn(20, 16, generator=torch.Generator().manual_seed(1))
    queries[0] = torch.from_numpy(vectors[3]).float()
    card = faiss_index.build_index(some, tmp_path, "flat", shard_size=shard_size)
    assert len(card["shards"]) == -(-len(some) // shard_size)
    found, exact = faiss_index.search_index(tmp_path, queries, 10), search_vectors(some, queries, 10)
    torch.testing.assert_close(found.values, exact.values, rtol=1e-5, atol=1e-5)
    assert faiss_index.found_share(exact, found) == 100
    assert found.indices[0, :2].tolist() == [3, 7]


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_others_find_most(vectors, tmp_path, kind):
    queries = torch.from_numpy(vectors[::9]).float()
    faiss_index.build_index(vectors, tmp_path, kind, shard_size=500)
    found, exact = faiss_index.search_index(tmp_path, queries, 5), search_vectors(vectors, queries, 5)
    assert faiss_index.found_share(exact, found) > (95 if kind == "hnsw" else 15)  # ivf looks at a list of 12
    own = (queries * queries).sum(1)
    assert (found.values[:, 0] - own).abs().le(1e-3).float().mean() > 0.5


@pytest.mark.parametrize(
    ("change", "error", "fragment"),
    [
        (lambda f: (f / "index.json").unlink(), FileNotFoundError, "itm-fast index writes one"),
        (lambda f: (f / "index.json").write_text("[]"), DataError, "not written by itm-fast index"),
        (lambda f: (f / "flat.0000.faiss").unlink(), FileNotFoundError, "flat.0000.faiss"),
        (lambda f: (f / "flat.0000.faiss").write_bytes(b"IxFI"), DataError, "cut short"),
        (lambda f: _edit(f, "shards", [{"file": "../x", "first": 0, "n": 1}]), DataError, "not written by"),
        (lambda f: _edit(f, "shards", []), DataError, "not written by"),
        (lambda f: _edit(f, "dim", 16.5), DataError, "not written by"),
    ],
)
def test_damaged(vectors, tmp_path, change, error, fragment):
    faiss_index.build_index(vectors[:9], tmp_path, "flat")
    change(tmp_path)
    with pytest.raises(error, match=fragment):
        faiss_index.search_index(tmp_path, torch.zeros(1, 16), 2)


def _edit(folder, key, value):
    card = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps(card | {key: value}))


@pytest.mark.parametrize(
    ("call", "fragment"),
    [
        (lambda v, f: faiss_index.build_index(v, f, "pq"), '"hnsw"'),
        (lambda v, f: faiss_index.build_index(v, f, "flat", shard_size=0), "shard_size is 0"),
        (lambda v, f: faiss_index.build_index(v[:0], f, "flat"), "of 0 vectors"),
    ],
)
def test_faults(vectors, tmp_path, call, fragment):
    with pytest.raises(ValueError, match=fragment):
        call(vectors, tmp_path)


def test_command(vectors, tmp_path, capsys):
    folder = tmp_path / "embedded"
    folder.mkdir()
    unit = (vectors / np.linalg.norm(vectors.astype(np.float32), axis=1, keepdims=True)).astype(np.float32)
    np.save(folder / "images.npy", unit[:300])
    np.save(folder / "captions.npy", unit[300:])
    np.save(folder / "caption_to_image.npy", np.arange(600) // 2)
    names = [f"{n}.jpg" for n in range(300)]
    items = {"image_ids": names, "caption_ids": list(range(600)), "image_names": names, "image_paths": names}
    (folder / "items.json").write_text(json.dumps({**items, "captions": ["a dog"] * 600}))
    (folder / "embeddings.json").write_text(json.dumps({"model": "none", "notes": []}))
    argv = ["index", str(folder), str(tmp_path / "index"), "--faiss", "flat", "--shard-size", "200", "--queries", "50"]
    assert cli.main([*argv, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["n"], figures["n_shards"], figures["n_queries"], figures["recall"]) == (300, 2, 50, 100)
    assert cli.main([*argv, "--of", "captions"]) == 0
    out = capsys.readouterr().out
    assert "600 captions in 3 files" in out
    assert "recall@10 against exact: 100.0 %" in out
