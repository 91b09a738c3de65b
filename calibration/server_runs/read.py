"""The reader of server logs finds the kind of a file in the content."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from calibration.server_runs import iterations, metrics, requests
from calibration.server_runs import request_records as records
from calibration.server_runs.batch_rows import BatchRows, rows_of_table
from calibration.server_runs.documents import choose, parse_documents
from calibration.server_runs.iterations import IterationLog
from calibration.server_runs.metrics import MetricsLog
from calibration.server_runs.requests import RequestLog
from serving import WorkloadError
from serving.arguments import checked
from workload import TextTable, load_generator, read_text

ServerLog = RequestLog | MetricsLog | IterationLog | BatchRows
"""Contents that a file of a running server can have."""

KINDS = (
    "results of vllm bench serve --save-result --save-detailed, guidellm, inference-perf "
    "(per_request_lifecycle_metrics.json), aiperf (profile_export.jsonl) and LLMServingSim "
    "(requests.jsonl); JSON of query_range; scrapes of /metrics; log of vllm serve "
    "--enable-logging-iteration-details; "
    "CSV of arrival, first token, finish and lengths; "
    "CSV of throughputs per interval; CSV of windows (step_time_ms)"
)
"""Kinds of files that the reader knows, in words for its errors."""

SUMMARIES = {
    "load_summary": "a summary of inference-perf: per_request_lifecycle_metrics.json of the same "
    "run has the times of the requests",
    "input_config": "a summary of aiperf: profile_export.jsonl of the same run has the times of "
    "the requests",
}
"""What a result without single requests is, and where they are, by a key that it has."""


@checked()
def read_server_log(
    path: str | Path,
    *,
    interval: float | None = None,
    engine: str | None = None,
    labels: Mapping[str, str] | None = None,
    result: int | None = None,
    skip_gaps: bool = False,
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
    labels
        Further labels of the series to take, such as ``{"pod": "vllm-0"}``.
    result
        Number of the result to take, from 1, where a file has several.
    skip_gaps
        Whether a value ``NaN`` of a metric is a gap, and not an error.

    Returns
    -------
    A log of requests, of metrics or of iterations, or mean batch times where the file holds those.

    Raises
    ------
    WorkloadError
        Naming file, row, column or key, and value of the first that is wrong.
    FileAccessError
        If the file cannot be read.
    """
    path = Path(path)
    text = read_text(path)
    wanted = {**(labels or {}), **({} if engine is None else {"engine": engine})}
    start = text.lstrip()[:80]
    if start.startswith(("{", "[")):
        documents = parse_documents(text, path)
        if not _is_range_export(documents):
            _refuse_scraping(path, engine, labels, interval, skip_gaps)
        elif interval is not None:
            raise WorkloadError("--interval is for scrapes that say no time; these do", path=path)
        return _of_documents(documents, path, wanted, result, skip_gaps)
    if result is not None:
        raise WorkloadError("--result is for JSON with several results; this is none", path=path)
    if start.startswith(("#", "vllm:")):
        return metrics.from_exposition(
            text, path, interval=interval, labels=wanted, skip_gaps=skip_gaps
        )
    if iterations.is_iteration_log(text):
        _refuse_scraping(path, None, labels, interval, skip_gaps)
        return iterations.from_iteration_log(text, path, engine=engine)
    _refuse_scraping(path, engine, labels, interval, skip_gaps)
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


def _is_range_export(documents: list[Any]) -> bool:
    """Return whether JSON is the answer of Prometheus' query_range, or several of them."""
    entries = documents[0] if len(documents) == 1 else documents
    first = entries[0] if isinstance(entries, list) and entries else entries
    return isinstance(first, dict) and ("data" in first or "resultType" in first)


def _refuse_scraping(
    path: Path,
    engine: str | None,
    labels: Mapping[str, str] | None,
    interval: float | None,
    skip_gaps: bool,
) -> None:
    """Refuse the options of scraped metrics beside a file that holds none."""
    given = {
        "--engine": engine is not None,
        "--label": bool(labels),
        "--interval": interval is not None,
        "--skip-gaps": skip_gaps,
    }
    for flag, is_given in given.items():
        if is_given:
            raise WorkloadError(f"{flag} is for scraped metrics; this file holds none", path=path)


def _of_documents(
    documents: list[Any],
    path: Path,
    labels: Mapping[str, str],
    result: int | None,
    skip_gaps: bool,
) -> ServerLog:
    """Return the log in JSON: one document, or several as a list or one after the other."""
    entries = documents[0] if len(documents) == 1 else documents
    if not isinstance(entries, list):
        entries = [entries]
    if not entries:
        raise WorkloadError("an empty list: there is nothing to fit", path=path)
    first = entries[0]
    if not isinstance(first, dict):
        raise WorkloadError(f"not the JSON of a server's results; known are: {KINDS}", path=path)
    generator = load_generator(first)
    from_records = records.READERS.get(generator or "")
    if from_records is not None:
        if result not in (None, 1):
            raise WorkloadError(f"holds 1 result; --result {result} is none of them", path=path)
        return from_records(entries, path)
    if generator == "guidellm" and len(entries) == 1:
        return records.from_guidellm(first, path, result=result)
    if _is_range_export(documents):
        if result not in (None, 1):
            raise WorkloadError(f"holds 1 result; --result {result} is none of them", path=path)
        return metrics.from_range_export(entries, path, labels=labels, skip_gaps=skip_gaps)
    for key, words in SUMMARIES.items():
        if key in first:
            raise WorkloadError(words, path=path)
    if not any(key in first for key in (*requests.BENCH_KEYS, *requests.SUMMARY_KEYS)):
        raise WorkloadError(f"not the JSON of a server's results; known are: {KINDS}", path=path)
    for row, each in enumerate(entries, start=1):
        if not isinstance(each, dict):
            raise WorkloadError("allowed: an object", path=path, row=row)
    at = choose(
        [requests.described(each) for each in entries], result, path, "results of vllm bench serve"
    )
    return requests.from_bench(entries[at], path)
