"""The flag that writes evaluation figures as other tools have them: MTEB, CLIP_benchmark, trec_eval."""

from __future__ import annotations

import json
import sys
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from itm_fast.choices import Query
from itm_fast.cli.export import EXCHANGE, ExportFlags, export_format

if TYPE_CHECKING:
    from itm_fast.evaluation import Report, RunKeeper
    from itm_fast.files.ids import IdsLike
    from itm_fast.runs.retrieved_lists import RetrievedLists
    from itm_fast.similarities.scorers import TileScorer

_WAYS: tuple[tuple[str, Query], ...] = (("i2t", "image"), ("t2i", "caption"))
_MTEB_DEPTH = 1000  # items of a query that MTEB's figures look at


class Exchanged(NamedTuple):
    """What the files hold beside the figures.

    Attributes:
        lists: what every query retrieved, if it was kept.
        images: ids of all images that were given, or None.
        captions: of all captions.
        model: what was evaluated.
        dataset: on what.
    """

    lists: RetrievedLists | None
    images: Sequence[Hashable] | None
    captions: Sequence[Hashable] | None
    model: str
    dataset: str

    @classmethod
    def of(cls, keep: RunKeeper | None, scorer: TileScorer, ids: IdsLike | None, model: str) -> Exchanged:
        """Of an evaluation.

        Args:
            keep: what it has kept.
            scorer: what was evaluated, which may know its data set.
            ids: of images and captions, if they were given.
            model: a file, a folder or a name.
        """
        from itm_fast.data.readers.images import image_names
        from itm_fast.files.ids import read_ids
        from itm_fast.sources.trained_model import ModelScorer

        known = None if ids is None else read_ids(ids)
        images = None if known is None else known.images
        dataset = "custom"
        if isinstance(scorer, ModelScorer):
            dataset = scorer.dataset.folder.absolute().name
            images = images or image_names(scorer.dataset)
            images = images if images is not None and len(set(images)) == len(images) else None
        captions = None if known is None else known.captions
        return cls(None if keep is None else keep.lists, images, captions, Path(model).name or model, dataset)


@dataclass(frozen=True, kw_only=True)
class ExchangeFlags(ExportFlags):
    """Output."""

    export: Path | None = None
    """Also write the table to this file: .csv or .json with every figure, .tex (LaTeX) as papers print it; or the
    figures as other tools have them: .mteb.json (two files, FILE.i2t.mteb.json and FILE.t2i.mteb.json),
    .clip-benchmark.json, .trec (a run and qrels a direction: FILE.i2t.trec, FILE.i2t.qrels, ...). Further tables (an
    ensemble's members) are written beside it, as FILE.members.csv. Without a file, csv, json, latex, mteb,
    clip-benchmark or trec: print it instead."""

    trec_depth: int = 1000
    """Items of every query that --export FILE.trec has."""

    @property
    def exchanges(self) -> bool:
        """Whether --export is in the format of another tool."""
        return self.export is not None and export_format(self.export) in EXCHANGE

    @property
    def n_listed(self) -> int:
        """Items of every query that --export needs."""
        kind = None if self.export is None else export_format(self.export)
        if kind != "trec" and self.trec_depth != type(self).trec_depth:
            raise ValueError("--trec-depth goes with --export FILE.trec")
        if kind == "trec" and self.trec_depth < 1:
            raise ValueError(f"--trec-depth is {self.trec_depth}, expected at least 1")
        return {"mteb": _MTEB_DEPTH, "trec": self.trec_depth}.get(str(kind), 0)

    def exchange(self, report: Report, exchanged: Exchanged) -> bool:
        """Write or print the figures as another tool has them.

        Returns:
            Whether they were printed, so that nothing else should be.
        """
        export = Path(str(self.export))
        kind = str(export_format(export))
        if "choices" in report:
            raise ValueError(
                f"--export {export}: protocol {report['conditions']['protocol']} compares pairs, which {kind} has no "
                "figures of; .csv, .json and .tex have them"
            )
        if kind == "clip-benchmark":
            from itm_fast.runs.clip_benchmark import clip_benchmark_result

            parts: dict[str, Iterable[str]] = {
                "": [json.dumps(clip_benchmark_result(report, exchanged.model, exchanged.dataset))]
            }
        elif kind == "mteb":
            from itm_fast.runs.mteb import mteb_results

            results = mteb_results(_lists(exchanged), report, exchanged.dataset)
            parts = {f"{way}.": [json.dumps(result, indent=2)] for way, result in results.items()}
        else:
            parts = _trec(exchanged)
        if kind == str(export):
            whole = (line for name, lines in parts.items() if not name.endswith("qrels") for line in lines)
            sys.stdout.writelines(_as_list(whole) if kind == "mteb" else whole)
            print(end="\n" if kind == "clip-benchmark" else "")
            return True
        stem = export.name.removesuffix(EXCHANGE[kind])
        for name, lines in parts.items():
            suffix = EXCHANGE[kind] if not name.endswith("qrels") else ""
            _write(export.with_name(f"{stem}.{name}".rstrip(".") + suffix), lines)
        return False


def _as_list(results: Iterable[str]) -> Iterable[str]:
    """JSON of several results as one list."""
    return ["[", ",\n".join(results), "]\n"]


def _trec(exchanged: Exchanged) -> dict[str, Iterable[str]]:
    """Runs and qrels, line by line."""
    from itm_fast.files.trec import qrels_lines, trec_run_lines

    lists = _lists(exchanged)
    images, captions = lists.names(exchanged.images, exchanged.captions)
    parts: dict[str, Iterable[str]] = {}
    for way, query in _WAYS:
        names = (images, captions) if query == "image" else (captions, images)
        top, judged = lists.side(query)
        parts[f"{way}."] = trec_run_lines(*names, lists.items(query), top.values.numpy(), exchanged.model)
        pairs = (judged.positives.owners(), judged.positives.items)
        parts[f"{way}.qrels"] = qrels_lines(*names, pairs, judged.grades)
    return parts


def _lists(exchanged: Exchanged) -> RetrievedLists:
    if exchanged.lists is None:
        raise ValueError("there are no retrieved lists to export")
    return exchanged.lists


def _write(path: Path, lines: Iterable[str]) -> Any:
    from itm_fast.files.writing import written_aside

    with written_aside(path) as aside, aside.open("w", encoding="utf-8") as file:
        file.writelines(lines)
