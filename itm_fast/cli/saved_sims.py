"""The flag that keeps the similarities of an evaluation, and the file they are kept in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from itm_fast.similarities.scorers import TileScorer
    from itm_fast.similarities.tiles import Progress

_BAND_BYTES = 256 << 20  # of whole rows, scored and written at a time
_COLUMNS = 2048


@dataclass(frozen=True)
class SaveFlags:
    """Similarities."""

    save_results: Path | None = None
    """Also write the similarities that are evaluated, .npy (n_images, n_captions), which --sims reads."""


def saved(scorer: TileScorer, path: Path | None, progress: Progress | None = None) -> TileScorer:
    """Write similarities to a file, in order, and read them from there.

    Args:
        scorer: scores every pair once for it.
        path: the .npy file, replaced once it is complete; None writes nothing.
        progress: called with (pairs done, pairs in all).

    Returns:
        The similarities of the file, memory-mapped; the scorer itself without one.

    Raises:
        ValueError: not a .npy file, NaN among the similarities, or two of them a pair.
        OSError: it cannot be written.
    """
    import numpy as np

    from itm_fast.files.writing import written_aside
    from itm_fast.similarities.scorers import MatrixScorer
    from itm_fast.similarities.tiles import Tiles
    from itm_fast.similarities.two_way import TwoWayScorer

    if path is None:
        return scorer
    if path.suffix != ".npy":
        raise ValueError(f"--save-results is {path}, expected the name of a .npy file, such as sims.npy")
    if isinstance(scorer, TwoWayScorer):
        raise ValueError("--save-results keeps one similarity a pair, but --t2i-sims gives two; both are files already")
    tiles = Tiles(scorer)
    shape = (scorer.n_images, scorer.n_captions)
    dtype = np.dtype(str(tiles.dtype()).removeprefix("torch."))
    step = max(1, _BAND_BYTES // max(1, shape[1] * dtype.itemsize))
    # In order and not through a map of the file, which on a full disk ends in a bus error instead of an OSError.
    with written_aside(path) as aside, aside.open("wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, shape[0], step):
            rows = slice(start, min(start + step, shape[0]))
            band = np.empty((rows.stop - rows.start, shape[1]), dtype)
            for first in range(0, shape[1], _COLUMNS):
                columns = slice(first, min(first + _COLUMNS, shape[1]))
                band[:, columns] = tiles.score(rows, columns).cpu().numpy()
                if progress is not None:
                    progress(rows.start * shape[1] + band.shape[0] * columns.stop, shape[0] * shape[1])
            file.write(band.data)
    return MatrixScorer(np.load(path, mmap_mode="r"))
