"""Splits as data sets of torch: items, indices, plain DataLoaders."""

import itertools
import json

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from itm_fast.data import CaptionTokens, CaptionWithImage, Collator, ImageDataset, PrecompDataset, Vocabulary


@pytest.fixture
def split(write_split):
    """Four images, of which the second has one region fewer; five captions each."""
    folder, features = write_split()
    features[1, 2] = 0
    np.save(folder / "train_ims.npy", features)
    return PrecompDataset(folder, "train"), features


def test_an_item_is_a_caption_with_its_image(split):
    dataset, features = split
    assert len(dataset) == 20
    for index in (0, 7, 19):
        item = dataset[index]
        assert isinstance(item, CaptionWithImage)
        assert item[1:] == (2 if index == 7 else 3, f"Caption {index} of image {index // 5} .", index // 5, index)
        assert torch.equal(item.regions, torch.from_numpy(features[index // 5]))


def test_indices_are_those_of_a_list(split):
    dataset, _ = split
    assert [item.caption_id for item in itertools.islice(dataset, 99)] == [*range(20)]  # a loop ends
    for index in (-1, -20, np.int64(3), torch.tensor(3)):
        assert dataset[index].caption_id == range(20)[index]
    for index in (20, -21):
        with pytest.raises(IndexError, match=f"index is {index}; expected -20 … 19"):
            dataset[index]
    for index in (1.0, "1", slice(2), None):
        with pytest.raises(TypeError, match=r"index is .*; expected an integer"):
            dataset[index]


@pytest.mark.slow
@pytest.mark.parametrize("loading", [{}, {"num_workers": 1, "multiprocessing_context": "spawn"}], ids=["here", "spawn"])
def test_a_plain_loader_reads_what_the_collator_does(split, loading):
    dataset, _ = split
    vocabulary = Vocabulary.build([caption.lower().split() for caption in dataset.captions], threshold=1)
    collator = Collator(dataset, CaptionTokens.from_captions(dataset.captions, vocabulary, "split"))
    for number, batch in enumerate(DataLoader(dataset, batch_size=8, **loading)):
        ids = range(20)[8 * number : 8 * number + 8]
        want = collator(ids)
        assert torch.equal(batch.regions[:, : want.regions.shape[1]], want.regions)
        assert torch.equal(batch.region_count, want.region_counts)
        assert torch.equal(batch.image_id, want.image_ids)
        assert torch.equal(batch.caption_id, want.caption_ids)
        assert list(batch.caption) == [dataset.captions[index] for index in ids]


def test_one_vector_an_image(tmp_path):
    np.save(tmp_path / "train_ims.npy", np.eye(2, 6, dtype=np.float32))
    (tmp_path / "train_caps.txt").write_text("".join(f"caption {c}\n" for c in range(10)))
    item = PrecompDataset(tmp_path, "train")[6]
    assert item.regions.tolist() == [[0, 1, 0, 0, 0, 0]]
    assert item[1:] == (1, "caption 6", 1, 6)


def test_images_are_items_too(tmp_path):
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed (pip install 'itm-fast[images]')")
    (tmp_path / "images").mkdir()
    for number in (0, 1):
        image.new("RGB", (9, 7), (number, 20, 30)).save(tmp_path / "images" / f"{number}.png")
    (tmp_path / "id_mapping.json").write_text(json.dumps({"4": "0.png", "5": "1.png"}))
    (tmp_path / "dev_ids.txt").write_text("4\n5\n")
    (tmp_path / "dev_caps.txt").write_text("".join(f"caption {c}\n" for c in range(10)))
    (batch,) = DataLoader(ImageDataset(tmp_path, "dev", 8), batch_size=10)
    assert batch.regions.shape == (10, 3, 8, 8)
    assert batch.regions[:, 0, 0, 0].tolist() == [0.0] * 5 + [1.0] * 5
    assert batch.caption[9] == "caption 9"
