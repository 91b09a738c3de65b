"""A profile describes a model on a card: measured where a measurement exists, else estimated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from calibration.profiles.estimate import UTILIZATION, estimated_kv_capacity, estimated_law
from calibration.profiles.names import gpu_key, model_key, resolve
from calibration.profiles.tables import (
    Law,
    Measurement,
    Wall,
    gpus,
    measured,
    models,
    roofline,
)
from serving import DEFAULT_KIND, ConfigError, FluidServeError, Kind
from serving.arguments import checked

TESTED_REQUESTS = 256
"""Requests of the largest measured batch that estimated laws are held against."""

MOST_CARDS = 64
"""Largest number of cards that a model is divided over."""

TIME_UNITS = {"s": 1e-3, "ms": 1.0}
"""One millisecond in each time unit that a configuration with a profile can have."""


@dataclass(frozen=True, slots=True)
class Profile:
    """A profile holds the batch-time law and the KV capacity of a model on ``tp`` cards.

    Parameters
    ----------
    model, hardware, tp
        Canonical names, and over how many cards the model is divided.
    origin
        ``measured`` or ``estimated``.
    law
        Batch-time law in ms.
    kv_capacity, kv_capacity_origin
        KV cache [tokens], and whether it was measured or estimated.
    expected_error
        Relative error of the law by regime: held out where measured, of estimates of cards left
        out where estimated.
    basis
        Measurement or computation behind the law, and its range.
    source, licence, date
        Origin of the figures.
    wall
        Bias against batches timed on a running server, where there are some.
    most_requests
        Requests in the largest batch that was measured or, of an estimated law, in the largest that
        estimates were held against.
    """

    model: str
    hardware: str
    tp: int
    origin: str
    law: Law
    kv_capacity: int
    kv_capacity_origin: str
    expected_error: dict[str, Any]
    basis: str
    source: str
    licence: str
    date: str
    wall: Wall | None = None
    most_requests: int | None = None

    def config(
        self,
        time_unit: str = "s",
        kind: Kind = DEFAULT_KIND,
        given: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Return the configuration keys of an instance with this profile.

        Parameters
        ----------
        time_unit
            ``s`` or ``ms``.
        kind
            Kind of engine: it says which coefficients of the law its batches spend, and which
            settings give it the KV capacity.
        given
            The other settings of the instance, on which its KV capacity may depend.

        Raises
        ------
        ConfigError
            If the time unit is none: a profile's times are real ones.
        """
        if time_unit not in TIME_UNITS:
            raise ConfigError("time_unit", time_unit, "s | ms (a profile has real times)")
        law = self.law.batch_time(TIME_UNITS[time_unit])
        return {
            "time_unit": time_unit,
            **kind.kv_keys(self.kv_capacity, given or {}),
            **kind.law_values(replace(law, measured_requests=self.most_requests)),
        }

    def said(self) -> str:
        """Return a description of the profile in one line."""
        error = self.expected_error["decode"]
        return (
            f"{self.model} on {self.tp} x {self.hardware}: {self.origin} ({self.basis}); decode "
            f"batch times within {100 * error:.1f} % on average; KV cache {self.kv_capacity} "
            f"tokens ({self.kv_capacity_origin})"
        )


@checked()
def find(
    model: str, hardware: str, tp: int = 1, *, gpu_memory_utilization: float = UTILIZATION
) -> Profile:
    """Return the profile of a model on a card.

    Parameters
    ----------
    model, hardware
        In any of their spellings; a tuned variant means its base.
    tp
        Cards over which the model is divided.
    gpu_memory_utilization
        Share of a card's memory that the server takes, for KV capacities that were not measured.

    Raises
    ------
    FluidServeError
        For an unknown name, saying what exists; for a number of cards over which the model does
        not divide, saying which do; or for weights that do not fit.
    """
    if not isinstance(tp, int) or not 1 <= tp <= MOST_CARDS:
        raise ConfigError("tp", tp, f"a whole number >= 1 and <= {MOST_CARDS}")
    if not 0 < gpu_memory_utilization <= 1:
        raise ConfigError("gpu_memory_utilization", gpu_memory_utilization, "a number > 0 and <= 1")
    name = resolve(model, models(), model_key, "--model")
    card = resolve(hardware, gpus(), gpu_key, "--hardware")
    shape, gpu, base = models()[name], gpus()[card], roofline()
    if not shape.divides_over(tp):
        allowed = [str(n) for n in range(1, MOST_CARDS + 1) if shape.divides_over(n)]
        raise FluidServeError(
            f"--tp {tp}: the {shape.heads} heads and {shape.kv_heads} KV heads of {name} do not "
            f"divide over {tp} cards, so no server starts; allowed: {' | '.join(allowed)}"
        )
    known: Measurement | None = measured().get((name, card, tp))
    if known is not None and known.kv_capacity and gpu_memory_utilization == UTILIZATION:
        capacity, capacity_origin = known.kv_capacity, "measured"
    else:
        capacity = estimated_kv_capacity(shape, gpu, tp, base, gpu_memory_utilization)
        capacity_origin = "estimated"
    if known is None:
        error = dict(base.error)
        if shape.experts is not None:
            error["decode"] = error["mixture"]
        return Profile(
            model=name,
            hardware=card,
            tp=tp,
            origin="estimated",
            law=estimated_law(shape, gpu, tp, base),
            kv_capacity=capacity,
            kv_capacity_origin=capacity_origin,
            expected_error=error,
            basis="roofline of data sheet and model shape",
            source=base.source,
            most_requests=TESTED_REQUESTS,
            licence="none: computed",
            date=base.date,
        )
    return Profile(
        model=name,
        hardware=card,
        tp=tp,
        origin="measured",
        law=known.law,
        kv_capacity=capacity,
        kv_capacity_origin=capacity_origin,
        expected_error={regime: each.error for regime, each in known.fit.items()},
        basis=f"{known.measured}, {known.range}",
        source=known.source,
        licence=known.licence,
        date=known.date,
        wall=known.wall,
        most_requests=known.most_requests,
    )


def listing() -> list[dict[str, Any]]:
    """Return the main figures of every measured profile."""
    return [
        {
            "model": model, "hardware": card, "tp": tp, "origin": "measured",
            "measured": each.measured, "date": each.date, "kv_capacity": each.kv_capacity,
            "mape": {regime: fit.error for regime, fit in each.fit.items()},
        }
        for (model, card, tp), each in measured().items()
    ]  # fmt: skip
