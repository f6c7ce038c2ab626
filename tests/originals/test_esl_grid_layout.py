"""ESL of a grid and BERT, from tensors under the original's names: strictly read, scored by its formulas."""

import argparse
import dataclasses

import pytest
import tiny_bert
import torch
from torch.nn.functional import batch_norm, conv2d, layer_norm, leaky_relu, max_pool2d

from itm_fast.models import presets
from itm_fast.nn.encoders.grid import BACKBONES
from itm_fast.originals import load_original

pytest.importorskip("transformers")

WIDTH, SIZE, LEVELS = 4, 256, 9
CAPTIONS = [[3, 14, 15, 17, 4], [3, 16, 4]]
# modules of the network, which the original holds a second time under the names of two others
COPIES = {"conv1": "base.0", "bn1": "base.1", "layer1": "base.4", "layer2": "base.5", "layer3": "base.6"}
COPIES |= {"layer4": "top.0"}
FLAGS = {
    "data_path": "data",
    "data_name": "f30k",
    "vocab_path": "vocab",
    "margin": 0.2,
    "num_epochs": 30,
    "workers": 10,
}
FLAGS |= {"batch_size": 128, "word_dim": 300, "embed_size": SIZE, "grad_clip": 2.0, "num_layers": 1, "log_step": 200}
FLAGS |= {"learning_rate": 5e-4, "lr_update": 15, "val_step": 500, "logger_name": "runs/a/log", "model_name": "runs/a"}
FLAGS |= {
    "resume": "",
    "max_violation": True,
    "img_dim": 2048,
    "no_imgnorm": False,
    "no_txtnorm": False,
    "optim": "adam",
}
FLAGS |= {"precomp_enc_type": "backbone", "backbone_path": "/their/weights.pth", "backbone_source": "detector"}
FLAGS |= {"vse_mean_warmup_epochs": 1, "reset_start_epoch": False, "backbone_warmup_epochs": 0, "kernel_size": 2}
FLAGS |= {"embedding_warmup_epochs": 1, "backbone_lr_factor": 0.01, "input_scale_factor": 0.25, "reset_train": True}


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    assert presets("esl")  # made before there is a tiny detector
    small = dataclasses.replace(BACKBONES["detector"], blocks=(1, 1, 1, 1), width=WIDTH, groups=1, group_width=WIDTH)
    monkeypatch.setitem(BACKBONES, "detector", small)


def tensors(shapes, generator):
    """Random numbers; variances are positive."""
    made = {name: torch.randn(shape, generator=generator) * 0.3 for name, shape in shapes.items()}
    for name in made:
        if name.endswith(("running_var", "norm.weight", "bn.weight")) or ".bn" in name:
            made[name] = made[name].abs() + 0.5
    return made


def network_shapes():
    """torchvision's names of a ResNet of one block a stage; shapes by He et al."""
    shapes = {"conv1.weight": (WIDTH, 3, 7, 7), "fc.weight": (10, 32 * WIDTH), "fc.bias": (10,)}

    def norm(name, n):
        shapes.update({f"{name}.{part}": (n,) for part in ("weight", "bias", "running_mean", "running_var")})

    norm("bn1", WIDTH)
    n_in = WIDTH
    for stage in range(4):
        name, inner = f"layer{stage + 1}.0", WIDTH << stage
        for number, shape in enumerate(
            [(inner, n_in, 1, 1), (inner, inner, 3, 3), (4 * inner, inner, 1, 1), (4 * inner, n_in, 1, 1)], start=1
        ):
            convolution, normalisation = (f"{name}.conv{number}", f"{name}.bn{number}")
            if number == 4:
                convolution, normalisation = f"{name}.downsample.0", f"{name}.downsample.1"
            shapes[f"{convolution}.weight"] = shape
            norm(normalisation, shape[0])
        n_in = 4 * inner
    return shapes


def similarity_shapes(strategy):
    widths = [SIZE >> level for level in range(LEVELS)]
    shapes = {f"sims.calculator_1.{name}.weight": (1, 1) for name in ("temp_scale", "temp_scale_1", "temp_scale_2")}
    shapes["sims.calculator_1.sim_eval.weight"] = (1, LEVELS)
    for level, width in enumerate(widths):
        shapes[f"sims.calculator_1.masks_{level}.weight"] = (width, width)
        for part in ("weight", "bias"):
            shapes[f"sims.calculator_1.lynorm_{level}.{part}"] = (width, width)
    for level in range(1, LEVELS):
        for side, kernel in (("image", "kernel_img"), ("text", "kernel_txt")):
            name, shape = (kernel, (4, 1, 2)) if strategy == "h" else ("masks", (widths[level], widths[level - 1]))
            shapes[f"plus_encoder.encoders_1.{side}_levels.{name}_{level}.weight"] = shape
    return shapes


def written(path, strategy, pieces):
    """A file as its trainer saves it; the parts' tensors and BERT."""
    from transformers import AutoConfig, AutoModel

    generator = torch.Generator().manual_seed(3)
    network = tensors(network_shapes(), generator)
    image = {f"backbone.resnet.{name}": value for name, value in network.items()}
    for name, value in network.items():
        first, _, rest = name.partition(".")
        if first in COPIES:
            image[f"backbone.{COPIES[first]}.{rest}"] = value
    image |= tensors({"image_encoder.fc.weight": (SIZE, 32 * WIDTH), "image_encoder.fc.bias": (SIZE,)}, generator)
    torch.manual_seed(4)
    bert = AutoModel.from_config(AutoConfig.for_model(**tiny_bert.config(pieces))).eval()
    text = {f"bert.{name}": value for name, value in bert.state_dict().items()}
    text |= tensors({"linear.weight": (SIZE, 16), "linear.bias": (SIZE,)}, generator)
    text["bert.embeddings.position_ids"] = torch.arange(80)[None]  # of transformers before 4.31
    similarity = tensors(similarity_shapes(strategy), generator)
    parts = [{f"module.{name}": value for name, value in part.items()} for part in (image, text, similarity)]
    content = {"epoch": 7, "model": parts, "best_rsum": 401.5, "opt": argparse.Namespace(**FLAGS), "Eiters": 123}
    torch.save(content, path)
    return network, image, text, similarity, bert


def unit(x):
    return x / (x.norm(dim=-1, keepdim=True) + 1e-8)


def cells(network, images):
    """Blue first, less the detector's means; strides in the first convolution of a block, pooling that rounds up."""
    weights = {name: value.double() for name, value in network.items()}

    def step(name, x, **options):
        x = conv2d(x, weights[f"{name[0]}.weight"], **options)
        of_norm = (weights[f"{name[1]}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return batch_norm(x, *of_norm)

    x = images.double().flip(1) - torch.tensor([102.9801, 115.9465, 122.7717]).double().view(3, 1, 1)
    x = max_pool2d(step(("conv1", "bn1"), x, stride=2, padding=3).relu(), 3, 2, ceil_mode=True)
    for stage in range(1, 5):
        name, stride = f"layer{stage}.0", 1 if stage == 1 else 2
        beside = step((f"{name}.downsample.0", f"{name}.downsample.1"), x, stride=stride)
        x = step((f"{name}.conv1", f"{name}.bn1"), x, stride=stride).relu()
        x = step((f"{name}.conv2", f"{name}.bn2"), x, padding=1).relu()
        x = (step((f"{name}.conv3", f"{name}.bn3"), x) + beside).relu()
    return x.flatten(2).transpose(1, 2)


def levels(similarity, side, vectors, strategy):
    """Nine embeddings, each half as wide as the one before."""
    kernel = {"image": "kernel_img", "text": "kernel_txt"}[side]
    found = [vectors]
    for level in range(1, LEVELS):
        name = f"plus_encoder.encoders_1.{side}_levels.{kernel if strategy == 'h' else 'masks'}_{level}.weight"
        weight, x = similarity[name], found[-1]
        if strategy == "h":
            even, odd = weight.sum((0, 1))
            x = even * x[:, 0::2] + odd * x[:, 1::2]
        else:
            rows = unit(weight)
            largest = rows.sort(dim=1, descending=True).values[:, : min(2, rows.shape[1])][:, -1:]
            x = x @ torch.where(rows >= largest, rows, 0).T
        found.append(unit(x))
    return found


def plain(similarity, regions, words, strategy):
    """The similarity of an image and a caption."""
    form = {name.removeprefix("sims.calculator_1."): value for name, value in similarity.items()}
    weights = form["sim_eval.weight"][0]
    if strategy == "h":
        size = weights.abs()
        threshold = size.min() + form["temp_scale_1.weight"][0, 0] * (size.max() - size.min())
        weights = weights * ((size - threshold) * form["temp_scale_2.weight"][0, 0].exp()).exp()
    affinity = torch.zeros(len(words), len(regions), dtype=torch.float64)
    of_both = (levels(similarity, side, x, strategy) for side, x in (("text", words), ("image", regions)))
    for level, (word, region) in enumerate(zip(*of_both, strict=True)):
        mask, norm = form[f"masks_{level}.weight"], [form[f"lynorm_{level}.{part}"] for part in ("weight", "bias")]
        affinity += word @ (layer_norm(mask, mask.shape, *norm, eps=1e-8) * weights[level]) @ region.T
    h, tau = leaky_relu(affinity.tanh(), 0.1), form["temp_scale.weight"][0, 0].exp()
    of_words = (affinity * (tau * unit(h.T).T).softmax(1)).sum(1).mean()
    return of_words + (affinity * (tau * unit(h)).softmax(0)).sum(0).mean()


@pytest.mark.parametrize("strategy", ["h", "a"])
def test_scores_are_those_of_the_formulas_on_the_originals_tensors(strategy, tmp_path):
    pieces = tiny_bert.word_pieces(["a dog runs", "two cats sleep"])
    network, image, text, similarity, bert = written(tmp_path / "model_best.pth", strategy, pieces)
    model = load_original(tmp_path / "model_best.pth", pieces)
    assert model.notes == []
    assert (model.config.heuristic_strategy, model.config.image_kind, model.config.text_kind) == (
        strategy == "h",
        "grid",
        "bert",
    )
    twice = tuple(f"backbone.{name}." for name in ("base", "top", "resnet.fc"))
    for part, given in ((model.img_enc, image), (model.txt_enc, text), (model.sim_enc, similarity)):
        held = {name: value.shape for name, value in part.state_dict().items() if not name.endswith("_tracked")}
        wanted = {
            name: x.shape for name, x in given.items() if not name.startswith(twice) and "position_ids" not in name
        }
        assert held == wanted
    images = 255 * torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    similarity = {name: value.double() for name, value in similarity.items()}
    counts = torch.tensor([len(caption) for caption in CAPTIONS])
    tokens = torch.nn.utils.rnn.pad_sequence([torch.tensor(caption) for caption in CAPTIONS], batch_first=True)
    with torch.no_grad():
        found = model.similarity(model.encode_images(images), model.encode_captions(tokens, counts), counts)
        weight, bias = image["image_encoder.fc.weight"].double(), image["image_encoder.fc.bias"].double()
        regions = unit(cells(network, images) @ weight.T + bias)
        for column, caption in enumerate(CAPTIONS):
            states = bert.double()(input_ids=torch.tensor([caption])).last_hidden_state[0]
            words = unit(states @ text["linear.weight"].double().T + text["linear.bias"].double())
            want = torch.stack([plain(similarity, one, words, strategy) for one in regions])
            torch.testing.assert_close(found[:, column].double(), want, rtol=2e-4, atol=2e-5)
