"""``itm-fast evaluate``: recall, ranks, rsum, and with φ NCS, of scores, embeddings or a trained model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from itm_fast.cli.console import print_json, progress_bar
from itm_fast.cli.run_folder import RunFlags, RunWriter
from itm_fast.cli.score_files import ScoreFileFlags, scorer_of_files
from itm_fast.cli.sources import ModelOptions, open_model

if TYPE_CHECKING:
    from itm_fast.metrics.scorers import TileScorer
    from itm_fast.metrics.semantic_lists import Relevance

_SOURCES = "expected --sims, or --images with --captions, or --model or --checkpoint with --data"


@dataclass(frozen=True)
class Evaluate(RunFlags, ScoreFileFlags):
    """Evaluate image-text retrieval in both directions.

    Similarities come from --sims, from --images with --captions, or from --model or --checkpoint with --data.
    """

    model: Path | None = None
    """Folder of a trained model, or hf-hub:owner/name; needs --data."""

    checkpoint: Path | None = None
    """Checkpoint of an original repository (SCAN, VSE++, SGRAF, VSRN, VSE-infinity, ESL, CVSE), such as
    model_best.pth.tar; needs --data."""

    vocab: Path | None = None
    """Vocabulary of --checkpoint: JSON or pickle, or, of BERT, vocab.txt or a folder with it or with tokenizer.json;
    vocab.json of --data unless given."""

    concepts: Path | None = None
    """Folder with the files of concepts of a CVSE --checkpoint: category_concepts.json, *_adj_concepts.pkl,
    *_concepts_glove_word2vec.pkl."""

    data: Path | None = None
    """Folder of a data set in SCAN's layout, for --model and --checkpoint; a model that reads images finds them by
    id_mapping.json and images/ there or in the folder above."""

    split: str = "test"
    """Split of --data."""

    tokenizer: Literal["nltk", "split"] = "nltk"
    """Tokenizer of the captions of --data: the one the model's vocabulary was made with. BERT brings its own."""

    ncs: bool = False
    """Also report NCS and nsum. φ comes from --relevance, or is CIDEr-D of the captions of --data."""

    relevance: Path | None = None
    """φ: .npy of (n_images, n_captions) (or turned, as the NCS repository's), the authors' SPICE .csv; or the captions
    of the images (.json, or .txt with --captions-per-image lines an image): CIDEr-D is computed. Implies --ncs."""

    m: int | None = None
    """Also report Semantic Recall with the m most relevant captions (or images) of a query; needs φ."""

    protocol: (
        Literal[
            "flickr30k-1k",
            "coco-1k",
            "coco-5k",
            "eccv",
            "cxc",
            "cxc-image-text",
            "coco-fg",
            "coco-fg-originals",
            "flickr30k-fg",
            "flickr30k-fg-originals",
            "positives",
        ]
        | None
    ) = None
    """Check the sizes of a test set and use its folds: coco-1k is the mean of five folds of 1000 images. With
    --annotations: eccv (coco-5k with CxC recall and ECCV Caption's mAP@R, R-Precision), cxc (also text-text, image-
    image and correlations; needs embeddings), cxc-image-text, the fine-grained sets with or without distractor images,
    positives (any ids and positives)."""

    annotations: Path | None = None
    """Folder of the protocol's annotation files, as their owners publish them; for positives a .json or .npz file."""

    ids: Path | None = None
    """Ids of rows and columns, .json or .npz with image_ids and caption_ids, if not in the protocol's order."""

    self_score: float = float("-inf")
    """Of cxc: similarity of a query with itself in text-text and image-image retrieval; 0 as in VSE-infinity's code."""

    query_column: Literal[0, 1] = 0
    """Of cxc: which column of the rated pairs is the query of the correlations."""

    folds: int | None = None
    """Folds in file order whose mean is quoted; protocols set this themselves."""

    ks: tuple[int, ...] = (1, 5, 10)
    """Cut-offs k of R@k, in items."""

    captions_per_image: int | None = None
    """Caption c belongs to image c // captions_per_image; 5 unless --caption-to-image is given."""

    caption_to_image: Path | None = None
    """Row of each caption's image, (n_captions,) integers, in any format of --sims, for a varying number of captions.
    Of COCO's 25,010 test captions, coco-1k, coco-5k and eccv keep the first five of each image."""

    json: bool = False
    """Print the report as JSON instead of a table."""

    output: Path | None = None
    """Also write the report as JSON to this file."""


def run(args: Evaluate) -> int:
    """Evaluate, print the report, and return the exit code."""
    from itm_fast.evaluation import evaluate
    from itm_fast.evaluation.array_files import open_array

    scorer = _scorer(args)
    caption_to_image = None if args.caption_to_image is None else open_array(args.caption_to_image, 1)
    relevance = _relevance(args, scorer)
    writer = RunWriter(args, scorer, _source(args, scorer), _references(args), args.captions_per_image or 5)
    with progress_bar("evaluate") as progress:
        report = evaluate(
            scorer,
            relevance,
            ks=args.ks,
            m=args.m,
            captions_per_image=args.captions_per_image,
            caption_to_image=caption_to_image,
            folds=args.folds,
            protocol=args.protocol,
            annotations=args.annotations,
            ids=args.ids,
            self_score=args.self_score,
            query_column=args.query_column,
            progress=progress,
            keep=writer.keep,
        )
    writer.write(report)
    if args.output is not None:
        report.to_json(args.output)
    if args.json:
        print_json(report.to_dict())
    else:
        print(report)
    return 0


def _scorer(args: Evaluate) -> TileScorer:
    """The one source of similarities that the flags name."""
    embeddings = _both("--images", args.images, "--captions", args.captions)
    if args.model is not None and args.checkpoint is not None:
        raise ValueError(f"more than one source of similarities given: {_SOURCES}")
    if args.concepts is not None and args.checkpoint is None:
        raise ValueError("--concepts goes with --checkpoint; the folder of a --model holds its concepts")
    flag = "--model" if args.checkpoint is None else "--checkpoint"
    trained = _both(flag, args.model or args.checkpoint, "--data", args.data)
    if sum(source is not None for source in (args.sims, embeddings, trained)) > 1:
        raise ValueError(f"more than one source of similarities given: {_SOURCES}")
    of_files = scorer_of_files(args)
    if of_files is not None:
        return of_files
    if trained is not None:
        options = ModelOptions(args.data, args.split, args.tokenizer, args.vocab, args.concepts)
        return open_model(*trained, options, original=args.checkpoint is not None)
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
    return None if args.relevance is None or args.relevance.suffix in (".npy", ".csv") else args.relevance


def _source(args: Evaluate, scorer: TileScorer) -> dict[str, str]:
    """What is evaluated, as the flags say it, for a run folder."""
    from itm_fast.evaluation.scorers import ModelScorer

    if isinstance(scorer, ModelScorer):
        kind, model = ("model", args.model) if args.checkpoint is None else ("checkpoint", args.checkpoint)
        about = {"model": str(getattr(scorer.model, "name", type(scorer.model).__name__)), "data": str(args.data)}
        return {"kind": kind, "path": str(model), **about, "split": args.split}
    if args.sims is not None:
        more = {} if args.t2i_sims is None else {"t2i_sims": str(args.t2i_sims)}
        return {"kind": "sims", "path": str(args.sims), **more}
    return {
        "kind": "embeddings",
        "path": str(args.images),
        "captions": str(args.captions),
        "similarity": args.similarity or "dot",
    }


def _relevance(args: Evaluate, scorer: TileScorer) -> Relevance | None:
    """φ as the flags say, or None."""
    from itm_fast.data.reference_captions import read_references
    from itm_fast.data.relevance_matrix import read_relevance
    from itm_fast.evaluation.scorers import ModelScorer
    from itm_fast.relevance import Cider

    of_relevance = _references(args)
    if args.relevance is not None and of_relevance is None:
        return read_relevance(args.relevance, scorer.n_images, scorer.n_captions)
    if of_relevance is not None:
        references = read_references(of_relevance, args.captions_per_image or 5)
    elif args.ncs and isinstance(scorer, ModelScorer):
        dataset = scorer.dataset
        step = dataset.captions_per_image
        references = [dataset.captions[i : i + step] for i in range(0, dataset.n_captions, step)]
    elif args.ncs:
        raise ValueError("--ncs needs --relevance (a matrix, or the captions of the images), or the captions of --data")
    else:
        return None
    with progress_bar("cider") as progress:
        return Cider().fit(references).encode(references, progress=progress)
