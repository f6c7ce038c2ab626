"""Search in a set of images and captions: exact, block by block over memory maps, re-ranked by a slow model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from itm_fast.files.reading import read_json
from itm_fast.metrics.list_ranks import in_order
from itm_fast.metrics.retrieval import topk
from itm_fast.metrics.retrieved import TopK, TopKeeper
from itm_fast.ops.ranking import NO_ITEM
from itm_fast.similarities.ragged import RaggedScorer, RaggedVectors
from itm_fast.similarities.scorers import DotProductScorer, TileScorer, Vectors
from itm_fast.similarities.tiles import CHUNK_BYTES, Progress, Tiles, everything, tile_sims
from itm_fast.sources.embedders.encoder import Encoder
from itm_fast.sources.embedders.loading import load_encoder
from itm_fast.sources.embedding_files import CARD, EmbeddedSet
from itm_fast.sources.trained_model import ModelScorer


def search_vectors(
    gallery: Vectors, queries: Tensor, k: int, *, chunk_bytes: int = CHUNK_BYTES, progress: Progress | None = None
) -> TopK:
    """The k best items of a gallery for each query, by dot product.

    Args:
        gallery: (n_items, dim), also memory-mapped: it is read in blocks of rows, once, however few the queries are.
        queries: (n_queries, dim).
        k: items; fewer where the gallery is smaller.
        chunk_bytes: bound of a tile of scores, counted as 8 bytes each.
        progress: called with (pairs done, pairs in all).

    Returns:
        (n_queries, k) scores and items: higher score first, then lower index.

    Example:
        >>> search_vectors(torch.eye(3), torch.tensor([[0.1, 0.5, 0.2]]), 2).indices
        tensor([[1, 2]])
    """
    _check_k(k)
    scorer = DotProductScorer(queries, gallery)
    return topk(scorer, k=max(1, min(k, scorer.n_captions)), chunk_bytes=chunk_bytes, progress=progress)


def search_embedded(
    embedded: EmbeddedSet,
    queries: Sequence[Tensor],
    k: int,
    *,
    among_images: bool = True,
    by_image: bool = False,
    progress: Progress | None = None,
) -> TopK:
    """The k best images or captions of a folder of embeddings for each query.

    Of vectors a token the score is the sum, over the words of a caption, of the largest product with a vector of an
    image; between two of one kind over the vectors of what is asked.

    Args:
        embedded: what is searched.
        queries: of each its vector (dim,), or its vectors (n_i, dim).
        k: items; fewer where there are fewer.
        among_images: whether images are searched, or captions.
        by_image: whether the queries are images, or texts.
        progress: called with (pairs done, pairs in all).

    Returns:
        (n_queries, k) scores and items, as of ``search_vectors``.
    """
    gallery = embedded.images if among_images else embedded.captions
    if not isinstance(gallery, RaggedVectors):
        return search_vectors(gallery, torch.stack(list(queries)), k, progress=progress)
    _check_k(k)
    offsets = np.cumsum([0, *map(len, queries)])
    asked = RaggedVectors(torch.cat(list(queries)), offsets)
    if by_image and not among_images:  # the words are those of the gallery
        return topk(RaggedScorer(asked, gallery), k=max(1, min(k, len(gallery))), progress=progress)
    return best_rows(RaggedScorer(gallery, asked), k, progress=progress)


@torch.no_grad()
def best_rows(scorer: TileScorer, k: int, *, chunk_bytes: int = CHUNK_BYTES, progress: Progress | None = None) -> TopK:
    """The k best rows (images) of a scorer for each of its columns; arguments as of ``search_vectors``."""
    _check_k(k)
    tiles = Tiles(scorer, progress)
    keeper = TopKeeper("caption", scorer.n_captions, min(k, scorer.n_images), tiles.dtype())
    tiles.collect(everything(scorer), tile_sims(chunk_bytes), (keeper,), ())
    return keeper.topk()


def _check_k(k: int) -> None:
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ValueError(f"k is {k!r}, expected an integer of at least 1")


def reranked(top: TopK, fine: ModelScorer, k: int, progress: Progress | None = None) -> TopK:
    """The candidates of each caption in the order of a slow model.

    Args:
        top: the candidates, images.
        fine: of the same images and as many captions as there are lists.
        k: items to keep.
        progress: called with (pairs done, pairs in all).

    Returns:
        The k best of each, with the scores of ``fine``.
    """
    images, captions = top.indices.numpy(), np.arange(len(top.indices))[:, None].repeat(top.indices.shape[1], 1)
    there = images != NO_ITEM
    rows, columns = images[there], captions[there]
    order = np.lexsort((columns, rows))
    found = torch.empty(len(rows), dtype=torch.float64)
    found[torch.from_numpy(order)] = fine.score_pairs(rows[order], columns[order], progress).cpu().double()
    scores = torch.full(images.shape, -torch.inf, dtype=torch.float64)
    scores[torch.from_numpy(there)] = found
    best = in_order(top.indices, scores)
    return TopK(best.values[:, :k], best.indices[:, :k])


def query_encoder(embedded: EmbeddedSet, model: str | None = None, *, device: str = "cpu") -> Encoder:
    """The model that made a folder of embeddings, to encode what is searched for.

    Args:
        embedded: the folder.
        model: where the model is, if not where it was.
        device: where it runs.

    Raises:
        ValueError: it is another model, whose vectors have nothing to do with those of the folder.
        FileNotFoundError, DataError, ImportError: as ``load_encoder``.
    """
    conditions = read_json(embedded.folder / CARD).get("conditions")
    conditions = conditions if isinstance(conditions, dict) else {}
    encoder = load_encoder(model or embedded.model, library=conditions.get("library"), device=device)
    made_by = conditions.get("model")
    if made_by is not None and made_by != encoder.digest():
        raise ValueError(
            f"{encoder.name} holds other weights than the model that made {embedded.folder}: its vectors cannot be "
            "compared with those; name the model that did"
        )
    return encoder


def encoded_queries(encoder: Encoder, texts: Sequence[str], images: Sequence[Path]) -> list[Tensor]:
    """Vectors of texts, then of image files: (dim,) of each, or (n_i, dim)."""
    parts = [encoder.encode_captions(texts)] if texts else []
    parts += [encoder.encode_images(encoder.prepare_images([path])) for path in images]
    return [vectors for part in parts for vectors in part]
