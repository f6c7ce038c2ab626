"""Checkpoints of NCR, CRCL, DECL and L2RM in their layouts: read strictly, scored as their formulas say."""

import argparse
import math

import numpy as np
import pytest
import torch

from itm_fast.cli import main as cli
from itm_fast.data import Vocabulary, make_data
from itm_fast.errors import DataError
from itm_fast.models import load_model, model_class, save_model
from itm_fast.models.mean import MeanOfModels
from itm_fast.originals import load_original

VOCABULARY = Vocabulary(["<pad>", "<start>", "<end>", "<unk>", *"abcdefg"])
SIZES = {"img_dim": 12, "word_dim": 6, "embed_size": 8}
REGIONS = 7
CAPTIONS = [[1, 4, 5, 7, 2], [1, 6, 2]]
IMAGES = torch.randn(3, REGIONS, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
# What each parser has beside SGRAF's options, at its defaults or as its README sets it.
NCR = {"noise_file": "f30k_0.2.npy", "noise_ratio": 0.2, "no_co_training": False, "warmup_epoch": 10, "gpu": "0"}
NCR |= {"warmup_model_path": "", "p_threshold": 0.5, "soft_margin": "exponential", "seed": 3, "output_dir": "output/a"}
DECL = {"folder_name": "f30k_SGR", "max_violation": True, "warmup_if": True, "warmup_epochs": 5, "lambda1": 0.8}
DECL |= {"lambda2": 0.1, "tau": 0.1, "eta": 0.025, "mu": 5, "log_dir": "runs/a", "checkpoint_dir": "runs/b", "gpu": "0"}
CRCL = {"folder_name": "", "schedules": [6, 6, 6, 25], "val_step": 500, "confident": True, "mc": True, "warm_epoch": 2}
CRCL |= {"tau": 0.05, "alpha": 0.8, "raw_feature_norm": "clipped_l2norm", "agg_func": "Mean", "cross_attn": "i2t"}
CRCL |= {"precomp_enc_type": "basic", "lambda_lse": 6.0, "lambda_softmax": 4.0, "noise_ratio": 0.2, "resume": ""}
L2RM = {"lr": 2e-4, "lr_cost": 2e-6, "queue_length": 128, "tau": 0.05, "reg": 0.07, "rho": 0.1, "comment": "first"}
SGRAF_PARTS = {
    "img_enc": {"fc.weight", "fc.bias"},
    "txt_enc": {"embed.weight", *(f"cap_rnn.{kind}_l0{way}" for way in ("", "_reverse") for kind in
                ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))},
}  # fmt: skip


def made(name="sgraf", seed=0, **options):
    """A model whose statistics matter."""
    torch.manual_seed(seed)
    sizes = {"sim_dim": 5, "n_regions": REGIONS, "sgr_step": 2} if name == "sgraf" else {}
    model = model_class(name)(model_class(name).config_class(**SIZES, **sizes, **options), VOCABULARY)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1)
    return model.eval()


def parts_of(model):
    return [dict(model.get_submodule(part).state_dict()) for part in ("img_enc", "txt_enc", "sim_enc")]


def options_of(model, **more):
    known = ("img_dim", "word_dim", "embed_size", "sim_dim", "num_layers", "bi_gru", "no_imgnorm", "no_txtnorm")
    flags = {name: getattr(model.config, name) for name in (*known, "module_name", "sgr_step", "margin")}
    files = {"data_name": "f30k_precomp", "data_path": "data", "vocab_path": "vocab", "workers": 10, "vocab_size": 11}
    return argparse.Namespace(**flags, **files, batch_size=128, learning_rate=2e-4, grad_clip=2.0, **more)


def ncr(a, b, **more):
    models = {"model_A": parts_of(a), "model_B": parts_of(b)}
    return {"epoch": 9, **models, "best_rsum": np.float64(480), "opt": options_of(a, **NCR, **more)}


def decl(model, **more):
    return {
        "epoch": 9,
        "model": parts_of(model),
        "best_rsum": 480.0,
        "opt": options_of(model, **DECL, **more),
        "step": 7,
    }


def crcl(model, **more):
    state = {"schedule": 3, "epoch": 9, "model": parts_of(model), "best_rsum": 480.0, "step": 7}
    state["model"][1]["embed.weight"] = torch.cat([state["model"][1]["embed.weight"], torch.randn(1, 6)])  # the mask
    return {**state, "opt": options_of(model, **CRCL, **more), "move_gt": np.ones(20)}


def l2rm(model, **more):
    names = ("img_enc", "txt_enc", "sim_enc")
    net = {f"{name}.{key}": x for name, part in zip(names, parts_of(model), strict=True) for key, x in part.items()}
    cost = {"layers.0.weight": torch.ones(4, 4)}
    return {"epoch": 9, "net": net, "cost_function": cost, "best_rsum": 480.0, "opt": options_of(model, **L2RM, **more)}


def load(tmp_path, content, vocabulary=VOCABULARY):
    torch.save(content, tmp_path / "model_best.pth.tar")
    return load_original(tmp_path / "model_best.pth.tar", vocabulary)


def scores(model):
    counts = torch.tensor([len(caption) for caption in CAPTIONS])
    tokens = torch.nn.utils.rnn.pad_sequence([torch.tensor(caption) for caption in CAPTIONS], batch_first=True)
    with torch.no_grad():
        captions = model.encode_captions(tokens, counts)
        return model.similarity(model.encode_images(IMAGES.float()), captions, counts)


def unit(x):
    return x / (x.norm(dim=-1, keepdim=True) + 1e-8)


def words_of(text, name, caption):
    """Both directions of the GRU, averaged."""
    gru = torch.nn.GRU(6, 8, bidirectional=True, batch_first=True).double()
    gru.load_state_dict({key.removeprefix(f"{name}."): x for key, x in text.items() if key.startswith(f"{name}.")})
    states = gru(text["embed.weight"][caption][None])[0][0]
    return (states[:, :8] + states[:, 8:]) / 2


def plain(parts, logits=False):
    """SGRAF's formulas a pair at a time, in float64, on the tensors of a checkpoint."""
    image, text, sim = ({key: x.double() for key, x in part.items() if x.is_floating_point()} for part in parts)

    def linear(name, x):
        return x @ sim[f"{name}.weight"].T + sim[f"{name}.bias"]

    def norm(name, x, dim):
        shape = [-1 if axis == dim else 1 for axis in range(x.ndim)]
        mean, var, weight, bias = (
            sim[f"{name}.{key}"].view(shape) for key in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    def whole(name, vectors, is_image):
        local, mean = (
            linear(f"{name}.embedding_local.0", vectors),
            linear(f"{name}.embedding_global.0", vectors.mean(0)),
        )
        if is_image:
            local, mean = norm(f"{name}.embedding_local.1", local, 0), norm(f"{name}.embedding_global.1", mean, 0)
        weights = linear(f"{name}.embedding_common.0", local.tanh() * mean.tanh()).softmax(0)
        return unit((weights * vectors).sum(0))

    found = torch.empty(len(IMAGES), len(CAPTIONS), dtype=torch.float64)
    for column, caption in enumerate(CAPTIONS):
        words = unit(words_of(text, "cap_rnn", caption))
        for row, features in enumerate(IMAGES):
            regions = unit(features @ image["fc.weight"].T + image["fc.bias"])
            attention = unit(torch.nn.functional.leaky_relu(regions @ words.T, 0.1))  # over the words of a region
            context = unit((9 * attention).softmax(0).T @ regions)
            of_words = unit(linear("sim_tranloc_w", (context - words).square()))
            both = whole("v_global_w", regions, True) - whole("t_global_w", words, False)
            nodes = torch.cat([unit(linear("sim_tranglo_w", both.square()))[None], of_words])
            if "SAF_module.bn.weight" in sim:
                gate = norm("SAF_module.bn", linear("SAF_module.attn_sim_w", nodes), 1).sigmoid()
                vector = unit((gate / (gate.sum() + 1e-8) * nodes).sum(0))
            else:
                for step in range(2):
                    query, key = (linear(f"SGR_module.{step}.graph_{side}_w", nodes) for side in ("query", "key"))
                    mixed = (query @ key.T).softmax(1) @ nodes
                    nodes = linear(f"SGR_module.{step}.sim_graph_w", mixed).relu()
                vector = nodes[0]
            found[row, column] = linear("sim_eval_w", vector)
    return found if logits else found.sigmoid()


def close(found, expected):
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def test_the_tensors_have_the_originals_names():
    for part, names in zip(parts_of(made()), SGRAF_PARTS.values(), strict=False):
        assert set(part) == names
    sim = parts_of(made(module_name="SAF"))[2]
    assert {"v_global_w.embedding_local.1.running_mean", "SAF_module.attn_sim_w.bias", "sim_eval_w.bias"} <= set(sim)


@pytest.mark.parametrize("module_name", ["SGR", "SAF"])
def test_ncr_is_the_mean_of_two_models(module_name, tmp_path):
    a, b = (made(seed=seed, module_name=module_name) for seed in (0, 1))
    content = ncr(a, b)
    model = load(tmp_path, content)
    assert isinstance(model, MeanOfModels)
    close(scores(model), (plain(content["model_A"]) + plain(content["model_B"])) / 2)
    assert (scores(a) - scores(b)).abs().max() > 1e-3
    assert model.notes == ["the checkpoint holds 2 models: similarities are the mean of theirs"]
    with pytest.raises(ValueError, match="a MeanOfModels is several models: save each of its `models` into a folder"):
        save_model(model, tmp_path / "mean")
    save_model(model.models[1], tmp_path / "b")
    torch.testing.assert_close(scores(load_model(tmp_path / "b")), scores(b), rtol=0, atol=0)


@pytest.mark.parametrize("layout", [decl, crcl, l2rm])
@pytest.mark.parametrize("module_name", ["SGR", "SAF"])
def test_one_model_of_sgraf(module_name, layout, tmp_path):
    model = made(module_name=module_name)
    loaded = load(tmp_path, layout(model))
    assert loaded.notes == []
    close(scores(loaded), plain(parts_of(model)))
    assert loaded.config.module_name == module_name


def test_a_mask_behind_the_words_is_left_out(tmp_path):
    for layout, key in ((l2rm, "net"), (crcl, "model")):
        content = layout(made())
        if layout is l2rm:
            words = content["net"]["txt_enc.embed.weight"]
            content["net"]["txt_enc.embed.weight"] = torch.cat([words, torch.randn(1, 6)])
        assert len(load(tmp_path, content).txt_enc.embed.weight) == 11, key
        with pytest.raises(DataError, match=r"trained with a vocabulary of 1[12] words, but the one given has 4 words"):
            load(tmp_path, content, Vocabulary(["<pad>", "<start>", "<end>", "<unk>"]))


def vse(with_mask=True):
    """CRCL's model "VSEinfty": two parts under names of VSE-infinity; its sizes are no options."""
    model = made("vse_infty")
    content = crcl(made())
    content["model"] = parts_of_vse(model)
    if not with_mask:
        content["model"][1]["embed.weight"] = content["model"][1]["embed.weight"][:-1]
    vars(content["opt"]).update(module_name="VSEinfty", img_dim=2048, embed_size=1024, word_dim=300)
    return content


def parts_of_vse(model):
    return [dict(model.get_submodule(part).state_dict()) for part in ("img_enc", "txt_enc")]


def pooled(part, vectors):
    """VSE-infinity's pooling: sorted channels, weighted by what a GRU makes of positions."""
    positions, n = torch.zeros(len(vectors), 32, dtype=torch.float64), torch.arange(len(vectors))[:, None]
    rates = torch.exp(torch.arange(0, 32, 2).double() * -(math.log(10000.0) / 32))
    positions[:, 0::2], positions[:, 1::2] = torch.sin(n * rates), torch.cos(n * rates)
    gru = torch.nn.GRU(32, 32, bidirectional=True, batch_first=True).double()
    gru.load_state_dict({key.removeprefix("gpool.gru."): x for key, x in part.items() if key.startswith("gpool.gru.")})
    states = gru(positions[None])[0][0]
    weights = ((states[:, :32] + states[:, 32:]) / 2 @ part["gpool.linear.weight"].T / 0.1).softmax(0)
    return unit((vectors.sort(dim=0, descending=True).values * weights).sum(0))


@pytest.mark.parametrize("with_mask", [True, False])
def test_crcl_of_vse_infinity(with_mask, tmp_path):
    content = vse(with_mask)
    loaded = load(tmp_path, content)
    assert (loaded.name, loaded.config.img_dim, loaded.config.embed_size) == ("vse_infty", 12, 8)
    image, text = ({key: x.double() for key, x in part.items()} for part in content["model"])
    hidden = IMAGES @ image["mlp.layers.0.weight"].T + image["mlp.layers.0.bias"]
    mean, var = image["mlp.bns.0.running_mean"], image["mlp.bns.0.running_var"]
    hidden = (hidden - mean) / (var + 1e-5).sqrt() * image["mlp.bns.0.weight"] + image["mlp.bns.0.bias"]
    regions = hidden.relu() @ image["mlp.layers.1.weight"].T + image["mlp.layers.1.bias"]
    regions = regions + IMAGES @ image["fc.weight"].T + image["fc.bias"]
    images = torch.stack([pooled(image, one) for one in regions])
    captions = torch.stack([pooled(text, words_of(text, "rnn", caption)) for caption in CAPTIONS])
    close(scores(loaded), images @ captions.T)


def without(entry):
    def change(content):
        del content[entry]

    return change


OTHER = made(module_name="SAF")


@pytest.mark.parametrize(
    ("content", "change", "fragment"),
    [
        (lambda: ncr(made(), made(seed=1)), without("model_B"), r'expected \{"model": \[image, .*, found .*model_A'),
        (
            lambda: ncr(made(), made(seed=1)),
            lambda c: c["model_B"][2].pop("sim_eval_w.bias"),
            r"taken for ncr, but its sim_enc does not fit(.|\n)*sim_eval_w\.bias",
        ),
        (lambda: ncr(made(), OTHER), lambda c: None, "option module_name is 'SGR', but its tensors are of 'SAF'"),
        (lambda: ncr(made(), made()), lambda c: c["model_B"].pop(), "of no model known here"),
        (
            lambda: ncr(made(), made()),
            lambda c: c.update(ema={"w": torch.ones(2)}),
            "holds weights under 'ema' beside those of 'model_A'",
        ),
        (
            lambda: ncr(made(), made()),
            lambda c: c["opt"].__dict__.update(rank_by="text"),
            "taken for ncr, but its options do not fit: its options rank_by='text' are unknown",
        ),
        (lambda: l2rm(made()), lambda c: c["net"].update({"head.w": torch.ones(1)}), r"Unexpected key(.|\n)*head\.w"),
        (lambda: l2rm(made()), lambda c: c.update(net={"w": torch.ones(1)}), "of no model known here"),
        (lambda: l2rm(made()), lambda c: c.update(net=[]), r'expected \{"net": \[image, .*found list under .net'),
        (lambda: decl(made()), lambda c: c["opt"].__dict__.pop("mu"), "its options .* are unknown"),
        (vse, lambda c: c["opt"].__dict__.update(module_name="SGR"), "module_name is 'SGR', but its tensors are of"),
        (vse, lambda c: c["model"][1].pop("gpool.linear.weight"), r"taken for crcl, but its txt_enc does not fit"),
    ],
)
def test_what_is_refused(content, change, fragment, tmp_path):
    found = content()
    change(found)
    with pytest.raises(DataError, match=fragment):
        load(tmp_path, found)


def test_itm_fast_evaluate_takes_the_mean(tmp_path, capsys):
    make_data(tmp_path / "data", n_train=5, n_dev=1, n_test=4, max_regions=REGIONS, dim=12)
    VOCABULARY.save(tmp_path / "vocab.json")
    torch.save(ncr(made(), made(seed=1)), tmp_path / "model_best.pth.tar")
    command = [
        "evaluate",
        "--checkpoint",
        str(tmp_path / "model_best.pth.tar"),
        "--vocab",
        str(tmp_path / "vocab.json"),
    ]
    assert cli.main([*command, "--data", str(tmp_path / "data"), "--tokenizer", "split", "--json"]) == 0
    assert "the checkpoint holds 2 models" in capsys.readouterr().out


@pytest.mark.parametrize("words", [torch.ones(11), torch.tensor(1.0)], ids=["one axis", "a number"])
@pytest.mark.parametrize("save", [decl, crcl, l2rm])
def test_words_of_too_few_axes_are_refused(save, words, tmp_path):
    content = save(made())
    weights, prefix = (content["net"], "txt_enc.") if "net" in content else (content["model"][1], "")
    weights[f"{prefix}embed.weight"] = words
    with pytest.raises(DataError, match="too few axes"):
        load(tmp_path, content)
