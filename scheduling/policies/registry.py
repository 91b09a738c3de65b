"""The policies by name, and those that users bring."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from scheduling.messages import RequestMeta
from scheduling.policies import counts, predicted
from scheduling.policies.learned import Regression
from scheduling.policies.stateful import AtRandom, ByPrefix, InTurn, SomeOf
from scheduling.policies.users import users_policy
from scheduling.signals import View, lowest
from serving import ConfigError

Policy = Callable[[View, RequestMeta], int]
"""From what the router sees and a request to the number of an instance."""

Score = Callable[[View, RequestMeta], NDArray]
"""A number for each instance, of which the lowest wins, shape (N,)."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A policy that has a name.

    Parameters
    ----------
    words
        What it does, in a few words.
    score
        Of a policy that takes the lowest score.
    make
        Of another policy: from a seed to the policy.
    asks
        Whether it asks a predictor.
    """

    words: str
    score: Score | None = None
    make: Callable[[int], Policy] | None = None
    asks: bool = False


POLICIES: dict[str, Entry] = {
    "random": Entry("any instance, each as likely", make=AtRandom),
    "round-robin": Entry("one after the other", make=InTurn),
    "jsq": Entry("fewest requests in the system", counts.jsq),
    "jsq-own": Entry("fewest, with what was sent since they told", counts.jsq_own),
    "jsq-capacity": Entry("fewest requests by capacity", counts.jsq_capacity),
    "jsq-residual": Entry("fewest by capacity, and the rest of the batch", counts.jsq_residual),
    "least-kv": Entry("smallest share of KV in use", counts.least_kv),
    "least-tokens": Entry("fewest tokens running and prompts waiting", counts.least_tokens),
    "free-kv": Entry("most free KV per running request, as Llumnix", counts.free_kv),
    "pending-prefill": Entry("fewest prompt tokens without an answer", counts.pending_prefill),
    "lmetric": Entry("prompt tokens to compute times batch size", counts.lmetric),
    "prefix-affinity": Entry("where the prefix was last, unless crowded", make=ByPrefix),
    "regression": Entry("lowest TTFT by a linear model that learns", make=Regression),
    "predicted-ttft": Entry("lowest predicted TTFT", predicted.predicted_ttft, asks=True),
    "predicted-e2el": Entry("lowest predicted E2EL", predicted.predicted_e2el, asks=True),
    "predicted-cost": Entry(
        "lowest predicted TTFT, also of those behind", predicted.predicted_cost, asks=True
    ),
    "predicted-total": Entry(
        "lowest predicted TTFT, of those behind too, and decode time of all",
        predicted.predicted_total,
        asks=True,
    ),
    "slo-headroom": Entry(
        "the tightest that keeps the promises", predicted.slo_headroom, asks=True
    ),
}
"""Every policy by its name. ``NAME@K`` of one with a score looks at K instances at random."""


def needs_predictor(policy: str) -> bool:
    """Return whether a policy asks a predictor, by its name."""
    name = policy.partition("@")[0]
    return name in POLICIES and POLICIES[name].asks


def listens(policy: str) -> bool:
    """Return whether a policy, or the predictor that it asks, hears of every batch."""
    return needs_predictor(policy) or hasattr(policy_of(policy, 0)[1], "sync_batch_result")


def policy_of(policy: str | Policy, seed: int) -> tuple[str, Policy]:
    """Return the name of a policy and the policy itself, as it is before its first choice.

    Parameters
    ----------
    policy
        A name, ``NAME@K``, ``file.py:function``, ``module:function``, or a function.
    seed
        Of what it draws.

    Raises
    ------
    ConfigError
        If there is no such policy.
    """
    if not isinstance(policy, str):
        return getattr(policy, "__name__", type(policy).__name__), policy
    if ":" in policy:
        return policy, users_policy(policy)
    name, at, number = policy.partition("@")
    entry = POLICIES.get(name)
    if entry is None:
        known = " | ".join(POLICIES)
        raise ConfigError("policy", policy, f"{known} | NAME@K | file.py:function")
    if not at:
        return policy, _made(entry, seed)
    if entry.score is None:
        raise ConfigError("policy", policy, f"{name} without @: it has no score of an instance")
    if not number.isdecimal() or int(number) < 1:
        raise ConfigError("policy", policy, f"{name}@K with a whole number K >= 1")
    return policy, SomeOf(entry.score, int(number), seed)


def _made(entry: Entry, seed: int) -> Policy:
    if entry.make is not None:
        return entry.make(seed)
    score: Any = entry.score
    return lambda view, request: lowest(view, score(view, request))
