"""What a node with a full memory and a long queue completes, marched on the iteration clock.

In mode sacrifice this is theta_sac, the throughput of a collapsed node. With lengths that are
nearly deterministic the memory-full equilibrium is unstable: requests that entered together grow
together, evict the youngest and start over. The cycle has a closed form for one length only
(model, section 5); here it is marched for any mix.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from fluid import capacity, requests_that_fit, saturation, whole_requests
from ode._initial_state import InitialState
from ode._solution import Solution
from ode._solve import solve
from serving import DecodeNode, RateProfile, RequestMix, SolveError, answers

FEWEST_CYCLES = 32
"""Length of the first march, in stays of a request in a saturated node."""

MOST_CYCLES = 4096
"""Longest march."""

TOLERANCE = 1e-4
"""Relative change of the throughput from one march to one twice as long at which to stop."""

MANY = 100.0
"""Requests in a saturated batch from which the fluid limit is marched. In a smaller node chance
starts cycles again and again that would die out in the limit: there whole requests are marched."""

WHOLE_ERROR = 0.005
"""Relative error of the throughput of a march of whole requests, and of its capacity."""


@dataclass(frozen=True, slots=True)
class Collapse:
    """A node that started with a long queue, once its cycle has settled.

    Parameters
    ----------
    throughput : [requests/time]
        Completions per time; theta_sac in mode sacrifice.
    capacity : [requests/time]
        lambda_M.
    evictions_per_completion
        Swap-outs or sacrifices; 0 where the memory-full equilibrium is stable.
    change
        Relative change of the throughput over the last doubling of the march; of whole requests,
        the error of their one march.
    converged
        Whether ``change`` is within the tolerance.
    batches
        Of the last march.
    """

    throughput: float
    capacity: float
    evictions_per_completion: float
    change: float
    converged: bool
    batches: int

    @property
    def loss(self) -> float:
        """Share of the capacity that the cycle loses."""
        return 1.0 - self.throughput / self.capacity

    @property
    def is_lossy(self) -> bool:
        """Whether the loss is more than the error of the march."""
        return self.loss > max(TOLERANCE, self.change)

    @property
    def evicts(self) -> bool:
        """Whether the settled node evicts at all (more than once in a thousand completions)."""
        return self.evictions_per_completion > 1e-3


@answers("decode_node")
def collapsed_throughput(
    mix: RequestMix, instance: DecodeNode, *, tolerance: float = TOLERANCE
) -> Collapse:
    """Return what ``instance`` completes from a queue that never ends.

    The fluid starts from an empty memory and an endless queue, which fills the memory at once
    with requests of one age: the synchronised start from which a node collapses. It is marched
    twice as long until the throughput of its second half changes by no more than ``tolerance``,
    or for :data:`MOST_CYCLES` stays (a cycle that dies out near marginal stability takes long).
    A node of fewer than :data:`MANY` requests is no fluid: its requests are marched one by one,
    see :func:`fluid.whole_requests`.

    Parameters
    ----------
    mix, instance
        Any; ``instance.mode`` says what an eviction costs, its admission threshold counts.
    tolerance
        Relative.

    Raises
    ------
    SolveError
        If a batch takes no time.

    Notes
    -----
    A fluid uses the last token of memory, a node leaves the straddle free: the throughput of a
    stable mix may exceed lambda_M by that share (s/M). Long decodes are marched several batches at
    a time, as :func:`ode.solve` does by default: 0.2 % of the throughput at a mean of 650 tokens.
    """
    return _collapsed(mix, instance, float(tolerance))


@lru_cache(maxsize=256)
def _collapsed(mix: RequestMix, instance: DecodeNode, tolerance: float) -> Collapse:
    """Return it, once per mix (known by identity), instance and tolerance."""
    if requests_that_fit(mix, instance) < MANY:
        return _of_whole_requests(mix, instance)
    cycles, before = FEWEST_CYCLES, float("nan")
    while True:
        march, end = saturated_march(mix, instance, cycles)
        now = march.trajectory.rate("completed", end / 2, end)
        change = abs(now / before - 1.0)
        if change <= tolerance or cycles >= MOST_CYCLES:
            break
        cycles, before = 2 * cycles, now
    return Collapse(
        throughput=now,
        capacity=capacity(mix, instance),
        evictions_per_completion=march.trajectory.rate("evicted", end / 2, end) / now,
        change=change,
        converged=change <= tolerance,
        batches=int(march.stats["batches"]),
    )


def _of_whole_requests(mix: RequestMix, instance: DecodeNode) -> Collapse:
    found = whole_requests(mix, instance)
    return Collapse(
        throughput=found.throughput(mix),
        capacity=capacity(mix, instance),
        evictions_per_completion=found.evictions_per_completion,
        change=WHOLE_ERROR,
        converged=True,
        batches=found.batches,
    )


def saturated_march(mix: RequestMix, instance: DecodeNode, cycles: float) -> tuple[Solution, float]:
    """Return a solution that starts with more queue than it can serve, and when it ends [time].

    ``cycles`` counts mean stays of a request found in service (size-biased: E[D^2]/E[D] batches).
    """
    state = saturation(mix, instance)
    if not 0 < state.batch_time < float("inf"):
        raise SolveError("lagrangian", "stalled", "a saturated batch takes no time; give d_0 > 0")
    end = cycles * stay(mix) * state.batch_time
    queue = float(4 * end * state.throughput + instance.M_total)
    solution = solve(
        RateProfile.constant(0.0, end), mix, instance,
        initial=InitialState(waiting=queue), drain=False,
    )  # fmt: skip
    return solution, end


def stay(mix: RequestMix) -> float:
    """Return E[D^2] / E[D] [batches], the mean length of a request found in service."""
    decode = mix.decode.astype(float)
    return float(mix.probability @ decode**2 / mix.mean_decode)
