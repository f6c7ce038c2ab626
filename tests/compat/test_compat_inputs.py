"""What people hand to the drop-ins beside what the originals take: odd lengths, ids, counts of queries and arrays."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from itm_fast.compat import chan, esl, hat, hrem, laps, ncr, scan, sgraf, vse_infty, vsepp

LENGTHS = [5, 3, 4, 1]
FLAGS = SimpleNamespace(
    raw_feature_norm="clipped_l2norm",
    agg_func="LogSumExp",
    lambda_lse=6.0,
    lambda_softmax=9.0,
    cross_attn="t2i",
    mask_repeat=True,
    alpha=0.1,
    belta=0.1,
)
SIMS = np.random.default_rng(0).standard_normal((10, 50)).astype(np.float32)


@pytest.fixture
def vectors():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, 36, 256, generator=generator), torch.randn(4, 5, 256, generator=generator)


SIMILARITIES = {
    "scan": lambda v, w, lengths: scan.xattn_score_t2i(v, w, lengths, FLAGS),
    "scan's loss": lambda v, w, lengths: scan.ContrastiveLoss(FLAGS)(v, w, lengths),
    "hat": lambda v, w, lengths: hat.xattn_score_i2t(v, w, lengths, 9.0),
    "laps": lambda v, w, lengths: laps.matching_max_mean(v, w, lengths),
    "laps, scan": lambda v, w, lengths: laps.matching_max_mean(v, w, lengths, scan=True),
    "sgraf": lambda v, w, lengths: seeded(lambda: sgraf.EncoderSimilarity(256, 16, "SAF"))(v, w, lengths),
    "esl": lambda v, w, lengths: seeded(lambda: esl.Sim_vec(256))(v, w, lengths)[0],
    "chan": lambda v, w, lengths: chan.SimsEncoder("VHACoding", "MeanPooling", opt=FLAGS)(v, w, [36] * 4, lengths),
}


def seeded(make):
    torch.manual_seed(0)
    return make().eval()


@pytest.mark.parametrize("name", SIMILARITIES)
def test_lengths_that_are_no_integers_are_refused_not_cut(name, vectors):
    score = SIMILARITIES[name]
    expected = score(*vectors, LENGTHS)
    mask = torch.arange(5) < torch.tensor(LENGTHS)[:, None]
    for lengths in (tuple(LENGTHS), np.array(LENGTHS, ">u2"), torch.tensor(LENGTHS, dtype=torch.uint8), mask):
        torch.testing.assert_close(score(*vectors, lengths), expected, rtol=0, atol=0)
    for lengths in ([5.0, 3.9, 4.0, 1.0], torch.tensor([5.0, 3.9, 4.0, 1.0]), ["5", "3", "4", "1"]):
        with pytest.raises(TypeError, match="integers"):
            score(*vectors, lengths)


def test_ids_of_images_that_are_no_integers_are_refused(vectors):
    loss, (images, captions) = hrem.ContrastiveLoss(FLAGS), (side[:, 0] for side in vectors)
    expected = loss(images, captions, [7, 7, 8, 9])
    assert loss(images, captions, torch.tensor([7, 7, 8, 9], dtype=torch.int16)) == expected
    with pytest.raises(TypeError, match=r"image_ids must be int64, got torch\.float32"):
        loss(images, captions, [7.2, 7.9, 8.0, 9.0])


@pytest.mark.parametrize("way", ["i2t", "t2i"])
@pytest.mark.parametrize("npts", [-1, 0, 11, 50])
def test_queries_that_are_not_there_are_refused(way, npts):
    embeddings = SIMS.T
    for call in (
        lambda: getattr(vse_infty, way)(npts, SIMS),
        lambda: getattr(hrem, way)(npts, SIMS),
        lambda: getattr(ncr, way)(npts, SIMS, 5),
        lambda: getattr(vsepp, way)(embeddings, embeddings, npts),
    ):
        with pytest.raises(ValueError, match=r"npts asks for -?\d+ queries .* expected 1 \.\.\. (10|50)"):
            call()


@pytest.mark.parametrize("way", ["i2t", "t2i"])
@pytest.mark.parametrize("kind", [">f4", "f8", "turned twice", "read-only"])
def test_arrays_as_numpy_has_them(way, kind):
    def of(array):
        if kind == "turned twice":
            return np.ascontiguousarray(array[::-1])[::-1]
        other = array.astype(array.dtype if kind == "read-only" else kind)
        other.setflags(write=kind != "read-only")
        return other

    embeddings = SIMS.T
    for call in (
        lambda sims, _: getattr(vse_infty, way)(10, sims),
        lambda sims, _: getattr(ncr, way)(10, sims, 5, True)[0],
        lambda _, side: getattr(vsepp, way)(side, embeddings),
    ):
        assert call(of(SIMS), of(embeddings)) == call(SIMS, embeddings)
    with pytest.raises(TypeError, match="sims is a list"):
        getattr(vse_infty, way)(10, SIMS.tolist())
