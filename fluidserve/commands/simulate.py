"""``fluidserve simulate`` runs the discrete engine once and writes all run files."""

from __future__ import annotations

from typing import Any

import click

from fluidserve.front import Command, option
from fluidserve.options import (
    goodput_option,
    instance_options,
    progress_option,
    run_options,
    workload_options,
)


@click.command("simulate", cls=Command)
@workload_options
@instance_options
@run_options
@progress_option
@goodput_option
@option("--until", type=float, help="stop at the first batch boundary at or after this")
@option("--events/--no-events", default=None, help="write event files  [default: events]",
        section="Output")  # fmt: skip
@option(
    "--save-state",
    metavar="FILE",
    help="write the engine's state",
    section="Output",
)
@option(
    "--bench-json",
    metavar="FILE",
    help="write the result that vllm bench serve would have written",
    section="Output",
)
@option("--save-detailed", is_flag=True, help="--bench-json: times and lengths of every request",
        section="Output")  # fmt: skip
@option(
    "--percentile-metrics",
    metavar="NAME,NAME,...",
    help="--bench-json: latencies, of ttft,tpot,itl,e2el  [default: all]",
    section="Output",
)
@option(
    "--metric-percentiles",
    metavar="P,P,...",
    help="--bench-json: percentiles of them  [default: 99]",
    section="Output",
)
@option(
    "--llmd-report",
    metavar="FILE",
    help="write a Benchmark Report v0.2 of llm-d",
    section="Output",
)
@option("--law-error", type=float, metavar="E",
        help="also the mean latencies where batches take a share E less, and more")  # fmt: skip
@option("--at-batch", type=int, help="batch at which --save-state saves; else at the end")
@option(
    "--resume",
    metavar="FILE",
    help="go on from a state, with its instance and requests",
)
@option(
    "--inject",
    metavar="FILE",
    help="other requests from --inject-at on",
)
@option("--inject-at", type=float, help="time from which --inject counts; else now")
@option("--keep-arrivals", is_flag=True, help="injected requests come besides the others")
@option("--max-concurrency", type=int,
        help="most requests sent and not yet answered: later ones wait (engine vllm_v1)",
        section="Workload")  # fmt: skip
@option("--decision-log", metavar="FILE", help="write a row per schedule() call of a vLLM engine",
        section="Output")  # fmt: skip
@option("--request-log", metavar="FILE", help="write a row per request of a vLLM engine",
        section="Output")  # fmt: skip
@option("--log-extended", is_flag=True, default=None, section="Output",
        help="with the columns of prefix cache, aborts, priorities and speculation")  # fmt: skip
def command(**params: Any) -> None:
    """Simulate a workload batch by batch; print its metrics and write every record.

    For --model on --hardware the engine is vllm_v1, a vLLM server that computes its prompts;
    --engine decode_node takes prompts as computed elsewhere.

    A state saved at a batch is resumed bit for bit. --inject replaces what would have arrived
    from a time on: a load change studied from a saved state.
    """
    from fluidserve.folders import emit, experiment_folder
    from fluidserve.inputs import load_config_of
    from fluidserve.jobs.simulate import simulate_into
    from fluidserve.tables import run_table
    from serving.files import check_writable

    for key in ("save_state", "decision_log", "request_log"):
        if params[key] is not None:
            check_writable(params[key])
    with experiment_folder(load_config_of(params).output_dir) as (folder, final):
        result = simulate_into(folder, final, params)
    emit(result | {"output_dir": str(final)}, run_table)
