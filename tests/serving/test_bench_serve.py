"""The metrics of ``vllm bench serve`` against vLLM's own function and a plain reading of it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from bench_serve_reference import GOLDEN, PERCENTILES, drawn, metrics, vllm_keys, vllm_metrics
from hypothesis import given
from hypothesis import strategies as st
from real_side import folder

from serving import ClientRecords, FluidServeError, bench_serve_metrics

SOURCE = folder() / "vllm-0.33.0" / "vllm" / "benchmarks" / "serve.py"
RECORDED = json.loads(GOLDEN.read_text(encoding="utf-8"))


def records(requests) -> ClientRecords:
    def column(key, kind=float):
        return np.array([each[key] for each in requests], kind)

    return ClientRecords(
        column("start"), column("prompt_len", int), column("output_tokens", int), column("ttft"),
        column("latency"), np.concatenate([each["itl"] for each in requests]).astype(float),
        np.array([len(each["itl"]) for each in requests]),
        tuple(each["error"] for each in requests),
    )  # fmt: skip


def ours(requests, duration, goodput):
    seconds = {name: most / 1000 for name, most in goodput.items()}
    found = bench_serve_metrics(
        records(requests), duration, percentiles=PERCENTILES, goodput=seconds
    )
    assert found.pop("duration") == duration
    return found


def close(a, b):
    """Return whether results are the same but for the last digits of sums."""
    rounded = {
        key: value if value is None else pytest.approx(value, 1e-12) for key, value in b.items()
    }
    return list(a) == list(b) and a == rounded


@pytest.mark.parametrize("seed", RECORDED["answers"])
def test_what_vllm_answered_is_answered(seed):
    answer = RECORDED["answers"][seed]
    assert close(ours(*drawn(int(seed))), answer)
    assert close(metrics(*drawn(int(seed))), answer)


def test_the_recorded_cases_hold_what_is_easily_missed():
    answers = RECORDED["answers"].values()
    cases = [drawn(int(seed))[0] for seed in RECORDED["answers"]]
    assert any(each["failed"] and each["completed"] for each in answers)
    assert any(not each["completed"] for each in answers)
    assert any(each["request_goodput"] is None for each in answers)
    assert any(r["output_tokens"] == 1 for case in cases for r in case)
    assert any(r["output_tokens"] > len(r["itl"]) + 1 for case in cases for r in case)


@given(st.integers(0, 2**32))
def test_a_plain_reading_answers_the_same(seed):
    case = drawn(seed)
    assert close(ours(*case), metrics(*case))


@pytest.mark.skipif(not SOURCE.is_file(), reason="no unpacked vLLM: run scripts/oracle.sh")
def test_vllm_itself_answers_the_same():
    for seed in range(300):
        case = drawn(seed)
        assert close(ours(*case), vllm_metrics(SOURCE, *case)), seed
    assert vllm_keys(SOURCE) == {key: RECORDED[key] for key in ("keys", "detailed")}


def test_many_long_answers_are_added_up_in_pieces(monkeypatch):
    requests = [r for seed in range(40) for r in drawn(seed)[0]]
    whole = ours(requests, 90.0, {})
    monkeypatch.setattr("serving.client_records.CELLS", 40)
    assert ours(requests, 90.0, {}) == whole


def test_only_the_latencies_that_are_asked_for():
    requests, duration, _ = drawn(3)
    found = bench_serve_metrics(
        records(requests), duration, latencies=["e2el", "ttft"], percentiles=[]
    )
    assert list(found)[-6:] == [
        f"{stat}_{name}_ms" for name in ("ttft", "e2el") for stat in ("mean", "median", "std")
    ]


@pytest.mark.parametrize("wrong", [{"latencies": ["ttfb"]}, {"goodput": {"itl": 1.0}}])
def test_what_the_benchmark_does_not_know_is_refused(wrong):
    with pytest.raises(FluidServeError, match="ttft, tpot"):
        bench_serve_metrics(records(drawn(0)[0]), 9.0, **wrong)


def test_a_run_of_no_time_has_no_rates():
    found = bench_serve_metrics(records(drawn(5)[0]), 0.0)
    assert np.isnan(found["request_throughput"]) and found["total_input_tokens"] > 0
