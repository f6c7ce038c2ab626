"""Tokens of encoders that never train: made once, of images and of captions, continued where they stopped."""

import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from tiny_axes import made, settings, split_of, write_data

from itm_fast.errors import DataError
from itm_fast.models import load_model
from itm_fast.training import token_cache
from itm_fast.training.dry_run import dry_run
from itm_fast.training.run import run_training
from itm_fast.training.token_cache import TokenCache

pytest.importorskip("transformers")
pytest.importorskip("PIL.Image")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_data(folder)
    return folder


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


@pytest.mark.parametrize(
    ("axes", "options", "warmup", "said"),
    [
        (
            ("patches", "bigru"),
            {"embedding_warmup_epochs": 2},
            0,
            ["--embedding-warmup-epochs 2 of --num-epochs 2: the backbone never trains"],
        ),
        (
            ("regions", "bert"),
            {"bert_warmup_epochs": 3},
            0,
            ["--bert-warmup-epochs 3 of --num-epochs 2: the text encoder never trains"],
        ),
        (
            ("regions", "bigru"),
            {"max_violation": True},
            2,
            ["--vse-mean-warmup-epochs 2 of --num-epochs 2: all negatives always count"],
        ),
        (("patches", "bert"), {"embedding_warmup_epochs": 1, "bert_warmup_epochs": 1}, 2, []),
        (("patches", "bigru"), {"embedding_warmup_epochs": 2, "backbone_lr_factor": 0.0}, 0, []),
    ],
)
def test_warm_ups_that_last_as_long_as_the_run_are_said(data, tmp_path, axes, options, warmup, said):
    given = settings("scan", data, *axes, options=options, num_epochs=2, vse_mean_warmup_epochs=warmup)
    notices = []
    dry_run(given, tmp_path / "run", notice=notices.append)
    found = [text for text in notices if "warmup-epochs" in text]
    assert found == said


def test_a_dry_run_caches_nothing(data, tmp_path):
    given = settings("scan", data, "patches", "bigru", cache=tmp_path / "cache", options={"backbone_lr_factor": 0.0})
    notices = []
    tried = dry_run(given, tmp_path / "run", notice=notices.append)
    assert tried.shapes["regions"] == (15, 3, 16, 16)
    assert any("no tokens are cached" in text for text in notices)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_extraction_goes_on(data, tmp_path, monkeypatch):
    from itm_fast.data.readers.images import ImageDataset

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
    model = made("scan", data, "patches")
    images = split_of(model, data)

    def cached(folder, may_extract):
        cache = TokenCache(folder, torch.device("cpu"), "float32", may_extract, lambda text: None)
        return cache.of_images(model.tower, images, {})

    with pytest.raises(ValueError, match="0 of 6 images of test are there; let one process extract them first"):
        cached(tmp_path, False)
    tokens = cached(tmp_path, True)
    again = pickle.loads(pickle.dumps(cached(tmp_path, False)))
    assert len(pickle.dumps(tokens)) < 20000
    assert torch.equal(again.regions([5, 0]), tokens.regions(range(6))[[5, 0]])
    assert (again.max_regions, again.dim, again.n_captions) == (5, 16, 30)
    np.save(tmp_path / "test_tokens.npy", np.zeros((5, 5, 16), np.float16))
    with pytest.raises(DataError, match=r"float16 \(5, 5, 16\); expected float16 \(6, n_tokens, dim\)"):
        cached(tmp_path, False)
    with torch.no_grad():
        model.tower.transformer.layernorm.weight.fill_(1e6)
    with pytest.raises(DataError, match="made with another backbone"):
        cached(tmp_path, True)
    with pytest.raises(ValueError, match="the tokens of images of test, 0 to 5, are no numbers of float16"):
        cached(tmp_path / "other", True)


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
        for call in (run_training, dry_run):
            with pytest.raises(ValueError, match="cache_tokens is for encoders that never train: image_encoder is"):
                call(moving, tmp_path / "moving")


def cached_images(folder, model, dataset):
    cache = TokenCache(folder, torch.device("cpu"), "float32", True, lambda text: None)
    return cache.of_images(model.tower, dataset, {})


def test_other_images_of_the_same_names_and_sizes_are_refused(data, tmp_path):
    """As another folder may hold them: bitmaps are as long as any other of their width and height."""
    from PIL import Image

    model, images = made("scan", data, "patches"), split_of(made("scan", data, "patches"), data)
    images.paths = [tmp_path / f"{number}.bmp" for number in range(images.n_images)]

    def draw(shift):
        for number, path in enumerate(images.paths):
            Image.new("RGB", (64, 48), (30 * number, shift, 0)).save(path)

    draw(0)
    cached_images(tmp_path / "cache", model, images)
    draw(0)  # the same ones, written later
    cached_images(tmp_path / "cache", model, images)
    draw(1)
    with pytest.raises(DataError, match=r"test_tokens\.json: holds tokens made with another images; name"):
        cached_images(tmp_path / "cache", model, images)


@pytest.mark.parametrize("pixels", [{"mean": [0.25, 0.5, 0.5]}, {"size": 32}, {"resampling": "bicubic"}])
def test_another_processor_beside_the_same_weights_is_refused(pixels, data, tmp_path):
    given = settings("scan", data, "patches", "bigru", cache=tmp_path / "cache", options={"backbone_lr_factor": 0.0})
    run_training(given, tmp_path / "run")
    processor = json.loads((data / "vit" / "preprocessor_config.json").read_text())
    if "mean" in pixels:
        processor["image_mean"] = pixels["mean"]
    elif "size" in pixels:
        processor["size"] = {"height": 32, "width": 32}
    else:
        processor["resample"] = 3
    shutil.copytree(data / "vit", tmp_path / "vit")
    (tmp_path / "vit" / "preprocessor_config.json").write_text(json.dumps(processor))
    other = settings(
        "scan",
        data,
        "patches",
        "bigru",
        cache=tmp_path / "cache",
        options={"backbone_lr_factor": 0.0, "backbone_path": str(tmp_path / "vit")},
    )
    refused = "makes images of 32 pixels" if "size" in pixels else "holds tokens made with another backbone_config"
    with pytest.raises(DataError, match=refused):
        run_training(other, tmp_path / "other")


@pytest.mark.parametrize("kept", [0, 60, 200, -1])
def test_a_cache_that_was_cut_short_is_refused(kept, data, tmp_path):
    model = made("scan", data, "patches")
    path = cached_images(tmp_path, model, split_of(model, data)).tokens_path
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match=r"test_tokens\.npy"):
        cached_images(tmp_path, model, split_of(model, data))


FROZEN = {"backbone_lr_factor": 0.0, "bert_lr_factor": 0.0}


@pytest.mark.parametrize(("name", "text"), [("scan", "bert"), ("vsrn", "bert"), ("esl", "clip")])
def test_a_frozen_text_encoder_is_run_once(name, text, data, tmp_path, monkeypatch):
    """Losses are those of the encoder in every step, up to float16's rounding; a second run does not ask it."""
    tower = {"bert_path": str(data / "clip")} if text == "clip" else {}
    if text == "clip":  # its context is short
        short = tmp_path / "data"
        shutil.copytree(data, short)
        for split in ("train", "dev", "test"):
            lines = (short / f"{split}_caps.txt").read_text().splitlines()
            (short / f"{split}_caps.txt").write_text("".join(f"{line.split()[1][:9]}\n" for line in lines))
        data = short
    options = {**FROZEN, **tower}
    given = settings(name, data, "regions", text, cache=tmp_path / "cache", options=options)
    notices = []
    first = run_training(given, tmp_path / "first", notice=notices.append)
    assert any("tokens of 60 captions of train are extracted" in notice for notice in notices)
    without = run_training(settings(name, data, "regions", text, options=options), tmp_path / "without")
    np.testing.assert_allclose(first.losses, without.losses, rtol=2e-3)
    model = load_model(tmp_path / "first" / "best")
    tokens = model.tokens_of((data / "dev_caps.txt").read_text().splitlines())
    kept = np.load(tmp_path / "cache" / "dev_captions.npy")
    assert np.array_equal(np.load(tmp_path / "cache" / "dev_captions_offsets.npy"), tokens.offsets)
    assert (kept.dtype, kept.shape) == (np.float16, (len(tokens.flat), 16))
    ids = tokens.pad([3])[0]
    with torch.no_grad():
        states = model.txt_enc.states(ids, torch.ones_like(ids, dtype=torch.bool))[0]
    of_third = torch.from_numpy(kept[tokens.offsets[3] : tokens.offsets[4]]).float()
    torch.testing.assert_close(of_third, states, rtol=2**-10, atol=1e-5)

    def never(self, tokens, valid):
        raise AssertionError("the text encoder was run again")

    monkeypatch.setattr("itm_fast.nn.encoders.bert.BERTEncoder.states", never)
    assert run_training(given, tmp_path / "again").losses == first.losses


def test_both_encoders_are_cached_side_by_side_and_read_by_workers(data, tmp_path):
    given = settings("scan", data, "patches", "bert", cache=tmp_path / "cache", options=FROZEN)
    first = run_training(given, tmp_path / "first")
    names = {f"{split}_{kind}" for split in ("train", "dev") for kind in ("tokens", "captions", "captions_offsets")}
    assert {path.stem for path in (tmp_path / "cache").glob("*.npy")} == names
    workers = settings("scan", data, "patches", "bert", cache=tmp_path / "cache", options=FROZEN, workers=1)
    assert run_training(workers, tmp_path / "workers").losses == first.losses


@pytest.mark.parametrize(
    ("axes", "options", "training", "notice", "files"),
    [
        (
            ("patches", "bert"),
            {"backbone_lr_factor": 0.0, "bert_lr_factor": 0.1},
            {},
            "captions are encoded in every step: bert_lr_factor is 0.1, what trains, if only after its warm-up, is not",
            {"train_tokens", "dev_tokens"},
        ),
        (
            ("patches", "bert"),
            {"backbone_lr_factor": 0.1, "bert_lr_factor": 0.0, "embedding_warmup_epochs": 9},
            {},
            "images are encoded in every step: backbone_lr_factor is 0.1",
            {"train_captions", "dev_captions"},
        ),
        (
            ("regions", "bert"),
            FROZEN,
            {"size_augment": True},
            "training captions are encoded in every step: size_augment changes them",
            {"dev_captions"},
        ),
    ],
)
def test_what_changes_is_not_cached_and_said(axes, options, training, notice, files, data, tmp_path):
    notices = []
    given = settings("vse_infty", data, *axes, cache=tmp_path / "cache", options=options, **training)
    run_training(given, tmp_path / "run", notice=notices.append)
    assert any(text.startswith(notice) for text in notices), notices
    assert {path.stem for path in (tmp_path / "cache").glob("*.json")} == files


def test_an_interrupted_extraction_of_captions_goes_on(data, tmp_path, monkeypatch):
    monkeypatch.setattr(token_cache, "_BATCH", 16)
    model = made("scan", data, "regions", "bert")
    tokens = model.tokens_of((data / "dev_caps.txt").read_text().splitlines())
    ran = []

    def cached(folder):
        cache = TokenCache(folder, torch.device("cpu"), "float32", True, lambda text: None)
        return cache.of_captions(model.txt_enc, tokens, "dev", {})

    whole = cached(tmp_path / "whole")
    encode = type(model.txt_enc).states

    def stops(self, ids, valid):
        ran.append(len(ids))
        if len(ran) == 2:
            raise KeyboardInterrupt
        return encode(self, ids, valid)

    monkeypatch.setattr(type(model.txt_enc), "states", stops)
    with pytest.raises(KeyboardInterrupt):
        cached(tmp_path / "cut")
    assert not (tmp_path / "cut" / "dev_captions.npy").exists()
    again = cached(tmp_path / "cut")
    assert ran == [16, 14, 14]  # 30 captions: the second batch was cut short, and alone made again
    assert again.path.read_bytes() == whole.path.read_bytes()
    copy = pickle.loads(pickle.dumps(again))
    states, (ids, counts) = copy.states([7, 2]), copy.pad([7, 2])
    assert states.shape == (*ids.shape, 16)
    assert not states[1, int(counts[1]) :].any()
    assert len(pickle.dumps(again)) < 2 * tokens.flat.nbytes + 10_000


def test_files_of_other_captions(data, tmp_path):
    model = made("scan", data, "regions", "bert")
    captions = (data / "dev_caps.txt").read_text().splitlines()
    cache = TokenCache(tmp_path, torch.device("cpu"), "float32", True, lambda text: None)
    tokens = model.tokens_of(captions)
    kept = cache.of_captions(model.txt_enc, tokens, "dev", {})
    with pytest.raises(DataError, match=r"dev_captions\.json: holds tokens made with another captions"):
        cache.of_captions(model.txt_enc, model.tokens_of(captions[::-1]), "dev", {})
    with pytest.raises(DataError, match=r"dev_captions\.json: holds tokens made with another bert_config"):
        cache.of_captions(model.txt_enc, tokens, "dev", {"bert_config": "other"})
    np.save(kept.offsets_path, tokens.offsets[::2])
    with pytest.raises(DataError, match="expected the offsets of 30 captions"):
        cache.of_captions(model.txt_enc, tokens, "dev", {})
    np.save(kept.path, np.zeros((3, 16), np.float16))
    with pytest.raises(DataError, match=r"float16 \(3, 16\); expected float16 \(\d+, dim\), a state of every token"):
        cache.of_captions(model.txt_enc, tokens, "dev", {})
