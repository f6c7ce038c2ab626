"""Small checkpoints as each original writes them, for tests of what lies beside the weights."""

import argparse

import numpy as np
import torch

from itm_fast.data import Vocabulary
from itm_fast.models import model_class

VOCABULARY = Vocabulary(["<pad>", "<start>", "<end>", "<unk>", "man", "dog", "grass", "a", "runs"])
_SMALL = {"img_dim": 12, "word_dim": 6, "embed_size": 8}
_CVSE = {"n_regions": 7, "n_concepts": 3, "input_channel": 5, "concept_labels": "image_in_training"}
# A reader's name -> options of its model, and those that only its own files have.
KINDS = {
    "scan": ({"cross_attn": "i2t", "agg_func": "Mean", "lambda_softmax": 4.0}, {"val_step": 500}),
    "vsepp": ({}, {"cnn_type": "vgg19", "finetune": False, "crop_size": 224, "reset_train": False}),
    "sgraf": ({"sim_dim": 5, "n_regions": 7}, {}),
    "vsrn": ({}, {"measure": "cosine", "use_abs": False, "rnn_type": "gru", "bidirectional": 0, "dim_vid": 2048}),
    "vse_infty": ({}, {"optim": "adam", "drop": True, "backbone_lr_factor": 0.01, "viz": True}),
    "esl": ({"embed_size": 256}, {"kernel_size": 2, "backbone_source": "detector", "input_scale_factor": 1}),
    "chan": (
        {"pooling_type": "MeanPooling"},
        {"criterion": "ContrastiveLoss", "temperature": 0.01, "seed": 2022, "wemb_type": "glove", "obj_drop_rate": 0.2},
    ),
    "cvse": (
        _CVSE,
        {"use_BatchNorm": True, "activation_type": "tanh", "feature_fuse_type": "weight_sum", "num_attribute": 3}
        | {"norm_func_type": "sigmoid", "adj_file": "a.pkl", "lr_MLGCN_update": 10, "Concept_label_ratio": 0.35},
    ),
}
CVSE_PARTS = ("img_enc", "txt_enc", "V_self_atten_enhance", "T_self_atten_enhance")
CVSE_PARTS += ("V_consensus_level_embedding", "T_consensus_level_embedding", "C_GCN")
_OURS_ALONE = {"encoder", "n_regions", "dropout", "n_concepts", "concept_labels", "concept_label_ratio", "alpha_test"}
_OURS_ALONE |= {"weight_fused", "label_completion", "captions_as_bytes", "concept_path", "glove_path", "max_len"}
_OURS_ALONE |= {"heuristic_strategy", "bert_path", "bert_config", "backbone_path"}


def made(name, **options):
    """A model with random weights, in evaluation mode."""
    torch.manual_seed(0)
    kind = model_class(name)
    model = kind(kind.config_class(**{**_SMALL, **KINDS[name][0], **options}), VOCABULARY)
    for module in model.modules():  # so that the statistics matter
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.uniform_(-1, 1)
    return model.eval()


def content_of(model, **options):
    """What its original would save."""
    name = model.name
    named = CVSE_PARTS if name == "cvse" else ("img_enc", "txt_enc", *(["sim_enc"] if name in ("sgraf", "esl") else []))
    parts = [dict(model.get_submodule(part).state_dict()) for part in named]
    if (
        name == "chan" and "embed.weight" in parts[1]
    ):  # a map that never runs, a row for the mask; a similarity and a criterion without parameters
        parts[1] |= {"fc.weight": torch.randn(8, 8), "fc.bias": torch.randn(8)}
        parts[1]["embed.weight"] = torch.cat([parts[1]["embed.weight"], torch.randn(1, 6)])
    parts += [{}, {}] if name == "chan" else []
    if name == "cvse":
        parts += [{}]
    flags = {name: value for name, value in vars(model.config).items() if name not in _OURS_ALONE}
    flags |= {"data_name": "f30k_precomp", "vocab_path": "vocab", "workers": 10, "learning_rate": 2e-4, "resume": ""}
    namespace = argparse.Namespace(**{**flags, **KINDS[name][1], **options})
    return {"epoch": 7, "model": parts, "best_rsum": np.float64(401.5), "opt": namespace, "Eiters": 123}


def scores(model):
    """Of three images and two captions."""
    images = torch.randn(3, 7, 12, generator=torch.Generator().manual_seed(1))
    tokens, counts = torch.tensor([[1, 4, 8, 6, 2], [1, 5, 2, 0, 0]]), torch.tensor([5, 3])
    with torch.no_grad():
        return model.similarity(model.encode_images(images), model.encode_captions(tokens, counts), counts)
