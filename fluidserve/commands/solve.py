"""``fluidserve solve`` solves the fluid model of one node under one workload."""

from __future__ import annotations

from typing import Any

import click

from fluidserve import completion
from fluidserve.front import Command, option
from fluidserve.options import goodput_option, instance_options, run_options, workload_options


@click.command("solve", cls=Command)
@workload_options
@instance_options
@run_options
@goodput_option
@option(
    "--method",
    default="lagrangian",
    show_default=True,
    help="solver, see --methods; auto: the cheapest whose expected error is small, or the engine",
    shell_complete=completion.of_words(completion.methods),
)
@option("--within", type=float, help="auto: how far off an answer may be, such as 0.05 (default)")
@option("--budget", type=float, help="auto: seconds that the engine may take, 10 by default")
@option("--methods", is_flag=True, help="list the methods and exit")
@option("--approximate", is_flag=True, help="solve unmodelled policies as FCFS and LIFO")
@option("--drain/--no-drain", default=True, show_default=True, help="go on until empty")
@option("--initial-waiting", type=float, default=0.0, help="requests in WAITING at time 0")
@option("--step", type=float, help="step of eulerian_jax, in batch times, <= 1")
@option("--batches-per-step", type=int, help="batches per step of lagrangian")
def command(methods: bool, **params: Any) -> None:
    """Solve the fluid model; print its metrics and write its trajectory."""
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
