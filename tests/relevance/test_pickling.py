"""A Cider and its corpora as values: copied, pickled, saved, handed to other processes; equal to the last bit."""

import copy
import functools
import io
import pickle
import subprocess
import sys

import pytest
import torch

from itm_fast import Cider
from itm_fast.data.text.tokenizers import resolve_tokenizer
from itm_fast.losses import SemanticMarginLoss

IMAGES = [
    ["A dog runs on the grass .", "a brown dog outside , running"],
    ["a red bus in the city", "the red bus stops", "bus"],
    ["two cats sleep on a bed", "cats"],
]
TEXTS = ["a dog on a bed", "the red bus", "", "cats run"]


def through_torch(value):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


WAYS = {
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "oldest pickle": lambda value: pickle.loads(pickle.dumps(value, protocol=2)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "torch.save": through_torch,
}
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


def phi_of(corpus):
    ids = torch.arange(3)
    return (
        corpus.relevance(dtype=torch.float64),
        corpus.pairs(ids, ids, torch.float64),
        corpus(slice(0, 2), slice(1, 3)),
    )


@every_way
@pytest.mark.parametrize("tokenizer", ["split", "ptb", "characters", resolve_tokenizer("split").split])
@pytest.mark.parametrize("variant", ["cider_d", "cider"])
def test_a_cider_scores_as_before(way, tokenizer, variant):
    cider = Cider(variant, n=3, sigma=4.0, tokenizer=tokenizer).fit(IMAGES, log_n_images=2.5)
    again = way(cider)
    assert repr(again) == repr(cider)
    assert torch.equal(again.relevance(IMAGES, TEXTS, torch.float64), cider.relevance(IMAGES, TEXTS, torch.float64))
    again.fit([*IMAGES[:2], ["a tree", "trees"]])  # is its own: the first one knows nothing of it
    assert again.n_images == cider.n_images
    assert torch.equal(cider.encode(IMAGES).relevance(), way(cider).encode(IMAGES).relevance())
    assert not torch.equal(cider.encode(IMAGES).relevance(), again.encode(IMAGES).relevance())


@every_way
def test_a_cider_that_is_not_fitted(way):
    again = way(Cider("cider", n=2))
    assert repr(again) == "Cider(cider, n=2, sigma=6.0, tokenizer=split, not fitted)"
    with pytest.raises(ValueError, match="not fitted"):
        again.encode(IMAGES)
    assert again.fit(IMAGES).n_images == 3


@every_way
@pytest.mark.parametrize("candidates", [None, TEXTS])
def test_a_corpus_scores_as_before(way, candidates):
    corpus = Cider().fit(IMAGES).encode(IMAGES, candidates)
    again = way(corpus)
    assert repr(again) == repr(corpus)
    assert (again.is_zero, again.notes) == (corpus.is_zero, corpus.notes)
    for found, want in zip(phi_of(again), phi_of(corpus), strict=True):
        assert torch.equal(found, want)


@pytest.mark.filterwarnings("ignore::itm_fast.errors.DataWarning")
def test_what_was_said_is_not_said_again():
    cider = Cider().fit(IMAGES[:1])
    assert pickle.loads(pickle.dumps(cider))._said == cider._said == {"zero"}


def test_a_loss_takes_its_corpus_along():
    criterion = SemanticMarginLoss(Cider().fit(IMAGES).encode(IMAGES), sampling="random", temperature=2.0)
    sims, ids = torch.rand(3, 3), torch.tensor([0, 2, 5])
    again = pickle.loads(pickle.dumps(criterion))
    assert torch.equal(again(sims, ids), criterion(sims, ids))


@pytest.mark.slow
def test_another_process_reads_what_this_one_pickled(tmp_path):
    cider = Cider(tokenizer="ptb").fit(IMAGES)
    (tmp_path / "cider").write_bytes(pickle.dumps((cider, cider.encode(IMAGES))))
    code = (
        "import pickle, sys, torch; cider, corpus = pickle.load(open(sys.argv[1], 'rb'));"
        f"torch.save([cider.relevance({IMAGES!r}, {TEXTS!r}), corpus.relevance()], sys.argv[2])"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "cider", tmp_path / "phi"], check=True)
    of_texts, of_corpus = torch.load(tmp_path / "phi")
    assert torch.equal(of_texts, cider.relevance(IMAGES, TEXTS))
    assert torch.equal(of_corpus, cider.encode(IMAGES).relevance())


@pytest.mark.slow
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_score(start):
    """As a collate function of a DataLoader, which a worker that is started, not forked, gets by pickling."""
    cider = Cider().fit(IMAGES)
    corpus = cider.encode(IMAGES)
    loading = {"batch_size": 2, "num_workers": 1, "multiprocessing_context": start}
    of_corpus = torch.utils.data.DataLoader(range(7), collate_fn=functools.partial(corpus.relevance, [0, 2]), **loading)
    assert torch.equal(torch.cat([*of_corpus], dim=1), corpus.relevance([0, 2]))
    of_cider = torch.utils.data.DataLoader(TEXTS, collate_fn=functools.partial(cider.relevance, IMAGES), **loading)
    assert torch.equal(torch.cat([*of_cider], dim=1), cider.relevance(IMAGES, TEXTS))
