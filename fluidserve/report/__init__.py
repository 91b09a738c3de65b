"""Pages to read: one self-contained HTML file on a comparison, or on the analysis of a node."""

from fluidserve.report._analysis import write_analysis
from fluidserve.report._comparison import comparison_report, write_report

__all__ = ["comparison_report", "write_analysis", "write_report"]
