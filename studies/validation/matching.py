"""A law is matched to measured runs: the engine replays them, and its steps are made to fit.

The correction of a law follows from the times of the runs by least squares, given what the engine
decided; the engine then replays the runs with the corrected law, and so on until nothing changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from calibration.measured_runs.law_terms import Terms
from calibration.step_times import StepRows
from serving import BatchTimeLaw, FluidServeError, Instance, kind_of
from studies.validation.equations import Equations, Replica, not_empty, of_steps
from studies.validation.least_squares import change, solved
from studies.validation.replay import dealt, simulated
from studies.validation.requests import Replayed

PASSES = 8
"""Most replays of each run."""

STILL = 1e-3
"""Largest relative change of the times between two replays at which the law counts as found."""

FEWEST = 10
"""Decode times, or seconds of throughput, that a run must contribute."""


@dataclass(frozen=True, slots=True)
class Source:
    """A run that a law is matched to.

    Parameters
    ----------
    requests
        Its requests.
    instance
        Its server; its law does not count.
    replicas
        Engines among which the requests are dealt.
    until : [s]
        Only what was there by then is used.
    """

    requests: Replayed
    instance: Instance
    replicas: int = 1
    until: float = np.inf


@dataclass(frozen=True, slots=True)
class Matched:
    """A law that was matched to runs.

    Parameters
    ----------
    law
        The law.
    terms
        How it differs from the law that it began as.
    times
        Measured times that told something.
    spread
        Largest of the median relative errors that are left, over the kinds of times.
    front_end : [s]
        Median of what clients measured beyond the engine's time to the first token, of requests
        that did not have to queue; NaN where all did.
    passes
        Replays that it took.
    """

    law: BatchTimeLaw
    terms: Terms
    times: int
    spread: float
    front_end: float
    passes: int


def match_law(
    sources: Sequence[Source],
    law: BatchTimeLaw,
    steps: Sequence[StepRows] = (),
    doubt: float = 1.0,
) -> Matched:
    """Return a law corrected so that the engine's replay takes as long as the runs did.

    Parameters
    ----------
    sources
        The runs.
    law
        Law to begin with, such as that of a profile; what the runs do not tell stays as it is.
    steps
        Measured steps of the same server besides; only those without prefill are used.
    doubt
        How far the terms of the law may be off: 1 for a law from data sheets, less for one whose
        kernels were measured.

    Raises
    ------
    FluidServeError
        If too few requests of the runs tell anything.
    """
    most = max(
        [float(kind_of(source.instance).limits(source.instance)["batch_size"].value)
         for source in sources] + [float(rows.requests.max()) for rows in steps]
    )  # fmt: skip
    terms, used = Terms.nothing(most), 0
    front_end, equations, errors = np.empty(0), [], []
    while used < PASSES:
        used += 1
        replicas = [_replicas(source, law, terms) for source in sources]
        equations = [each for source in replicas for each in _equations(source)]
        equations += [of_steps(rows, law, terms) for rows in steps]
        found, errors = solved(equations, law, terms, doubt)
        changed = change(equations, terms, found)
        front_end = np.concatenate(
            [np.empty(0), *(each.front_end() for source in replicas for each in source)]
        )
        terms = found
        if changed < STILL:
            break
    return Matched(
        law=terms.corrected(law), terms=terms,
        times=sum(each.measured.size for each in equations), spread=max(errors),
        front_end=float(np.median(front_end)) if front_end.size else np.nan, passes=used,
    )  # fmt: skip


def with_law(instance: Instance, law: BatchTimeLaw) -> Instance:
    """Return the server with another law."""
    node: Any = instance
    return replace(node, batch_time=law)


def _replicas(source: Source, law: BatchTimeLaw, terms: Terms) -> list[Replica]:
    """Replay a run with the corrected law."""
    table = source.requests.table
    instance = with_law(source.instance, terms.corrected(law))
    rows_of = dealt(table, source.replicas)
    return [
        Replica(engine, rows, source.requests, source.until, law, terms)
        for rows, engine in zip(
            rows_of, simulated(source.requests, instance, source.replicas), strict=True
        )
    ]


def _equations(replicas: list[Replica]) -> list[Equations]:
    found = list(not_empty([each.equations() for each in replicas]))
    telling = max((each.measured.size for each in found if not each.has_front_end), default=0)
    if telling < FEWEST:
        raise FluidServeError(
            f"{replicas[0].replayed.run.name}: {telling} requests finished in the part to "
            "calibrate on, and the server said nothing of its throughput; at least "
            f"{FEWEST} are needed"
        )
    return found
