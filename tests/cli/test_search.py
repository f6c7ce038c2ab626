"""itm-fast search: exact in embeddings and with a model, re-ranked, printed, as JSON and as a page."""

import json
import shutil

import numpy as np
import pytest
import torch

pytest.importorskip("transformers", reason="CLIP-like models need transformers, of the extra [text]")
import tiny_clip
from small_models import small_model

from itm_fast.cli import main as cli
from itm_fast.data import PrecompDataset, Vocabulary, make_data
from itm_fast.evaluation import load_dual_encoder, read_embeddings
from itm_fast.models import load_model, save_model
from itm_fast.sources.search import search_vectors
from itm_fast.sources.trained_model import ModelScorer

N_IMAGES, DIM = 6, 8
TEXTS = ["a red dog runs", "two cat"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """out/ of embeddings, and data/ of as many images with a VSE++ and a SCAN."""
    place = tmp_path_factory.mktemp("search")
    (place / "clip").mkdir()
    tiny_clip.write_clip(place / "clip")
    captions = tiny_clip.write_images(place / "pictures", N_IMAGES)
    (place / "captions.json").write_text(json.dumps(captions))
    files = ["--images-folder", str(place / "pictures"), "--captions", str(place / "captions.json")]
    assert cli.main(["embed", str(place / "clip"), str(place / "out"), *files, "--workers", "1"]) == 0
    make_data(place / "data", n_train=8, n_dev=2, n_test=N_IMAGES, max_regions=4, dim=DIM)
    vocabulary = Vocabulary.load(place / "data" / "vocab.json")
    for name in ("vsepp", "scan"):
        save_model(small_model(name, vocabulary, DIM).eval(), place / name)
    return place


def run(capsys, *argv, code=0):
    capsys.readouterr()
    found = cli.main(["search", *map(str, argv)])
    captured = capsys.readouterr()
    assert found == code, captured.err
    return captured.err if code else captured.out


def test_texts_and_images_in_embeddings(place, capsys):
    picture = next(iter(sorted((place / "pictures").iterdir())))
    out = json.loads(run(capsys, place / "out", *TEXTS, "--image", picture, "--k", "4", "--json"))
    embedded, encoder = read_embeddings(place / "out"), load_dual_encoder(place / "clip")
    wanted = [*(encoder.encode_captions(TEXTS).double() @ torch.from_numpy(np.array(embedded.images)).double().T)]
    pixels = encoder.encode_images(encoder.prepare_images([picture]))[0].double()
    wanted.append(torch.from_numpy(np.array(embedded.captions)).double() @ pixels)
    for query, sims, among in zip(out["queries"], wanted, ("images", "images", "captions"), strict=True):
        best = sims.argsort(descending=True, stable=True)[:4]
        assert query["among"] == among
        assert [one["number"] for one in query["found"]] == best.tolist()
        assert [one["score"] for one in query["found"]] == pytest.approx(sims[best].tolist(), abs=1e-5)
    first = out["queries"][2]["found"][0]
    assert first["captions"] == [embedded.texts[first["number"]]]
    assert first["image"] == embedded.image_names[embedded.caption_to_image[first["number"]]]
    table = run(capsys, place / "out", TEXTS[0])
    assert TEXTS[0] in table
    assert all(name in table for name in embedded.image_names)


def test_among(place, capsys):
    out = json.loads(run(capsys, place / "out", "red", "--among", "captions", "--k", "3", "--json"))
    assert out["queries"][0]["among"] == "captions"
    assert len(out["queries"][0]["found"]) == 3


def sims_of(place, name):
    vocabulary, split = load_model(place / name), PrecompDataset(place / "data", "test")
    asked = ModelScorer(vocabulary, split, tokenizer="split").asking(TEXTS)
    return asked(slice(0, N_IMAGES), slice(0, len(TEXTS)))


@pytest.mark.parametrize("name", ["vsepp", "scan"])
def test_trained_models(place, capsys, name):
    flags = ["--data", place / "data", "--tokenizer", "split", "--k", "3", "--json"]
    out = json.loads(run(capsys, place / name, *TEXTS, *flags))
    for query, sims in zip(out["queries"], sims_of(place, name).T, strict=True):
        best = sims.argsort(descending=True, stable=True)[:3]
        assert [one["number"] for one in query["found"]] == best.tolist()


def test_more_than_the_candidates_of_a_second_model_where_there_is_none(place, capsys):
    out = json.loads(run(capsys, place / "out", "dog", "--k", "101", "--json"))
    assert len(out["queries"][0]["found"]) == N_IMAGES


def test_words_that_the_model_does_not_know_are_said(place, capsys):
    flags = ["--data", place / "data", "--tokenizer", "split", "--k", "1"]
    words = [word for word in load_model(place / "vsepp").vocabulary.word2idx if word.isalpha()][:3]
    for text, said in ((" ".join(words), ""), (f"{words[0]} xyzzyq", "warning: 1 of 2 words (50%), in 1 of 1")):
        assert cli.main(["search", str(place / "vsepp"), text, *map(str, flags)]) == 0
        assert ("warning" in (err := capsys.readouterr().err)) == bool(said)
        assert said in err


@pytest.mark.parametrize(("swapped", "code"), [(False, 0), (True, 2)])
def test_images_in_another_order_are_not_reranked(place, capsys, tmp_path, swapped, code):
    shutil.copytree(place / "data", tmp_path / "data")
    names = read_embeddings(place / "out").image_names
    ids = [int(number) for number in (tmp_path / "data" / "test_ids.txt").read_text().split()]
    names = [*names[:-2], *names[:-3:-1]] if swapped else names
    (tmp_path / "data" / "id_mapping.json").write_text(json.dumps(dict(zip(map(str, ids), names, strict=True))))
    flags = ["--data", tmp_path / "data", "--tokenizer", "split", "--rerank", place / "scan"]
    said = run(capsys, place / "out", "dog", *flags, code=code)
    assert (f"image 4 of {place / 'out'} is " in said) == swapped


@pytest.mark.parametrize("source", ["out", "vsepp"])
def test_reranked(place, capsys, source):
    flags = ["--data", place / "data", "--tokenizer", "split", "--rerank", place / "scan", "--candidates", "4"]
    coarse = json.loads(run(capsys, place / source, *TEXTS, *flags[:4], "--k", "4", "--json")) if source != "out" else (
        json.loads(run(capsys, place / source, *TEXTS, "--k", "4", "--json"))
    )  # fmt: skip
    out = json.loads(run(capsys, place / source, *TEXTS, *flags, "--k", "2", "--json"))
    for before, after, sims in zip(coarse["queries"], out["queries"], sims_of(place, "scan").T, strict=True):
        candidates = sorted(one["number"] for one in before["found"])
        best = sorted(candidates, key=lambda number: (-float(sims[number]), number))[:2]
        assert [one["number"] for one in after["found"]] == best
        assert [one["score"] for one in after["found"]] == pytest.approx(sims[best].tolist(), abs=1e-5)


def test_page(place, capsys, tmp_path, monkeypatch):
    pytest.importorskip("jinja2")
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or True)
    monkeypatch.chdir(tmp_path)
    assert "search.html" in run(capsys, place / "out", "<b>dog</b>", "--k", "2", "--open")
    page = (tmp_path / "search.html").read_text()
    assert opened == [(tmp_path / "search.html").as_uri()]
    assert page.count('src="data:image/jpeg;base64,') == 2
    assert "&lt;b&gt;dog&lt;/b&gt;" in page
    assert "<b>dog" not in page
    run(capsys, place / "out", "dog", "--output", "other.html", "--images-folder", tmp_path)
    assert "<img" not in (tmp_path / "other.html").read_text()  # none is there: names and captions are


def test_blocks_and_memory(tmp_path):
    """The gallery is read by rows, in blocks, however few the queries are."""
    rng = np.random.default_rng(0)
    gallery, queries = rng.standard_normal((20000, 5)).astype(np.float16), torch.randn(2, 5)
    seen = []

    class Rows:
        shape, ndim = gallery.shape, 2

        def __len__(self):
            return len(gallery)

        def __getitem__(self, some):
            seen.append(some)
            return gallery[some]

    found = search_vectors(Rows(), queries, 7, chunk_bytes=1 << 24)
    sims = torch.from_numpy(gallery).double() @ queries.double().T
    wanted = sims.T.topk(7)
    assert found.indices.tolist() == wanted.indices.tolist()
    assert max(some.stop - some.start for some in seen) <= 8192


@pytest.mark.parametrize(
    ("argv", "fragment"),
    [
        (["out"], "nothing to search for"),
        (["out", "dog", "--k", "0"], "expected 1 ... candidates"),
        (["out", "dog", " "], "a text to search for is blank"),
        (["out", "dog", "--rerank", "scan", "--data", "data", "--k", "101"], "--candidates 100; expected 1"),
        (["out", "--image", "none.jpg"], "none.jpg: no such image file"),
        (["out", "dog", "--output", "nowhere/page.html"], "no such folder"),
        (["out", "dog", "--images-folder", "nowhere"], "nowhere: no such folder of images"),
        (["out", "dog", "--rerank", "scan"], "needs --data"),
        (["out", "dog", "--rerank", "scan", "--among", "captions"], "orders images for a text"),
        (["out", "dog", "--rerank", "scan", "--data", "data", "--split", "dev"], "2 images"),
        (["out", "dog", "--encoder", "other"], "other weights"),
        (["vsepp", "dog"], "needs --data"),
        (["vsepp", "--data", "data", "--image", "clip/config.json"], "needs a folder of embeddings"),
        (["nowhere", "dog", "--data", "data"], "nowhere"),
    ],
)
def test_faults(place, capsys, monkeypatch, argv, fragment):
    monkeypatch.chdir(place)
    if not (place / "other").exists():
        (place / "other").mkdir()
        tiny_clip.write_clip(place / "other", seed=9)
    assert fragment in run(capsys, *argv, code=2)
