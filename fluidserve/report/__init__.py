"""The report: one self-contained HTML page on a comparison."""

from fluidserve.report._comparison import comparison_report, write_report

__all__ = ["comparison_report", "write_report"]
