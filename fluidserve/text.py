"""Write results in words and aligned numbers, for people."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fluidserve.plain import plain
from serving import LATENCIES, Instance, kind_of

STATISTICS = ("mean", "std", "p50", "p90", "p95", "p99")


def for_people(title: str, summary: Mapping[str, Any]) -> str:
    """Return a summary as aligned lines of text under ``title``."""
    lines = [title, "=" * len(title), *_lines(plain(summary), "")]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _lines(content: Mapping[str, Any], indent: str) -> list[str]:
    """Return one line per value, the groups of values after them, latencies as a table."""
    table, listed = _latency_table(content)
    values = {k: v for k, v in content.items() if not isinstance(v, dict) and k not in listed}
    width = max(map(len, values), default=0)
    lines = [f"{indent}{key:<{width}}  {number(value)}" for key, value in values.items()]
    lines += [indent + row for row in table]
    for key, group in content.items():
        if isinstance(group, dict):
            lines += ["", indent + key, *_lines(group, indent + "  ")]
    return lines


def _latency_table(content: Mapping[str, Any]) -> tuple[list[str], set[str]]:
    """Return the latencies among metrics as rows of a table, and the keys that it shows."""
    suffix = "_ms" if "mean_ttft_ms" in content else ""
    if f"std_ttft{suffix}" not in content:  # not the metrics of a run or a solution
        return [], set()
    shown = {f"{stat}_{name}{suffix}" for stat in STATISTICS for name in LATENCIES}
    shown |= {f"median_{name}{suffix}" for name in LATENCIES}
    rows = [f"{'latency' + (' [ms]' if suffix else ''):<14}" + _cells(STATISTICS)]
    for name in LATENCIES:
        values = [number(content[f"{stat}_{name}{suffix}"]) for stat in STATISTICS]
        rows.append(f"{name:<14}" + _cells(values))
    return ["", *rows], shown


def _cells(values: Any) -> str:
    return "".join(f"{value:>12}" for value in values)


def number(value: Any) -> str:
    """Return a value with as many digits as one reads."""
    if value is None:
        return "-"
    if isinstance(value, list | tuple):
        rows = (":".join(map(number, x)) if isinstance(x, list | tuple) else x for x in value)
        return ", ".join(map(number, rows)) or "-"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if not math.isfinite(value):
        return str(value)
    if isinstance(value, int) or (value == int(value) and abs(value) < 1e15):
        return f"{int(value):,}"
    return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}"


def percent(share: float | None) -> str:
    """Return a share in percent, to two digits or whole percents."""
    if share is None or not math.isfinite(share):
        return "-"
    return f"{100 * share:.2g} %" if abs(share) < 0.995 else f"{100 * share:,.0f} %"


def deviation(value: float, truth: float) -> str:
    """Return by how many percent a value differs, with its sign; a zero has none."""
    return signed(value / truth - 1)


def signed(share: float) -> str:
    """Return a share in per cent with its sign; a zero has none."""
    rounded = round(100 * share, 1)
    return f"{rounded:+,.1f} %" if rounded else "0.0 %"


def off_by(low: float | None, high: float | None) -> str:
    """Return an interval of relative errors in per cent; a dash where there is none."""
    from ode.error_model.report import percent_off

    if low is None or high is None:
        return "-"
    return f"{percent_off(low)} to {percent_off(high)} %"


def duration(seconds: float | None) -> str:
    """Return a time that was measured, in s, ms or µs."""
    if seconds is None:
        return "-"
    for factor, unit in ((1.0, "s"), (1e3, "ms")):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.3g} \u00b5s"


def instance_line(instance: Instance) -> str:
    """Return an instance in one line, for titles."""
    return kind_of(instance).line(instance)
