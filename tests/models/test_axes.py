"""Any encoder of images and any of captions under any model and any loss: a step, a folder, the same scores."""

import dataclasses
import json
import pickle

import numpy as np
import pytest
import tiny_bert
import tiny_clip
import tiny_vit
import torch

from itm_fast.cli import main as cli
from itm_fast.config import DataConfig, SAMConfig, TrainingConfig
from itm_fast.data import BatchPlan, Collator, PrecompDataset, Vocabulary, make_data, open_split
from itm_fast.errors import DataError
from itm_fast.models import MODELS, load_model, model_class, presets, save_model
from itm_fast.nn.encoders.bert import BERTEncoder
from itm_fast.nn.encoders.grid import BACKBONES
from itm_fast.nn.losses.semantic_margin import SemanticMarginLoss
from itm_fast.registry import preset_names
from itm_fast.sources.trained_model import ModelScorer
from itm_fast.training.dry_run import dry_run
from itm_fast.training.objective import Objective
from itm_fast.training.run import RunSettings, corpus_of, run_training

pytest.importorskip("transformers")
pytest.importorskip("PIL.Image")

R, DIM = 4, 6
SMALL = {
    "sgraf": {"n_regions": R, "sim_dim": 8},
    "vsrn": {"dim_hidden": 8, "dim_word": 6},
    "esl": {"embed_size": 256},
    "cvse": {"n_regions": R, "n_concepts": 5, "input_channel": 6},
}
TINY_VIT = {"hidden_size": 16, "num_hidden_layers": 1, "image_size": 16}  # four patches and a class token


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A made set with pictures, and folders of a ViT, a BERT, a CLIP and a SigLIP beside it."""
    folder = tmp_path_factory.mktemp("data")
    make_data(folder, n_train=12, n_dev=6, n_test=6, max_regions=R, dim=DIM, picture_size=32)
    for name in ("vit", "bert", "clip", "siglip"):
        (folder / name).mkdir()
    tiny_vit.write_folder(folder / "vit", **TINY_VIT)
    captions = [line for path in folder.glob("*_caps.txt") for line in path.read_text().splitlines()]
    tiny_bert.write_folder(folder / "bert", tiny_bert.word_pieces(captions, n_words=10**6), num_hidden_layers=1)
    tiny_clip.write_clip(folder / "clip")
    tiny_clip.write_siglip(folder / "siglip")
    return folder


def config(name, data, image="regions", text="bigru", **options):
    sizes = {"img_dim": DIM, "word_dim": 8, "embed_size": 16, **SMALL.get(name, {})}
    paths = {"backbone_path": str(data / "vit"), "bert_path": str(data / "bert")}
    chosen = {"image_encoder": image, "text_encoder": text, **paths, **options}
    return model_class(name).config_class(**{**sizes, **chosen})


def made(name, data, *axes, **options):
    torch.manual_seed(0)
    given = config(name, data, *axes, **options)
    return model_class(name)(given, given.own_vocabulary() or Vocabulary.load(data / "vocab.json"))


def split_of(model, data, split="test"):
    return open_split(data, split, model.config.image_size, resampling=model.config.resampling)


def batch_of(model, dataset, n=6):
    tokens = model.tokens_of(dataset.captions)
    return BatchPlan(Collator(dataset, tokens, has_image_tokens=model.reads_image_tokens(training=True)), n, 1)[0]


@pytest.fixture(scope="module")
def margin(data):
    return SemanticMarginLoss(corpus_of(PrecompDataset(data, "test")), triplet_weight=0.0)


def scores(model, dataset):
    return ModelScorer(model.eval(), dataset)(slice(0, 6), slice(0, 30))


@pytest.mark.parametrize("text", ["bigru", "bert"])
@pytest.mark.parametrize("image", ["regions", "patches"])
@pytest.mark.parametrize("name", MODELS)
def test_any_encoders_under_any_model_and_any_loss(name, image, text, data, margin, tmp_path):
    """Gradients reach both encoders; a folder holds the whole model, and scores as the one that was saved."""
    if (name, text) == ("cvse", "bert"):
        with pytest.raises(ValueError, match='text_encoder is "bert", but concepts of cvse are words'):
            config(name, data, image, text)
        return
    model = made(name, data, image, text)
    dataset = split_of(model, data)
    model.prepare(model.tokens_of(dataset.captions), np.arange(30))
    model.follow_schedule(10**6, 1)  # everything trains
    batch = batch_of(model, dataset)
    for loss in (Objective(model), Objective(model, margin)):
        model.zero_grad()
        loss(batch).backward()
        for part in (model.tower or model.img_enc, model.txt_enc):
            gradients = [parameter.grad for parameter in part.parameters() if parameter.grad is not None]
            assert all(gradient.isfinite().all() for gradient in gradients)
            assert any(gradient.abs().max() > 0 for gradient in gradients)
    before = scores(model, dataset)
    assert before.std(0).max() > 0
    save_model(model, tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.config == model.config
    torch.testing.assert_close(scores(loaded, dataset), before, rtol=0, atol=0)


@pytest.mark.parametrize("name", MODELS)
def test_grids_under_any_model(name, data, tmp_path, monkeypatch):
    assert presets(name)  # made before there is a tiny detector
    tiny = dataclasses.replace(BACKBONES["detector"], blocks=(1, 1, 1, 1), width=4, group_width=4)
    monkeypatch.setitem(BACKBONES, "detector", tiny)
    model = made(name, data, "grid", img_dim=128, input_scale_factor=0.25)
    dataset = split_of(model, data)
    model.prepare(model.tokens_of(dataset.captions), np.arange(30))
    model.follow_schedule(10**6, 1)
    Objective(model)(batch_of(model, dataset)).backward()
    assert model.tower.resnet.layer4[0].conv1.weight.grad.abs().max() > 0
    assert (
        model.learning_rate_factor(next(key for key, _ in model.named_parameters() if "layer4.0.conv1" in key)) == 0.01
    )
    before = scores(model, dataset)
    save_model(model, tmp_path)
    torch.testing.assert_close(scores(load_model(tmp_path), dataset), before, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["scan", "sgraf", "esl", "chan", "laps"])
def test_the_loss_is_of_all_tokens_of_a_backbone(name, data):
    model = made(name, data, "patches").eval()
    batch = batch_of(model, split_of(model, data))
    encoded = model(batch)
    assert encoded.images.shape[1] == 5
    sims = model.similarity(encoded.images, encoded.captions, batch.word_counts)
    torch.testing.assert_close(Objective(model)(batch), model.loss(sims, batch.image_ids))


@pytest.mark.parametrize("name", MODELS)
def test_16_bits_leave_the_similarities_their_precision(name, data):
    model = made(name, data, "patches", "bigru" if name == "cvse" else "bert")
    dataset = split_of(model, data)
    model.prepare(model.tokens_of(dataset.captions), np.arange(30))
    batch = batch_of(model, dataset)
    with torch.autocast("cpu", torch.bfloat16):
        encoded = model(batch)
        assert model.similarity(encoded.images, encoded.captions, batch.word_counts).dtype == torch.float32
        loss = Objective(model)(batch)
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("tower", ["clip", "siglip"])
@pytest.mark.parametrize("name", ["scan", "vsepp"])
def test_both_towers_of_one_folder(name, tower, data, tmp_path):
    """CLIP's and SigLIP's weights fill the towers; the folder is not needed afterwards."""
    path = str(data / tower)
    model = made(name, data, "patches", "clip", backbone_path=path, bert_path=path)
    model.load_pretrained()
    from transformers import AutoModel

    whole = AutoModel.from_pretrained(path).eval()
    pixels = torch.rand(2, 3, 16, 16)
    mean, deviation = (torch.tensor(model.config.backbone_config[key]).view(3, 1, 1) for key in ("mean", "deviation"))
    expected = whole.vision_model(pixel_values=(pixels - mean) / deviation).last_hidden_state
    torch.testing.assert_close(model.eval().tower(255 * pixels), expected, rtol=1e-4, atol=1e-5)
    assert model.img_enc.tower.n_tokens() == (5 if tower == "clip" else 4)
    save_model(model, tmp_path)
    again = load_model(tmp_path)
    assert again.vocabulary == model.vocabulary
    dataset = split_of(model, data, "dev")
    cut = dataclasses.replace(batch_of_words(model, ["a dog runs", "the red cat"]))
    torch.testing.assert_close(
        again.encode_captions(cut.tokens, cut.word_counts), model.encode_captions(cut.tokens, cut.word_counts)
    )
    assert again.encode_images(dataset.regions([0, 1])).isfinite().all()


def batch_of_words(model, captions):
    @dataclasses.dataclass
    class Words:
        tokens: torch.Tensor
        word_counts: torch.Tensor

    return Words(*model.tokens_of(captions).pad(range(len(captions))))


@pytest.mark.parametrize("tower", ["clip", "siglip"])
def test_captions_are_what_transformers_makes_of_them(tower, data):
    """Ids, and the states of every token, SigLIP's padded to the end as it was trained."""
    from transformers import AutoModel, AutoTokenizer

    path = data / tower
    model = made("scan", data, "regions", "clip", bert_path=str(path)).eval()
    model.load_pretrained()
    tokenizer, whole = AutoTokenizer.from_pretrained(path), AutoModel.from_pretrained(path).eval()
    captions = ["the dog", "a cat", "two red"]
    given = batch_of_words(model, captions)
    options = {"padding": "max_length", "max_length": tiny_clip.CONTEXT} if tower == "siglip" else {"padding": True}
    expected = tokenizer(captions, return_tensors="pt", **options)
    for row, count in enumerate(given.word_counts.tolist()):
        assert given.tokens[row, :count].tolist() == expected["input_ids"][row, :count].tolist()
    states = whole.text_model(**expected).last_hidden_state
    words = torch.nn.functional.normalize(model.txt_enc.linear(states), dim=-1)
    found = model.encode_captions(given.tokens, given.word_counts)
    for row, count in enumerate(given.word_counts.tolist()):
        torch.testing.assert_close(found[row, :count], words[row, :count], rtol=1e-4, atol=1e-5)
        assert not found[row, count:].any()


def test_specials_in_a_caption_are_text(data):
    vocabulary = made("scan", data, "regions", "clip", bert_path=str(data / "clip")).vocabulary
    unknown = "<|endoftext|>"  # CLIP's, and the tiny one knows letters only
    expected = ["a</w>", unknown, unknown, *"endoftex", "t</w>", unknown, unknown]
    assert vocabulary.split(f"a {unknown}") == expected


@pytest.mark.parametrize(
    ("kind", "options", "n_tokens"),
    [
        ("vit", {}, 17),
        ("dinov2", {"mlp_ratio": 2}, 17),
        (
            "swin",
            {
                "image_size": 32,
                "patch_size": 4,
                "embed_dim": 12,
                "depths": [1, 1],
                "num_heads": [1, 2],
                "window_size": 4,
            },
            16,
        ),
        ("convnext", {"patch_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "num_stages": 2}, 16),
    ],
)
@pytest.mark.parametrize("class_token", ["kept", "dropped"])
def test_tokens_of_many_kinds(kind, options, n_tokens, class_token, data, tmp_path):
    tiny_vit.write_folder(tmp_path, kind, **options)
    model = made("sgraf", data, "patches", backbone_path=str(tmp_path), class_token=class_token)
    expected = 16 if class_token == "dropped" else n_tokens
    assert model.tower(torch.zeros(1, 3, 32, 32)).shape == (1, expected, model.tower.dim)
    assert model.n_regions == expected
    model.load_pretrained()
    encoded = model.eval().encode_images(torch.rand(2, 3, 32, 32) * 255)
    assert encoded.shape == (2, expected, 16)


def test_what_trains_and_how_fast(data):
    options = {"backbone_lr_factor": 0.25, "bert_lr_factor": 0.5, "embedding_warmup_epochs": 1, "bert_warmup_epochs": 2}
    model = made("scan", data, "patches", "bert", **options)
    factors = {key: model.learning_rate_factor(key) for key, _ in model.named_parameters()}
    assert {factor for key, factor in factors.items() if key.startswith("img_enc.tower.")} == {0.25}
    assert {factor for key, factor in factors.items() if key.startswith("txt_enc.bert.")} == {0.5}
    assert factors["img_enc.head.fc.weight"] == factors["txt_enc.linear.weight"] == 1.0
    found = []
    for epoch in range(4):
        assert model.follow_schedule(4 * epoch + 1, 4) == (0.25 if epoch == 1 else 1.0)
        parts = model.tower, model.txt_enc.bert
        found.append([all(p.requires_grad for p in part.parameters()) for part in parts])
    assert found == [[False, False], [True, False], [True, True], [True, True]]


def test_what_is_frozen_does_not_train_and_has_no_dropout(data):
    model = made("scan", data, "patches", "bert", backbone_lr_factor=0.0, bert_lr_factor=0.0).train()
    assert [model.follow_schedule(step, 1) for step in range(9)] == [1.0] * 9
    assert not any(p.requires_grad for part in (model.tower, model.txt_enc.bert) for p in part.parameters())
    assert not any(module.training for part in (model.tower, model.txt_enc.bert) for module in part.modules())
    assert model.txt_enc.linear.training


def test_gradient_checkpointing_changes_no_gradient(data):
    models = [made("scan", data, "patches", "bert").train() for _ in range(2)]
    models[1].checkpoint_gradients()
    gradients = []
    for model in models:
        model.follow_schedule(10**6, 1)
        batch = batch_of(model, split_of(model, data))
        torch.manual_seed(1)  # of BERT's dropout
        Objective(model)(batch).backward()
        gradients.append({key: p.grad for key, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for key, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], gradient)
    with pytest.raises(ValueError, match="gradient_checkpointing is for transformers that offer it"):
        made("scan", data).checkpoint_gradients()


def test_size_augmentation_drops_tokens(data):
    for name in ("vse_infty", "esl"):
        model = made(name, data, "patches")
        batch = batch_of(model, split_of(model, data))
        augmented = model.size_augment()(batch, torch.Generator().manual_seed(3))
        assert augmented.kept_cells.shape == (6, 5)
        cells, counts = model.regions_of(
            dataclasses.replace(batch, kept_cells=torch.eye(6, 5).bool().clone() | (torch.arange(5) > 3))
        )
        assert counts.max() <= 2
        assert cells.shape[1:] == (int(counts.max()), 16)
        assert model(augmented).images.isfinite().all()


def test_esl_of_a_grid_has_the_originals_tensors(vocabulary):
    """Names as CrossmodalGroup/ESL, lib/encoders.py, has them: backbone.resnet.*, image_encoder.fc.*; no pooling."""
    pieces = tiny_bert.word_pieces(["a dog runs"])
    for strategy in ("h", "a"):
        preset = presets("esl")[f"coco-{strategy}-grid-bert"]
        given = dataclasses.replace(preset.model, bert_config=tiny_bert.config(pieces))
        with torch.device("meta"):
            model = model_class("esl")(given, pieces)
        found = {key: tuple(value.shape) for key, value in model.img_enc.state_dict().items()}
        assert found.pop("image_encoder.fc.weight") == (512, 2048)
        assert found.pop("image_encoder.fc.bias") == (512,)
        assert found["backbone.resnet.layer4.0.conv1.weight"] == (512, 1024, 1, 1)
        assert all(key.startswith("backbone.resnet.") for key in found)
        assert (model.config.image_size, model.size_augment().n_cells) == (512, 256)
        assert not isinstance(model.txt_enc, torch.nn.GRU)
        assert isinstance(model.txt_enc, BERTEncoder)


def test_presets_with_clip_are_there_for_both_strategies_and_sets():
    for data_name in ("f30k", "coco"):
        for strategy in ("h", "a"):
            for kind in ("grid-bert", "wsl-grid-bert", "clip"):
                assert f"{data_name}-{strategy}-{kind}" in preset_names("esl")
    clip = presets("esl")["f30k-h-clip"].model
    assert (clip.image_kind, clip.text_kind, clip.heuristic_strategy) == ("patches", "clip", True)


def settings(name, data, image, text, *, cache=None, options=None, **training):
    given = {"num_epochs": 1, "batch_size": 15, "val_step": 10**6, "trackers": (), **training}
    return RunSettings(
        name,
        config(name, data, image, text, **(options or {})),
        DataConfig(data, tokenizer="split", cache_tokens=cache),
        TrainingConfig(**given),
        SAMConfig(),
    )


def test_a_frozen_backbone_is_run_once(data, tmp_path, monkeypatch):
    """The run reads what it made before, and scores from pixels as from the cache, up to float16's rounding."""
    options = {"backbone_lr_factor": 0.0}
    given = settings("scan", data, "patches", "bigru", cache=tmp_path / "cache", options=options)
    notices = []
    first = run_training(given, tmp_path / "first", notice=notices.append)
    assert any("tokens of 12 images of train are extracted" in text for text in notices)
    assert (tmp_path / "cache" / "train_tokens.npy").is_file()
    assert not (tmp_path / "cache" / "test_tokens.npy").exists()  # only what is trained and validated on
    cached = np.load(tmp_path / "cache" / "dev_tokens.npy")
    assert (cached.dtype, cached.shape) == (np.float16, (6, 5, 16))
    model = load_model(tmp_path / "first" / "best")
    pixels = split_of(model, data, "dev").regions(range(6))
    with torch.no_grad():
        expected = model.tower(pixels)
    torch.testing.assert_close(torch.from_numpy(cached).float(), expected, rtol=2**-11, atol=2**-24)

    def never(self, images):
        raise AssertionError("the backbone was run again")

    monkeypatch.setattr("itm_fast.nn.encoders.patches.PatchTower.forward", never)
    again = run_training(given, tmp_path / "again")
    assert again.losses == first.losses


def test_a_dry_run_caches_nothing(data, tmp_path):
    given = settings("scan", data, "patches", "bigru", cache=tmp_path / "cache", options={"backbone_lr_factor": 0.0})
    notices = []
    tried = dry_run(given, tmp_path / "run", notice=notices.append)
    assert tried.shapes["regions"] == (15, 3, 16, 16)
    assert any("no tokens are cached" in text for text in notices)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_extraction_goes_on(data, tmp_path, monkeypatch):
    from itm_fast.data.readers.images import ImageDataset
    from itm_fast.training import token_cache

    monkeypatch.setattr(token_cache, "_BATCH", 4)
    given = settings("scan", data, "patches", "bigru", cache=tmp_path / "cache", options={"backbone_lr_factor": 0.0})
    read, asked = ImageDataset.regions, []

    def stops(self, indices, generator=None):
        asked.append(list(indices))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return read(self, indices, generator)

    monkeypatch.setattr(ImageDataset, "regions", stops)
    with pytest.raises(KeyboardInterrupt):
        run_training(given, tmp_path / "run")
    assert not (tmp_path / "cache" / "train_tokens.npy").exists()
    assert json.loads((tmp_path / "cache" / "train_tokens.json").read_text())["rows"] == 8
    asked.clear()
    asked += [None] * 3
    run_training(given, tmp_path / "run")
    assert asked[3] == [8, 9, 10, 11]
    whole = settings("scan", data, "patches", "bigru", cache=tmp_path / "other", options={"backbone_lr_factor": 0.0})
    run_training(whole, tmp_path / "whole")
    files = [(tmp_path / folder / "train_tokens.npy").read_bytes() for folder in ("cache", "other")]
    assert files[0] == files[1]


def test_several_processes_do_not_extract(data, tmp_path):
    from itm_fast.training.token_cache import tokens_of_split

    model = made("scan", data, "patches")
    images = split_of(model, data)
    options = {"settings": {}, "device": torch.device("cpu"), "precision": "float32", "notice": lambda text: None}
    with pytest.raises(ValueError, match="0 of 6 images of split 'test' are there; let one process extract them first"):
        tokens_of_split(model.tower, images, tmp_path, may_extract=False, **options)
    tokens = tokens_of_split(model.tower, images, tmp_path, may_extract=True, **options)
    again = pickle.loads(pickle.dumps(tokens_of_split(model.tower, images, tmp_path, may_extract=False, **options)))
    assert len(pickle.dumps(tokens)) < 20000
    assert torch.equal(again.regions([5, 0]), tokens.regions(range(6))[[5, 0]])
    assert (again.max_regions, again.dim, again.n_captions) == (5, 16, 30)
    np.save(tmp_path / "test_tokens.npy", np.zeros((5, 5, 16), np.float16))
    with pytest.raises(DataError, match=r"float16 \(5, 5, 16\); expected float16 \(6, n_tokens, dim\)"):
        tokens_of_split(model.tower, images, tmp_path, may_extract=False, **options)
    with torch.no_grad():
        model.tower.transformer.layernorm.weight.fill_(1e6)
    with pytest.raises(DataError, match="made with another backbone"):
        tokens_of_split(model.tower, images, tmp_path, may_extract=True, **options)
    with pytest.raises(ValueError, match="tokens of images 0 to 5 are no numbers of float16"):
        tokens_of_split(model.tower, images, tmp_path / "other", may_extract=True, **options)


def test_a_cache_of_something_else_is_refused(data, tmp_path):
    frozen = {"backbone_lr_factor": 0.0}
    given = settings("scan", data, "patches", "bigru", cache=tmp_path / "cache", options=frozen)
    run_training(given, tmp_path / "run")
    other = settings(
        "scan", data, "patches", "bigru", cache=tmp_path / "cache", options={**frozen, "class_token": "dropped"}
    )
    with pytest.raises(DataError, match=r"train_tokens\.json: holds tokens made with another class_token"):
        run_training(other, tmp_path / "other")
    for axis, factor in (("patches", 0.1), ("regions", 0.0)):
        moving = settings("scan", data, axis, "bigru", cache=tmp_path / "cache", options={"backbone_lr_factor": factor})
        with pytest.raises(ValueError, match="cache_tokens is for a backbone that never trains"):
            run_training(moving, tmp_path / "moving")


@pytest.mark.parametrize(
    ("options", "exception", "fragment"),
    [
        ({"image_encoder": "pixels"}, ValueError, "image_encoder must be one of 'grid', 'patches', 'regions'"),
        (
            {"text_encoder": "gru"},
            ValueError,
            "text_encoder must be one of 'bert', 'bigru', 'clip', got 'gru'; perhaps",
        ),
        ({"class_token": "apart"}, ValueError, "class_token must be one of"),
        ({"backbone_config": "vit"}, TypeError, "backbone_config must be a dictionary or None, got 'vit'"),
        ({"bert_warmup_epochs": -1}, ValueError, "bert_warmup_epochs must be at least 0"),
        ({"bert_lr_factor": float("inf")}, ValueError, "bert_lr_factor must be a finite number"),
        ({"image_encoder": "grid", "img_dim": 7}, ValueError, "img_dim must be 2048, the width of detector's cells"),
    ],
)
def test_bad_options(options, exception, fragment):
    with pytest.raises(exception, match=fragment):
        model_class("scan").config_class(**options)


@pytest.mark.parametrize(
    ("image", "text", "options", "exception", "fragment"),
    [
        (
            "patches",
            "bigru",
            {"backbone_path": "/nowhere"},
            FileNotFoundError,
            "backbone_path is '/nowhere': no folder",
        ),
        ("patches", "bigru", {"backbone_path": "{bert}"}, DataError, "no file says which pixels it takes"),
        ("regions", "clip", {}, DataError, "is a bert, which has no text tower; expected CLIP or SigLIP"),
        (
            "regions",
            "bert",
            {"bert_path": "{clip}"},
            DataError,
            "is a clip, of images and text; give --text-encoder clip",
        ),
        ("patches", "bigru", {"backbone_config": {"size": 4}}, ValueError, 'backbone_config: expected {"architecture"'),
        (
            "patches",
            "bigru",
            {"backbone_config": {**tiny_vit.config(), "mean": [0.5]}},
            ValueError,
            r"mean is \[0.5\]; expected three numbers",
        ),
        (
            "patches",
            "bigru",
            {"backbone_config": {**tiny_vit.PIXELS, "architecture": tiny_bert.SIZES}},
            ValueError,
            "bert is no encoder of images; expected one such as vit",
        ),
        (
            "regions",
            "bert",
            {"bert_config": {"model_type": "vit", **tiny_vit.SIZES}},
            ValueError,
            "vit is no encoder of text; expected one such as bert",
        ),
    ],
)
def test_folders_and_architectures_that_are_none(image, text, options, exception, fragment, data):
    filled = {key: value.format(bert=data / "bert", clip=data / "clip") if isinstance(value, str) else value
              for key, value in options.items()}  # fmt: skip
    with pytest.raises(exception, match=fragment):
        made("scan", data, image, text, **filled)


def test_weights_of_another_transformer(data, tmp_path):
    tiny_vit.write_folder(tmp_path, **{**TINY_VIT, "num_hidden_layers": 2})
    model = made("scan", data, "patches")
    model.config = dataclasses.replace(model.config, backbone_path=str(tmp_path))
    with pytest.raises(DataError, match="not the weights of this image encoder"):
        model.load_pretrained()


def test_by_the_command_line(data, tmp_path, capsys):
    flags = ["--data-path", str(data), "--image-encoder", "patches", "--backbone-path", str(data / "vit")]
    flags += ["--text-encoder", "bert", "--bert-path", str(data / "bert"), "--embed-size", "16", "--batch-size", "20"]
    flags += ["--num-epochs", "1", "--trackers", "--device", "cpu", "--model-name", str(tmp_path / "run")]
    flags += ["--gradient-checkpointing", "--backbone-lr-factor", "0.1", "--embedding-warmup-epochs", "0"]
    assert cli.main(["train", "scan", *flags]) == 0
    capsys.readouterr()
    model = ["evaluate", "--model", str(tmp_path / "run" / "best"), "--data", str(data), "--json"]
    assert cli.main(model) == 0
    assert json.loads(capsys.readouterr().out)["conditions"]["n_images"] == 6
