"""Vectors a token in a folder: stopped anywhere and continued to the same bytes, half precision, damage, search."""

import json
import os
from functools import partial

import numpy as np
import pytest
import torch

from itm_fast.data import read_captioned_images
from itm_fast.errors import DataError
from itm_fast.evaluation import evaluate, extract_embeddings, read_embeddings
from itm_fast.evaluation.caveats import source_notes
from itm_fast.ops.max_similarity import max_similarity
from itm_fast.similarities import RaggedScorer
from itm_fast.sources.search import search_embedded

N_IMAGES, DIM = 5, 4
FILES = (
    "captions.npy",
    "captions_offsets.npy",
    "images.npy",
    "images_offsets.npy",
    "caption_to_image.npy",
    "items.json",
    "embeddings.json",
)
SIZES = {"batch_size": 2, "caption_batch_size": 3, "workers": 1}


class Letters:
    """An encoder whose vectors a token are of letters, and of an image of its name."""

    name, library, per_token, dtype, context_length = "letters", "transformers", True, "float32", 9
    device = torch.device("cpu")

    def digest(self):
        return "letters"

    def libraries(self):
        return ""

    def token_counts(self, captions):
        return [len(caption) for caption in captions]

    def prepare_images(self, paths):
        return {"names": [path.name for path in paths]}

    def encode_images(self, inputs):
        return self.encode_captions(inputs["names"])

    def encode_captions(self, captions):
        return [self.of_letters(caption) for caption in captions]

    def of_letters(self, word):
        codes = torch.tensor([ord(letter) for letter in word], dtype=torch.float32)
        vectors = torch.sin(codes[:, None] * torch.arange(1, DIM + 1))
        return vectors / vectors.norm(dim=1, keepdim=True)


class Stopped(Exception):
    pass


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("letters")
    (place / "images").mkdir()
    names = [f"{'ab' * (1 + number)}.jpg" for number in range(N_IMAGES)]
    for name in names:
        (place / "images" / name).write_bytes(name.encode())
    for file, n_captions in (("set.json", lambda number: 1 + number % 3), ("six.json", lambda _: 6)):
        captions = {
            name: [f"{name[number:]} {'x' * n}" for n in range(n_captions(number))] for number, name in enumerate(names)
        }
        (place / file).write_text(json.dumps(captions))
    return place


@pytest.fixture
def extract(place, tmp_path):
    def call(folder=tmp_path / "out", of=Letters, captions="set.json", **options):
        items = read_captioned_images(place / captions)
        return extract_embeddings(of(), items, [place / "images"], folder, **{**SIZES, **options})

    return call


def contents(folder):
    return {name: (folder / name).read_bytes() for name in FILES}


def parts(ragged):
    return np.split(np.asarray(ragged.vectors), np.cumsum(ragged.counts)[:-1])


def test_what_is_written(extract, tmp_path):
    found = extract()
    assert (found.per_token, found.dim, found.dtype) == (True, DIM, "float16")
    assert isinstance(found.images.vectors, np.memmap)
    for ragged, words in ((found.images, found.image_names), (found.captions, found.texts)):
        for vectors, word in zip(parts(ragged), words, strict=True):
            np.testing.assert_array_equal(vectors, Letters().of_letters(word).numpy().astype(np.float16))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(FILES)
    assert found.notes[0].endswith("captions were cut at 9 tokens, the model's context")
    assert extract(tmp_path / "wide", stored_dtype="float32").dtype == "float32"


@pytest.mark.parametrize("renamed", [False, True])
def test_stopped_at_any_file_it_is_continued_to_the_same_bytes(renamed, extract, monkeypatch, tmp_path):
    extract(tmp_path / "whole")
    whole, replace_file, stops = contents(tmp_path / "whole"), os.replace, 0
    for n in range(100):
        left = iter(range(n))

        def stopping(*paths, left=left):
            stop = next(left, None) is None
            if renamed or not stop:
                replace_file(*paths)
            if stop:
                raise Stopped

        folder = tmp_path / f"stopped{n}"
        with monkeypatch.context() as patch:
            patch.setattr("os.replace", stopping)
            try:
                extract(folder)
                break
            except Stopped:
                stops += 1
        extract(folder)
        assert contents(folder) == whole
        assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    assert stops == 1 + 3 + 2 + 3 + 2 + 3  # the beginning, batches of captions, files, of images, files, what is beside


def test_what_a_batch_wrote_before_it_was_saved_is_written_again(extract, monkeypatch, tmp_path):
    extract(tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr("itm_fast.sources.extraction._State.save", lambda *_: (_ for _ in ()).throw(Stopped))
        with pytest.raises(Stopped):
            extract()
    extract()
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_restart_leaves_nothing_of_it(extract, tmp_path):
    extract()

    class Vectors(Letters):
        per_token = False

        def encode_captions(self, captions):
            return torch.stack([self.of_letters(caption).mean(dim=0) for caption in captions])

    with pytest.raises(DataError, match="stored_dtype"):
        extract(of=Vectors)
    found = extract(of=Vectors, restart=True)
    assert not found.per_token
    assert not list((tmp_path / "out").glob("*_offsets.npy"))


@pytest.mark.parametrize(
    ("encoded", "fragment"),
    [
        (torch.full((2, DIM), torch.nan), "is not finite"),
        (torch.ones(0, DIM), "the model gives no vector of"),
        (torch.ones(2, 3), "images have 3 dimensions, its captions 4"),
    ],
)
def test_vectors_that_are_refused(encoded, fragment, extract):
    class Wrong(Letters):
        def encode_images(self, inputs):
            return [*super().encode_images({"names": inputs["names"][:-1]}), encoded]

    with pytest.raises(ValueError, match=fragment):
        extract(of=Wrong)


@pytest.mark.parametrize("name", FILES)
def test_damaged_files_are_named(name, extract, tmp_path):
    extract()
    path = tmp_path / "out" / name
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DataError, match=name.replace(".", r"\.")):
        read_embeddings(tmp_path / "out")


@pytest.mark.parametrize("name", ["captions.npy.part", "captions_offsets.npy.part"])
def test_parts_that_were_cut_short(name, extract, monkeypatch, tmp_path):
    with pytest.raises(Stopped):
        extract(progress=lambda kind, done, total: (_ for _ in ()).throw(Stopped) if done == 6 else None)
    path = tmp_path / "out" / name
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=rf"{name} is cut short".replace(".", r"\.")):
        extract()


def test_offsets_that_do_not_fit(extract, tmp_path):
    extract()
    np.save(tmp_path / "out/images_offsets.npy", np.arange(N_IMAGES + 1))
    with pytest.raises(DataError, match=r"images_offsets\.npy: offsets must be"):
        read_embeddings(tmp_path / "out")


def sims_of(found):
    images, captions = ([torch.tensor(one).float() for one in parts(x)] for x in (found.images, found.captions))
    return torch.stack([torch.stack([(c @ i.T).max(dim=1).values.sum() for c in captions]) for i in images])


def test_evaluated_as_the_matrix_of_its_similarities(extract):
    found = extract()
    expected = evaluate(sims_of(found), caption_to_image=found.caption_to_image, ks=(1, 2))
    report = evaluate(found.scorer(), caption_to_image=found.caption_to_image, ks=(1, 2))
    assert (report["i2t"], report["t2i"]) == (expected["i2t"], expected["t2i"])
    assert [note for note in report["conditions"]["notes"] if "are sums over the vectors of captions" in note]
    mean = found.scorer(partial(max_similarity, agg_func="Mean"))
    assert not source_notes(mean)
    longer = RaggedScorer(mean.regions, mean.words)
    longer.words.vectors = np.asarray(mean.words.vectors) * np.linspace(1, 2, len(mean.words.vectors))[:, None]
    assert "their lengths differ" in source_notes(longer)[0]


def test_first_five_captions(extract):
    found = extract(captions="six.json")
    five = found.of_protocol("coco-5k")
    assert (len(found.captions), len(five.captions)) == (6 * N_IMAGES, 5 * N_IMAGES)
    kept = [column for column in range(6 * N_IMAGES) if column % 6 != 5]
    assert five.texts == [found.texts[column] for column in kept]
    whole = (slice(0, N_IMAGES), slice(0, 6 * N_IMAGES))
    assert five.scorer()(slice(0, N_IMAGES), slice(0, 5 * N_IMAGES)).equal(found.scorer()(*whole)[:, kept])


@pytest.mark.parametrize("among_images", [True, False])
@pytest.mark.parametrize("by_image", [True, False])
def test_search(among_images, by_image, extract):
    found = extract()
    asked = found.images if by_image else found.captions
    queries = [torch.tensor(one).float() for one in parts(asked)][:3]
    gallery = [torch.tensor(one).float() for one in parts(found.images if among_images else found.captions)]
    words_asked = among_images or not by_image
    sims = torch.tensor([
        [float((q @ g.T if words_asked else g @ q.T).max(dim=1).values.sum()) for g in gallery] for q in queries
    ])  # fmt: skip
    top = search_embedded(found, queries, 4, among_images=among_images, by_image=by_image)
    best = sims.argsort(dim=1, descending=True, stable=True)[:, :4]
    torch.testing.assert_close(top.values, sims.gather(1, best), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(sims.gather(1, top.indices), sims.gather(1, best), rtol=1e-6, atol=1e-6)


def test_what_needs_a_vector_an_item(extract):
    with pytest.raises(ValueError, match=r"an index of faiss needs one vector an item, but .* by letters"):
        extract().arrays("an index of faiss")
