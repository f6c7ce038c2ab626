"""A page to look at runs: tables, curves, examples and attention in one HTML file."""

from itm_fast.report.html import PageOptions, render_page, write_page

__all__ = ["PageOptions", "render_page", "write_page"]
