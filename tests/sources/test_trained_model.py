"""ModelScorer with a small model of its own: tiles, caching, modes."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from itm_fast.data import Vocabulary
from itm_fast.evaluation import evaluate
from itm_fast.sources.trained_model import ModelScorer

CAPTIONS = [f"w{c % 7} w{c % 3}" + " w1" * (c % 4) for c in range(60)]
N_IMAGES = 12


class TinyModel(torch.nn.Module):
    """Mean of words times mean of regions; counts what it encodes."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.vocabulary = VOCABULARY
        self.table = torch.randn(len(VOCABULARY), 6, generator=generator)
        self.n_images = self.n_captions = 0
        self.eval()

    def encode_images(self, images):
        self.n_images += len(images)
        return images * 2

    def encode_captions(self, tokens, word_counts):
        self.n_captions += len(tokens)
        valid = torch.arange(tokens.shape[1]) < word_counts[:, None]
        return self.table[tokens] * valid[:, :, None]

    def similarity(self, regions, words, word_counts):
        return regions.mean(1) @ (words.sum(1) / word_counts[:, None]).T


class TinyData:
    """The part of PrecompDataset that a scorer uses."""

    captions = CAPTIONS
    n_images, n_captions = N_IMAGES, len(CAPTIONS)
    features = torch.randn(N_IMAGES, 3, 6, generator=torch.Generator().manual_seed(1))

    def regions(self, indices):
        return self.features[list(indices)]


VOCABULARY = Vocabulary.build((caption.split() for caption in CAPTIONS), threshold=1)


def make(**options):
    model = TinyModel()
    return model, ModelScorer(model, TinyData(), tokenizer="split", **options)


def everything():
    return make(batch_size=1000)[1](slice(0, N_IMAGES), slice(0, len(CAPTIONS)))


@pytest.mark.parametrize("batch_size", [1, 5, 7, 64])
@pytest.mark.parametrize(("rows", "columns"), [((0, 12), (0, 60)), ((3, 8), (11, 38)), ((11, 12), (59, 60))])
def test_tiles(batch_size, rows, columns):
    rows, columns = slice(*rows), slice(*columns)
    tile = make(batch_size=batch_size)[1](rows, columns)
    torch.testing.assert_close(tile, everything()[rows, columns])


def test_evaluates_like_its_matrix():
    report = evaluate(make(batch_size=7)[1], folds=4, chunk_bytes=8 * 100)
    expected = evaluate(everything(), folds=4)
    for direction in ("i2t", "t2i"):
        assert report[direction]["R@5"] == pytest.approx(expected[direction]["R@5"])


def test_everything_is_encoded_once_if_it_fits():
    model, scorer = make(batch_size=8)
    evaluate(scorer, chunk_bytes=8 * 50)
    assert (model.n_images, model.n_captions) == (N_IMAGES, len(CAPTIONS))


def test_a_small_cache_changes_nothing_but_work():
    model, scorer = make(batch_size=8, cache_bytes=1)
    tile = scorer(slice(0, N_IMAGES), slice(0, len(CAPTIONS)))
    torch.testing.assert_close(tile, everything())
    assert model.n_captions > len(CAPTIONS)
    assert not tile.requires_grad


def test_the_latest_batches_are_kept():
    words = 4 * 7 * 6 * 4  # bytes of four captions of seven words, start and end counted
    model, scorer = make(batch_size=4, cache_bytes=4 * 3 * 6 * 4 + words + 4 * 8)
    for columns in (slice(0, 4), slice(4, 8), slice(4, 8)):
        scorer(slice(0, 4), columns)
    assert (model.n_images, model.n_captions) == (4, 8)


@pytest.mark.parametrize(
    ("change", "fragment"),
    [({"training": True}, "training mode"), ({"batch_size": 0}, "batch_size is 0")],
)
def test_errors(change, fragment):
    model = TinyModel()
    model.train(change.pop("training", False))
    with pytest.raises(ValueError, match=fragment):
        ModelScorer(model, TinyData(), tokenizer="split", **change)


def test_any_object_with_the_four_members_will_do():
    model = TinyModel()
    plain = SimpleNamespace(
        vocabulary=model.vocabulary,
        encode_images=model.encode_images,
        encode_captions=model.encode_captions,
        similarity=model.similarity,
    )
    assert np.isfinite(evaluate(ModelScorer(plain, TinyData(), tokenizer="split"))["rsum"])
