"""``fluidserve solve`` solves the fluid model of one node under one workload."""

from __future__ import annotations

from typing import Any

import click

from fluidserve import completion
from fluidserve.automatic import auto_command_options
from fluidserve.front import Command, option
from fluidserve.options import goodput_option, instance_options, run_options, workload_options


@click.command("solve", cls=Command)
@workload_options
@instance_options
@run_options
@goodput_option
@option(
    "--method",
    default="auto",
    show_default=True,
    help="solver, see --methods; auto: the cheapest whose expected error is small, or the engine",
    shell_complete=completion.of_words(completion.methods),
)
@auto_command_options
@option("--methods", is_flag=True, help="list the methods and exit")
@option("--approximate", is_flag=True, help="solve unmodelled policies as FCFS and LIFO")
@option("--drain/--no-drain", default=True, show_default=True, help="go on until empty")
@option("--initial-waiting", type=float, default=0.0, help="requests in WAITING at time 0")
@option("--step", type=float, help="step of eulerian_jax, in batch times, <= 1")
@option("--batches-per-step", type=int, help="batches per step of lagrangian")
def command(methods: bool, **params: Any) -> None:
    """Predict one node over time; print its metrics and write its trajectory.

    The fluid model answers where it is expected to be close enough, then the model of one node at
    its size, else runs of the engine; --method names who is to answer.
    """
    from fluidserve.folders import emit, experiment_folder
    from fluidserve.inputs import load_config_of

    if methods:
        from ode import METHODS

        emit(list(METHODS))
        return
    from fluidserve.jobs.solve import solve_into
    from fluidserve.tables import solution_table

    with experiment_folder(load_config_of(params).output_dir) as (folder, final):
        result = solve_into(folder, final, params)
    emit(result | {"output_dir": str(final)}, solution_table)
