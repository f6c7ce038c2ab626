"""VSE-infinity on images: tensors of the original, warm-up, learning, exact resumption; with a tiny CNN."""

import dataclasses
import itertools
import json

import captioned_sets
import numpy as np
import pytest
import torch

from itm_fast.config import DataConfig, SAMConfig, TrainingConfig
from itm_fast.data import ImageDataset, SizeAugment
from itm_fast.data.augment import compacted
from itm_fast.data.collate import Batch
from itm_fast.errors import DataError
from itm_fast.evaluation import evaluate
from itm_fast.models import load_model, model_class, presets, save_model
from itm_fast.models.vse_infty import VSEInfty, VSEInftyConfig
from itm_fast.nn.encoders.grid import BACKBONES, ResNet
from itm_fast.sources.trained_model import ModelScorer
from itm_fast.training.run import RunSettings, run_training

SMALL = {"word_dim": 16, "embed_size": 32, "img_dim": 256, "precomp_enc_type": "backbone", "input_scale_factor": 0.25}


def tiny_backbone(patch, path):
    """A tiny network in the detector's place, and a file with weights for it, whose path is returned."""
    tiny = dataclasses.replace(BACKBONES["detector"], blocks=(1, 1, 1, 1), width=8, group_width=8, takes_bgr=False)
    patch.setitem(BACKBONES, "detector", tiny)
    torch.manual_seed(3)
    content = {"base": {}, "top": {}}
    for key, value in ResNet(tiny).state_dict().items():
        name, _, rest = key.partition(".")
        part, number = {"conv1": "base0", "bn1": "base1", "layer4": "top0"}.get(name, f"base{3 + int(name[-1])}"), rest
        content[part[:-1]][f"{part[-1]}.{number}"] = value
    torch.save(content, path)
    return str(path)


@pytest.fixture(autouse=True)
def backbone(monkeypatch, tmp_path):
    return tiny_backbone(monkeypatch, tmp_path / "weights.pth")


def made(vocabulary, **options):
    torch.manual_seed(0)
    return VSEInfty(VSEInftyConfig(**{**SMALL, **options}), vocabulary)


def batch(n=4, kept_cells=None):
    generator = torch.Generator().manual_seed(2)
    tokens, counts, ids = (
        torch.tensor([[1, 4, 5, 2], [1, 6, 2, 0]] * 2)[:n],
        torch.tensor([4, 3] * 2)[:n],
        torch.arange(n),
    )
    images = 255 * torch.rand(n, 3, 64, 64, generator=generator)
    return Batch(images, tokens, counts, ids, 5 * ids, torch.ones(n, dtype=torch.int64), kept_cells)


def original_names():
    """The original's tensors of a ResNet-101, by the rule that torchvision names them by; shapes of the network."""
    shapes = {"conv1.weight": (64, 3, 7, 7)}

    def norm(name, n):
        shapes.update({f"{name}.{part}": (n,) for part in ("weight", "bias", "running_mean", "running_var")})
        shapes[f"{name}.num_batches_tracked"] = ()

    norm("bn1", 64)
    n_in = 64
    for stage, n_blocks in enumerate((3, 4, 23, 3), start=1):
        width = 64 * 2 ** (stage - 1)
        for block in range(n_blocks):
            name = f"layer{stage}.{block}"
            convolutions = [(width, n_in, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1)]
            for number, shape in enumerate(convolutions, start=1):
                shapes[f"{name}.conv{number}.weight"] = shape
                norm(f"{name}.bn{number}", shape[0])
            if block == 0:
                shapes[f"{name}.downsample.0.weight"] = (4 * width, n_in, 1, 1)
                norm(f"{name}.downsample.1", 4 * width)
            n_in = 4 * width
    return shapes


def test_the_originals_tensors(vocabulary, monkeypatch):
    tiny = BACKBONES["detector"]
    full = dataclasses.replace(tiny, blocks=(3, 4, 23, 3), width=64, group_width=64)
    monkeypatch.setitem(BACKBONES, "detector", full)
    with torch.device("meta"):
        model = VSEInfty(presets("vse_infty")["f30k-grid"].model, vocabulary)
    found = {key: tuple(value.shape) for key, value in model.img_enc.state_dict().items()}
    gru = {"weight_ih": (96, 32), "weight_hh": (96, 32), "bias_ih": (96,), "bias_hh": (96,)}
    encoder = {"fc.weight": (1024, 2048), "fc.bias": (1024,), "gpool.linear.weight": (1, 32)}
    encoder |= {f"gpool.gru.{kind}_l0{way}": shape for kind, shape in gru.items() for way in ("", "_reverse")}
    expected = {f"backbone.resnet.{key}": shape for key, shape in original_names().items()}
    assert found == {**expected, **{f"image_encoder.{key}": shape for key, shape in encoder.items()}}


def test_presets_are_the_published_rows():
    for name in ("f30k-grid", "coco-grid"):
        preset = presets("vse_infty")[name]
        assert (preset.model.image_size, preset.model.n_cells) == (512, 256)
        assert (preset.model.embedding_warmup_epochs, preset.model.backbone_warmup_epochs) == (1, 0)
        assert (preset.training.weight_decay, preset.training.learning_rate) == (1e-4, 5e-4)
        assert presets("vse_infty")[name.removesuffix("-grid")].training.weight_decay == 1e-2


def test_embeddings_pool_the_cells(vocabulary):
    model = made(vocabulary).eval()
    images = batch().regions
    found = model.encode_images(images)
    cells = model.img_enc(images)
    assert cells.shape == (4, 4, 32)
    pooled = model.img_enc.image_encoder["gpool"](cells)
    torch.testing.assert_close(found, pooled / pooled.norm(dim=1, keepdim=True))


def test_dropped_cells_are_not_pooled(vocabulary):
    model = made(vocabulary)
    kept = torch.tensor(
        [[True, False, True, False], [True] * 4, [False, False, False, True], [False, True, True, True]]
    )
    found = model(batch(kept_cells=kept)).images
    for row, which in enumerate(kept):
        cells = model.img_enc(batch().regions[row : row + 1])[:, which]
        pooled = model.img_enc.image_encoder["gpool"](cells)[0]
        torch.testing.assert_close(found[row], pooled / pooled.norm(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model(batch()).images, model.encode_images(batch().regions))


def test_size_augmentation_chooses_cells(vocabulary):
    augment = made(vocabulary).size_augment()
    assert augment.n_cells == 4
    generator = torch.Generator().manual_seed(0)
    many = batch(4)
    kept = torch.cat([SizeAugment(7, 7, n_cells=256)(many, generator).kept_cells for _ in range(500)])
    share = 1 - kept.float().mean(1)
    # no image of a fifth loses cells, the others 0.2 u of them, u from U(0.2, 1): 0.8 * 0.2 * 0.6 = 0.096 on average;
    # five standard deviations of a mean over 2000 images: 5 * 0.0638 / sqrt(2000) = 0.0071
    assert abs(share.mean() - 0.096) < 0.0072
    assert abs((share == 0).float().mean() - 0.2) < 0.05
    for _ in range(50):  # an only cell stays
        alone = SizeAugment(7, 7, n_cells=1)(many, generator)
        assert alone.kept_cells.all()
        assert alone.regions is many.regions


def test_compacted_rows():
    rows, kept = torch.arange(6.0).view(2, 3, 1), torch.tensor([[False, True, True], [True, False, False]])
    found, counts = compacted(rows, kept)
    assert found.squeeze(2).tolist() == [[1, 2], [3, 0]]
    assert counts.tolist() == [2, 1]


@pytest.mark.parametrize(
    ("embedding", "backbone_epochs", "expected"),
    [
        (1, 0, [4, 0, 0, 0, 0, 0, 0]),
        (2, 1, [4, 4, 3, 2, 1, 0, 0]),
        (0, 2, [3, 3, 2, 2, 1, 1, 0]),
        (0, 0, [0] * 7),
    ],
)
def test_warm_up(vocabulary, embedding, backbone_epochs, expected):
    model = made(vocabulary, embedding_warmup_epochs=embedding, backbone_warmup_epochs=backbone_epochs)
    stages = ["layer1", "layer2", "layer3", "layer4"]
    for epoch, n_fixed in enumerate(expected):
        factors = [model.follow_schedule(4 * epoch + number, 4) for number in range(4)]
        assert factors == ([0.0, 0.25, 0.5, 0.75] if epoch == embedding else [1.0] * 4)
        resnet = model.img_enc.backbone.resnet
        fixed = [not any(p.requires_grad for p in resnet.get_submodule(stage).parameters()) for stage in stages]
        assert fixed == [True] * n_fixed + [False] * (4 - n_fixed)
        assert resnet.conv1.weight.requires_grad == (n_fixed == 0)
        assert all(p.requires_grad for p in model.txt_enc.parameters())
        assert all(p.requires_grad for p in model.img_enc.image_encoder.parameters())


def test_the_backbone_has_a_share_of_the_learning_rate(vocabulary):
    model = made(vocabulary, backbone_lr_factor=0.25)
    factors = {name: model.learning_rate_factor(name) for name, _ in model.named_parameters()}
    assert {name for name, factor in factors.items() if factor == 0.25} == {
        name for name in factors if name.startswith("img_enc.backbone.resnet.")
    }
    assert set(factors.values()) == {0.25, 1.0}


def test_region_models_know_no_warm_up(vocabulary):
    model = VSEInfty(VSEInftyConfig(img_dim=12, embed_size=8), vocabulary)
    assert model.follow_schedule(0, 4) == 1.0
    assert all(parameter.requires_grad for name, parameter in model.named_parameters() if "bns.1" not in name)
    assert model.size_augment().n_cells is None
    assert model.config.image_size is None


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        ({"precomp_enc_type": "grid"}, "precomp_enc_type must be one of 'backbone', 'basic'"),
        ({"backbone_source": "vgg19"}, "backbone_source must be one of 'detector', 'imagenet'"),
        ({"img_dim": 2048}, "img_dim must be 256, the width of detector's cells, got 2048"),
        ({"input_scale_factor": 1.1}, "makes images of 281 pixels; expected a multiple of 32"),
        ({"input_scale_factor": 1e-3}, "makes images of 0 pixels"),
        ({"input_scale_factor": 0.0}, "input_scale_factor must be a finite number above 0"),
        ({"embedding_warmup_epochs": -1}, "embedding_warmup_epochs must be at least 0"),
        ({"backbone_lr_factor": float("nan")}, "backbone_lr_factor must be a finite number"),
    ],
)
def test_configurations_that_are_refused(options, fragment):
    with pytest.raises(ValueError, match=fragment):
        VSEInftyConfig(**{**SMALL, **options})


def test_a_folder_holds_the_backbone_too(vocabulary, tmp_path):
    model = made(vocabulary, backbone_path="/gone/weights.pth").eval()
    save_model(model, tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.config == model.config
    images = batch().regions
    torch.testing.assert_close(loaded.encode_images(images), model.encode_images(images), rtol=0, atol=0)


COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220), "white": (250, 250, 250)}
COLOURS |= {"black": (5, 5, 5), "yellow": (240, 230, 40)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images of an upper and a lower colour, noisy and of several shapes, whose captions say which colours."""
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed (pip install 'itm-fast[images]')")
    root = tmp_path_factory.mktemp("images")
    (root / "images").mkdir()
    rng = np.random.default_rng(0)
    kinds = [(a, b) for a, b in itertools.product(COLOURS, COLOURS)]
    rng.shuffle(kinds)
    mapping, number = {}, 0
    for split, repeats, chosen in (("train", 3, kinds), ("dev", 1, kinds), ("test", 1, kinds)):
        captions, ids = [], []
        for _ in range(repeats):
            for upper, lower in chosen:
                side = int(rng.integers(40, 90))
                pixels = np.empty((side, 64, 3))
                pixels[: side // 2], pixels[side // 2 :] = COLOURS[upper], COLOURS[lower]
                noisy = np.clip(pixels + rng.normal(0, 12, pixels.shape), 0, 255).astype(np.uint8)
                image.fromarray(noisy).save(root / "images" / f"{number}.png")
                mapping[str(number)] = f"{number}.png"
                ids.append(number)
                number += 1
                captions += [f"{upper} over {lower}", f"{lower} under {upper}", f"a {upper} half over a {lower} one"]
                captions += [f"{upper} is above {lower}", f"above is {upper} and below {lower}"]
        (root / f"{split}_caps.txt").write_text("\n".join(captions) + "\n")
        (root / f"{split}_ids.txt").write_text("\n".join(map(str, ids)) + "\n")
    (root / "id_mapping.json").write_text(json.dumps(mapping))
    return root


def settings(folder, backbone, **options):
    model = {
        "max_violation": True,
        "backbone_path": backbone,
        "embedding_warmup_epochs": 1,
        "backbone_warmup_epochs": 0,
    }
    training = {"num_epochs": 3, "learning_rate": 4e-3, "optim": "adamw", "size_augment": True, **options}
    return RunSettings(
        "vse_infty",
        model_class("vse_infty").config_class(**{**SMALL, **model}),
        DataConfig(folder, tokenizer="split"),
        TrainingConfig(**{"batch_size": 36, "val_step": 10**6, "trackers": (), **training}),
        SAMConfig(),
    )


@pytest.mark.learning
def test_it_learns_from_images(folder, backbone, tmp_path):
    """R@1 at least five times chance, which is 1 / 36, on images that it has not seen, of colours that it has."""
    schedule = {"num_epochs": 6, "lr_update": 5, "vse_mean_warmup_epochs": 4}
    run_training(settings(folder, backbone, **schedule), tmp_path / "run")
    model = load_model(tmp_path / "run" / "best")
    dataset = ImageDataset(folder, "test", model.config.image_size)
    report = evaluate(ModelScorer(model, dataset, tokenizer="split"))
    assert min(report["i2t"]["R@1"], report["t2i"]["R@1"]) >= 5 * 100 / 36
    assert not any("running" in key and not torch.equal(value, 0 * value + ("var" in key)) for key, value in
                   model.img_enc.state_dict().items())  # fmt: skip


def states(path):
    return torch.load(path, weights_only=True)["state"]["model"]


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """A run that nobody stops: its result, the model's tensors by the number of steps done, and the file's weights."""
    place, seen = tmp_path_factory.mktemp("whole"), {}

    def watch(done, total):
        seen[done] = states(place / "run" / "checkpoint.pt")

    with pytest.MonkeyPatch.context() as patch:
        weights = tiny_backbone(patch, place / "weights.pth")
        result = run_training(
            settings(folder, weights, save_step=1, num_epochs=2, weight_decay=0.0), place / "run", progress=watch
        )
    return result, seen, torch.load(weights, weights_only=True)


def test_a_resumed_run_is_the_uninterrupted_one(folder, backbone, whole, tmp_path):
    """Killed where the backbone begins to train, and once more later; pictures read here and by a worker."""
    given = settings(folder, backbone, save_step=1, num_epochs=2)
    of_whole, seen, _ = whole

    def stop_at(step):
        def stop(done, total):
            if done == step:
                raise KeyboardInterrupt

        return stop

    weights = (tmp_path / "weights.pth").read_bytes()
    for workers in (0, 1):
        cut = tmp_path / f"cut-{workers}"
        given = dataclasses.replace(given, training=dataclasses.replace(given.training, workers=workers))
        (tmp_path / "weights.pth").write_bytes(weights)
        with pytest.raises(KeyboardInterrupt):
            run_training(given, cut, progress=stop_at(15))
        (tmp_path / "weights.pth").unlink()  # a resumed run needs none
        with pytest.raises(KeyboardInterrupt):
            run_training(given, cut, resume=True, progress=stop_at(19))
        result = run_training(given, cut, resume=True)
        assert result.losses == of_whole.losses[19:]
        found = states(cut / "checkpoint.pt")
        assert all(torch.equal(value, found[key]) for key, value in seen[30].items())


def test_the_backbone_waits_and_then_trains(whole):
    """Its tensors are those of the file after epoch 0; the loss's factor begins at nothing; statistics stay."""
    _, seen, content = whole
    key = "img_enc.backbone.resnet.layer4.0.conv1.weight"
    assert torch.equal(seen[15][key], content["top"]["0.0.conv1.weight"])
    assert torch.equal(seen[16][key], seen[15][key])  # the first step of epoch 1 has factor 0
    assert not torch.equal(seen[18][key], seen[15][key])
    assert not torch.equal(seen[1]["img_enc.image_encoder.fc.weight"], seen[15]["img_enc.image_encoder.fc.weight"])
    for name in seen[30]:
        if "running_" in name or "num_batches" in name:
            assert torch.equal(seen[30][name], seen[1][name])


def test_the_logged_loss_is_not_scaled(whole):
    result, _, _ = whole
    assert result.losses[15] > 0


def test_weights_must_be_named(folder, tmp_path):
    with pytest.raises(ValueError, match="'detector' needs backbone_path"):
        run_training(settings(folder, ""), tmp_path / "run")


def test_a_broken_image_ends_the_training_with_its_name(folder, backbone, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "images" / "5.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(DataError, match=r"5\.png: no image that can be read"):
        run_training(settings(copy, backbone, num_epochs=1), tmp_path / "run")


@pytest.mark.slow
def test_shards_train_as_the_folder_does(folder, backbone, tmp_path):
    """The same images and captions in .tar, those of dev under the name that others give it: the same model."""
    (tmp_path / "shards").mkdir()
    for split, name in (("train", "train"), ("dev", "val"), ("test", "test")):
        split = ImageDataset(folder, split, 64, dev_captions=None)
        members = []
        for file, texts in zip(split.paths, split.captions_by_image(), strict=True):
            members += [(file.name, file.read_bytes()), (f"{file.stem}.txt", "\n".join(texts).encode())]
        captioned_sets.write_tar(tmp_path / "shards" / f"{name}-0000.tar", members)
    models = []
    for place, data in enumerate((folder, tmp_path / "shards")):
        run_training(settings(data, backbone, num_epochs=1), tmp_path / f"run{place}")
        models.append(load_model(tmp_path / f"run{place}" / "best"))
    right = models[0].state_dict()
    assert all(torch.equal(value, right[key]) for key, value in models[1].state_dict().items())


def test_the_command_line_trains_and_evaluates(folder, backbone, tmp_path, capsys):
    from itm_fast.cli import main as cli

    flags = ["--data-path", str(folder), "--tokenizer", "split", "--precomp-enc-type", "backbone", "--img-dim", "256"]
    flags += ["--backbone-path", backbone, "--input-scale-factor", "0.25", "--embed-size", "32", "--word-dim", "16"]
    flags += ["--embedding-warmup-epochs", "0", "--backbone-warmup-epochs", "0", "--num-epochs", "1"]
    run = str(tmp_path / "run")
    assert cli.main(["train", "vse_infty", "--preset", "f30k-grid", *flags, "--model-name", run]) == 0
    evaluation = [
        "evaluate",
        "--model",
        f"{run}/best",
        "--data",
        str(folder),
        "--tokenizer",
        "split",
        "--ncs",
        "--json",
    ]
    capsys.readouterr()
    assert cli.main(evaluation) == 0
    assert json.loads(capsys.readouterr().out)["nsum"] > 0
    (folder / "test_ids.txt").rename(folder / "moved.txt")
    try:
        assert cli.main(evaluation) == 2
    finally:
        (folder / "moved.txt").rename(folder / "test_ids.txt")
    assert "test_ids.txt: no such file" in capsys.readouterr().err
