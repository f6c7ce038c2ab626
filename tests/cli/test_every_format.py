"""The same ten images in every format give the same figures, to the last bit: embed, evaluate, φ, runs, made data."""

import json
import re

import captioned_sets
import numpy as np
import pytest
from captioned_sets import CAPTIONS, EVERY, IN_PARQUET, NAMES

pytest.importorskip("transformers", reason="CLIP-like models need transformers, of the extra [text]")
import tiny_clip

from itm_fast.cli import main as cli
from itm_fast.evaluation import load_run

# Each way to find images; the others with all tests.
QUICK = (captioned_sets.karpathy, captioned_sets.tar_lines, captioned_sets.parquet_lists, captioned_sets.beir)


def _name(write):
    return write.__name__


every_format = pytest.mark.parametrize("write", EVERY, ids=_name)
quick_formats = pytest.mark.parametrize(
    "write", [write if write in QUICK else pytest.param(write, marks=pytest.mark.slow) for write in EVERY], ids=_name
)
pytestmark = pytest.mark.filterwarnings("ignore::itm_fast.errors.DataWarning")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """clip/, images/, right/: embedded from {image: [captions]}; sims.npy; what evaluate says of both."""
    place = tmp_path_factory.mktemp("formats")
    (place / "clip").mkdir()
    tiny_clip.write_clip(place / "clip")
    captioned_sets.write_images(place / "images")
    captions = captioned_sets.caption_lists(place)
    np.save(place / "sims.npy", np.random.default_rng(3).standard_normal((10, 50)).astype(np.float32))
    assert embed(place, captions, "right") == 0
    return place


def embed(place, path, output):
    folders = ["--images-folder", str(place), str(place / "images")]
    flags = ["--captions", str(path), "--batch-size", "4", "--caption-batch-size", "7", "--workers", "2"]
    return cli.main(["embed", str(place / "clip"), *folders, *flags, str(place / output)])


def report(capsys, *argv):
    capsys.readouterr()
    assert cli.main(["evaluate", *map(str, argv), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    del found["conditions"]["seconds"]
    return found


@pytest.fixture
def path(write, tmp_path):
    if write in IN_PARQUET:
        pytest.importorskip("pyarrow", reason="parquet needs pyarrow, of the extra [parquet]")
    return write(tmp_path)


@quick_formats
def test_the_same_report_from_embeddings(write, path, place, capsys):
    assert embed(place, path, write.__name__) == 0
    capsys.readouterr()
    assert cli.main(["inspect", str(place / write.__name__)]) == 0
    assert "embeddings of itm-fast embed, by " in capsys.readouterr().out
    for name in ("images", "captions", "caption_to_image"):
        assert (place / write.__name__ / f"{name}.npy").read_bytes() == (place / "right" / f"{name}.npy").read_bytes()
    found, right = (report(capsys, "--embeddings", place / folder, "--ncs") for folder in (write.__name__, "right"))
    assert found == right


@every_format
def test_the_same_report_from_scores(write, path, place, capsys):
    """Owners, φ, captions and names, each from the set."""
    of_set = ("--caption-to-image", "--relevance", "--captions-file", "--image-names")
    flags = [argument for flag in of_set for argument in (flag, path)]
    found = report(capsys, "--sims", place / "sims.npy", *flags, "--run", path.parent / "run")
    (path.parent / "lists.json").write_text(json.dumps(CAPTIONS))
    assert found == report(capsys, "--sims", place / "sims.npy", "--relevance", path.parent / "lists.json")
    capsys.readouterr()
    assert cli.main(["inspect", str(path.parent / "run")]) == 0
    assert "run of itm-fast evaluate, 'run'\n  n_images: 10\n  n_captions: 50" in capsys.readouterr().out
    run = load_run(path.parent / "run")
    assert [*run.captions] == [text for five in CAPTIONS for text in five]
    assert [name.removeprefix("images/") for name in run.image_names] == NAMES


@every_format
def test_the_same_phi_and_made_data(write, path, tmp_path):
    split = ["--split", "test"] if write.__name__ in ("karpathy", "table", "tsv") else []
    (tmp_path / "right.json").write_text(json.dumps(CAPTIONS))
    assert cli.main(["cider", str(path), str(tmp_path / "phi.npy"), *split]) == 0
    assert cli.main(["cider", str(tmp_path / "right.json"), str(tmp_path / "right.npy")]) == 0
    assert (tmp_path / "phi.npy").read_bytes() == (tmp_path / "right.npy").read_bytes()
    sizes = ["--n-train", "6", "--n-dev", "2", "--n-test", "2", "--max-regions", "2", "--dim", "4"]
    assert cli.main(["make-data", str(tmp_path / "made"), "--captions", str(path), *split, *sizes]) == 0
    made = (tmp_path / "made/train_caps.txt").read_text().splitlines()
    assert made == [text for five in CAPTIONS[:6] for text in five]


EXPORTS = ("x.mteb.json", "x.clip-benchmark.json", "x.trec")


@pytest.fixture(scope="module")
def exported(tmp_path_factory, place):
    """What evaluate writes for other tools, and the pictures of its page, by the set that names the owners."""

    def of(path, images):
        folder = path.parent / "exported"
        sims = ["--sims", str(place / "sims.npy"), "--caption-to-image", str(path)]
        for name in EXPORTS:
            folder.mkdir(exist_ok=True)
            assert cli.main(["evaluate", *sims, "--export", str(folder / name)]) == 0
        files = {file.name: file.read_text(encoding="utf-8") for file in folder.iterdir()}
        files |= {
            name: json.loads(text)["scores"] for name, text in files.items() if "mteb" in name
        }  # without the time
        assert cli.main(["evaluate", *sims, "--image-names", str(path), "--run", str(folder / "run")]) == 0
        page = ["report", str(folder / "run"), "--output", str(folder / "page.html"), "--images-folder", str(images)]
        assert cli.main(page) == 0
        pictures = re.findall(r"data:image/\w+;base64,[^\"']+", (folder / "page.html").read_text(encoding="utf-8"))
        return files, pictures

    return of, of(captioned_sets.caption_lists(tmp_path_factory.mktemp("exported")), place / "images")


@pytest.mark.slow
@quick_formats
def test_the_same_files_for_other_tools_and_the_same_page(write, path, place, exported):
    """MTEB's, CLIP_benchmark's and trec_eval's files, and thumbnails, also those that the set holds itself."""
    of, (files, pictures) = exported
    found = of(path, path if write in (*IN_PARQUET, *captioned_sets.IN_TAR) else place / "images")
    assert sorted(files) == sorted(found[0])
    assert len(files) == 7
    assert [name for name, content in files.items() if found[0][name] != content] == []
    assert pictures
    assert found[1] == pictures


@every_format
def test_the_same_stages_and_members(write, path, place, capsys):
    """rerank and ensemble read owners as evaluate does."""
    sims = str(place / "sims.npy")
    for command in (["rerank", "--coarse", sims, "--fine", sims, "--k", "10"], ["ensemble", sims, sims]):
        figures = []
        for owners in (["--caption-to-image", str(path)], []):
            capsys.readouterr()
            assert cli.main([*command, *owners, "--json"]) == 0
            figures.append(json.loads(capsys.readouterr().out)["i2t"])
        assert figures[0] == figures[1]


def test_splits_that_are_not_named(tmp_path, capsys):
    path = captioned_sets.karpathy(tmp_path)
    assert cli.main(["cider", str(path), str(tmp_path / "phi.npy")]) == 2
    assert "holds the splits test, train; name one (split=, --split)" in capsys.readouterr().err
    assert cli.main(["evaluate", "--sims", "none.npy", "--caption-to-image", str(path), "--split", "val"]) == 2


@pytest.mark.parametrize("owners", [{"0": [], "1": [0, 1]}, {"0": "1", "1": 1}], ids=["img2txt", "txt2img"])
def test_rows_stay_rows(owners, tmp_path, capsys):
    """ALBEF's dictionaries, also where the first image has no captions, or rows are strings, are no captions."""
    np.save(tmp_path / "sims.npy", np.eye(2, dtype=np.float32))
    (tmp_path / "owners.json").write_text(json.dumps(owners))
    found = report(capsys, "--sims", tmp_path / "sims.npy", "--caption-to-image", tmp_path / "owners.json", "--ks", 1)
    assert found["t2i"]["R@1"] == 50
