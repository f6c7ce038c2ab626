"""Captioned images of any format as a split for models that read images: the same pixels as of a folder."""

import json
import pickle

import captioned_sets
import numpy as np
import pytest
import torch
from captioned_sets import CAPTIONS, EVERY, IN_PARQUET, NAMES

from itm_fast.data import CaptionedImageDataset, ImageDataset, PrecompDataset, open_split
from itm_fast.data.readers.data_folders import data_set_folder
from itm_fast.data.readers.images import image_names
from itm_fast.errors import DataError


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    """The ten images as SCAN's layout has them."""
    folder = tmp_path_factory.mktemp("layout")
    captioned_sets.write_images(folder / "images")
    (folder / "test_caps.txt").write_text("".join(f"{text}\n" for five in CAPTIONS for text in five))
    (folder / "test_ids.txt").write_text("".join(f"{key}\n" for key in range(41, 51)))
    (folder / "id_mapping.json").write_text(json.dumps({str(41 + place): name for place, name in enumerate(NAMES)}))
    return ImageDataset(folder, "test", 16)


@pytest.mark.parametrize("write", EVERY, ids=lambda write: write.__name__)
def test_the_same_split_from_every_format(write, layout, tmp_path):
    if write in IN_PARQUET:
        pytest.importorskip("pyarrow", reason="parquet needs pyarrow, of the extra [parquet]")
    captioned_sets.write_images(tmp_path / "images")
    path = write(tmp_path)
    assert data_set_folder(path) == path
    found = open_split(path, "test", 16)
    assert type(found) is CaptionedImageDataset
    assert (found.n_images, found.captions_per_image, found.captions) == (10, 5, layout.captions)
    assert found.caption_to_image.tolist() == layout.caption_to_image.tolist()
    assert [name.removeprefix("images/") for name in image_names(found)] == image_names(layout)
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    for images in ([3, 0, 9], range(10)):
        pixels = [one.regions(images, generator) for one, generator in zip((found, layout), generators, strict=True)]
        assert torch.equal(*pixels)
    again = pickle.loads(pickle.dumps(found))  # for other processes that load
    assert torch.equal(again.regions([7]), layout.regions([7]))
    assert again[-1].caption == layout[-1].caption


def test_dev_is_their_val_and_whole(tmp_path):
    captioned_sets.write_images(tmp_path / "images")
    path = captioned_sets.karpathy(tmp_path)
    path.write_text(path.read_text().replace('"split": "test"', '"split": "val"'))
    assert open_split(path, "dev", 16).n_captions == 50
    with pytest.raises(DataError, match="has no images of split 'test'; splits: train, val"):
        open_split(path, "test", 16)
    with pytest.raises(FileNotFoundError, match=r"1 of 1 images are not in .*: the first is other\.jpg"):
        open_split(path, "train", 16)


def test_what_is_no_set(tmp_path):
    (tmp_path / "lists.json").write_text(json.dumps(CAPTIONS))
    with pytest.raises(DataError, match=r"lists\.json: holds a list"):
        open_split(tmp_path / "lists.json", "test", 16)
    with pytest.raises(ValueError, match="image_size is 0"):
        open_split(captioned_sets.tar_json(tmp_path), "test", 0)
    (tmp_path / "layout").mkdir()
    np.save(tmp_path / "layout" / "test_ims.npy", np.zeros((10, 2, 4), np.float32))
    (tmp_path / "layout" / "test_caps.txt").write_text("".join(f"{text}\n" for five in CAPTIONS for text in five))
    captioned_sets.tar_json(tmp_path / "layout")
    assert type(open_split(tmp_path / "layout", "test", None)) is PrecompDataset
    with pytest.raises(FileNotFoundError, match=r"test_ids\.txt"):  # a data set in SCAN's layout stays one
        open_split(tmp_path / "layout", "test", 16)
