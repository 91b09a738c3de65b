"""What a scheduler, its instances and the predictor tell one another."""

from __future__ import annotations

import math
from dataclasses import dataclass

from serving import ConfigError


def check_time(ts: float) -> None:
    """Refuse a time that is none, or infinite.

    Raises
    ------
    ConfigError
        In words.
    """
    if not -math.inf < ts < math.inf:
        raise ConfigError("ts", ts, "a finite time")


@dataclass(frozen=True, slots=True)
class RequestMeta:
    """What is known of a request when it arrives; how long its answer will be is not.

    Parameters
    ----------
    request_id
        Names the request in ``enqueue_request`` and in the batch traces.
    prefill_length : [tokens]
        Prompt.
    predicted_decode_length : [tokens]
        An estimate by somebody else; None leaves the length to the predictor's length model.
    prefix_hit : [tokens]
        Part of the prompt that the instance is expected to find in its prefix cache.
    slo_ttft, slo_e2el : [time]
        What the request was promised; None promises nothing.

    Raises
    ------
    ConfigError
        If a number is none, negative or infinite, or more is found than the prompt has.
    """

    request_id: int
    prefill_length: int
    predicted_decode_length: float | None = None
    prefix_hit: int = 0
    slo_ttft: float | None = None
    slo_e2el: float | None = None

    def __post_init__(self) -> None:
        prompt = self.prefill_length
        if not 0 <= prompt < math.inf:
            raise ConfigError("prefill_length", prompt, "a number of tokens >= 0")
        if not 0 <= self.prefix_hit <= prompt:
            raise ConfigError("prefix_hit", self.prefix_hit, f"0 to prefill_length = {prompt}")
        length = self.predicted_decode_length
        if length is not None and not 0 < length < math.inf:
            raise ConfigError("predicted_decode_length", length, "a finite number > 0, or None")
        for name in ("slo_ttft", "slo_e2el"):
            slo = getattr(self, name)
            if slo is not None and not slo >= 0:
                raise ConfigError(name, slo, "a time >= 0, or None")


@dataclass(frozen=True, slots=True)
class BatchTrace:
    """What an instance reports of a batch that has ended.

    Parameters
    ----------
    batch_id
        Number of the batch, from 0, one more with every batch of the instance.
    end : [time]
        When it ended.
    duration : [time]
        How long it took.
    prefill_len : [tokens]
        Prompt tokens that it computed; 0 on an instance whose prompts come prefilled.
    decode_len : [requests]
        Requests that it gave a token after their first.
    finished : shape (F,)
        Ids of the requests that ended with it.
    started : shape (S,)
        Ids of the requests whose first token came with it.
    preempted, resumed : shape (P,), shape (R,)
        Ids of the running requests that were evicted before it, and of evicted ones that decode
        again with it.
    cancelled : shape (C,)
        Ids of the requests that the client gave up.
    num_waiting, num_running : [requests]
        Queue and running set right after it, ``num_running`` with those that the token budget
        leaves out of a batch; None where the instance does not say.
    kv_used : [tokens]
        KV that the running requests hold after it; None where the instance does not say.

    Raises
    ------
    ConfigError
        If a number is none, negative or infinite.
    """

    batch_id: int
    end: float
    duration: float
    prefill_len: int
    decode_len: int
    finished: tuple[int, ...] = ()
    started: tuple[int, ...] = ()
    preempted: tuple[int, ...] = ()
    resumed: tuple[int, ...] = ()
    cancelled: tuple[int, ...] = ()
    num_waiting: int | None = None
    num_running: int | None = None
    kv_used: float | None = None

    def __post_init__(self) -> None:
        if not -math.inf < self.end < math.inf:
            raise ConfigError("end", self.end, "a finite time")
        for name in ("batch_id", "duration", "prefill_len", "decode_len"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(name, getattr(self, name), "a finite number >= 0")
        for name in ("num_waiting", "num_running", "kv_used"):
            told = getattr(self, name)
            if told is not None and not 0 <= told < math.inf:
                raise ConfigError(name, told, "a finite number >= 0, or None")


@dataclass(frozen=True, slots=True)
class Prediction:
    """What would happen to a request on an instance if it were sent there now.

    Parameters
    ----------
    instance_id
        The instance.
    ttft, tpot, e2el : [time]
        Means: until the first token, between two tokens after it, until the last token. Where only
        the first token was asked for, ``e2el`` is None and ``tpot`` is not-a-number.
    ttft_bounds, e2el_bounds : [time]
        Between which the latency lies with the chance :data:`COVERS`; None where nothing is known
        of the errors.
    slo_risk
        Chance that the request misses what it was promised; None where it was promised nothing, or
        something of which nothing is known.
    externality : [time]
        Time that the request adds to all others of the instance together; not-a-number where only
        the first token was asked for.
    confidence
        ``high``, ``fair`` or ``low`` by how wide the bounds have to be, ``unknown`` while too few
        predictions came true, ``stale`` where the instance has been silent for too long. Of
        ``failed`` the latencies are infinite: it scores worst.
    level
        Of :data:`LEVELS`: who answered.
    """

    instance_id: int
    ttft: float
    tpot: float
    e2el: float | None
    ttft_bounds: tuple[float, float] | None
    e2el_bounds: tuple[float, float] | None
    slo_risk: float | None
    externality: float
    confidence: str
    level: str


COVERS = 0.9
"""Chance with which bounds hold a latency."""

LEVELS = ("reference", "lightweight", "reuse")
"""Fork of the engine; a march of the fluid model from the state; one that is shared."""
