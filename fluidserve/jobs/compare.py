"""Write a comparison as an experiment folder: files, pictures, report."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fluidserve.config import flat, resolved_yaml
from fluidserve.folders import REQUESTS, Stopwatch, write_common
from fluidserve.inputs import Inputs, load_inputs
from fluidserve.methods import parse_methods
from fluidserve.pictures import COMPARISON, draw, write_comparison
from fluidserve.plots import Curve, pressure_spans
from fluidserve.progress import comparison_progress
from fluidserve.report import write_report
from fluidserve.results import largest, parse_goodput
from fluidserve.text import for_people, instance_line

if TYPE_CHECKING:
    from studies import Comparison
    from studies.comparison import Told

TIMED = ("seconds", "speedup")
"""Keys that differ between equal runs; they go to ``meta.json``."""


def compared(
    inputs: Inputs, params: Mapping[str, Any], *, workers: int | None, told: Told | None = None
) -> Comparison:
    """Return the comparison that the parameters of a command, or of a sweep's point, ask for.

    Parameters
    ----------
    inputs
        What is compared.
    params
        ``methods``, ``replications``, ``goodput``, ``approximate`` and ``within``, where given.
    workers
        Processes of the replications.
    told
        As of :func:`studies.compare`.
    """
    from studies import Replications, compare

    return compare(
        inputs.question,
        None if params["methods"] is None else parse_methods(params["methods"]),
        Replications(params["replications"], workers=workers),
        goodput=parse_goodput(
            params["goodput"], inputs.instance.time_unit, inputs.question.longest_decode
        ),
        approximate=params["approximate"],
        told=told,
        **({} if params.get("within") is None else {"within": params["within"]}),
    )


def compare_row(inputs: Inputs, params: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return scores and headline metrics of the replications and of each method, and warnings."""
    unit = inputs.instance.time_unit
    done = compared(inputs, params, workers=1)
    row: dict[str, Any] = {"replications": done.discrete.replications}
    row["noise_floor"] = done.noise_floor["in_system"]
    assert done.discrete.metrics is not None
    row |= {f"discrete_{k}": v for k, v in done.discrete.metrics.to_json(unit).items()}
    for method, each in done.methods.items():
        row |= {f"{method}_nrmse_{output}": value for output, value in each.nrmse.items()}
        if each.metrics is not None:
            row |= {f"{method}_{k}": v for k, v in each.metrics.to_json(unit).items()}
        row |= {f"{method}_{k}": v for k, v in each.error.columns().items()}
    return row, _warnings(done, inputs)


def compare_into(
    folder: Path, final: Path, params: Mapping[str, Any], *, pictures: bool
) -> dict[str, Any]:
    """Compare, write everything into ``folder`` and return what the command prints.

    Parameters
    ----------
    folder, final
        Where to write, and what it will be called.
    params
        Of the command.
    pictures
        Whether to draw and report.
    """
    import discrete
    from workload import write_requests

    watch, inputs = Stopwatch(), load_inputs(params)
    node, seed = inputs.instance, inputs.config.seed
    with watch("compare"):
        done = compared(
            inputs, params, workers=params["workers"],
            told=comparison_progress(inputs.config.verbose),
        )  # fmt: skip
    result = _result(done, inputs)
    with watch("write"):
        run = discrete.simulate(done.discrete.requests, node, seed=seed, record_events=True)
        run.write(folder)
        write_requests(done.discrete.requests, folder / REQUESTS)
        _write_trajectories(folder / COMPARISON, done)
        timings = watch.seconds | _timings(result)
        write_common(
            folder,
            final,
            config_yaml=resolved_yaml(inputs.config, node, REQUESTS),
            summary=_untimed(result),
            people=for_people(f"Fluid next to discrete: {instance_line(node)}", _untimed(result)),
            seed=seed,
            timings=timings,
        )
    if pictures:
        if inputs.config.verbose:
            print("drawing", file=sys.stderr)
        draw(folder)
        write_report(folder)
    return result


def _result(done: Comparison, inputs: Inputs) -> dict[str, Any]:
    """Return everything that the comparison found, times included."""
    mean = done.discrete.mean
    return {
        "kind": "comparison",
        "seed": inputs.config.seed,
        "instance": flat(inputs.instance),
        "workload": inputs.describe(),
        **done.to_json(),
        "single_run_noise": done.single_run_noise,
        "memory_pressure": pressure_spans(mean, mean.time),
        "warnings": _warnings(done, inputs),
    }


def _warnings(done: Comparison, inputs: Inputs) -> list[str]:
    """Return what limits the answer, and what the methods say of theirs, one line each."""
    said: dict[str, list[str]] = {}
    for name, each in done.methods.items():
        for label in each.solution.warnings:
            said.setdefault(label, []).append(name)
    labels = [f"{', '.join(names)}: {label}" for label, names in said.items()]
    left_out = [f"left out: {reason}" for reason in done.failed.values()]
    seen = largest(done.discrete.mean.outputs)
    return inputs.warnings(*left_out, *done.warnings, *labels, largest=seen)


def _write_trajectories(path: Path, done: Comparison) -> None:
    ensemble = done.discrete
    discrete = Curve(
        "discrete", ensemble.mean, ensemble.low, ensemble.high, ensemble.sd, ensemble.replications
    )
    write_comparison(path, discrete, {name: each.sampled for name, each in done.methods.items()})


def _timings(result: Mapping[str, Any]) -> dict[str, float]:
    methods = {name: method["seconds"] for name, method in result["methods"].items()}
    return {"discrete": result["discrete"]["seconds"], **methods}


def _untimed(value: Any) -> Any:
    """Return a result without the keys that differ between equal runs."""
    if not isinstance(value, dict):
        return value
    return {key: _untimed(each) for key, each in value.items() if key not in TIMED}
