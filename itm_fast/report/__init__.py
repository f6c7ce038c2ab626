"""A page to look at runs: tables, curves, examples and attention in one HTML file."""

from itm_fast.report.html import PageOptions, render_page, write_page
from itm_fast.report.page_tables import page_tables

__all__ = ["PageOptions", "page_tables", "render_page", "write_page"]
