"""How well pictures and ``tune`` use expected errors: bands over time, and crossings of objectives.

Usage: ``python benchmarks/expected_intervals.py bands|crossings [--seconds S]``

``bands``: share of the times at which the engine's mean number in system is inside of the band that
pictures draw about a solution, its own noise allowed for, by engine and method; on scenarios of the
campaign's generator with seed 77, from an empty start. ``crossings``: share of random objectives
whose crossing is inside of the interval of ``tune``, that is, which the engine meets at its lower
end and misses at its upper one (four runs of 20,000 requests, one standard error allowed for); seed
78, in a steady state. Both go on for ``S`` seconds of processor time, 240 by default.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Iterator
from itertools import count

import numpy as np

from ode import solve
from serving import FluidServeError
from studies import Question, Replications
from studies.campaign.scenarios import draw
from studies.comparison import run_ensemble
from studies.tuning import (
    MAX_RATE,
    SearchSettings,
    Slo,
    at_mean_rate,
    measure,
    parse_slo,
    predict,
    tune,
)

METHODS = ("lagrangian", "node_work")
OBJECTIVES = ("p99_ttft", "mean_ttft", "mean_e2el", "p99_e2el", "p50_ttft")
LOADS, BRACKET = (0.45, 0.9), (0.3, 1.1)
"""Loads at which objectives bind by the model, and between which crossings are sought."""

LARGEST = 3000
"""Arrivals of a scenario over time, at most."""


def questions(seed: int, protocol: str, seconds: float) -> Iterator[Question]:
    """Yield the questions of a protocol until the processor time is spent."""
    for number in count():
        if time.process_time() > seconds:
            return
        scenario = draw(number, seed)
        if scenario.protocol == protocol:
            yield scenario.question


def bands(seconds: float) -> None:
    """Print the share of the times at which the engine's mean is inside of the band."""
    inside: dict[tuple[str, str], list[float]] = defaultdict(list)
    for question in questions(77, "over_time", seconds):
        if question.profile.total > LARGEST:
            continue
        found = run_ensemble(question, Replications(32, workers=1))
        mean, noise = found.mean.outputs["in_system"], 1.7 * found.standard_error("in_system")
        for method in METHODS:
            try:
                flow = solve(question.profile, question.mix, question.instance, method=method)
            except FluidServeError:
                continue
            off = flow.error.errors.get("mean_in_system")
            if off is None:
                continue
            low, high = off.around(flow("in_system", found.grid))
            share = float(np.mean((mean + noise >= low) & (mean - noise <= high)))
            inside[question.instance.engine, method].append(share)
    for (engine, method), shares in sorted(inside.items()):
        print(f"{engine} {method}: {len(shares)} scenarios, {np.mean(shares):.1%} of the times")


def crossings(seconds: float) -> None:
    """Print the share of objectives whose crossing by the engine is inside of the interval."""
    rng, rows = np.random.default_rng(1), []
    for question in questions(78, "steady", seconds):
        name, load = OBJECTIVES[rng.integers(len(OBJECTIVES))], rng.uniform(*LOADS)
        loose = parse_slo(f"{name}<1")
        try:
            latencies = predict(at_mean_rate(question, load * question.capacity))
            slo = parse_slo(f"{name}<{loose.predicted(latencies[loose.latency])!r}")
            low, high = (share * question.capacity for share in BRACKET)
            settings = SearchSettings(tolerance=0.02)
            found = tune(
                MAX_RATE, question, [slo], bracket=(low, high), method="stationary",
                settings=settings,
            )  # fmt: skip
        except FluidServeError:
            continue
        if found.interval is None or found.fluid.reason:
            continue
        (met, a), (missed, b) = (margin(question, slo, end) for end in found.interval)
        rows.append((found.fluid.bound, met <= a and missed >= -b))
    for most in (np.inf, 0.05, 0.02):
        chosen = [is_inside for bound, is_inside in rows if bound <= most]
        share = f"{np.mean(chosen):.1%} inside" if chosen else "none"
        print(f"bound up to {most:g}: {len(chosen)} objectives, {share}")


def margin(question: Question, slo: Slo, rate: float) -> tuple[float, float]:
    """Return the engine's margin at a rate, and its standard error."""
    each = [
        measure(at_mean_rate(question, rate), [slo], 20_000, replication).margins[str(slo)]
        for replication in range(4)
    ]
    clipped = np.clip(each, -20, 20)
    return float(clipped.mean()), float(clipped.std(ddof=1) / 2)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("bands", "crossings"))
    parser.add_argument("--seconds", type=float, default=240.0)
    given = parser.parse_args()
    {"bands": bands, "crossings": crossings}[given.what](given.seconds)
