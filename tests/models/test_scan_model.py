"""SCAN: defaults of the original, shapes, its parts put together, flags out of range."""

import dataclasses

import pytest
import torch

from itm_fast import reference
from itm_fast.config import ImageAxis, TextAxis
from itm_fast.models import SCAN, SCANConfig, presets

PRESETS = presets("scan")

SMALL = {"img_dim": 10, "word_dim": 5, "embed_size": 8}
TOKENS = torch.tensor([[1, 4, 5, 2], [1, 5, 2, 0], [1, 4, 2, 0]])
WORD_COUNTS = torch.tensor([4, 3, 3])
IMAGES = torch.randn(3, 6, 10, generator=torch.Generator().manual_seed(0))


def test_defaults_are_those_of_the_original():
    axes = {field.name for field in (*dataclasses.fields(ImageAxis), *dataclasses.fields(TextAxis))}
    assert {name: value for name, value in dataclasses.asdict(SCANConfig()).items() if name not in axes} == {
        "img_dim": 2048,
        "word_dim": 300,
        "embed_size": 1024,
        "num_layers": 1,
        "bi_gru": False,
        "no_imgnorm": False,
        "no_txtnorm": False,
        "precomp_enc_type": "basic",
        "cross_attn": "t2i",
        "raw_feature_norm": "clipped_l2norm",
        "agg_func": "LogSumExp",
        "lambda_softmax": 9.0,
        "lambda_lse": 6.0,
        "margin": 0.2,
        "max_violation": False,
    }


def test_presets_are_those_of_the_paper():
    found = {
        name: (preset.model.cross_attn, preset.model.agg_func, preset.model.lambda_softmax, preset.model.lambda_lse)
        for name, preset in PRESETS.items()
    }
    for data in ("f30k", "coco"):
        assert found[f"{data}-t-i-lse"] == ("t2i", "LogSumExp", 9, 6)
        assert found[f"{data}-t-i-avg"][:3] == ("t2i", "Mean", 9)
        assert found[f"{data}-i-t-lse"] == ("i2t", "LogSumExp", 4, 5 if data == "f30k" else 20)
        assert found[f"{data}-i-t-avg"][:3] == ("i2t", "Mean", 4)
        training = PRESETS[f"{data}-t-i-lse"].training
        schedule = (training.num_epochs, training.lr_update, training.learning_rate)
        assert schedule == ((30, 15, 2e-4) if data == "f30k" else (20, 10, 5e-4))
    assert all(preset.model.bi_gru and preset.model.max_violation for preset in PRESETS.values())


def test_state_dict_has_the_names_of_the_original(vocabulary):
    names = set(SCAN(SCANConfig(**SMALL), vocabulary).state_dict())
    image = {f"img_enc.fc.{name}" for name in ("weight", "bias")}
    rnn = {f"txt_enc.rnn.{name}" for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")}
    assert names == image | rnn | {"txt_enc.embed.weight"}


@pytest.mark.parametrize("preset", PRESETS)
def test_scores_and_loss(vocabulary, preset):
    torch.manual_seed(0)
    config = dataclasses.replace(PRESETS[preset].model, **SMALL)
    model = SCAN(config, vocabulary).double()
    regions, words = model.encode_images(IMAGES.double()), model.encode_captions(TOKENS, WORD_COUNTS)
    assert (regions.shape, words.shape) == ((3, 6, 8), (3, 4, 8))
    sims = model.similarity(regions, words, WORD_COUNTS)
    flags = {name: getattr(config, name) for name in ("cross_attn", "raw_feature_norm", "agg_func")}
    lambdas = {name: getattr(config, name) for name in ("lambda_softmax", "lambda_lse")}
    expected = reference.cross_attention_similarity(regions, words, WORD_COUNTS, **flags, **lambdas)
    torch.testing.assert_close(sims, expected)
    torch.testing.assert_close(model.loss(sims), reference.triplet_loss(sims))
    model.loss(sims).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_every_flag_of_the_encoders_is_used(vocabulary):
    flags = {"bi_gru": True, "num_layers": 2, "no_imgnorm": True, "no_txtnorm": True, "precomp_enc_type": "weight_norm"}
    model = SCAN(SCANConfig(**SMALL, **flags, margin=0.5, max_violation=True), vocabulary)
    names = set(model.state_dict())
    assert {"img_enc.fc.weight_g", "txt_enc.rnn.weight_ih_l1_reverse"} <= names
    assert (model.img_enc.no_imgnorm, model.txt_enc.no_txtnorm) == (True, True)
    assert (model.loss.margin, model.loss.max_violation) == (0.5, True)


@pytest.mark.parametrize(
    ("flags", "exception", "fragment"),
    [
        ({"embed_size": 0}, ValueError, "embed_size must be an integer of at least 1, got 0"),
        ({"img_dim": "10"}, ValueError, "img_dim must be an integer"),
        ({"cross_attn": "both"}, ValueError, "cross_attn must be one of 'i2t', 't2i', got 'both'"),
        ({"raw_feature_norm": "l3norm"}, ValueError, "raw_feature_norm must be one of"),
        ({"agg_func": "Median"}, ValueError, "agg_func must be one of"),
        ({"precomp_enc_type": "grid"}, ValueError, "precomp_enc_type must be one of"),
        ({"lambda_lse": 0.0}, ValueError, "lambda_lse must be a finite number above 0"),
        ({"lambda_softmax": float("nan")}, ValueError, "lambda_softmax must be a finite number"),
        ({"margin": "0.2"}, TypeError, "margin must be a number"),
    ],
)
def test_flags_out_of_range(flags, exception, fragment):
    with pytest.raises(exception, match=fragment):
        SCANConfig(**flags)


@pytest.mark.parametrize(
    ("made", "fragment"),
    [
        (lambda words: SCAN(words, SCANConfig()), "config must be a SCANConfig, got Vocabulary"),
        (lambda words: SCAN({"img_dim": 3}, words), "config must be a SCANConfig, got {'img_dim': 3}"),
        (
            lambda words: SCAN(SCANConfig(), "vocab.json"),
            "vocabulary must be a Vocabulary, WordPieces or Subwords, got 'v",
        ),
        (lambda words: SCAN(SCANConfig(), words.word2idx), r"got {'<pad>.*; load_vocabulary\(path\) reads one"),
    ],
)
def test_what_is_no_configuration_or_no_vocabulary(made, fragment, vocabulary):
    with pytest.raises(TypeError, match=fragment):
        made(vocabulary)
