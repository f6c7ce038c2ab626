"""``itm-fast correlate``: Pearson's r of relevance and human judgement."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from itm_fast.cli.console import print_json, print_table, progress_bar
from itm_fast.cli.export import ExportFlags


@dataclass(frozen=True)
class Correlate(ExportFlags):
    """Correlate binary relevance, and CIDEr-D where the captions are given, with Crisscrossed Captions' judgements."""

    judgements: Path
    """sits_test.csv or sits_val.csv (.gz) of Crisscrossed Captions."""

    captions: Path | None = None
    """Karpathy's dataset_coco.json: then CIDEr-D is correlated too, fitted on the judged images."""

    json: bool = False
    """Print JSON instead of a table."""


def run(args: Correlate) -> int:
    """Correlate, print, and return the exit code."""
    from itm_fast.evaluation.human_judgement import cider_of_pairs, correlation, read_judgements
    from itm_fast.files.plain_tables import PlainTable

    args.check_export(json=args.json)
    judged = read_judgements(args.judgements)
    found = {"binary": correlation(judged.original, judged)}
    if args.captions is not None:
        with progress_bar("read captions") as progress:
            found["cider_d"] = correlation(cider_of_pairs(judged, args.captions, progress=progress), judged)
    columns = (("", "relevance"), ("Pearson's r", "all"), ("Pearson's r", "non-GT"))
    table = PlainTable(columns, tuple((name, *rs.values()) for name, rs in found.items()), digits=4)
    if args.exported(lambda: table):
        return 0
    if args.json:
        # None of binary relevance among pairs that are all non-original: it does not vary
        print_json({"n_pairs": len(judged.scores), "n_original": int(judged.original.sum()), "pearson": found})
        return 0
    rows = [[name, *("-" if r != r else f"{r:.4f}" for r in rs.values())] for name, rs in found.items()]
    n_others = int((~judged.original).sum())
    print_table(
        ["Pearson's r", f"all {len(judged.scores)} pairs", f"{n_others} non-GT pairs"], rows, str(args.judgements)
    )
    return 0
