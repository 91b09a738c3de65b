"""A run as a Benchmark Report v0.2 of llm-d, the format in which projects compare results.

The report has a JSON Schema: unknown keys are not allowed, each statistic says its unit, and what
is not known is left out.
"""

from __future__ import annotations

import hashlib
import math
import uuid
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from discrete import UNANSWERED
from fluidserve.config import flat
from fluidserve.exports.bench_serve import rate_of
from fluidserve.plain import to_json
from serving import SECONDS, bench_samples, kind_of
from serving.files import atomic_write
from serving.sample_statistics import gauge_statistics, sample_statistics

if TYPE_CHECKING:
    from calibration.profiles import Profile
    from discrete import Run
    from fluidserve.inputs import Inputs
    from serving import ClientRecords
    from studies import Question

VERSION = "0.2"
"""Of the report. Revisions of 0.2 only add keys that may be left out."""

TOOL = "fluidserve"

ROLES = {"decode_node": "decode"}
"""Role of an engine that is not a whole server, by kind."""

LATENCIES = {
    "time_to_first_token": ("ttft", "ms"),
    "time_per_output_token": ("tpot", "ms/token"),
    "inter_token_latency": ("itl", "ms/token"),
    "request_latency": ("e2el", "ms"),
}
"""Latency and unit by the report's name of each."""


def write_llmd_report(
    path: str | Path,
    run: Run,
    records: ClientRecords,
    inputs: Inputs,
    profile: Profile | None,
    warnings: Sequence[str] = (),
) -> None:
    """Write the report of a run as JSON; the file appears whole or not at all.

    Parameters
    ----------
    path
        Name of the file.
    run, records
        What ran, and what a client noted of it.
    inputs
        What was asked.
    profile
        Model and card, where they were named.
    warnings
        What to know before trusting the results; the description says them.

    Raises
    ------
    FileAccessError
        If the file cannot be written.
    """
    text = to_json(llmd_report(run, records, inputs, profile, warnings)) + "\n"
    with atomic_write(path) as file:
        file.write(text)


def llmd_report(
    run: Run,
    records: ClientRecords,
    inputs: Inputs,
    profile: Profile | None,
    warnings: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the report; the parameters are those of :func:`write_llmd_report`."""
    seconds = run.duration * SECONDS[run.instance.time_unit]
    component, load = _component(run, profile), _load(inputs)
    said = f"simulated by {TOOL} {version(TOOL)}: {kind_of(run.instance).title}"
    what = to_json([component, load, run.seed, run.num_batches, run.duration])
    return {
        "version": VERSION,
        "run": {
            # the same run has the same identity: its report can be made again
            "uid": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{TOOL}:{what}")),
            "time": {"duration": f"PT{seconds:.9f}S"},  # a simulation has no date
            "description": "; ".join([said, *warnings]),
            "keywords": ["simulation"],
        },
        "scenario": {"stack": [component], "load": load},
        "results": {
            "request_performance": {"aggregate": _performance(records, seconds)},
            "observability": {"components": [_observed(run, component["metadata"]["label"])]},
        },
    }


def _component(run: Run, profile: Profile | None) -> dict[str, Any]:
    """Return what served: an inference engine where model and card are known, else generic."""
    name, config = run.instance.engine, flat(run.instance)
    standardized: dict[str, Any] = {"tool": TOOL, "tool_version": version(TOOL)}
    if profile is None:
        standardized |= {"kind": "generic", "engine": name}
    else:
        standardized |= {
            "kind": "inference_engine",
            "role": ROLES.get(name, "replica"),
            "replicas": 1,
            "model": {"name": profile.model},
            "accelerator": {
                "model": profile.hardware,
                "count": profile.tp,
                "parallelism": {"tp": profile.tp},
            },
        }
    metadata = {
        "label": f"{name}-0",
        "cfg_id": _digest(config),
        "description": kind_of(run.instance).title,
    }
    return {"metadata": metadata, "standardized": standardized, "native": {"config": config}}


def _load(inputs: Inputs) -> dict[str, Any]:
    """Return what was sent: lengths as mean and range, whatever they were drawn from."""
    question, told = inputs.question, inputs.describe()
    standardized: dict[str, Any] = {
        "tool": TOOL,
        "tool_version": version(TOOL),
        "source": "sampled" if question.is_file else "random",
        "input_seq_len": _lengths(question.requests.prefill_length),
        "output_seq_len": _lengths(question.requests.decode_length),
    }
    rate = _rate(question)
    if rate is not None:
        standardized["rate_qps"] = rate
    return {
        "metadata": {"cfg_id": _digest(told)},
        "standardized": standardized,
        "native": {"config": told},
    }


def _rate(question: Question) -> float | None:
    rate = rate_of(question)
    return rate if rate is not None and 0 < rate < float("inf") else None


def _lengths(tokens: NDArray[np.int64]) -> dict[str, Any]:
    """Return the lengths that were sent; ``other`` says that they follow none of its shapes."""
    least, most = int(tokens.min()), int(tokens.max())
    return {
        "distribution": "fixed" if least == most else "other",
        "value": float(tokens.mean()),
        "min": least,
        "max": most,
    }


def _performance(records: ClientRecords, seconds: float) -> dict[str, Any]:
    """Return requests, latencies and throughputs as their client sees them."""
    done = records.completed_only()
    prompts, answers = int(done.prompt_tokens.sum()), int(done.output_tokens.sum())
    unanswered = records.errors.count(UNANSWERED)
    latency = {
        name: _statistic(1e3 * bench_samples(done, which), unit)
        for name, (which, unit) in LATENCIES.items()
    }
    latency["normalized_time_per_output_token"] = _statistic(1e3 * done.ntpot, "ms/token")
    rates = {
        "input_token_rate": (prompts, "tokens/s"),
        "output_token_rate": (answers, "tokens/s"),
        "total_token_rate": (prompts + answers, "tokens/s"),
        "request_rate": (len(done.errors), "queries/s"),
    }
    throughput = {
        name: {"units": unit, "mean": amount / seconds}
        for name, (amount, unit) in rates.items()
        if seconds > 0
    }
    return {
        "requests": _known(
            {
                "total": len(records.errors),
                "failures": len(records.errors) - len(done.errors) - unanswered,
                "incomplete": unanswered,
                "input_length": _statistic(done.prompt_tokens, "count"),
                "output_length": _statistic(done.output_tokens, "count"),
            }
        ),
        "latency": _known(latency),
        "throughput": throughput,
    }


def _observed(run: Run, label: str) -> dict[str, Any]:
    """Return what the node's gauges showed over the run: means over time, smallest and largest."""
    trajectory = run.trajectory()

    def gauge(name: str, unit: str, whole: float = 1.0) -> dict[str, Any] | None:
        found = gauge_statistics(trajectory, name, run.duration)
        return _with_units({key: value / whole for key, value in found.items()}, unit)

    rate = run.totals()["prefix_cache_hit_rate"]
    size = kind_of(run.instance).limits(run.instance)["memory"].value
    found = {
        "running_requests": gauge("running", "count"),
        "waiting_requests": gauge("waiting", "count"),
        "swapped_requests": gauge("swapped", "count"),
        "kv_cache_usage": gauge("memory", "fraction", size) if size < float("inf") else None,
        "cache_hit_rate": None if math.isnan(rate) else {"units": "fraction", "mean": rate},
    }
    return {"component_label": label, "aggregate": _known(found)}


def _statistic(samples: NDArray[Any], unit: str) -> dict[str, Any] | None:
    return _with_units(sample_statistics(samples.astype(float)), unit)


def _with_units(statistics: Mapping[str, float], unit: str) -> dict[str, Any] | None:
    """Return statistics with their unit; None where there are none."""
    return {"units": unit, **statistics} if statistics else None


def _known(content: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in content.items() if value is not None}


def _digest(content: Any) -> str:
    return hashlib.sha256(to_json(content).encode()).hexdigest()[:32]
