"""Embeddings in a folder: rows as given, killed and continued to the same bytes, other models and inputs refused."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("transformers", reason="CLIP-like models need transformers, of the extra [text]")
import tiny_clip

from itm_fast.data import read_captioned_images
from itm_fast.errors import DataError
from itm_fast.evaluation import extract_embeddings, load_dual_encoder, read_embeddings
from itm_fast.sources.extraction import _read_ahead

N_IMAGES, N_CAPTIONS = 11, 21
SIZES = {"batch_size": 3, "caption_batch_size": 4, "workers": 2}
FILES = ("captions.npy", "images.npy", "caption_to_image.npy", "items.json", "embeddings.json")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Sums are then cut alike in this process and in another."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with clip/, images/ and set.json."""
    place = tmp_path_factory.mktemp("extraction")
    for name, seed in (("clip", 5), ("other_clip", 8)):
        (place / name).mkdir()
        tiny_clip.write_clip(place / name, seed)
    (place / "set.json").write_text(json.dumps(tiny_clip.write_images(place / "images", N_IMAGES)))
    return place


@pytest.fixture(scope="module")
def encoder(place):
    return load_dual_encoder(place / "clip")


@pytest.fixture(scope="module")
def items(place):
    return read_captioned_images(place / "set.json")


@pytest.fixture
def extract(place, encoder, items, tmp_path):
    def call(folder=tmp_path / "out", *, of=encoder, images=(place / "images",), captioned=items, **options):
        return extract_embeddings(of, captioned, images, folder, **{**SIZES, **options})

    return call


def contents(folder):
    return {name: (folder / name).read_bytes() for name in FILES}


class Stopped(Exception):
    pass


def stop_after(n_calls):
    calls = iter(range(n_calls))

    def progress(*_):
        if next(calls, None) is None:
            raise Stopped

    return progress


def test_rows_are_in_the_order_given(extract, encoder, items, place, tmp_path):
    done = []
    embedded = extract(progress=lambda *call: done.append(call))
    assert embedded.images.shape == (N_IMAGES, 8)
    assert embedded.captions.shape == (N_CAPTIONS, 8)
    assert isinstance(embedded.images, np.memmap)
    assert not embedded.images.flags.writeable
    for row, text in enumerate(items.captions):
        np.testing.assert_allclose(embedded.captions[row], encoder.encode_captions([text])[0], atol=2e-5)
    for row, name in enumerate(items.image_names):
        one = encoder.encode_images(encoder.prepare_images([place / "images" / name]))[0]
        np.testing.assert_allclose(embedded.images[row], one, atol=2e-5)
    assert embedded.texts == items.captions
    assert embedded.image_names == items.image_names
    assert embedded.ids.images == items.image_ids
    assert embedded.ids.captions == items.caption_ids
    assert embedded.caption_to_image.tolist() == items.caption_to_image.tolist()
    assert embedded.model == str(place / "clip")
    assert all(Path(path).is_file() for path in embedded.image_paths)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(FILES)
    assert done[0] == ("captions", 0, N_CAPTIONS)
    assert done[-1] == ("images", N_IMAGES, N_IMAGES)


def test_stopped_anywhere_and_continued_it_is_the_same_bytes(extract, tmp_path):
    extract(tmp_path / "whole")
    whole = contents(tmp_path / "whole")
    # Progress is told before the first batch of either kind and after each, when it is saved.
    n_saved = [0, 4, 8, 12, 16, 20, 21, 21, 24, 27, 30, 32]
    for n in range(len(n_saved)):
        folder = tmp_path / f"stopped{n}"
        with pytest.raises(Stopped):
            extract(folder, progress=stop_after(n))
        with pytest.raises((DataError, FileNotFoundError), match="not complete"):
            read_embeddings(folder)
        seen = []
        extract(folder, progress=lambda *call, seen=seen: seen.append(call))
        assert contents(folder) == whole
        to_do = {kind: total for kind, _, total in seen}  # of what was not there
        assert sum(to_do.values()) == N_CAPTIONS + N_IMAGES - n_saved[n]


@pytest.mark.slow
@pytest.mark.parametrize("renamed", [False, True])
def test_stopped_at_any_file(renamed, extract, monkeypatch, tmp_path):
    """Before or after the renaming of any file, of which there is one a batch, two arrays, and what lies beside."""
    extract(tmp_path / "whole")
    whole, replace_file = contents(tmp_path / "whole"), os.replace
    for n in range(1 + 6 + 1 + 4 + 1 + 3):
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
            with pytest.raises(Stopped):
                extract(folder)
        extract(folder)
        assert contents(folder) == whole
        assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)


def test_stopped_twice(extract, tmp_path):
    extract(tmp_path / "whole")
    for n in (3, 2, 5):
        with pytest.raises(Stopped):
            extract(progress=stop_after(n))
    extract()
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.slow
def test_killed(place, extract, tmp_path):
    """kill -9 of a process that encodes; what it had saved is not encoded again."""
    program = """
import sys, time, torch
torch.set_num_threads(1)
from itm_fast.data import read_captioned_images
from itm_fast.evaluation import extract_embeddings, load_dual_encoder
place, out = sys.argv[1:]
def progress(kind, done, total):
    if (kind, done) == ("images", 6):
        print("now", flush=True)
        time.sleep(3600)  # until it is killed
items = read_captioned_images(place + "/set.json")
extract_embeddings(load_dual_encoder(place + "/clip"), items, [place + "/images"], out, batch_size=3,
    caption_batch_size=4, workers=2, progress=progress)
"""
    checkout = str(Path(__file__).parents[2])
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(place), str(tmp_path / "out")],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": checkout},
    )
    assert process.stdout.readline() == b"now\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert json.loads((tmp_path / "out/progress.json").read_text())["rows"] == {"captions": N_CAPTIONS, "images": 6}
    seen = []
    extract(progress=lambda *call: seen.append(call))
    assert seen[0] == ("images", 0, N_IMAGES - 6)
    extract(tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_what_is_complete_is_left_alone(extract, tmp_path):
    extract()
    before = contents(tmp_path / "out")
    times = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in FILES}
    seen = []
    extract(progress=lambda *call: seen.append(call), batch_size=2)  # changes the last bits only
    assert not seen
    assert contents(tmp_path / "out") == before
    assert {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in FILES} == times


def test_float16_is_half_as_large_and_rounded(extract, tmp_path):
    full, half = extract(tmp_path / "full"), extract(tmp_path / "half", stored_dtype="float16")
    assert half.captions.dtype == np.float16
    np.testing.assert_array_equal(half.images, full.images.astype(np.float16))


@pytest.mark.parametrize("complete", [False, True])
@pytest.mark.parametrize("change", ["model", "captions", "images", "stored_dtype", "batch_size"])
def test_another_model_or_other_inputs_are_refused(change, complete, extract, place, items, tmp_path):
    if complete:
        extract()
    else:
        with pytest.raises(Stopped):
            extract(progress=stop_after(9))
    options = {}
    if change == "model":
        options["of"], fragment = load_dual_encoder(place / "other_clip"), "with other files of the model;"
    elif change == "captions":
        options["captioned"] = replace(items, captions=[*items.captions[:-1], "a green dog"])
        fragment = "with other images or captions;"
    elif change == "images":
        other = tmp_path / "resized"
        other.mkdir()
        for path in (place / "images").iterdir():
            (other / path.name).write_bytes(path.read_bytes() + b"\0")
        options["images"], fragment = [other], "with other image files;"
    elif change == "stored_dtype":
        options["stored_dtype"], fragment = "float16", "other stored_dtype (there float32, now float16)"
    else:
        options["batch_size"], fragment = 2, "other batch_size (there 3, now 2)"
    if change == "batch_size" and complete:
        return  # test_what_is_complete_is_left_alone
    with pytest.raises(DataError) as caught:
        extract(**options)
    assert fragment in str(caught.value)
    assert "--restart" in str(caught.value)
    extract(**options, restart=True)
    extract(tmp_path / "fresh", **options)
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_before_the_first_batch_there_is_nothing_to_lose(extract, tmp_path):
    with pytest.raises(Stopped):
        extract(progress=stop_after(0))
    extract(batch_size=2)
    extract(tmp_path / "fresh", batch_size=2)
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_missing_images_are_named_before_anything_is_encoded(extract, place, tmp_path):
    other = tmp_path / "some"
    other.mkdir()
    for path in sorted((place / "images").iterdir())[:-2]:
        (other / path.name).write_bytes(path.read_bytes())
    with pytest.raises(FileNotFoundError, match=r"2 of 11 images are not in .*some: the first is 009\.png"):
        extract(images=[other])
    assert not (tmp_path / "out").exists()


def test_a_broken_image_is_named_and_can_be_replaced(extract, place, tmp_path):
    other = tmp_path / "some"
    other.mkdir()
    for path in (place / "images").iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    (other / "007.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"some/007\.png: no image"):
        extract(images=[other])
    assert json.loads((tmp_path / "out/progress.json").read_text())["rows"]["images"] == 6
    (other / "007.png").write_bytes((place / "images/007.png").read_bytes())
    found, expected = extract(images=[other]), extract(tmp_path / "whole")
    np.testing.assert_array_equal(found.images, expected.images)


def test_vectors_that_are_not_finite_are_named(extract, place, items):
    encoder = load_dual_encoder(place / "clip")
    encoder.model.visual_projection.weight.data.fill_(float("inf"))
    with pytest.raises(ValueError, match=r"vector of '.*000\.png' is not finite"):
        extract(of=encoder)


def test_two_spaces_are_no_dual_encoder(extract, place):
    encoder = load_dual_encoder(place / "clip")
    encoder.model.visual_projection = torch.nn.Linear(16, 7)
    with pytest.raises(ValueError, match="images have 7 dimensions, its captions 8"):
        extract(of=encoder)


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"caption_batch_size": -1}, "caption_batch_size is -1"),
        ({"workers": 0}, "workers is 0"),
        ({"stored_dtype": "float64"}, "stored_dtype must be one of 'float16', 'float32', got 'float64'"),
    ],
)
def test_bad_options(options, fragment, extract):
    with pytest.raises(ValueError, match=fragment):
        extract(**options)


def test_folders_of_something_else(extract, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file is a file"):
        extract(tmp_path / "file")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.tex").touch()
    with pytest.raises(DataError, match="holds files, but no embeddings to continue"):
        extract()
    (tmp_path / "out/progress.json").write_text('{"rows": 3}')
    with pytest.raises(DataError, match=r"progress\.json: not written by itm-fast embed"):
        extract()


def test_a_part_that_was_cut_short(extract, tmp_path):
    with pytest.raises(Stopped):
        extract(progress=stop_after(3))
    part = tmp_path / "out/captions.npy.part"
    part.write_bytes(part.read_bytes()[:200])
    with pytest.raises(DataError, match=r"captions\.npy\.part is cut short"):
        extract()


@pytest.mark.parametrize("name", FILES)
def test_damaged_files_are_named(name, extract, tmp_path):
    extract()
    path = tmp_path / "out" / name
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=name.replace(".", r"\.")):
        read_embeddings(tmp_path / "out")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=name.replace(".", r"\.")):
        read_embeddings(tmp_path / "out")


def test_files_that_do_not_fit(extract, tmp_path):
    extract()
    np.save(tmp_path / "out/caption_to_image.npy", np.full(N_CAPTIONS, N_IMAGES))
    with pytest.raises(DataError, match="do not fit each other"):
        read_embeddings(tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="no such folder of embeddings"):
        read_embeddings(tmp_path / "none")


def test_reading_ahead_keeps_the_order_and_stays_bounded():
    begun = []

    def read(batch):
        begun.append(int(batch[0]))
        time.sleep(0.002 * (5 - batch[0] % 5))
        return {}

    batches = [np.array([number]) for number in range(12)]
    for place, (batch, _) in enumerate(_read_ahead(read, batches, 3)):
        assert batch[0] == place
        assert len(begun) <= place + 4
