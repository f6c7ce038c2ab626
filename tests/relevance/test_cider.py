"""CIDEr: golden vectors, the reference word by word, properties, files, errors."""

import itertools
import json
import math
import pickle

import numpy as np
import pytest
import torch
from golden_files import golden, golden_json
from hypothesis import given, settings
from hypothesis import strategies as st
from operators import threads
from safetensors.numpy import save_file

from itm_fast import Cider, reference, semantic_margin_loss
from itm_fast.errors import DataError
from itm_fast.ops.cider import cider_pairs, cider_relevance

# Corpora of one image, or of images with the same words, are among those made here; what is said of them: test_meaning.
pytestmark = pytest.mark.filterwarnings("ignore::itm_fast.errors.DataWarning")

# The golden captions are tokenised already, and their case is kept.
AS_GIVEN = str.split
DOGS = [["a dog runs on the grass", "a brown dog outside"], ["a red bus in the city", "the red bus"]]

words = st.sampled_from(["a", "dog", "runs", "on", "the", "grass", "rot", "Hündin", "猫", "🚲", "e\u0301", "x"])
captions = st.lists(words, max_size=9).map(" ".join)
image = st.lists(captions, min_size=1, max_size=4)
corpora = st.lists(image, min_size=1, max_size=6)


def flat(references):
    return [caption for image in references for caption in image]


@pytest.mark.all_backends(without=("emulated-races",))
@pytest.mark.parametrize("name", ["coco60", "f30k20"])
@pytest.mark.parametrize("tokens", ["split", "ptb"])
@pytest.mark.parametrize(
    ("key", "variant"),
    [
        ("ciderD_ncsmetric", "cider_d"),
        ("cider_pycocoevalcap", "cider_d"),
        ("ciderD_sam", "cider_d"),
        ("cider_plain_sam", "cider"),
    ],
)
def test_golden_matrices(name, tokens, key, variant):
    references = golden_json(f"cider_{name}.json")[f"tokens_{tokens}"]
    expected = golden(f"cider_{name}.npz")[f"{key}_{tokens}"].T
    cider = Cider(variant, tokenizer=AS_GIVEN).fit(references)
    double = cider.relevance(references, flat(references), torch.float64)
    assert np.abs(double.numpy() - expected).max() < 1e-12
    single = cider.relevance(references, flat(references))
    assert single.dtype == torch.float32
    assert np.abs(single.numpy() - expected).max() < 5e-7  # half a float32 step at 4 ... 8 is 2.4e-7
    corpus = cider.encode(references)
    assert torch.equal(corpus.relevance(dtype=torch.float64), double)


@pytest.mark.all_backends(without=("emulated-races",))
@pytest.mark.parametrize("name", ["coco60", "f30k20"])
def test_golden_document_frequencies_of_another_corpus(name):
    content, expected = golden_json(f"cider_{name}.json"), golden(f"cider_{name}.npz")
    references, n_images = content["tokens_split"], content["df_ref_len"]

    def worst(key, corpus, **options):
        cider = Cider(tokenizer=AS_GIVEN).fit(corpus, **options)
        found = cider.relevance(references, flat(references), torch.float64).numpy()
        return np.abs(found - expected[key].T).max()

    assert worst("ciderD_externaldf_split", content["df_captions"]) < 1e-12
    assert worst("ciderD_externaldf_rawreflen_split", content["df_captions"], log_n_images=float(n_images)) < 1e-12
    assert worst("ciderD_flatidf_split", [[f"nonsense{i}"] for i in range(n_images)]) < 1e-12


@pytest.mark.all_backends
@pytest.mark.parametrize("name", ["coco60", "f30k20"])
def test_golden_training_batch(name):
    """From captions and embeddings to the loss and its gradients, as the original's forward_metric."""
    content, expected = golden_json(f"cider_{name}.json"), golden(f"cider_{name}.npz")
    corpus = Cider(tokenizer=AS_GIVEN).fit(content["df_captions"]).encode(content["tokens_split"])
    captions = torch.from_numpy(expected["batch_caption"])
    images = captions // 5
    for sampling in ("soft", "hard", "random"):
        idx0, idx1 = (torch.from_numpy(expected[f"batch_{sampling}_{key}"]) for key in ("idx0", "idx1"))
        for key, ids in (("pos", captions), ("neg_i2t", captions[idx0]), ("neg_t2i", captions[idx1])):
            phi = corpus.pairs(images, ids, torch.float64).numpy()
            assert np.abs(phi - expected[f"batch_{sampling}_{key}"]).max() < 1e-6, (sampling, key)
        im, s = (torch.from_numpy(expected[f"batch_{key}"]).double().requires_grad_() for key in ("im", "s"))
        loss = semantic_margin_loss(
            im @ s.T,
            lambda rows, columns: corpus.pairs(images[rows], captions[columns], torch.float64),
            variant="released",
            negatives=(idx0, idx1),
            temperature=10.0,
        )
        loss.backward()
        assert loss.item() == pytest.approx(float(expected[f"batch_{sampling}_loss"]), rel=1e-6)
        for gradient, key in ((im.grad, "dim"), (s.grad, "ds")):
            assert np.abs(gradient.numpy() - expected[f"batch_{sampling}_{key}"]).max() < 2e-6, (sampling, key)


@pytest.mark.all_backends(without=("emulated-races",))
@pytest.mark.parametrize("variant", ["cider_d", "cider"])
@given(references=corpora, candidates=st.lists(captions, max_size=8), corpus=corpora, n=st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_equals_the_reference_word_by_word(variant, references, candidates, corpus, n):
    for fitted_on in (references, corpus):
        cider = Cider(variant, n=n, sigma=3.0, tokenizer=AS_GIVEN).fit(fitted_on)
        expected = reference.cider(references, candidates, variant=variant, n=n, sigma=3.0, corpus=fitted_on)
        found = cider.encode(references, candidates)
        torch.testing.assert_close(found.relevance(dtype=torch.float64), expected, rtol=0, atol=1e-12)
        if candidates:
            rows = torch.arange(len(references)).repeat_interleave(len(candidates))
            columns = torch.arange(len(candidates)).repeat(len(references))
            pairs = found.pairs(rows, columns, torch.float64).reshape(expected.shape)
            torch.testing.assert_close(pairs, expected, rtol=0, atol=1e-12)


def many_captions(n_images, seed=0):
    rng = np.random.default_rng(seed)
    vocabulary = np.array([f"w{i}" for i in range(400)])
    frequency = 1 / np.arange(1, 401)
    n_captions = rng.integers(1, 8, n_images)
    lengths = rng.integers(0, 30, n_captions.sum())
    drawn = iter(rng.choice(vocabulary, lengths.sum(), p=frequency / frequency.sum()).tolist())
    captions = (" ".join(itertools.islice(drawn, n)) for n in lengths.tolist())
    return [list(itertools.islice(captions, n)) for n in n_captions.tolist()]


@pytest.mark.parametrize("n_images", [1, 15, 16, 17, 129, 300])
def test_blocks_of_any_size(n_images):
    """Across the edges of blocks of images, with frequent (dense) and rare words, and captions of many lengths."""
    references = many_captions(n_images)
    corpus = Cider().fit(references).encode(references)
    rng = torch.Generator().manual_seed(n_images)
    images = torch.randint(corpus.n_images, (min(40, 3 * n_images),), generator=rng)
    captions = torch.randint(corpus.n_captions, (33,), generator=rng)
    whole = corpus.relevance(dtype=torch.float64)
    some = corpus.relevance(images, captions, torch.float64)
    torch.testing.assert_close(some, whole[images][:, captions], rtol=0, atol=1e-12)
    pairs = corpus.pairs(images[:1].expand(33), captions, torch.float64)
    torch.testing.assert_close(pairs, whole[images[0], captions], rtol=0, atol=1e-12)
    candidates = [flat(references)[c] for c in captions.tolist()]
    expected = reference.cider([references[i] for i in images.tolist()], candidates, corpus=references)
    torch.testing.assert_close(some, expected, rtol=0, atol=1e-12)


def test_more_captions_than_a_block_holds():
    references = many_captions(40)
    candidates = flat(many_captions(8000, seed=1))[:20_000]
    cider = Cider().fit(references)
    whole = cider.relevance(references, candidates, torch.float64)
    for part in (slice(0, 50), slice(16_380, 16_390), slice(19_990, 20_000)):
        expected = cider.relevance(references, candidates[part], torch.float64)
        torch.testing.assert_close(whole[:, part], expected, rtol=0, atol=1e-12)


def test_the_number_of_threads_changes_nothing():
    references = many_captions(200)
    corpus = Cider().fit(references).encode(references)
    images, captions = [*range(200)] * 10, np.arange(2000) % sum(map(len, references))
    results = []
    for n in (1, 2, 3):
        with threads(n):
            results.append((corpus.relevance(), corpus.pairs(images, captions)))
    for block, pairs in results[1:]:
        torch.testing.assert_close(block, results[0][0], rtol=0, atol=1e-6)  # blocks are cut differently
        assert torch.equal(pairs, results[0][1])


@given(references=corpora, seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_a_permutation_of_captions_permutes_phi(references, seed):
    cider, candidates = Cider().fit(references), flat(references)
    order = torch.randperm(len(candidates), generator=torch.Generator().manual_seed(seed))
    phi = cider.relevance(references, candidates, torch.float64)
    permuted = cider.relevance(references, [candidates[i] for i in order.tolist()], torch.float64)
    torch.testing.assert_close(permuted, phi[:, order], rtol=0, atol=1e-13)
    images = torch.randperm(len(references), generator=torch.Generator().manual_seed(seed))
    shuffled = cider.relevance([references[i] for i in images.tolist()], candidates, torch.float64)
    torch.testing.assert_close(shuffled, phi[images], rtol=0, atol=1e-13)


def test_words_that_no_reference_holds_change_phi_through_the_norm_only():
    references = [["a dog runs", "the dog"], ["a red bus", "one bus"], ["a cat sleeps", "cats"]]
    cider = Cider("cider", n=1).fit(references)
    known, unknown = cider.relevance(references, ["dog bus", "dog bus zzz"], torch.float64).T
    share = unknown / known.clamp(min=1e-9)
    assert (known[:2] > 0).all()
    idf = {word: math.log(3 / 1) for word in ("dog", "bus", "zzz")}
    norms = [math.sqrt(sum(idf[w] ** 2 for w in caption.split())) for caption in ("dog bus", "dog bus zzz")]
    torch.testing.assert_close(share[:2], torch.full((2,), norms[0] / norms[1], dtype=torch.float64))
    assert unknown[2] == 0


@pytest.mark.all_backends
def test_short_and_empty_captions():
    references = [["a dog runs on grass", ""], ["", ""], ["bus", "a big red bus"]]
    phi = Cider().fit(references).relevance(references, ["", "   ", "bus", "a dog"], torch.float64)
    assert (phi[:, :2] == 0).all()  # nothing to compare
    assert (phi[1] == 0).all()
    assert 0 < phi[2, 2] <= 10 / 4  # one word: orders 2 to 4 give 0 and still count
    assert torch.isfinite(phi).all()


@pytest.mark.all_backends
def test_a_set_of_one_image_has_no_idf():
    assert (Cider().fit(DOGS[:1]).relevance(DOGS[:1], DOGS[0]) == 0).all()


def test_tokens_are_lower_case_unless_they_are_the_users_own():
    assert Cider().fit(DOGS).relevance(DOGS, ["A DOG RUNS"])[0, 0] > 0
    assert Cider(tokenizer=str.split).fit(DOGS).relevance(DOGS, ["A DOG RUNS"])[0, 0] == 0
    ptb = Cider(tokenizer="ptb").fit(DOGS).relevance(DOGS, ["A dog, runs!"], torch.float64)
    assert torch.equal(ptb, Cider().fit(DOGS).relevance(DOGS, ["a dog runs"], torch.float64))


@pytest.mark.parametrize("text", ["\ud800 dog", "e\u0301 é", "\u2028dog", "🚲" * 3, "\x00 a", "a\u00a0dog"])
def test_any_text(text, tmp_path):
    cider = Cider().fit([[text, "a dog"], ["bus"]])
    assert torch.isfinite(cider.relevance([[text], ["bus"]], [text, "bus"])).all()
    cider.save(tmp_path / "df")
    assert torch.equal(
        Cider.load(tmp_path / "df").relevance([[text]], [text, "a dog"]), cider.relevance([[text]], [text, "a dog"])
    )


@pytest.mark.all_backends
def test_score_is_one_number_an_image():
    candidates = ["a dog runs", "the bus"]
    cider = Cider().fit(DOGS)
    scores = cider.score(DOGS, candidates)
    assert scores.dtype == torch.float64
    torch.testing.assert_close(scores, cider.relevance(DOGS, candidates, torch.float64).diagonal(), rtol=0, atol=1e-13)


def test_progress_reaches_the_end():
    calls = {"fit": [], "encode": []}
    cider = Cider().fit(DOGS, progress=lambda *at: calls["fit"].append(at))
    cider.encode(DOGS, ["a", "b"], progress=lambda *at: calls["encode"].append(at))
    assert calls["fit"][-1] == (2, 2)
    assert calls["encode"][-1] == (6, 6)


@pytest.mark.all_backends
def test_a_corpus_is_a_tile_scorer():
    corpus = Cider().fit(DOGS).encode(DOGS)
    assert (corpus.n_images, corpus.n_captions) == (2, 4)
    assert corpus.captions_per_image.tolist() == [2, 2]
    tile = corpus(slice(1, 2), slice(1, 4))
    assert torch.equal(tile, corpus.relevance(dtype=torch.float64)[1:2, 1:4])


@pytest.mark.all_backends
def test_operators_refuse_or_mark_ids_out_of_range(backend):
    text = Cider().fit(DOGS).encode(DOGS)._text
    options = {"unary": True, "sigma": 6.0, "dtype": torch.float64}
    ids, outside = torch.tensor([0, 1]), torch.tensor([0, 4])
    for operator in (cider_relevance, cider_pairs):
        if backend == "cpu":
            with pytest.raises(IndexError, match=r"caption_ids\[1\] is 4, expected 0 ... 3"):
                operator(text, ids, outside, **options)
        else:  # a device is not waited for
            assert operator(text, ids, outside, **options).isnan().sum() == len(
                operator(text, ids, ids, **options).shape
            )
    with pytest.raises((ValueError, RuntimeError), match="must have the same length, got 2 and 1"):
        cider_pairs(text, ids, ids[:1], **options)
    with pytest.raises((TypeError, RuntimeError), match="caption_ids must be int64"):
        cider_relevance(text, ids, ids.int(), **options)
    with pytest.raises((TypeError, RuntimeError), match="dtype must be float32 or float64"):
        cider_relevance(text, ids, ids, **{**options, "dtype": torch.float16})
    with pytest.raises((ValueError, RuntimeError), match="do not fit"):
        cider_relevance(text._replace(counts=text.counts[1:].clone()), ids, ids, **options)


def test_a_corpus_moves_to_a_device():
    # "meta" stands for any device other than the CPU: everything but the kernels runs.
    for candidates in (None, ["a dog", "the bus", "x"]):
        corpus = Cider().fit(DOGS).encode(DOGS, candidates)
        assert corpus.to("cpu") is corpus
        moved = corpus.to("meta")
        assert (corpus.device.type, moved.device.type) == ("cpu", "meta")
        assert repr(moved) == repr(corpus)
        ids = torch.tensor([0, 9], device="meta")  # looked at by the kernel
        blocks = moved.relevance(), moved.relevance([0, 1], ids), moved(slice(0, 1), slice(0, 3))
        assert {phi.device.type for phi in (*blocks, moved.pairs(ids, ids))} == {"meta"}
        assert moved.relevance(ids, [0, 1, 2], torch.float64).shape == (2, 3)
        with pytest.raises(ValueError, match="caption_ids holds 9, expected 0"):
            moved.relevance(ids, torch.tensor([9]))  # from the CPU: looked at here
        with pytest.raises(ValueError, match="image_ids has 2 entries and caption_ids 1"):
            moved.pairs(ids, [0])
    assert Cider().fit(DOGS).encode(DOGS).to("meta").caption_to_image.device.type == "meta"


@pytest.mark.parametrize("variant", ["cider_d", "cider"])
def test_saved_and_loaded(variant, tmp_path):
    references = many_captions(30)
    cider = Cider(variant, n=3, sigma=4.0).fit(references)
    cider.save(tmp_path / "df.safetensors")
    loaded = Cider.load(tmp_path / "df.safetensors", variant=variant, n_images=30, tokenizer="split", n=3, sigma=4.0)
    assert repr(loaded) == repr(cider)
    assert torch.equal(loaded.relevance(references, flat(references)), cider.relevance(references, flat(references)))
    assert [path.name for path in tmp_path.iterdir()] == ["df.safetensors"]


def test_a_callable_tokenizer_is_asked_for_again(tmp_path):
    Cider(tokenizer=AS_GIVEN).fit(DOGS).save(tmp_path / "df")
    with pytest.raises(DataError, match="tokenizer of the user's own"):
        Cider.load(tmp_path / "df")
    assert Cider.load(tmp_path / "df", tokenizer=AS_GIVEN).n_images == 2


def corrupted(tmp_path, name, change):
    """A saved file with one table or header field changed."""
    from safetensors import safe_open

    Cider().fit(DOGS).save(tmp_path / "df")
    with safe_open(tmp_path / "df", framework="numpy") as file:
        tables, metadata = {key: file.get_tensor(key).copy() for key in file.keys()}, file.metadata()  # noqa: SIM118
    header = json.loads(metadata["header"])
    change(tables, header)
    save_file(tables, tmp_path / name, metadata={**metadata, "header": json.dumps(header)})
    return tmp_path / name


def put(table, value, place=0):
    return lambda tables, header: tables[table].__setitem__(place, value)


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        (put("prefixes", 10**6, 5), "n-gram"),
        (put("prefixes", -7, -1), "prefix that does not come before"),
        (put("last_words", 10**6, -1), "does not end in a word"),
        (put("last_words", 3), "does not name the next word"),
        (put("frequencies", 0), "occurs in no image"),
        (put("frequencies", 99), "or in more than there are"),
        (put("word_ends", 10**9), "do not cut words"),
        (put("word_ends", -1), "do not cut words"),
        (lambda tables, header: tables["word_ends"][:2].fill(0), "repeats a word"),
        (
            lambda tables, header: tables.__setitem__("frequencies", tables["frequencies"][:-1].copy()),
            "differ in length",
        ),
        (lambda tables, header: tables.update(words=tables["words"].astype(np.int32)), "expected the one-dim"),
        (lambda tables, header: tables.pop("words"), "expected the one-dim"),
        (lambda tables, header: header.update(n=2), "is longer than n"),
        (lambda tables, header: header.update(n="4"), "n is '4'"),
        (lambda tables, header: header.update(n_images=0), "n_images is 0"),
        (lambda tables, header: header.update(variant="bleu"), "variant"),
        (lambda tables, header: header.update(log_n_images=-3.0), "log_n_images is -3.0"),
        (lambda tables, header: header.pop("sigma"), "sigma"),
    ],
)
def test_damaged_files(tmp_path, change, fragment):
    path = corrupted(tmp_path, "bad", change)
    with pytest.raises(DataError) as raised:
        Cider.load(path)
    assert str(path) in str(raised.value)
    assert fragment in str(raised.value)


def test_files_of_another_kind(tmp_path):
    (tmp_path / "coco-train-df.p").write_bytes(pickle.dumps({"ref_len": 3.0}))
    with pytest.raises(DataError, match="are never read: fit a Cider on the captions"):
        Cider.load(tmp_path / "coco-train-df.p")
    save_file({"x": np.zeros(3)}, tmp_path / "weights")
    with pytest.raises(DataError, match="expected one written by Cider"):
        Cider.load(tmp_path / "weights")
    Cider().fit(DOGS).save(tmp_path / "df")
    (tmp_path / "short").write_bytes((tmp_path / "df").read_bytes()[:-40])
    with pytest.raises(DataError, match="not a safetensors file"):
        Cider.load(tmp_path / "short")
    with pytest.raises(FileNotFoundError, match="expected document frequencies"):
        Cider.load(tmp_path / "none")
    for wanted, fragment in (
        ({"variant": "cider"}, "of another variant: variant is 'cider_d', expected 'cider'"),
        ({"n_images": 5000}, "of another corpus: n_images is 2, expected 5000"),
        ({"tokenizer": "ptb"}, "of another tokenizer"),
        ({"sigma": 5.0}, "of another sigma"),
    ):
        with pytest.raises(DataError, match=fragment):
            Cider.load(tmp_path / "df", **wanted)


def test_nothing_is_left_half_written(tmp_path, monkeypatch):
    Cider().fit(DOGS).save(tmp_path / "df")
    before = (tmp_path / "df").read_bytes()

    def fails(tables, path, metadata):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("itm_fast.relevance.frequency_file.save_file", fails)
    with pytest.raises(OSError, match="disk full"):
        Cider().fit(DOGS * 2).save(tmp_path / "df")
    assert (tmp_path / "df").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["df"]


FITTED = Cider().fit(DOGS)
CORPUS = FITTED.encode(DOGS)


@pytest.mark.parametrize(
    ("call", "exception", "fragment"),
    [
        (lambda: Cider("bleu"), ValueError, "variant is 'bleu'"),
        (lambda: Cider(n=0), ValueError, "n is 0"),
        (lambda: Cider(n=2.0), ValueError, "n is 2.0"),
        (lambda: Cider(sigma=0), ValueError, "sigma is 0"),
        (lambda: Cider(sigma=math.nan), ValueError, "sigma is nan"),
        (lambda: Cider(tokenizer="nltk"), ValueError, "tokenizer is 'nltk'"),
        (lambda: Cider().encode(DOGS), ValueError, "not fitted: call fit"),
        (lambda: Cider().save("x"), ValueError, "not fitted"),
        (lambda: Cider().fit([]), ValueError, "references is empty"),
        (lambda: Cider().fit("a dog"), TypeError, "references is str"),
        (lambda: Cider().fit(["a dog", "a cat"]), TypeError, "references[0] is str"),
        (lambda: Cider().fit([["a dog"], []]), ValueError, "references[1] is empty"),
        (lambda: Cider().fit([["a dog"], [3]]), TypeError, "a caption is int (3), expected str"),
        (lambda: Cider().fit([["a dog"], [None]]), TypeError, "a caption is NoneType"),
        (lambda: Cider().fit([[b"a dog"]]), TypeError, "a caption is bytes"),
        (lambda: Cider(tokenizer=lambda text: [1]).fit(DOGS), TypeError, "expected a list of str"),
        (lambda: Cider().fit(DOGS, log_n_images=0.1), ValueError, "log_n_images is 0.1, expected a number of at least"),
        (lambda: Cider().fit(DOGS, log_n_images=math.inf), ValueError, "log_n_images is inf"),
        (lambda: FITTED.relevance(DOGS, "a dog"), TypeError, "candidates is a string"),
        (lambda: FITTED.relevance(DOGS, ["a", 1]), TypeError, "a caption is int"),
        (lambda: FITTED.relevance(DOGS, ["a"], torch.float16), ValueError, "dtype is torch.float16"),
        (lambda: FITTED.score(DOGS, ["a"]), ValueError, "candidates has 1 captions, expected one an image: 2"),
        (lambda: CORPUS.relevance([2]), ValueError, "image_ids holds 2, expected 0 ... 1"),
        (lambda: CORPUS.relevance([0], [-1]), ValueError, "caption_ids holds -1"),
        (lambda: CORPUS.relevance(range(0, 9)), ValueError, "image_ids holds 8"),
        (lambda: CORPUS.relevance([0.5]), TypeError, "image_ids has dtype torch.float32"),
        (lambda: CORPUS.relevance([[0]]), ValueError, "image_ids has shape (1, 1)"),
        (lambda: CORPUS.pairs([0, 1], [0]), ValueError, "image_ids has 2 entries and caption_ids 1"),
    ],
)
def test_errors(call, exception, fragment):
    with pytest.raises(exception) as raised:
        call()
    assert fragment in str(raised.value)


@pytest.mark.all_backends
def test_empty_batches():
    assert CORPUS.relevance([], [0, 1]).shape == (0, 2)
    assert CORPUS.relevance([0], []).shape == (1, 0)
    assert CORPUS.pairs([], []).shape == (0,)
    assert FITTED.relevance(DOGS, []).shape == (2, 0)
