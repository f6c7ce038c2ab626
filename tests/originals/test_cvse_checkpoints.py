"""CVSE's checkpoints: parameters that are there twice or never used, and concepts that are in other files."""

import argparse
import json
import pickle

import numpy as np
import pytest
import torch
from original_files import CVSE_PARTS, VOCABULARY

from itm_fast.cli import main as cli
from itm_fast.data import PrecompDataset, Vocabulary, make_data
from itm_fast.data.readers.concept_files import read_concepts
from itm_fast.errors import DataError
from itm_fast.models import load_model, save_model
from itm_fast.models.cvse import CVSE, CVSEConfig
from itm_fast.originals import load_original
from itm_fast.sources.trained_model import ModelScorer

SMALL = {"img_dim": 12, "word_dim": 6, "embed_size": 8, "n_regions": 7, "n_concepts": 3, "input_channel": 5}


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
    parts = [dict(model.get_submodule(name).state_dict()) for name in CVSE_PARTS] + [{}]
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


# Each with its tokens and concepts: as Python 3 prints its bytes (its first and last word are none), and as it is.
CASES = [
    ("a dog runs", [3, 5, 3], {1}, [7, 5, 8], {1}),
    ("A man runs .", [3, 4, 8, 3], {0}, [7, 4, 8, 3], {0}),
    ("grass a a a", [3, 7, 7, 3], set(), [6, 7, 7, 7], {2}),
    ("a dog and men", [3, 5, 3, 3], {1}, [7, 5, 3, 3], {1}),  # "men" is a noun of its own
    ("runs dog man a", [3, 5, 4, 3], {0, 1}, [8, 5, 4, 7], {0, 1}),
    ("the grass .", [3, 6, 3], {2}, [3, 6, 3], {2}),
    ("a mans dog", [3, 3, 3], {0}, [7, 3, 5], {0, 1}),  # "mans" is no word of the vocabulary, but a plural of one
    ("a", [3], set(), [7], set()),
    ("it's a dogs", [3, 7, 3], set(), [3, 7, 3], {1}),
    ("café mans a .", [3, 3, 7, 3], {0}, [3, 3, 7, 3], {0}),
    ("man a dog runs", [3, 7, 5, 3], {1}, [4, 7, 5, 8], {0, 1}),
    ("a grass man .", [3, 6, 4, 3], {0, 2}, [7, 6, 4, 3], {0, 2}),
    ("dogs runs a a", [3, 8, 7, 3], set(), [3, 8, 7, 7], {1}),
    ("a runs .", [3, 8, 3], set(), [7, 8, 3], set()),
    ("man man man", [3, 4, 3], {0}, [4, 4, 4], {0}),
]
CAPTIONS, AS_BYTES, LABELS_AS_BYTES, PLAIN, LABELS = zip(*CASES, strict=True)
OF_IMAGES = [{0, 1, 2}, {1, 2}, {0, 1, 2}]  # words as they stand
N = len(CASES)
OF_SAM = {"use_metric": True, "cider_weight": 5.0, "metric_div": 3.0, "metric_samples": "soft", "data_percentage": 100}


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    np.save(folder / "test_ims.npy", np.random.default_rng(1).standard_normal((3, 7, 12)).astype(np.float32))
    (folder / "test_caps.txt").write_text("\n".join(CAPTIONS) + "\n", encoding="utf-8")
    return PrecompDataset(folder, "test")


def labelled(model, tokens, labels):
    """Captions encoded one by one, with labels as sets of concepts."""
    rows = []
    for words, held in zip(tokens, labels, strict=True):
        row = [1, *words, 2]
        numbers = torch.tensor([[1 + concept for concept in held] or [0]])
        rows.append(model.encode_captions(torch.tensor([row]), torch.tensor([len(row)]), None, numbers))
    return torch.cat(rows)


def test_captions_and_labels_as_released(concepts, data, tmp_path):
    write(tmp_path / "m.pth", made(concepts))
    model = load_original(tmp_path / "m.pth", VOCABULARY, concepts=concepts)
    assert (model.config.captions_as_bytes, model.config.label_completion) == (True, "f30k")
    assert [note.split()[0] for note in model.notes] == ["captions", "concepts"]
    save_model(model, tmp_path / "ours")
    model = load_model(tmp_path / "ours")
    assert [note.split()[0] for note in model.notes] == ["captions", "concepts"]
    scorer = ModelScorer(model, data, tokenizer="split", batch_size=3)
    with torch.no_grad():
        images = model.encode_images(data.regions(range(3)))
        fused_images = images[:, :8].double()
        own = labelled(model, AS_BYTES, LABELS_AS_BYTES)[:, :8]
        found = [near(own, fused_images, n) for n in range(N)]
        want = [
            held.union(*(LABELS_AS_BYTES[c] for c in some)) for held, some in zip(LABELS_AS_BYTES, found, strict=True)
        ]
        sims = model.similarity(images, labelled(model, AS_BYTES, want), torch.ones(N, dtype=torch.int64))
    assert {len(some) for some in found} >= {6}
    assert sum(given != held for given, held in zip(want, LABELS_AS_BYTES, strict=True)) > 2
    torch.testing.assert_close(scorer(slice(0, 3), slice(0, N)), sims, rtol=0, atol=2e-6)


def near(captions, images, n):
    """By the rule as the original words it, for Flickr30K: the first three and four of two lists, not in common."""
    to_captions = (captions @ captions[n]).tolist()
    to_captions[n] = 0.0
    nearest = sorted(range(N), key=lambda c: -to_captions[c])[:10]
    image = int((images @ captions[n].double()).argmax())
    ranked = sorted(range(N), key=lambda c: -float(images[image] @ captions[c].double()))
    at = ranked.index(n)
    around = ranked[-3:] if at >= N - 3 else ranked[at - 1 : at + 2] if at > 1 else ranked[:3]
    common = [c for c in nearest if c in around]
    return common if len(common) >= 3 else nearest[:3] + around


def test_captions_as_they_are(concepts, data, tmp_path):
    write(tmp_path / "m.pth", made(concepts))
    model = load_original(tmp_path / "m.pth", VOCABULARY, concepts=concepts, as_released=False)
    assert (model.config.captions_as_bytes, model.config.label_completion, model.notes) == (False, "none", [])
    with torch.no_grad():
        images = model.encode_images(data.regions(range(3)))
        sims = model.similarity(images, labelled(model, PLAIN, LABELS), torch.ones(N, dtype=torch.int64))
    found = ModelScorer(model, data, tokenizer="split")(slice(0, 3), slice(0, N))
    torch.testing.assert_close(found, sims, rtol=0, atol=2e-6)


@pytest.mark.parametrize("given", OF_SAM)
def test_sams_checkpoints_have_constants_of_their_own(given, concepts, data, tmp_path):
    flags = OF_SAM if given == "use_metric" else {given: OF_SAM[given]}
    write(tmp_path / "m.pth", made(concepts), **flags)
    model = load_original(tmp_path / "m.pth", VOCABULARY, concepts=concepts)
    config = model.config
    told = (config.alpha_test, config.alpha, config.weight_fused, config.concept_labels, config.label_completion)
    if given in ("metric_samples", "data_percentage"):  # which say nothing by themselves
        assert told == (0.85, 0.85, 0.95, "image_in_training", "f30k")
        return
    assert told == (0.75, 0.75, 1.0, "image", "none")
    assert config.captions_as_bytes
    assert "all captions of its image" in model.notes[0]
    with torch.no_grad():
        images = model.encode_images(data.regions(range(3)))
        captions = labelled(model, AS_BYTES, [OF_IMAGES[n // 5] for n in range(N)])
        assert captions.shape == (N, 8)
        sims = images @ captions.T
    found = ModelScorer(model, data, tokenizer="split")(slice(0, 3), slice(0, N))
    torch.testing.assert_close(found, sims, rtol=0, atol=2e-6)


def test_images_are_labelled_by_words_as_they_stand(concepts, tmp_path):
    names = concepts / "category_concepts.json"
    names.write_text(names.read_text().replace("grass", "dogs"))
    write(tmp_path / "m.pth", made(concepts), **OF_SAM)
    words = Vocabulary(["<pad>", "<start>", "<end>", "<unk>", "man", "dog", "dogs", "a", "mans"])
    model = load_original(tmp_path / "m.pth", words, concepts=concepts)
    assert model.concept_numbers.tolist() == [0, 0, 0, 0, 1, 2, 3, 0, 0]
    plain = load_original(tmp_path / "m.pth", words, concepts=concepts, as_released=False)
    assert plain.concept_numbers.tolist() == [0, 0, 0, 0, 1, 2, 2, 0, 1]


def test_the_report_says_how_captions_were_read(concepts, data, tmp_path, capsys):
    VOCABULARY.save(tmp_path / "vocab.json")
    write(tmp_path / "m.pth", made(concepts))
    command = [
        "evaluate",
        "--checkpoint",
        str(tmp_path / "m.pth"),
        "--vocab",
        str(tmp_path / "vocab.json"),
        "--ks",
        "1",
    ]
    command += ["--data", str(data.folder), "--tokenizer", "split", "--concepts", str(concepts), "--json"]
    assert cli.main(command) == 0
    notes = json.loads(capsys.readouterr().out)["conditions"]["notes"]
    assert any("as Python 3 prints bytes" in note for note in notes)
    assert any("completed from captions near it" in note for note in notes)
    assert cli.main([*command, "--plain-captions"]) == 0
    notes = json.loads(capsys.readouterr().out)["conditions"]["notes"]
    assert not any("Python 3" in note or "completed" in note for note in notes)


def test_nltk_finds_the_first_word_for_labels_alone(concepts, tmp_path):
    pytest.importorskip("nltk")
    write(tmp_path / "m.pth", made(concepts))
    model = load_original(tmp_path / "m.pth", VOCABULARY, concepts=concepts)
    (tokens,) = model.tokens_of(["Dog runs"], "nltk").pad([0])[0].tolist()
    assert tokens == [1, 3, 8, 3, 2]  # b'dog, runs, the last quote
    (labels,) = model.labels_of(["Dog runs"], "nltk").pad([0])[0].tolist()
    assert labels == [2]  # of 'dog runs'
