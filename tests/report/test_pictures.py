"""Images of a page: found inside their folder alone, kept once each, within their budget."""

import base64
import io
from dataclasses import replace

import captioned_sets
import numpy as np
import pytest
from page_dom import parse
from small_runs import N_IMAGES, make_run

from itm_fast.errors import DataError
from itm_fast.report import PageOptions, render_page, write_page
from itm_fast.report.pictures import Pictures

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed: pip install 'itm-fast[images]'")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images") / "photos"
    folder.mkdir()
    for number in range(N_IMAGES):
        Image.new("RGB", (320, 160), (8 * number, 90, 90)).save(folder / f"{number:03d}.jpg")
    Image.new("RGB", (9, 9)).save(folder.parent / "secret.jpg")
    return folder


@pytest.fixture(scope="module")
def run():
    return make_run("run", 0.9, relevance=False)


def pictures(folder, names, **changes):
    return Pictures(folder, names, **{"budget": 10**6, "height": 100, "link_from": None} | changes)


def test_thumbnails_are_in_the_page_once_each(run, folder):
    dom = parse(render_page([run], PageOptions(examples=30, images_folder=folder)))
    symbols = list(dom.one(class_="store").all("symbol"))
    ids = [symbol.attributes["id"] for symbol in symbols]
    assert len(ids) == len(set(ids)) == N_IMAGES
    used = [use.attributes["href"] for use in dom.one(id="examples").all("use")]
    assert len(used) > N_IMAGES
    assert set(used) == {f"#{name}" for name in ids}
    source = next(s for s in symbols if s.attributes["id"] == "image-7").one("image").attributes["href"]
    image = Image.open(io.BytesIO(base64.b64decode(source.removeprefix("data:image/jpeg;base64,"))))
    assert image.size == (320, 160)  # not larger than the file
    assert np.abs(np.array(image)[80, 160].astype(int) - [56, 90, 90]).max() < 6


def test_thumbnails_of_shards_are_those_of_the_files(run, folder, tmp_path):
    members = [(path.name, path.read_bytes()) for path in sorted(folder.iterdir())]
    captioned_sets.write_tar(tmp_path / "test-0000.tar", members)
    names = run.image_names
    for place in (tmp_path, tmp_path / "test-0000.tar"):
        found, right = (pictures(one, names) for one in (place, folder))
        assert [found.add(number) for number in range(N_IMAGES)] == [right.add(number) for number in range(N_IMAGES)]
        assert len(found.made()) == N_IMAGES
    with pytest.raises(ValueError, match=r"test-0000\.tar holds its images itself: they can not be linked"):
        pictures(tmp_path / "test-0000.tar", names, link_from=tmp_path)
    (tmp_path / "notes.json").write_text('{"a.jpg": ["a dog"]}')
    with pytest.raises(DataError, match=r"notes\.json: no folder of images, and no set that holds some"):
        pictures(tmp_path / "notes.json", names)


def test_every_picture_says_what_it_is(run, folder):
    dom = parse(render_page([run], PageOptions(examples=2, images_folder=folder)))
    assert all(svg.attributes["aria-label"] for svg in dom.all("svg", class_="thumbnail"))


def test_links_are_relative_to_the_page(run, folder):
    page = folder.parent / "page.html"
    write_page([run], page, PageOptions(examples=3, images_folder=folder, link_images=True))
    images = list(parse(page.read_text(encoding="utf-8")).all("img"))
    assert images
    assert all((page.parent / image.attributes["src"]).is_file() for image in images)
    assert all(image.attributes["src"].startswith("photos/") for image in images)
    assert "data:image" not in page.read_text(encoding="utf-8")


def test_budget(folder):
    names = [f"{number:03d}.jpg" for number in range(10)]
    size = len(pictures(folder, names).add(0).source)
    some = pictures(folder, names, budget=round(3.5 * size))
    assert [some.add(number) is None for number in range(10)] == [False] * 3 + [True] * 7
    assert some.beyond_budget == 7
    assert sum(len(picture.source) for picture in some.made()) <= 3.5 * size


def test_scale(folder):
    one = pictures(folder, ["000.jpg"], height=40).add(0)
    assert (one.width, one.height, one.scale) == (80, 40, 0.25)


@pytest.mark.parametrize(
    "name", ["../secret.jpg", "../secret", "/etc/hostname", "..", ".", "", "a\0b", "sub/../../secret.jpg"]
)
def test_names_do_not_lead_out_of_the_folder(folder, name):
    some = pictures(folder, [name])
    assert some.add(0) is None
    assert some.not_found == [name]


@pytest.mark.parametrize("name", ["003", "003.jpg", "val2014/003.jpg"])
def test_names_with_and_without_suffix_or_folder(folder, name):
    assert pictures(folder, [name]).add(0) is not None


def test_an_unreadable_image_is_left_out(tmp_path):
    (tmp_path / "000.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut short")
    some = pictures(tmp_path, ["000.jpg"])
    assert some.add(0) is None
    assert some.not_found == ["000.jpg"]


def test_boxes_are_drawn_at_the_thumbnails_scale(run, folder, tmp_path):
    boxes = np.zeros((N_IMAGES, 6, 4), np.float32)
    boxes[0, 2] = 32, 16, 96, 48
    np.save(tmp_path / "boxes.npy", boxes)
    dom = parse(render_page([run], PageOptions(examples=0, images_folder=folder, boxes=tmp_path / "boxes.npy")))
    rects = list(dom.first(class_="boxes").all("rect"))
    assert len(rects) == 6
    assert [float(rects[2].attributes[name]) for name in ("x", "y", "width", "height")] == [32, 16, 64, 32]
    assert len(list(dom.one(id="attention").all("button", class_="word"))) == 8


def test_errors(run, folder, tmp_path):
    np.save(tmp_path / "few.npy", np.zeros((N_IMAGES, 5, 4)))
    np.save(tmp_path / "flat.npy", np.zeros((N_IMAGES, 4)))
    np.save(tmp_path / "nan.npy", np.full((N_IMAGES, 6, 4), np.nan))
    (tmp_path / "text.npy").write_text("no array")
    boxes = np.tile(np.float32([32, 16, 96, 48]), (N_IMAGES, 6, 1))
    np.save(tmp_path / "shares.npy", boxes / 200)
    np.save(tmp_path / "large.npy", boxes * 10)
    boxes[3, 2] = 32, 16, 31, 48
    np.save(tmp_path / "sized.npy", boxes)
    cases = [
        (run, {"images_folder": tmp_path / "missing"}, FileNotFoundError, "no such folder of images"),
        (
            run,
            {"images_folder": tmp_path},
            FileNotFoundError,
            "has none of the .* images that the page shows, such as '0",
        ),
        (replace(run, image_names=None), {"images_folder": folder}, ValueError, "hold no names of images"),
        (run, {"images_folder": folder, "boxes": tmp_path / "none.npy"}, FileNotFoundError, "no such file of boxes"),
        (run, {"images_folder": folder, "boxes": tmp_path / "text.npy"}, DataError, "not a plain .npy array"),
        (run, {"images_folder": folder, "boxes": tmp_path / "flat.npy"}, DataError, r"expected \(30, n_regions, 4\)"),
        (run, {"images_folder": folder, "boxes": tmp_path / "few.npy"}, DataError, "5 finite boxes, .* over 6"),
        (run, {"images_folder": folder, "boxes": tmp_path / "nan.npy"}, DataError, "boxes of image 0"),
        (run, {"images_folder": folder, "boxes": tmp_path / "sized.npy"}, DataError, "region 2 of image 3 is .* width"),
        (run, {"images_folder": folder, "boxes": tmp_path / "shares.npy"}, DataError, "all within 0 ... 1, as shares"),
        (run, {"images_folder": folder, "boxes": tmp_path / "large.npy"}, DataError, "image 0 reach to 960, 480, but"),
    ]
    for one, options, exception, fragment in cases:
        with pytest.raises(exception, match=fragment):
            render_page([one], PageOptions(examples=2, **options))
