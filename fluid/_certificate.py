"""Whether the equilibrium of a full node can be trusted, and by which solver.

What fills is the memory or the batch budget B, whichever is smaller. The entrants to a batch that
is kept full obey the recursion of the entrants to a memory that is kept full: a request needs
p + m + 1 tokens m iterations on in either, so that one polynomial decides for both.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from fluid._survival_polynomial import largest_root, ode_is_stable, survival_polynomial
from fluid._worst_cycle import why_no_cycle, worst_cycle
from serving import DecodeNode, RequestMix, answers

STABLE = "stable"
LIMIT_CYCLE = "limit cycle"
ODE_BLIND = "the ODE is blind here: use the Lagrangian engine"


@dataclass(frozen=True, slots=True)
class Certificate:
    """Local stability of the equilibrium of a full node, whatever the load (section 5).

    Parameters
    ----------
    stable
        Whether the discrete node returns to it: all roots of the survival polynomial in
        ``|z| < 1``.
    max_root
        Largest ``|z|``; a deviation changes by this factor per iteration.
    ode_blind
        The node is unstable and the stage equations are stable: an Eulerian solution shows an
        equilibrium that the node does not keep.
    cycle_loss
        Share of the memory-full throughput lost in the worst limit cycle: 0 where stable, None
        where no closed form holds (see ``message``).
    theta_sac : [requests/time]
        Throughput of the worst cycle of sacrifice mode; None in swapping mode and where no closed
        form holds.
    memory_binds
        Whether memory, up to the admission threshold, is what limits a backlogged node. Where B is
        smaller its batches fill instead: then a cycle shifts completions in time, and grows as
        long as a queue lasts.
    message
        The verdict in words.
    """

    stable: bool
    max_root: float
    ode_blind: bool
    cycle_loss: float | None
    theta_sac: float | None
    memory_binds: bool
    message: str

    def labels(self) -> tuple[str, ...]:
        """Return the caveats that a solution which fills the node carries."""
        return () if self.stable else (self.message,)


@answers("decode_node")
def certificate(mix: RequestMix, instance: DecodeNode) -> Certificate:
    """Return the certificate of ``instance`` under ``mix``.

    Parameters
    ----------
    mix, instance
        Lengths and node; the arrival rate does not matter.
    """
    max_root, ode_blind = _spectrum(mix)
    stable = max_root < 1
    reason = why_no_cycle(mix, instance)
    theta = None if reason else worst_cycle(mix, instance).throughput
    loss = 0.0 if stable else None
    if theta is not None and not stable:
        full = float(instance.M_total)
        tau = float(instance.batch_time.duration(full, full * mix.mean_decode / mix.work))
        loss = max(0.0, 1 - theta * mix.work * tau / full)
    binds = instance.admission_threshold * instance.M_total <= instance.token_budget
    return Certificate(
        stable,
        max_root,
        ode_blind,
        loss,
        theta,
        binds,
        _words(max_root, ode_blind, loss, reason, binds),
    )


@lru_cache(maxsize=64)
def _spectrum(mix: RequestMix) -> tuple[float, bool]:
    """Return the largest |z| and whether only the ODE is stable; a mix is known by identity."""
    coefficients = survival_polynomial(mix)
    largest = abs(largest_root(coefficients))
    return largest, largest >= 1 and ode_is_stable(coefficients)


def _words(root: float, blind: bool, loss: float | None, reason: str, binds: bool) -> str:
    words = STABLE
    if root >= 1:
        words = f"{LIMIT_CYCLE}: "
        words += reason if loss is None else f"expect up to {100 * loss:.1f} % loss"
        if not binds:
            words += (
                f"; full batches swing more and more, {root:.4f}-fold per batch, and chance shifts "
                "the phase: a mean of runs is no path of one run"
            )
        words += f"; {ODE_BLIND}" if blind else ""
    if not binds:
        words += "; B < M_total: the batch budget fills first, not memory"
    return words
