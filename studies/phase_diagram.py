"""Where in (spread of lengths, prompt per decode, load) a node is healthy, and where it is not.

The map is the model's: the survival polynomial and the marched throughput of a full node. At marked
points the discrete engine is asked too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import discrete
from fluid import capacity, certificate, saturation
from ode import collapsed_throughput, regime
from serving import BatchTimeLaw, DecodeNode, RequestMix, RequestTable, kind_of
from workload import LengthDistribution, RequestClass, Workload, mix_of

MEAN_DECODE = 40
SIZE = 10_000
"""Requests that a full memory holds."""

D_0, FULL = 1.0, 10.0
"""Fixed time of a batch, and the time that a full memory adds to it [time]."""

CV = tuple(np.round(np.linspace(0.0, 0.4, 21), 3).tolist())
RATIO = tuple(np.round(np.geomspace(0.1, 10.0, 17), 3).tolist())
LOADS = (0.6, 0.8, 0.95, 1.1)
MARKED_CV = (0.0, 0.1, 0.2, 0.3)
MARKED_RATIO = (0.1, 0.5, 2.0, 10.0)

EVICTS = 0.02
"""Evictions per completion above which a saturated node of this size cycles."""

BEHIND = 0.005
"""Share of the arrivals by which completions must fall short for a queue to count as growing."""

ALONE = 0.03
"""Share of the arrivals that completions from an empty node may lack while it fills."""

STAYS = 40
"""Length of an engine run, in stays in a full node; the first third is not counted."""


@dataclass(frozen=True, slots=True)
class MarkedPoint:
    """A point at which the engine was asked.

    Parameters
    ----------
    cv, ratio, load
        CV of the decode lengths, prompt over mean decode length, load.
    model, engine
        Regime by both.
    throughput
        Completions from a queue, over lambda_M, by the engine.
    theta
        The same by the model.
    evictions_per_completion
        Of the engine, from a queue.
    """

    cv: float
    ratio: float
    load: float
    model: str
    engine: str
    throughput: float
    theta: float
    evictions_per_completion: float

    @property
    def agrees(self) -> bool:
        """Whether model and engine say the same."""
        return self.model == self.engine


@dataclass(frozen=True, slots=True, eq=False)
class PhaseDiagram:
    """Regimes over the length CV, the prompt per decode and the load.

    Parameters
    ----------
    mode, mean_decode
        What an eviction costs; E[D] before rounding up [tokens].
    cv : shape (C,); ratio : shape (R,); load : shape (L,)
        Axes.
    regime : shape (C, R, L)
        Names.
    max_root : shape (C, R)
        Largest modulus of the roots of the survival polynomial: unstable from 1 on.
    theta : shape (C, R)
        Throughput of a collapsed node over lambda_M.
    converged : shape (C, R)
        Whether its march settled.
    points
        Where the engine was asked.
    """

    mode: str
    mean_decode: float
    cv: NDArray[np.float64]
    ratio: NDArray[np.float64]
    load: NDArray[np.float64]
    regime: NDArray[np.str_]
    max_root: NDArray[np.float64]
    theta: NDArray[np.float64]
    converged: NDArray[np.bool_]
    points: tuple[MarkedPoint, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the map, and how often the engine agreed with it."""
        agreed = sum(point.agrees for point in self.points)
        return {
            "mode": self.mode,
            "mean_decode": self.mean_decode,
            "cv": self.cv,
            "ratio": self.ratio,
            "load": self.load,
            "regime": self.regime,
            "max_root": self.max_root,
            "theta": self.theta,
            "unconverged": int((~self.converged).sum()),
            "engine": {
                "points": len(self.points),
                "agree": agreed,
                "disagree": [asdict(point) for point in self.points if not point.agrees],
            },
            "points": [asdict(point) for point in self.points],
        }


def gamma_case(
    cv: float, ratio: float, *, mean_decode: float = MEAN_DECODE, mode: str = "sacrifice"
) -> tuple[RequestMix, DecodeNode]:
    """Return gamma decode lengths with one prompt length, and a node that holds 10,000 of them."""
    prefill = LengthDistribution.deterministic(max(1, round(ratio * mean_decode)))
    decode = LengthDistribution.gamma(mean_decode, cv)
    mix = mix_of([RequestClass("gamma", 1.0, prefill, decode)])
    memory = round(SIZE * mix.work / mix.mean_decode)
    law = BatchTimeLaw.per_token(D_0, FULL / memory)
    return mix, DecodeNode(batch_time=law, M_total=memory, B=None, mode=mode)


def engine_regimes(
    mix: RequestMix, instance: DecodeNode, loads: Sequence[float], *, seed: int = 42
) -> list[tuple[str, float, float]]:
    """Ask the engine for the regime at each load.

    One run starts with more queue than it can serve: behind a queue it does not matter who
    arrives, so it is the same for every load. Where it completes less than arrives below
    capacity, a run from an empty node tells a bistable node from one that never keeps up.

    Returns
    -------
    list of (regime, throughput, evictions_per_completion)
        The throughput from the queue is relative to lambda_M.
    """
    full = capacity(mix, instance)
    stay = float(mix.probability @ mix.decode.astype(float) ** 2) / mix.mean_decode
    end = STAYS * stay * saturation(mix, instance).batch_time
    memory = kind_of(instance).limits(instance)["memory"].value
    queue = int(2 * memory / mix.mean_prefill + 1.1 * full * end)
    table = Workload(mix, 1.0).sample(seed, num_requests=queue)
    done, evicted = _rates(table.stretched(0.0), instance, end)
    relative, per_completion = done / full, evicted / done
    answers = []
    for load in loads:
        if load >= 1:
            name = "limit_cycle" if per_completion > EVICTS else "backlogged"
        elif relative >= (1 - BEHIND) * load:
            name = "healthy"
        else:
            table = Workload(mix, load * full).sample(seed, horizon=end)
            alone, _ = _rates(table, instance, end)
            name = "bistable" if alone > (1 - ALONE) * load * full else "never keeps up"
        answers.append((name, relative, per_completion))
    return answers


def _rates(table: RequestTable, instance: DecodeNode, end: float) -> tuple[float, float]:
    """Return completions and evictions per time over the last two thirds of [0, end]."""
    run = discrete.simulate(
        table,
        instance,
        until=end,
        record_batches=False,
        sample_times=np.linspace(0.0, end, 4000),
    )
    trajectory = run.trajectory()
    last = float(trajectory.time[-1])
    return (
        trajectory.rate("completed", end / 3, last),
        trajectory.rate("evicted", end / 3, last),
    )


def phase_diagram(
    cv: Sequence[float] = CV,
    ratio: Sequence[float] = RATIO,
    load: Sequence[float] = LOADS,
    *,
    marked_cv: Sequence[float] = MARKED_CV,
    marked_ratio: Sequence[float] = MARKED_RATIO,
    mean_decode: float = MEAN_DECODE,
    mode: str = "sacrifice",
    seed: int = 42,
    progress: Callable[[int, int], None] | None = None,
) -> PhaseDiagram:
    """Return the map of regimes, and the engine's word at every marked (cv, ratio) and load.

    Parameters
    ----------
    cv, ratio, load
        Axes of the map.
    marked_cv, marked_ratio
        Where the engine is asked; none asks nowhere.
    mean_decode : [tokens]
        Mean of the gamma decode lengths before they are rounded up.
    mode
        What an eviction costs.
    seed
        Of the engine's workloads.
    progress
        Called with the cells of the map and marked cells done and to do.
    """
    shape = (len(cv), len(ratio))
    names = np.full((*shape, len(load)), "", dtype="<U11")
    root, theta, converged = np.empty(shape), np.empty(shape), np.empty(shape, bool)
    marks = [(c, r) for c in marked_cv for r in marked_ratio]
    done, total = 0, root.size + len(marks)

    def told() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    for at in np.ndindex(*shape):
        mix, node = gamma_case(cv[at[0]], ratio[at[1]], mean_decode=mean_decode, mode=mode)
        full = collapsed_throughput(mix, node)
        root[at] = certificate(mix, node).max_root
        theta[at], converged[at] = full.throughput / full.capacity, full.converged
        names[at] = [regime(mix, node, x * full.capacity) for x in load]
        told()
    points: list[MarkedPoint] = []
    for mark in marks:
        mix, node = gamma_case(*mark, mean_decode=mean_decode, mode=mode)
        full = collapsed_throughput(mix, node)
        answers = engine_regimes(mix, node, load, seed=seed)
        points += [
            MarkedPoint(
                *mark, x, regime(mix, node, x * full.capacity), name, throughput,
                full.throughput / full.capacity, evictions,
            )
            for x, (name, throughput, evictions) in zip(load, answers, strict=True)
        ]  # fmt: skip
        told()
    return PhaseDiagram(
        mode, mean_decode, np.asarray(cv), np.asarray(ratio), np.asarray(load),
        names, root, theta, converged, tuple(points),
    )  # fmt: skip
