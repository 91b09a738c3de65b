"""From the parameters of ``fluidserve tune`` to its answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fluidserve.folders import Stopwatch
from fluidserve.inputs import Inputs, load_inputs
from fluidserve.jobs.tune_flags import (
    FLAGS,
    check_knobs,
    context_of,
    flags_named,
    parse_brackets,
    said_why,
)
from fluidserve.jobs.tune_folder import write_tuning
from fluidserve.jobs.tune_replicas import is_replicas, refuse_of_fleets, replicas_tuned
from fluidserve.jobs.tune_servers import (
    checked_card_knobs,
    refuse_a_default_rate,
    servers_of,
    that_starts,
    turned_knobs,
)
from fluidserve.progress import ProgressLine
from fluidserve.results import as_typed, parse_goodput
from serving import FluidServeError, kind_of

if TYPE_CHECKING:
    from studies import Question
    from studies.tuning import Knob, Tuning

GOODPUT_SETTINGS = {
    "replications": "replications",
    "confidence": "confidence",
    "least_requests": "requests",
}
"""Settings of two knobs by those of one: what a search of two knobs takes, too."""


def tuned(
    params: Mapping[str, Any], knob: str, slos: tuple[str, ...], options: Mapping[str, Any]
) -> tuple[dict[str, Any], int]:
    """Return what the command prints, and its exit status.

    Parameters
    ----------
    params
        Parameters of the command that name workload, instance and thresholds.
    knob
        Name of the knob, or two with a comma between them.
    slos
        Objectives as given.
    options
        ``bracket`` as given, ``method`` and ``within`` of :func:`studies.tuning.tune`, and the
        fields of :class:`studies.tuning.SearchSettings`; those that are None are left out.
    """
    if is_replicas(knob):
        return replicas_tuned(params, slos, options)
    return _search(params, knob, slos, options)[:2]


def tune_into(
    folder: Path,
    final: Path,
    params: Mapping[str, Any],
    knob: str,
    slos: tuple[str, ...],
    options: Mapping[str, Any],
) -> tuple[dict[str, Any], int]:
    """Tune, write answer and curve into ``folder``, and return what :func:`tuned` returns.

    Parameters
    ----------
    folder, final
        Where to write, and what it will be called.
    params, knob, slos, options
        As of :func:`tuned`.
    """
    from studies.tuning import latency_curve

    if is_replicas(knob):
        return replicas_tuned(params, slos, options, (folder, final))
    watch = Stopwatch()
    with watch("tune"):
        result, status, found, inputs = _search(params, knob, slos, options)
    curve = None
    with watch("curve"):
        if found is not None:
            curve = latency_curve(found, inputs.question, told=_told(inputs))
            result["curve"] = {
                "run_length": curve.run_length, "replications": curve.replications,
            }  # fmt: skip
    write_tuning(folder, final, inputs, {"kind": "tuning", **result}, curve, watch.seconds)
    return result, status


def _search(
    params: Mapping[str, Any], knob: str, slos: tuple[str, ...], options: Mapping[str, Any]
) -> tuple[dict[str, Any], int, Tuning | None, Inputs]:
    """Return what the command prints, its exit status, the answer to one knob, and the inputs."""
    refuse_of_fleets(params)
    names = knob.split(",")
    if len(names) > 2:
        raise FluidServeError("KNOB: one knob, or two with a comma between them")
    if (len(names) == 2) != bool(params["goodput"]) or (len(names) == 2 and slos):
        raise FluidServeError("--goodput goes with two knobs, such as max-rate,B; --slo with one")
    check_knobs(names)
    given = {name: value for name, value in options.items() if value is not None}
    brackets = parse_brackets(given.pop("bracket", None), len(names))
    cards = checked_card_knobs(params)
    params = that_starts(params)
    inputs = load_inputs(params)
    refuse_a_default_rate(inputs, cards, names)
    question, told, found = _steady(params, inputs), _told(inputs), None
    _refuse_a_given_rate(params, names)
    with flags_named():
        knobs = turned_knobs(params, inputs, names)
        if len(names) == 2:
            result, status = _two_knobs(knobs, question, params["goodput"], brackets, given, told)
        else:
            given = _affordable(question) | given
            found, status = _one_knob(knobs[0], question, slos, brackets[0], given, told)
            result = found.to_json()
    if cards and found is not None and found.value is not None:  # show the server that was found
        question = found.knob.turned(question, found.value)
        inputs = replace(inputs, question=question)
    is_rate_tuned = "max-rate" in result.get("knobs", [result.get("knob")])
    servers, doubts = servers_of(params, inputs, cards, found)
    result |= {"warnings": [*inputs.assumed, *result["warnings"], *doubts], **servers}
    result |= _context(inputs, question, is_rate_tuned=is_rate_tuned)
    return result, status, found, inputs


def _told(inputs: Inputs) -> Callable[[str], None] | None:
    return ProgressLine().say if inputs.config.verbose else None


def _refuse_a_given_rate(params: Mapping[str, Any], names: Sequence[str]) -> None:
    """Refuse a rate beside the search for one."""
    if not any(name.replace("_", "-").lower() == "max-rate" for name in names):
        return
    for key in ("load", "arrival_rate"):
        if params.get(key) is not None:
            flag = key.replace("_", "-")
            raise FluidServeError(
                f"--{flag} sets the rate, and max-rate looks for one; drop --{flag}, or say where "
                "to look with --bracket"
            )


def _one_knob(
    knob: str | Knob,
    question: Question,
    slos: Sequence[str],
    bracket: tuple[float, float] | None,
    given: Mapping[str, Any],
    told: Callable[[str], None] | None,
) -> tuple[Tuning, int]:
    """Return the answer to one knob, and the exit status."""
    from studies.tuning import SearchSettings, parse_slo, tune

    parsed = [parse_slo(text, question.instance.time_unit) for text in slos]
    whom = {key: given[key] for key in ("method", "within") if key in given}
    settings = SearchSettings(**{key: each for key, each in given.items() if key not in whom})
    found = tune(knob, question, parsed, bracket=bracket, settings=settings, told=told, **whom)
    return found, said_why(found.value is not None, found.reason)


def _two_knobs(
    knobs: Sequence[str | Knob],
    question: Question,
    goodput: tuple[str, ...],
    brackets: Sequence[tuple[float, float] | None],
    given: Mapping[str, Any],
    told: Callable[[str], None] | None,
) -> tuple[dict[str, Any], int]:
    """Return the answer to two knobs, and the exit status."""
    from studies.tuning import GoodputSettings, most_goodput

    for key in given.keys() - GOODPUT_SETTINGS.keys():
        raise FluidServeError(f"{FLAGS[key]} is for one knob")
    settings = GoodputSettings(**{GOODPUT_SETTINGS[key]: value for key, value in given.items()})
    unit = question.instance.time_unit
    thresholds = parse_goodput(goodput, unit, question.longest_decode) or {}
    found = most_goodput(
        knobs, question, thresholds, brackets=brackets, settings=settings, told=told
    )
    result = found.to_json() | {"thresholds": as_typed(goodput)}
    return result, said_why(found.best is not None, str(result["reason"]))


def _affordable(question: Question) -> dict[str, Any]:
    """Return what a search spends where nobody says so: a server's runs take far longer.

    A request of a server makes hundreds of steps beside hundreds of others.
    """
    from studies.tuning.length import deciding_length, turnover

    if not kind_of(question.instance).is_in_real_time:
        return {}
    most = max(200_000, 2 * deciding_length(turnover([question])))
    return {"tolerance": 0.02, "replications": 8, "most_requests": most}


def _steady(params: Mapping[str, Any], inputs: Inputs) -> Question:
    """Return what is tuned: a stream on an instance; refuse what ends."""
    if inputs.question.is_file:
        raise FluidServeError(
            "tune needs a steady stream, not a file that ends; give its lengths with "
            "--lengths FILE and arrivals are generated"
        )
    for key in ("num_requests", "horizon"):
        if params.get(key) is not None:
            flag = key.replace("_", "-")
            raise FluidServeError(f"--{flag}: tune sets the length of its runs; see --run-length")
    return inputs.question


def _context(inputs: Inputs, question: Question, *, is_rate_tuned: bool) -> dict[str, Any]:
    """Return what was tuned: the rate counts, with the note on it, only where it is no knob."""
    rate: dict[str, Any] = {}
    if not is_rate_tuned:
        rate = {"mean_arrival_rate": question.stream.mean_rate, **inputs.rate_note}
    return context_of(question, {**inputs.source, **rate})
