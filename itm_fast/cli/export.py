"""The flag that writes a command's table for a paper or a spreadsheet, and its formats."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from itm_fast.choices import in_order, perhaps

if TYPE_CHECKING:
    from itm_fast.files.plain_tables import PlainTable

EXCHANGE = {"mteb": ".mteb.json", "clip-benchmark": ".clip-benchmark.json", "trec": ".trec"}
"""Formats of other tools, of evaluation figures only."""

_SUFFIXES = {"csv": ".csv", "json": ".json", "latex": ".tex"}


@dataclass(frozen=True, kw_only=True)
class ExportFlags:
    """Output."""

    export: Path | None = None
    """Also write the table to this file: .csv or .json with every figure, .tex (LaTeX) as papers print it. Further
    tables (an ensemble's members, those of a page) are written beside it, as FILE.members.csv. Without a file, csv,
    json or latex: print the table in that format instead."""

    def check_export(self, *, json: bool, exchange: bool = False) -> None:
        """Look at the flag before minutes of work.

        Args:
            json: whether --json is there as well.
            exchange: whether what is written are evaluation figures, which other tools have formats for.

        Raises:
            ValueError: a name that says no format, or two formats to print.
            FileNotFoundError: there is no such folder.
        """
        if self.export is None:
            return
        known = _SUFFIXES | (EXCHANGE if exchange else {})
        if export_format(self.export) not in known:
            raise ValueError(
                f"--export is {self.export}{perhaps(self.export, known)}; expected a file called "
                f"{', '.join(known.values())}, or one of {', '.join(in_order(known))}, which is printed"
            )
        if json and not self.export.suffix:
            raise ValueError(f"--json and --export {self.export} both print: give --export a file")
        if not self.export.parent.is_dir():
            raise FileNotFoundError(f"{self.export.parent}: no such folder to write {self.export.name} into")

    def exported(
        self,
        table: Callable[[], PlainTable],
        latex: Callable[[], str] | None = None,
        further: Callable[[], Mapping[str, PlainTable]] = dict,
    ) -> bool:
        """Write or print the table, if it was asked for.

        Args:
            table: makes it.
            latex: makes its LaTeX, where that is not the same table.
            further: makes the command's other tables, by the name that the file beside it gets.

        Returns:
            Whether it was printed, so that nothing else should be.
        """
        if self.export is None:
            return False
        kind = export_format(self.export)
        text = latex() if kind == "latex" and latex is not None else _as_text(table(), kind)
        if not self.export.suffix:
            print(text, end="")
            return True
        _write(self.export, text)
        for name, other in further().items():
            _write(self.export.with_suffix(f".{name}{self.export.suffix}"), _as_text(other, kind))
        return False


def _as_text(table: PlainTable, kind: str | None) -> str:
    return {"csv": table.as_csv, "json": table.as_json, "latex": table.as_latex}[kind or "csv"]()


def _write(path: Path, text: str) -> None:
    from itm_fast.files.writing import written_aside

    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")


def export_format(export: Path) -> str | None:
    """The format of --export: by the name of a file, or the format itself."""
    known = EXCHANGE | _SUFFIXES
    if str(export) in known:
        return str(export)
    return next((kind for kind, suffix in known.items() if export.name.endswith(suffix)), None)
