"""Write the analysis of one node as JSON and as an experiment folder with a page to read."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fluidserve.automatic import AUTO, auto_json
from fluidserve.config import flat, resolved_yaml
from fluidserve.folders import REQUESTS, Stopwatch, write_common
from fluidserve.inputs import Inputs
from fluidserve.progress import ProgressLine
from fluidserve.report import write_analysis
from fluidserve.text import for_people, instance_line
from ode import gradients
from serving import Distribution, FluidServeError, RateProfile, UnsupportedError, kind_of
from serving.metrics import latency_scale
from studies import Analysis, Question, analyze
from workload import write_requests

PERCENTILES = (50, 95, 99)
SHORTEST = 300
"""Batches that a differentiated solve covers at least."""


def is_over_time(question: Question, *, is_constant: bool) -> bool:
    """Return whether latencies are over the arrivals where nobody says so."""
    return not is_constant or question.load >= 1


def refuse_an_end(params: Mapping[str, Any]) -> None:
    """Refuse an end of the arrivals, which an equilibrium does not have."""
    for key in ("num_requests", "horizon"):
        if params.get(key) is not None:
            raise FluidServeError(
                f"--{key.replace('_', '-')} ends the arrivals, and the latencies are those of the "
                "equilibrium; drop it, or ask for those of the arrivals by --transient"
            )


def analyze_into(
    folder: Path,
    final: Path,
    inputs: Inputs,
    *,
    over_time: bool,
    solve_gradients: bool,
    approximate: bool,
    method: str = AUTO,
    auto: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Analyze, write everything into ``folder`` and return what the command prints.

    Parameters
    ----------
    folder, final
        Where to write, and what it will be called.
    inputs
        Instance and workload.
    over_time
        Latencies over the arrivals, and not of the equilibrium.
    solve_gradients
        Differentiate the Eulerian solve besides.
    approximate
        Read policies that are not modelled as FCFS and LIFO.
    method
        Whose latencies: ``auto`` or ``model``.
    auto
        ``within`` and ``budget``, where they are given.
    """
    if auto and method != AUTO:
        raise UnsupportedError(f"--{next(iter(auto))} belongs to --method {AUTO}, not {method}")
    watch, question = Stopwatch(), inputs.question
    watch.speaks = inputs.config.verbose
    with watch("analyze"):
        found = analyze(
            question,
            over_time=over_time,
            approximate=approximate,
            method=method,
            **(auto or {}),
            progress=_told() if watch.speaks else None,
        )
    result = analysis_json(found, question.instance.time_unit)
    if solve_gradients:
        with watch("gradients"):
            result["gradients"]["through_the_solve"] = _through_the_solve(inputs, approximate)
    summary = {
        "kind": "analysis",
        "seed": inputs.config.seed,
        "instance": flat(question.instance),
        "workload": inputs.describe(),
        **result,
        "warnings": [*inputs.assumed, *result["warnings"]],
    }
    ran = REQUESTS if question.is_file else None
    if ran is not None:  # the exact mix of a generator is in no file
        write_requests(question.requests, folder / ran)
    write_common(
        folder, final, config_yaml=resolved_yaml(inputs.config, question.instance, ran),
        summary=summary,
        people=for_people(f"Analysis: {instance_line(question.instance)}", summary),
        seed=inputs.config.seed, timings=watch.seconds,
    )  # fmt: skip
    write_analysis(folder, summary)
    return summary | {"seconds": watch.seconds}


def analysis_json(found: Analysis, time_unit: str) -> dict[str, Any]:
    """Return an analysis under the keys of the command.

    Parameters
    ----------
    found
        The analysis.
    time_unit
        Unit of its times: where it is s or ms, latencies are in ms, as in the metrics of a run.
    """
    healthy, verdict = found.equilibrium, found.certificate
    return {
        "load": found.load,
        "rho": getattr(healthy, "rho", None),
        "mean_arrival_rate": found.arrival_rate,
        "capacity": found.lambda_max,
        "capacity_error": found.capacity_error.to_json(),
        "regime": found.regime,
        "regime_confidence": found.regime_report.to_json(),
        **({} if found.fills is None else {"time_to_full": found.fills.to_json()}),
        **({} if found.binds is None else {"binds": found.binds}),
        "equilibrium": None if healthy is None else _equilibrium(healthy),
        "moments": {"var_batch_tokens": getattr(healthy, "var_batch_tokens", None)},
        "certificate": None
        if verdict is None
        else {
            "stable": verdict.stable,
            "max_root": verdict.max_root,
            "ode_blind": verdict.ode_blind,
            "cycle_loss": verdict.cycle_loss,
            "theta_sac": verdict.theta_sac,
            "message": verdict.message,
        },
        "latencies_are": found.latencies_are,
        "metrics": _metrics(found.latencies, time_unit),
        **({} if found.answer is None else {"auto": auto_json(found.answer)}),
        "confidence": found.error.confidence,
        "error": found.error.to_json(),
        "gradients": {
            "method": found.sensitivity_is,
            "units": dict(found.units),
            "derivative": found.sensitivity,
            "elasticity": found.elasticity,
            **_closed_form(found),
        },
        "sensitivity": [
            {
                "parameter": flip.parameter,
                "change": flip.change,
                "load": flip.changed_load,
                "verdict": flip.verdict,
            }
            for flip in found.flips
        ],
        "warnings": list(found.warnings),
    }


def _closed_form(found: Analysis) -> dict[str, Any]:
    """Return what moves capacity and equilibrium, where the model says it."""
    moved = found.closed_form
    if not moved.derivative:
        return {}
    return {"closed_form": {"derivative": moved.derivative, "elasticity": moved.elasticity}}


EQUILIBRIUM = (
    "tau", "batch_tokens", "prefill_tokens", "decode_tokens", "running", "memory",
    "running_by_class", "decode_time", "decode_time_by_class", "wait", "ttft", "tpot", "e2el",
)  # fmt: skip
"""What JSON shows of an equilibrium, where the model has it."""


def _equilibrium(healthy: Any) -> dict[str, Any]:
    """Return the figures of an equilibrium."""
    shown = {name: getattr(healthy, name) for name in EQUILIBRIUM if hasattr(healthy, name)}
    return {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in shown.items()
        if isinstance(value, np.ndarray) or math.isfinite(value)
    }


def _metrics(latencies: Mapping[str, Distribution], time_unit: str) -> dict[str, float | None]:
    """Return the latencies under the keys that the metrics of a run have."""
    suffix, factor = latency_scale(time_unit)
    found: dict[str, float | None] = {}
    for name in ("ttft", "tpot", "e2el"):
        of = latencies.get(name)
        values = [None] * 4 if of is None else [of.mean, *(of.percentiles[q] for q in PERCENTILES)]
        for statistic, value in zip(("mean", *(f"p{q}" for q in PERCENTILES)), values, strict=True):
            found[f"{statistic}_{name}{suffix}"] = None if value is None else value * factor
    return found


def _told() -> Callable[[int, int], None]:
    """Return a callback for the solves behind the sensitivities."""
    line = ProgressLine(every=1.0)

    def told(done: int, total: int) -> None:
        line.say(f"sensitivities: {done} of {total} solves", final=done >= total)

    return told


def _through_the_solve(inputs: Inputs, approximate: bool) -> Mapping[str, Any]:
    """Differentiate the fluid solve of the workload, from an empty start."""
    question = inputs.question
    node = question.instance
    memory = kind_of(node).limits(node)["memory"].value
    law = node.batch_time
    longest = SHORTEST * float(max(law.duration(0.5 * memory, 1.0), law.duration(0.0, 0.0)))
    end = min(question.end, longest) if question.end > 0 else longest
    rate = question.mean_rate
    profile = question.profile if question.is_file else RateProfile.constant(rate, end)
    found = gradients(profile, question.mix, node, approximate=approximate)
    return {
        "method": found.method,
        "horizon": end,
        "values": dict(found.values),
        "derivative": {name: dict(row) for name, row in found.gradients.items()},
        "units": {name: dict(row) for name, row in found.units.items()},
        "elasticity": {name: dict(row) for name, row in found.elasticities.items()},
    }
