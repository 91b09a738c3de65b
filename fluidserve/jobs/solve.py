"""Write one fluid solution as an experiment folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fluidserve.config import resolved_yaml
from fluidserve.folders import REQUESTS, Stopwatch, write_common
from fluidserve.inputs import Inputs, load_inputs
from fluidserve.methods import method_name, parse_method
from fluidserve.results import largest, parse_goodput, summary_of, thin_trajectory, write_trajectory
from fluidserve.text import for_people, instance_line
from ode import METHODS, InitialState, Solution, solve
from serving import UnsupportedError
from workload import write_requests

OPTIONS = ("step", "batches_per_step")
"""Options of the command that belong to one method."""


def solved(inputs: Inputs, params: Mapping[str, Any]) -> Solution:
    """Return the solution that the parameters of a command, or of a sweep's point, ask for."""
    question = inputs.question
    method = parse_method(params["method"])
    return solve(
        question.profile,
        question.mix,
        question.instance,
        method=method,
        drain=params.get("drain", True),
        initial=InitialState(waiting=params["initial_waiting"]),
        approximate=params["approximate"],
        **_method_options(method, params),
    )


def solve_row(inputs: Inputs, params: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the metrics of a solution, and its warnings."""
    unit = inputs.instance.time_unit
    thresholds = parse_goodput(params["goodput"], unit, inputs.question.longest_decode)
    flow = solved(inputs, params)
    warnings = inputs.warnings(*flow.warnings, largest=largest(flow.trajectory.outputs))
    return flow.metrics(thresholds).to_json(unit), warnings


def solve_into(folder: Path, final: Path, params: Mapping[str, Any]) -> dict[str, Any]:
    """Solve, write everything into ``folder`` and return what the command prints.

    Parameters
    ----------
    folder, final
        Where to write, and what it will be called.
    params
        Of the command.
    """
    watch, inputs = Stopwatch(), load_inputs(params)
    node = inputs.instance
    watch.speaks = inputs.config.verbose
    thresholds = parse_goodput(params["goodput"], node.time_unit, inputs.question.longest_decode)
    with watch("solve"):
        flow = solved(inputs, params)
    with watch("latencies"):
        metrics = flow.metrics(thresholds)
    with watch("trajectory"):
        path, thinned = thin_trajectory(flow.trajectory)
        limits = largest(flow.trajectory.outputs)
    warnings = inputs.warnings(*flow.warnings, *thinned, largest=limits)
    error = flow.error
    summary = summary_of(
        inputs, metrics, warnings, kind="solution", method=flow.method, status=flow.status,
        message=flow.message, labels=list(flow.warnings), stats=dict(flow.stats),
        confidence=error.confidence, error=error.to_json(),
    )  # fmt: skip
    ran = REQUESTS if inputs.question.is_file else None
    with watch("write"):
        write_trajectory(folder / "trajectory.csv", path)
        if ran is not None:  # the exact mix of a generator is in no file
            write_requests(inputs.question.requests, folder / ran)
    title = f"Fluid solution, {method_name(flow.method)}: {instance_line(node)}"
    write_common(
        folder, final, config_yaml=resolved_yaml(inputs.config, node, ran), summary=summary,
        people=for_people(title, summary), seed=inputs.config.seed, timings=watch.seconds,
    )  # fmt: skip
    return summary | {"seconds": watch.seconds}


def _method_options(method: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options given for the method; refuse those of another."""
    given = {name: params[name] for name in OPTIONS if params.get(name) is not None}
    for name in given:
        if name not in METHODS[method].options:
            owners = " and ".join(each.name for each in METHODS.values() if name in each.options)
            raise UnsupportedError(
                f"--{name.replace('_', '-')} belongs to the method {owners}, not {method}"
            )
    return given
