"""Runs over every kind of data set: any number of captions an image, fewer regions, vectors; what is refused first."""

import dataclasses
import json
import multiprocessing

import numpy as np
import pytest
import tiny_bert
import torch

from itm_fast import evaluate
from itm_fast.cli import main as cli
from itm_fast.config import DataConfig, SAMConfig, TrainingConfig
from itm_fast.data import BatchPlan, CaptionTokens, Collator, PrecompDataset, Vocabulary, training_captions
from itm_fast.errors import DataError
from itm_fast.models import MODELS, load_model, model_class
from itm_fast.sources.trained_model import ModelScorer
from itm_fast.training.run import RunSettings, corpus_of, run_training

R, DIM, N = 4, 6, 14
WORDS = ["red", "blue", "green", "dog", "cat", "bus", "tree", "house", "man", "boat"]
SMALL = {
    "sgraf": {"n_regions": R, "sim_dim": 8},
    "vsrn": {"dim_hidden": 8, "dim_word": 6, "embed_size": 16},
    "esl": {"embed_size": 256},
    "cvse": {"n_regions": R, "n_concepts": 5, "input_channel": 6, "concept_labels": "image_in_training"},
}
VARYING = np.random.default_rng(1).permutation(np.repeat(np.arange(N), np.arange(N) % 3 + 1))  # 1 to 3, in no order


def write(folder, split, owners=VARYING, shape=(R, DIM), numbers=()):
    """A split whose features and captions go with each other; `numbers` has (place, number) each."""
    n = int(owners.max()) + 1
    features = np.random.default_rng(2).standard_normal((n, *shape)).astype(np.float32)
    for place, value in numbers:
        features[place] = value
    np.save(folder / f"{split}_ims.npy", features)
    lines = [f"a {WORDS[image % 10]} {WORDS[image // 3]} with {WORDS[c % 7]}\n" for c, image in enumerate(owners)]
    (folder / f"{split}_caps.txt").write_text("".join(lines))
    if not np.array_equal(owners, np.arange(n)):
        (folder / f"{split}_owners.txt").write_text("".join(f"{image}\n" for image in owners))


def written(folder, **options):
    for split in ("train", "dev"):
        write(folder, split, **options)
    return folder


def settings(name, folder, *, data=None, training=None, sam=False, **options):
    sizes = {"img_dim": DIM, "word_dim": 8, "embed_size": 16, **SMALL.get(name, {}), **options}
    chosen = {"num_epochs": 1, "batch_size": 7, "val_step": 10**6, "trackers": (), **(training or {})}
    return RunSettings(
        name,
        model_class(name).config_class(**sizes),
        DataConfig(folder, tokenizer="split", **(data or {})),
        TrainingConfig(**chosen),
        SAMConfig(sam=sam),
    )


@pytest.mark.parametrize(
    ("name", "owners"),
    [*((name, VARYING) for name in MODELS), ("vsepp", np.arange(N)), ("vsepp", np.arange(2 * N) // 2)],
    ids=[*MODELS, "one", "two"],
)
def test_any_number_of_captions_an_image(name, owners, tmp_path):
    """Trained with SAM, validated by nsum, and evaluated as its similarities are with the owners given by hand."""
    written(tmp_path, owners=owners)
    found = run_training(settings(name, tmp_path, sam=True, training={"select": "nsum"}), tmp_path / "run")
    assert len(found.losses) == len(owners) // 7
    model, dev = load_model(tmp_path / "run" / "best"), PrecompDataset(tmp_path, "dev")
    scorer = ModelScorer(model, dev, tokenizer="split", batch_size=5)
    report = evaluate(scorer)
    sims = scorer(slice(0, N), slice(0, len(owners)))
    expected = evaluate(sims, caption_to_image=owners)
    assert report["rsum"] == pytest.approx(expected["rsum"], abs=1e-9)
    assert found.best["rsum"] == pytest.approx(expected["rsum"], abs=1e-9)
    with_phi = evaluate(sims, corpus_of(dev), caption_to_image=owners)
    assert found.best["nsum"] == pytest.approx(with_phi["nsum"], abs=1e-9)


def test_relevance_goes_by_the_owners(tmp_path):
    """φ of a caption in no order is that of the same caption beside those of its image."""
    write(tmp_path, "dev")
    corpus = corpus_of(PrecompDataset(tmp_path, "dev"))
    order = np.argsort(VARYING, kind="stable")
    (tmp_path / "sorted").mkdir()
    lines = np.array((tmp_path / "dev_caps.txt").read_text().splitlines())[order]
    np.save(tmp_path / "sorted" / "dev_ims.npy", np.zeros((N, 1, 1), np.float32))
    (tmp_path / "sorted" / "dev_caps.txt").write_text("".join(f"{line}\n" for line in lines))
    np.save(tmp_path / "sorted" / "dev_owners.npy", VARYING[order])
    in_order = corpus_of(PrecompDataset(tmp_path / "sorted", "dev"))
    torch.testing.assert_close(corpus.relevance()[:, order], in_order.relevance(), rtol=0, atol=0)


def test_whole_images_at_random(tmp_path):
    write(tmp_path, "train")
    dataset = PrecompDataset(tmp_path, "train")
    for percent in (20, 50, 90):
        config = DataConfig(tmp_path, data_percent=percent, data_subset="random")
        chosen = training_captions(dataset, config, seed=4)
        assert len(chosen) == int(len(VARYING) * percent / 100)
        assert (np.diff(chosen) > 0).all()
        counts = np.bincount(VARYING[chosen], minlength=N)
        partly = (counts > 0) & (counts < np.bincount(VARYING))
        assert partly.sum() <= 1


def test_batches_know_the_image_of_each_caption(tmp_path):
    write(tmp_path, "train")
    dataset = PrecompDataset(tmp_path, "train")
    tokens = CaptionTokens.from_captions(dataset.captions, Vocabulary.build([WORDS], threshold=1), "split")
    plan = BatchPlan(Collator(dataset, tokens, has_image_tokens=True), 6, 2)
    for step in range(len(plan)):
        batch = plan[step]
        assert batch.image_ids.tolist() == VARYING[batch.caption_ids].tolist()
        assert batch.regions.equal(dataset.regions(VARYING[batch.caption_ids]))
        for image, row in zip(batch.image_ids.tolist(), batch.image_tokens.tolist(), strict=True):
            of_image = [tokens.pad([caption])[0][0].tolist() for caption in np.flatnonzero(image == VARYING)]
            assert [token for token in row if token] == [token for tokens in of_image for token in tokens]


FEWER = {"numbers": [((image, slice(1 + image % 3, None)), 0) for image in range(N)]}


@pytest.mark.parametrize(
    ("name", "size_augment"), [*((name, False) for name in MODELS), ("vse_infty", True), ("esl", True)]
)
def test_fewer_regions_are_as_good_as_absent(name, size_augment, tmp_path):
    """A run over images of at most three regions, padded to four, is that of a file with three."""
    results = []
    for n_regions in (R, R - 1):
        folder = tmp_path / str(n_regions)
        folder.mkdir()
        written(folder, owners=np.arange(N), **FEWER)
        for split in ("train", "dev"):
            np.save(folder / f"{split}_ims.npy", np.load(folder / f"{split}_ims.npy")[:, :n_regions])
        notices = []
        run = settings(name, folder, n_regions=n_regions) if "n_regions" in SMALL.get(name, {}) else None
        run = run or settings(name, folder, training={"size_augment": size_augment})
        found = run_training(run, folder / "run", notice=notices.append)
        assert sum(f"have fewer than {n_regions} regions" in text for text in notices) == 2
        model = load_model(folder / "run" / "best")
        sims = ModelScorer(model, PrecompDataset(folder, "dev"), tokenizer="split")(slice(0, N), slice(0, N))
        results.append((torch.tensor(found.losses), sims))
    if name not in ("sgraf", "cvse"):  # those have a parameter a region, so that another draw begins
        torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-6)
    assert all(part.isfinite().all() for part in results[0])


READS_VECTORS = ("vsepp", "vse_infty")


@pytest.mark.parametrize(("name", "repeated"), [*((name, False) for name in MODELS), ("vsepp", True)])
def test_one_vector_an_image(name, repeated, tmp_path):
    written(tmp_path, owners=np.arange(5 * N) // 5, shape=(DIM,))
    for split in ("train", "dev"):
        (tmp_path / f"{split}_owners.txt").unlink()
        if repeated:
            np.save(tmp_path / f"{split}_ims.npy", np.load(tmp_path / f"{split}_ims.npy").repeat(5, axis=0))
    run = settings(name, tmp_path)
    dev = PrecompDataset(tmp_path, "dev")
    if name in READS_VECTORS:
        assert len(run_training(run, tmp_path / "run").losses) == 10
        report = evaluate(ModelScorer(load_model(tmp_path / "run" / "best"), dev, tokenizer="split"))
        assert 0 < report["rsum"] <= 600
        return
    model = model_class(name)(run.model_config, Vocabulary.build([WORDS], threshold=1)).eval()
    for call in (lambda: run_training(run, tmp_path / "run"), lambda: ModelScorer(model, dev, tokenizer="split")):
        with pytest.raises(ValueError, match=rf"{name} attends to the regions of an image, but .* one vector an image"):
            call()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("split", ["train", "dev"])
def test_numbers_that_are_none_stop_a_run_before_it_begins(split, tmp_path):
    written(tmp_path, owners=np.arange(N))
    write(tmp_path, split, owners=np.arange(N), numbers=[((9, 2, 4), np.nan)])
    with pytest.raises(DataError, match=rf"{split}_ims.npy: row 9, region 2: number 4 is nan"):
        run_training(settings("scan", tmp_path), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_what_the_first_look_leaves_out_is_found_when_it_is_read(workers, tmp_path, monkeypatch):
    written(tmp_path, owners=np.arange(N), numbers=[((9, 2, 4), np.inf)])
    monkeypatch.setattr(PrecompDataset, "look", lambda self: [])
    with pytest.raises(DataError) as caught:
        run_training(settings("scan", tmp_path, training={"workers": workers}), tmp_path / "run")
    assert str(caught.value).startswith(f"{tmp_path / 'train_ims.npy'}: row 9, region 2: number 4 is inf")
    assert not multiprocessing.active_children()  # nor does the garbage collector wait for them later


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "dev"])
def test_a_caption_beyond_the_positions_of_bert_is_named(split, tmp_path):
    written(tmp_path, owners=np.arange(N))
    path = tmp_path / f"{split}_caps.txt"
    lines = path.read_text().splitlines()
    lines[4] = ""  # dropped, so that captions and lines are no longer the same
    lines[8] = " ".join(["red"] * 90)
    lines[11] = " ".join(["red"] * 79)
    path.write_text("\n".join(lines) + "\n")
    (tmp_path / "bert").mkdir()
    tiny_bert.write_folder(tmp_path / "bert", tiny_bert.word_pieces(lines))
    options = {"text_enc_type": "bert", "bert_path": str(tmp_path / "bert")}
    run = settings("vse_infty", tmp_path, data={"drop_blank": True}, **options)
    expected = rf"{split}_caps.txt:9: the caption has 92 word pieces.* only 80 positions \(2 captions are too long\)"
    with pytest.raises(DataError, match=expected):
        run_training(run, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    model = model_class("vse_infty")(run.model_config, run.model_config.own_vocabulary()).eval()
    with pytest.raises(DataError, match=expected):
        ModelScorer(model, PrecompDataset(tmp_path, split, drop_blank=True))


def test_an_image_without_captions_has_no_relevance(tmp_path):
    written(tmp_path, owners=np.arange(N))
    (tmp_path / "train_owners.txt").write_text("0\n" * 2 + "".join(f"{n}\n" for n in range(2, N)))
    assert run_training(settings("vsepp", tmp_path), tmp_path / "run").losses
    with pytest.raises(ValueError, match=r"image 1 of .* has no caption"):
        run_training(settings("vsepp", tmp_path, sam=True), tmp_path / "other")


def test_by_the_command_line(tmp_path, capsys):
    """Notes are on the error stream while training, and in the report of an evaluation, which goes by the owners."""
    written(tmp_path, owners=np.arange(2 * N) // 2, **FEWER)
    for split in ("train", "dev"):
        (tmp_path / f"{split}_owners.txt").unlink()
        path = tmp_path / f"{split}_caps.txt"
        path.write_text(path.read_text().replace(path.read_text().splitlines()[3], "", 1))
    data = ["--tokenizer", "split", "--img-dim", str(DIM), "--embed-size", "8", "--word-dim", "8", "--batch-size", "9"]
    data += ["--num-epochs", "1", "--trackers", "--data-path", str(tmp_path), "--model-name", str(tmp_path / "run")]
    assert cli.main(["train", "vsepp", *data]) == 2
    assert "train_caps.txt:4: blank line" in capsys.readouterr().err
    assert cli.main(["train", "vsepp", *data, "--drop-blank"]) == 0
    told = capsys.readouterr().err
    notes = ("read as 2 captions an image, 14 images", "1 line (4) left out", "have fewer than 4 regions")
    assert all(f"{tmp_path / split}_" in told for split in ("train", "dev"))
    assert all(note in told for note in notes)
    model = ["evaluate", "--model", str(tmp_path / "run" / "best"), "--data", str(tmp_path), "--split", "dev"]
    assert cli.main([*model, "--tokenizer", "split"]) == 2
    assert "--drop-blank" in capsys.readouterr().err
    assert cli.main([*model, "--tokenizer", "split", "--drop-blank", "--ncs", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["conditions"]["n_captions"] == 2 * N - 1
    assert all(any(note in found for found in report["conditions"]["notes"]) for note in notes)
    assert report["nsum"] > 0
    assert cli.main([*model, "--tokenizer", "split", "--drop-blank", "--protocol", "flickr30k-1k"]) == 2
    assert "expects 1000 images x 5000 captions" in capsys.readouterr().err


def test_settings_of_older_runs_have_no_such_option(tmp_path):
    run = settings("vsepp", tmp_path)
    found = json.loads(json.dumps(dataclasses.asdict(run), default=str))
    del found["data"]["drop_blank"]
    (tmp_path / "train.json").write_text(json.dumps(found))
    assert not RunSettings.load(tmp_path / "train.json").data.drop_blank
