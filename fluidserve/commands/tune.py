"""``fluidserve tune`` finds the rate or knob value at which an objective stops being met."""

from __future__ import annotations

from typing import Any

import click

from fluidserve.options import goodput_option, instance_options, run_options, workload_options


@click.command("tune")
@click.argument("knob")
@click.option(
    "--slo", "slos", multiple=True, metavar="STATISTIC_LATENCY<LIMIT",
    help='objective, such as "p99_ttft<2" or "p99_ttft_ms<2000"; repeatable, all are to be met',
)  # fmt: skip
@click.option("--bracket", metavar="LOW:HIGH", help="where to look; else the knob's own bracket")
@click.option("--tolerance", type=float, help="relative width of the answer  [default: 0.01]")
@click.option("--replications", type=int, help="most runs per point  [default: 16]")
@click.option("--confidence", type=float, help="of a verdict  [default: 0.95]")
@click.option("--scan", type=int, help="points of the engine's first look  [default: 4]")
@click.option("--run-length", type=int, help="least requests of a run  [default: 20000]")
@click.option("--max-run-length", type=int, help="most requests of a run  [default: 1000000]")
@workload_options
@instance_options
@run_options
@goodput_option
def command(knob: str, slos: tuple[str, ...], bracket: str | None, **params: Any) -> int:
    """Find the value of KNOB at which objectives stop being met; print it as JSON.

    KNOB is max-rate (capacity: the largest arrival rate), M-total or B (the smallest that will
    do), or admission-threshold (the largest that will do). In steady state: the first 10 % of
    each run are dropped and the backlog must not grow; without --slo that is all. The fluid model
    says where to look, the engine what is true. Two knobs with a comma between them and --goodput:
    the pair at which most requests meet the thresholds. Exit status 1 where no value meets the
    objectives.
    """
    from fluidserve.folders import emit
    from fluidserve.jobs.tune import parse_bracket, tuned

    options = {
        "bracket": parse_bracket(bracket),
        "tolerance": params.pop("tolerance"),
        "replications": params.pop("replications"),
        "confidence": params.pop("confidence"),
        "scan": params.pop("scan"),
        "least_requests": params.pop("run_length"),
        "most_requests": params.pop("max_run_length"),
    }
    result, status = tuned(params, knob, slos, options)
    emit(result)
    return status
