"""Write self-contained HTML pages on a comparison or on the analysis of a node."""

from fluidserve.report.analysis import write_analysis as write_analysis
from fluidserve.report.comparison import comparison_report as comparison_report
from fluidserve.report.comparison import write_report as write_report
