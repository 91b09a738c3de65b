"""What an LLM serving instance is: its batch-time law and, per engine, its memory and scheduler."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from numbers import Real
from typing import Any

from serving.errors import ConfigError

TIME_UNITS = ("none", "s", "ms")
MODES = ("swapping", "sacrifice")
QUEUE_POLICIES = ("FCFS", "priority", "SJF")
MOST_TOKENS = 2**53
"""Up to here a float64 holds every whole number, so sums of tokens stay exact."""

VICTIM_POLICIES = ("LIFO", "FIFO", "LRU", "random")


def setting(default: Any, doc: str, **constraints: Any) -> Any:
    """Declare a dataclass field that is also a configuration key.

    Parameters
    ----------
    default
        Default value.
    doc
        One line for the schema and the command line.
    **constraints
        Any of ``minimum``, ``exclusive_minimum``, ``maximum``, ``choices``, and
        ``user_function`` (True where ``path.py:function`` is accepted besides the choices).
    """
    return field(default=default, metadata={"doc": doc, **constraints})


BOUNDS = {
    "minimum": (">=", operator.ge),
    "exclusive_minimum": (">", operator.gt),
    "maximum": ("<=", operator.le),
}
"""Sign of each constraint, and what it asks of value and bound."""

KINDS = {"int": "a whole number", "float": "a finite number", "bool": "true | false"}


def allowed_values(kind: str, rules: Mapping[str, Any], *, optional: bool = False) -> str:
    """Return in words what a setting may be.

    Parameters
    ----------
    kind
        Name of its type.
    rules
        Its constraints; see :func:`setting`.
    optional
        Whether it may be null.
    """
    if "choices" in rules:
        words = " | ".join(rules["choices"])
        return words + (" | path.py:function" if rules.get("user_function") else "")
    bounds = [f"{sign} {rules[name]}" for name, (sign, _) in BOUNDS.items() if name in rules]
    words = " ".join([KINDS.get(kind, "a text"), " and ".join(bounds)]).rstrip()
    return words + (", or null" if optional else "")


def check_settings(spec: Any) -> None:
    """Hold every field of ``spec`` declared by :func:`setting` to its constraints.

    Raises
    ------
    ConfigError
        Naming the first key whose value is not allowed.
    """
    for item in fields(spec):
        rules, value = item.metadata, getattr(spec, item.name)
        kind, _, null = str(item.type).partition(" | ")
        if "doc" in rules and not (value is None and null) and not _is_allowed(value, kind, rules):
            allowed = allowed_values(kind, rules, optional=bool(null))
            raise ConfigError(item.name, value, allowed)


def _is_allowed(value: Any, kind: str, rules: Mapping[str, Any]) -> bool:
    if "choices" in rules:
        is_function = bool(rules.get("user_function")) and ".py:" in str(value)
        return is_function or value in rules["choices"]
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    held = all(ask(value, rules[name]) for name, (_, ask) in BOUNDS.items() if name in rules)
    return held and math.isfinite(value) and (kind != "int" or value % 1 == 0)


@dataclass(frozen=True, slots=True)
class BatchTimeLaw:
    """Duration of one batch (iteration), linear in what the batch holds.

    ``tau = d_0 + d_prefill * prefill_tokens + d_decode * requests + d_kv * context_tokens
    + d_swap * swapped_tokens``, where ``context_tokens`` is the KV held by the decoding
    requests of the batch, sum of p + k, and every decoding request adds one token.

    The decode-node shorthand ``d_1`` is ``d_decode = d_kv = d_1``, for which
    ``tau = d_0 + d_1 * batch_tokens`` with ``batch_tokens = sum(p + k + 1)``.
    """

    d_0: float = setting(1.0, "fixed time of a batch [time]", minimum=0)
    d_decode: float = setting(0.001, "time per decoding request [time/request]", minimum=0)
    d_kv: float = setting(0.001, "time per KV token read [time/token]", minimum=0)
    d_prefill: float = setting(0.0, "time per prefill token computed [time/token]", minimum=0)
    d_swap: float = setting(0.0, "time per token moved GPU <-> CPU [time/token]", minimum=0)

    def __post_init__(self) -> None:
        check_settings(self)

    @classmethod
    def per_token(cls, d_0: float, d_1: float, d_swap: float = 0.0) -> BatchTimeLaw:
        """Return the decode-node law ``tau = d_0 + d_1 * batch_tokens``."""
        return cls(d_0=d_0, d_decode=d_1, d_kv=d_1, d_swap=d_swap)

    @property
    def per_request_extra(self) -> float:
        """``d_decode - d_kv`` [time/request]: what a request costs beyond its tokens."""
        return self.d_decode - self.d_kv

    def scaled(self, n: float) -> BatchTimeLaw:
        """Return the law with every per-token and per-request time divided by ``n``."""
        rates = ("d_decode", "d_kv", "d_prefill", "d_swap")
        return replace(self, **{name: getattr(self, name) / n for name in rates})

    def duration(self, batch_tokens: Any, requests: Any, swapped_tokens: Any = 0) -> Any:
        """Return the duration [time] of a decode batch (scalars or arrays alike).

        Parameters
        ----------
        batch_tokens
            sum(p + k + 1) over the batch [tokens].
        requests
            Decoding requests in the batch.
        swapped_tokens
            Tokens moved between GPU and CPU since the last batch.

        Notes
        -----
        This order of operations is the engine's: with ``d_decode == d_kv`` the third term is an
        exact zero, so ``d_1`` given as a shorthand yields the very bits of ``d_0 + d_1 * tokens``.
        """
        return (
            self.d_0
            + self.d_kv * batch_tokens
            + self.per_request_extra * requests
            + self.d_swap * swapped_tokens
        )


@dataclass(frozen=True, slots=True)
class DecodeNode:
    """A decode node of a disaggregated deployment (engine ``decode_node``).

    A request brings its prompt's KV; it holds p + k tokens after k decoded ones and costs
    p + k + 1 batch tokens per iteration. Later engines are siblings of this class.
    """

    batch_time: BatchTimeLaw = field(default_factory=BatchTimeLaw)
    time_unit: str = setting("none", "unit of every time", choices=TIME_UNITS)
    mode: str = setting("swapping", "what happens to an evicted request", choices=MODES)
    M_total: int = setting(10000, "KV memory [tokens]", minimum=1, maximum=MOST_TOKENS)
    B: int | None = setting(
        2000, "batch token budget [tokens]; null = unlimited", minimum=1, maximum=MOST_TOKENS
    )
    admission_threshold: float = setting(
        1.0, "admit only while used < threshold * M_total", exclusive_minimum=0, maximum=1
    )
    queue_policy: str = setting(
        "FCFS", "order of admission", choices=QUEUE_POLICIES, user_function=True
    )
    victim_policy: str = setting(
        "LIFO", "who is evicted", choices=VICTIM_POLICIES, user_function=True
    )
    batch_priority: str = setting(
        "standard", "order of the batch: RUNNING's entry order", choices=("standard",)
    )
    length_source: str = setting("oracle", "length that SJF reads", choices=("oracle", "predicted"))

    engine = "decode_node"

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def token_budget(self) -> int:
        """``B`` [tokens]; a number that never binds where ``B`` is None."""
        return 2**62 if self.B is None else self.B

    def scaled(self, n: int) -> DecodeNode:
        """Return a node ``n`` times as large whose batches take as long.

        Memory and budget grow by ``n``, times per token shrink by ``n``: with arrivals ``n`` times
        as frequent, the fluid limit stays and the noise falls like ``1/sqrt(n)``.
        """
        budget = None if self.B is None else self.B * n
        law = self.batch_time.scaled(n)
        return replace(self, batch_time=law, M_total=self.M_total * n, B=budget)
