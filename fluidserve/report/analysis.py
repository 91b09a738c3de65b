"""Write the page on one node: its capacity, its latencies, what changes them, its risks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fluidserve.plots import elasticities
from fluidserve.report.errors import expected_errors
from fluidserve.report.page import cards, heading, page, paragraph, picture, table
from fluidserve.text import number, percent
from fluidserve.words import kind_words, source_words, title_of
from serving.files import atomic_write
from studies.automatic import ENGINE

PAGE, PICTURE = "analysis.html", "elasticities.png"
STATISTICS = ("mean", "p50", "p95", "p99")
REGIMES = {
    "healthy": "The node keeps up, and every queue drains.",
    "bistable": "The node keeps up from an empty start. Once its memory has filled it completes "
    "less than arrives, and stays so.",
    "backlogged": "The node completes less than arrives: the queue grows as long as that lasts.",
    "limit_cycle": "The node completes less than arrives, and its full memory does not settle: "
    "requests enter, grow and are evicted in step.",
}


def write_analysis(folder: Path, summary: Mapping[str, Any]) -> str:
    """Write picture and page of an analysis into ``folder`` and return the page's name."""
    shown = summary["gradients"]["elasticity"]
    drawn = any(shown.values())
    if drawn:
        elasticities(shown, folder / PICTURE, title=title_of(summary))
    with atomic_write(folder / PAGE) as file:
        file.write(_page(folder, summary, drawn))
    return PAGE


def _notes(summary: Mapping[str, Any]) -> list[str]:
    """Return how sure capacity and regime are, and the warnings."""
    sure = [summary[name]["words"] for name in ("capacity_error", "regime_confidence")]
    return [*sure, *summary["warnings"]]


def _page(folder: Path, summary: Mapping[str, Any], drawn: bool) -> str:
    unit = summary["instance"]["time_unit"]
    metrics, suffix = summary["metrics"], "" if unit == "none" else "_ms"
    shown_unit = "" if unit == "none" else " ms"
    body = [
        paragraph(REGIMES[summary["regime"]], "lead"),
        cards(
            [
                (number(summary["load"]), "load: arrival rate over capacity"),
                (number(summary["capacity"]), f"capacity [requests/{_per(unit)}]"),
                *(
                    (
                        number(metrics[f"{statistic}_{name}{suffix}"]) + shown_unit,
                        f"{words} {statistic}",
                    )
                    for name, words in (("ttft", "TTFT"), ("e2el", "E2EL"))
                    for statistic in ("mean", "p99")
                ),
                (summary["regime"].replace("_", " "), "regime"),
                (summary["confidence"], "confidence in the latencies"),
                *([(summary["binds"], "binds first")] if "binds" in summary else []),
            ]
        ),
        *(paragraph(text, "note") for text in _notes(summary)),
        heading("What a request will see"),
        table(
            [f"[{shown_unit.strip() or 'time unit'}]", "mean", "p50", "p95", "p99"],
            [
                [words, *(number(metrics[f"{s}_{name}{suffix}"]) for s in STATISTICS)]
                for name, words in (("ttft", "TTFT"), ("tpot", "TPOT"), ("e2el", "E2EL"))
            ],
            f"One node of this size, {summary['latencies_are']}: {_model(summary)}",
        ),
        *expected_errors(summary),
        heading("The healthy equilibrium"),
        _equilibrium(summary, unit),
        heading("When its memory is full"),
        _certificate(summary["certificate"], unit),
        heading("What moves it"),
        paragraph(_flips(summary["sensitivity"])),
    ]
    if drawn:
        body.append(
            picture(
                folder / PICTURE,
                "Elasticities of latencies by parameter",
                "By how many per cent a latency changes when a parameter grows by one per cent "
                f"({summary['gradients']['method']}).",
            )
        )
    body += _closed_form(summary)
    what = source_words(summary["workload"])
    return page("Analysis of one node", f"{what}; {kind_words(summary['instance'])}", body)


def _equilibrium(summary: Mapping[str, Any], unit: str) -> str:
    found = summary["equilibrium"]
    if found is None:
        return paragraph("There is none at this load.")
    rows = [
        [f"batch time tau [{_per(unit)}]", number(found["tau"])],
        ["batch tokens", number(found["batch_tokens"])],
        *_deviation(summary["moments"]["var_batch_tokens"]),
        ["running [requests]", number(found["running"])],
        [f"decode time [{_per(unit)}]", number(found["decode_time"])],
        [f"wait for the next batch [{_per(unit)}]", number(found["wait"])],
    ]
    return table(
        ["", "mean"],
        rows,
        "Closed forms of a node on which neither memory nor batch budget binds; the table above "
        "it takes both into account.",
    )


def _deviation(variance: float | None) -> list[list[str]]:
    if variance is None:
        return []
    return [["standard deviation of the batch tokens", number(variance**0.5)]]


def _model(summary: Mapping[str, Any]) -> str:
    """Return where the latencies come from, and where its errors are."""
    if (summary.get("auto") or {}).get("chosen") == ENGINE:
        return "the engine itself, see docs/error_model.md; sensitivities are of the model."
    if "binds" in summary:
        return "the model of a server that computes its prompts; see docs/server_model.md."
    return (
        "the node-work process, nothing fitted. docs/one_node.md has its errors on measured cases."
    )


def _certificate(verdict: Mapping[str, Any] | None, unit: str) -> str:
    if verdict is None:
        return paragraph("No certificate of stability is known for this engine.")
    rows = [
        ["verdict", verdict["message"]],
        ["growth of a deviation per batch", number(verdict["max_root"])],
        ["throughput lost in the worst limit cycle", percent(verdict["cycle_loss"])],
        [
            f"throughput once collapsed [requests/{_per(unit)}]",
            "-" if verdict["theta_sac"] is None else number(verdict["theta_sac"]),
        ],
    ]
    return table((), rows, plain=True)


def _flips(flips: list[Mapping[str, Any]]) -> str:
    if not flips:
        return "No change of a single parameter by 5 % turns the verdict on capacity."
    said = ", ".join(
        f"{flip['parameter']} {flip['change']:+.0%} (load {flip['load']:.3f})" for flip in flips
    )
    return f"Changes that turn the verdict on capacity: {said}."


MOVED = {
    "capacity": "capacity", "ttft": "mean TTFT", "tpot": "mean TPOT", "e2el": "mean E2EL",
}  # fmt: skip
"""Quantities of the table of closed forms."""


def _closed_form(summary: Mapping[str, Any]) -> list[str]:
    """Return the table of what moves capacity and equilibrium, where the model tells it."""
    moved = summary["gradients"].get("closed_form", {}).get("elasticity", {})
    shown = [name for name in MOVED if name in moved]
    if not shown:
        return []
    parameters = dict.fromkeys(key for name in shown for key in moved[name])
    rows = [
        [parameter, *(_signed(moved[name].get(parameter)) for name in shown)]
        for parameter in parameters
    ]
    return [
        heading("What moves capacity and equilibrium"),
        table(
            ["[% by +1 %]", *(MOVED[name] for name in shown)], rows,
            "Derivatives of the closed forms, for a large server; the picture above is of one "
            "server with its chance.",
        ),
    ]  # fmt: skip


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.3f}"


def _per(unit: str) -> str:
    return "time unit" if unit == "none" else unit
