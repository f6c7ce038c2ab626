"""Image files as a data set: layout, pixels, crops that the generator decides, and files that are missing or broken."""

import json
import pickle
import sys

import numpy as np
import pytest
import torch

from itm_fast.data import BatchPlan, CaptionTokens, Collator, ImageDataset, PrecompDataset, Vocabulary, open_split
from itm_fast.errors import DataError

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed (pip install 'itm-fast[images]')")
IDS = [7, 3, 12, 5]


def write(root, split="train", *, precomp="precomp", images="images", ids=IDS, size=(40, 24)):
    """The layout of VSE-infinity: captions and ids in a folder, images and the mapping beside it."""
    folder = root / precomp
    folder.mkdir(exist_ok=True)
    (root / images / "train2014").mkdir(parents=True, exist_ok=True)
    captions = [f"caption {c} ." for c in range(5 * len(ids))]
    (folder / f"{split}_caps.txt").write_text("\n".join(captions) + "\n")
    (folder / f"{split}_ids.txt").write_text("\n".join(map(str, ids)) + "\n")
    rng = np.random.default_rng(0)
    pixels = {}
    for number in ids:
        pixels[number] = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels[number]).save(root / images / "train2014" / f"{number}.png")
    (root / "id_mapping.json").write_text(json.dumps({str(number): f"train2014/{number}.png" for number in range(20)}))
    return folder, pixels


@pytest.mark.parametrize("mapping", ["beside", "below"])  # of the images
@pytest.mark.parametrize(("precomp", "images"), [("precomp", "images"), (".", "flickr30k-images")])
def test_layout(tmp_path, precomp, images, mapping):
    place = tmp_path / "f30k" if mapping == "below" else tmp_path
    place.mkdir(exist_ok=True)
    folder, _ = write(place, precomp=precomp, images=images)
    if mapping == "below":
        (place / images).rename(tmp_path / images)
    dataset = ImageDataset(folder, "train", 32)
    assert (dataset.n_images, dataset.n_captions, len(dataset), dataset.captions_per_image) == (4, 20, 20, 5)
    assert dataset.ids.tolist() == IDS
    assert [path.name for path in dataset.paths] == [f"{number}.png" for number in IDS]
    assert pickle.loads(pickle.dumps(dataset)).regions([2]).equal(dataset.regions([2]))
    assert isinstance(open_split(folder, "train", 32), ImageDataset)
    (folder / "train_ims.npy").touch()
    np.save(folder / "train_ims.npy", np.zeros((4, 2, 3), np.float32))
    assert isinstance(open_split(folder, "train", None), PrecompDataset)


def test_ids_may_be_one_a_caption_and_dev_is_cut(tmp_path):
    folder, _ = write(tmp_path, "dev")
    (folder / "dev_ids.txt").write_text("\n".join(str(number) for number in IDS for _ in range(5)))
    dataset = ImageDataset(folder, "dev", 32, dev_captions=10)
    assert (dataset.n_images, dataset.n_captions, len(dataset.paths)) == (2, 10, 2)


def bilinear(pixels, size):
    """Bilinear values at the centres of the new pixels, float64 (3, size, size)."""
    for axis in (0, 1):
        n = pixels.shape[axis]
        at = np.clip((np.arange(size) + 0.5) * n / size - 0.5, 0, n - 1)
        low = at.astype(int)
        high, share = np.minimum(low + 1, n - 1), at - low
        share = share[:, None, None] if axis == 0 else share[None, :, None]
        pixels = np.take(pixels, low, axis) * (1 - share) + np.take(pixels, high, axis) * share
    return pixels.transpose(2, 0, 1)


@pytest.mark.parametrize("size", [24, 32, 7])
def test_whole_images_are_resized_bilinearly_to_a_square(tmp_path, size):
    folder, pixels = write(tmp_path)
    found = ImageDataset(folder, "train", size).regions([1, 0, 1])
    assert (found.dtype, found.shape) == (torch.float32, (3, 3, size, size))
    for row, index in enumerate([1, 0, 1]):
        # 255 * 4 roundings of float32, and of the coordinates, whose error is multiplied by differences of up to 255
        np.testing.assert_allclose(found[row].numpy(), bilinear(pixels[IDS[index]].astype(float), size), atol=0.01)


def test_no_images(tmp_path):
    folder, _ = write(tmp_path)
    assert ImageDataset(folder, "train", 16).regions([]).shape == (0, 3, 16, 16)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1"])
def test_grey_and_palettes_become_colours(tmp_path, mode):
    folder, pixels = write(tmp_path)
    path = tmp_path / "images" / "train2014" / "7.png"
    image = Image.fromarray(pixels[7]).convert(mode)
    image.save(path)
    expected = np.array(image.convert("RGB")).transpose(2, 0, 1)
    found = ImageDataset(folder, "train", 24).regions([0])[0]
    np.testing.assert_allclose(found.numpy(), bilinear(expected.transpose(1, 2, 0).astype(float), 24), atol=0.01)


def coordinates(root):
    """An image whose red says the column, whose green says the row."""
    folder, _ = write(root, ids=[7])
    pixels = np.zeros((200, 250, 3), np.uint8)
    pixels[:, :, 0], pixels[:, :, 1] = np.arange(250), np.arange(200)[:, None]
    Image.fromarray(pixels).save(root / "images" / "train2014" / "7.png")
    return ImageDataset(folder, "train", 64)


def test_training_cuts_out_and_mirrors(tmp_path):
    dataset = coordinates(tmp_path)
    cut = dataset.regions([0] * 400, torch.Generator().manual_seed(0))
    red, green = cut[:, 0], cut[:, 1]
    mirrored = red[:, 0, 0] > red[:, 0, -1]
    assert 150 < mirrored.sum() < 250  # 200, standard deviation 10
    left, right = red[:, 0].amin(1), red[:, 0].amax(1)
    width, height = (right - left + 1) / 250, (green.amax((1, 2)) - green.amin((1, 2)) + 1) / 200
    # the outermost of 64 samples is half of width / 64 within; a cut is rounded down to pixels
    assert ((width - height).abs() < 0.03).all()
    assert 0.57 < width.min() < 0.63
    assert 0.95 < width.max() <= 1.0
    assert left.min() < 10
    assert right.max() > 240
    assert len(set(left.tolist())) > 50
    assert not green[:, 0].eq(green[:, 0, :1]).logical_not().any()  # rows stay rows


def test_the_generator_decides(tmp_path):
    dataset = coordinates(tmp_path)
    one, same, other = (dataset.regions([0, 0], torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert one.equal(same)
    assert not one.equal(other)
    assert not one[0].equal(one[1])
    assert dataset.regions([0]).equal(dataset.regions([0]))


def test_batches_are_a_function_of_their_number(tmp_path):
    dataset = coordinates(tmp_path)  # one image: only the cuts can differ
    vocabulary = Vocabulary.build([["caption"]] * 5)

    def plan(seed):
        tokens = CaptionTokens.from_captions(dataset.captions, vocabulary, "split")
        return BatchPlan(Collator(dataset, tokens), 5, 3, seed=seed)

    batches = [plan(0)[step].regions for step in range(3)]
    assert batches[0].shape == (5, 3, 64, 64)
    assert plan(0)[2].regions.equal(batches[2])
    assert not batches[1].equal(batches[2])
    assert not plan(1)[2].regions.equal(batches[2])


def _spoil(name, content):
    return lambda root: (root / name).write_bytes(content)


def _cut(root):
    path = root / "images" / "train2014" / "3.png"
    path.write_bytes(path.read_bytes()[:700])


def _other_format(root):
    Image.new("L", (8, 8)).save(root / "images" / "train2014" / "3.png", format="PPM")


def _mapping(**entries):
    def change(root):
        mapping = json.loads((root / "id_mapping.json").read_text())
        mapping.update(entries)
        (root / "id_mapping.json").write_text(json.dumps({k: v for k, v in mapping.items() if v != "gone"}))

    return change


@pytest.mark.parametrize(
    ("spoil", "exception", "fragment"),
    [
        (_cut, DataError, "3.png: no image that can be read"),
        (_spoil("images/train2014/3.png", b""), DataError, "3.png: no image that can be read"),
        (_other_format, DataError, "3.png: no image that can be read (JPEG, PNG, WEBP, BMP, GIF, TIFF)"),
        (lambda r: (r / "images/train2014/3.png").unlink(), FileNotFoundError, "3.png: no such file; id_mapping.json"),
        (lambda r: (r / "images").rename(r / "pictures"), FileNotFoundError, "no folder images or flickr30k-images"),
        (lambda r: (r / "id_mapping.json").unlink(), FileNotFoundError, "id_mapping.json: no such file, nor in"),
        (_spoil("id_mapping.json", b"{"), DataError, "id_mapping.json: not JSON"),
        (_spoil("id_mapping.json", b"\xff"), DataError, "id_mapping.json: not JSON"),
        (_spoil("id_mapping.json", b"[1]"), DataError, "expected {id: file}, got list"),
        (_mapping(**{"3": "gone"}), DataError, "has no image 3, which"),
        (_mapping(**{"3": 4}), DataError, "image 3 is 4; expected the name of a file"),
        (_mapping(**{"3": "../precomp/train_caps.txt"}), DataError, "expected a file below the folder of images"),
        (_mapping(**{"3": "/etc/hostname"}), DataError, "expected a file below the folder of images"),
        (_mapping(**{"3": "nowhere/3.png"}), FileNotFoundError, "gives it for image 3 of"),
        (_spoil("precomp/train_caps.txt", b"one\ntwo\n"), DataError, "4 ids and train_caps.txt 2 lines"),
        (_spoil("precomp/train_ids.txt", b"7\n3\n12\n"), DataError, "3 ids and train_caps.txt 20 lines"),
        (lambda r: (r / "precomp/train_ids.txt").unlink(), FileNotFoundError, "train_ids.txt: no such file"),
    ],
)
def test_what_is_refused(tmp_path, spoil, exception, fragment):
    folder, _ = write(tmp_path)
    spoil(tmp_path)
    with pytest.raises(exception) as caught:
        ImageDataset(folder, "train", 8).regions(range(4))
    assert fragment in str(caught.value)


def test_bad_arguments(tmp_path, monkeypatch):
    folder, _ = write(tmp_path)
    with pytest.raises(ValueError, match="image_size is 0"):
        ImageDataset(folder, "train", 0)
    with pytest.raises(IndexError, match="image_indices holds 4"):
        ImageDataset(folder, "train", 8).regions([4])
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(ImportError, match=r"needs Pillow: pip install 'itm-fast\[images\]'"):
        ImageDataset(folder, "train", 8)
