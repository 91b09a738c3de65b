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
              help="KV cache [tokens], where metrics say only the share in use")  # fmt: skip
@option("--interval", type=float, default=None,
              help="seconds between scrapes of /metrics that say no time")  # fmt: skip
@option("--engine", default=None, help="label 'engine' of the one to take, of several")
@option("--decode-node", "remote_prefill", is_flag=True,
              help="prompts come with their KV: the server computes no prefill")  # fmt: skip
@option("--steps-per-row", type=int, default=None,
              help="batches averaged where FILE has token times  [default: 8]")  # fmt: skip
@option("--windows", type=int, default=8, show_default=True,
              help="half-overlapping windows in which the law is fitted again")  # fmt: skip
@option("--config-out", default=None, metavar="FILE", section="Output",
              help="write the law, and the KV capacity if visible, as a configuration")  # fmt: skip
def run(
    source: str, interval: float | None, engine: str | None, config_out: str | None, **options: Any
) -> None:
    """Fit the batch-time law to what a server wrote while it ran.

    FILE is a result of `vllm bench serve --save-result --save-detailed` (JSON), a CSV of arrival,
    first token, finish and lengths, scrapes of /metrics one after the other, the answer of
    Prometheus' query_range (JSON), a CSV of throughputs per interval, or one of windows. Printed
    are the law with intervals and what is identified, its error on the later part of the run,
    drift in a sliding window, the front end's share of TTFT, and the KV capacity if it shows.
    """
    from calibration.server_runs import calibrate_run, read_server_log
    from fluidserve.folders import emit
    from fluidserve.options import FlagError
    from fluidserve.tables import run_fit_table

    if interval is not None and not 0 < interval < float("inf"):
        raise FlagError("--interval", interval, "a finite number > 0")
    given = {key: value for key, value in options.items() if value is not None}
    found = calibrate_run(read_server_log(source, interval=interval, engine=engine), **given)
    for note in found.notes:
        click.echo(f"note: {note}", err=True)
    if config_out is not None:
        _write_config(found, source, config_out)
    emit({"input": source, **_told(found)}, run_fit_table)


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
        "dropped": dict(found.dropped),
        "notes": list(found.notes),
    }


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


def _write_config(found: RunCalibration, source: str, path: str) -> None:
    """Write the configuration of a decode node with this law."""
    import yaml

    from serving import UnsupportedError
    from serving.files import atomic_write

    if found.rows.kv_is_share or found.rows.kv_tokens is None:
        raise UnsupportedError("--config-out needs d_kv per token: give --kv-capacity")
    head = f"# Batch-time law fitted to {source} by fluidserve calibrate run\n"
    with atomic_write(path) as file:
        file.write(head + yaml.safe_dump(found.config(), sort_keys=False))
