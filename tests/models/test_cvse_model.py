"""CVSE: its loss, its labels, what it ranks by, and where its concepts come from."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from itm_fast import Cider, reference
from itm_fast.cli import main as cli
from itm_fast.config import TrainingConfig
from itm_fast.data import BatchPlan, CaptionTokens, Collator, PrecompDataset, Vocabulary, make_data
from itm_fast.data.text.concepts import Concepts
from itm_fast.losses import SemanticMarginLoss
from itm_fast.models import load_model, save_model
from itm_fast.models.cvse import CVSE, PRESETS, CVSEConfig
from itm_fast.sources.trained_model import ModelScorer
from itm_fast.training.loop import train
from itm_fast.training.objective import Objective

DIM, R, Q = 12, 5, 20
SMALL = {"img_dim": DIM, "word_dim": 8, "embed_size": 16, "n_regions": R, "n_concepts": Q, "input_channel": 8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("data")
    make_data(path, n_train=40, n_dev=6, n_test=8, max_regions=R, dim=DIM)
    return path


@pytest.fixture(scope="module")
def data(folder):
    dataset, vocabulary = PrecompDataset(folder, "train"), Vocabulary.load(folder / "vocab.json")
    return dataset, CaptionTokens.from_captions(dataset.captions, vocabulary, "split"), vocabulary


def made(data, seed=0, **options):
    """With concepts, in float64, with statistics that matter."""
    _, tokens, vocabulary = data
    torch.manual_seed(seed)
    model = CVSE(CVSEConfig(**{**SMALL, "dropout_rate": 0.0, **options}), vocabulary)
    model.prepare(tokens, np.arange(len(tokens)))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.uniform_(-0.1, 0.1)
    return model.double()


def batch_of(data, captions, **options):
    dataset, tokens, _ = data
    batch = Collator(dataset, tokens, **options)(captions)
    return dataclasses.replace(batch, regions=batch.regions.double())


def levels(model, batch, labels):
    """Instance, consensus and concept weights of images and captions, put together from the model's parts."""
    concepts = model.C_GCN(model.concept_vectors)
    valid = torch.arange(batch.tokens.shape[1]) < batch.word_counts[:, None]
    v = model.V_self_atten_enhance(model.img_enc(batch.regions))
    t = model.T_self_atten_enhance(model.txt_enc(batch.tokens, batch.word_counts), ~valid)
    ratio = model.config.concept_label_ratio
    c_v = model.V_consensus_level_embedding(v, concepts)
    c_t = model.T_consensus_level_embedding(t, concepts, labels, ratio)
    return (v, c_v.embeddings, c_v.log_weights.exp()), (t, c_t.embeddings, c_t.log_weights.exp())


def labels_of(model, data, token_rows):
    """0/1 by the words themselves."""
    _, _, vocabulary = data
    rows = torch.zeros(len(token_rows), Q, dtype=torch.float64)
    for row, tokens in zip(rows, token_rows, strict=True):
        for token in tokens:
            number = int(model.concept_numbers[token])
            assert vocabulary.idx2word[int(token)] not in ("<pad>", "<start>", "<end>", "<unk>") or number == 0
            if number:
                row[number - 1] = 1
    return rows


def own_words(batch):
    return [tokens[:count] for tokens, count in zip(batch.tokens, batch.word_counts, strict=True)]


def mixed(a, b, alpha):
    x = alpha * a + (1 - alpha) * b
    return x / x.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("triplet_weight", [1.0, 0.0])
@pytest.mark.parametrize("sam", [False, True])
def test_the_loss(sam, triplet_weight, data):
    model, batch = made(data, alpha=0.7), batch_of(data, range(0, 60, 4))  # some of one image
    margin = None
    if sam:
        captions = data[0].captions
        references = [captions[i : i + 5] for i in range(0, len(captions), 5)]
        margin = SemanticMarginLoss(Cider().fit(references).encode(references), triplet_weight=0.0)
    found = Objective(model, margin, triplet_weight)(batch)
    (v, c_v, p_v), (t, c_t, p_t) = levels(model, batch, labels_of(model, data, own_words(batch)))
    fused = mixed(v, c_v, 0.7) @ mixed(t, c_t, 0.7).T

    def triplet(sims):
        return reference.triplet_loss(sims, margin=0.2, max_violation=True, image_ids=batch.image_ids)

    want = 3 * triplet_weight * triplet(fused) + 5 * triplet(v @ t.T) + triplet(c_v @ c_t.T)
    want = want + 2 * (p_t * (p_t.log() - p_v.log())).sum()
    if margin is not None:
        want = want + margin(fused, batch.caption_ids, batch.image_ids)
    torch.testing.assert_close(found, want, rtol=1e-10, atol=0)
    assert triplet(fused) > 0
    parameters = list(model.parameters())
    for one, other in zip(torch.autograd.grad(found, parameters), torch.autograd.grad(want, parameters), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9 * found.item())  # sums of both signs


@pytest.mark.parametrize("weight_fused", [1.0, 0.95])
def test_what_is_ranked_by(weight_fused, data):
    model, batch = made(data, alpha_test=0.6, weight_fused=weight_fused).eval(), batch_of(data, range(12))
    with torch.no_grad():
        captions = model.encode_captions(batch.tokens, batch.word_counts)
        found = model.similarity(model.encode_images(batch.regions), captions, batch.word_counts)
        (v, c_v, _), (t, c_t, _) = levels(model, batch, labels_of(model, data, own_words(batch)))
    want = weight_fused * mixed(v, c_v, 0.6) @ mixed(t, c_t, 0.6).T + (1 - weight_fused) * c_v @ c_t.T
    torch.testing.assert_close(found, want, rtol=0, atol=1e-11)


def encoded(model, batch, *image_tokens):
    with torch.no_grad():
        return model.encode_captions(batch.tokens, batch.word_counts, *image_tokens)


@pytest.mark.parametrize(
    ("concept_labels", "in_training", "in_test"),
    [("caption", False, False), ("image_in_training", True, False), ("image", True, True)],
)
def test_labels(concept_labels, in_training, in_test, data):
    model = made(data, concept_labels=concept_labels)
    batch = batch_of(data, [0, 7, 13], has_image_tokens=True)
    tokens = data[1]
    of_image = [torch.cat([tokens.pad([5 * (c // 5) + k])[0][0] for k in range(5)]) for c in (0, 7, 13)]
    by_image, by_caption = labels_of(model, data, of_image), labels_of(model, data, own_words(batch))
    assert (by_image >= by_caption).all()
    assert (by_image.sum(1) > by_caption.sum(1)).any()
    assert model.reads_image_tokens(training=True) == in_training
    assert model.reads_image_tokens(training=False) == in_test
    (_, _, p_v), (_, _, p_t) = levels(model, batch, by_image if in_training else by_caption)
    want = (p_t * (p_t.log() - p_v.log())).sum(1)
    torch.testing.assert_close(model(batch).extra_losses, want, rtol=1e-9, atol=1e-12)
    model.eval()
    found = encoded(model, batch, batch.image_tokens)
    t, c_t, _ = levels(model, batch, by_image if in_test else by_caption)[1]
    want = torch.cat([0.95**0.5 * mixed(t, c_t, 0.85), 0.05**0.5 * c_t], dim=1)
    torch.testing.assert_close(found, want, rtol=0, atol=1e-11)


def test_what_fills_a_caption_up_speaks_of_no_concept(data):
    model, batch = made(data).eval(), batch_of(data, [0, 7, 13])
    speaks = int((model.concept_numbers > 0).nonzero()[0])
    tokens = torch.nn.functional.pad(batch.tokens, (0, 2), value=speaks)
    padded = encoded(model, dataclasses.replace(batch, tokens=tokens))
    torch.testing.assert_close(padded, encoded(model, batch), rtol=0, atol=1e-13)


def test_missing_image_tokens_are_said(data):
    batch = batch_of(data, [0, 7, 13])
    with pytest.raises(ValueError, match="image_tokens is missing: with concept_labels 'image_in_training'"):
        made(data, concept_labels="image_in_training")(batch)
    with pytest.raises(ValueError, match="image_tokens is missing: with concept_labels 'image'"):
        encoded(made(data, concept_labels="image").eval(), batch)


@pytest.mark.parametrize("concept_labels", ["caption", "image"])
def test_captions_are_scored_alone(concept_labels, folder, data):
    """Neither the batch nor, without the leak, the other captions of the image change a caption's scores."""
    model = made(data, concept_labels=concept_labels).float().eval()
    dataset = PrecompDataset(folder, "test")
    whole = slice(0, 8), slice(0, 40)
    sims = ModelScorer(model, dataset, tokenizer="split")(*whole)
    torch.testing.assert_close(ModelScorer(model, dataset, tokenizer="split", batch_size=3)(*whole), sims)
    images = model.encode_images(dataset.regions(range(8)))
    alone = []
    for caption in dataset.captions:
        tokens, counts = CaptionTokens.from_captions([caption], model.vocabulary, "split").pad([0])
        alone.append(model.similarity(images, model.encode_captions(tokens, counts, tokens), counts))
    is_same = (torch.cat(alone, 1) - sims).abs().max() < 1e-5
    assert is_same == (concept_labels == "caption")


def test_concepts_come_from_the_training_captions_that_are_left(data):
    _, tokens, vocabulary = data
    model = made(data)
    want = Concepts.of_captions(tokens, range(len(tokens)), vocabulary, Q, 8)
    torch.testing.assert_close(model.C_GCN.adj_all.numpy(), want.adjacency().astype(np.float32).astype(float))
    fewer = CVSE(model.config, vocabulary)
    fewer.prepare(tokens, range(50))
    assert not torch.equal(fewer.concept_numbers, model.concept_numbers)
    with pytest.raises(ValueError, match="n_concepts is 500, but the training captions hold only"):
        made(data, n_concepts=500)


def test_a_folder_holds_the_concepts(data, tmp_path):
    model, batch = made(data).float().eval(), batch_of(data, range(6))
    save_model(model, tmp_path)
    torch.testing.assert_close(encoded(load_model(tmp_path), batch), encoded(model, batch), rtol=0, atol=0)


def test_word_vectors_begin_words_and_concepts(data, tmp_path):
    plain = made(data)
    known = int((plain.concept_numbers == 1).nonzero()[0])
    word = data[2].idx2word[known]
    (tmp_path / "glove.txt").write_text(f"{word} 1 2 3 4 5 6 7 8\nelsewhere 0 0 0 0 0 0 0 0\n", encoding="utf-8")
    model = made(data, glove_path=str(tmp_path / "glove.txt"))
    n = model.config.n_concepts
    assert model.notes[-1].endswith(f"glove.txt lacks {n - 1} of {n} concepts, which begin from the mean of the others")
    want = torch.arange(1.0, 9.0, dtype=torch.float64)
    torch.testing.assert_close(model.txt_enc.embed.weight[known], want)
    torch.testing.assert_close(model.concept_vectors[0], want)
    others = torch.arange(len(data[2])) != known
    torch.testing.assert_close(model.txt_enc.embed.weight[others], plain.txt_enc.embed.weight[others])
    every = set(data[2].word2idx)
    (tmp_path / "glove.txt").write_text("".join(f"{word} 1 2 3 4 5 6 7 8\n" for word in every), encoding="utf-8")
    assert made(data, glove_path=str(tmp_path / "glove.txt")).notes == plain.notes
    with pytest.raises(ValueError, match="word_dim is 9 and input_channel 8; expected the same"):
        made(data, word_dim=9, glove_path=str(tmp_path / "glove.txt"))


def test_concepts_of_other_sizes(data):
    model = made(data)
    with pytest.raises(ValueError, match=r"has 2 vectors of 8 numbers; expected n_concepts = 20 of input_channel = 8"):
        model.set_concepts(Concepts(("a", "b"), np.ones(2), np.zeros((2, 2)), np.ones((2, 8))))


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        ({"alpha": 1.5}, "alpha must be 0 to 1, got 1.5"),
        ({"concept_label_ratio": -0.1}, "concept_label_ratio must be 0 to 1"),
        ({"weight_fused": float("nan")}, "weight_fused must be a finite number"),
        ({"dropout_rate": 1.0}, "dropout_rate must be at least 0 and below 1"),
        ({"n_concepts": 0}, "n_concepts must be an integer of at least 1"),
        ({"concept_labels": "none"}, "concept_labels must be one of"),
    ],
)
def test_bad_options(options, fragment):
    with pytest.raises(ValueError, match=fragment):
        CVSEConfig(**options)


def test_presets_are_the_repositories():
    found = {
        name: (p.training.num_epochs, p.training.lr_update, p.model.alpha, p.model.alpha_test, p.model.weight_fused)
        for name, p in PRESETS.items()
    }
    assert found == {
        "f30k": (50, 25, 0.85, 0.85, 0.95),
        "coco": (30, 15, 0.85, 0.9, 0.95),
        "f30k-sam": (50, 10, 0.75, 0.75, 1.0),
        "coco-sam": (30, 15, 0.75, 0.75, 1.0),
    }
    assert [p.model.concept_label_ratio for p in PRESETS.values()] == [0.35, 0.4, 0.35, 0.35]
    assert all(p.model.concept_labels == "image_in_training" for p in PRESETS.values())
    assert all(p.training.batch_size == 128 and p.training.learning_rate == 2e-4 for p in PRESETS.values())


def test_the_concept_graph_keeps_more_of_its_learning_rate(data):
    model = made(data)
    decays = {name: model.learning_rate_decay(name) for name, _ in model.named_parameters()}
    assert {name for name, decay in decays.items() if decay == 0.2} == {"C_GCN.gc1.weight", "C_GCN.gc2.weight"}
    assert set(decays.values()) == {0.1, 0.2}


def test_the_loop_lets_each_rate_fall_its_own_way(data, monkeypatch):
    dataset, tokens, _ = data
    rates = []

    class Adam(torch.optim.Adam):
        def step(self, closure=None):
            rates.append({group["decay"]: group["lr"] for group in self.param_groups})
            return super().step(closure)

    monkeypatch.setattr(torch.optim, "Adam", Adam)
    config = TrainingConfig(num_epochs=3, batch_size=100, lr_update=1, learning_rate=1e-3)
    train(made(data).float(), BatchPlan(Collator(dataset, tokens), 100, 3), config)
    for epoch, found in enumerate(rates[::2]):
        assert found == pytest.approx({decay: 1e-3 * decay**epoch for decay in (0.1, 0.2)})
    assert len(rates) == 6


@pytest.mark.parametrize("concept_labels", ["image_in_training", "image"])
def test_the_command_line(concept_labels, folder, tmp_path, capsys):
    flags = ["--data-path", str(folder), "--tokenizer", "split", "--model-name", str(tmp_path), "--trackers"]
    flags += [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    flags += ["--concept-labels", concept_labels, "--num-epochs", "2", "--batch-size", "20", "--sam", "--json"]
    assert cli.main(["train", "cvse", "--preset", "f30k-sam", *flags, "--sam-triplet-weight", "0"]) == 0
    best = json.loads(capsys.readouterr().out)["best"]
    command = ["evaluate", "--model", str(tmp_path / "best"), "--data", str(folder), "--split", "dev"]
    assert cli.main([*command, "--tokenizer", "split", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rsum"] == pytest.approx(best["rsum"])
    assert cli.main(["train", "--resume", str(tmp_path), "--num-epochs", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 30
    assert cli.main(["train", "cvse", *flags, "--n-concepts", "999", "--model-name", str(tmp_path / "more")]) == 2
    assert "give --n-concepts" in capsys.readouterr().err
