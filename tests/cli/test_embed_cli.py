"""itm-fast embed, and evaluate of what it wrote: protocols, φ, output, exit codes and error lines."""

import json
import shutil

import numpy as np
import pytest

pytest.importorskip("transformers", reason="CLIP-like models need transformers, of the extra [text]")
import tiny_clip

from itm_fast.cli import main as cli
from itm_fast.evaluation import evaluate, load_run, read_embeddings

N_IMAGES = 6


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """clip/, val2014/ with COCO's names, dataset.json as Karpathy's, out/ as embed wrote it."""
    place = tmp_path_factory.mktemp("embed")
    (place / "clip").mkdir()
    tiny_clip.write_clip(place / "clip")
    captions = tiny_clip.write_images(place / "val2014", N_IMAGES)
    images = []
    for number, (name, texts) in enumerate(captions.items()):
        renamed = f"COCO_val2014_{number + 50:012}.jpg"
        (place / "val2014" / name).rename(place / "val2014" / renamed)
        sentences = [{"raw": text, "sentid": 100 * number + n} for n, text in enumerate([*texts, "red", "two"])]
        entry = {"filepath": "val2014", "filename": renamed, "cocoid": number + 50, "sentences": sentences}
        images.append({**entry, "split": "test"})
    (place / "dataset.json").write_text(json.dumps({"images": images}))
    assert cli.main(["embed", *flags(place), "--json"]) == 0
    return place


def flags(place, output="out", folder="val2014", captions="dataset.json"):
    sizes = ["--batch-size", "4", "--caption-batch-size", "5", "--workers", "1"]
    inputs = ["--images-folder", str(place / folder), "--captions", str(place / captions)]
    return [str(place / "clip"), *inputs, *sizes, str(place / output)]


def run(capsys, *argv):
    capsys.readouterr()
    code = cli.main([str(argument) for argument in argv])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_what_it_prints(place, capsys):
    code, out, err = run(capsys, "embed", *flags(place, "printed", ""))  # the folder above val2014
    assert (code, err) == (0, "")
    assert "printed: 6 images and 24 captions, 8 wide, float32" in out
    assert "captions were cut at 12 tokens" in out
    assert f"itm-fast evaluate --embeddings {place / 'printed'}" in out
    code, out, _ = run(capsys, "embed", *flags(place, "printed"), "--json")
    assert json.loads(out)["n_captions"] == 24


def test_evaluate_without_a_protocol(place, capsys):
    code, out, err = run(capsys, "evaluate", "--embeddings", place / "out", "--json")
    assert (code, err) == (0, "")
    embedded = read_embeddings(place / "out")
    expected = evaluate((embedded.images, embedded.captions), caption_to_image=embedded.caption_to_image).to_dict()
    found = json.loads(out)
    assert found["i2t"] == expected["i2t"]
    assert found["t2i"] == expected["t2i"]
    assert found["conditions"]["model"] == str(place / "clip")
    assert "cut at 12 tokens" in found["conditions"]["notes"][0]
    _, table, _ = run(capsys, "evaluate", "--embeddings", place / "out")
    assert "cut at 12 tokens" in table


def test_files_that_somebody_put_in_place_of_its_own_are_looked_at(place, tmp_path, capsys):
    shutil.copytree(place / "out", tmp_path / "out")
    images = np.load(place / "out" / "images.npy")
    np.save(tmp_path / "out" / "images.npy", images * np.linspace(1, 9, len(images), dtype=images.dtype)[:, None])
    for folder, is_said in ((place / "out", False), (tmp_path / "out", True)):
        code, out, _ = run(capsys, "evaluate", "--embeddings", folder, "--json")
        notes = json.loads(out)["conditions"]["notes"]
        assert (code, any("their lengths differ" in note for note in notes)) == (0, is_said)


def test_protocol_by_ids(place, capsys):
    """Some of the images and captions, in another order, by the ids of Karpathy's file."""
    pairs = {"image_ids": [53, 51, 50], "caption_ids": [301, 100, 0, 1], "caption_to_images": {"301": [53], "0": [50]}}
    (place / "pairs.json").write_text(json.dumps(pairs))
    options = ["--protocol", "positives", "--annotations", place / "pairs.json", "--json"]
    code, out, _ = run(capsys, "evaluate", "--embeddings", place / "out", *options)
    assert code == 0
    items = json.loads((place / "out/items.json").read_text())
    rows = [items["image_ids"].index(key) for key in pairs["image_ids"]]
    columns = [items["caption_ids"].index(key) for key in pairs["caption_ids"]]
    images, captions = (np.load(place / "out" / f"{kind}.npy") for kind in ("images", "captions"))
    sims = images[rows] @ captions[columns].T
    ranks = [(sims[:, column] > sims[row, column]).sum() for row, column in ((0, 0), (2, 2))]
    assert json.loads(out)["t2i"]["R@1"] == 100 * np.mean(np.array(ranks) < 1)
    assert json.loads(out)["t2i"]["n_queries"] == 2


def test_a_run_has_its_texts_and_names(place, capsys):
    evaluated = ("evaluate", "--embeddings", place / "out")
    assert run(capsys, *evaluated, "--run", place / "run")[0] == 0
    kept, embedded = load_run(place / "run"), read_embeddings(place / "out")
    assert (list(kept.captions), list(kept.image_names)) == (embedded.texts, embedded.image_names)
    assert kept.source == {"kind": "embeddings", "path": str(place / "out"), "similarity": "dot"}
    # A protocol that takes some of them, in another order.
    pairs = {"image_ids": [53, 51], "caption_ids": [301, 100], "caption_to_images": {"301": [53], "100": [51]}}
    (place / "some.json").write_text(json.dumps(pairs))
    options = ["--protocol", "positives", "--annotations", place / "some.json", "--ks", "1"]
    assert run(capsys, *evaluated, *options, "--run", place / "some_run", "--depth", "1")[0] == 0
    items = json.loads((place / "out/items.json").read_text())
    some = load_run(place / "some_run")
    assert [some.captions[n] for n in (0, 1)] == [items["captions"][items["caption_ids"].index(n)] for n in (301, 100)]
    assert [name[-6:] for name in some.image_names] == ["53.jpg", "51.jpg"]


def test_relevance_of_its_own_captions(place, capsys):
    code, out, _ = run(capsys, "evaluate", "--embeddings", place / "out", "--ncs", "--json")
    assert code == 0
    assert 0 < json.loads(out)["nsum"] < 600
    # Images in another order than their captions: φ goes by column all the same.
    names = [path.name for path in sorted((place / "val2014").iterdir(), reverse=True)]
    (place / "names.txt").write_text("\n".join(names))
    assert run(capsys, "embed", *flags(place, "turned"), "--image-list", place / "names.txt")[0] == 0
    code, turned, _ = run(capsys, "evaluate", "--embeddings", place / "turned", "--ncs", "--json")
    for key in ("NCS@1", "NCS(N)@5"):
        for direction in ("i2t", "t2i"):
            assert json.loads(turned)[direction][key] == pytest.approx(json.loads(out)[direction][key])


def test_a_source_of_other_commands(place):
    from itm_fast.cli.source_flags import ModelOptions, is_model, open_source

    scorer = open_source(str(place / "out"), ModelOptions())
    assert (scorer.n_images, scorer.n_captions) == (N_IMAGES, 24)
    assert not is_model(str(place / "out"))  # it is of one split
    assert is_model(str(place / "clip"))


def test_fine_grained_set(place, capsys):
    """Refined captions in an order of their own, and a pool with distractors."""
    names = sorted(path.name for path in (place / "val2014").iterdir())
    refined = {names[number].removesuffix(".jpg"): ["a red dog", f"two {number}"] for number in (2, 0)}
    (place / "fine").mkdir()
    (place / "fine/MSCOCO_FG_ann.json").write_text(json.dumps(refined))
    np.save(place / "fine/MSCOCO_FG_img_filenames.npy", np.array(names))
    inputs = flags(place, "fine_out", captions="fine/MSCOCO_FG_ann.json")
    pool = ["--image-list", place / "fine/MSCOCO_FG_img_filenames.npy"]
    assert run(capsys, "embed", *inputs, *pool)[0] == 0
    options = ["--protocol", "coco-fg", "--annotations", place / "fine"]
    code, out, _ = run(capsys, "evaluate", "--embeddings", place / "fine_out", *options, "--json")
    assert code == 0
    found = json.loads(out)
    images, captions = (np.load(place / "fine_out" / f"{kind}.npy") for kind in ("images", "captions"))
    sims, owners = images @ captions.T, np.array([2, 2, 0, 0])
    ranks = (sims > sims[owners, range(4)]).sum(axis=0)
    assert found["t2i"]["R@1"] == 100 * np.mean(ranks < 1)
    assert found["conditions"]["n_images"] == 6
    assert found["i2t"]["n_queries"] == 2
    code, _, err = run(capsys, "evaluate", "--embeddings", place / "out", *options)
    assert code == 2
    assert "does not hold the captions of protocol coco-fg" in err


@pytest.mark.slow
def test_the_first_five_captions_of_coco(tmp_path, capsys):
    """25,010 captions, of which the protocol takes 25,000, as ids of the owners' order have it."""
    rng = np.random.default_rng(0)
    counts = np.full(5000, 5)
    counts[[7, 4000]] = 6, 14
    owners = np.repeat(np.arange(5000), counts)
    images, apart = (rng.standard_normal((n, 4), dtype=np.float32) for n in (5000, 25010))
    drawn = images, images[owners] + apart
    images, captions = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in drawn)
    for name, array in (("images", images), ("captions", captions), ("caption_to_image", owners)):
        np.save(tmp_path / f"{name}.npy", array)
    names = [f"{number}.jpg" for number in range(5000)]
    items = {"image_ids": [*range(5000)], "caption_ids": [*range(25010)], "image_names": names, "image_paths": names}
    (tmp_path / "items.json").write_text(json.dumps({**items, "captions": ["a"] * 25010}))
    (tmp_path / "embeddings.json").write_text('{"model": "made up", "notes": []}')
    code, out, _ = run(capsys, "evaluate", "--embeddings", tmp_path, "--protocol", "coco-1k", "--json")
    assert code == 0
    first = np.concatenate([np.flatnonzero(owners == image)[:5] for image in range(5000)])
    found, expected = json.loads(out), evaluate((images, captions[first]), protocol="coco-1k").to_dict()
    assert found["i2t"] == expected["i2t"]
    assert found["t2i"] == expected["t2i"]
    assert found["conditions"]["notes"] == ["10 captions beyond the first five of an image left out"]


INPUTS = "--images-folder val2014 --captions dataset.json"


@pytest.mark.parametrize(
    ("command", "fragment"),
    [
        ("embed clip out2", "expected --captions, such as dataset_coco.json, and --images-folder"),
        ("embed clip out2 --captions dataset.json", "names its images and holds none: expected --images-folder too"),
        (f"embed nobody/clip out2 {INPUTS}", "Nothing is download"),
        ("embed clip out2 --images-folder clip --captions dataset.json", "6 of 6 images are not in clip"),
        ("embed clip out2 --images-folder val2014 --captions none.json", "none.json: no such file"),
        (
            f"embed clip out2 {INPUTS} --split val",
            "no images of split 'val'; splits: test",
        ),
        (f"embed clip out {INPUTS}", None),  # is complete
        (
            f"embed clip out {INPUTS} --stored-dtype float16",
            "replace them with --restart",
        ),
        (f"embed clip out2 {INPUTS} --device cuda:77", "'cuda:77'"),
        ("evaluate --embeddings none", "none: no such folder of embeddings"),
        ("evaluate --embeddings clip", "expected a folder that itm-fast embed wrote"),
        ("evaluate --embeddings out --sims sims.npy", "more than one source"),
        ("evaluate --embeddings out --ids ids.json", "--ids has no use with --embeddings"),
        ("evaluate --embeddings out --captions-per-image 5", "--captions-per-image has no use"),
        ("evaluate --embeddings out --protocol flickr30k-1k", "flickr30k-1k expects 1000 images"),
        ("evaluate --embeddings out --protocol cxc", "needs annotations"),
    ],
)
def test_bad_input_is_one_line_and_code_2(command, fragment, place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    code, _, err = run(capsys, *command.split())
    if fragment is None:
        assert (code, err) == (0, "")
        return
    assert code == 2
    assert fragment in err
    assert err.startswith("itm-fast: error: ")
    assert err.count("\n") == 1
