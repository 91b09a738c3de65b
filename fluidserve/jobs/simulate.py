"""Run the engine into an experiment folder, from its start or from a saved state."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fluidserve.config import resolved_yaml
from fluidserve.exports.asked import Exports
from fluidserve.folders import REQUESTS, Stopwatch, write_common
from fluidserve.inputs import (
    Inputs,
    load_config_of,
    load_inputs,
    read_file,
    told_of,
)
from fluidserve.options import PROFILE_KEYS, WORKLOAD_KEYS, FlagError
from fluidserve.profiled import profile_of
from fluidserve.progress import ProgressLine
from fluidserve.results import largest, parse_goodput, summary_of
from fluidserve.settings import D_1, all_settings
from fluidserve.text import for_people, instance_line
from serving import KINDS, ConfigError, FluidServeError, ServingMetrics, kind_of
from studies import Question
from workload import write_requests

if TYPE_CHECKING:
    from discrete import Engine, Progress, Run


def simulate_row(inputs: Inputs, params: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the metrics of one run, and its warnings."""
    import discrete

    unit = inputs.instance.time_unit
    requests = inputs.question.requests
    longest = int(requests.decode_length.max())
    thresholds = parse_goodput(params["goodput"], unit, longest)
    engine = discrete.engine_for(requests, inputs.instance, seed=inputs.config.seed)
    engine.advance()
    run = engine.run()
    metrics = run.metrics(thresholds)
    row = {"batches": run.num_batches, **_ended(engine), **metrics.to_json(unit)}
    return row, _warnings(inputs, engine, run, metrics, params)


def simulate_into(folder: Path, final: Path, params: Mapping[str, Any]) -> dict[str, Any]:
    """Run, write everything into ``folder`` and return what the command prints.

    Parameters
    ----------
    folder, final
        Where to write, and what it will be called.
    params
        Of the command.
    """
    watch, exports = Stopwatch(), Exports.of(params)
    _check_law_error(params)
    with watch("load"):
        engine, inputs = _engine(params)
        inputs = _injected(engine, inputs, params)
    longest = int(engine.requests.decode_length.max())
    thresholds = parse_goodput(params["goodput"], engine.instance.time_unit, longest)
    exports.check(engine, thresholds)
    with watch("simulate"):
        _advance(engine, params, inputs.config)
    run = engine.run()
    with watch("metrics"):
        metrics = run.metrics(thresholds)
    warnings = _warnings(inputs, engine, run, metrics, params)
    summary = summary_of(
        inputs, metrics, warnings, kind="run", engine=engine.instance.engine, finished=run.finished,
        batches=run.num_batches, fragmentation=run.fragmentation(), **_ended(engine),
        **_within(params, engine),
    )  # fmt: skip
    with watch("write"):
        run.write(folder)
        write_requests(engine.requests, folder / REQUESTS)
        title = f"Discrete run: {instance_line(engine.instance)}"
        write_common(
            folder, final, config_yaml=resolved_yaml(inputs.config, engine.instance, REQUESTS),
            summary=summary, people=for_people(title, summary), seed=engine.seed,
            timings=watch.seconds,
        )  # fmt: skip
        exports.write(run, inputs, profile_of(params), thresholds, warnings)
    return summary | {"seconds": watch.seconds}


def _warnings(
    inputs: Inputs, engine: Engine, run: Run, metrics: ServingMetrics, params: Mapping[str, Any]
) -> list[str]:
    """Return what to know of a run, one line each."""
    outputs = _at_batches(run)
    doubt = _capacity_doubt(inputs, run, metrics, outputs, params)
    most = params.get("max_concurrency")
    return inputs.run_warnings(
        *doubt, *_unserved(engine, run), largest=largest(outputs), max_concurrency=most
    )


def _within(params: Mapping[str, Any], engine: Engine) -> dict[str, Any]:
    """Return the mean latencies at both ends of an error of the law, if that was asked for."""
    error = params["law_error"]
    if error is None:
        return {}
    from studies.law_doubt import latencies_within

    unit = engine.instance.time_unit
    scale, ending = {"s": (1e3, "_ms"), "ms": (1.0, "_ms")}.get(unit, (1.0, ""))
    found = latencies_within(engine.requests, engine.instance, error, seed=engine.seed)
    means = {
        f"mean_{name}{ending}": [scale * each for each in ends] for name, ends in found.items()
    }
    return {"within_law_error": {"law_error": error, **means}}


def _check_law_error(params: Mapping[str, Any]) -> None:
    """Refuse an error of the law that is none, or beside what repeats no whole run."""
    error = params["law_error"]
    if error is None:
        return
    if not 0 < error < 1:
        raise FlagError("--law-error", error, "a number above 0 and below 1")
    for key in ("until", "resume", "inject", "max_concurrency"):
        if params.get(key) is not None:
            flag = key.replace("_", "-")
            raise FluidServeError(f"--law-error repeats a whole run; leave out --{flag}")


def _ended(engine: Engine) -> dict[str, Any]:
    """Return how a run of an engine that can get stuck ended."""
    status = getattr(engine, "status", None)
    return {} if status is None else {"status": status}


def _unserved(engine: Engine, run: Run) -> list[str]:
    """Say who got no whole answer because the engine dropped them or cannot go on."""
    total, unit, said = len(engine.requests), engine.instance.time_unit, []
    status = _ended(engine).get("status", "finished")
    if status not in ("finished", "pending"):
        left = total - engine.progress.completed
        when = f"{engine.time:.6g}" + ("" if unit == "none" else f" {unit}")
        said.append(
            f"the run ended as {status} at {when}: {left} of {total} requests have not ended, and "
            "no latency counts them"
        )
    dropped = int((run.requests["status"] == "ignored").sum()) if "status" in run.requests else 0
    if dropped:
        said.append(
            f"{dropped} of {total} requests were ignored, as vLLM ignores what is too long for its "
            "memory or for a step; no latency counts them"
        )
    return said


def _capacity_doubt(
    inputs: Inputs,
    run: Run,
    metrics: ServingMetrics,
    outputs: Mapping[str, Any],
    params: Mapping[str, Any],
) -> list[str]:
    """Say how the answer depends on an estimated KV capacity; of whole runs of a question."""
    changed = any(params.get(key) is not None for key in ("until", "resume", "inject"))
    if inputs.estimate is None or changed or not len(outputs["memory"]):
        return []
    from studies import capacity_doubt

    said = capacity_doubt(
        inputs.question, inputs.estimate, mean_ttft=metrics.latencies["ttft"].mean,
        largest={"memory": float(outputs["memory"].max())},
        evicted=float(np.nan_to_num(metrics.totals.get("evicted_blocks", 0.0))),
    )  # fmt: skip
    return [said] if said else []


def _at_batches(run: Run) -> dict[str, Any]:
    """Return the outputs of a run that its kind writes after every batch, by name."""
    columns = kind_of(run.instance).snapshot
    return {each.output: run.batches[each.name] for each in columns if each.output is not None}


def _engine(params: Mapping[str, Any]) -> tuple[Engine, Inputs]:
    """Return an engine at its start, or where a state left it, and what it works on."""
    import discrete

    state = params["resume"]
    if state is None:
        inputs = load_inputs(params)
        engine = discrete.engine_for(
            inputs.question.requests, inputs.instance, seed=inputs.config.seed,
            record_events=params["events"] is not False, **_own_options(params, inputs.instance),
        )  # fmt: skip
        return engine, inputs
    fixed = [item.key for item in all_settings().values() if item.group != "run"]
    own = ("engine", "config_file", "request_file", "seed")
    if params["events"] is not None:
        flag = "--events" if params["events"] else "--no-events"
        raise FluidServeError(f"{flag}: a state goes on to write the files that its run began")
    for key in (*fixed, D_1.key, *own, *WORKLOAD_KEYS, *PROFILE_KEYS, *OWN_OPTIONS):
        if params.get(key) is not None:
            flag = {"config_file": "config", "request_file": "requests"}.get(key, key)
            raise FluidServeError(
                f"--{flag.replace('_', '-')}: a state brings its own instance, requests and seed; "
                "use --inject to change what arrives"
            )
    engine = discrete.resume(state)
    config = load_config_of({**params, "engine": engine.instance.engine})
    config = config.model_copy(update={"seed": engine.seed})
    source = {"source": "state", "file": str(state)}
    return engine, Inputs(config, Question(engine.requests, engine.instance), source)


OWN_OPTIONS = ("decision_log", "request_log", "log_extended", "max_concurrency")
"""Options that only some engines have."""


def _own_options(params: Mapping[str, Any], instance: Any) -> dict[str, Any]:
    """Return the options of the instance's engine, refusing those of others."""
    given = {
        key: params[key] for key in OWN_OPTIONS if not (params[key] is None or params[key] is False)
    }
    kind = kind_of(instance)
    for key in given:
        if key not in kind.run_options:
            raise FluidServeError(
                f"--{key.replace('_', '-')}: the engine {kind.name} has no such option; "
                f"{' and '.join(each.name for each in KINDS.values() if key in each.run_options)} "
                "can"
            )
    if "log_extended" in given and not {"decision_log", "request_log"} & given.keys():
        raise FluidServeError("--log-extended needs --decision-log or --request-log")
    return given


def _injected(engine: Engine, inputs: Inputs, params: Mapping[str, Any]) -> Inputs:
    """Inject what is asked for and return what the engine works on from then."""
    path, at = params["inject"], params["inject_at"]
    if path is None:
        for key in ("inject_at", "keep_arrivals"):
            if params[key]:
                raise FluidServeError(f"--{key.replace('_', '-')} needs --inject")
        if params["resume"] is not None and params["L_filter"] is not None:
            raise FluidServeError("--L-filter: a state brings its own requests; needs --inject")
        return inputs
    if at is not None and not math.isfinite(at):
        raise FlagError("--inject-at", at, "a finite time not before the present")
    reading = read_file(
        path, engine.instance, L_filter=inputs.config.L_filter,
        drop_oversized=params["drop_oversized"],
    )  # fmt: skip
    try:
        engine.inject(reading.requests, at=at, replace=not params["keep_arrivals"])
    except ConfigError as error:
        if error.key != "at":
            raise
        raise FlagError("--inject-at", at, error.allowed) from None
    return replace(
        inputs,
        question=Question(engine.requests, engine.instance),
        source={**inputs.source, "injected": told_of(reading)},
        notes=(*inputs.notes, *reading.notes),
    )


def _advance(engine: Engine, params: Mapping[str, Any], config: Any) -> None:
    """Run to the end, or to ``--until``, saving the state on the way if asked to."""
    from discrete import Stop, save_state

    until, at_batch, state = params["until"], params["at_batch"], params["save_state"]
    if until is not None and not 0 <= until < float("inf"):
        raise FlagError("--until", until, "a finite time >= 0")
    told = _progress(config)
    if at_batch is not None:
        if state is None:
            raise FluidServeError("--at-batch needs --save-state")
        if not engine.batch <= at_batch < 2**53:
            raise FlagError("--at-batch", at_batch, f"a batch >= {engine.batch}, where it starts")
        stop = engine.advance(until=until, batches=at_batch - engine.batch, progress=told)
        if stop != Stop.BATCHES:
            raise FluidServeError(
                f"--at-batch {at_batch}: the run ended after {engine.batch} batches"
            )
        save_state(engine, state)
    engine.advance(until=until, progress=told)
    if state is not None and at_batch is None:
        save_state(engine, state)


def _progress(config: Any) -> Callable[[Progress], None] | None:
    if not config.verbose:
        return None
    line, last = ProgressLine(), [0]

    def told(progress: Progress) -> None:
        done = progress.completed >= progress.total
        if progress.batch - last[0] >= config.progress_interval or done:
            last[0] = progress.batch
            line.say(
                f"t = {progress.time:,.1f}: batch {progress.batch:,}, "
                f"{progress.completed:,} of {progress.total:,} requests completed",
                final=done,
            )

    return told
