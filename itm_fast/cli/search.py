"""``itm-fast search``: images for a text, captions for an image, in a folder of embeddings or with a trained model."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from itm_fast.cli.console import print_json, print_table, print_warning, progress_bar
from itm_fast.cli.report import open_page
from itm_fast.cli.set_flags import DataSetFlags
from itm_fast.cli.source_flags import is_embedded, open_model

if TYPE_CHECKING:
    from itm_fast.metrics.retrieved import TopK
    from itm_fast.report.search_page import Answer
    from itm_fast.similarities.scorers import IntArray
    from itm_fast.sources.trained_model import ModelScorer

_LEAST_OF_CAPTION, _FRAME = 20, 20  # letters in the table: of a caption, and of lines and scores


@dataclass(frozen=True)
class QueryFlags:
    """What is searched for, and how much is shown."""

    image: tuple[Path, ...] = ()
    """Image files to search with, beside the texts; in embeddings only."""

    among: Literal["images", "captions"] | None = None
    """What is retrieved: images for a text and captions for an image unless said; in embeddings also the reverse."""

    k: int = 10
    """Items of each query."""

    encoder: str | None = None
    """Folder or name of the model that made the embeddings, if it is not where it was."""

    rerank: str | None = None
    """Model with cross-attention (or any other, or a checkpoint) that puts the first --candidates in order; needs
    --data, whose images are those that are searched."""

    candidates: int = 100
    """Of --rerank: images of each query that the slow model scores."""


@dataclass(frozen=True)
class PageFlags:
    """Output."""

    json: bool = False
    """Print what was found as JSON."""

    open: bool = False
    """Write a page of thumbnails and captions to --output, and open it in the browser."""

    output: Path | None = None
    """The page, .html; search.html with --open. A file of that name is replaced."""

    images_folder: Path | None = None
    """Folder with the image files by name; those that itm-fast embed read unless given."""


@dataclass(frozen=True, kw_only=True)
class Search(QueryFlags, DataSetFlags, PageFlags):
    """Search in a set of images and captions: exactly, without an index, block by block.

    SOURCE is a folder of itm-fast embed; or the folder of a trained model, hf-hub:owner/name or the checkpoint of an
    original repository, which score the images of --data. For sets beyond one machine: itm-fast index.
    """

    source: str
    """What is searched."""

    texts: tuple[str, ...]
    """Texts to search for."""


class _Set(NamedTuple):
    """Names of what is searched in."""

    names: Sequence[str]
    paths: Sequence[Path | None]
    texts: Sequence[str]
    owners: IntArray


def run(args: Search) -> int:
    """Search, print what was found, and return the exit code."""
    if not args.texts and not args.image:
        raise ValueError('nothing to search for: give a text, such as "a dog in the snow", or --image FILE')
    if not all(text.strip() for text in args.texts):
        raise ValueError("a text to search for is blank")
    if args.k < 1 or (args.rerank is not None and args.candidates < args.k):
        raise ValueError(f"--k is {args.k}, --candidates {args.candidates}; expected 1 ... candidates")
    for path in args.image:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such image file")
    if args.images_folder is not None and not args.images_folder.is_dir():
        raise FileNotFoundError(f"{args.images_folder}: no such folder of images")
    page = args.output or (Path("search.html") if args.open else None)
    if page is not None and not page.absolute().parent.is_dir():
        raise FileNotFoundError(f"{page.parent}: no such folder to write {page.name} into")
    with progress_bar("search") as progress:
        there, found = (_in_embeddings if is_embedded(args.source) else _with_model)(args, progress)
    if args.images_folder is not None:
        there = there._replace(paths=[args.images_folder / name for name in there.names])
    queries = [*args.texts, *(path.name for path in args.image)]
    answers = [
        _answer(query, path, there, top, of_images)
        for query, path, (top, of_images) in zip(queries, [*[None] * len(args.texts), *args.image], found, strict=True)
    ]
    if page is not None:
        from itm_fast.report.search_page import write_search_page

        write_search_page(answers, page, args.source)
    if args.json:
        print_json({"source": args.source, "queries": [_plain(*one) for one in zip(answers, found, strict=True)]})
    else:
        for answer in answers:
            _print(answer)
        if page is not None:
            print(page)
    if args.open and page is not None:
        open_page(page)
    return 0


_Found = list[tuple["TopK", bool]]  # the list of each query, of one row, and whether it is of images


def _in_embeddings(args: Search, progress: Any) -> tuple[_Set, _Found]:
    """What a folder of embeddings has."""
    from itm_fast.evaluation import read_embeddings
    from itm_fast.metrics.retrieved import TopK
    from itm_fast.sources.devices import resolve_device
    from itm_fast.sources.search import encoded_queries, query_encoder, reranked, search_embedded

    embedded = read_embeddings(args.source)
    of_images = [(args.among or default) == "images" for default in _defaults(args)]
    fine = _fine(args, len(embedded.images), embedded.image_names, of_images)
    encoder = query_encoder(embedded, args.encoder, device=str(resolve_device(args.device)))
    vectors = encoded_queries(encoder, args.texts, args.image)
    if {one.shape[-1] for one in vectors} != {embedded.dim} or encoder.per_token != embedded.per_token:
        raise ValueError(
            f"{encoder.name} makes vectors {vectors[0].shape[-1]} wide, those of {args.source} are "
            f"{embedded.dim} wide; expected the model that made them"
        )
    found: list[tuple[TopK, bool] | None] = [None] * len(of_images)
    by_image = len(args.texts)  # the first query that is an image
    for is_image, asks_image in ((True, False), (True, True), (False, False), (False, True)):
        asking = [n for n, kind in enumerate(of_images) if kind == is_image and (n >= by_image) == asks_image]
        if asking:
            k = args.k if fine is None else args.candidates
            asked = [vectors[number] for number in asking]
            top = search_embedded(embedded, asked, k, among_images=is_image, by_image=asks_image, progress=progress)
            if fine is not None:
                top = reranked(top, fine, args.k, progress)
            for place, number in enumerate(asking):
                found[number] = (TopK(top.values[place], top.indices[place]), is_image)
    paths = [Path(path) for path in embedded.image_paths]
    there = _Set(embedded.image_names, paths, embedded.texts, embedded.caption_to_image)
    return there, [one for one in found if one is not None]


def _with_model(args: Search, progress: Any) -> tuple[_Set, _Found]:
    """What a trained model finds among the images of a data set."""
    from itm_fast.data.readers.images import image_names
    from itm_fast.metrics.retrieved import TopK
    from itm_fast.sources.search import best_rows, reranked

    for flag, is_given in (
        ("--image", bool(args.image)),
        ("--among captions", args.among == "captions"),
        ("--encoder", args.encoder is not None),
    ):
        if is_given:
            raise ValueError(f"{flag} needs a folder of embeddings (itm-fast embed): {args.source} is none")
    scorer = _opened(args, args.source)
    data = scorer.dataset
    names = image_names(data)
    fine = _fine(args, scorer.n_images, names, [True] * len(args.texts))
    asked = scorer.asking(args.texts)
    for note in asked.warnings:
        print_warning(note)
    top = best_rows(asked, args.k if fine is None else args.candidates, progress=progress)
    if fine is not None:
        top = reranked(top, fine, args.k, progress)
    names = names or [f"image {number}" for number in range(data.n_images)]
    paths: Sequence[Path | None] = getattr(data, "paths", None) or [None] * data.n_images
    found = [(TopK(*one), True) for one in zip(top.values, top.indices, strict=True)]
    return _Set(names, paths, data.captions, data.caption_to_image), found


def _defaults(args: Search) -> list[str]:
    return ["images"] * len(args.texts) + ["captions"] * len(args.image)


def _fine(args: Search, n_images: int, names: Sequence[str] | None, of_images: Sequence[bool]) -> ModelScorer | None:
    """The slow model, asked the texts."""
    if args.rerank is None:
        return None
    from itm_fast.data.readers.images import image_names

    if args.image or not all(of_images):
        raise ValueError("--rerank orders images for a text: leave out --image and --among captions")
    fine = _opened(args, args.rerank)
    if fine.n_images != n_images:
        raise ValueError(
            f"--rerank scores the {fine.n_images} images of {args.data}, split {args.split!r}, but {n_images} are "
            "searched: they must be the same, in the same order"
        )
    ours, theirs = (_stems(some) for some in (names, image_names(fine.dataset)))
    if not set(ours).isdisjoint(theirs) and ours != theirs:
        number = next(number for number, pair in enumerate(zip(ours, theirs, strict=True)) if len(set(pair)) > 1)
        raise ValueError(
            f"image {number} of {args.source} is {ours[number]}, but that of {args.data}, split {args.split!r}, which "
            f"--rerank scores, is {theirs[number]}: they must be the same, in the same order"
        )
    return fine.asking(args.texts)


def _stems(names: Sequence[str] | None) -> list[str]:
    """Names of image files without folders and suffixes."""
    return [PurePosixPath(name).stem for name in names or ()]


def _opened(args: Search, model: str) -> ModelScorer:
    from itm_fast.sources.trained_model import ModelScorer

    if args.data is None:
        raise ValueError(
            f"{model} is not a folder of embeddings (itm-fast embed); a model needs --data, whose images it scores"
        )
    scorer = open_model(model, args.data, args.model_options(), original=Path(model).is_file())
    if not isinstance(scorer, ModelScorer):
        raise ValueError(f"{model} does not encode texts")
    return scorer


def _answer(query: str, path: Path | None, there: _Set, top: TopK, of_images: bool) -> Answer:
    import numpy as np

    from itm_fast.report.search_page import Answer, Hit

    hits = []
    for score, item in zip(top.values.tolist(), top.indices.tolist(), strict=True):
        image = item if of_images else int(there.owners[item])
        captions = np.flatnonzero(there.owners == item).tolist() if of_images else [item]
        texts = tuple(there.texts[caption] for caption in captions)
        hits.append(Hit(score, there.names[image], there.paths[image], texts))
    return Answer(query, path, tuple(hits))


def _plain(answer: Answer, found: tuple[TopK, bool]) -> dict[str, Any]:
    top, of_images = found
    return {
        "query": answer.query,
        "among": "images" if of_images else "captions",
        "found": [
            {
                "rank": rank,
                "number": number,
                "score": hit.score,
                "image": hit.name,
                "path": None if hit.path is None else str(hit.path),
                "captions": list(hit.captions),
            }
            for rank, (hit, number) in enumerate(zip(answer.hits, top.indices.tolist(), strict=True), start=1)
        ],
    }


def _print(answer: Answer) -> None:
    longest = max((len(hit.name) for hit in answer.hits), default=0)
    room = max(_LEAST_OF_CAPTION, shutil.get_terminal_size().columns - longest - _FRAME)  # names are never cut
    rows = [(hit.name, f"{hit.score:.4f}", _cut(next(iter(hit.captions), ""), room)) for hit in answer.hits]
    print_table(["", "score", "caption"], rows, title=answer.query)


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else text[: room - 1] + "…"
