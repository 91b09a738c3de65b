"""Validate a prediction on a measured run into an experiment folder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fluidserve.config import flat, resolved_yaml
from fluidserve.flags import FlagError
from fluidserve.folders import REQUESTS, Stopwatch, write_common
from fluidserve.measured_server import MeasuredServer, server_of_run
from fluidserve.results import write_columns
from fluidserve.text import for_people, instance_line
from serving import BatchTimeLaw, FluidServeError

if TYPE_CHECKING:
    from calibration import StepRows
    from calibration.measured_runs import MeasuredRun
    from studies.validation import Matched, Replayed, Validation

CURVES = "validation.csv"
"""Series of a run and of every model, on the times at which the server spoke."""

SHOWN = ("running", "waiting", "in_system", "output_throughput")
"""Series in that file."""

TELLING = 0.005
"""Share of answers with contradicted lengths from which the result says so."""


def validate_into(
    folder: Path, final: Path, path: str, params: Mapping[str, Any]
) -> dict[str, Any]:
    """Validate, write everything into ``folder`` and return what the command prints."""
    from fluidserve.report.validation import write_validation
    from studies.validation import validate
    from workload import write_requests

    watch = Stopwatch()
    until = params["calibrate_until"]
    if until is not None and not 0 < until < math.inf:
        raise FlagError("--calibrate-until", until, "a finite number > 0")
    others = [key for key in ("calibrate_on", "calibrate_steps") if params[key]]
    if until is not None and others:
        flag = others[0].replace("_", "-")
        raise FluidServeError(f"--calibrate-until and --{flag} both calibrate; give one")
    with watch("read"):
        run = _read(path, params)
        requests = _replayed(run, params)
        trained = [_read(each, params, other=True) for each in params["calibrate_on"]]
        steps = [_steps(each, run, params) for each in params["calibrate_steps"]]
    with watch("calibrate"):
        server, matched, warnings = _server(run, requests, trained, steps, params)
    if until is not None and not (run.succeeded & (run.arrival >= until)).any():
        last = float(run.arrival[run.succeeded].max())
        allowed = f"a time before the last arrival that got an answer, at {last:.4g} s"
        raise FlagError("--calibrate-until", until, allowed)
    offset = _front_end(params["front_end_offset"], matched)
    models = ("engine", *(name for name in ("fluid", "one_node") if params[name]))
    with watch("predict"):
        found = validate(
            requests, server.instance, replicas=server.replicas, front_end=offset,
            judged_from=until or 0.0, models=models,
        )  # fmt: skip
    warnings += _warnings(found, params)
    summary = {
        "kind": "validation",
        **_told(run, server, found),
        "calibration": _calibration(matched, trained, params),
        "front_end_offset": offset,
        **scores_json(found),
        "warnings": warnings,
    }
    with watch("write"):
        write_requests(requests.table, folder / REQUESTS)
        write_columns(folder / CURVES, curves(found))
        write_common(
            folder, final, config_yaml=resolved_yaml(server.config, server.instance, REQUESTS),
            summary=summary,
            people=for_people(f"Validation: {instance_line(server.instance)}", summary),
            seed=server.config.seed, timings=watch.seconds,
        )  # fmt: skip
        write_validation(folder, summary)
    return summary


def _read(path: str, params: Mapping[str, Any], *, other: bool = False) -> MeasuredRun:
    from calibration.measured_runs import read_measured_run

    run = read_measured_run(path, result=None if other else params["result"])
    distinct = params["distinct_prompts"]
    if distinct is None or other:
        return run
    kept = tuple(each for each in run.notes if "taken in turn" not in each and "repeat" not in each)
    run = replace(run, notes=kept, shared_prefix=0)
    if distinct == 0:
        return run.noted("all prompts differ (--distinct-prompts 0)", prompts=None)
    return run.noted(
        f"requests send {distinct} prompts in turn (--distinct-prompts)", prompts=distinct
    )


def _steps(path: str, run: MeasuredRun, params: Mapping[str, Any]) -> StepRows:
    """Read measured steps of the server's model, on as many cards."""
    from calibration import read_step_times

    tp = params["tp"] if params["tp"] is not None else run.server.tp
    return read_step_times(path, tp=tp)


def _replayed(run: MeasuredRun, params: Mapping[str, Any]) -> Replayed:
    from studies.validation import replayed

    return replayed(run, mend_lengths=params["mend_lengths"])


def _server(
    run: MeasuredRun,
    requests: Replayed,
    trained: Sequence[MeasuredRun],
    steps: Sequence[StepRows],
    params: Mapping[str, Any],
) -> tuple[MeasuredServer, Matched | None, list[str]]:
    """Return the server with its law, matched to runs if that was asked for."""
    from calibration.measured_runs.beginning import beginning
    from studies.validation import Source, match_law, with_law

    until = params["calibrate_until"]
    if not trained and not steps and until is None:
        return server_of_run(run, params), None, []
    warnings: list[str] = []
    if until is None:
        start = _start(trained[0]) if trained and _needs_start(run, params) else None
        sources = []
        for each in trained:
            if _is_same(each, run):
                warnings.append(
                    f"{each.name} is the very run that is judged: this is no prediction"
                )
            _refuse_another_server(each, run)
            own = server_of_run(each, params, start)
            sources.append(Source(_replayed(each, params), own.instance, own.replicas))
    else:
        start = _start(run, until) if _needs_start(run, params) else None
        own = server_of_run(run, params, start)
        sources = [Source(requests, own.instance, own.replicas, until)]
    server = server_of_run(run, params, start)
    law, doubt, law_from = server.instance.batch_time, 1.0, server.law_from
    if server.profile is not None:
        begun = beginning(server.profile, kernels_differ=server.replicas > 1)
        law, doubt, law_from = begun.law, begun.doubt, begun.words
    matched = match_law(sources, law, steps, doubt)
    instance = with_law(server.instance, matched.law)
    return replace(server, instance=instance, law_from=law_from), matched, warnings


def _refuse_another_server(other: MeasuredRun, run: MeasuredRun) -> None:
    """Refuse to match a law to a run of another model, card or number of cards."""
    for what in ("model", "hardware", "tp"):
        theirs, ours = getattr(other.server, what), getattr(run.server, what)
        if theirs is not None and ours is not None and theirs != ours:
            raise FluidServeError(
                f"--calibrate-on {other.name}: its {what} is {theirs}, that of {run.name} {ours}; "
                "a law is that of one model on one kind of server"
            )


def _needs_start(run: MeasuredRun, params: Mapping[str, Any]) -> bool:
    """Return whether neither options nor a profile give a law to begin with."""
    if params.get("law_file") is not None or params.get("config_file") is not None:
        return False
    named = params.get("model") is not None or params.get("hardware") is not None
    known = run.server.model is not None and run.server.hardware is not None
    return not (named or known or params.get("d_0") is not None)


def _start(run: MeasuredRun, until: float = math.inf) -> BatchTimeLaw:
    """Return the law that a run shows by itself, to begin with."""
    from calibration import calibrate_run
    from calibration.server_runs import RequestLog

    rows = np.flatnonzero(run.succeeded & (run.output_tokens > 0) & (run.finish <= until))
    if not rows.size:
        raise FluidServeError(f"{run.name}: no request finished in the part to calibrate on")
    gaps = None if run.gaps is None else tuple(run.gaps[at] for at in rows)
    log = RequestLog(
        run.arrival[rows], (run.arrival + run.ttft)[rows], run.finish[rows],
        run.prompt_tokens[rows].astype(float), run.output_tokens[rows].astype(float), gaps, {},
    )  # fmt: skip
    return BatchTimeLaw(**{"d_prefill": 1e-6, **calibrate_run(log).law.known()._asdict()})


def _is_same(first: MeasuredRun, second: MeasuredRun) -> bool:
    return first.arrival.shape == second.arrival.shape and bool(
        (first.arrival == second.arrival).all()
    )


def _front_end(given: str | None, matched: Matched | None) -> float:
    """Return the time [s] before every first token that was asked for."""
    if given is None:
        return 0.0
    if given == "matched":
        if matched is None or not math.isfinite(matched.front_end):
            raise FlagError(
                "--front-end-offset", given,
                "a number, or matched beside --calibrate-on runs whose requests do not all queue",
            )  # fmt: skip
        return max(matched.front_end, 0.0)
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise FlagError("--front-end-offset", given, "a finite number of seconds >= 0, or matched")
    return seconds


def _warnings(found: Validation, params: Mapping[str, Any]) -> list[str]:
    from studies.validation.requests import contradicted

    run = found.requests.run
    share = float(contradicted(run).sum() / max(run.succeeded.sum(), 1))
    if params["mend_lengths"] or share < TELLING:
        return []
    return [
        f"{100 * share:.1f} % of the answers took far longer per counted token than those beside "
        "them: their lengths are likely too short; see --mend-lengths"
    ]


def _told(run: MeasuredRun, server: MeasuredServer, found: Validation) -> dict[str, Any]:
    return {
        "run": {
            "name": run.name, "requests": len(run), "failed": int((~run.succeeded).sum()),
            "model": run.server.model, "hardware": run.server.hardware, "tp": run.server.tp,
            "vllm_version": run.server.vllm_version, "judged": int(found.judged.sum()),
        },
        "instance": flat(server.instance),
        "replicas": server.replicas,
        "law_from": server.law_from,
        "assumptions": [*found.requests.assumptions, *server.assumptions],
    }  # fmt: skip


def _calibration(
    matched: Matched | None, trained: Sequence[MeasuredRun], params: Mapping[str, Any]
) -> dict[str, Any] | None:
    if matched is None:
        return None
    return {
        "runs": [each.name for each in trained],
        "steps": [Path(each).name for each in params["calibrate_steps"]],
        "until": params["calibrate_until"],
        "times": matched.times,
        "correction": {
            "gap_ms": 1e3 * matched.terms.gap, "decode": matched.terms.decode,
            "kv": matched.terms.kv,
            "prefill": matched.terms.prefill,
            "per_request_us": (1e6 * matched.terms.slopes).tolist(),
        },
        "spread": matched.spread,
        "front_end": matched.front_end,
    }  # fmt: skip


def scores_json(found: Validation) -> dict[str, Any]:
    """Return measured, predicted and error of everything, by model, for JSON; latencies in ms."""
    out: dict[str, Any] = {}
    for name, scores in found.scores.items():
        out[name] = {
            **{
                f"{latency}_ms": {
                    statistic: {"measured": 1e3 * each.measured, "predicted": 1e3 * each.predicted,
                                "error": each.error}
                    for statistic, each in of.items()
                }
                for latency, of in scores.latencies.items()
            },
            **{
                total: {"measured": each.measured, "predicted": each.predicted, "error": each.error}
                for total, each in scores.totals.items()
            },
            "over_time": {series: dict(each) for series, each in scores.series.items()},
        }  # fmt: skip
    return out


def curves(found: Validation) -> dict[str, Any]:
    """Return the columns of the file of series: ``time``, ``measured.running`` and so on."""
    columns = {"time": found.measured.grid}
    for owner, of in {"measured": found.measured, **found.predicted}.items():
        columns |= {
            f"{owner}.{name}": values for name, values in of.series.items() if name in SHOWN
        }
    return columns
