"""Compare routing policies on a fleet and write what came out as an experiment folder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fluidserve.config import flat, load_config, resolved_yaml
from fluidserve.flags import FlagError
from fluidserve.fleets import fleet_of
from fluidserve.folders import Stopwatch, write_common
from fluidserve.inputs import Inputs, load_inputs, mean_lengths
from fluidserve.jobs.kept import identity_of_routing, journal_at
from fluidserve.pictures import ROUTING, draw
from fluidserve.progress import ProgressLine
from fluidserve.results import parse_goodput, write_rows
from fluidserve.text import for_people, instance_line
from serving import FluidServeError, Instance

if TYPE_CHECKING:
    from scheduling.experiment import Routing
    from scheduling.post import Faults
    from scheduling.signals import Signals
    from studies.tuning import Slo

RUNS = "routing_runs.csv"
REQUESTS = 10_000
"""Requests of a run where nobody says how many."""

LOADS = "0.7,0.8,0.9"
FAULTS = ("lost", "doubled", "reordered")
"""What may happen to reports, as :class:`scheduling.Faults` has it."""

LISTS = ("policies", "capacity", "reports")
"""Parts of the result that are tables."""

TYPICAL = (1000, 10)
"""Tokens and requests of the batch whose duration tells instances apart that look alike."""


@dataclass(frozen=True, eq=False)
class Asked:
    """What a command asks.

    Parameters
    ----------
    inputs
        Requests, and the instance that the flags describe.
    routing
        The experiment.
    slos
        Objectives for which the capacity of each policy is sought.
    against
        Policy that differences are told against.
    """

    inputs: Inputs
    routing: Routing
    slos: tuple[Slo, ...]
    against: str

    @property
    def points(self) -> list[tuple[Any, ...]]:
        """Every run, and every capacity that is sought."""
        sought = [(policy, slo) for policy in self.routing.policies for slo in self.slos]
        return [*self.routing.points, *sought]


def asked(params: Mapping[str, Any]) -> Asked:
    """Return what the parameters of the command ask, checked.

    Raises
    ------
    FluidServeError
        One line on what is wrong.
    """
    from scheduling.experiment import Routing
    from scheduling.policies import POLICIES
    from scheduling.signals import Signals
    from studies.tuning import parse_slo

    loads = _loads(LOADS if params["loads"] is None else params["loads"])
    policies = _policies(params["policies"])
    if not policies:
        policies = tuple(name for name, entry in POLICIES.items() if not entry.asks)
    against = params["against"]
    if against is None:
        against = "jsq" if "jsq" in policies else policies[0]
    if against not in policies:
        raise FlagError("--against", against, " | ".join(policies))
    inputs = _inputs(params)
    question, unit = inputs.question, inputs.instance.time_unit
    if question.waits:
        raise FluidServeError("requests that wait for answers cannot be routed; leave out their "
                              "sessions")  # fmt: skip
    signals = Signals(_period(params["signal_period"]), params["signal_delay"])
    routing = Routing(
        question,
        fleet_of(params, inputs.instance),
        policies,
        loads,
        seeds=params["seeds"],
        signals=signals,
        decision_time=params["decision_time"],
        predicted_lengths=params["predicted_lengths"],
        faults=_faults(params, policies, signals),
        goodput=parse_goodput(params["goodput"], unit, question.longest_decode),
    )
    slos = tuple(parse_slo(text, unit) for text in params["slos"])
    if any(slo.latency == "itl" for slo in slos):
        raise FluidServeError("--slo: a fleet has no ITL; name ttft, tpot, e2el or queue_delay")
    return Asked(inputs, routing, slos, against)


def _inputs(params: Mapping[str, Any]) -> Inputs:
    for key in ("load", "arrival_rate", "rate_scale", "sessions"):
        if params.get(key) is not None:
            flag = key.replace("_", "-")
            raise FluidServeError(f"--{flag} sets a rate; here --loads does")
    given = dict(params)
    is_file = any(given.get(key) is not None for key in ("request_file", "trace", "horizon"))
    if not is_file and given.get("num_requests") is None:
        config: Any = load_config(given.get("config_file"), {})
        if config.request_file is None:
            given["num_requests"] = REQUESTS
    return load_inputs(given)


def _loads(text: str) -> tuple[float, ...]:
    try:
        loads = tuple(float(part) for part in text.split(","))
    except ValueError:
        loads = ()
    if not loads or not all(0 < load < 100 for load in loads) or len(set(loads)) < len(loads):
        raise FlagError("--loads", text, "different numbers > 0, comma-separated, such as 0.7,0.9")
    return loads


def _policies(text: str | None) -> tuple[str, ...]:
    from scheduling.policies import policy_of
    from serving import ConfigError

    names = () if text is None else tuple(part.strip() for part in text.split(","))
    for name in names:
        try:
            policy_of(name, 0)
        except ConfigError as wrong:
            raise FlagError("--policies", name, wrong.allowed) from wrong
    if len(set(names)) < len(names):
        raise FlagError("--policies", text, "each policy once")
    return names


def _faults(params: Mapping[str, Any], policies: Sequence[str], signals: Signals) -> Faults:
    """Return what happens to reports; flags of which nobody would notice anything are refused."""
    from scheduling.policies import listens
    from scheduling.post import Faults

    shares = {name: params[f"{name}_reports"] for name in FAULTS}
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise FlagError(f"--{name}-reports", share, "a share from 0 to 1")
    given = [f"--{name}-reports" for name, share in shares.items() if share > 0]
    if given and signals.period == math.inf:
        raise FluidServeError(f"{given[0]}: with --signal-period never there are no reports")
    if given and not any(map(listens, policies)):
        raise FluidServeError(f"{given[0]} reaches only who follows reports of batches; allowed: "
                              "a policy that asks the predictor, or regression")  # fmt: skip
    if sum(shares.values()) > 1:
        raise FlagError(" + ".join(given), sum(shares.values()), "together at most 1")
    return Faults(**shares)


def _period(text: str | None) -> float | None:
    """Return the period of the signals; None for one with every batch."""
    if text is None:
        return None
    if text == "never":
        return float("inf")
    try:
        period = float(text)
    except ValueError:
        period = -1.0
    if not 0 <= period < float("inf"):
        raise FlagError("--signal-period", text, "a finite time >= 0, or never")
    return period


def routed(folder: Path, final: Path, ask: Asked, *, workers: int | None) -> dict[str, Any]:
    """Run everything, write it into ``folder`` and return what the command prints.

    Parameters
    ----------
    folder, final
        Where to write, and what it will be called.
    ask
        What is asked.
    workers
        Processes.
    """
    from scheduling.experiment import answer_of
    from studies.sweeps import sweep

    watch, config, points = Stopwatch(), ask.inputs.config, ask.points
    line = ProgressLine()

    def told(done: int, total: int) -> None:
        line.say(f"run {done} of {total}", final=done >= total)

    place = final.with_name(final.name + ".journal") if config.output_dir is not None else None
    identity = identity_of_routing(ask.routing, [str(slo) for slo in ask.slos])
    with watch("route"), journal_at(place, identity, len(points)) as journal:
        rows = sweep(
            answer_of, ask.routing, points, journal, workers=workers,
            progress=told if config.verbose else None,
        )  # fmt: skip
    runs, sought = rows[: len(ask.routing.points)], rows[len(ask.routing.points) :]
    result = _result(ask, runs, sought)
    with watch("write"):
        write_rows(folder / RUNS, _columns(runs))
        write_rows(folder / ROUTING, _columns(result["policies"]))
        shown = {key: value for key, value in result.items() if key not in LISTS}
        write_common(
            folder, final,
            config_yaml=resolved_yaml(config, ask.inputs.instance), summary=result,
            people=for_people(f"Routed: {_fleet_line(ask.routing.instances)}", shown),
            seed=config.seed, timings=watch.seconds,
        )  # fmt: skip
        draw(folder)
    return result


def _result(
    ask: Asked, runs: Sequence[Mapping[str, Any]], sought: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return what the command prints; times are in the unit of the run."""
    from scheduling.drift import reports_of
    from scheduling.experiment import MEASURES
    from scheduling.paired import compared

    routing, inputs, node = ask.routing, ask.inputs, ask.inputs.instance
    measures = (*MEASURES, *(("goodput", "good_share") if routing.goodput else ()))
    return {
        "kind": "routing",
        "seed": inputs.config.seed,
        "time_unit": node.time_unit,
        "fleet": _fleet_line(routing.instances),
        "fleet_capacity": sum(routing.capacities),
        "instance": flat(node),
        "workload": {
            **inputs.source,
            "requests": inputs.question.size,
            **mean_lengths(inputs.question.mix),
        },
        "loads": list(routing.loads),
        "seeds": routing.seeds,
        "signals": _signals(routing),
        "decision_time": routing.decision_time,
        "goodput": dict(routing.goodput) if routing.goodput else None,
        "against": ask.against,
        "faults": {f"{name}_reports": getattr(routing.faults, name) for name in FAULTS},
        "policies": compared(runs, measures, ask.against),
        "reports": reports_of(runs),
        "capacity": list(sought),
        "warnings": [*inputs.assumed, *_failures(runs)],
    }


def _failures(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each policy whose predictions failed, which it took for the worst."""
    asked: dict[str, list[int]] = {}
    for row in runs:
        told = asked.setdefault(row["policy"], [0, 0])
        told[0] += row["failed_predictions"]
        told[1] += row["predictions"]
    return [
        f"{failed} of {total} predictions of {policy} failed; these instances came last"
        for policy, (failed, total) in asked.items()
        if failed
    ]


def _signals(routing: Routing) -> str:
    period, delay = routing.signals.period, routing.signals.delay
    if period is None:
        said = "with every batch"
    elif period == float("inf"):
        return "never"
    else:
        said = f"every {period:g}" if period > 0 else "always"
    return f"{said}, {delay:g} late" if delay > 0 else said


def _fleet_line(instances: Sequence[Instance]) -> str:
    """Return the instances of a fleet in words, equal ones together."""
    counts: dict[Instance, int] = {}
    for each in instances:
        counts[each] = counts.get(each, 0) + 1
    lines = [instance_line(each) for each in counts]
    said = []
    for (each, count), line in zip(counts.items(), lines, strict=True):
        if lines.count(line) > 1:  # they differ in their laws
            line += f", {float(each.batch_time.duration(*TYPICAL)):.3g} a batch of {TYPICAL[1]}"
        said.append(f"{count} x {line}")
    return "; ".join(said)


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return rows as columns; what a row lacks, and None, is left empty."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {
        name: ["" if row.get(name) is None else row[name] for row in rows] for name in names
    }  # fmt: skip
