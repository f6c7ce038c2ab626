"""embed, evaluate, search, inspect and index of a model with a vector a token."""

import json

import pytest

pytest.importorskip("transformers", reason="encoders need transformers, of the extra [text]")
import tiny_clip
import tiny_encoders
import torch

from itm_fast.cli import main as cli
from itm_fast.evaluation import load_encoder, read_embeddings

N_IMAGES = 4


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """colpali/, images/, set.json and out/ as embed wrote it."""
    place = tmp_path_factory.mktemp("tokens")
    (place / "colpali").mkdir()
    tiny_encoders.write_colpali(place / "colpali")
    (place / "set.json").write_text(json.dumps(tiny_clip.write_images(place / "images", N_IMAGES)))
    inputs = ["--images-folder", str(place / "images"), "--captions", str(place / "set.json"), "--workers", "1"]
    assert cli.main(["embed", str(place / "colpali"), str(place / "out"), *inputs]) == 0
    return place


def run(capsys, *argv, code=0):
    capsys.readouterr()
    assert cli.main([str(argument) for argument in argv]) == code
    captured = capsys.readouterr()
    return captured.err if code else captured.out


def sims_of(place):
    encoder, embedded = load_encoder(place / "colpali"), read_embeddings(place / "out")
    paths = [place / "images" / name for name in embedded.image_names]
    images = encoder.encode_images(encoder.prepare_images(paths))
    captions = encoder.encode_captions(embedded.texts)
    return torch.stack([torch.stack([(c @ i.T).max(dim=1).values.sum() for c in captions]) for i in images]), embedded


def test_evaluate_by_late_interaction(place, capsys):
    report = json.loads(run(capsys, "evaluate", "--embeddings", place / "out", "--ks", "1", "2", "--json"))
    sims, embedded = sims_of(place)
    owners = torch.from_numpy(embedded.caption_to_image)
    best = sims.argmax(dim=0) == owners
    assert report["t2i"]["R@1"] == pytest.approx(100 * float(best.double().mean()))
    notes = " ".join(report["conditions"]["notes"])
    assert "sums over the vectors of captions, of which there are" in notes
    assert "lengths differ" not in notes
    out = run(capsys, "evaluate", "--embeddings", place / "out", "--agg-func", "Mean", "--ks", "1", "--json")
    assert "sums over" not in out
    error = run(capsys, "evaluate", "--embeddings", place / "out", "--lambda-softmax", "4", code=2)
    assert "--lambda-softmax has no use with vectors a token" in error


def test_search_by_text_and_image(place, capsys):
    picture = place / "images" / "002.png"
    sims, embedded = sims_of(place)
    out = json.loads(run(capsys, "search", place / "out", embedded.texts[0], "--image", picture, "--k", "3", "--json"))
    for query, expected, among in zip(out["queries"], (sims[:, 0], sims[2]), ("images", "captions"), strict=True):
        best = expected.argsort(descending=True, stable=True)[:3]
        assert query["among"] == among
        # Stored halves: of each of a caption's vectors 2^-11 of a product of at most 1.
        bound = 20 * 2**-10
        assert [one["score"] for one in query["found"]] == pytest.approx(expected[best].tolist(), abs=bound)


def test_what_is_said_of_it(place, capsys):
    found = json.loads(run(capsys, "inspect", place / "out", "--json"))
    assert "vectors a token of itm-fast embed, by" in json.dumps(found)
    error = run(capsys, "index", place / "out", place / "index", "--faiss", "flat", code=2)
    assert "an index of faiss needs one vector an item" in error
    inputs = ["--images-folder", place / "images", "--captions", place / "set.json", "--workers", "1"]
    assert "a vector a token, 8 wide, float16" in run(capsys, "embed", place / "colpali", place / "out", *inputs)
    error = run(capsys, "embed", place / "colpali", place / "new", *inputs, "--library", "open-clip", code=2)
    assert "open_clip_config.json: no such file" in error
