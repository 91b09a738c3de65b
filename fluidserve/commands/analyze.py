"""``fluidserve analyze`` predicts one node by theory and says when not to trust the theory."""

from __future__ import annotations

from typing import Any

import click

from fluidserve.automatic import auto_command_options, auto_options
from fluidserve.front import Command, option
from fluidserve.options import instance_options, run_options, workload_options


@click.command("analyze", cls=Command)
@workload_options
@instance_options
@run_options
@option(
    "--transient/--stationary", default=None,
    help="latencies from an empty start over the arrivals, or of the equilibrium "
    "[default: of the equilibrium where the load is constant and below 1]",
)  # fmt: skip
@option(
    "--solve-gradients",
    is_flag=True,
    help="also differentiate the Eulerian solve by JAX (compiles for half a minute)",
)
@option(
    "--method", default="auto", show_default=True, type=click.Choice(["auto", "model"]),
    help="whose latencies: auto: of whoever is expected to be close enough, the model or runs of "
    "the engine; model: of the model",
)  # fmt: skip
@auto_command_options
@option("--approximate", is_flag=True, help="read unmodelled policies as FCFS and LIFO")
def command(
    transient: bool | None, solve_gradients: bool, approximate: bool, method: str, **params: Any
) -> None:
    """Predict one node by theory: means, tails, stability, gradients, warnings.

    Prints JSON and writes a page to read, analysis.html, with the same in a folder. Capacity,
    regime, healthy equilibrium and its second moments, the certificate of the memory-full
    equilibrium, TTFT and E2EL with percentiles of this one node, and what moves them. Latencies are
    those of the theory where it is expected to be close enough, else of runs of the engine.
    """
    from fluidserve.folders import emit, experiment_folder
    from fluidserve.inputs import load_inputs
    from fluidserve.jobs.analyze import analyze_into, is_over_time, refuse_an_end
    from fluidserve.tables import analysis_table

    auto = auto_options(params)
    inputs = load_inputs({**params, "solve_gradients": solve_gradients})
    if transient is None:
        transient = is_over_time(inputs.question, is_constant=inputs.is_constant)
    if not transient and not solve_gradients:
        refuse_an_end(params)
    with experiment_folder(inputs.config.output_dir) as (folder, final):
        result = analyze_into(
            folder, final, inputs,
            over_time=transient, solve_gradients=solve_gradients, approximate=approximate,
            method=method, auto=auto,
        )  # fmt: skip
    emit(result | {"output_dir": str(final)}, analysis_table)
