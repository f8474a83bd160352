"""Reports: one offline HTML page for a run."""

from scaledl.report.html import render, write_report

__all__ = ["render", "write_report"]
