"""``fluidserve solve``: the fluid model of one node under one workload."""

from __future__ import annotations

from typing import Any

import click

from fluidserve.options import goodput_option, instance_options, run_options, workload_options


@click.command("solve")
@workload_options
@instance_options
@run_options
@goodput_option
@click.option("--method", default="lagrangian", show_default=True, help="solver; see --methods")
@click.option("--methods", is_flag=True, help="list the methods and exit")
@click.option("--approximate", is_flag=True, help="solve unmodelled policies as FCFS and LIFO")
@click.option("--drain/--no-drain", default=True, show_default=True, help="go on until empty")
@click.option("--initial-waiting", type=float, default=0.0, help="requests in WAITING at time 0")
@click.option("--step", type=float, help="Eulerian step [time]")
@click.option("--batches-per-step", type=int, help="Lagrangian step [batches]")
def command(
    goodput: tuple[str, ...],
    method: str,
    methods: bool,
    approximate: bool,
    drain: bool,
    initial_waiting: float,
    step: float | None,
    batches_per_step: int | None,
    **params: Any,
) -> None:
    """Solve the fluid model; print its metrics as JSON and write its trajectory."""
    from fluidserve.config import resolved_yaml
    from fluidserve.experiment import Stopwatch, emit, experiment_folder, write_common
    from fluidserve.inputs import load_inputs
    from fluidserve.results import (
        for_people,
        instance_line,
        parse_goodput,
        summary_of,
        write_trajectory,
    )
    from ode import METHODS, InitialState, solve

    if methods:
        emit(list(METHODS))
        return
    watch = Stopwatch()
    inputs = load_inputs(params)
    node = inputs.instance
    thresholds = parse_goodput(goodput, node.time_unit)
    options = {"step": step, "batches_per_step": batches_per_step}
    options = {name: value for name, value in options.items() if value is not None}
    with experiment_folder(inputs.config.output_dir) as (folder, final):
        with watch("solve"):
            flow = solve(
                inputs.profile, inputs.mix, node, method=method, drain=drain,
                initial=InitialState(waiting=initial_waiting), approximate=approximate, **options,
            )  # fmt: skip
        with watch("latencies"):
            metrics = flow.metrics(thresholds)
        summary = summary_of(
            inputs, metrics, method=flow.method, status=flow.status, message=flow.message,
            labels=list(flow.labels), stats=dict(flow.stats),
        )  # fmt: skip
        write_trajectory(folder / "trajectory.csv", flow.trajectory)
        write_common(
            folder, final, config_yaml=resolved_yaml(inputs.config, node), summary=summary,
            people=for_people(f"Fluid solution ({flow.method}): {instance_line(node)}", summary),
            seed=inputs.config.seed, timings=watch.seconds,
        )  # fmt: skip
    emit(summary | {"seconds": watch.seconds, "output_dir": str(final)})
