"""Draw the pictures of an experiment folder from its files, alike for every command."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fluidserve.plots import (
    Curve,
    Timeline,
    factors,
    fluid_vs_discrete,
    latency_curves,
    request_timeline,
    sample_rows,
    system_dynamics,
)
from fluidserve.results import read_columns, read_trajectory, write_columns
from fluidserve.text import number
from fluidserve.words import instance_words, measured_words, per_time, source_words, title_of
from ode import METHODS
from serving import (
    CardKnob,
    FluidServeError,
    Instance,
    Kind,
    RateProfile,
    Trajectory,
    card_knob_named,
    kind_of,
)
from serving.metrics import latency_scale

if TYPE_CHECKING:
    from studies.tuning import Knob

COMPARISON, TRAJECTORY = "comparison.csv", "trajectory.csv"
RATE_LATENCY, VALIDATION = "rate_latency.csv", "validation.csv"
ROUTING, FLEETS = "routing.csv", "replicas.csv"
SNAPSHOTS, TRACES, EVENTS = "batch_snapshots.csv", "request_traces.csv", "events.csv"
STATISTICS = ("mean", "sd", "low", "high")
PLACES = ("waiting", "running", "swapped")
"""Outputs that count the requests in the system, each where the requests are."""

SAMPLED = 66
"""Requests in a timeline."""


def draw(folder: Path) -> list[str]:
    """Draw every picture that the files of ``folder`` allow and return their names.

    Raises
    ------
    FluidServeError
        If this is no experiment folder.
    """
    summary = read_summary(folder)
    drawn = []
    if (folder / COMPARISON).exists():
        drawn += _draw_comparison(folder, summary)
    elif (folder / TRAJECTORY).exists():
        flow = read_trajectory(folder / TRAJECTORY)
        drawn += _draw_dynamics(folder, summary, [_answer(summary, flow)])
    elif (folder / SNAPSHOTS).exists():
        drawn += _draw_dynamics(
            folder, summary, [Curve("discrete", snapshots(folder, kind_of(_instance(summary))))]
        )
    elif (folder / RATE_LATENCY).exists():
        drawn += _draw_latencies(folder, summary)
    elif (folder / ROUTING).exists():
        drawn += _draw_routing(folder, summary)
    elif (folder / FLEETS).exists():
        drawn += _draw_fleets(folder, summary)
    elif (folder / VALIDATION).exists():
        from fluidserve.report.validation import draw_validation

        drawn += draw_validation(folder, summary)
    if (folder / EVENTS).exists():
        drawn += _draw_timeline(folder, summary)
    if not drawn:
        raise FluidServeError(f"{folder} has no files to draw: {COMPARISON}, {TRAJECTORY}, ...")
    return drawn


def read_summary(folder: Path) -> dict[str, Any]:
    """Return ``summary.json`` of an experiment folder.

    Raises
    ------
    FluidServeError
        If there is none, or it cannot be read.
    """
    path = folder / "summary.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FluidServeError(
            f"{folder} is not an experiment folder: {path.name}: {error.strerror}"
        ) from None
    except ValueError as error:
        raise FluidServeError(f"{path} is not JSON: {error}") from None


def write_comparison(path: Path, discrete: Curve, fluid: Mapping[str, Trajectory]) -> None:
    """Write mean, spread and bands of the runs and every solution, on one grid, as one CSV.

    Columns are ``discrete.<statistic>.<output>`` and ``<method>.<output>``.
    """
    statistics = (discrete.mean, discrete.sd, discrete.low, discrete.high)
    columns = {"time": discrete.mean.time}
    for name, trajectory in zip(STATISTICS, statistics, strict=True):
        if trajectory is not None:
            columns |= {f"discrete.{name}.{key}": v for key, v in trajectory.outputs.items()}
    for method, trajectory in fluid.items():
        columns |= {f"{method}.{key}": values for key, values in trajectory.outputs.items()}
    write_columns(path, columns)


def _draw_comparison(folder: Path, summary: Mapping[str, Any]) -> list[str]:
    columns = read_columns(folder / COMPARISON)
    time = columns.pop("time")
    found: dict[str, dict[str, Any]] = {}
    for column, values in columns.items():
        owner, _, output = column.rpartition(".")
        found.setdefault(owner, {})[output] = values
    curves = {owner: Trajectory(time, outputs) for owner, outputs in found.items()}
    runs = summary["discrete"]["replications"]
    mean, sd, low, high = (curves.get(f"discrete.{name}") for name in STATISTICS)
    assert mean is not None
    several = runs > 1
    discrete = Curve(
        "discrete", mean, low if several else None, high if several else None,
        sd if several else None, runs,
    )  # fmt: skip
    main = (summary.get("main") or {}).get("method")  # one interval: several hide each other
    fluid = [
        Curve(name, curves[name], off=_off(method) if name == main else None)
        for name, method in summary["methods"].items()
    ]
    fluid_vs_discrete(
        discrete,
        fluid,
        folder / "fluid_vs_discrete.png",
        nrmse={name: method["nrmse"] for name, method in summary["methods"].items()},
        noise_floor=summary["discrete"]["noise_floor"],
        time_unit=summary["instance"]["time_unit"],
        title=title_of(summary),
        swaps=kind_of(_instance(summary)).swaps,
    )
    return [*_draw_dynamics(folder, summary, [discrete, *fluid]), "fluid_vs_discrete.png"]


def _answer(summary: Mapping[str, Any], flow: Trajectory) -> Curve:
    """Return the curve of an answer over time: a solution, or the mean of runs of the engine."""
    if summary["method"] in METHODS:
        return Curve(summary["method"], flow, off=_off(summary))
    runs = summary.get("stats", {}).get("replications", 1)
    return Curve("discrete", flow, runs=runs, off=_off(summary))


def _off(answer: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return what an answer expects of its mean number in system, None where it knows nothing."""
    return factors(answer.get("error"), "mean_in_system")


def _draw_dynamics(folder: Path, summary: Mapping[str, Any], curves: list[Curve]) -> list[str]:
    counted = [each for each in curves if _counts(each.name)] or curves
    known = counted[-1]
    smooth = summary["workload"]["source"] == "generator" and known.name != "discrete"
    system_dynamics(
        curves,
        folder / "system_dynamics.png",
        instance=_instance(summary),
        profile=_arrivals(known),
        capacity=summary["workload"]["capacity"],
        horizon=float(known.mean.time[-1]),
        title=title_of(summary),
        **({"rate_windows": None} if smooth else {}),
    )
    return ["system_dynamics.png"]


def _counts(name: str) -> bool:
    """Return whether requests in system and completed are, at any time, those that arrived.

    A model of one node has the number in system of a settled node from the first moment on.
    """
    return name not in METHODS or METHODS[name].is_limit


def _arrivals(curve: Curve) -> RateProfile:
    """Return the arrivals that a trajectory tells of; they begin at time 0."""
    known = curve.mean
    time, arrived = known.time, known.outputs["in_system"] + known.outputs["completed"]
    if not _counts(curve.name):
        told = known.outputs["completed"] > 0
        time, arrived = time[told], arrived[told]
    before = int(time.size == 0 or time[0] > 0)  # a run's first snapshot is after its first batch
    return RateProfile(
        np.concatenate([np.zeros(before), time]),
        np.maximum.accumulate(np.concatenate([np.zeros(before), arrived])),
    )


def _draw_latencies(folder: Path, summary: Mapping[str, Any]) -> list[str]:
    from studies.tuning import MAX_RATE, knob_named, parse_slo

    instance, unit = _instance(summary), summary["time_unit"]
    knob = card_knob_named(summary["knob"]) or knob_named(summary["knob"], kind_of(instance))
    factor = latency_scale(unit)[1]
    slos = [parse_slo(text, unit) for text in summary["slo"]]
    value = summary["value"]
    latency_curves(
        read_columns(folder / RATE_LATENCY),
        knob.name,
        folder / "rate_latency.png",
        title=_tuning_title(summary, is_rate=knob is MAX_RATE),
        knob_label=_knob_label(knob, unit),
        time_unit=unit,
        limits=[(slo.statistic, slo.latency, slo.limit * factor) for slo in slos],
        answer=None if value is None else (value, f"{knob.name} {_how(summary)}"),
        is_log=knob.spacing == "log",
        is_count=isinstance(knob, CardKnob) and knob.step >= 1,
        footnote=_footnote(summary),
    )
    return ["rate_latency.png"]


def _how(summary: Mapping[str, Any]) -> str:
    """Return how a value was come by."""
    return "expected" if summary.get("method") == "stationary" else "found"


def _footnote(summary: Mapping[str, Any]) -> str:
    """Return what the points of a curve rest on, and what longer runs gave at the answer."""
    curve, value = summary.get("curve"), summary["value"]
    if curve is None:  # of an older version
        return ""
    said = (
        f"Engine: {curve['replications']} runs of {number(curve['run_length'])} requests at each "
        "value. Near a limit the tails of short runs are too small."
    )
    longest = max((x["requests"] for x in summary["points"] if x["value"] == value), default=0)
    objectives = measured_words(summary)[1:]  # after the growth of the backlog
    if longest <= curve["run_length"] or not objectives:
        return said
    runs = f"runs of {number(longest)} requests gave {', '.join(objectives)}"
    return f"{said} At the answer, {runs}."


def _knob_label(knob: Knob | CardKnob, time_unit: str) -> str:
    if knob.name == "max-rate":
        return f"mean arrival rate [{per_time(time_unit)}]"
    _, bracket, unit = knob.words.partition(" [")
    return f"{knob.name}{bracket}{unit}"


def _tuning_title(summary: Mapping[str, Any], *, is_rate: bool) -> str:
    """Return node, requests, rate and answer of a search, and the load where the rate is sought."""
    workload, value, unit = summary["workload"], summary["value"], summary["time_unit"]
    said = [source_words(workload)]
    if not is_rate:
        said.append(f"{number(workload['mean_arrival_rate'])} {per_time(unit)}")
    said.append(f"{summary['knob']} {'not found' if value is None else number(value)}")
    if is_rate and value is not None and summary["capacity"]:
        load = number(value / summary["capacity"])
        said.append(f"load {load} of capacity {number(summary['capacity'])}")
    return f"{instance_words(summary['instance'])}\n{', '.join(said)}"


def _draw_routing(folder: Path, summary: Mapping[str, Any]) -> list[str]:
    from fluidserve.plots.routing_curves import routing_curves

    workload = summary["workload"]
    said = f"{source_words(workload)}, signals {summary['signals']}, {summary['seeds']} seeds"
    routing_curves(
        read_columns(folder / ROUTING), folder / "routing.png",
        title=f"{summary['fleet']}\n{said}", time_unit=summary["time_unit"],
    )  # fmt: skip
    return ["routing.png"]


def _draw_fleets(folder: Path, summary: Mapping[str, Any]) -> list[str]:
    from fluidserve.plots.fleet_sizes import fleet_sizes
    from studies.tuning import parse_slo
    from studies.tuning.engine import BACKLOG_GROWTH, MOST_GROWTH

    unit, gpu = summary["time_unit"], summary["gpu"]
    columns = read_columns(folder / FLEETS)
    is_stream = BACKLOG_GROWTH in columns
    slos = [parse_slo(text, unit) for text in summary["slo"]]
    limits = [(slo.name, slo.told(slo.limit)) for slo in slos]
    if is_stream:  # shown where it decides, or might
        might = (columns[f"{BACKLOG_GROWTH}_high"] > MOST_GROWTH).any()
        if not slos or might or BACKLOG_GROWTH in columns["binding"]:
            limits.append((BACKLOG_GROWTH, MOST_GROWTH))
    named = "GPU time [time units" if unit == "none" else "GPU time [GPU-hours"
    per = (" per unit of time]" if unit == "none" else " per hour]") if is_stream else "]"
    fleet_sizes(
        columns, folder / "replicas.png",
        title=f"{_tuning_title(summary, is_rate=False)}, policy {summary['policy']}",
        time_unit=unit, limits=limits, answer=summary["value"],
        interval=f"{100 * summary['confidence']:g} % interval by {summary['certainty_from']}",
        gpu=named + per,
        bounds={} if gpu is None else _gpu_bounds(gpu, hours=unit != "none"),
        unknown=gpu is not None and gpu["perfect_system"]["gpu_time"] is None,
    )  # fmt: skip
    return ["replicas.png"]


def _gpu_bounds(gpu: Mapping[str, Any], *, hours: bool) -> dict[str, float]:
    """Return what GPU time is held against, by words for it."""
    best = gpu["perfect_system"]
    of_gpu = gpu["gpu_hours" if hours else "gpu_time"] / gpu["gpus"]
    fixed = None if best["replicas"] is None else best["replicas"] * gpu["gpus_per_replica"]
    shown = {
        "perfect system": best["gpu_hours" if hours else "gpu_time"],
        "perfect, of a fixed number": None if fixed is None else fixed * of_gpu,
        "perfect, switched by the minute": best["switched_gpu_hours"],
    }
    return {f"{name}: {number(x)}": x for name, x in shown.items() if x is not None}


def _draw_timeline(folder: Path, summary: Mapping[str, Any]) -> list[str]:
    traces, events = read_columns(folder / TRACES), read_columns(folder / EVENTS)
    kinds = kind_of(_instance(summary)).events
    counted = [traces[event.counted_in] for event in kinds if event.counted_in]
    evictions = np.sum(counted, axis=0) if counted else np.zeros(len(traces["req_id"]))
    rows = traces["req_id"][sample_rows(evictions, SAMPLED)]
    end = float(np.nanmax(np.append(traces["completion_time"], events["time"])))
    ways = Timeline.from_events(events, rows.tolist(), end, kinds)
    request_timeline(
        ways, folder / "request_timeline.png", kinds=kinds,
        time_unit=summary["instance"]["time_unit"], of=len(traces["req_id"]),
        title=title_of(summary),
    )  # fmt: skip
    return ["request_timeline.png"]


def snapshots(folder: Path, kind: Kind) -> Trajectory:
    """Return the trajectory of a run as its ``batch_snapshots.csv`` tells it."""
    columns = read_columns(folder / SNAPSHOTS)
    shown = {column.output: column.name for column in kind.snapshot if column.output is not None}
    outputs = {output: np.asarray(columns[name], float) for output, name in shown.items()}
    outputs["in_system"] = np.sum([outputs[name] for name in PLACES if name in outputs], axis=0)
    return Trajectory(np.asarray(columns["time"], float), outputs)


def _instance(summary: Mapping[str, Any]) -> Instance:
    from fluidserve.config import instance_of, load_config

    return instance_of(load_config(None, summary["instance"]))
