"""The reader of server logs finds the kind of a file in the content."""

from __future__ import annotations

from pathlib import Path

from calibration.server_runs import metrics, requests
from calibration.server_runs.batch_rows import BatchRows, rows_of_table
from calibration.server_runs.metrics import MetricsLog
from calibration.server_runs.requests import RequestLog
from serving import WorkloadError
from workload import TextTable, read_text

ServerLog = RequestLog | MetricsLog | BatchRows
"""Contents that a file of a running server can have."""

KINDS = (
    "JSON of vllm bench serve --save-result --save-detailed; JSON of query_range; "
    "scrapes of /metrics; CSV of arrival, first token, finish and lengths; "
    "CSV of throughputs per interval; CSV of windows (step_time_ms)"
)
"""Kinds of files that the reader knows, in words for its errors."""


def read_server_log(
    path: str | Path, *, interval: float | None = None, engine: str | None = None
) -> ServerLog:
    """Read a file that a running server left, plain or gzip.

    Parameters
    ----------
    path
        Name of the file; the content shows the kind of the file.
    interval : [s]
        Time between scrapes of ``/metrics`` that say none.
    engine
        Label ``engine`` of the engine to take, where a server has several.

    Returns
    -------
    A log of requests or of metrics, or mean batch times where the file holds those.

    Raises
    ------
    WorkloadError
        Naming file, row, column or key, and value of the first that is wrong.
    FileAccessError
        If the file cannot be read.
    """
    path = Path(path)
    text = read_text(path)
    if text.lstrip()[0] in "[{":
        content = requests.parse_json(text, path)
        if isinstance(content, dict) and "data" not in content and "resultType" not in content:
            return requests.from_bench(content, path)
        return metrics.from_range_export(content, path, engine=engine)
    if text.lstrip().startswith(("#", "vllm:")):
        return metrics.from_exposition(text, path, interval=interval, engine=engine)
    table = TextTable.parse(text, path)
    if "step_time_ms" in table.columns:
        return rows_of_table(table)
    if all(name in table.columns for name in metrics.THROUGHPUT_TABLE):
        return metrics.from_throughputs(table)
    if requests.is_request_table(table):
        return requests.from_table(table)
    raise WorkloadError(
        f"its columns are not those of a server's results; known are: {KINDS}", path=path
    )
