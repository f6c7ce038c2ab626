"""Modules that compute differently print differently: every option of every public module shows in its repr."""

import importlib
import inspect

import pytest
import tiny_vit
import torch

from itm_fast.nn.encoders.grid import BACKBONES
from itm_fast.nn.losses import TripletLoss
from itm_fast.relevance import Cider
from itm_fast.shown import named_options, plain

ROOMS = ("decoders", "encoders", "losses", "pooling", "similarity")
BERT = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 9}
CAPTIONS = [["a dog runs"], ["a red bus"], ["two cats"]]
CORPUS = Cider().fit(CAPTIONS).encode(CAPTIONS)
# Of each module: what it needs, and another value of every option. What is None is no option of what is computed.
OPTIONS = {
    "BERTEncoder": (
        {"bert_config": BERT, "embed_size": 8},
        {"bert_config": {**BERT, "hidden_size": 32}, "embed_size": 9, "no_txtnorm": True},
    ),
    "CHANSimilarity": ({}, {"coding_type": "THACoding", "pooling_type": "MaxPooling", "alpha": 0.3, "belta": 0.2}),
    "CaptioningHead": (
        {"dim_vid": 8, "n_words": 9},
        {
            **{"dim_vid": 7, "n_words": 10, "dim_hidden": 6, "dim_word": 5, "input_dropout_p": 0.1},
            **{"rnn_dropout_p": 0.1, "max_len": 9},
        },
    ),
    "ConceptGraph": (
        {"n_concepts": 5, "input_channel": 4, "embed_size": 8},
        {"n_concepts": 6, "input_channel": 5, "embed_size": 10},
    ),
    "ConsensusAttention": ({"embed_size": 8}, {"embed_size": 9}),
    "CrossAttention": (
        {},
        {
            **{"cross_attn": "i2t", "raw_feature_norm": "l2norm", "agg_func": "Mean"},
            **{"lambda_softmax": 4.0, "lambda_lse": 5.0},
        },
    ),
    "ESLSimilarity": ({"embed_size": 256}, {"embed_size": 512, "heuristic": True}),
    "GPO": ({}, {"d_pe": 16, "d_hid": 16}),
    "GRUEncoder": (
        {"n_words": 9, "word_dim": 4, "embed_size": 8},
        {
            **{"n_words": 10, "word_dim": 5, "embed_size": 9, "num_layers": 2, "bi_gru": True, "no_txtnorm": True},
            **{"dropout": 0.4, "rnn_name": "cap_rnn"},
        },
    ),
    "GraphConvolution": ({"in_features": 4, "out_features": 5}, {"in_features": 5, "out_features": 4}),
    "GridEncoder": ({"backbone_source": "detector", "embed_size": 8}, {"backbone_source": "imagenet", "embed_size": 9}),
    "GridTower": ({"backbone_source": "detector"}, {"backbone_source": "imagenet"}),
    "LAPSSimilarity": (
        {"embed_size": 8},
        {"embed_size": 9, "num_patches": 49, "sparse_ratio": 0.8, "aggr_ratio": 0.6, "class_token": True},
    ),
    "MLPRegionEncoder": ({"img_dim": 6, "embed_size": 8}, {"img_dim": 7, "embed_size": 10}),
    "MeanRegionEncoder": (
        {"img_dim": 6, "embed_size": 8},
        {"img_dim": 7, "embed_size": 9, "no_imgnorm": True, "use_abs": True},
    ),
    "PatchTower": (
        {"backbone_config": tiny_vit.config()},
        {"backbone_config": tiny_vit.config(num_hidden_layers=1), "tokens": "patches"},
    ),
    "PixelEncoder": (
        {"tower": torch.nn.Linear(2, 3), "head": torch.nn.Linear(3, 4)},
        {"tower": torch.nn.Linear(3, 3), "head": torch.nn.Linear(3, 5)},
    ),
    "ReasoningRegionEncoder": (
        {"img_dim": 6, "embed_size": 8},
        {"img_dim": 7, "embed_size": 9, "data_name": "coco_precomp"},
    ),
    "RegionAttention": (
        {"embed_size": 8, "n_regions": 5, "dropout": 0.4},
        {"embed_size": 9, "n_regions": 6, "dropout": 0.1, "class_token": True},
    ),
    "RegionEncoder": (
        {"img_dim": 6, "embed_size": 8},
        {"img_dim": 7, "embed_size": 9, "precomp_enc_type": "weight_norm", "no_imgnorm": True},
    ),
    "ResNet": ({"backbone": BACKBONES["detector"]}, {"backbone": BACKBONES["imagenet_res50"]}),
    "RsGCN": ({"dim": 8}, {"dim": 9}),
    "SGRAFSimilarity": (
        {"embed_size": 8, "sim_dim": 6},
        {
            **{"embed_size": 9, "sim_dim": 7, "module_name": "SAF", "sgr_step": 2, "n_regions": 20},
            **{"dropout": 0.1, "class_token": True},
        },
    ),
    "SemanticMarginLoss": (
        {"relevance": CORPUS},
        {
            **{"relevance": None, "temperature": 3.0, "sampling": "random", "variant": "literal", "margin_max": 0.5},
            **{"margin_min": 0.1, "t2i_margin": "column", "weight": 1.0, "triplet_weight": 1.0, "margin": 0.3},
            **{"max_violation": False, "mask_same_image": False, "triplet_mask_same_image": True},
            **{"reduction": "mean", "seed": None},
        },
    ),
    "SentenceBERTEncoder": (
        {"bert_config": BERT, "embed_size": 8},
        {"bert_config": {**BERT, "hidden_size": 32}, "embed_size": 9, "use_abs": True},
    ),
    "SentenceGRUEncoder": (
        {"n_words": 9, "word_dim": 4, "embed_size": 8},
        {"n_words": 10, "word_dim": 5, "embed_size": 9, "num_layers": 2, "use_abs": True},
    ),
    "TextGlobal": ({"embed_size": 8, "dropout": 0.4}, {"embed_size": 9, "dropout": 0.1}),
    "TripletLoss": ({}, {"margin": 0.1, "max_violation": False}),
    "VisualGlobal": (
        {"embed_size": 8, "n_regions": 5, "dropout": 0.4},
        {"embed_size": 9, "n_regions": 6, "dropout": 0.1},
    ),
    "WeightNormLinear": ({"in_features": 4, "out_features": 5}, {"in_features": 5, "out_features": 4}),
    "WordAttention": ({"embed_size": 8, "dropout": 0.4}, {"embed_size": 9, "dropout": 0.1}),
}


def modules():
    """Public modules with arguments of their own, by name."""
    rooms = [importlib.import_module(f"itm_fast.nn.{room}") for room in ROOMS]
    found = {name: getattr(room, name) for room in rooms for name in room.__all__}
    return {name: one for name, one in found.items() if inspect.isclass(one) and "__init__" in vars(one)}


def test_the_table_has_every_module_and_every_option():
    assert {name: set(inspect.signature(one).parameters) for name, one in modules().items()} == {
        name: set(options) for name, (_, options) in OPTIONS.items()
    }


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_shows(name):
    if name in ("BERTEncoder", "SentenceBERTEncoder", "PatchTower"):
        pytest.importorskip("transformers")
    needed, options = OPTIONS[name]
    kind = modules()[name]
    with torch.device("meta"):
        plainly = repr(kind(**needed))
        assert plainly == repr(kind(**needed))
        for option, value in options.items():
            if value is not None:
                assert repr(kind(**{**needed, option: value})) != plainly, option


def test_numbers_are_printed_as_people_write_them():
    single = float(torch.tensor(0.1))
    assert repr(single) == "0.10000000149011612"
    assert repr(TripletLoss(margin=single)) == "TripletLoss(margin=0.1, max_violation=True)"
    texts = {0.1: "0.1", 9.0: "9.0", 1e-8: "1e-08", 1e300: "1e+300", 1 / 3: "0.3333333333333333", -single: "-0.1"}
    texts |= {float("inf"): "inf", float("nan"): "nan", 0: "0", True: "True", None: "None"}
    for value, text in texts.items():
        assert plain(value) == text
        assert value is None or value != value or torch.tensor(eval(text, {"inf": float("inf")})) == torch.tensor(value)
    assert named_options(TripletLoss(), "margin", "training") == "margin=0.2, training=True"
