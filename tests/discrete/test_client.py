"""What a client notes of runs: the ways in which requests end, and several tokens at once."""

from __future__ import annotations

from types import SimpleNamespace

import bench_serve_reference
import numpy as np
import pytest
from real_side import folder

from discrete import UNANSWERED, Outputs, Records, Run, engine_for, simulate
from serving import (
    BatchTimeLaw,
    FluidServeError,
    RequestTable,
    UnsupportedError,
    VllmV1,
    bench_serve_metrics,
)


class Log(SimpleNamespace):
    """Four requests: answered in chunks, aborted after an output, never begun, not yet there."""

    def __init__(self, unit="s"):
        super().__init__(
            instance=SimpleNamespace(engine="some", time_unit=unit), num_arrived=4,
        )  # fmt: skip

    def outputs(self):
        times = [2.0, 2.5, 4.0, 3.0, 3.25]
        return Outputs(np.array([3, 2, 0, 0, 0]), np.array(times), np.array([6, 2, 0, 0, 0]))

    def request_records(self):
        nan = np.nan
        return Records(
            {
                "arrival_time": np.array([1.0, 1.5, 1.75, 2.0, 9.0]),
                "first_enter_running_time": np.array([1.5, 2.0, nan, nan, nan]),
                "first_token_time": np.array([2.0, 3.0, nan, nan, nan]),
                "decode_length": np.array([6, 9, 9, 9, 9]),
                "prefill_length": np.array([10, 20, 30, 40, 50]),
                # an engine may say when a request left, however it left
                "completion_time": np.array([4.0, 3.5, nan, 2.0, nan]),
                "status": np.array(["finished", "aborted", "pending", "ignored", "pending"]),
            }
        )


def of(log):
    return Run(log, seed=1, record_batches=True, record_events=False).client_records()


def test_requests_end_in_more_than_one_way():
    found = of(Log())
    assert found.errors == ("", "aborted", UNANSWERED, "ignored")
    assert found.start.tolist() == [1.0, 1.5, 1.75, 2.0]
    assert found.output_tokens.tolist() == [6, 0, 0, 0]  # three chunks, six tokens
    assert found.ttft.tolist() == [1.0, 1.5, 0.0, 0.0]  # an output before the abort was seen
    assert found.latency.tolist() == [3.0, 0.0, 0.0, 0.0]
    assert [each.tolist() for each in found.gaps_by_request()] == [[0.5, 1.5], [0.25], [], []]
    done = found.completed_only()
    assert done.gaps.tolist() == [0.5, 1.5] and done.prompt_tokens.tolist() == [10]
    assert done.tpot.tolist() == [2.0 / 5] and done.ntpot.tolist() == [3.0 / 6]


def test_latencies_of_a_run_are_those_of_who_completed():
    run = Run(Log(), seed=1, record_batches=False, record_events=False)
    found = run.samples()
    assert found.e2el.tolist() == [3.0] and found.ttft.tolist() == [1.0]
    assert found.tpot.tolist() == [2.0 / 5]


def test_times_in_ms_are_noted_in_seconds():
    seconds, ms = of(Log()), of(Log("ms"))
    for name in ("start", "ttft", "latency", "gaps"):
        assert getattr(ms, name) == pytest.approx(getattr(seconds, name) / 1e3)


def test_what_cannot_be_noted_is_refused():
    with pytest.raises(UnsupportedError, match=r"time_unit none.*s \| ms"):
        of(Log("none"))
    silent = SimpleNamespace(instance=Log().instance, request_records=Log().request_records)
    with pytest.raises(UnsupportedError, match="the engine some does not tell when outputs came"):
        of(silent)
    run = Run(Log(), seed=1, record_batches=False, record_events=False)
    with pytest.raises(FluidServeError, match="did not record batches"):
        run.client_records()


SOURCE = folder() / "vllm-0.33.0" / "vllm" / "benchmarks" / "serve.py"


def served(until=None, **settings):
    """Return the run of a small vLLM server: prompts in chunks, too few blocks, clients who go."""
    rng = np.random.default_rng(7)
    arrival = np.cumsum(rng.exponential(0.02, 60))
    abort = np.where(rng.random(60) < 0.2, arrival + rng.exponential(0.5, 60), np.inf)
    table = RequestTable.validated(
        arrival, rng.integers(1, 150, 60), rng.integers(1, 60, 60), abort_time=abort
    )
    law = BatchTimeLaw(d_0=0.01, d_prefill=1e-4, d_decode=1e-4, d_kv=1e-7)
    node = VllmV1(
        batch_time=law, num_gpu_blocks=40, max_num_batched_tokens=64, max_num_seqs=8, **settings
    )
    engine = engine_for(table, node)
    engine.advance(until=until)
    return engine.run()


SERVERS = {
    "default": {},
    "synchronous": {"async_scheduling": False, "enable_prefix_caching": False},
    "drafts": {"num_speculative_tokens": 3, "speculative_accept": "0,2,3,1", "ignore_eos": True},
    "stages": {"pipeline_parallel_size": 2},
}


@pytest.mark.parametrize("settings", SERVERS.values(), ids=SERVERS)
def test_a_vllm_server_answers_in_chunks(settings):
    run = served(**settings)
    requests, found = run.requests, run.client_records()
    assert run.metrics().evictions > 0
    words = requests["status"]
    assert {"finished", "aborted"} <= set(words.tolist()) <= {"finished", "aborted", "pending"}
    assert [not error for error in found.errors] == (words == "finished").tolist()
    some, drafts = 0, "num_speculative_tokens" in settings
    for at, gaps in enumerate(found.gaps_by_request()):
        arrival, first, done = (
            requests[key][at] for key in ("arrival_time", "first_token_time", "completion_time")
        )
        assert found.ttft[at] == (0 if np.isnan(first) else first - arrival)
        assert (gaps > 0).all()
        if not found.errors[at]:
            assert found.output_tokens[at] == requests["decode_length"][at]
            assert found.latency[at] == done - arrival
            assert first + gaps.sum() == pytest.approx(done)
            some += gaps.size + 1 < found.output_tokens[at]
            assert drafts or gaps.size + 1 == found.output_tokens[at]
    assert (some > 0) == drafts
    bench = bench_serve_metrics(found, run.duration)
    assert bench["failed"] == (words != "finished").sum() > 0


def as_seen_by_a_client(found):
    """Return the records as the references take them: a mapping for each request."""
    columns = (
        found.prompt_tokens, found.start, found.ttft, found.latency, found.output_tokens,
        found.errors, found.gaps_by_request(),
    )  # fmt: skip
    keys = ("prompt_len", "start", "ttft", "latency", "output_tokens", "error", "itl")
    return [
        {key: value.tolist() if hasattr(value, "tolist") else value
         for key, value in zip(keys, row, strict=True)}
        for row in zip(*columns, strict=True)
    ]  # fmt: skip


NOT_SHOWN = {"rtfx"}
"""Seconds of sound per second: nobody speaks here."""


def check_shown(shown, expected):
    """Hold the metrics of a run to those of ``vllm bench serve`` that carry the same name."""
    missing = expected.keys() - shown.keys()
    assert missing <= NOT_SHOWN | {
        key for key in missing if key.startswith(("p0_", "p25_", "p99.9_"))
    }
    assert {key: shown[key] for key in expected.keys() - missing} == {
        key: pytest.approx(value, 1e-9) for key, value in expected.items() if key not in missing
    }


@pytest.mark.parametrize("until", [None, 1.5])
@pytest.mark.parametrize("settings", SERVERS.values(), ids=SERVERS)
def test_what_a_run_says_is_what_vllm_bench_serve_says(settings, until):
    """Every metric of that name, of requests that came to their end: also where some did not."""
    run = served(until, **settings)
    seen = as_seen_by_a_client(run.client_records())
    limits = {"ttft": 0.3, "tpot": 0.05, "e2el": 1.5}
    shown = run.metrics(limits).to_json("s")
    goodput = {name: 1000 * most for name, most in limits.items()}
    assert shown["failed"] > 0 < shown["request_goodput"] < shown["request_throughput"]
    check_shown(shown, bench_serve_reference.metrics(seen, run.duration, goodput, (50, 90, 95, 99)))
    if SOURCE.is_file():
        vllm = bench_serve_reference.vllm_metrics(SOURCE, seen, run.duration, goodput)
        check_shown(shown, vllm)


def test_what_needs_a_clock_or_every_step_is_left_out_without_them():
    table = RequestTable.validated([0.0, 0.1], [20, 30], [5, 3])
    law = BatchTimeLaw(d_0=0.01, d_decode=1e-4)
    for node, rows in ((VllmV1(law, time_unit="none"), True), (VllmV1(law), False)):
        shown = simulate(table, node, record_batches=rows).metrics().to_json(node.time_unit)
        assert shown["total_input_tokens"] == 50 and shown["total_output_tokens"] == 8
        assert "max_output_tokens_per_s" not in shown and "max_concurrent_requests" not in shown
