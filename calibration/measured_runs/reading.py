"""Read a measured run: its requests, the settings of its server, its series over time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from calibration.measured_runs.files import RunFiles, run_files
from calibration.measured_runs.run import MeasuredRun, TimeSeries, repeated_prompts
from calibration.measured_runs.settings import with_settings
from calibration.measured_runs.tables import from_failing_table, from_log, has_failures
from calibration.refusal import refuse_first
from calibration.server_runs import RequestLog, read_server_log
from serving import WorkloadError
from serving.arguments import checked
from workload import TextTable, read_text

COLUMNS = {
    "running": ("running", "num_running"),
    "waiting": ("waiting", "num_pending"),
    "output_throughput": ("gen_throughput", "generation_throughput"),
    "prompt_throughput": ("prompt_throughput",),
}
"""Names of the columns of a series."""

CLOCK = ("t", "t_s", "time")


@checked()
def read_measured_run(path: str | Path, *, result: int | None = None) -> MeasuredRun:
    """Read a measured run.

    Parameters
    ----------
    path
        Its file of requests; a folder that holds one run; or a folder and the name of a run in it.
        Files of requests are CSV of arrival, first token, finish and lengths (with a column
        ``failed``, if requests failed) and the results of vllm bench serve, inference-perf,
        guidellm, aiperf and LLMServingSim.
    result
        Number of the result to take, from 1, where a file has several.

    Raises
    ------
    WorkloadError
        Naming file, row, column or key, and value of the first that is wrong.
    FileAccessError
        If there is no such run.
    """
    files = run_files(Path(path))
    run = _requests(files, result)
    run = with_settings(run, files)
    if run.prompts is None or not run.shared_prefix:
        lag = repeated_prompts(run.prompt_tokens)
        if lag is not None:
            others = [each for each in run.notes if "are taken in turn" not in each]
            run = replace(run, notes=tuple(others)).noted(
                f"prompt lengths repeat after {lag} requests: each request is taken to send the "
                f"very prompt of the request {lag} before it", prompts=lag,
            )  # fmt: skip
    if files.series is not None:
        run = replace(run, series=_series(files.series))
    return run


def _requests(files: RunFiles, result: int | None) -> MeasuredRun:
    path = files.requests
    if _begins_like_json(path):
        table = None
    else:
        table = TextTable.parse(read_text(path), path)
    if table is not None and has_failures(table):
        if result is not None:
            raise WorkloadError("--result is for JSON with several results", path=path)
        return from_failing_table(table, files.name)
    log = read_server_log(path, result=result)
    if not isinstance(log, RequestLog):
        raise WorkloadError("holds no requests; a run is validated request by request", path=path)
    return from_log(log, path, files.name)


def _begins_like_json(path: Path) -> bool:
    return read_text(path).lstrip()[:1] in ("{", "[")


def _series(path: Path) -> TimeSeries:
    table = TextTable.parse(read_text(path), path)
    clock = next((name for name in CLOCK if name in table.columns), None)
    if clock is None:
        raise WorkloadError(f"a column is missing: one of {' | '.join(CLOCK)}", path=path)
    time = table.numbers(clock)
    refuse_first(np.diff(time, prepend=-np.inf) < 0, "times must not fall", column=clock,
                 values=time, path=path)  # fmt: skip
    found = {}
    for name, columns in COLUMNS.items():
        column = next((each for each in columns if each in table.columns), None)
        if column is not None:
            values = table.numbers(column)
            refuse_first(values < 0, "allowed: a number >= 0", column=column, values=values,
                         path=path)  # fmt: skip
            found[name] = values
    return TimeSeries(time, found)
