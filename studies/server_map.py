"""Where in (spread of lengths, prompt per decode, load) a server keeps up, and what binds there.

A server that computes its own prompts may keep up from an empty start and no longer once it has a
queue, or the other way round: full steps complete less than others where the law bends or where
preemptions compute tokens again, and requests that are alike go on in step with each other. The map
is the model's: capacity and highest rate in closed form, and the march of a server whose queue
never ends. At marked points the discrete engine is asked too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import discrete
from fluid import capacity, certificate, highest_rate, saturation
from fluid.prompt_server import most_entering
from ode.prompt_server import policy_labels
from ode.prompt_server.queued import (
    IN_STEP,
    Queued,
    queue_for,
    run_length,
    swing_of,
    with_a_queue,
)
from serving import (
    FluidServeError,
    Instance,
    RequestMix,
    Trajectory,
    UnsupportedError,
    kind_of,
    reading_of,
)
from workload import LengthDistribution, RequestClass, Workload, mix_of

MEAN_DECODE = 200
CV = tuple(np.round(np.linspace(0.0, 0.4, 17), 3).tolist())
RATIO = tuple(np.round(np.geomspace(0.1, 31.6, 16), 3).tolist())
LOADS = (0.8, 0.95, 1.05, 1.2)
MARKED_CV = (0.0, 0.1, 0.2, 0.3)
MARKED_RATIO = (0.215, 1.0, 4.64, 21.5)

BEHIND = 0.005
"""Share of the arrivals by which completions must fall short for a queue to count as growing."""

SURELY = 0.4
"""The same, as a share of what a server with a queue falls short by."""

SAMPLES = 4000
"""Times at which a run is looked at."""

FIELDS = ("capacity", "highest", "theta", "swing", "running", "max_root")


@dataclass(frozen=True, slots=True)
class ServerPoint:
    """A point at which the engine was asked.

    Parameters
    ----------
    cv, ratio, load
        CV of the decode lengths, prompt over mean decode length, load.
    model, engine
        Regime by both.
    throughput, theta
        Completions from a queue, over lambda_M, by the engine and by the model.
    swing, model_swing
        How much they swing, by both.
    """

    cv: float
    ratio: float
    load: float
    model: str
    engine: str
    throughput: float
    theta: float
    swing: float
    model_swing: float

    @property
    def agrees(self) -> bool:
        """Whether model and engine say the same."""
        return self.model == self.engine


@dataclass(frozen=True, slots=True, eq=False)
class ServerMap:
    """Regimes of a server over the length CV, the prompt per decode and the load.

    Parameters
    ----------
    instance
        The server.
    mean_decode
        E[D] before rounding up [tokens].
    cv : shape (C,); ratio : shape (R,); load : shape (L,)
        Axes.
    regime : shape (C, R, L)
        Names.
    capacity : shape (C, R) [requests/time]
        lambda_M, which loads are relative to.
    highest : shape (C, R)
        Highest rate that it keeps up with from an empty start, over lambda_M.
    theta, swing : shape (C, R)
        Completions from a queue that never ends over lambda_M, and how much they swing.
    running : shape (C, R)
        Requests that run at capacity.
    max_root : shape (C, R)
        Largest root of the certificate of a full server: swings last from 1 on; NaN where there is
        none.
    entering
        Requests that may start in a step by each limit, by its name: the least binds.
    points
        Where the engine was asked.
    labels
        What the model reads as something else.
    """

    instance: Instance
    mean_decode: float
    cv: NDArray[np.float64]
    ratio: NDArray[np.float64]
    load: NDArray[np.float64]
    regime: NDArray[np.str_]
    capacity: NDArray[np.float64]
    highest: NDArray[np.float64]
    theta: NDArray[np.float64]
    swing: NDArray[np.float64]
    running: NDArray[np.float64]
    max_root: NDArray[np.float64]
    entering: dict[str, NDArray[np.float64]]
    points: tuple[ServerPoint, ...]
    labels: tuple[str, ...] = ()

    @property
    def binds(self) -> NDArray[np.str_]:
        """Name of the limit that binds, shape (C, R)."""
        names = np.array(list(self.entering))
        return names[np.argmin(np.stack(list(self.entering.values())), axis=0)]

    @property
    def warnings(self) -> list[str]:
        """What limits the map, one line each."""
        known = self.instance.batch_time.most_requests
        beyond = int((self.running > known).sum())
        if not beyond:
            return [*self.labels]
        return [
            *self.labels,
            f"extrapolated: in {beyond} of {self.running.size} cells up to "
            f"{self.running.max():,.0f} requests run, and the batch-time law was measured up to "
            f"{known:,.0f}",
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the map, and how often the engine agreed with it."""
        agreed = sum(point.agrees for point in self.points)
        return {
            "engine_kind": self.instance.engine,
            "mean_decode": self.mean_decode,
            "cv": self.cv,
            "ratio": self.ratio,
            "load": self.load,
            "regime": self.regime,
            "binds": self.binds,
            "capacity": self.capacity,
            "highest_rate": self.highest,
            "theta": self.theta,
            "swing": self.swing,
            "running": self.running,
            "max_root": self.max_root,
            "warnings": self.warnings,
            "engine": {
                "points": len(self.points),
                "agree": agreed,
                "disagree": [asdict(point) for point in self.points if not point.agrees],
            },
            "points": [asdict(point) for point in self.points],
        }


def named(load: float, *, highest: float, queued: Queued) -> str:
    """Return the regime at a load.

    ``healthy`` where it keeps up from an empty start and with a queue, ``bistable`` where it does
    until it first has one; else ``backlogged``, or ``limit_cycle`` where those who run are in step.
    """
    if load < highest:
        return "healthy" if load < queued.throughput else "bistable"
    return "limit_cycle" if queued.swing > IN_STEP else "backlogged"


def server_mix(cv: float, ratio: float, mean_decode: float = MEAN_DECODE) -> RequestMix:
    """Return gamma decode lengths with one prompt length."""
    prefill = LengthDistribution.deterministic(max(1, round(ratio * mean_decode)))
    decode = LengthDistribution.gamma(mean_decode, cv)
    return mix_of([RequestClass("gamma", 1.0, prefill, decode)])


def queued_engine(mix: RequestMix, instance: Instance, *, seed: int = 42) -> Queued:
    """Return the same by a run of the engine."""
    end, stay = run_length(mix, instance)
    table = Workload(mix, 1.0).sample(seed, num_requests=queue_for(mix, instance, end))
    run = _run(table.stretched(0.0), instance, end)
    done = run.rate("completed", end / 2, float(run.time[-1]))
    return Queued(done / capacity(mix, instance), swing_of(run, end, stay, chance=True))


def engine_regimes(
    mix: RequestMix, instance: Instance, loads: Sequence[float], *, seed: int = 42
) -> tuple[Queued, list[str]]:
    """Ask the engine for the regime at each load.

    One run starts with more queue than it can serve and tells what a full server does. Where that
    is less than what arrives, or a load is 1 or more, a run from an empty server tells the rest.
    """
    queued, names = queued_engine(mix, instance, seed=seed), []
    for load in loads:
        behind = 1.0 - queued.throughput / load
        keeps_up = (load < 1 and behind <= BEHIND) or _from_empty(
            mix, instance, load, behind=behind, seed=seed
        )
        full = Queued(math.inf if behind <= BEHIND else queued.throughput, queued.swing)
        names.append(named(load, highest=math.inf if keeps_up else 0.0, queued=full))
    return queued, names


def _from_empty(
    mix: RequestMix, instance: Instance, load: float, *, behind: float, seed: int
) -> bool:
    """Return whether the engine keeps up from an empty start."""
    end, _ = run_length(mix, instance)
    rate = load * capacity(mix, instance)
    run = _run(Workload(mix, rate).sample(seed, horizon=end), instance, end)
    there = np.interp([end / 2, end], run.time, run.outputs["in_system"])
    grows = float(there[1] - there[0]) / (rate * end / 2)
    return grows <= max(BEHIND, SURELY * behind)


def _root(mix: RequestMix, instance: Instance) -> float:
    """Return the largest root of the certificate, NaN where there is none."""
    try:
        return certificate(mix, instance).max_root
    except UnsupportedError:
        return math.nan


def _run(table: Any, instance: Instance, end: float) -> Trajectory:
    times = np.linspace(0.0, end, SAMPLES)
    done = discrete.simulate(
        table, instance, until=end, record_batches=False, sample_times=times
    )  # fmt: skip
    return done.trajectory()


def server_map(
    instance: Instance,
    cv: Sequence[float] = CV,
    ratio: Sequence[float] = RATIO,
    load: Sequence[float] = LOADS,
    *,
    marked_cv: Sequence[float] = MARKED_CV,
    marked_ratio: Sequence[float] = MARKED_RATIO,
    mean_decode: float = MEAN_DECODE,
    seed: int = 42,
    approximate: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ServerMap:
    """Return the map of a server, and the engine's word at every marked (cv, ratio) and load.

    Parameters
    ----------
    instance
        A server whose fluid model is that of servers that compute their own prompts.
    cv, ratio, load
        Axes. Ratios whose requests the server cannot hold are left out.
    marked_cv, marked_ratio
        Where the engine is asked; none asks nowhere.
    mean_decode : [tokens]
        Mean of the gamma decode lengths before they are rounded up.
    seed
        Of the engine's workloads.
    approximate
        Read settings that are not modelled as those that are.
    progress
        Called with the cells of the map and marked cells done and to do.

    Raises
    ------
    FluidServeError
        If the server holds the requests of less than two ratios.
    """
    server = reading_of(instance).node
    labels = policy_labels(server, approximate=approximate)
    ratio = _that_fit(instance, cv, ratio, mean_decode)
    marks = [(c, r) for c in marked_cv for r in marked_ratio if r <= ratio[-1]]
    shape = (len(cv), len(ratio))
    names = np.full((*shape, len(load)), "", dtype="<U11")
    fields = {name: np.empty(shape) for name in FIELDS}
    entering: dict[str, NDArray[np.float64]] = {}
    done, total = 0, math.prod(shape) + len(marks)

    def told() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    for at in np.ndindex(*shape):
        mix = server_mix(cv[at[0]], ratio[at[1]], mean_decode)
        full = with_a_queue(mix, instance, approximate=approximate)
        most = capacity(mix, instance)
        highest = highest_rate(mix, instance) / most
        running = saturation(mix, instance).batch_size
        values = (most, highest, full.throughput, full.swing, running, _root(mix, instance))
        for name, value in zip(FIELDS, values, strict=True):
            fields[name][at] = value
        for name, value in most_entering(mix, server).items():
            entering.setdefault(name, np.full(shape, np.inf))[at] = value
        names[at] = [named(x, highest=highest, queued=full) for x in load]
        told()
    points: list[ServerPoint] = []
    for mark in marks:
        mix = server_mix(*mark, mean_decode)
        model = with_a_queue(mix, instance, approximate=approximate)
        engine, answers = engine_regimes(mix, instance, load, seed=seed)
        highest = highest_rate(mix, instance) / capacity(mix, instance)
        points += [
            ServerPoint(
                *mark, x, named(x, highest=highest, queued=model), name, engine.throughput,
                model.throughput, engine.swing, model.swing,
            )
            for x, name in zip(load, answers, strict=True)
        ]  # fmt: skip
        told()
    return ServerMap(
        instance, mean_decode, np.asarray(cv, float), np.asarray(ratio, float),
        np.asarray(load, float), names, **fields, entering=entering, points=tuple(points),
        labels=labels,
    )  # fmt: skip


def _that_fit(
    instance: Instance, cv: Sequence[float], ratio: Sequence[float], mean_decode: float
) -> list[float]:
    """Return the ratios whose longest request the server holds."""
    longest = LengthDistribution.gamma(mean_decode, max(cv)).value.max()
    most = kind_of(instance).largest_request(instance)
    fit = [x for x in ratio if max(1, round(x * mean_decode)) + longest <= most.value]
    if len(fit) < 2:
        raise FluidServeError(
            f"a server that holds {most.value:,.0f} tokens of a request ({most.words}) is too "
            f"small for decode lengths of mean {mean_decode:g}, up to {longest:,}; give a smaller "
            "--mean-decode"
        )
    return fit
