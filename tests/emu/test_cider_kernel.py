"""The kernels of caption relevance, emulated: the CPU's operator, the readable reference, schedules, races, traffic."""

import ctypes
import random

import numpy as np
import pytest
import torch
from emulation import CUDA, ORDERS, EmulationError
from kernels import HERE, NUMBERS, SCHEDULES, devices

from itm_fast import Cider, reference
from itm_fast.ops.cider import EncodedText, cider_pairs, cider_relevance

SOURCES = (CUDA / "cider.cu", HERE / "exports_cider.cu")


class Args(ctypes.Structure):
    """csrc/cuda/cider.h, CiderArgs."""

    _fields_ = [
        *[(n, ctypes.c_void_p) for n in EncodedText._fields],
        *[(n, ctypes.c_void_p) for n in ("image_ids", "caption_ids", "phi")],
        *[(n, ctypes.c_int64) for n in ("n_images", "n_captions", "n", "m")],
        ("sigma", ctypes.c_double),
        *[(n, ctypes.c_int32) for n in ("max_n", "unary")],
    ]


plain, watched = devices(*SOURCES)


def captions_of(n_images, n_references=5, words=(0, 14), vocabulary=40, seed=0):
    """Captions over few words, so that most pairs share n-grams; some are empty."""
    chance = random.Random(seed)

    def caption():
        chosen = chance.choices(range(vocabulary), weights=range(vocabulary, 0, -1), k=chance.randint(*words))
        return " ".join(map(str, chosen))

    return [[caption() for _ in range(n_references)] for _ in range(n_images)]


def corpus_of(references, candidates=None, **options):
    corpus = Cider(**options).fit(references).encode(references, candidates)
    return corpus._text, {"unary": corpus._unary, "sigma": corpus._sigma}


def run(device, text, image_ids, caption_ids, *, unary, sigma, dtype=torch.float64, pairs=False):
    n, m = len(image_ids), len(caption_ids)
    arrays = {name: device.array(tensor.numpy()) for name, tensor in text._asdict().items()}
    arrays |= {"image_ids": device.array(image_ids.numpy()), "caption_ids": device.array(caption_ids.numpy())}
    arrays["phi"] = device.empty((n,) if pairs else (n, m), np.dtype(str(dtype).split(".")[1]))
    args = Args(
        **{name: array.pointer for name, array in arrays.items()},
        n_images=len(text.references) - 1,
        n_captions=len(text.bigrams),
        n=n,
        m=m,
        sigma=sigma,
        max_n=text.inverse_norms.shape[1],
        unary=unary,
    )
    device.run("cider_pairs" if pairs else "cider_block", ctypes.byref(args), NUMBERS[dtype])
    return torch.from_numpy(arrays["phi"].numpy())


def compare(device, text, image_ids, caption_ids, options, dtype=torch.float64):
    """Blocks, and pairs of the first ids, against the CPU's operator."""
    # No summand is negative: whatever the order, a sum of k products is off by at most k + 6 roundings of its value
    # (5 products and a quotient, and exp by 1), here and there; then one rounding to the dtype.
    per_image = (text.offsets[-1] / max(1, len(text.bigrams)) * text.references.diff().max()).item()
    rtol = 2 * (8 * per_image + 8) * 2**-53 + torch.finfo(dtype).eps
    found = run(device, text, image_ids, caption_ids, **options, dtype=dtype)
    want = cider_relevance(text, image_ids, caption_ids, **options, dtype=dtype)
    torch.testing.assert_close(found, want, rtol=rtol, atol=0)
    n = min(len(image_ids), len(caption_ids))
    found = run(device, text, image_ids[:n], caption_ids[:n], **options, dtype=dtype, pairs=True)
    want = cider_pairs(text, image_ids[:n], caption_ids[:n], **options, dtype=dtype)
    torch.testing.assert_close(found, want, rtol=rtol, atol=0)


@pytest.mark.parametrize("variant", ["cider", "cider_d"])
@pytest.mark.parametrize("n_references", [1, 2, 5, 6, 12])
def test_equals_the_cpu(plain, variant, n_references):
    plain.configure("random", n_references)
    text, options = corpus_of(captions_of(6, n_references), variant=variant)
    n_captions = len(text.bigrams)
    compare(plain, text, torch.arange(6), torch.arange(n_captions), options)
    compare(plain, text, torch.tensor([5, 0, 5]), torch.randint(0, n_captions, (40,)), options, torch.float32)


@pytest.mark.parametrize("n", [1, 3, 16])
def test_every_length_of_ngrams(plain, n):
    plain.configure("warp-random", n)
    text, options = corpus_of(captions_of(4, seed=n), n=n)
    compare(plain, text, torch.arange(4), torch.arange(20), options)


@pytest.mark.parametrize("m", [0, 1, 31, 32, 33, 255, 256, 257])
def test_tiles_of_captions(plain, m):
    plain.configure("random", m)
    text, options = corpus_of(captions_of(3), [caption for image in captions_of(60, seed=9) for caption in image])
    compare(plain, text, torch.arange(3), 15 + torch.randint(0, 300, (m,)), options)
    assert run(plain, text, torch.arange(0), torch.arange(m), **options).shape == (0, m)


def test_long_captions_and_tables_of_several_rounds(plain):
    plain.configure("random", 4)
    for variant in ("cider", "cider_d"):  # one caption alone has more n-grams than a table takes
        text, options = corpus_of(captions_of(3, 6, words=(90, 300), vocabulary=200), variant=variant)
        assert text.offsets.diff().max() > 64
        compare(plain, text, torch.arange(3), torch.arange(18), options)
    many = captions_of(1, 40)[0]
    text, options = corpus_of([many, ["1 2 3 4 5", "2"]])
    compare(plain, text, torch.arange(2), torch.arange(42), options)
    # Lengths that differ by more than the table of penalties has.
    text, options = corpus_of([["1 2", " ".join(map(str, range(600)))], ["x y z"]], sigma=200.0)
    compare(plain, text, torch.arange(2), torch.arange(3), options)


@pytest.mark.parametrize("variant", ["cider", "cider_d"])
def test_equals_the_readable_reference(plain, variant):
    plain.configure("random", 1)
    references = captions_of(4, 3)
    text, options = corpus_of(references, variant=variant)
    flat = [caption for captions in references for caption in captions]
    want = reference.cider(references, flat, variant=variant)
    found = run(plain, text, torch.arange(4), torch.arange(12), **options)
    torch.testing.assert_close(found, want, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("bad", [-1, 2**62, -(2**62), "first outside"])
def test_ids_out_of_range_give_nan(watched, bad):
    watched.configure(check_races=True)
    text, options = corpus_of(captions_of(3))
    images, captions = torch.arange(3), torch.arange(3)
    images[1] = 3 if bad == "first outside" else bad
    captions[2] = 15 if bad == "first outside" else bad
    phi = run(watched, text, images, captions, **options)
    outside = torch.tensor([[0, 0, 1], [1, 1, 1], [0, 0, 1]]).bool()
    assert torch.equal(phi.isnan(), outside)
    assert run(watched, text, images, captions, **options, pairs=True).isnan().tolist() == [False, True, True]


@pytest.mark.parametrize("shape", [(2, 7), (3, 4), (1, 1)])
@pytest.mark.parametrize("pairs", [False, True])
def test_every_schedule_gives_the_same_bits(plain, pairs, shape):
    n, per_image = shape
    text, options = corpus_of(captions_of(n, per_image, words=(10, 40)))
    captions = torch.arange(n * per_image)
    ids = (torch.arange(n).repeat(per_image), captions) if pairs else (torch.arange(n), captions)
    results = set()
    for order, seed in SCHEDULES:
        plain.configure(order, seed, resident_blocks=1 + seed % 2)
        results.add(run(plain, text, *ids, **options, pairs=pairs).numpy().tobytes())
    assert len(results) == 1


@pytest.mark.parametrize("order", ORDERS)
def test_no_races(watched, order):
    watched.configure(order, 1, check_races=True, resident_blocks=2)
    text, options = corpus_of(captions_of(2, 7))
    compare(watched, text, torch.arange(2), torch.arange(14), options)


@pytest.mark.parametrize("pairs", [False, True])
def test_lists_are_read_in_whole_lines(watched, pairs):
    # n = 1 and 32 different words a caption: every list begins on a line of memory. Others share their first and last.
    # About one word in six is in another image's references, as of the n-grams of real captions.
    chance = random.Random(0)
    references = [[" ".join(map(str, chance.sample(range(1000), 32))) for _ in range(5)] for _ in range(6)]
    text, options = corpus_of(references, n=1)
    watched.configure(traffic=True)
    watched.traffic()
    run(watched, text, torch.arange(30) % 6 if pairs else torch.arange(1), torch.arange(30), **options, pairs=pairs)
    rows = watched.traffic()
    watched.configure()
    source = (CUDA / "cider.cu").read_text(encoding="utf-8").splitlines()
    numbers = [int(row["line"].split(":")[1].split(" ")[0]) for row in rows]
    rows = [(source[number - 1], row) for number, row in zip(numbers, rows, strict=True)]
    lists = [row for text, row in rows if "args.features" in text]
    assert len(lists) == 2
    assert sum(row["requests"] for row in lists) >= 30
    assert all(row["units"] <= 1.1 * row["ideal"] for row in lists)
    # Lanes that look into a hash table meet in banks at random, 3.5 times of 32; the filter leaves few of them.
    shared = {text.strip(): row for text, row in rows if row["shared"] and row["requests"] >= 10}
    for text, row in shared.items():
        assert row["units"] <= 2 * row["ideal"], text
    assert bool(shared) != pairs


@pytest.mark.parametrize("bug", [1, 2, 3])
def test_every_barrier_is_needed(watched, bug):
    text, options = corpus_of(captions_of(2, 7))
    for order in ORDERS:
        watched.configure(order, 1, check_races=True)
        with watched.without(bug), pytest.raises(EmulationError, match=r"race|nobody wrote"):
            run(watched, text, torch.arange(2), torch.arange(14), **options)
