"""CVSE's checkpoints: parameters that are there twice or never used, and concepts that are in other files."""

import argparse
import json
import pickle

import numpy as np
import pytest
import torch

from itm_fast.cli import main as cli
from itm_fast.data import Vocabulary, make_data
from itm_fast.data.readers.concept_files import read_concepts
from itm_fast.errors import DataError
from itm_fast.models.cvse import CVSE, CVSEConfig
from itm_fast.originals import load_original

VOCABULARY = Vocabulary(["<pad>", "<start>", "<end>", "<unk>", "man", "dog", "grass", "a", "runs"])
SMALL = {"img_dim": 12, "word_dim": 6, "embed_size": 8, "n_regions": 7, "n_concepts": 3, "input_channel": 5}
PARTS = ["img_enc", "txt_enc", "V_self_atten_enhance", "T_self_atten_enhance"]
PARTS += ["V_consensus_level_embedding", "T_consensus_level_embedding", "C_GCN"]


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


def made(concepts, **options):
    torch.manual_seed(0)
    config = CVSEConfig(**{**SMALL, "concept_labels": "image_in_training", **options})
    model = CVSE(config, VOCABULARY)
    model.set_concepts(read_concepts(concepts))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.uniform_(-1, 1)
            module.weight.data.uniform_(0.5, 1)
    return model.eval()


def write(path, model, *, change=lambda content: None, **options):
    """Eight state dicts, every linear map twice, and what never runs."""
    parts = [dict(model.get_submodule(name).state_dict()) for name in PARTS] + [{}]
    for part in parts[2:6]:
        for k in (1, 2, 3):
            part.update({f"fc{k}.{kind}": part[f"embedding_{k}.0.{kind}"] for kind in ("weight", "bias")})
    for name in ("fc2_2", "embedding_2_2.0", "fc4"):
        parts[2] |= {f"{name}.weight": torch.randn(8, 8), f"{name}.bias": torch.randn(8)}
    parts[2]["embedding_2_2.1.running_mean"] = torch.randn(8)
    unused = {"adj_O_P": torch.eye(3), "adj_O_M": torch.eye(3), "joint_att_emb.weight": torch.randn(8, 8)}
    parts[6] |= {**unused, "joint_att_emb.bias": torch.randn(8)}
    flags = {"data_name": "f30k_precomp", "margin": 0.2, "max_violation": True, "bi_gru": True, "dropout_rate": 0.4}
    flags |= {"Concept_label_ratio": 0.35, "num_attribute": 3, "activation_type": "tanh", "use_BatchNorm": True}
    options = argparse.Namespace(**{**flags, **options})
    content = {"epoch": 7, "model": parts, "best_rsum": np.float64(401.5), "opt": options, "Eiters": 123}
    change(content)
    torch.save(content, path)


def scores(model):
    images = torch.randn(3, 7, 12, generator=torch.Generator().manual_seed(1))
    tokens, counts = torch.tensor([[1, 4, 8, 6, 2], [1, 5, 2, 0, 0]]), torch.tensor([5, 3])
    with torch.no_grad():
        return model.similarity(model.encode_images(images), model.encode_captions(tokens, counts), counts)


@pytest.mark.parametrize(
    ("options", "flags"),
    [({}, {}), ({"concept_label_ratio": 0.4, "alpha_test": 0.9}, {"data_name": "coco", "Concept_label_ratio": 0.4})],
)
def test_round_trip(options, flags, concepts, tmp_path):
    model = made(concepts, **options)
    write(tmp_path / "model_best.pth.tar", model, **flags)
    path = tmp_path / "model_best.pth.tar"
    loaded = load_original(path, VOCABULARY, concepts=concepts, as_released=False)
    assert loaded.config == model.config
    torch.testing.assert_close(scores(loaded), scores(model), rtol=0, atol=0)


def test_the_checkpoints_edges_count(concepts, tmp_path):
    edges = torch.tensor([[1, 0.125, 0.125], [0, 1, 0], [0, 0, 1]])
    write(tmp_path / "m.pth", made(concepts), change=lambda content: content["model"][6].update(adj_all=edges))
    loaded = load_original(tmp_path / "m.pth", VOCABULARY, concepts=concepts)
    torch.testing.assert_close(loaded.C_GCN.adj_all, edges, rtol=0, atol=0)


def fc1(content):
    content["model"][3]["fc1.weight"] = content["model"][3]["fc1.weight"] + 1


@pytest.mark.parametrize(
    ("change", "flags", "fragment"),
    [
        (fc1, {}, r"T_self_atten_enhance\.fc1\.weight and .*embedding_1\.0\.weight are one parameter, but differ"),
        (lambda c: c["model"][7].update({"joint_emb_v.weight": torch.zeros(1)}), {}, "the part that fuses has param"),
        (lambda c: c["model"][6].update(more=torch.zeros(1)), {}, r"its C_GCN does not fit: (.|\n)*more"),
        (lambda c: c["model"][4].pop("embedding_1.1.weight"), {}, "its V_consensus_level_embedding does not fit"),
        (
            lambda c: c["model"][2].pop("embedding_1.1.weight"),
            {},
            r"taken for cvse, but it has no tensor 'embedding_1\.1",
        ),
        (lambda c: None, {"activation_type": "sigmoid"}, "activation_type is 'sigmoid'; only 'tanh' is known"),
        (lambda c: None, {"no_txtnorm": True}, "no_txtnorm is True; only False is known"),
    ],
)
def test_what_is_refused(change, flags, fragment, concepts, tmp_path):
    write(tmp_path / "bad.pth", made(concepts), change=change, **flags)
    with pytest.raises(DataError, match=fragment):
        load_original(tmp_path / "bad.pth", VOCABULARY, concepts=concepts)


def test_concepts_are_needed_and_must_fit(concepts, tmp_path):
    write(tmp_path / "m.pth", made(concepts))
    with pytest.raises(ValueError, match="a CVSE checkpoint needs its concepts: a folder with category_concepts"):
        load_original(tmp_path / "m.pth", VOCABULARY)
    (concepts / "f30k_concepts_glove_word2vec.pkl").write_bytes(pickle.dumps(np.eye(3), protocol=3))
    with pytest.raises(ValueError, match=r"has 3 vectors of 3 numbers; expected n_concepts = 3 of input_channel = 5"):
        load_original(tmp_path / "m.pth", VOCABULARY, concepts=concepts)


def test_itm_fast_evaluate_takes_the_concepts(concepts, tmp_path, capsys):
    make_data(tmp_path / "data", n_train=5, n_dev=1, n_test=4, max_regions=7, dim=12)
    VOCABULARY.save(tmp_path / "vocab.json")
    write(tmp_path / "m.pth", made(concepts))
    command = ["evaluate", "--checkpoint", str(tmp_path / "m.pth"), "--vocab", str(tmp_path / "vocab.json"), "--json"]
    command += ["--data", str(tmp_path / "data"), "--tokenizer", "split"]
    assert cli.main([*command, "--concepts", str(concepts)]) == 0
    assert '"rsum"' in capsys.readouterr().out
    assert cli.main(command) == 2
    assert "--concepts" in capsys.readouterr().err
    assert cli.main(["evaluate", "--sims", "s.npy", "--concepts", str(concepts)]) == 2
    assert "--concepts goes with --checkpoint" in capsys.readouterr().err
