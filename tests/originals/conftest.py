"""CVSE's files of concepts."""

import json
import pickle

import numpy as np
import pytest


@pytest.fixture
def concepts(tmp_path):
    folder = tmp_path / "concepts"
    folder.mkdir()
    edges = np.array([[0, 9, 1], [9, 0, 2], [1, 2, 0]], dtype=np.int32)
    graph = {"nums": np.array([10, 20, 30], dtype=np.int32), "adj_O_P": edges, "adj_O_M": edges, "adj_all": edges}
    vectors = np.random.default_rng(0).normal(size=(3, 5))
    for name, content in (("adj_concepts", graph), ("concepts_glove_word2vec", vectors)):
        (folder / f"f30k_{name}.pkl").write_bytes(pickle.dumps(content, protocol=3))
    (folder / "category_concepts.json").write_text(json.dumps({"man": 0, "dog": 1, "grass": 2}))
    return folder
