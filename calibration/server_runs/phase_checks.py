"""First and last tokens tell batches only where no request paused and all times have one unit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from calibration.server_runs.batch_rows import BatchRows
from calibration.server_runs.law import Coefficients, LawFit, design, fit_law
from calibration.server_runs.requests import RequestLog
from serving import FluidServeError, WorkloadError

TOLERANCE = 0.01
"""Relative error of a mean batch time that a law may have and still describe it."""

NOISE = 0.05
"""Relative noise of one batch time; a mean over m batches has this over the root of m."""

WIDE = 4.0
"""Errors of this many times what the rows near the law have are pauses, not chance."""

PAUSED = 0.04
"""Share of the requests that took too long from which on they count as paused."""

ONE_SIDED = 0.25
"""Largest share of too short over too long times: pauses make times longer only."""

NEAR = 0.03
"""Largest usual error of the times that are too short at which pauses can be told apart."""

HELD = 0.65
"""Smallest share of the requests that the law must describe where others paused."""

UNEXPLAINED = 0.12
"""Mean relative error of the law on the requests beyond which the run has no law."""

STARTS = (0.2, 0.05, 0.01)
"""Shares by which the low fits, from which the search starts, weigh times that are too long."""

ROUNDS = 20
"""Largest number of fits to the rows that the fit before describes."""

FEW_RUNNING = 0.1
"""Mean number of running requests below which requests hardly meet."""

UNITS = {1e-3: "milliseconds", 1e-6: "microseconds", 1e-9: "nanoseconds"}
"""Other units that arrivals may be in, by seconds."""

MISFIT, HALF = 2e-3, 0.5
"""Arrivals are in another unit if errors above the first fall by the second factor with it."""


@dataclass(frozen=True, slots=True, eq=False)
class PhaseFit:
    """The rows of requests that did not pause, and the law that describes them.

    Parameters
    ----------
    rows, law
        Of the requests that the law describes.
    paused
        Number of requests that were left out because they took longer than their batches.
    """

    rows: BatchRows
    law: LawFit
    paused: int


def fit_without_pauses(
    rows_of: Callable[[Coefficients | None], BatchRows], passes: int
) -> PhaseFit:
    """Return a law and the rows that it holds for.

    Between the first and the last token of a request with D tokens lie D - 1 batches, unless the
    server preempted the request: then more do, and its mean batch time comes out too long. Where
    some requests paused, the law is that which describes the largest number of the others.

    Parameters
    ----------
    rows_of
        From an earlier law, which places the batches, to the rows.
    passes
        Number of repeated fits.

    Raises
    ------
    WorkloadError
        If no law describes the run.
    """
    rows = rows_of(None)
    for _ in range(passes):
        rows = rows_of(fit_law(rows).known())
    plain = fit_law(rows)
    kept = _others(rows, plain)
    if kept is None:
        error = float(np.mean(np.abs(_errors(rows, plain.known()))))
        if error > UNEXPLAINED:
            raise WorkloadError(
                f"no law describes the batches: it misses the mean batch times of the requests by "
                f"{error:.0%}. Too many requests paused between their first and last token "
                "(preemptions), or several servers worked. Give token times (vllm bench serve "
                "--save-detailed) or scrapes of /metrics"
            )
        return PhaseFit(rows, plain, 0)
    for _ in range(passes):
        rows = rows_of(fit_law(rows.where(kept)).known())
        again = _others(rows, fit_law(rows.where(kept)))
        kept = kept if again is None else again
    left = rows.where(kept)
    return PhaseFit(left, fit_law(left), int(np.count_nonzero(~kept)))


def _errors(rows: BatchRows, law: Coefficients) -> NDArray[np.float64]:
    """Return measured over predicted mean batch time less one, shape (N,)."""
    predicted = design(rows) @ np.array(law)
    return rows.step_time / np.maximum(predicted, 1e-300) - 1


def _tolerance(rows: BatchRows) -> NDArray[np.float64]:
    """Return the largest error of a row that the law describes, shape (N,)."""
    return TOLERANCE + 3 * NOISE / np.sqrt(rows.steps)


def _others(rows: BatchRows, plain: LawFit) -> NDArray[np.bool_] | None:
    """Return the requests that did not pause; None where pauses are not what the errors show."""
    law = _most_described(rows, plain)
    errors = _errors(rows, law)
    near = np.abs(errors[errors < 0])
    usual = 1.4826 * float(np.median(near)) if near.size else 0.0
    limit = np.maximum(_tolerance(rows), WIDE * usual)
    long, short = np.mean(errors > limit), np.mean(errors < -limit)
    if usual > NEAR or long < PAUSED or short > ONE_SIDED * long or 1 - long - short < HELD:
        return None
    return np.abs(errors) <= limit


def _most_described(rows: BatchRows, plain: LawFit) -> Coefficients:
    """Return the law that describes the most batches, of those that a search from starts finds."""
    best, most = plain.known(), -1.0
    for start in (plain.known(), *(_low_fit(rows, share) for share in STARTS)):
        law = start
        for _ in range(ROUNDS):
            near = np.abs(_errors(rows, law)) <= _tolerance(rows)
            try:
                found = fit_law(rows.where(near)).known()
            except FluidServeError:
                break
            done = np.allclose(found, law, rtol=1e-6)
            law = found
            if done:
                break
        described = float(rows.steps[np.abs(_errors(rows, law)) <= _tolerance(rows)].sum())
        if described > most:
            best, most = law, described
    return best


def _low_fit(rows: BatchRows, share: float) -> Coefficients:
    """Return a fit in which a time that is too long weighs ``share`` of one that is too short."""
    x = design(rows) / rows.step_time[:, None]
    weight, found = np.full(len(rows), 0.5), np.zeros(4)
    for _ in range(50):
        factor = np.sqrt(weight * rows.steps / rows.steps.mean())
        scaled = x * factor[:, None]
        length = np.linalg.norm(scaled, axis=0)
        length[length == 0] = 1.0
        before, found = found, nnls(scaled / length, factor)[0] / length
        weight = np.where(1 - x @ found > 0, share, 1 - share)
        if np.allclose(found, before, rtol=1e-6, atol=0):
            break
    return Coefficients(*found.tolist())


def refuse_two_units(log: RequestLog, rows_of: Callable[[RequestLog], BatchRows]) -> None:
    """Refuse a log whose arrivals and latencies are in different units.

    Requests that hardly meet are alone in their batches, which all take about as long then. Where
    the batch times differ and requests would meet if arrivals were in a smaller unit, and their
    contents then explain the differences, the arrivals are in that unit.

    Parameters
    ----------
    log
        The log, its times read as seconds.
    rows_of
        From a log to its rows by first and last tokens.

    Raises
    ------
    WorkloadError
        Naming the unit that the arrivals seem to be in.
    """
    lasted = log.finish - log.arrival
    whole = float(log.finish.max() - log.arrival.min())
    if not whole > 0 or lasted.sum() / whole > FEW_RUNNING:
        return
    error = _misfit(rows_of, log)
    if error is None or error < MISFIT:
        return
    for seconds, unit in UNITS.items():
        arrival = log.arrival * seconds
        shifted = replace(
            log,
            arrival=arrival,
            first_token=arrival + (log.first_token - log.arrival),
            finish=arrival + lasted,
        )
        other = _misfit(rows_of, shifted)
        if other is not None and other < HALF * error:
            raise WorkloadError(
                f"arrivals and latencies are in different units: as {unit}, the arrivals explain "
                f"the batch times to {other:.1%}, as seconds to {error:.1%}; give both in seconds",
                column="arrival",
            )


def _misfit(rows_of: Callable[[RequestLog], BatchRows], log: RequestLog) -> float | None:
    """Return the median relative error of a law on the rows of a log; None without a law."""
    try:
        rows = rows_of(log)
        return float(np.median(np.abs(_errors(rows, fit_law(rows).known()))))
    except FluidServeError:
        return None
