"""Whether a data set fits a model, before anything of it is encoded."""

from __future__ import annotations

import numpy as np

from itm_fast.data.readers.precomp import CaptionedSplit
from itm_fast.data.text.caption_tokens import CaptionTokens
from itm_fast.errors import DataError


def check_has_regions(model: object, dataset: CaptionedSplit) -> None:
    """Raise ValueError for one vector an image where a model, or its class, attends to regions."""
    if getattr(dataset, "has_regions", True) or getattr(model, "reads_vectors", True):
        return
    raise ValueError(
        f"{getattr(model, 'name', type(model).__name__)} attends to the regions of an image, but "
        f"{dataset.split}_ims.npy of {dataset.folder} has one vector an image, (n, dim); expected (n, max_regions, "
        "dim). Models that read vectors: vsepp, vse_infty"
    )


def check_lengths(model: object, tokens: CaptionTokens, dataset: CaptionedSplit) -> None:
    """Raise DataError for captions that are longer than what a model's text encoder has positions for."""
    most = getattr(model, "max_words", None)
    lengths = np.diff(tokens.offsets)
    if most is None or not len(lengths) or lengths.max() <= most:
        return
    longer = np.flatnonzero(lengths > most)
    first = int(longer[0])
    path = getattr(dataset, "captions_path", None)
    where = f"caption {first}" if path is None else f"{path}:{dataset.caption_line(first)}"
    more = f" ({len(longer)} captions are too long)" if len(longer) > 1 else ""
    raise DataError(
        f"{where}: the caption has {lengths[first]} word pieces, start and end counted, but the text encoder has only "
        f"{most} positions{more}; shorten it"
    )
