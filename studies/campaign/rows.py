"""The row of a scenario: what the engine says, what each method says, and what each knew."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from ode.error_model.capacity_basis import capacity_features
from ode.error_model.features import answer_features, question_features
from ode.error_model.model import THROUGHPUT
from ode.prompt_server.stationary import BIRTHS
from serving import RequestMix, ServingMetrics, SolveError, UnsupportedError, reading_of
from studies.campaign.scenarios import Scenario, draw
from studies.campaign.truth import Truth, throughput_of, truth_of
from studies.engine_runs import METRICS
from studies.question import Question

OVER_TIME = ("lagrangian", "node_work")
"""Methods of :data:`ode.METHODS` that are asked over time."""

NOISIEST = 0.15
"""Standard error of the engine above which a row tells nothing of a metric."""

Shared = tuple[int, Mapping[str, RequestMix], Mapping[int, Mapping[str, Any]], bool]
"""Seed of the campaign, mixes of files by name, rows by number whose truth is taken over, and
whether methods are asked."""


def row_of(shared: Shared, number: int) -> dict[str, Any]:
    """Return the row of a scenario, of plain values; one that cannot be answered says why.

    Parameters
    ----------
    shared
        What all scenarios need. The engine does not run again for a scenario with a row, as after
        a change of a method. Rows without answers are truth for a run that asks methods.
    number
        Of the scenario.
    """
    began = time.perf_counter()
    try:
        seed, files, before, asked = shared
        scenario = draw(number, seed, files)
        saturated = scenario.protocol == "saturated"
        if "truth" in (known := before.get(number, {})):
            truth = Truth(known["truth"], known["standard_error"], known["replications"], 0.0)
        elif saturated:
            truth = throughput_of(scenario)
        else:
            truth = truth_of(scenario)
        row = _said(scenario, truth) | {"answers": _answers(scenario) if asked else {}}
    except Exception as error:  # one scenario must not end a campaign of hours; all are counted
        return {"number": number, "failed": f"{type(error).__name__}: {error}"}
    row["seconds"] = round(time.perf_counter() - began, 4)
    return row


def _said(scenario: Scenario, truth: Truth) -> dict[str, Any]:
    question = scenario.question
    steady = scenario.protocol != "over_time"
    features = question_features(
        question.mix,
        question.instance,
        question.mean_rate,
        question.dispersion,
        None if steady else question.profile,
    )
    return {
        "number": scenario.number,
        "family": scenario.family,
        "protocol": scenario.protocol,
        "engine": question.instance.engine,
        "mode": getattr(question.instance, "mode", ""),
        "shape": "" if steady else type(question.stream.shape).__name__.lower(),
        "held_out": scenario.is_held_out,
        "limit": limit_of(question),
        "features": rounded(features),
        "truth": rounded(truth.value),
        "standard_error": rounded(truth.standard_error),
        "replications": truth.replications,
    }


def limit_of(question: Question) -> str:
    """Return what a backlogged system is full of."""
    from fluid import saturation

    node: Any = reading_of(question.instance).node
    binds = getattr(saturation(question.mix, question.instance), "binds", None)
    if binds is not None:
        return binds
    memory = node.admission_threshold * node.M_total
    return "memory" if memory <= node.token_budget else "batch budget"


def known_of(row: Mapping[str, Any], answer: Mapping[str, Any]) -> dict[str, float]:
    """Return the features of the question and of an answer of a row."""
    known = {"sacrifice": float(row["mode"] == "sacrifice")} | row["features"]
    return known | {name: v for name, v in answer["features"].items() if v is not None}


def _answers(scenario: Scenario) -> dict[str, Any]:
    """Return what each method says: values, features of them, how many labels, seconds."""
    if scenario.protocol == "saturated":
        return _full(scenario.question)
    methods = ("stationary",) if scenario.protocol == "steady" else OVER_TIME
    found = {}
    for method in methods:
        began = time.perf_counter()
        try:
            name, values, labels = answer_of(scenario, method)
        except UnsupportedError:
            continue
        except SolveError as error:
            found[method] = {"failed": error.status}
            continue
        question = scenario.question
        features = answer_features(values, question.mix, question.instance, question.mean_rate)
        found[name] = {
            "values": rounded(values),
            "features": rounded(features),
            "labels": len(labels),
            "seconds": round(time.perf_counter() - began, 4),
        }
    return found


def _full(question: Question) -> dict[str, Any]:
    """Return what the models say of an instance that always has a queue.

    The capacity is what it completes if no queue gets requests into step and no eviction costs
    anything; it is held against the engine where the models say that neither is so.
    """
    from ode import collapsed_throughput

    mix, instance = question.mix, question.instance
    features = rounded(capacity_features(mix, instance))
    full = collapsed_throughput(mix, instance)
    values = {"queued": full.throughput}
    if getattr(instance, "mode", "") != "sacrifice" and not full.is_lossy:
        values["capacity"] = full.capacity
    more = {"features": features, "labels": 0, "seconds": 0.0}
    return {name: {"values": rounded({THROUGHPUT: value})} | more for name, value in values.items()}


def answer_of(scenario: Scenario, method: str) -> tuple[str, dict[str, float], tuple[str, ...]]:
    """Return the name of who answered, what it says of :data:`METRICS`, and its labels."""
    from ode import solve, stationary

    question = scenario.question
    mix, instance = question.mix, question.instance
    if method == "stationary":
        rate = question.mean_rate
        steady: Any = stationary(mix, instance, rate, dispersion=question.dispersion)
        of = steady.latencies
        name = BIRTHS if getattr(steady, "method", "") == BIRTHS else method
        return name, _values(of, rate * of["e2el"].mean), tuple(steady.labels)
    flow = solve(question.profile, mix, instance, method=method)
    metrics: ServingMetrics = flow.metrics()
    path = flow.trajectory
    early = path.time <= question.end
    t, n = path.time[early], path.outputs["in_system"][early]
    end = float(path("in_system", question.end))
    t, n = np.append(t, question.end), np.append(n, end)
    inside = float(np.trapezoid(n, t)) / question.end
    return method, _values(metrics.latencies, inside), flow.warnings


def _values(of: Any, in_system: float) -> dict[str, float]:
    ttft, e2el = of["ttft"], of["e2el"]
    each = (
        ttft.mean, e2el.mean, ttft.percentiles[50], ttft.percentiles[99], e2el.percentiles[99],
        in_system,
    )  # fmt: skip
    return dict(zip(METRICS, (float(value) for value in each), strict=True))


def rounded(values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Return values that JSON can hold, to six digits; None where there is no number."""
    return {
        name: None if value is None or not math.isfinite(value) else float(f"{value:.6g}")
        for name, value in values.items()
    }
