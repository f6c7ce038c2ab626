"""All tables of a page, by name."""

from __future__ import annotations

from collections.abc import Sequence

from itm_fast.report import comparison_tables, tables
from itm_fast.report.table_parts import Table
from itm_fast.runs.folder import Run


def page_tables(runs: Sequence[Run]) -> dict[str, Table]:
    """The tables of a page of these runs, in its order.

    Args:
        runs: the runs.

    Returns:
        "recall" and "misses"; "relevance", "annotations" and "comparison" where the runs have what they show;
        "published" and "published2" where results of the protocol were published.
    """
    found: dict[str, Table | None] = {
        "recall": tables.headline_table(runs),
        "relevance": tables.relevance_table(runs),
        "annotations": tables.annotation_table(runs),
    }
    for number, table in enumerate(comparison_tables.published_tables(runs), start=1):
        found["published" if number == 1 else f"published{number}"] = table
    found["comparison"] = comparison_tables.comparison_table(runs)
    found["misses"] = comparison_tables.failure_table(runs)
    return {name: table for name, table in found.items() if table is not None}
