"""Sets larger than what reading them takes: in a process of its own, where nothing that was freed is used again."""

import numpy as np
import pytest
from memory_apart import apart, peaks_above_files

MOST_MB = 40  # of sets of 64 MB


@pytest.mark.slow
def test_nothing_of_the_size_of_a_set_is_in_memory(tmp_path):
    pytest.importorskip("pyarrow", reason="parquet needs pyarrow, of the extra [parquet]")
    import pyarrow as pa
    import pyarrow.parquet as pq

    vectors = np.random.default_rng(0).random((1 << 18, 64), dtype=np.float32)
    np.save(tmp_path / "vectors.npy", vectors)
    np.save(tmp_path / "halves.npy", np.concatenate([vectors, vectors]).astype(np.float16))
    table = pa.table({"image": [row.tobytes() for row in vectors.reshape(512, -1)]})
    pq.write_table(table, tmp_path / "images.parquet", row_group_size=512)
    assert pq.ParquetFile(tmp_path / "images.parquet").num_row_groups == 1
    for name, taken in apart(peaks_above_files, tmp_path).items():
        if taken is None:
            pytest.skip("peaks of memory can be read on Linux only")
        assert taken < MOST_MB, name
