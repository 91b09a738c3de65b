"""Table of ``tune``: the answer, how sure it is, and what was measured there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fluidserve.tables.layout import pairs
from fluidserve.tables.replicas import replicas_table
from fluidserve.text import number
from fluidserve.words import instance_words, measured_words, per_time, source_words

Rows = list[tuple[str, str | None]]


def tuning_table(result: Mapping[str, Any]) -> str:
    """Return the table of ``tune``, of one knob, of two, or of the instances of a fleet."""
    if "sizes" in result:
        return replicas_table(result)
    workload, unit = result["workload"], result["time_unit"]
    capacity = workload["capacity"] if "capacity" in workload else result.get("capacity")
    answer = _two(result, unit) if "knobs" in result else _one(result, unit)
    return pairs(
        [
            *answer,
            ("node", instance_words(result["instance"])),
            ("workload", f"{source_words(workload)}, on average "
                         f"{number(workload['mean_prefill_length'])} prompt and "
                         f"{number(workload['mean_decode_length'])} output tokens"),
            ("capacity", None if capacity is None else f"{number(capacity)} {per_time(unit)}"),
            ("engine runs", number(result["engine_runs"])),
        ]
    )  # fmt: skip


def _one(result: Mapping[str, Any], unit: str) -> Rows:
    value, interval = result["value"], result["confidence_interval"]
    crossing = None if result["estimate"] is None else number(result["estimate"])
    if crossing is not None and interval:
        low, high = map(number, interval)
        crossing += f"; {100 * result['confidence']:g} % interval {low} to {high}"
    return [
        (result["knob"], "-" if value is None else _with_unit(result["knob"], value, unit)),
        ("answer", result["reason"]),
        ("objectives", ", ".join(result["slo"]) or "the backlog does not grow"),
        ("measured at it", ", ".join(measured_words(result)) or None),
        ("missed next at", _missed(result)),
        ("limit estimated", crossing),
        ("fluid alone", _fluid(result)),
    ]


def _fluid(result: Mapping[str, Any]) -> str:
    """Return what the model alone says, and where the engine's value is expected by it."""
    value, fluid = number(result["fluid_value"]), result["fluid"]
    if fluid["interval"] is None:
        return f"{value}; how far off is unknown: {fluid['reason']}"
    low, high = map(number, fluid["interval"])
    said = f"{value}; {100 * fluid['covers']:g} % of answers like this one: {low} to {high}"
    return f"{said}; {fluid['reason']}" if fluid["reason"] else said


def _missed(result: Mapping[str, Any]) -> str | None:
    """Return the other end of the bracket: the answer is the end at which all was met."""
    value, bracket = result["value"], result["bracket"]
    if value is None or not bracket:
        return None
    return number(next((end for end in bracket if end != value), None))


def _two(result: Mapping[str, Any], unit: str) -> Rows:
    values = result["values"] or [None] * len(result["knobs"])
    knobs: Rows = [
        (name, "-" if value is None else _with_unit(name, value, unit))
        for name, value in zip(result["knobs"], values, strict=True)
    ]
    goodput, lead = result["goodput"], result["lead_over_next"]
    thresholds = ", ".join(f"{k} {number(v)}" for k, v in result["thresholds"].items())
    return [
        *knobs,
        ("answer", result["reason"]),
        ("goodput", None if goodput is None else f"{number(goodput)} {per_time(unit)}"),
        ("thresholds", thresholds),
        ("lead over next", " to ".join(map(number, lead)) if lead else None),
    ]


def _with_unit(knob: str, value: float, unit: str) -> str:
    return f"{number(value)} {per_time(unit)}" if knob == "max-rate" else number(value)
