"""Single values out of .parquet files, in every way that pyarrow writes them, against what was written."""

import random

import pytest

from itm_fast.data.readers.parquet_rows import ParquetImages
from itm_fast.errors import DataError

pa = pytest.importorskip("pyarrow", reason="parquet needs pyarrow, of the extra [parquet]")
N = 60
WRITTEN = {  # and whether it is followed, or left to pyarrow
    "snappy": ({}, True),
    "groups": ({"row_group_size": 7}, True),
    "plain": ({"use_dictionary": False}, True),
    "stored": ({"compression": "none"}, True),
    "second version": ({"data_page_version": "2.0"}, False),
    "second version, stored": ({"data_page_version": "2.0", "compression": "none"}, False),
    "small pages": ({"data_page_size": 2000, "write_batch_size": 4}, True),
    "dictionary that ends": ({"dictionary_pagesize_limit": 2000, "write_batch_size": 4}, True),
    "zstd": ({"compression": "zstd"}, False),
    "gzip": ({"compression": "gzip", "row_group_size": 7}, False),
    "lz4": ({"compression": "lz4"}, False),
    "brotli": ({"compression": "brotli"}, False),
    "differences": ({"use_dictionary": False, "column_encoding": "DELTA_LENGTH_BYTE_ARRAY"}, False),
}


def images():
    """Like JPEGs, which nothing compresses, with beginnings alike; some are there again, some are none."""
    rng = random.Random(0)
    found = [b"\xff\xd8 beginning " * 8 + rng.randbytes(rng.choice((3, 4000, 30_000))) for _ in range(N)]
    found[9], found[31] = found[2], b""
    return [None if place in (4, 5, 50) else content for place, content in enumerate(found)]


@pytest.fixture(params=[True, False], ids=["struct", "flat"])
def write(request, tmp_path):
    import pyarrow.parquet as pq

    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())]) if request.param else pa.binary()

    def call(content, **options):
        held = content
        if request.param:
            held = [
                None if place == 4 and one is None else {"bytes": one, "path": "x"} for place, one in enumerate(content)
            ]
        if "column_encoding" in options:
            options["column_encoding"] = {"image.bytes" if request.param else "image": options["column_encoding"]}
        pq.write_table(pa.table({"image": pa.array(held, kind)}), tmp_path / "a.parquet", **options)
        return ParquetImages(tmp_path / "a.parquet", "image")

    return call


@pytest.mark.parametrize("options", WRITTEN)
def test_each_value_in_any_order(options, write):
    content = images()
    options, followed = WRITTEN[options]
    found = write(content, **options)
    for row in random.Random(1).sample(range(N), N):
        if content[row] is None:
            with pytest.raises(DataError, match=rf"a\.parquet: row {row}: no image in column image"):
                found.read(row)
        else:
            assert found.read(row) == content[row]
    assert {chunk is not None for chunk in found._chunks.values()} == {followed}


class Counting:
    """A file that counts what is read of it."""

    def __init__(self, file):
        self.file, self.seek, self.n_bytes = file, file.seek, 0

    def read(self, size):
        self.n_bytes += size
        return self.file.read(size)


@pytest.mark.parametrize("options", ["snappy", "stored"])
def test_no_more_is_read_than_the_image_and_its_blocks(options, write):
    content = [random.Random(place).randbytes(30_000) for place in range(N)]
    found = write(content, **WRITTEN[options][0])
    assert found.read(0) == content[0]  # also finds the places of all
    with found.path.open("rb") as file:
        counting = Counting(file)
        assert found._chunks[0].read(counting, 40) == content[40]
    blocks = 0 if options == "stored" else 2 * 2**16 + 100
    assert 30_000 <= counting.n_bytes <= 30_000 + blocks < N * 30_000 / 4


@pytest.mark.parametrize("options", ["snappy", "stored", "second version", "dictionary that ends", "gzip"])
def test_damage_is_an_error_or_another_image(options, write):
    """Whatever bytes are changed, nothing but DataError comes out; pixels are checked by nobody."""
    rng = random.Random(2)
    found = write([rng.randbytes(40) * (1 + place % 3) for place in range(N)], **WRITTEN[options][0])
    whole = found.path.read_bytes()
    n_refused = 0
    for _ in range(50):
        damaged = bytearray(whole)
        for _ in range(rng.choice((1, 4))):
            damaged[rng.randrange(4, len(whole))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        found.path.write_bytes(damaged)
        images = ParquetImages(found.path, "image")
        for row in (0, 31, N - 1):
            try:
                assert isinstance(images.read(row), bytes)
            except DataError:
                n_refused += 1
    assert n_refused > 5
