"""``fluidserve calibrate run`` fits the batch-time law to the logs of a running server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from fluidserve import completion
from fluidserve.front import Command, option

if TYPE_CHECKING:
    from calibration.server_runs import Drift, RunCalibration


@click.command("run", cls=Command)
@click.argument("source", metavar="FILE", shell_complete=completion.file)
@option("--max-num-batched-tokens", "token_budget", type=int, default=None,
              help="token budget of the server; found where FILE has token times")  # fmt: skip
@option("--kv-capacity", "kv_capacity_tokens", type=float, default=None,
              help="KV cache [tokens] of the server, where FILE does not say it")  # fmt: skip
@option("--block-size", type=int, default=None,
              help="tokens of a KV block of the server, for a log of iterations")  # fmt: skip
@option("--interval", type=float, default=None,
              help="seconds between scrapes of /metrics that say no time")  # fmt: skip
@option("--engine", default=None, help="label 'engine' of the one to take, of several")
@option("--label", "labels", multiple=True, metavar="KEY=VALUE",
        help="take the metrics with this label, such as pod=vllm-0; repeatable")  # fmt: skip
@option("--result", type=int, default=None,
        help="number of the result to take, where FILE has several")  # fmt: skip
@option("--skip-gaps", is_flag=True, help="leave out times at which a metric is NaN")
@option("--decode-node", "remote_prefill", is_flag=True,
              help="prompts come with their KV: the server computes no prefill")  # fmt: skip
@option("--steps-per-row", type=int, default=None,
              help="batches averaged where FILE has token times  [default: 8]")  # fmt: skip
@option("--windows", type=int, default=8, show_default=True,
              help="half-overlapping windows in which the law is fitted again")  # fmt: skip
@option("--config", "config_file", default=None, metavar="FILE",
        help="configuration of the server: its engine replays the result of a client, and "
        "--config-out writes it with the law")  # fmt: skip
@option("--contents", default=None, metavar="FILE",
        help="request file that says what the prompts of the result consist of")  # fmt: skip
@option("--config-out", default=None, metavar="FILE", section="Output",
              help="write the law, and the KV capacity if visible, as a configuration")  # fmt: skip
@option("--stalls/--no-stalls", default=False, show_default=True, section="Output",
        help="--config-out: lengthen the law by what batches took beyond it")  # fmt: skip
def run(
    source: str,
    interval: float | None,
    engine: str | None,
    labels: tuple[str, ...],
    result: int | None,
    skip_gaps: bool,
    config_file: str | None,
    contents: str | None,
    config_out: str | None,
    stalls: bool,
    **options: Any,
) -> None:
    """Fit the batch-time law to what a server wrote while it ran.

    FILE is a result of `vllm bench serve --save-result --save-detailed`, guidellm, inference-perf
    (per_request_lifecycle_metrics.json), aiperf (profile_export.jsonl) or LLMServingSim
    (requests.jsonl), the log of `vllm serve --enable-logging-iteration-details`, a CSV of
    arrival, first token, finish and lengths, scrapes of /metrics one after the other, the answer
    of Prometheus' query_range, a CSV of throughputs per interval, or one of windows; plain or gzip,
    and its content shows which. Printed are the law with intervals and what is identified, its
    error on the later part of the run, drift in a sliding window, the front end's share of TTFT,
    and the KV capacity if it shows. With --config of a server that computes its prompts, its
    engine tells what a client does not see: prefix hits, preemptions, chunks of prompts.
    """
    from calibration.server_runs import calibrate_run, read_server_log
    from calibration.server_runs.iterations import IterationLog
    from fluidserve.folders import emit
    from fluidserve.jobs.calibrate_run import doubts_of, replay_for
    from fluidserve.options import FlagError
    from fluidserve.tables import run_fit_table
    from serving import FluidServeError
    from serving.files import check_writable

    if config_out is not None:
        check_writable(config_out, source)
    if interval is not None and not 0 < interval < float("inf"):
        raise FlagError("--interval", interval, "a finite number > 0")
    if stalls and config_out is None:
        raise FluidServeError("--stalls is for the configuration that --config-out writes")
    given = {key: value for key, value in options.items() if value is not None}
    log = read_server_log(
        source, interval=interval, engine=engine, labels=_labels(labels), result=result,
        skip_gaps=skip_gaps,
    )  # fmt: skip
    replay, server = replay_for(log, config_file, contents, given.get("kv_capacity_tokens"))
    budget = server.get("max_num_batched_tokens")
    if budget is not None:
        given.setdefault("token_budget", budget)
    if given.get("block_size") is not None and not isinstance(log, IterationLog):
        raise FluidServeError(
            "--block-size is for a log of iterations; a server's own file says it"
        )
    block = server.get("block_size")
    if block is not None:
        given.setdefault("block_size", block)
    found = calibrate_run(log, path=source, replay=replay, **given)
    if config_out is not None:
        _write_config(found, source, config_out, config_file, stalls)
    doubts = doubts_of(log, found, replay)
    emit({"input": source, **_told(found), "latencies": doubts}, run_fit_table)


def _labels(given: tuple[str, ...]) -> dict[str, str]:
    """Return labels by name; refuse what is no label."""
    from fluidserve.options import FlagError

    labels: dict[str, str] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not key or not equals or key in labels:
            raise FlagError("--label", text, "KEY=VALUE, each key once")
        labels[key] = value.strip('"')
    return labels


def _told(found: RunCalibration) -> dict[str, Any]:
    from dataclasses import asdict

    def estimate(each: Any) -> Any:
        return None if each is None else asdict(each)

    return {
        "kind": found.kind,
        "rows": len(found.rows),
        "batches": int(found.rows.steps.sum()) if found.rows.disjoint else None,
        "time_unit": "s",
        "law": found.coefficients(),
        "condition": found.law.condition,
        "mape": found.mape,
        "held_out": estimate(found.held_out),
        "drift": None if found.drift is None else _drift(found.drift),
        "kv_capacity": estimate(found.kv_capacity),
        "frontend_offset": estimate(found.frontend_offset),
        "max_num_batched_tokens": found.token_budget,
        "max_num_batched_tokens_inferred": found.budget_inferred,
        "reconstructed": found.reconstructed,
        "gap_between_steps": estimate(found.gap),
        "beyond_law": found.beyond_law,
        "dropped": dict(found.dropped),
        "warnings": [*found.notes, *_front_end(found)],
    }


def _front_end(found: RunCalibration) -> list[str]:
    """Say that predictions with the law do not contain the time of the front end."""
    offset = found.frontend_offset
    if offset is None:
        return []
    return [
        f"the front end takes {1e3 * offset.value:.3g} ms of each request's time to the first "
        "token; predictions with the law do not contain it"
    ]


def _drift(found: Drift) -> dict[str, Any]:
    import numpy as np

    from calibration.server_runs import COEFFICIENTS

    def law(values: Any) -> dict[str, float | None] | None:
        if values is None:
            return None
        return {
            name: float(value) if np.isfinite(value) else None
            for name, value in zip(COEFFICIENTS, values, strict=True)
        }

    return {
        "drifting": found.drifting,
        "slope_per_hour": found.slope,
        "slope_error": found.slope_error,
        "windows": [
            {"start": w.start, "end": w.end, "rows": w.rows, "bias": w.bias,
             "bias_error": w.bias_error, "law": law(w.law)}
            for w in found.windows
        ],
    }  # fmt: skip


def _write_config(
    found: RunCalibration, source: str, path: str, server: str | None, stalls: bool
) -> None:
    """Write the configuration with this law, and say what it lacks."""
    from fluidserve.jobs.calibrate_run import configuration
    from fluidserve.law_files import LACKING
    from serving.files import atomic_write

    text, has_memory = configuration(found, source, _front_end(found), server, stalls=stalls)
    with atomic_write(path) as file:
        file.write(text)
    if not has_memory:
        click.echo(f"note: {path} {LACKING}", err=True)
