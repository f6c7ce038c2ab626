"""``itm-fast ensemble``: the mean of the similarities of several models, with weights given or searched."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from itm_fast.cli.console import progress_bar
from itm_fast.cli.exchange import Exchanged
from itm_fast.cli.flag_checks import warn_of_unread
from itm_fast.cli.saved_sims import SaveFlags, saved
from itm_fast.cli.set_flags import DataSetFlags, OutputFlags, SearchFlags, searched
from itm_fast.cli.source_flags import is_model, open_source

if TYPE_CHECKING:
    from itm_fast.evaluation import WeightSearch
    from itm_fast.similarities.scorers import TileScorer


@dataclass(frozen=True)
class MeanFlags:
    """The mean."""

    weights: tuple[float, ...] = ()
    """One a member, at least 0, of sum 1; all alike unless given."""

    normalise: Literal["none", "zscore", "rank"] = "none"
    """none: similarities as they are, which must be of one scale. zscore: less the mean of the matrix, over its
    standard deviation. rank: the share of the matrix that is smaller."""

    normalise_embeddings: bool = False
    """Compare members that are embeddings by cosine: each is read at length 1."""

    ids: tuple[Path, ...] = ()
    """Ids of rows and columns, .json or .npz with image_ids and caption_ids: one file for all members, or one a member,
    which must agree."""


@dataclass(frozen=True)
class WeightFlags(SearchFlags):
    """Search on a validation set."""

    search_weights_on: str | None = None
    """Search the weights with the best rsum on this split of --data, such as dev."""

    dev_members: tuple[str, ...] = ()
    """The members on the validation set, in the same order: files of its similarities for members that are files;
    models once more."""

    step: float = 0.1
    """Of the search: weights are multiples of it."""


@dataclass(frozen=True, kw_only=True)
class Ensemble(MeanFlags, DataSetFlags, WeightFlags, SaveFlags, OutputFlags):
    """Evaluate the mean of several similarities; that is not the mean of their recalls.

    A member is a file of similarities (.npy, .npz, .json, .txt or .csv, rows are images), embeddings
    (IMAGES.npy,CAPTIONS.npy), a folder of itm-fast embed, the folder of a trained model, hf-hub:owner/name, or the
    checkpoint of an original repository, CHECKPOINT@VOCABULARY where their vocabularies differ (or with each lying
    beside its checkpoint); models need --data. Each member scores every pair once; zscore takes one more pass, rank
    two, a search one or a few on the validation set.
    """

    members: tuple[str, ...]
    """At least two members, in any mixture."""


def run(args: Ensemble) -> int:
    """Evaluate the ensemble, print the report, and return the exit code."""
    from itm_fast.evaluation import EnsembleScorer, RunKeeper, evaluate, search_weights
    from itm_fast.evaluation.caveats import source_notes

    args.check_output()
    if len(args.ids) not in (0, 1, len(args.members)):
        raise ValueError(f"--ids has {len(args.ids)} files, expected one, or one a member: {len(args.members)}")
    args.check_runs_a_model(any(map(is_model, args.members)))
    search = args.search_weights_on is not None or bool(args.dev_members)
    if search and args.weights:
        raise ValueError("--weights and a search for them exclude each other")
    if not search:
        warn_of_unread(args, ["step", "dev_caption_to_image"], "--search-weights-on")
    dev = _dev_members(args) if search else []
    options = args.model_options()
    with progress_bar("ensemble") as progress:
        ensemble = EnsembleScorer(
            [open_source(member, options) for member in args.members],
            weights=args.weights or None,
            normalise=args.normalise,
            normalise_embeddings=args.normalise_embeddings,
            names=args.members,
            ids=args.ids * len(args.members) if len(args.ids) == 1 else args.ids or None,
            progress=progress,
        )
        found = None
        if search:
            on_dev = EnsembleScorer(
                dev,
                normalise=args.normalise,
                normalise_embeddings=args.normalise_embeddings,
                names=args.dev_members or args.members,
            )
            found = search_weights(on_dev, step=args.step, **args.dev_options(), progress=progress)
            ensemble = ensemble.with_weights(found.weights)
        reads_ids = args.protocol not in (None, "flickr30k-1k", "coco-1k", "coco-5k")
        keep = RunKeeper(1, args.n_listed) if args.n_listed else None
        source = saved(ensemble, args.save_results, progress)
        report = evaluate(
            ensemble if args.protocol in ("cxc", "coco-all") else source,
            **args.protocol_options(args.split),
            ids=args.ids[0] if args.ids and (reads_ids or len(args.ids) == 1) else None,
            progress=progress,
            keep=keep,
        )
    if source is not ensemble:
        report["conditions"]["notes"] += [*ensemble.notes, *source_notes(ensemble)]
    report = ensemble.annotated(report)
    if found is not None:
        report = searched(report, dataclasses.asdict(found), _in_words(found))
    args.show(report, Exchanged.of(keep, ensemble, args.ids[0] if args.ids else None, "ensemble"))
    return 0


def _dev_members(args: Ensemble) -> list[TileScorer]:
    """The members on the validation set."""
    if args.dev_members and len(args.dev_members) != len(args.members):
        raise ValueError(
            f"--dev-members has {len(args.dev_members)}, expected one a member, in the same order: {len(args.members)}"
        )
    files = [member for member in args.members if not is_model(member)]
    if files and not args.dev_members:
        raise ValueError(
            f"{files[0]} is a file of the test set: give the members on the validation set as --dev-members"
        )
    options = args.model_options().on(args.search_weights_on or "dev")
    return [open_source(member, options) for member in args.dev_members or args.members]


def _in_words(found: WeightSearch) -> str:
    times = "once" if found.n_passes == 1 else f"{found.n_passes} times"
    weights = " ".join(f"{weight:.3g}" for weight in found.weights)
    return (
        f"Weights {weights} searched on the validation set: rsum {found.rsum:.1f} there, the best of "
        f"{len(found.tried)} tried; each member scored all its pairs {times}, {found.seconds:.2f} s."
    )
