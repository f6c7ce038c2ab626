"""Sets larger than what reading them takes: in a process of its own, where nothing that was freed is used again."""

import os
import sys

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
    peaks = apart(peaks_above_files, tmp_path)
    assert len(peaks) == 3
    if sys.platform != "linux" or not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("this system does not say what the peak of a process's memory was")
    assert None not in peaks.values()
    assert max(peaks.values()) < MOST_MB, peaks
