"""The flag that writes a command's table for a paper or a spreadsheet, and its formats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from itm_fast.choices import in_order, perhaps

if TYPE_CHECKING:
    from itm_fast.files.plain_tables import PlainTable

_SUFFIXES = {"csv": ".csv", "json": ".json", "latex": ".tex"}


@dataclass(frozen=True, kw_only=True)
class ExportFlags:
    """Output."""

    export: Path | None = None
    """Also write the table to this file: .csv or .json with every figure, .tex (LaTeX) as papers print it. Without a
    file, csv, json or latex: print it in that format instead."""

    def check_export(self, *, json: bool) -> None:
        """Look at the flag before minutes of work.

        Args:
            json: whether --json is there as well.

        Raises:
            ValueError: a name that says no format, or two formats to print.
            FileNotFoundError: there is no such folder.
        """
        if self.export is None:
            return
        if _format(self.export) is None:
            raise ValueError(
                f"--export is {self.export}{perhaps(self.export, _SUFFIXES)}; expected a file called .csv, .json or "
                f".tex, or one of {', '.join(in_order(_SUFFIXES))}, which is printed"
            )
        if json and not self.export.suffix:
            raise ValueError(f"--json and --export {self.export} both print: give --export a file")
        if not self.export.parent.is_dir():
            raise FileNotFoundError(f"{self.export.parent}: no such folder to write {self.export.name} into")

    def exported(self, table: Callable[[], PlainTable], latex: Callable[[], str] | None = None) -> bool:
        """Write or print the table, if it was asked for.

        Args:
            table: makes it.
            latex: makes its LaTeX, where that is not the same table.

        Returns:
            Whether it was printed, so that nothing else should be.
        """
        from itm_fast.files.writing import written_aside

        if self.export is None:
            return False
        kind = _format(self.export)
        if kind == "latex":
            text = table().as_latex() if latex is None else latex()
        else:
            text = table().as_csv() if kind == "csv" else table().as_json()
        if not self.export.suffix:
            print(text, end="")
            return True
        with written_aside(self.export) as aside:
            aside.write_text(text, encoding="utf-8")
        return False


def _format(export: Path) -> str | None:
    """The format of --export: by the name of a file, or the format itself."""
    if str(export) in _SUFFIXES:
        return str(export)
    return next((kind for kind, suffix in _SUFFIXES.items() if export.suffix == suffix), None)
