"""Flags of ``itm-fast evaluate`` that name a run of somebody else's and what is relevant, and the figures of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from itm_fast.cli.console import print_json, print_table

if TYPE_CHECKING:
    from itm_fast.cli.set_flags import OutputFlags

_NAMES = ("nDCG", "R", "R_all")


@dataclass(frozen=True)
class TrecFlags:
    """Or a run as trec_eval takes it."""

    trec_run: Path | None = None
    """Run, "query Q0 item rank score name" a line; needs --qrels. Nothing else is read."""

    qrels: Path | None = None
    """What is relevant: "query iteration item grade" a line, or the three columns of BEIR's and MTEB's .tsv."""

    ties: Literal["index", "trec"] = "index"
    """Equal scores: by index, the lower first (of a run: in the order of the file); or as trec_eval: scores as float32,
    equal ones by id as text, the higher first. Of --trec-run and of --protocol positives."""


def evaluate_trec_run(args: TrecFlags, ks: tuple[int, ...], output: OutputFlags) -> None:
    """Print the figures of --trec-run.

    Raises:
        FileNotFoundError, DataError, ValueError: as the readers and ``judged_run``.
    """
    from itm_fast.files.plain_tables import PlainTable
    from itm_fast.files.trec import read_qrels, read_trec_run
    from itm_fast.files.writing import written_aside
    from itm_fast.metrics import judged_run

    if args.trec_run is None or args.qrels is None:
        raise ValueError("--trec-run and --qrels go together: what was retrieved, and what is relevant")
    run, qrels = read_trec_run(args.trec_run), read_qrels(args.qrels)
    found = judged_run(run, qrels, ks, ties=args.ties)
    figures = found.figures()
    judged = set(qrels)
    notes = [*run.notes]
    for n, text in (
        (len(judged.difference(run.queries)), "judged queries are not in the run and count as 0 (trec_eval -c)"),
        (len(qrels) - len(found.queries), "judged queries with nothing relevant are left out"),
        (len(set(run.queries) - judged), "queries of the run are not judged and are left out"),
    ):
        notes += [f"{n} {text}"] if n else []
    conditions = {"run": str(args.trec_run), "qrels": str(args.qrels), "name": run.name, "ties": args.ties}
    result: dict[str, Any] = {"trec": figures, "conditions": {**conditions, "ks": list(found.ks), "notes": notes}}
    if output.output is not None:
        import json

        with written_aside(output.output) as aside:
            aside.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    columns = [*(f"{name}@{k}" for name in _NAMES for k in found.ks), "MAP", "MRR", "n_queries"]
    cells = tuple(figures[name] for name in columns)
    table = PlainTable((("", "run"), *(("", name) for name in columns)), ((run.name, *cells),))
    if output.exported(lambda: table):
        return
    if output.json:
        print_json(result)
        return
    shown = [[f"k = {k}", *(_shown(figures[f"{name}@{k}"]) for name in _NAMES)] for k in found.ks]
    print_table([run.name, *(f"{name}@k" for name in _NAMES)], shown)
    print(f"MAP {_shown(figures['MAP'])}  MRR {_shown(figures['MRR'])}  {figures['n_queries']} queries")
    print("R@k: % of queries with a relevant item among the first k (trec_eval: success).  R_all@k: % of the relevant")
    print("items among the first k (recall).  nDCG@k: ndcg_cut.  MAP: map.  MRR: recip_rank.")
    for note in notes:
        print(f"note: {note}")


def _shown(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:.1f}"
