"""Write the report on a comparison: what was asked, how well the fluid follows, where it holds."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fluidserve.methods import method_name
from fluidserve.report.errors import errors_beside_the_engine
from fluidserve.report.page import cards, heading, page, paragraph, picture, table
from fluidserve.text import deviation, duration, number, percent
from fluidserve.words import kind_words, latency_unit, source_words
from serving import NRMSE_OUTPUTS, TOTALS

LATENCY_NAMES = {"ttft": "TTFT", "tpot": "TPOT", "e2el": "E2EL", "queue_delay": "queue delay"}
LATENCY = "latency"
"""Unit of a latency: that of time, or ms where it is known."""

METRIC_ROWS = (
    *((each.name, each.words, each.unit) for each in TOTALS.values() if each.leads and each.shown),
    *(
        (each.per_time, f"{each.words} per time", f"{each.unit}/time")
        for each in TOTALS.values()
        if each.per_time is not None
    ),
    *(
        (f"{stat}_{latency}", f"{name} {stat}", LATENCY)
        for latency, name in LATENCY_NAMES.items()
        for stat in ("mean", "p50", "p95", "p99")
    ),
    *(
        (each.name, each.words, each.unit)
        for each in TOTALS.values()
        if each.shown and not each.leads
    ),
)
"""Rows of the table of metrics: key in JSON, words, unit."""

MOST_SPANS = 6
"""Spans of memory pressure that a caption lists."""
OFF, OVER_NOISE = 0.05, 3.0
"""A fluid is off where its error exceeds this share, and its noise floor so many times."""
FEW = 50.0
"""Requests on the node below which one request matters to the whole."""
OUTPUT_NAMES = {"in_system": "in system"}


def write_report(folder: Path) -> str:
    """Write ``report.html`` from the files and pictures of a folder and return its name."""
    from fluidserve.pictures import read_summary
    from serving.files import atomic_write

    summary = read_summary(folder)
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    times = meta["timings_seconds"]
    methods = {
        name: method | {"seconds": times.get(name)} for name, method in summary["methods"].items()
    }
    discrete = summary["discrete"] | {"seconds": times.get("discrete")}
    timed = summary | {"methods": methods, "discrete": discrete}
    with atomic_write(folder / "report.html") as file:
        file.write(comparison_report(folder, timed, shlex.join(meta["command"])))
    return "report.html"


def comparison_report(folder: Path, summary: Mapping[str, Any], command: str) -> str:
    """Return the report on a comparison as HTML.

    Parameters
    ----------
    folder
        Holds the pictures.
    summary
        What ``summary.json`` holds, with the times of this run in ``seconds`` blocks.
    command
        The command that made it.
    """
    methods: Mapping[str, Any] = summary["methods"]
    discrete = summary["discrete"]
    best = (summary.get("main") or {}).get("method") or next(iter(methods))
    workload, instance = summary["workload"], summary["instance"]
    body = [
        paragraph(_verdict(best, methods[best], discrete, workload), "lead"),
        cards(_headline(best, methods[best], discrete, workload)),
        *(f'<p class="note">{_escape(text)}</p>' for text in _cautions(summary)),
        heading("What the system does"),
        picture(
            folder / "system_dynamics.png",
            "Queues, memory, batches and completions over time",
            "Discrete engine (mean of the runs; pale band: the middle 90 % of single runs) and "
            f"fluid. {_pressure(summary)}",
        ),
        *errors_beside_the_engine(summary),
        heading("How closely the fluid follows"),
        _accuracy(methods, discrete),
        picture(
            folder / "fluid_vs_discrete.png",
            "Trajectories with the band of the replications, and residuals",
            "Left: trajectories. Right: fluid minus the mean of the runs, in percent of the mean "
            "number in system (completed: of all completions); grey: two standard errors of that "
            f"mean, below which nothing can be told apart.{_band_words(summary)}",
        ),
        heading("The same metrics from both"),
        _metrics(methods, discrete, str(instance["time_unit"])),
        heading("What happens to single requests"),
        picture(
            folder / "request_timeline.png",
            "Gantt chart of sampled requests",
            "Sampled requests of the first run; a mark at the end counts evictions.",
        ),
        heading("How this was obtained"),
        _method_text(summary),
        f"<p><code>{_escape(command)}</code></p>",
        '<div class="columns">',
        f"<div><h3>Instance</h3>{_keys(instance)}</div>",
        f"<div><h3>Workload</h3>{_keys(workload)}</div>",
        "</div>",
    ]
    count = number(workload["requests"])
    subtitle = f"{source_words(workload)}; {count} requests; {kind_words(instance)}"
    return page("Fluid model next to discrete simulator", subtitle, body)


def _verdict(
    name: str, method: Mapping[str, Any], discrete: Mapping[str, Any], workload: Mapping[str, Any]
) -> str:
    error, floor = method["nrmse"]["in_system"], method["noise_floor"]["in_system"]
    runs = f"the mean of {discrete['replications']} runs of the discrete engine"
    if is_off(method):
        said = f"The {method_name(name)} solution is off from {runs} by {percent(error)}"
    else:
        said = f"The {method_name(name)} solution follows {runs} within {percent(error)}"
    said += " of the number in system"
    if floor is not None:
        said += f" (noise of that mean: {percent(floor)})"
    return (
        f"{said}. A solve takes {duration(method['seconds'])}, whatever the size of the system; "
        f"one discrete run takes {duration(discrete['seconds'])}. The mean load is "
        f"{number(workload['load'])} of capacity."
    )


def _headline(
    name: str, method: Mapping[str, Any], discrete: Mapping[str, Any], workload: Mapping[str, Any]
) -> list[tuple[str, str]]:
    error = "root-mean-square error (NRMSE) of the number in system"
    return [
        (percent(method["nrmse"]["in_system"]), f"{error}, {method_name(name)}"),
        (percent(method["noise_floor"]["in_system"]), "noise floor of the discrete mean"),
        *(
            (_error_of_mean(latency, method, discrete), f"error of the mean {words}")
            for latency, words in (("ttft", "TTFT"), ("e2el", "E2EL"))
        ),
        (duration(method["seconds"]), "one fluid solve, warm"),
        (duration(discrete["seconds"]), "one discrete run"),
        (number(workload["load"]), "mean arrival rate / capacity"),
    ]


def _error_of_mean(latency: str, method: Mapping[str, Any], discrete: Mapping[str, Any]) -> str:
    for key in (f"mean_{latency}", f"mean_{latency}_ms"):
        value, truth = method["metrics"].get(key), discrete["metrics"].get(key)
        if value is not None and truth is not None and abs(truth) >= 1e-9:
            return deviation(value, truth)
    return "-"


def is_off(method: Mapping[str, Any]) -> bool:
    """Return whether a method misses the discrete mean by more than noise and a few percent."""
    error, floor = method["nrmse"]["in_system"], method["noise_floor"]["in_system"]
    return error is not None and error > OFF and error > OVER_NOISE * (floor or 0.0)


def _cautions(summary: Mapping[str, Any]) -> list[str]:
    """Return what a reader must know before trusting the fluid here."""
    methods: Mapping[str, Any] = summary["methods"]
    off = {name: method for name, method in methods.items() if is_off(method)}
    found = [_why_off(off, methods)] if off else []
    found += [f"{text[0].upper()}{text[1:]}." for text in summary["warnings"]]
    load = summary["workload"]["load"]
    if load is not None and 0.9 <= load <= 1.1:
        found.append(
            f"The mean load is {number(load)}: this close to saturation a small error in capacity "
            "changes delays by orders of magnitude."
        )
    spread = summary.get("single_run_noise")
    if spread is not None and spread > 0.1:
        strays = f"A single run strays {percent(spread)} from the mean of all runs"
        if off:
            found.append(f"{strays}: one real node will differ from it by about as much.")
        else:
            found.append(
                f"{strays}: the fluid predicts the mean, one real node will differ from it by "
                "about as much."
            )
    return found


def _why_off(off: Mapping[str, Any], methods: Mapping[str, Any]) -> str:
    """Return by how much which methods are off, and the likely cause."""
    by = [
        f"{method_name(name)} by {percent(method['nrmse']['in_system'])}"
        for name, method in off.items()
    ]
    floor = next(iter(off.values()))["noise_floor"]["in_system"]
    noise = f" (noise: {percent(floor)})" if floor is not None else ""
    said = (
        f"The fluid is off here, {', '.join(by)} of the number in system{noise}: do not rely on "
        "it for this node and workload."
    )
    fits = (each.get("stats", {}).get("requests_that_fit") for each in methods.values())
    fit = next((each for each in fits if each is not None), None)
    if fit is not None and fit < FEW:
        return (
            f"{said} Likely cause: only about {fit:.2g} requests fill the node, and the fluid is "
            "the limit of many small ones."
        )
    if any(method.get("labels") for method in off.values()):
        return f"{said} Likely cause: what it approximates, listed below."
    return (
        f"{said} Likely cause: the limit of a large system leaves out the chance in arrivals and "
        "lengths, which matters most near saturation and on small nodes."
    )


def _pressure(summary: Mapping[str, Any]) -> str:
    spans = summary["memory_pressure"]
    if not spans:
        return "Memory never forces a request out."
    unit = "" if summary["instance"]["time_unit"] == "none" else summary["instance"]["time_unit"]
    said = [f"{number(a)} to {number(b)} {unit}".strip() for a, b in spans]
    if len(said) == 1:
        return (
            f"Shaded: memory forces requests out, from {said[0]}; before it memory suffices, after "
            "it the backlog drains."
        )
    listed = ", ".join(said[:MOST_SPANS])
    more = f" and {len(said) - MOST_SPANS} more" if len(said) > MOST_SPANS else ""
    return (
        f"Shaded: memory forces requests out, {len(said)} times: from {listed}{more}; outside "
        "them memory suffices or a backlog drains."
    )


def _band_words(summary: Mapping[str, Any]) -> str:
    """Say what the coloured band is; nothing where there is none."""
    main = summary.get("main")
    if main is None:
        return ""
    if "mean_in_system" not in summary["methods"][main["method"]]["error"]["metrics"]:
        return ""
    return (
        " Coloured band: where the engine's number in system is expected about the "
        f"{method_name(main['method'])} line, by the interval of its mean over time."
    )


def _accuracy(methods: Mapping[str, Any], discrete: Mapping[str, Any]) -> str:
    first = next(iter(methods.values()))
    rows = [
        [
            OUTPUT_NAMES.get(output, output),
            *(percent(method["nrmse"].get(output)) for method in methods.values()),
            percent(first["noise_floor"][output]),
        ]
        for output in NRMSE_OUTPUTS
    ]
    rows.append(
        [
            "seconds, warm",
            *(duration(method["seconds"]) for method in methods.values()),
            f"{duration(discrete['seconds'])} (one run)",
        ]
    )
    return table(
        ["NRMSE", *map(method_name, methods), "noise floor"],
        rows,
        "Root mean square over 1,000 equidistant times of fluid minus mean of the runs, divided by "
        "the time-mean of in system (completed: by its final value). An error at or below the "
        "noise floor cannot be told from zero with this many runs.",
    )


def _metrics(methods: Mapping[str, Any], discrete: Mapping[str, Any], unit: str) -> str:
    end, latencies = latency_unit(discrete["metrics"])
    time = "time" if unit == "none" else unit
    rows = []
    for key, words, of in METRIC_ROWS:
        name = key + end if of == LATENCY else key
        if name not in discrete["metrics"]:
            continue
        truth = discrete["metrics"][name]
        values = [method["metrics"].get(name) for method in methods.values()]
        shown_unit = latencies if of == LATENCY else re.sub(r"\btime$", time, of)
        shown = f"{words} [{shown_unit}]" if shown_unit else words
        rows.append([shown, number(truth), *(_with_error(value, truth) for value in values)])
    return table(
        ["", "discrete\nmean of the runs", *map(method_name, methods)],
        rows,
        "Small: difference from the discrete engine. The fluid carries the mean of a large system; "
        "percentiles of a single node that come from its randomness are in the node-work process "
        "alone.",
    )


def _with_error(value: float | None, truth: float | None) -> str:
    if value is None or truth is None:
        return number(value)
    if abs(truth) < 1e-9:
        return number(value)
    return f"{number(value)}\n{deviation(value, truth)}"


def _method_text(summary: Mapping[str, Any]) -> str:
    discrete, workload = summary["discrete"], summary["workload"]
    if workload["source"] == "generator":
        drawn = "each run draws its own arrivals and lengths from the generator"
    else:
        drawn = (
            "the first run is the file itself; the others keep its arrival times and deal its "
            "(prefill, decode) pairs out anew"
        )
    unit = summary["instance"]["time_unit"]
    end = number(workload["horizon"]) + ("" if unit == "none" else f" {unit}")
    return paragraph(
        f"{discrete['replications']} runs of the discrete engine from seed {summary['seed']}; "
        f"{drawn}. Each fluid method solves the same instance under the expected arrivals and the "
        f"length mix of the same workload, with nothing measured from the discrete runs. Scores "
        f"cover 0 to {end} (the end of arrivals); metrics cover every "
        "request until it finished."
    )


def _keys(values: Mapping[str, Any]) -> str:
    shown = {**values, "B": "unlimited"} if "B" in values and values["B"] is None else values
    rows = [[key, number(value)] for key, value in shown.items() if not isinstance(value, dict)]
    return table((), rows, plain=True)


def _escape(text: str) -> str:
    from html import escape

    return escape(text)
