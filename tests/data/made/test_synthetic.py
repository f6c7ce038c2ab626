import json
import os

import numpy as np
import pytest

from itm_fast.cli import main as cli
from itm_fast.cli.make_data import MakeData, run
from itm_fast.data.made import synthetic
from itm_fast.data.made.scenes import draw_scene
from itm_fast.data.made.synthetic import SPLITS, estimate_bytes, is_generated, make_data
from itm_fast.data.readers.precomp import PrecompDataset
from itm_fast.data.text.caption_tokens import CaptionTokens
from itm_fast.data.text.vocabulary import Vocabulary
from itm_fast.errors import DataError

SMALL = {"n_train": 7, "n_dev": 3, "n_test": 4, "max_regions": 5, "dim": 8}
FILES = {f"{split}_{name}" for split in SPLITS for name in ("ims.npy", "caps.txt", "ids.txt")}
FILES |= {"vocab.json", "README.txt"}


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Enough images to learn from: train 1200, test 300."""
    folder = tmp_path_factory.mktemp("made")
    make_data(folder, n_train=1200, n_dev=20, n_test=300, max_regions=12, dim=96, seed=3)
    return folder


def bags(captions, vocabulary):
    """Square roots of word counts, float32 (n_captions, n_words): the plainest reading of a caption."""
    tokens = CaptionTokens.from_captions(captions, vocabulary, "split")
    counts = np.zeros((len(captions), len(vocabulary)), np.float32)
    np.add.at(counts, (np.repeat(np.arange(len(captions)), np.diff(tokens.offsets)), tokens.flat), 1)
    return np.sqrt(counts)


def ridge_recall(folder, k, *, shuffle=False):
    """Recall at k in percent, image retrieval: ridge regression from words to the mean region, fitted on train."""
    vocabulary = Vocabulary.load(folder / "vocab.json")
    train, test = PrecompDataset(folder, "train"), PrecompDataset(folder, "test")
    words, images = bags(train.captions, vocabulary), train.regions(range(train.n_images)).mean(1).numpy()
    targets = np.repeat(images, 5, axis=0)
    if shuffle:
        targets = targets[np.random.default_rng(0).permutation(len(targets))]
    center = targets.mean(0)
    solved = np.linalg.solve(words.T @ words + 5 * np.eye(words.shape[1]), words.T @ (targets - center))
    gallery = test.regions(range(test.n_images)).mean(1).numpy() - center
    gallery /= np.linalg.norm(gallery, axis=1, keepdims=True)
    sims = bags(test.captions, vocabulary) @ solved @ gallery.T  # (n_captions, n_images)
    own = sims[np.arange(len(sims)), np.arange(len(sims)) // 5]
    return 100 * np.mean((sims > own[:, None]).sum(1) < k)


@pytest.mark.learning
def test_words_learnt_on_train_find_the_images_of_test(made):
    chance = 100 * 10 / 300
    assert ridge_recall(made, 10) > 15 * chance
    assert ridge_recall(made, 1) > 60 * 100 / 300


@pytest.mark.learning
def test_shuffled_pairs_teach_nothing(made):
    # 1500 queries in groups of five: a standard error of at most √5 · √(p(1-p)/1500) = 1.04 points.
    chance = 100 * 10 / 300
    assert abs(ridge_recall(made, 10, shuffle=True) - chance) < 4 * 1.04


def test_pairs_are_readable_by_the_directions_alone(made):
    """No fitting: a caption's content words, by their known directions, against the mean region."""
    test = PrecompDataset(made, "test")
    features = synthetic._Features(12, 96, 1.0, 3)
    gallery = test.regions(range(300)).mean(1).numpy()
    gallery -= gallery.mean(0)
    queries = np.stack(
        [np.sum([features.direction(word) for word in caption.lower().split()], axis=0) for caption in test.captions]
    )
    sims = queries @ gallery.T
    own = sims[np.arange(1500), np.arange(1500) // 5]
    assert np.mean((sims > own[:, None]).sum(1) < 10) > 5 * 10 / 300  # synonyms have no direction here: far from 1


def test_captions_read_like_captions(made):
    captions = PrecompDataset(made, "train").captions
    lengths = np.array([len(caption.split()) for caption in captions])
    assert 10 < lengths.mean() < 14
    assert lengths.min() >= 3
    assert 0.02 < np.mean(lengths > 25) < 0.2
    assert len(set(captions)) > 0.98 * len(captions)
    for start in range(0, len(captions), 5):
        assert len(set(captions[start : start + 5])) == 5
    text = " ".join(captions)
    assert not [bad for bad in ("{", "_", "|", "  ", " a a", " a o", " a e", " a i", " an b") if bad in text]


def test_vocabulary_knows_the_words_of_test(made):
    vocabulary = Vocabulary.load(made / "vocab.json")
    words = {word for caption in PrecompDataset(made, "test").captions for word in caption.lower().split()}
    assert len([word for word in words if word not in vocabulary]) <= 2
    assert 200 < len(vocabulary) < 500


def test_scenes_of_one_split_never_occur_in_another():
    seen = []
    for split in range(3):
        rng = np.random.default_rng(split)
        scenes = [draw_scene(split, rng) for _ in range(1500)]
        assert len({str(scene) for scene in scenes}) == 1500
        seen.append({(scene.actor, scene.action, scene.thing, scene.place) for scene in scenes})
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]


def test_a_generated_folder_says_so(tmp_path):
    assert not is_generated(tmp_path)
    assert not is_generated(tmp_path / "missing")
    (tmp_path / "README.txt").write_text("Karpathy's split of Flickr30K.\n")
    assert not is_generated(tmp_path)
    make_data(tmp_path, **SMALL, overwrite=True)
    assert is_generated(tmp_path)


def test_folder_is_in_scan_s_layout(tmp_path):
    calls = []
    made = make_data(tmp_path / "a" / "b", **SMALL, chunk_images=3, progress=lambda *call: calls.append(call))
    assert set(made.files) == set(os.listdir(made.folder)) == FILES
    assert all(made.files[name] == (made.folder / name).stat().st_size for name in FILES)
    assert made.n_images == {"train": 7, "dev": 3, "test": 4}
    assert calls == [(done, 14) for done in (0, 3, 6, 7, 10, 13, 14)]
    first_id = 0
    for split, count in made.n_images.items():
        dataset = PrecompDataset(made.folder, split)
        assert (dataset.n_images, dataset.max_regions, dataset.dim) == (count, 5, 8)
        assert dataset.images.dtype == np.float32
        assert dataset.ids.tolist() == list(range(first_id, first_id + count))
        first_id += count
    assert len(Vocabulary.load(made.folder / "vocab.json")) == made.n_words
    assert "Generated" in (made.folder / "README.txt").read_text()
    spent = sum(made.files.values())
    assert 0 < estimate_bytes(14, max_regions=5, dim=8) - spent < 2**16 + 14 * 400


def test_same_seed_same_bytes_whatever_the_chunks(tmp_path):
    for name, options in {"one": {"chunk_images": 1}, "five": {"chunk_images": 5}, "all": {}}.items():
        make_data(tmp_path / name, **SMALL, **options)
    assert contents(tmp_path / "one") == contents(tmp_path / "five") == contents(tmp_path / "all")
    make_data(tmp_path / "other", **SMALL, seed=1)
    different = contents(tmp_path / "other")
    assert not [
        name for name, content in contents(tmp_path / "one").items() if "ids" not in name and content == different[name]
    ]


def test_a_larger_set_starts_with_the_smaller(tmp_path):
    make_data(tmp_path / "small", **SMALL)
    make_data(tmp_path / "large", **{**SMALL, "n_train": 9})
    small, large = (PrecompDataset(tmp_path / name, "train") for name in ("small", "large"))
    np.testing.assert_array_equal(small.images, large.images[:7])
    assert small.captions == large.captions[:35]


@pytest.mark.parametrize("max_regions", [1, 2, 6, 36])
@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_magnitude_of_the_features(tmp_path, max_regions, noise):
    make_data(tmp_path, n_train=40, n_dev=1, n_test=1, max_regions=max_regions, dim=400, noise=noise)
    regions = PrecompDataset(tmp_path, "train").regions(range(40)).double()
    rms = regions.square().mean(-1).sqrt()
    assert regions.isfinite().all()
    np.testing.assert_allclose(rms.mean(), np.sqrt(1 + noise**2), rtol=0.02)
    if noise == 0:
        np.testing.assert_allclose(rms, 1, rtol=1e-5)


def test_every_part_of_a_scene_is_seen(tmp_path):
    features = synthetic._Features(8, 512, 0.0, 0)  # seven parts, seven regions that are not background
    elements = draw_scene(0, np.random.default_rng(0)).elements()
    regions = features.image(elements, np.random.default_rng(1)) / np.sqrt(512)
    for element in elements:
        best = max((regions @ sum(features.direction(name) for name in element)).tolist())
        assert best > 0.9 * np.linalg.norm(sum(features.direction(name) for name in element))


CAPTIONS = [f"A {animal} number {i} ." for animal in ("dog", "cat", "owl", "yak") for i in range(5)]


def test_given_captions_are_kept_and_shared_out_in_order(tmp_path):
    path = tmp_path / "captions.txt"
    path.write_text("\n".join(CAPTIONS) + "\n")
    sizes = {"n_train": 200, "n_dev": 100, "n_test": 100, "max_regions": 4, "dim": 8}
    made = make_data(tmp_path / "file", captions=path, **sizes)
    make_data(tmp_path / "list", captions=CAPTIONS, **sizes)
    assert contents(tmp_path / "file") == contents(tmp_path / "list")
    assert made.n_images == {"train": 2, "dev": 1, "test": 1}
    assert [caption for split in SPLITS for caption in PrecompDataset(made.folder, split).captions] == CAPTIONS


def test_captions_without_content_words_get_background_only(tmp_path):
    make_data(tmp_path, captions=["the . of ."] * 15, n_train=1, n_dev=1, n_test=1, max_regions=4, dim=8)
    assert PrecompDataset(tmp_path, "test").regions([0]).isfinite().all()


def test_vocabulary_is_of_the_tokenizer_given(tmp_path):
    make_data(tmp_path, **SMALL, tokenizer=lambda caption: ["only"])
    assert list(Vocabulary.load(tmp_path / "vocab.json").word2idx)[4:] == ["only"]


@pytest.mark.learning
def test_real_captions_can_be_learnt(real_captions, tmp_path):
    made = make_data(tmp_path, captions=real_captions, n_train=7, n_dev=1, n_test=2, max_regions=16, dim=128, noise=0.5)
    assert made.n_images == {"train": 700, "dev": 100, "test": 200}
    assert PrecompDataset(tmp_path, "train").captions[0] == (
        "The man with pierced ears is wearing glasses and an orange hat ."
    )
    assert ridge_recall(tmp_path, 10) > 8 * 100 * 10 / 200


def test_a_failure_leaves_no_half_files(tmp_path):
    def stop(done, total):
        if done > 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_data(tmp_path, **SMALL, chunk_images=2, progress=stop)
    assert set(os.listdir(tmp_path)) == {"train_ims.npy", "train_caps.txt", "train_ids.txt"}


def test_overwrite(tmp_path):
    make_data(tmp_path, **SMALL)
    (tmp_path / "notes.txt").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(FileExistsError, match="not empty; choose another folder, or overwrite=True"):
        make_data(tmp_path, **SMALL, seed=5)
    assert contents(tmp_path) == before
    make_data(tmp_path, **SMALL, seed=5, overwrite=True)
    after = contents(tmp_path)
    assert after["notes.txt"] == b"mine"
    assert after["train_ims.npy"] != before["train_ims.npy"]


def test_disk_without_room_is_noticed_before_anything_is_removed(tmp_path):
    make_data(tmp_path, **SMALL)
    before = contents(tmp_path)
    with pytest.raises(OSError, match="bytes to write"):
        make_data(tmp_path, **{**SMALL, "n_train": 10**12}, overwrite=True)
    assert contents(tmp_path) == before


BAD = [
    *(({name: 0}, ValueError, f"{name} is 0; expected an integer of at least 1") for name in SMALL),
    ({"n_train": 2.5}, ValueError, "n_train is 2.5"),
    ({"chunk_images": 0}, ValueError, "chunk_images is 0"),
    ({"seed": -1}, ValueError, "seed is -1; expected an integer of at least 0"),
    ({"noise": -0.5}, ValueError, "noise is -0.5"),
    ({"noise": float("nan")}, ValueError, "noise is nan"),
    ({"noise": float("inf")}, ValueError, "noise is inf"),
    ({"tokenizer": "ptb"}, ValueError, "tokenizer is 'ptb'"),
    ({"captions": CAPTIONS[:19]}, DataError, "captions: 19 captions; expected five an image"),
    ({"captions": [*CAPTIONS[:4], " "]}, DataError, "captions[4] is blank"),
    ({"captions": CAPTIONS[:10]}, ValueError, "captions has 2 images"),
    ({"captions": []}, ValueError, "captions has 0 images"),
    ({"captions": "absent.txt"}, FileNotFoundError, "absent.txt: no such captions file"),
]


@pytest.mark.parametrize(("changes", "exception", "fragment"), BAD)
def test_bad_calls(tmp_path, changes, exception, fragment):
    with pytest.raises(exception) as caught:
        make_data(tmp_path / "new", **{**SMALL, **changes})
    assert fragment in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_command_prints_json(tmp_path, capsys):
    assert run(MakeData(folder=tmp_path / "made", **SMALL, json=True)) == 0
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    assert set(report["files"]) == FILES
    assert report["n_images"] == {"train": 7, "dev": 3, "test": 4}
    assert report["bytes"] == sum((tmp_path / "made" / name).stat().st_size for name in FILES)
    assert "make-data: 14 images, about" in printed.err


def test_command_prints_the_files(tmp_path, capsys):
    assert run(MakeData(folder=tmp_path / "made", **SMALL)) == 0
    out = capsys.readouterr().out
    assert "images: train 7, dev 3, test 4" in out
    assert all(name in out for name in FILES)


def test_command_on_a_terminal_draws_to_standard_error(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert run(MakeData(folder=tmp_path / "made", **SMALL, json=True)) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)
    assert "14 images, about" in printed.err
    assert "100 %" in printed.err


def test_command_says_what_is_wrong_without_a_traceback(tmp_path, capsys):
    assert cli.main(["make-data", str(tmp_path), "--n-train", "0"]) == 2
    assert capsys.readouterr().err == "itm-fast: error: n_train is 0; expected an integer of at least 1\n"


def test_command_and_function_have_the_same_defaults():
    import inspect

    theirs = {name: p.default for name, p in inspect.signature(make_data).parameters.items()}
    mine = {name: p.default for name, p in inspect.signature(MakeData).parameters.items()}
    assert {name: mine[name] for name in mine if name not in ("folder", "json")} == {
        name: theirs[name] for name in mine if name not in ("folder", "json")
    }
