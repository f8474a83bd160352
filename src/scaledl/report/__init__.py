"""Reports: one offline HTML page for a run, or a data set."""

from scaledl.report.dataset import write_dataset_page
from scaledl.report.html import render, write_report

__all__ = ["render", "write_dataset_page", "write_report"]
