"""Flags that name files of similarities or embeddings, and the tile scorer they come to."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from itm_fast.cli.similarity_flags import SimilarityFlags

if TYPE_CHECKING:
    from itm_fast.similarities.ragged import PackedSimilarity
    from itm_fast.similarities.region_word_scorer import Similarity
    from itm_fast.similarities.scorers import Array, TileScorer


@dataclass(frozen=True)
class ScoreFileFlags(SimilarityFlags):
    """Scores: .npy, .npz, .json (as the NCS tool has it), .pt, .pth, .safetensors, .txt, .csv; FILE:NAME of several."""

    sims: Path | None = None
    """Similarities (n_images, n_captions): rows are images, higher is better, -inf where there is no candidate."""

    t2i_sims: Path | None = None
    """Similarities for caption queries, (n_captions, n_images), where they are not those of --sims turned: re-ranking
    as in X-VLM and ALBEF (score_matrix_t2i). --sims is then for image queries."""

    no_candidate: float | None = None
    """Score that --sims and --t2i-sims give to pairs that were no candidates, -100 in X-VLM and ALBEF: read as -inf, as
    is what lies below."""

    transposed: bool = False
    """--sims is (n_captions, n_images)."""

    pickled: bool = False
    """Also read .npy files that hold a pickled dict with one array of scores, as VSE-infinity and ESL write them. Only
    arrays are built from it."""

    images: Path | None = None
    """Image embeddings (n_images, dim), compared with --captions by dot product; or regions (n_images, max_regions,
    dim), compared by --similarity."""

    captions: Path | None = None
    """Caption embeddings (n_captions, dim); or words (n_captions, max_words, dim)."""

    similarity: Literal["dot", "max", "scan"] | None = None
    """Similarity of --images and --captions: dot; of regions and words: max (late interaction: ColBERT, FILIP) or scan
    (cross-attention)."""

    word_counts: Path | None = None
    """Words of each caption, (n_captions,) integers: what lies beyond is padding. Needed for max and scan."""

    region_counts: Path | None = None
    """Regions of each image, likewise; all unless given."""


_OPTIONS = ("cross_attn", "agg_func", "lambda_lse", "raw_feature_norm", "lambda_softmax")
_KNOWN = {"dot": (), "max": _OPTIONS[:3], "scan": _OPTIONS}


def scorer_of_files(args: ScoreFileFlags) -> TileScorer | None:
    """The similarities of the files that the flags name, or None if they name none.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: a file holds something else.
        ValueError: flags or shapes that do not fit each other.
    """
    alone = (("t2i_sims", args.t2i_sims), ("no_candidate", args.no_candidate), ("transposed", args.transposed or None))
    for name, given in alone:
        if given is not None and args.sims is None:
            raise ValueError(f"{_flag(name)} goes with --sims")
    if args.sims is not None:
        return _of_sims(args.sims, args)
    similarity = args.similarity or "dot"
    counts = ("word_counts", "region_counts") if similarity == "dot" else ()
    for name in (*counts, *(option for option in _OPTIONS if option not in _KNOWN[similarity])):
        if getattr(args, name) is not None:
            raise ValueError(f"{_flag(name)} has no use with --similarity {similarity}")
    if args.images is None or args.captions is None:
        return None
    return _of_embeddings(args.images, args.captions, similarity, args)


def late_interaction(args: ScoreFileFlags) -> PackedSimilarity:
    """The similarity of vectors a token, as the flags have it.

    Raises:
        ValueError: a flag of another similarity.
    """
    from itm_fast.ops.max_similarity import max_similarity

    for name in (*(option for option in _OPTIONS if option not in _KNOWN["max"]), "word_counts", "region_counts"):
        if getattr(args, name) is not None:
            raise ValueError(f"{_flag(name)} has no use with vectors a token, which are compared by late interaction")
    if args.similarity not in (None, "max"):
        raise ValueError(f"--similarity {args.similarity} needs one vector an item; there is one a token: max")
    return partial(max_similarity, **_options("max", args))


def _of_sims(path: Path, args: ScoreFileFlags) -> TileScorer:
    from itm_fast.similarities.scorers import MatrixScorer
    from itm_fast.similarities.two_way import TwoWayScorer
    from itm_fast.sources.array_files import open_array

    sims = _masked(open_array(path, 2, pickled=args.pickled), args.no_candidate)
    sims = sims.T if args.transposed else sims
    if args.t2i_sims is None:
        _check_masked(args.no_candidate, sims)
        return MatrixScorer(sims)
    turned = _masked(open_array(args.t2i_sims, 2, pickled=args.pickled), args.no_candidate).T
    _check_masked(args.no_candidate, sims, turned)
    if turned.shape != sims.shape:
        raise ValueError(
            f"{args.t2i_sims} has shape {tuple(turned.T.shape)}, expected {tuple(sims.T.shape)}, captions as rows, "
            f"beside {path}, whose rows are images"
        )
    return TwoWayScorer(sims, turned)


def _masked(sims: Array, no_candidate: float | None) -> Array:
    from itm_fast.similarities.scorers import as_float_tensor

    if no_candidate is None:
        return sims
    floats = as_float_tensor(sims)
    return floats.masked_fill(floats <= no_candidate, float("-inf"))


def _check_masked(no_candidate: float | None, *masked: Array) -> None:
    from itm_fast.errors import warn

    if no_candidate is not None and not any(bool((sims == -math.inf).any()) for sims in masked):
        lowest = min((float(sims.min()) for sims in masked if 0 not in sims.shape), default=math.nan)
        warn(
            f"--no-candidate {no_candidate:g}: no score is so low, the lowest is {lowest:g}, so that every pair is "
            "taken for a candidate"
        )


def _of_embeddings(images_path: Path, captions_path: Path, similarity: str, args: ScoreFileFlags) -> TileScorer:
    from itm_fast.similarities.region_word_scorer import RegionWordScorer
    from itm_fast.similarities.scorers import DotProductScorer
    from itm_fast.sources.array_files import open_array

    images, captions = (open_array(path, pickled=args.pickled) for path in (images_path, captions_path))
    axes = 2 if similarity == "dot" else 3
    for path, array in ((images_path, images), (captions_path, captions)):
        if array.ndim != axes:
            wanted = "(n, dim)" if axes == 2 else "(n, most, dim)"
            other = "; regions and words take --similarity max or scan" if axes == 2 and array.ndim == 3 else ""
            raise ValueError(
                f"{path} has shape {tuple(array.shape)}, but --similarity {similarity} compares {wanted}{other}"
            )
    if axes == 2:
        return DotProductScorer(images, captions)
    if args.word_counts is None:
        raise ValueError(f"--similarity {similarity} needs --word-counts, or the padding of captions would be scored")
    counts = (None if path is None else open_array(path, 1) for path in (args.word_counts, args.region_counts))
    return RegionWordScorer(images, captions, *counts, similarity=_similarity(similarity, args))


def _similarity(name: str, args: ScoreFileFlags) -> Similarity:
    from itm_fast.ops.cross_attention import cross_attention_similarity
    from itm_fast.ops.max_similarity import max_similarity

    operator = max_similarity if name == "max" else cross_attention_similarity
    return partial(operator, **_options(name, args))


def _options(name: str, args: ScoreFileFlags) -> dict[str, Any]:
    """The options of a similarity that are given."""
    given = {option: getattr(args, option) for option in _KNOWN[name]}
    return {option: value for option, value in given.items() if value is not None}


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
