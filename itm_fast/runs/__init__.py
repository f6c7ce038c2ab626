"""What an evaluation leaves behind: its result, the folder of a run, attention maps in it, how sure its figures are."""

from itm_fast.runs.figure_tables import latex_table
from itm_fast.runs.folder import Run, load_run, save_run
from itm_fast.runs.keeper import RunKeeper
from itm_fast.runs.result import Report

__all__ = ["Report", "Run", "RunKeeper", "latex_table", "load_run", "save_run"]
