"""Any encoder of images and any of captions under any model and any loss: a step, a folder, the same scores."""

import dataclasses
import json

import numpy as np
import pytest
import tiny_bert
import tiny_clip
import tiny_vit
import torch
from tiny_axes import TINY_VIT, batch_of, config, made, split_of, write_data

from itm_fast.cli import main as cli
from itm_fast.data import PrecompDataset
from itm_fast.errors import DataError
from itm_fast.models import MODELS, load_model, model_class, presets, save_model
from itm_fast.nn.encoders.bert import BERTEncoder
from itm_fast.nn.encoders.grid import BACKBONES
from itm_fast.nn.losses.semantic_margin import SemanticMarginLoss
from itm_fast.registry import preset_names
from itm_fast.sources.trained_model import ModelScorer
from itm_fast.training.objective import Objective
from itm_fast.training.run import corpus_of

pytest.importorskip("transformers")
pytest.importorskip("PIL.Image")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_data(folder)
    return folder


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


@pytest.mark.parametrize("name", ["vsepp", "sgraf", "cvse", "laps"])
def test_a_class_token_set_apart(name, data, tmp_path):
    """It moves every score, is none of the patches, and is there in the model's folder again."""
    model = made(name, data, "patches", class_token="apart")
    assert model.tower.n_tokens() == (1 if name == "vsepp" else 5)
    dataset = split_of(model, data)
    model.prepare(model.tokens_of(dataset.captions), np.arange(30))
    model.follow_schedule(10**6, 1)
    batch = batch_of(model, dataset)
    Objective(model)(batch).backward()
    assert model.tower.transformer.embeddings.cls_token.grad.abs().max() > 0
    before = scores(model, dataset)
    save_model(model, tmp_path)
    torch.testing.assert_close(scores(load_model(tmp_path), dataset), before, rtol=0, atol=0)
    tokens = model.tower(batch.regions).detach()
    mean, deviation = (torch.tensor(model.config.backbone_config[key]).view(3, 1, 1) for key in ("mean", "deviation"))
    with torch.no_grad():
        states = model.tower.transformer(pixel_values=(batch.regions / 255 - mean) / deviation).last_hidden_state
    torch.testing.assert_close(tokens, states[:, :1] if name == "vsepp" else states)
    captions = model.encode_captions(batch.tokens, batch.word_counts)

    def sims(tokens):
        with torch.no_grad():
            return model.similarity(model.encode_images(tokens), captions, batch.word_counts)

    changed = tokens.clone()
    changed[:, 0] += torch.randn(16, generator=torch.Generator().manual_seed(0))
    assert (sims(changed) - sims(tokens)).abs().min() > 0


def test_sgraf_weighs_patches_by_a_class_token_set_apart(data):
    """With the patches' mean in its place the similarity is that of the patches alone."""
    apart, dropped = (made("sgraf", data, "patches", class_token=kind).eval() for kind in ("apart", "dropped"))
    dropped.load_state_dict(apart.state_dict())
    batch = batch_of(apart, split_of(apart, data))
    with torch.no_grad():
        encoded = apart(batch)
        patches = encoded.images[:, 1:]
        torch.testing.assert_close(dropped(batch).images, patches)
        of_mean = torch.cat([patches.mean(1, keepdim=True), patches], 1)
        expected = dropped.similarity(patches, encoded.captions, batch.word_counts)
        torch.testing.assert_close(apart.similarity(of_mean, encoded.captions, batch.word_counts), expected)
        counts = torch.tensor([5, 3, 4, 5, 2, 5])
        fewer = dropped.similarity(patches, encoded.captions, batch.word_counts, counts - 1)
        sums = torch.stack([one[: n - 1].mean(0) for one, n in zip(patches, counts, strict=True)])
        of_mean = torch.cat([sums[:, None], patches], 1)
        found = apart.similarity(of_mean, encoded.captions, batch.word_counts, counts)
        torch.testing.assert_close(found, fewer)
    weights = apart.sim_enc.attention(encoded.images[0], encoded.captions[0])
    assert weights.shape == (encoded.captions.shape[1], 5)
    assert not weights[:, 0].any()


def test_laps_sets_its_class_token_apart_whenever_it_is_there(data):
    models = [made("laps", data, "patches", class_token=kind).eval() for kind in ("kept", "apart")]
    torch.testing.assert_close(*(scores(model, split_of(model, data)) for model in models), rtol=0, atol=0)


def test_towers_without_a_class_token(data):
    with pytest.raises(
        ValueError, match=r'class_token is "apart", but the 4 tokens of a siglip_vision_model are patches'
    ):
        made("vsepp", data, "patches", class_token="apart", backbone_path=str(data / "siglip"))


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


@pytest.mark.parametrize(
    ("options", "exception", "fragment"),
    [
        ({"image_encoder": "pixels"}, ValueError, "image_encoder must be one of 'grid', 'patches', 'regions'"),
        (
            {"text_encoder": "gru"},
            ValueError,
            "text_encoder must be one of 'bert', 'bigru', 'clip', got 'gru'; perhaps",
        ),
        ({"class_token": "away"}, ValueError, "class_token must be one of 'apart', 'dropped', 'kept', got 'away'"),
        (
            {"class_token": "apart"},
            ValueError,
            'class_token is "apart", but SCAN has no vector of the whole image that',
        ),
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


def test_a_processor_of_another_size(data, tmp_path):
    tiny_vit.write_folder(tmp_path, **TINY_VIT)
    processor = json.loads((tmp_path / "preprocessor_config.json").read_text())
    processor["size"] = {"height": 32, "width": 32}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    model = made("scan", data, "patches", backbone_path=str(tmp_path))
    with pytest.raises(DataError, match=r"preprocessor_config\.json makes images of 32 pixels, which its config\.json"):
        model.load_pretrained()


def test_a_processor_that_leaves_pixels_as_they_are(data, tmp_path):
    tiny_vit.write_folder(tmp_path, **TINY_VIT)
    path = tmp_path / "preprocessor_config.json"
    processor = json.loads(path.read_text())
    path.write_text(json.dumps({**processor, "do_normalize": False}))
    pixels = made("scan", data, "patches", backbone_path=str(tmp_path)).config.backbone_config
    assert (pixels["mean"], pixels["deviation"]) == ([0.0] * 3, [1.0] * 3)
    for options, factor in (({"do_rescale": False}, "1"), ({"rescale_factor": 1 / 127.5}, "0.007843")):
        path.write_text(json.dumps({**processor, **options}))
        with pytest.raises(DataError, match=f"which pixels it takes: it multiplies them by {factor}; expected 1/255"):
            made("scan", data, "patches", backbone_path=str(tmp_path))


def test_a_tower_without_its_tokenizer(data, tmp_path):
    (tmp_path / "config.json").write_bytes((data / "clip" / "config.json").read_bytes())
    with pytest.raises(FileNotFoundError, match=r"no tokenizer; expected .*, vocab\.json and merges\.txt of CLIP"):
        made("scan", data, text="clip", bert_path=str(tmp_path))


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
