"""A comparison as an experiment folder: files, pictures, report."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fluidserve.config import flat, resolved_yaml
from fluidserve.folders import REQUESTS, Stopwatch, write_common
from fluidserve.pictures import COMPARISON, draw, write_comparison
from fluidserve.plots import Curve, pressure_spans
from fluidserve.progress import method_progress, replication_progress
from fluidserve.report import write_report
from fluidserve.text import for_people, instance_line

if TYPE_CHECKING:
    from fluidserve.inputs import Inputs
    from studies import Comparison

TIMED = ("seconds", "speedup")
"""Keys that differ between equal runs; they go to ``meta.json``."""


def compare_into(
    folder: Path, final: Path, inputs: Inputs, options: Mapping[str, Any], *, pictures: bool
) -> dict[str, Any]:
    """Compare, write everything into ``folder`` and return what the command prints.

    Parameters
    ----------
    folder, final
        Where to write, and what it will be called.
    inputs
        Instance and workload.
    options
        Of :func:`studies.compare`.
    pictures
        Whether to draw and report.
    """
    import discrete
    import studies
    from workload import write_requests

    watch, node, seed = Stopwatch(), inputs.instance, inputs.config.seed
    with watch("compare"):
        done = studies.compare(
            inputs.draws,
            node,
            num_requests=inputs.num_requests,
            horizon=inputs.horizon,
            seed=seed,
            progress=replication_progress(inputs.config.verbose),
            solving=method_progress(inputs.config.verbose),
            **options,
        )
    inputs.warn_of_overload()
    for reason in done.failed.values():
        print(f"left out: {reason}", file=sys.stderr)
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
    }


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
