"""``itm-fast evaluate``: recall, ranks, rsum, and with φ NCS, of scores, embeddings or a trained model."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from itm_fast.cli.console import progress_bar
from itm_fast.cli.exchange import Exchanged
from itm_fast.cli.flag_checks import check_unread, warn_of_unread
from itm_fast.cli.run_folder import RunFlags, RunWriter
from itm_fast.cli.saved_sims import SaveFlags, saved
from itm_fast.cli.score_files import ScoreFileFlags, late_interaction, scorer_of_files
from itm_fast.cli.set_flags import DataSetFlags, NormaliseFlags, OutputFlags, ProtocolFlags
from itm_fast.cli.similarity_flags import SimilarityFlags
from itm_fast.cli.source_flags import open_model
from itm_fast.cli.trec_flags import TrecFlags, evaluate_trec_run

if TYPE_CHECKING:
    from itm_fast.evaluation import EmbeddedSet
    from itm_fast.files.ids import IdsLike
    from itm_fast.metrics.semantic_lists import Relevance
    from itm_fast.similarities.scorers import TileScorer

_SOURCES = "expected --sims, or --images with --captions, or --embeddings, or --model or --checkpoint with --data"


@dataclass(frozen=True)
class EmbeddedFlags:
    """Or what itm-fast embed wrote."""

    embeddings: Path | None = None
    """Folder with embeddings of images and captions, their ids and texts."""


@dataclass(frozen=True)
class ModelFlags:
    """Or a trained model and a data set."""

    model: Path | None = None
    """Folder of a trained model, or hf-hub:owner/name; needs --data. The file of a checkpoint is taken as one."""

    checkpoint: Path | None = None
    """Checkpoint of an original repository (SCAN, VSE++, SGRAF, VSRN, VSE-infinity, ESL, CHAN, CVSE, SAM), such as
    model_best.pth.tar; needs --data. Its vocabulary is --vocab, or CHECKPOINT@VOCABULARY, or lies beside it."""


@dataclass(frozen=True)
class RelevanceFlags:
    """Relevance φ, for NCS and Semantic Recall."""

    ncs: bool = False
    """Also report NCS and nsum. φ comes from --relevance, or is CIDEr-D of the captions of --data."""

    relevance: Path | None = None
    """φ: .npy of (n_images, n_captions) (or turned, as the NCS repository's), the authors' SPICE .csv; or the captions
    of the images (any format that itm-fast inspect knows, or .txt with --captions-per-image lines an image): CIDEr-D is
    computed. Implies --ncs."""

    cider_tokenizer: Literal["split", "ptb", "characters"] = "split"
    """Of φ that is computed: split: lower-case, then white space; ptb: as pycocoevalcap's; characters: for scripts
    without blanks between words, such as Chinese."""

    m: int | None = None
    """Also report Semantic Recall with the m most relevant captions (or images) of a query; needs φ."""


@dataclass(frozen=True)
class OrderFlags:
    """Protocol."""

    ids: Path | None = None
    """Ids of rows and columns, .json or .npz with image_ids and caption_ids, if not in the protocol's order."""

    self_score: float = float("-inf")
    """Of cxc: similarity of a query with itself in text-text and image-image retrieval; 0 as in VSE-infinity's code."""

    query_column: Literal[0, 1] = 0
    """Of cxc: which column of the rated pairs is the query of the correlations."""


@dataclass(frozen=True)
class Evaluate(
    ScoreFileFlags,
    NormaliseFlags,
    EmbeddedFlags,
    ModelFlags,
    TrecFlags,
    DataSetFlags,
    RelevanceFlags,
    ProtocolFlags,
    OrderFlags,
    SaveFlags,
    OutputFlags,
    RunFlags,
):
    """Evaluate image-text retrieval in both directions.

    Similarities come from --sims, from --images with --captions, from --embeddings, or from --model or --checkpoint
    with --data. A run of trec_eval's format, --trec-run with --qrels, has one direction and figures of its own.
    """


def run(args: Evaluate) -> int:
    """Evaluate, print the report, and return the exit code."""
    from itm_fast.evaluation import evaluate
    from itm_fast.evaluation.caveats import normalised, source_notes
    from itm_fast.evaluation.protocols import RELEASES
    from itm_fast.files.ids import Ids

    args.check_output()
    _check_unread(args)
    if args.trec_run is not None or args.qrels is not None:
        evaluate_trec_run(args, args.ks, args)
        return 0
    embedded = _embedded(args)
    scorer = _scorer(args, embedded)
    scorer = normalised(scorer) if args.normalise else scorer
    options = args.protocol_options(args.split)
    ids: IdsLike | None = args.ids
    if embedded is not None:
        by_id = args.protocol in (*RELEASES, "coco-all")  # whose files say all else
        ids, options["caption_to_image"] = embedded.places("positives" if by_id else args.protocol, args.annotations)
    relevance = _relevance(args, scorer, embedded)
    about, per_image = _source(args, scorer), args.captions_per_image or 5
    writer = RunWriter(args, scorer, about, _references(args), per_image, embedded, args.split, n_listed=args.n_listed)
    with progress_bar("evaluate") as progress:
        source = saved(scorer, args.save_results, progress)
        # Text-text and image-image retrieval compare embeddings, which the file has not.
        source = scorer if args.protocol in ("cxc", "coco-all") else source
        report = evaluate(
            source,
            relevance,
            **options,
            m=args.m,
            ids=ids,
            self_score=args.self_score,
            query_column=args.query_column,
            ties=args.ties,
            progress=progress,
            keep=writer.keep,
        )
    if source is not scorer:
        report["conditions"]["notes"] += [*getattr(scorer, "notes", ()), *source_notes(scorer)]
    if embedded is not None:
        report["conditions"]["model"] = embedded.model
        report["conditions"]["notes"] += embedded.notes
    writer.write(report)
    given = Ids(embedded.image_names, embedded.ids.captions) if embedded is not None else args.ids
    exchanged = Exchanged.of(writer.keep, scorer, given, embedded.model if embedded is not None else about["path"])
    args.show(report, exchanged)
    return 0


def _check_unread(args: Evaluate) -> None:
    """Refuse scores beside those of a run, and say which other flags nothing reads."""
    if args.trec_run is not None:
        read = {"trec_run", "qrels", "ties", "ks", *(flag.name for flag in fields(OutputFlags))}
        check_unread(
            args, [flag.name for flag in fields(args) if flag.name not in read], "other scores than --trec-run"
        )
    if args.sims is not None:
        compared = [flag.name for flag in fields(SimilarityFlags)]
        warn_of_unread(args, ["similarity", "word_counts", "region_counts", *compared], "--images and --captions")
    if args.embeddings is None and args.images is None:
        warn_of_unread(args, ["similarity"], "--images and --captions, or --embeddings")
    if args.protocol not in ("cxc", "coco-all"):
        warn_of_unread(args, ["self_score", "query_column"], "--protocol cxc or coco-all")
    if not args.ncs and args.relevance is None:
        warn_of_unread(args, ["cider_tokenizer"], "--ncs or --relevance")
    if args.run is None:
        warn_of_unread(args, ["depth"], "--run")
    if not any((args.data, args.caption_to_image, args.relevance, args.captions_file, args.image_names)):
        warn_of_unread(args, ["split"], "--data, or captioned images in another flag")


def _embedded(args: Evaluate) -> EmbeddedSet | None:
    """The folder of --embeddings, as the protocol takes it."""
    from itm_fast.evaluation import read_embeddings

    if args.embeddings is None:
        return None
    for flag, given in (
        ("--ids", args.ids),
        ("--caption-to-image", args.caption_to_image),
        ("--captions-per-image", args.captions_per_image),
    ):
        if given is not None:
            raise ValueError(f"{flag} has no use with --embeddings, whose folder says whose captions they are")
    return read_embeddings(args.embeddings).of_protocol(args.protocol)


def _scorer(args: Evaluate, embedded: EmbeddedSet | None) -> TileScorer:
    """The one source of similarities that the flags name."""
    embeddings = _both("--images", args.images, "--captions", args.captions)
    if args.model is not None and args.checkpoint is not None:
        raise ValueError(f"more than one source of similarities given: {_SOURCES}")
    for flag, is_given in (
        ("--concepts", args.concepts is not None),
        ("--plain-captions", args.plain_captions),
        ("--ignore-options", bool(args.ignore_options)),
    ):
        if is_given and args.checkpoint is None:
            raise ValueError(f"{flag} goes with --checkpoint; the folder of a --model holds all that it needs")
    flag = "--model" if args.checkpoint is None else "--checkpoint"
    trained = _both(flag, args.model or args.checkpoint, "--data", args.data)
    if sum(source is not None for source in (args.sims, embeddings, embedded, trained)) > 1:
        raise ValueError(f"more than one source of similarities given: {_SOURCES}")
    args.check_runs_a_model(trained is not None)
    if embedded is not None and embedded.per_token:
        return embedded.scorer(late_interaction(args))
    of_files = scorer_of_files(args)
    if of_files is not None:
        return of_files
    if embedded is not None:
        if args.similarity not in (None, "dot"):
            raise ValueError(
                f"--similarity {args.similarity} compares vectors a token; {args.embeddings} has one an item"
            )
        return embedded.scorer()
    if trained is not None:
        return open_model(str(trained[0]), trained[1], args.model_options(), original=args.checkpoint is not None)
    raise ValueError(f"no source of similarities given: {_SOURCES}")


def _both(first: str, first_path: Path | None, second: str, second_path: Path | None) -> tuple[Path, Path] | None:
    """Two flags that go together, or None if neither is given."""
    if first_path is not None and second_path is not None:
        return first_path, second_path
    if first_path is not None or second_path is not None:
        raise ValueError(f"{first} and {second} go together, but {second if first_path else first} is missing")
    return None


def _references(args: Evaluate) -> Path | None:
    """The file of --relevance, if it holds captions and no matrix."""
    from itm_fast.data.readers.relevance_matrix import holds_matrix

    return None if args.relevance is None or holds_matrix(args.relevance) else args.relevance


def _source(args: Evaluate, scorer: TileScorer) -> dict[str, Any]:
    """What is evaluated, as the flags say it, for a run folder."""
    from itm_fast.data.made.synthetic import is_generated
    from itm_fast.similarities.ragged import RaggedScorer
    from itm_fast.sources.trained_model import ModelScorer

    if isinstance(scorer, ModelScorer):
        model = args.model or args.checkpoint
        kind = "model" if Path(str(model)).is_dir() or str(model).startswith("hf-hub:") else "checkpoint"
        name = str(getattr(scorer.model, "name", type(scorer.model).__name__))
        about = {"model": name, "data": str(scorer.dataset.folder)}
        generated = is_generated(scorer.dataset.folder)
        return {"kind": kind, "path": str(model), **about, "split": args.split, "generated": generated}
    if args.sims is not None:
        more = {} if args.t2i_sims is None else {"t2i_sims": str(args.t2i_sims)}
        return {"kind": "sims", "path": str(args.sims), **more}
    if args.embeddings is not None:
        of_vectors = "max" if isinstance(scorer, RaggedScorer) else "cosine" if args.normalise else "dot"
        return {"kind": "embeddings", "path": str(args.embeddings), "similarity": of_vectors}
    return {
        "kind": "embeddings",
        "path": str(args.images),
        "captions": str(args.captions),
        "similarity": "cosine" if args.normalise and args.similarity in (None, "dot") else args.similarity or "dot",
    }


def _relevance(args: Evaluate, scorer: TileScorer, embedded: EmbeddedSet | None) -> Relevance | None:
    """φ as the flags say, or None."""
    import warnings

    from itm_fast.data.readers.reference_captions import read_references
    from itm_fast.data.readers.relevance_matrix import read_relevance
    from itm_fast.errors import DataWarning
    from itm_fast.relevance import Cider
    from itm_fast.sources.trained_model import ModelScorer

    candidates = None
    of_relevance = _references(args)
    if args.relevance is not None and of_relevance is None:
        return read_relevance(args.relevance, scorer.n_images, scorer.n_captions)
    if of_relevance is not None:
        references = read_references(of_relevance, args.captions_per_image or 5, split=args.split)
    elif args.ncs and isinstance(scorer, ModelScorer):
        from itm_fast.training.run import corpus_of

        with progress_bar("cider") as progress:
            return corpus_of(scorer.dataset, tokenizer=args.cider_tokenizer, progress=progress)
    elif args.ncs and embedded is not None:
        references, candidates = embedded.references(), embedded.texts
    elif args.ncs:
        raise ValueError("--ncs needs --relevance (a matrix, or the captions of the images), or the captions of --data")
    else:
        return None
    with progress_bar("cider") as progress, warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)  # the report has it among its notes
        cider = Cider(tokenizer=args.cider_tokenizer).fit(references)
        return cider.encode(references, candidates, progress=progress)
