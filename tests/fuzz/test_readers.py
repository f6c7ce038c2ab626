"""Whatever a file holds: a DataError, a ValueError that says more than its cause did, or a result; nothing else.

`make test` damages the files of every case forty times, the same on each run, in half a minute. Ten minutes by hand:
    ITM_FAST_FUZZ_EXAMPLES=1000 ITM_FAST_FUZZ_SEED=1 python -m pytest tests/fuzz
"""

import contextlib
import io
import json
import os
import re
import shutil
import struct
import tempfile
import tracemalloc
import warnings
import zipfile
import zlib
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch

pytest.importorskip("PIL.Image", reason="Pillow is not installed (pip install 'itm-fast[images]')")

from fuzz.case import npy, pt, put
from fuzz.cases import CASES
from fuzz.mutations import mutated, npy_of, png_chunk

N_EXAMPLES = int(os.environ.get("ITM_FAST_FUZZ_EXAMPLES", "40"))
SEED = os.environ.get("ITM_FAST_FUZZ_SEED")  # None: the same on each run
MOST_BYTES = 64 * 2**20  # of a file of some kilobytes
MOST_MAPPED = 256 * 2**20  # also of torch and Pillow, whose memory Python does not count; threads take some, unused
PACKAGE = str(Path(__file__).parents[2] / "itm_fast")
STATUS = Path("/proc/self/status")
IN_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # where thousands of small folders take no time


def mapped_bytes():
    """Address space of this process now and at its peak; 0 where the system does not say."""
    if not STATUS.is_file():
        return 0, 0
    found = dict(re.findall(r"(VmPeak|VmSize):\s+(\d+) kB", STATUS.read_text()))
    return int(found["VmSize"]) * 1024, int(found["VmPeak"]) * 1024


@contextlib.contextmanager
def little_memory():
    """Fails if far more is taken than the files hold."""
    before = mapped_bytes()
    tracemalloc.start()
    try:
        yield
    finally:  # also where the file is refused
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < MOST_BYTES, f"took {peak} bytes"
        most = max(before[1], before[0] + MOST_MAPPED)
        assert mapped_bytes()[1] <= most, f"mapped {mapped_bytes()[1] - before[0]} bytes more"


def check_told(error, folder):
    """An error says in words of the package which file it speaks of."""
    told = str(error)
    assert "\x1b" not in told, "escape codes"
    if isinstance(error, OSError):
        assert str(folder) in f"{told} {error.filename}", f"does not name the file: {error!r}"
        return
    place = error.__traceback__
    while place.tb_next is not None:
        place = place.tb_next
    assert place.tb_frame.f_code.co_filename.startswith(PACKAGE), "somebody else's exception"
    assert str(folder) in told, f"does not name the file: {told}"


def read(case, files, watched=little_memory):
    """The result, or None where the files were refused as they should be."""
    folder = Path(tempfile.mkdtemp(dir=IN_MEMORY))
    try:
        put(files, folder)
        try:
            with warnings.catch_warnings(record=True), watched():
                return case.read(folder)
        except (ValueError, OSError) as error:
            try:
                check_told(error, folder)
            except AssertionError as reason:
                raise reason from error
        return None
    finally:
        shutil.rmtree(folder)


def is_right(case, found):
    return case.right(found) if callable(case.right) else found == case.right


@pytest.mark.parametrize("name", CASES)
def test_whatever_a_file_holds(name):
    case = CASES[name]
    sound = case.files()
    assert is_right(case, read(case, sound, contextlib.nullcontext))  # what is imported now is no memory of a file
    damaged = sorted(set(sound) - set(case.whole))

    for number in range(N_EXAMPLES):
        random, files = Random(f"{SEED}, {name}, {number}"), dict(sound)
        for _ in range(random.choice((1, 1, 2))):
            file = random.choice(damaged)
            files[file] = mutated(files[file], file, random)
        try:
            read(case, files)
        except Exception as error:
            held = "\n".join(f"{file}: {files[file][:2000]!r}" for file in damaged if files[file] != sound[file])
            raise AssertionError(f"damage {number} of {name}: {error!r}\n{held}") from error


def deep(n=3000):
    return b"[" * n + b"]" * n


def with_config(**config):
    card = json.loads(CASES["model folder"].files()["config.json"])
    return {"config.json": json.dumps({**card, "config": {**card["config"], **config}}).encode()}


def packed_zeros(name, held):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, held)
    return file.getvalue()


def png_of(width, height):
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(10**6))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def webp_named(content, width, height):
    """A lossy WebP file that names another size."""
    assert content[12:16] == b"VP8 "
    return content[:26] + struct.pack("<HH", width, height) + content[30:]


NUMBERS = bytes(96)
TOO_MANY = "{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775808, 3, 4)}"
TRUE_SIZE = "{'descr': '<f8', 'fortran_order': False, 'shape': (3, 2, True)}"
# What earlier runs found: the reader's name, its damaged files, what is said, or what is read.
FOUND = {
    "boxes in brackets": ("boxes", {"a.npy": npy_of("(" * 3000, NUMBERS)}, "not a plain .npy"),
    "too many boxes": ("boxes", {"a.npy": npy_of(TOO_MANY, NUMBERS)}, "promises"),
    "boxes of text": ("boxes", {"a.npy": npy(np.full((2, 3, 4), "x"))}, "n_regions, 4) numbers"),
    "True for a size of features": ("precomputed vectors", {"test_ims.npy": npy_of(TRUE_SIZE, NUMBERS)}, "a shape of"),
    "True for a size of ids": ("ids of .npy", {"a.npy": npy_of(TRUE_SIZE, NUMBERS)}, "a shape of"),
    "a letter that is none": (
        "captioned images of a dict",
        {"n.npy": npy(["2.jpg", "1.jpg", "3.jpg"]).replace(b"1\0\0\0", b"1\0}\0")},
        "no character",
    ),
    "records": ("ids of .npy", {"a.npy": npy(np.zeros(2, [("a", "<i8"), ("b", "<f4")]))}, "holds records"),
    "owners in lists of two depths": (
        "owners of img2txt",
        {"a.json": b'{"0": [0, [1]], "1": [2]}'},
        "different lengths",
    ),
    "owners in lists of lists": ("owners of img2txt", {"a.json": b'{"0": [[0, 1]], "1": [2]}'}, "lists within"),
    "an embeddings card that is a list": ("embeddings", {"embeddings.json": b"[]"}, "not written by"),
    "names of embeddings in lists": (
        "embeddings",
        {"items.json": b'{"image_ids": [1, 2], "caption_ids": [1, 2, 3], "image_paths": [["a"], "b"]}'},
        "do not fit",
    ),
    "a blank line of relevance": ("relevance of .csv", {"a.csv": b"0,1\n\n2,3\n4,5\n"}, ":2: blank line"),
    "a header of 600 MB": ("ids of .npy", {"a.npy": b"\x93NUMPY\x02\x00\0\0\0\x28" + NUMBERS}, "not a plain .npy"),
    "a deep bench": ("earlier bench", {"b.json": deep()}, "not a file of itm-fast bench"),
    "a deep row": ("array of .json", {"a.json": deep(100_000)}, "not JSON"),
    "a caption in a list": (
        "judged pairs of Karpathy",
        {"k.json": CASES["judged pairs of Karpathy"].files()["k.json"].replace(b'"x"', b'["x"]')},
        "no string",
    ),
    "a log of other things": ("log of a run", {"log.jsonl": b'[1]\n7\n{}\n{"step": [1]}\n\xef\n{"step": 1}\n'}, None),
    "a training state without a state": (
        "training state",
        {"checkpoint.pt": pt({"format": "itm-fast training state 1"})},
        "expected a training state",
    ),
    "a larger model than its weights": ("model folder", with_config(embed_size=10**9), "larger model"),
    "more layers than weights": ("model folder", with_config(num_layers=10**6), "larger model"),
    "a tensor of one number, repeated": ("array of .pt", {"a.pt": pt(torch.zeros(1).expand(2, 3))}, "repeated"),
    "a packed checkpoint": ("array of .pt", {"a.pt": packed_zeros("archive/data.pkl", bytes(10**6))}, "packed"),
    "an old checkpoint's length of text": (
        "array of an old .pth",
        {"a.pth": CASES["array of an old .pth"].files()["a.pth"].replace(b"X\x10\0\0\0", b"X\xff\xff\xff\x7f", 1)},
        "not a file of torch.save",
    ),
    "an array that unpacks to more": (
        "array of .npz",
        {"a.npz": packed_zeros("a.npy", b"x").replace(b"\x01\0\0\0\x05\0\0\0", b"\0\0\0\x3f\x05\0\0\0")},
        ".npz",
    ),
    "a chunk of 2 GB": (
        "image RGB PNG",
        {"p.png": CASES["image RGB PNG"].files()["p.png"].replace(b"IDAT", b"\x7f\xff\xff\xffzTXt", 1)},
        "no image that can be read",
    ),
    "a WebP of 46 million pixels in a few bytes": (
        "image RGB WEBP",
        {"p.webp": webp_named(CASES["image RGB WEBP"].files()["p.webp"], 15116, 3072)},
        "15116 x 3072 pixels in",
    ),
    "more rows than there are numbers for": (
        "progress of embeddings",
        {"progress.json": b'{"rows": {"images": Infinity, "captions": 3}, "conditions": {"model": "m"}, "sizes": "s"}'},
        "not written by itm-fast embed",
    ),
    "a header of Python 2": (
        "array of .npy",
        {"a.npy": npy_of("{'descr': '<f8', 'fortran_order': False, 'shape': (2L, 3L), }", np.arange(6.0).tobytes())},
        None,
    ),
    "a text of numbers that ends in a blank": ("array of .txt", {"a.txt": b"0 1 2\n3,4,5\n\t"}, None),
    "two lists of splits": (
        "release of dci",
        {"densely_captioned_images/a/splits.json": b"{}"},  # comes first, and has no annotations beside it
        None,
    ),
    "a number alone": ("inspect: captions alone, in lists", {"c.json": b"7"}, "holds a int"),
    "a byte order mark alone": (
        "inspect: names of images, one a line",
        {"n.txt": b"\xef\xbb\xbf\n"},
        "blank line",
    ),
    "a report whose conditions are a number": (
        "inspect: report of itm-fast evaluate",
        {"r.json": b'{"i2t": {}, "t2i": {}, "conditions": 7}'},
        "holds a dict",
    ),
    "a vocabulary that is a number": (
        "inspect: vocabulary",
        {"v.json": b'{"word2idx": 7, "idx2word": {}}'},
        "holds a dict",
    ),
    "a number in many brackets": ("inspect: array", {"a.json": b"[" * 900 + b"7" + b"]" * 900}, "holds a list"),
    "architectures that are a number": (
        "folder of an encoder",
        {"config.json": b'{"model_type": "colpali", "architectures": 7}'},
        "expected a list of names",
    ),
    "conditions of tokens in pairs": (
        "cache of tokens",
        {"test_captions.json": b'{"conditions": [[1, 2]], "rows": 2}'},
        "not the card",
    ),
    "offsets of tokens that are no numbers": (
        "cache of tokens",
        {"test_captions_offsets.npy": npy(np.zeros(3, "V8"))},
        "expected the offsets",
    ),
    "less tokens than none": (
        "begun cache of tokens",
        {"test_captions.json": b'{"conditions": {"captions": "c", "precision": "float32"}, "rows": -1}'},
        "not the card",
    ),
    "begun tokens that are cut short": (
        "begun cache of tokens",
        {"test_captions.part.npy": CASES["begun cache of tokens"].files()["test_captions.part.npy"][:-2]},
        "cut short",
    ),
    "less rows than none": (
        "interrupted extraction",
        {"progress.json": CASES["interrupted extraction"].files()["progress.json"].replace(b": 1", b": -1")},
        "says that -1 of 2",
    ),
    "an item that ends before it begins": (
        "interrupted extraction a token",
        {"captions_offsets.npy.part": npy([0, -3])},
        "end at row -3",
    ),
    "offsets whose differences overflow": (
        "embeddings a token",
        {"images_offsets.npy": npy([0, 2**63 - 1, -5, 4])},
        "has no vectors",
    ),
    "a picture of two colours and no bytes": ("image RGB PNG", {"p.png": png_of(9000, 9000)}, "too few for a picture"),
}


@pytest.mark.parametrize("name", FOUND)
def test_what_earlier_runs_found(name):
    case, files, told = FOUND[name]
    folder = Path(tempfile.mkdtemp(dir=IN_MEMORY))
    try:
        put({**CASES[case].files(), **files}, folder)
        if told is None:
            assert is_right(CASES[case], CASES[case].read(folder))
            return
        with little_memory(), pytest.raises(ValueError, match=re.escape(told)) as caught:
            CASES[case].read(folder)
        check_told(caught.value, folder)
    finally:
        shutil.rmtree(folder)
