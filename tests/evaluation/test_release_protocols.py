"""Protocols of public releases, on tiny sets in their layouts: recall, languages, altered captions, pages."""

import numpy as np
import pytest
import release_sets
from golden_files import data_path

from itm_fast.data import read_captioned_images
from itm_fast.errors import DataError
from itm_fast.evaluation import Ids, RunKeeper, evaluate, rerank
from itm_fast.evaluation.chance_levels import chance_recall
from itm_fast.evaluation.protocols.captioned_sets import SETS, read_captioned_set
from itm_fast.metrics import judged_ranks
from itm_fast.report.comparable import check_runs

LANGUAGES = [name for name, rules in SETS.items() if rules.scored == "language"]
LONG = ("urban1k", "docci", "dci", "iiw")


def embeddings(owners, n_images, seed=0, noise=0.6):
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((n_images, 8))
    captions = images[owners] + noise * rng.standard_normal((len(owners), 8))
    return tuple((x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32) for x in (images, captions))


@pytest.fixture
def made(tmp_path):
    """Writes a protocol's set and makes embeddings in its order."""

    def make(name, **options):
        path = release_sets.SETS[name](tmp_path, **options)
        found = read_captioned_set(path, name)
        owners = found.items.caption_to_image
        return path, found, embeddings(owners, len(found.items.image_names))

    return make


def hits(sims, positives, k):
    """R@k of (n_queries, n_items) similarities by a full sort, the readable reference."""
    order = np.argsort(-sims, axis=1, kind="stable")[:, :k]
    rows = [bool(set(top) & set(mine)) for top, mine in zip(order.tolist(), positives, strict=True) if mine]
    return 100 * np.mean(rows)


def of_owners(owners, n_images):
    return [np.flatnonzero(owners == image).tolist() for image in range(n_images)], [[owner] for owner in owners]


@pytest.mark.parametrize("name", LONG)
def test_long_captions_are_one_an_image(made, name):
    path, found, (images, captions) = made(name)
    assert len(found.items.captions) == len(found.items.image_names) == 12
    report = evaluate((images, captions), protocol=name, annotations=path)
    sims = images @ captions.T
    i2t, t2i = of_owners(found.items.caption_to_image, 12)
    assert report["i2t"]["R@1"] == pytest.approx(hits(sims, i2t, 1))
    assert report["t2i"]["R@5"] == pytest.approx(hits(sims.T, t2i, 5))
    assert report["chance"]["t2i"]["R@1"] == pytest.approx(100 / 12)
    notes = " ".join(report["conditions"]["notes"])
    assert "12 images instead of" in notes
    assert "the figures are of another test set" in notes
    assert "chance: image -> caption R@1 8.33" in notes


def test_what_the_captions_are(made):
    assert made("dci")[1].items.captions[0] == "Number 0.\nMore of it."
    found = made("docci")[1].items
    assert found.image_names[:2] == ["test_00000.jpg", "test_00001.jpg"]  # the test split alone
    found = made("iiw")[1].items
    assert found.captions[4] == "All of DCI_Test 0."
    urban = made("urban1k")[1].items
    assert urban.image_names[8:10] == ["9.jpg", "10.jpg"]  # by number
    assert urban.packed[9].name == "10.jpg"


@pytest.mark.parametrize("name", LANGUAGES)
def test_a_table_of_figures_by_language(made, name):
    path, found, (images, captions) = made(name)
    owners, languages = found.items.caption_to_image, np.array(found.items.languages)
    report = evaluate((images, captions), protocol=name, annotations=path)
    assert list(report["languages"]) == list(dict.fromkeys(languages))
    for language, figures in report["languages"].items():
        mine = languages == language
        sims = images @ captions[mine].T
        i2t, t2i = of_owners(owners[mine], len(images))
        for k in (1, 5, 10):
            assert figures["i2t"][f"R@{k}"] == pytest.approx(hits(sims, i2t, k))
            assert figures["t2i"][f"R@{k}"] == pytest.approx(hits(sims.T, t2i, k))
    of_all = [figures["rsum"] for figures in report["languages"].values()]
    assert report["headline"] == "language_mean"
    assert report["rsum"] == pytest.approx(np.mean(of_all))
    table = str(report)
    assert all(f"{language} t2i" in table for language in report["languages"])
    assert "all languages together i2t" in table
    with pytest.raises(ValueError, match="ranks each language by itself"):
        rerank((images, captions), (images, captions), 10, protocol=name, annotations=path)


def test_multi30k_as_it_is_published(tmp_path):
    folder = tmp_path / "task2"
    folder.mkdir()
    for path in data_path("multi30k/test_2016_images.txt").parent.glob("test_2016*"):  # not 290,000 training captions
        (folder / path.name).symlink_to(path)
    found = read_captioned_set(folder, "multi30k")
    assert (len(found.items.image_names), len(found.items.captions), found.notes) == (1000, 10_000, [])
    report = evaluate(embeddings(found.items.caption_to_image, 1000), protocol="multi30k", annotations=folder)
    assert {language: one["t2i"]["n_queries"] for language, one in report["languages"].items()} == {
        "de": 5000,
        "en": 5000,
    }
    assert not any("WARNING" in note for note in report["conditions"]["notes"])


def test_altered_captions_are_in_the_gallery_and_nobodys(made):
    path, found, (images, captions) = made("rococo")
    altered, owners = found.altered, found.items.caption_to_image
    assert altered.sum() == 60
    assert all("five" in text for text, is_it in zip(found.items.captions, altered, strict=True) if is_it)
    report = evaluate((images, captions), protocol="rococo", annotations=path)
    sims = images @ captions.T
    own = [np.flatnonzero((owners == image) & ~altered).tolist() for image in range(12)]
    assert [report["i2t"][f"R@{k}"] for k in (1, 5)] == pytest.approx([hits(sims, own, k) for k in (1, 5)])
    assert report["t2i"]["n_queries"] == (~altered).sum()
    assert report["altered"]["i2t"]["false rate"] == pytest.approx(100 * altered[sims.argmax(1)].mean())
    kept = np.flatnonzero(~altered)
    alone, _ = of_owners(owners[kept], 12)
    assert report["originals"]["i2t"]["R@1"] == pytest.approx(hits(sims[:, kept], alone, 1))
    assert report["originals"]["t2i"]["R@1"] == report["t2i"]["R@1"]
    assert "false rate" in str(report)


def test_altered_images_are_in_the_gallery_and_nobodys(made):
    path, found, (images, captions) = made("rococo-images")
    names, owners = found.items.image_names, found.items.caption_to_image
    mixed = images + 0.2 * np.random.default_rng(2).standard_normal(images.shape, np.float32)
    gallery = np.concatenate([images, mixed])
    report = evaluate((gallery, captions), protocol="rococo-images", annotations=path)
    sims = gallery @ captions.T
    i2t, t2i = of_owners(owners, 12)
    assert report["t2i"]["R@1"] == pytest.approx(hits(sims.T, t2i, 1))
    assert report["i2t"]["R@1"] == pytest.approx(hits(sims[:12], i2t, 1))
    assert report["i2t"]["n_queries"] == 12
    assert report["altered"]["t2i"]["false rate"] == pytest.approx(100 * (sims.argmax(0) >= 12).mean()) != 0
    assert report["originals"]["t2i"]["R@1"] == pytest.approx(hits(sims[:12].T, t2i, 1))
    assert report["originals"]["i2t"] == {key: value for key, value in report["i2t"].items() if key != "n_pairs"}
    order = np.random.default_rng(1).permutation(24)
    both = [*names, *(name.replace("val2014/", "mix_0.9/", 1) for name in names)]
    texts = found.items.caption_ids
    again = evaluate(
        (gallery[order], captions),
        protocol="rococo-images",
        annotations=path,
        ids=Ids([both[place] for place in order], texts),
    )
    assert {key: again[key] for key in ("i2t", "t2i", "altered", "originals")} == {
        key: report[key] for key in ("i2t", "t2i", "altered", "originals")
    }
    for given, said in (
        (
            [*both[:-1], "mix_0.9/other.jpg"],
            r"no altered image of 1 of the 12 images, such as 'val2014/COCO_val2014_0+11",
        ),
        ([*both[:-1], "patch/COCO_val2014_000000000000.jpg"], "evaluate each lot of altered images by itself"),
    ):
        with pytest.raises(ValueError, match=said):
            evaluate((gallery, captions), protocol="rococo-images", annotations=path, ids=Ids(given, texts))
    with pytest.raises(ValueError, match="24 images x 61 captions in these annotations, given 12 x 61"):
        evaluate((images, captions), protocol="rococo-images", annotations=path)


def test_pages_by_their_grades(tmp_path):
    path = release_sets.vidore(tmp_path)
    images, texts = embeddings(np.arange(11), 12, noise=0.9)
    report = evaluate((images, texts), protocol="vidore", annotations=path)
    grades = [{i: 2, i + 1: 1} for i in range(11)]
    right = judged_ranks((images, texts), grades, (1, 5, 10), query="caption").figures()
    assert report["t2i"]["nDCG@5"] == pytest.approx(right["nDCG@5"])
    assert "nDCG@5" in str(report)
    assert report["chance"]["t2i"]["R@1"] == pytest.approx(100 * 2 / 12)
    order = np.random.default_rng(1).permutation(12)
    ids = Ids([f"p{i}" for i in order], [f"q{i}" for i in range(11)])
    again = evaluate((images[order], texts), protocol="vidore", annotations=path, ids=ids)
    assert again["t2i"] == report["t2i"]


def test_ids_put_them_in_order_and_leave_others_out(made):
    path, found, (images, captions) = made("coco-cn")
    report = evaluate((images, captions), protocol="coco-cn", annotations=path)
    order = np.random.default_rng(2).permutation(len(images))
    more = np.concatenate([images[order], images[:1]])
    ids = Ids([*(f"{found.items.image_names[place]}.jpg" for place in order), "another"], found.items.caption_ids)
    again = evaluate((more, captions), protocol="coco-cn", annotations=path, ids=ids)
    assert again["languages"] == report["languages"]
    assert again["conditions"]["notes"][0] == "1 images that protocol coco-cn does not have were left out"


def test_chance():
    assert chance_recall(200, np.ones(200, int), (1, 10)) == pytest.approx([0.5, 5.0])


def test_a_wrong_order_is_no_better_than_chance(tmp_path):
    path = release_sets.urban1k(tmp_path, n=60)
    images, captions = embeddings(np.arange(60), 60)
    for moved, said in ((0, False), (7, True)):
        notes = evaluate((images, np.roll(captions, moved, 0)), protocol="urban1k", annotations=path)["conditions"][
            "notes"
        ]
        assert any("no better than a random order of the gallery" in note for note in notes) is said


def test_a_run_is_kept(made):
    path, _, pair = made("xtd10")
    keep = RunKeeper(depth=3)
    report = evaluate(pair, protocol="xtd10", annotations=path, keep=keep)
    run = keep.run(report, name="x")
    assert run.i2t.retrieved.shape == (12, 3)
    with pytest.raises(DataError, match=r"run 'x': report\.json: its figures are means over languages"):
        check_runs([run])  # their intervals would be those of another gallery


FAULTS = [
    (
        "docci",
        lambda folder: None,
        ValueError,
        "protocol docci needs annotations: docci_descriptions.jsonlines, published at",
    ),
    (
        "docci",
        lambda folder: folder / "none",
        FileNotFoundError,
        "no such file or folder; docci_descriptions.jsonlines are",
    ),
    (
        "docci",
        release_sets.rococo,
        DataError,
        "as of ALBEF and BLIP; protocol docci reads docci_descriptions.jsonlines",
    ),
    ("rococo", release_sets.docci, DataError, "holds DOCCI's docci_descriptions.jsonlines; protocol rococo reads"),
    ("xtd10", release_sets.multi30k, DataError, "holds Multi30k's captions, line by line; protocol xtd10 reads"),
    ("vidore", release_sets.urban1k, DataError, "no folder of queries, corpus and qrels"),
]


@pytest.mark.parametrize(("name", "write", "error", "said"), FAULTS)
def test_what_is_something_else_is_refused(tmp_path, name, write, error, said):
    with pytest.raises(error, match=said.replace("(", r"\(")):
        evaluate(np.eye(12), protocol=name, annotations=write(tmp_path))


def test_other_sizes_are_refused(made, tmp_path):
    path, found, (images, captions) = made("flickr30k-cn")
    for sims, said in (
        ((captions, images), "looks transposed"),
        ((images[found.items.caption_to_image], captions), "pass every image of the files once"),
        ((np.concatenate([images, images]), captions), "give ids"),
        ((images[:3], captions), "has 12 images x 60 captions in these annotations, given 3 x 60"),
    ):
        with pytest.raises(ValueError, match=said):
            evaluate(sims, protocol="flickr30k-cn", annotations=path)
    plain = release_sets.docci(tmp_path)
    with pytest.raises(ValueError, match="folds has no use with protocol docci"):
        evaluate(np.eye(12), protocol="docci", annotations=plain, folds=2)
    coco = tmp_path / "rand_voca.json"
    coco.write_text('[{"image": "1.jpg", "caption": ["a", "b", "c", "d", "e"]}]')
    with pytest.raises(DataError, match=r"image 1\.jpg has 5 captions; protocol rococo expects five or six of its own"):
        evaluate(np.eye(5), protocol="rococo", annotations=coco)


def test_embed_reads_the_same_files(made):
    """What itm-fast embed takes has the ids that the protocol asks for."""
    for name in ("xm3600", "multi30k"):
        path, found, _ = made(name)
        items = read_captioned_images(path, split=SETS[name].split)
        assert items.image_ids == found.items.image_ids
        assert items.caption_ids == found.items.caption_ids
