"""Tables of fitted batch-time laws: coefficients with intervals, what is identified, errors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fluidserve.tables.layout import grid, joined, pairs
from fluidserve.text import number, percent

UNITS = {
    "d_0": "s",
    "d_prefill": "s/token",
    "d_decode": "s/request",
    "d_kv": "s/token",
    "d_kv_times_capacity": "s",
}
"""Units of the coefficients of a law that was fitted to a server's run."""


def _coefficients(rows: Iterable[tuple[str, str, Mapping[str, Any]]]) -> str:
    """Return the coefficients of a law: name, unit, and value with its interval."""
    return grid(
        ["coefficient", "unit", "value", "95 % from", "to", "identified"],
        [
            [
                name, unit, number(each["value"]), number(each["low"]), number(each["high"]),
                "yes" if each["identified"] else "no",
            ]
            for name, unit, each in rows
        ],
        left=2,
    )  # fmt: skip


def step_fit_table(result: Mapping[str, Any]) -> str:
    """Return the table of ``calibrate steps``."""
    quality = result["quality"]
    held_out = [each for each in quality["held_out"] if each["chosen"]]
    rows = [
        [f"{each['regime']}, {each['levels_of']} {each['split']}", percent(each["mape"]),
         percent(each["p95"]), percent(each["worst_mape"])]
        for each in held_out
    ]  # fmt: skip
    counted = ", ".join(f"{number(count)} {regime}" for regime, count in quality["rows"].items())
    recipe = result["recipe"]
    read = "read" if recipe["kv"] else "left out"
    form = f"decode {recipe['decode']}, prefill {recipe['prefill']}, KV {read}"
    return joined(
        pairs(
            [
                ("law", form),
                ("fitted to", f"{result['about'].get('file', 'rows')}: {counted} steps"),
            ]
        ),
        _coefficients((each["name"], each["unit"], each) for each in result["coefficients"]),
        grid(["error on held-out levels", "mean", "p95", "worst level"], rows) if rows else "",
        pairs([("files", result.get("output_dir"))]),
    )


def run_fit_table(result: Mapping[str, Any]) -> str:
    """Return the table of ``calibrate run``."""
    drift, capacity = result["drift"], result["kv_capacity"]
    offset = result["frontend_offset"]
    return joined(
        pairs(
            [
                ("law fitted to", str(result["input"])),
                ("rows", f"{number(result['rows'])} ({result['kind']})"),
            ]
        ),
        _coefficients((name, UNITS.get(name, ""), each) for name, each in result["law"].items()),
        pairs(
            [
                ("error", f"{percent(result['mape'])} on average"),
                ("later part", _held_out(result["held_out"])),
                ("condition", number(result["condition"])),
                ("drift", None if drift is None else "yes" if drift["drifting"] else "none seen"),
                ("KV capacity", _estimate(capacity, "tokens")),
                (
                    "front end",
                    None if offset is None else f"{1e3 * offset['value']:.3g} ms of TTFT",
                ),
                ("token budget", _budget(result)),
                ("tokens in their steps", _share(result["reconstructed"])),
            ]
        ),
        _latencies(result["latencies"]),
    )


def _share(found: float | None) -> str | None:
    return None if found is None else f"{percent(found)}, in a replay on the engine"


def _latencies(found: Mapping[str, Mapping[str, float | None]] | None) -> str:
    if found is None:
        return ""
    rows = [
        [name.removeprefix("mean_").removesuffix("_ms").upper(),
         *(number(each[key]) for key in ("measured", "replayed", "half_width"))]
        for name, each in found.items()
    ]  # fmt: skip
    return grid(["mean [ms]", "measured", "replayed", "95 % by the law, +-"], rows)


def _held_out(found: Mapping[str, Any] | None) -> str | None:
    if found is None or found.get("mape") is None:
        return None
    return f"{percent(found['mape'])}, by the law of the earlier part"


def _estimate(found: Mapping[str, Any] | None, unit: str) -> str | None:
    if found is None:
        return None
    value = next((found[key] for key in ("value", "tokens", "median") if key in found), None)
    return None if value is None else f"{number(value)} {unit}"


def _budget(result: Mapping[str, Any]) -> str | None:
    budget = result["max_num_batched_tokens"]
    if budget is None:
        return None
    seen = " (seen in the token times)" if result["max_num_batched_tokens_inferred"] else ""
    return f"{number(budget)} tokens{seen}"
