"""The models that take BERT in place of a BiGRU: folders, padding, learning rates, resuming, what is refused."""

import dataclasses
import json

import pytest
import tiny_bert
import torch

from itm_fast.cli import main as cli
from itm_fast.cli.train import parse
from itm_fast.config import DataConfig, SAMConfig, TrainingConfig
from itm_fast.data import PrecompDataset, WordPieces, make_data
from itm_fast.data.collate import Batch
from itm_fast.evaluation import evaluate
from itm_fast.models import load_model, model_class, presets, save_model
from itm_fast.sources.trained_model import ModelScorer
from itm_fast.training.run import RunSettings, run_training

pytest.importorskip("transformers")

NAMES = ("vse_infty", "esl", "chan")
R, DIM = 12, 64
PIECES = tiny_bert.word_pieces(["a dog runs", "two cats sleep"])
EMBED = {"esl": 256}
UNUSED = {f"sim_enc.sims.calculator_1.temp_scale_{k}.weight" for k in (1, 2)}
POOLER = {"txt_enc.bert.pooler.dense.weight", "txt_enc.bert.pooler.dense.bias"}


def config(name, **options):
    options = {"bert_config": tiny_bert.config(PIECES), "img_dim": DIM, "embed_size": EMBED.get(name, 32), **options}
    return model_class(name).config_class(text_enc_type="bert", **options)


def made(name, **options):
    torch.manual_seed(0)
    return model_class(name)(config(name, **options), PIECES)


def batch():
    generator = torch.Generator().manual_seed(2)
    counts = torch.tensor([6, 3, 4, 3, 5])
    tokens = torch.randint(6, len(PIECES), (5, 6), generator=generator)
    tokens[torch.arange(6) >= counts[:, None]] = 0
    ids = torch.arange(5)
    return Batch(torch.randn(5, R, DIM, generator=generator), tokens, counts, ids, 5 * ids, torch.full((5,), R))


def scores(model, given):
    with torch.no_grad():
        captions = model.encode_captions(given.tokens, given.word_counts)
        return model.similarity(model.encode_images(given.regions), captions, given.word_counts)


@pytest.mark.parametrize("name", NAMES)
def test_padding_changes_nothing(name):
    model = made(name).double().eval()
    given = dataclasses.replace(batch(), regions=batch().regions.double())
    padded = torch.nn.functional.pad(given.tokens, (0, 3), value=5)
    torch.testing.assert_close(scores(model, given), scores(model, dataclasses.replace(given, tokens=padded)))


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_all_but_the_pooler(name):
    model = made(name)
    encoded = model(batch())
    model.loss(model.similarity(encoded.images, encoded.captions, batch().word_counts)).backward()
    learned = {name: value for name, value in model.named_parameters() if value.requires_grad}
    unused = {name for name, value in learned.items() if value.grad is None or not value.grad.isfinite().all()}
    assert unused == (POOLER | UNUSED if name == "esl" else POOLER)


@pytest.mark.parametrize("name", NAMES)
def test_autocast_leaves_the_similarities_their_precision(name):
    model = made(name)
    with torch.autocast("cpu", torch.bfloat16):
        encoded = model(batch())
        sims = model.similarity(encoded.images, encoded.captions, batch().word_counts)
    assert sims.dtype == torch.float32
    model.loss(sims).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_holds_the_whole_model(name, tmp_path, monkeypatch):
    """Made from a pretrained folder, saved, and read when that folder is gone and there is no network."""
    bert, folder = tmp_path / "bert", tmp_path / "model"
    tiny_bert.write_folder(bert, PIECES)
    model = made(name, bert_config=None, bert_path=str(bert)).eval()
    save_model(model, folder)
    bert.rename(tmp_path / "elsewhere")
    asked = []

    def refused(*arguments, **options):
        asked.append(arguments)
        raise OSError("no network")

    monkeypatch.setattr("socket.socket.connect", refused)
    monkeypatch.setattr("socket.getaddrinfo", refused)
    loaded = load_model(folder)
    assert not asked
    assert {path.name for path in folder.iterdir()} >= {"config.json", "model.safetensors", "vocab.json"}
    assert (loaded.config, loaded.vocabulary) == (model.config, PIECES)
    assert loaded.vocabulary.split("Two dogs") == ["two", "dog", "##s"]
    torch.testing.assert_close(scores(loaded, batch()), scores(model, batch()), rtol=0, atol=0)


def test_names_and_shapes_of_the_originals():
    pieces = WordPieces([*tiny_bert.SPECIALS, *map(str, range(30516))])
    for name, embed_size, others in (("vse_infty", 1024, 9), ("esl", 512, 0), ("chan", 1024, 0)):
        preset = next(preset.model for key, preset in presets(name).items() if key.endswith("-bert"))
        with torch.device("meta"):
            model = model_class(name)(dataclasses.replace(preset, bert_config={"model_type": "bert"}), pieces)
        found = {key: tuple(value.shape) for key, value in model.txt_enc.state_dict().items()}
        assert found.pop("linear.weight") == (embed_size, 768)
        assert found.pop("linear.bias") == (embed_size,)
        pooling = [key for key in found if key.startswith("gpool.")]
        assert len(pooling) == others
        assert len(found) == 199 + others
        assert found["bert.embeddings.word_embeddings.weight"] == (30522, 768)


def test_presets_are_those_of_the_papers():
    for name in NAMES:
        found = {key: preset for key, preset in presets(name).items() if key.endswith("-bert")}
        assert found
        for preset in found.values():
            training = preset.training
            assert (preset.model.text_enc_type, preset.model.max_violation) == ("bert", True)
            assert (training.optim, training.weight_decay, training.learning_rate) == ("adamw", 1e-4, 5e-4)
            assert (training.batch_size, training.vse_mean_warmup_epochs) == (128, 1)
            assert training.size_augment == (name != "chan")
    assert presets("chan")["f30k-bert"].model.pooling_type == "MeanPooling"


def test_size_augmentation_masks_whole_words():
    for name in ("vse_infty", "esl"):
        augment = made(name).size_augment()
        assert augment.n_tokens == len(PIECES)
        assert augment.mask_id == PIECES.ids["[MASK]"]
        assert augment.continues[PIECES.ids["##ing"]]
        assert not augment.continues[PIECES.ids["dog"]]


def test_bert_learns_at_a_tenth_of_the_rate():
    model = made("vse_infty")
    factors = {name: model.learning_rate_factor(name) for name, _ in model.named_parameters()}
    assert {name for name, factor in factors.items() if factor == 0.1} == {
        name for name in factors if name.startswith("txt_enc.bert.")
    }
    assert {factor for name, factor in factors.items() if not name.startswith("txt_enc.bert.")} == {1.0}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    make_data(folder, n_train=300, n_dev=60, n_test=100, max_regions=R, dim=DIM, noise=0.2)
    captions = [line for split in ("train", "dev") for line in (folder / f"{split}_caps.txt").read_text().splitlines()]
    (folder / "bert").mkdir()
    pieces = tiny_bert.word_pieces(captions, n_words=10**6)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2}
    tiny_bert.write_folder(folder / "bert", pieces, num_hidden_layers=1, **sizes)
    return folder


def settings(name, data, **options):
    training = TrainingConfig(batch_size=50, val_step=10**6, trackers=(), **options)
    sizes = {"img_dim": DIM, "embed_size": EMBED.get(name, 64), "bert_path": str(data / "bert")}
    model = model_class(name).config_class(text_enc_type="bert", max_violation=True, **sizes)
    return RunSettings(name, model, DataConfig(data), training, SAMConfig())


def test_one_step_moves_bert_a_tenth_as_far(data, tmp_path):
    """Adam's first step is the learning rate itself, up to its epsilon, wherever a gradient is not tiny."""
    one = settings("vse_infty", data, num_epochs=1, learning_rate=1e-3, grad_clip=0.0)
    one = dataclasses.replace(one, data=dataclasses.replace(one.data, data_percent=100 * 50 / 1500))
    run_training(one, tmp_path / "run")
    after = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["state"]["model"]
    torch.manual_seed(0)
    before = model_class("vse_infty")(one.model_config, one.model_config.own_vocabulary())
    before.load_pretrained()
    moved = {name: (after[name] - value).abs().max().item() for name, value in before.named_parameters()}
    assert moved["txt_enc.linear.weight"] == pytest.approx(1e-3, rel=0.05)
    assert moved["img_enc.fc.weight"] == pytest.approx(1e-3, rel=0.05)
    assert moved["txt_enc.bert.encoder.layer.0.output.dense.weight"] == pytest.approx(1e-4, rel=0.05)
    assert moved["txt_enc.bert.pooler.dense.weight"] == 0


@pytest.mark.learning
def test_it_learns(data, tmp_path):
    """R@1 at least five times chance, which is 1 %, on images and captions that it has not seen."""
    warm = {"num_epochs": 5, "lr_update": 4, "vse_mean_warmup_epochs": 4, "learning_rate": 1e-2}
    run_training(settings("vse_infty", data, **warm), tmp_path)
    report = evaluate(ModelScorer(load_model(tmp_path / "best"), PrecompDataset(data, "test")))
    assert min(report["i2t"]["R@1"], report["t2i"]["R@1"]) >= 5.0


@pytest.mark.slow
def test_a_resumed_run_goes_on_as_if_nothing_had_happened(data, tmp_path):
    flags = ["vse_infty", "--data-path", str(data), "--text-enc-type", "bert", "--bert-path", str(data / "bert")]
    flags += ["--img-dim", str(DIM), "--embed-size", "16", "--batch-size", "100", "--size-augment", "--trackers"]
    flags += ["--data-percent", "20"]
    for epochs, folder in ((2, "whole"), (1, "halved")):
        assert cli.main(["train", *flags, "--num-epochs", str(epochs), "--model-name", str(tmp_path / folder)]) == 0
    assert cli.main(["train", "--resume", str(tmp_path / "halved"), "--num-epochs", "2"]) == 0
    states = [
        torch.load(tmp_path / folder / "checkpoint.pt", weights_only=True)["state"]["model"]
        for folder in ("whole", "halved")
    ]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_resuming_with_other_pieces_is_refused(data, tmp_path, capsys):
    bert = tmp_path / "bert"
    pieces = WordPieces.load(data / "bert")
    tiny_bert.write_folder(bert, pieces)
    flags = ["--data-path", str(data), "--text-enc-type", "bert", "--bert-path", str(bert), "--data-percent", "10"]
    flags += ["--img-dim", str(DIM), "--embed-size", "16", "--num-epochs", "1", "--trackers"]
    assert cli.main(["train", "chan", *flags, "--model-name", str(tmp_path / "run")]) == 0
    (bert / "vocab.txt").write_text("\n".join([*pieces.pieces[:-1], "other"]) + "\n")
    capsys.readouterr()
    assert cli.main(["train", "--resume", str(tmp_path / "run")]) == 2
    assert "vocabulary was '" in capsys.readouterr().err


def test_settings_survive_their_file(tmp_path):
    parsed = parse(["esl", "--preset", "coco-h-bert", "--bert-path", "/somewhere"])
    parsed.settings.save(tmp_path / "train.json")
    assert RunSettings.load(tmp_path / "train.json") == parsed.settings
    assert parsed.settings.model_config.bert_path == "/somewhere"
    assert (parsed.settings.training.num_epochs, parsed.settings.model_config.heuristic_strategy) == (20, True)


def test_a_folder_without_bert_is_one_line(data, tmp_path, capsys):
    flags = ["--data-path", str(data), "--text-enc-type", "bert", "--img-dim", str(DIM), "--model-name", str(tmp_path)]
    assert cli.main(["train", "chan", *flags, "--bert-path", "/nowhere"]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("itm-fast: error: bert_path is '/nowhere': no folder here")
    assert errors.count("\n") == 1


def test_words_in_place_of_pieces(vocabulary):
    with pytest.raises(ValueError, match='text_enc_type is "bert", but the vocabulary is of 7 words'):
        model_class("chan")(config("chan"), vocabulary)


def test_more_pieces_than_rows():
    with pytest.raises(ValueError, match=r"word pieces, .*, but bert_config's vocab_size is 9"):
        made("esl", bert_config=tiny_bert.config(PIECES, vocab_size=9))


@pytest.mark.parametrize(
    ("options", "exception", "fragment"),
    [
        ({"text_enc_type": "gru"}, ValueError, "text_enc_type must be one of"),
        ({"bert_config": "bert"}, TypeError, "bert_config must be a dictionary or None, got 'bert'"),
    ],
)
def test_bad_options(options, exception, fragment):
    with pytest.raises(exception, match=fragment):
        model_class("vse_infty").config_class(**options)


def test_a_damaged_card(tmp_path):
    save_model(made("chan"), tmp_path)
    card = json.loads((tmp_path / "config.json").read_text())
    card["config"]["bert_config"]["model_type"] = "none"
    (tmp_path / "config.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match="bert_config: transformers makes no model of it: Unrecognized"):
        load_model(tmp_path)
