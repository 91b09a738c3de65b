"""What a server that computes its own prompts completes from a queue that never ends, marched.

It begins with requests of one age. Where the full server keeps its equilibrium they soon spread
over all ages, and it completes its capacity. Where it does not, they go on in step with each other:
that costs what preemptions compute again, or saves steps with prompts where these are slow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from fluid.prompt_server import capacity, saturation
from ode.prompt_server.solve import solve
from serving import Instance, RateProfile, RequestMix, Trajectory, reading_of
from serving.kinds.prompt_server import PromptServer

STAYS = 60
"""Length of a run, in stays of a request in a full server; the first half is not counted."""

LARGE = 1000
"""Multiple of the server in which chance preempts nobody."""

IN_STEP = 0.2
"""Swing of the completions from which requests count as in step with each other."""

PARTS = 6
"""Windows of a stay in which completions are counted for their swing."""


@dataclass(frozen=True, slots=True)
class Queued:
    """A server that always has a queue.

    Parameters
    ----------
    throughput
        Completions over lambda_M.
    swing
        Standard deviation over mean of the completions in a sixth of a stay, chance taken out.
    """

    throughput: float
    swing: float


def with_a_queue(
    mix: RequestMix, instance: Instance | PromptServer, *, approximate: bool = False
) -> Queued:
    """Return what a server completes from a queue that never ends, by the fluid model.

    Preemptions by chance, which a large system does not have, are in lambda_M: its ratio to that of
    a much larger server takes them out.
    """
    server: Any = instance
    return _marched(mix, reading_of(server).node, approximate)


@lru_cache(maxsize=64)
def _marched(mix: RequestMix, server: PromptServer, approximate: bool) -> Queued:
    most = capacity(mix, server)
    end, stay = run_length(mix, server)
    count = float(queue_for(mix, server, end))
    arrivals = RateProfile(np.array([0.0, 1e-9 * end, end]), np.array([0.0, count, count]))
    flow = solve(arrivals, mix, server, drain=False, horizon=end, approximate=approximate)
    run = flow.trajectory
    unharmed = capacity(mix, server.scaled(LARGE)) / LARGE
    done = run.rate("completed", end / 2, float(run.time[-1]))
    return Queued(done / max(unharmed, most), swing_of(run, end, stay, chance=False))


def run_length(mix: RequestMix, instance: Instance | PromptServer) -> tuple[float, float]:
    """Return how long a run lasts, and a stay in a full server [time]."""
    full = saturation(mix, instance)
    stay = mix.mean_decode * full.batch_time
    return STAYS * stay, stay


def queue_for(mix: RequestMix, instance: Instance | PromptServer, end: float) -> int:
    """Return more requests than a server completes, and holds, until ``end`` [time]."""
    full = saturation(mix, instance)
    return int(2.5 * full.throughput * end + 2 * full.batch_size + 10)


def swing_of(run: Trajectory, end: float, stay: float, *, chance: bool) -> float:
    """Return the swing of the completions in the second half.

    Parameters
    ----------
    run
        From time 0.
    end, stay : [time]
        Of :func:`run_length`.
    chance
        Whether the run is one of whole requests: what Poisson chance makes is then taken off.
    """
    edges = np.arange(end / 2, float(run.time[-1]), stay / PARTS)
    count = np.diff(np.interp(edges, run.time, run.outputs["completed"]))
    mean = float(count.mean())
    variance = float(count.var()) - (mean if chance else 0.0)
    return math.sqrt(max(variance, 0.0)) / mean if mean > 0 else 0.0
