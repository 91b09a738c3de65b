"""Write one fluid solution as an experiment folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fluidserve.automatic import AUTO, AUTO_OPTIONS, ENGINE, auto_json, auto_options
from fluidserve.config import resolved_yaml
from fluidserve.folders import REQUESTS, Stopwatch, write_common
from fluidserve.inputs import Inputs, load_inputs
from fluidserve.methods import method_name, parse_method
from fluidserve.results import largest, parse_goodput, summary_of, thin_trajectory, write_trajectory
from fluidserve.text import for_people, instance_line
from ode import METHODS, InitialState, Solution, solve
from ode.error_model import ErrorReport
from serving import ServingMetrics, Trajectory, UnsupportedError
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


@dataclass(frozen=True, slots=True, eq=False)
class Solved:
    """What a solve writes, whoever answers.

    Parameters
    ----------
    method
        Who answers: a method of :data:`ode.METHODS`, or ``engine``.
    metrics
        Latencies and totals.
    trajectory
        Every output over time.
    warnings
        What limits the answer.
    error
        How far off it is expected to be.
    said
        Further entries of the summary.
    """

    method: str
    metrics: ServingMetrics
    trajectory: Trajectory
    warnings: tuple[str, ...]
    error: ErrorReport
    said: Mapping[str, Any]


def answered(
    inputs: Inputs, params: Mapping[str, Any], thresholds: Mapping[str, float] | None
) -> Solved:
    """Return the answer that the parameters of a command, or of a sweep's point, ask for."""
    method = params["method"]
    if method == AUTO:
        method = _owner_of_options(params) or AUTO
    if method == AUTO:
        return _automatically(inputs, params, thresholds)
    for name in (name for name in AUTO_OPTIONS if params.get(name) is not None):
        raise UnsupportedError(f"--{name} belongs to --method {AUTO}, not {method}")
    flow = solved(inputs, {**params, "method": method})
    return _of(flow, flow.metrics(thresholds), {})


def _owner_of_options(params: Mapping[str, Any]) -> str | None:
    """Return the method whose option is given: who gives one means this method."""
    given = [name for name in OPTIONS if params.get(name) is not None]
    return next((name for name, each in METHODS.items() if set(given) & set(each.options)), None)


def _of(flow: Solution, metrics: ServingMetrics, said: Mapping[str, Any]) -> Solved:
    more = {
        "status": flow.status, "message": flow.message, "labels": list(flow.warnings),
        "stats": dict(flow.stats), **said,
    }  # fmt: skip
    return Solved(flow.method, metrics, flow.trajectory, flow.warnings, flow.error, more)


def _automatically(
    inputs: Inputs, params: Mapping[str, Any], thresholds: Mapping[str, float] | None
) -> Solved:
    """Let the expected errors choose who answers."""
    from studies.automatic import answer

    found = answer(
        inputs.question,
        **auto_options(params),
        initial=InitialState(waiting=params["initial_waiting"]),
        drain=params.get("drain", True),
        approximate=params["approximate"],
    )
    said = {"auto": auto_json(found)}
    if isinstance(found.of, Solution):
        told = _of(found.of, found.metrics(thresholds), said)
        return replace(told, warnings=found.warnings)
    stats = {"replications": found.error.replications}
    said |= {"status": "done", "message": found.words, "labels": [], "stats": stats}
    return Solved(
        found.chosen, found.metrics(thresholds), found.trajectory, found.warnings, found.error, said
    )


def solve_row(inputs: Inputs, params: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the metrics of a solution, and its warnings."""
    unit = inputs.instance.time_unit
    thresholds = parse_goodput(params["goodput"], unit, inputs.question.longest_decode)
    found = answered(inputs, params, thresholds)
    warnings = inputs.warnings(*found.warnings, largest=largest(found.trajectory.outputs))
    return {**found.metrics.to_json(unit), **found.error.columns()}, warnings


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
        found = answered(inputs, params, thresholds)
    with watch("trajectory"):
        path, thinned = thin_trajectory(found.trajectory)
        limits = largest(found.trajectory.outputs)
    warnings = inputs.warnings(*found.warnings, *thinned, largest=limits)
    summary = summary_of(
        inputs, found.metrics, warnings, kind="solution", method=found.method, **found.said,
        confidence=found.error.confidence, error=found.error.to_json(),
    )  # fmt: skip
    ran = REQUESTS if inputs.question.is_file else None
    with watch("write"):
        write_trajectory(folder / "trajectory.csv", path)
        if ran is not None:  # the exact mix of a generator is in no file
            write_requests(inputs.question.requests, folder / ran)
    what = "Runs of the engine" if found.method == ENGINE else "Fluid solution"
    title = f"{what}, {method_name(found.method)}: {instance_line(node)}"
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
