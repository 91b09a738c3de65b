"""Capacity at objectives: ``tune`` beside a brute-force scan and plain bisections (some minutes).

Usage: python benchmarks/tuning.py [--replications 16] [--tolerance 0.02] [--slo ...] > tuning.json

Per objective: what ``tune`` answers and its engine runs; what a scan of many rates on other draws
answers; and the runs of two bisections of the same bracket to the same width, one with all
replications at every point and one that leaves a point as soon as its verdict is certain.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time

import numpy as np

import discrete
from fluid import capacity
from serving import DecodeNode
from studies.question import Question
from studies.tuning import Point, SearchSettings, Slo, at_mean_rate, measure, parse_slo, tune
from workload import describe

QUESTION = Question(describe("normal"), DecodeNode())
"""The normal mix on the default node."""

SLOS = ("p99_ttft<200", "p90_e2el<400", "p99_ttft<50")
"""Objectives, one search each."""

SCAN_POINTS = 31
"""Rates of the brute-force scan."""

SCAN_REQUESTS = 400_000
"""Requests of each of its runs."""

SCAN_REPLICATIONS = 6
"""Its runs at each rate."""

SCAN_SEED = 7000
"""Seed of its first replication, so that its draws are its own."""


def scanned(slo: Slo) -> float:
    """Return where a statistic passes its limit, on a grid of rates and draws of its own."""
    rates = np.linspace(0.5, 0.98, SCAN_POINTS) * capacity(QUESTION.mix, QUESTION.instance)
    margins = []
    for rate in rates:
        values = []
        for r in range(SCAN_REPLICATIONS):
            stream = QUESTION.stream.at_mean_rate(rate)
            table = stream.sample(SCAN_SEED + r, num_requests=SCAN_REQUESTS)
            run = discrete.simulate(table, QUESTION.instance, record_batches=False)
            values.append(slo.measured(run.samples(SCAN_REQUESTS // 10)))
        margins.append(math.log(np.mean(values) / slo.limit))
        if margins[-1] > 0.7:
            break
    rates = rates[: len(margins)]
    last = max(i for i, m in enumerate(margins) if m <= 0)
    share = -margins[last] / (margins[last + 1] - margins[last])
    return float(rates[last] + share * (rates[last + 1] - rates[last]))


def bisected(slo: Slo, bracket: tuple[float, float], width: float, requests: int,
             replications: int, *, early: bool) -> tuple[float, int]:  # fmt: skip
    """Return the answer of a bisection and its runs; ``early`` leaves a point when certain."""
    runs = 0

    def met(rate: float) -> bool:
        nonlocal runs
        point = Point(rate, requests)
        while point.replications < replications:
            point.measurements.append(
                measure(at_mean_rate(QUESTION, rate), [slo], requests, point.replications)
            )
            runs += 1
            if early and point.certain(0.95):
                break
        return point.met

    low, high = bracket
    assert met(low) and not met(high)
    while high - low > width:
        middle = 0.5 * (low + high)
        low, high = (middle, high) if met(middle) else (low, middle)
    return low, runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replications", type=int, default=16)
    parser.add_argument("--tolerance", type=float, default=0.02)
    parser.add_argument("--plain", action="store_true", help="run the plain bisection too (slow)")
    parser.add_argument("--slo", action="append", help="objective to search for; repeatable")
    given = parser.parse_args()
    settings = SearchSettings(tolerance=given.tolerance, replications=given.replications)
    rows = []
    for text in given.slo or SLOS:
        slo = parse_slo(text)
        print(text, file=sys.stderr, flush=True)
        began = time.perf_counter()
        found = tune("max-rate", QUESTION, [slo], settings=settings, method="engine")
        seconds = time.perf_counter() - began
        assert found.value is not None and found.answer is not None
        truth = scanned(slo)
        width = given.tolerance * found.value
        early, early_runs = bisected(
            slo, found.scanned, width, found.run_length, given.replications, early=True
        )
        row = {
            "slo": text, "value": found.value, "estimate": found.answer.estimate,
            "fluid_value": found.fluid_value, "scan": truth, "error": found.value / truth - 1,
            "estimate_error": found.answer.estimate / truth - 1,
            "engine_runs": found.engine_runs, "plain": found.plain_runs,
            "ratio": found.plain_runs / found.engine_runs, "early_stopping": early_runs,
            "early_stopping_value": early, "run_length": found.run_length,
            "engine_requests": found.engine_requests, "fluid_runs": found.fluid_runs,
            "seconds": seconds,
        }  # fmt: skip
        if given.plain:
            value, runs = bisected(
                slo, found.scanned, width, found.run_length, given.replications, early=False
            )
            row |= {"plain_run": runs, "plain_value": value}
        rows.append(row)
    print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
