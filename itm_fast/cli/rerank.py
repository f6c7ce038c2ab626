"""``itm-fast rerank``: the best of a fast model for every query, put in order by a slow one."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from itm_fast.cli.console import progress_bar
from itm_fast.cli.exchange import Exchanged
from itm_fast.cli.flag_checks import check_unread, warn_of_unread
from itm_fast.cli.set_flags import DataSetFlags, NormaliseFlags, OutputFlags, SearchFlags, searched
from itm_fast.cli.source_flags import is_model, open_source

if TYPE_CHECKING:
    from itm_fast.evaluation import AlphaSearch


@dataclass(frozen=True)
class StageFlags:
    """The two models."""

    coarse: str | None = None
    """Needed: the fast model, which scores every pair: one that compares embeddings."""

    fine: str | None = None
    """Needed: the slow model, which scores the candidates only, each pair once: one with cross-attention."""

    k: int = 128
    """Candidates of a query, in items; at least the largest of --ks. X-VLM takes 128 on Flickr30K, 256 on COCO."""

    alpha: float = 0.0
    """Factor of the coarse score."""

    beta: float = 1.0
    """Factor of the fine score."""

    ids: Path | None = None
    """Ids of rows and columns of both, .json or .npz with image_ids and caption_ids, if not in the protocol's order."""


@dataclass(frozen=True)
class AlphaFlags(SearchFlags):
    """Search on a validation set."""

    search_alpha_on: str | None = None
    """Search the alpha with the best rsum on this split of --data, such as dev."""

    alphas: tuple[float, ...] = ()
    """Of the search: what to try; by default multiples of the ratio of the spreads of the two scores, 0 to 8."""

    dev_coarse: str | None = None
    """--coarse on the validation set, if it is a file."""

    dev_fine: str | None = None
    """--fine likewise."""


@dataclass(frozen=True)
class Rerank(StageFlags, NormaliseFlags, DataSetFlags, AlphaFlags, OutputFlags):
    """Re-rank the candidates of a fast model by a slow one.

    Candidates are the k best of --coarse: captions for every image, and images for every caption. They are ordered by
    alpha * coarse + beta * fine; everything else comes after them. A source is a file of similarities (.npy, .npz,
    .json, .txt or .csv, rows are images), embeddings (IMAGES.npy,CAPTIONS.npy), a folder of itm-fast embed, the folder
    of a trained model, hf-hub:owner/name, or the checkpoint of an original repository, CHECKPOINT@VOCABULARY where the
    two have different vocabularies; models need --data.
    """


def run(args: Rerank) -> int:
    """Re-rank, print the report, and return the exit code."""
    from itm_fast.evaluation import RunKeeper, rerank, search_alpha

    args.check_output()
    for flag, source in (("--coarse", args.coarse), ("--fine", args.fine)):
        if source is None:
            raise ValueError(f"{flag} is missing: re-ranking takes the similarities of a fast and of a slow model")
    coarse, fine = str(args.coarse), str(args.fine)
    args.check_runs_a_model(is_model(coarse) or is_model(fine))
    options = args.model_options()
    alpha, found = args.alpha, None
    search = any(one is not None for one in (args.search_alpha_on, args.dev_coarse, args.dev_fine))
    if search and args.alpha:
        raise ValueError("--alpha and a search for it exclude each other")
    if not search:
        check_unread(args, ["alphas"], "--search-alpha-on")
        warn_of_unread(args, ["dev_caption_to_image"], "--search-alpha-on")
    keep = RunKeeper(1, args.n_listed) if args.n_listed else None
    with progress_bar("rerank") as progress:
        of_coarse, of_fine = (open_source(source, options) for source in (coarse, fine))
        if search:
            on_dev = options.on(args.search_alpha_on or "dev")
            found = search_alpha(
                open_source(_on_dev("coarse", coarse, args.dev_coarse), on_dev),
                open_source(_on_dev("fine", fine, args.dev_fine), on_dev),
                args.k,
                alphas=args.alphas or None,
                beta=args.beta,
                **args.dev_options(),
                normalise=args.normalise,
                progress=progress,
            )
            alpha = found.alpha
        report = rerank(
            of_coarse,
            of_fine,
            args.k,
            alpha=alpha,
            beta=args.beta,
            **args.protocol_options(args.split),
            ids=args.ids,
            normalise=args.normalise,
            progress=progress,
            keep=keep,
        )
    if found is not None:
        report = searched(report, dataclasses.asdict(found), _in_words(found))
    args.show(report, Exchanged.of(keep, of_coarse, args.ids, f"{coarse}+{fine}"))
    return 0


def _on_dev(flag: str, source: str, given: str | None) -> str:
    if given is None and not is_model(source):
        raise ValueError(f"{source} is a file of the test set: give that of the validation set as --dev-{flag}")
    return given or source


def _in_words(found: AlphaSearch) -> str:
    best = max(rsum for _, rsum in found.tried)
    without = dict(found.tried).get(0.0)
    compared = "" if without is None else f", {without:.1f} with alpha 0"
    return (
        f"alpha {found.alpha:.4g} searched on the validation set: rsum {best:.1f} there{compared}, "
        f"{len(found.tried)} tried."
    )
