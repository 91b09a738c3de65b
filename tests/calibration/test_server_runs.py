"""Laws recovered from what servers write: from simulated ones of known law, and from real ones."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from chunked_prefill_server import serve
from hypothesis import given, settings
from hypothesis import strategies as st
from served import Served, exposition, range_export

import discrete
from calibration.server_runs import (
    COEFFICIENTS,
    BatchRows,
    LawFit,
    RequestLog,
    calibrate_run,
    fit_law,
    read_server_log,
)
from calibration.server_runs.law import _overlapping
from calibration.server_runs.offsets import frontend_offset
from serving import BatchTimeLaw, DecodeNode, FluidServeError, RequestTable, WorkloadError

DECODE_NODE = np.array([0.0111, 0.0, 6e-5, 9.07e-8])
CHUNKED = np.array([0.0111, 4e-5, 6e-5, 9.07e-8])
OFFSET = 0.03
NOISE = 0.05
CAPACITY = 2_000_000


def workload(count, seed, period, rates):
    """Return arrivals, prompts and outputs that alternate between many short and few long ones."""
    rng = np.random.default_rng(seed)
    long = (np.arange(count) // period) % 2 == 1
    slow = (np.arange(count) // (4 * period)) % 2 == 1
    gaps = rng.exponential(1, count) * np.where(long, *rates) * np.where(slow, 2, 1)
    prompts = np.where(long, rng.integers(3000, 6000, count), rng.integers(10, 200, count))
    return np.cumsum(gaps), prompts, rng.integers(50, 400, count)


def decode_node(count, noise):
    table = RequestTable.validated(*workload(count, 3, 60, (0.35, 0.05)))
    law = BatchTimeLaw(d_0=DECODE_NODE[0], d_decode=DECODE_NODE[2], d_kv=DECODE_NODE[3])
    node = DecodeNode(law, time_unit="s", M_total=CAPACITY, B=None)
    return Served.of_run(discrete.simulate(table, node), noise, 1)


@pytest.fixture(scope="module")
def node_run():
    return decode_node(4000, NOISE)


@pytest.fixture(scope="module")
def server_run():
    arrival, prompt, output = workload(2500, 4, 50, (0.5, 0.08))
    return serve(arrival, prompt, output, CHUNKED, noise=NOISE, max_num_seqs=256)


@pytest.fixture
def log(tmp_path):
    def read(text, name="run.txt", **options):
        path = tmp_path / name
        path.write_text(text)
        return read_server_log(path, **options)

    return read


def assert_recovered(found, law, within, *, split=True):
    """Hold every coefficient and all predictions to the truth, and the truth to every interval.

    Without ``split`` the coefficients need only be in their intervals.
    """
    for at, (name, each) in enumerate(found.coefficients().items()):
        if not law[at]:
            assert each["value"] is None
            continue
        assert each["low"] <= law[at] <= each["high"], name
        if split:
            assert each["value"] == pytest.approx(law[at], rel=within), name
    truth = found.rows
    exact = law @ np.stack([np.ones(len(truth)), truth.prefill_tokens, truth.decode_tokens,
                            truth.kv_tokens])  # fmt: skip
    assert np.abs(found.law.predict(truth) / exact - 1).max() < within


@pytest.mark.slow
def test_token_times_of_a_decode_node_give_its_law_within_one_percent(node_run, log):
    found = calibrate_run(log(node_run.bench_json(OFFSET)), remote_prefill=True)
    assert found.kind == "requests with token times"
    assert_recovered(found, DECODE_NODE, 0.01)
    assert found.held_out is not None and abs(found.held_out.bias) < 0.005
    assert found.frontend_offset is not None
    assert found.frontend_offset.value == pytest.approx(OFFSET, abs=0.004)
    assert found.drift is not None and not found.drift.drifting


@pytest.mark.slow
def test_first_and_last_tokens_of_a_decode_node_give_its_law_within_one_percent(node_run, log):
    found = calibrate_run(log(node_run.csv()), remote_prefill=True)
    assert found.kind == "requests"
    assert_recovered(found, DECODE_NODE, 0.01)


@pytest.mark.slow
def test_metrics_of_a_decode_node_give_its_law_within_five_percent(node_run, log):
    times, metrics = node_run.metrics(1.0, CAPACITY)
    found = calibrate_run(log(exposition(times, metrics, CAPACITY)), remote_prefill=True)
    assert found.kind == "metrics"
    assert_recovered(found, DECODE_NODE, 0.05)
    assert found.kv_capacity is not None and found.kv_capacity.value == CAPACITY
    # What is not exported is taken from what is: capacity from the tokens of unfinished requests.
    fewer = {name: each for name, each in metrics.items() if "iteration" not in name}
    found = calibrate_run(log(range_export(times, fewer)), remote_prefill=True)
    assert found.kv_capacity is not None and found.kv_capacity.samples > 100
    assert found.kv_capacity.value == pytest.approx(CAPACITY, rel=0.01)
    assert_recovered(found, DECODE_NODE, 0.05, split=False)
    assert not found.law.identified("d_decode")


@pytest.mark.slow
def test_chunked_prefill_and_its_budget_are_recovered(server_run, log):
    found = calibrate_run(log(server_run.bench_json(OFFSET)))
    assert found.token_budget == 2048 and found.budget_inferred
    assert_recovered(found, CHUNKED, 0.01)
    assert found.frontend_offset is not None
    assert found.frontend_offset.value == pytest.approx(OFFSET, abs=0.004)
    found = calibrate_run(log(server_run.csv()))
    assert_recovered(found, CHUNKED, 0.01)
    times, metrics = server_run.metrics(1.0, CAPACITY)
    found = calibrate_run(log(exposition(times, metrics)))
    assert_recovered(found, CHUNKED, 0.05)


def test_without_noise_token_times_give_the_law_exactly(log):
    found = calibrate_run(log(decode_node(400, 0.0).bench_json()), remote_prefill=True)
    assert found.law.value[[0, 2, 3]] == pytest.approx(DECODE_NODE[[0, 2, 3]], rel=1e-6)
    assert found.mape < 1e-6


def test_jitter_of_the_client_does_not_move_the_law(log):
    served = decode_node(600, 0.02)
    rng = np.random.default_rng(0)
    served.tokens = [t + rng.uniform(0, 2e-3, t.size) for t in served.tokens]
    found = calibrate_run(log(served.bench_json()), remote_prefill=True)
    assert_recovered(found, DECODE_NODE, 0.03)


def test_usage_without_capacity_gives_time_per_full_cache(log):
    times, metrics = decode_node(600, 0.02).metrics(1.0, CAPACITY)
    fewer = {name: each for name, each in metrics.items() if "request_" not in name}
    read = log(range_export(times, fewer), "range.json")
    found = calibrate_run(read, remote_prefill=True)
    per_cache = found.coefficients()["d_kv_times_capacity"]["value"]
    assert any("--kv-capacity" in note for note in found.notes)
    known = calibrate_run(read, remote_prefill=True, kv_capacity_tokens=CAPACITY)
    assert per_cache == pytest.approx(known.coefficients()["d_kv"]["value"] * CAPACITY, rel=1e-6)


def test_drift_is_told_from_none(log):
    arrival, prompt, output = workload(500, 6, 25, (0.5, 0.1))
    for slower, drifting in ((0.0, False), (1e-3, True)):
        run = serve(arrival, prompt, output, CHUNKED, noise=0.03, drift=slower)
        found = calibrate_run(log(run.bench_json()))
        assert found.drift is not None and found.drift.drifting is drifting
        if drifting:
            assert found.drift.slope == pytest.approx(3.6, rel=0.2)
            biases = [window.bias for window in found.drift.windows]
            assert biases == sorted(biases)


def known_rows(seed, d_0, spread):
    """400 batches of a known law, their times with relative noise."""
    rng = np.random.default_rng(seed)
    n = rng.uniform(1, 200, 400)
    kv, prefill = n * rng.uniform(50, 4000, 400), rng.choice([0.0, 700.0, 2048.0], 400)
    law = d_0 * np.array([1.0, 3e-3, 4e-3, 1e-5])
    step = law @ np.stack([np.ones(400), prefill, n, kv])
    step = step * (1 + spread * rng.standard_normal(400).clip(-3, 3))
    return law, BatchRows(np.arange(400.0), np.ones(400), prefill, n, kv, step)


@given(seed=st.integers(0, 10_000), d_0=st.floats(1e-3, 0.1))
@settings(max_examples=25, deadline=None)
def test_a_fit_of_exact_rows_is_exact(seed, d_0):
    law, rows = known_rows(seed, d_0, 0.0)
    assert fit_law(rows).value == pytest.approx(law, rel=1e-6)


@pytest.mark.parametrize("spread", [0.01, 0.06])
def test_intervals_hold_the_law_as_often_as_they_say(spread):
    """95 % of them; over 200 independent fits the share is known to 1.5 %."""
    held = []
    for seed in range(200):
        law, rows = known_rows(seed, 0.05, spread)
        fit = fit_law(rows)
        held.append(np.abs(fit.value - law) <= fit.half_width)
    share = np.mean(held, axis=0)
    assert (share > 0.95 - 4 * 0.0154).all(), share
    assert (share < 1.0).all(), share


@pytest.mark.parametrize("others", [0, 3])
@pytest.mark.parametrize("remote", [False, True], ids=["own prompt", "remote prompt"])
def test_the_frontend_offset_is_what_no_batch_of_a_steady_server_explains(remote, others):
    """All but the first find so many others, who hold their prompt and half of their output."""
    law = LawFit(np.array([0.02, 2e-5, 1e-3, 1e-6]), np.zeros(4), 1.0)
    prompt, output, stay = 900.0, 200.0, 4.0
    step = 0.02 + others * (1e-3 + 1000 * 1e-6)  # a batch of the others: 1,000 tokens each
    own = step + (1e-3 + 900 * 1e-6 if remote else 900 * 2e-5)
    wait = step / 2 if others else 0.0  # the arrival falls in the middle of a batch
    arrival = np.arange(60) * stay / (others + 0.5)
    first = arrival + 0.03 + wait + own
    count = np.ones(60)
    log = RequestLog(arrival, first, first + stay, count * prompt, count * output, None, {})
    found = frontend_offset(log, law, token_budget=None, remote_prefill=remote)
    assert found is not None and found.value == pytest.approx(0.03, abs=1e-12)


def test_rows_share_the_noise_of_the_batches_in_both():
    """Every pair of rows, by the time that both cover."""
    rng = np.random.default_rng(5)
    time, steps, step_time = rng.uniform(0, 30, 40), rng.integers(1, 9, 40), rng.uniform(0.2, 1, 40)
    span, none = steps * step_time, np.zeros(40)
    begin, end = time - span / 2, time + span / 2
    filled = rng.normal(size=(40, 3))
    both = np.minimum.outer(end, end) - np.maximum.outer(begin, begin)
    correlation = np.maximum(both, 0) / np.sqrt(np.outer(span, span))
    rows = BatchRows(time, steps.astype(float), none, none, none, step_time, disjoint=False)
    assert _overlapping(filled, rows) == pytest.approx(filled.T @ correlation @ filled)


def test_an_outlier_does_not_move_the_fit():
    rng = np.random.default_rng(0)
    n, kv = rng.uniform(1, 100, 300), rng.uniform(0, 1e5, 300)
    step = 0.01 + 5e-5 * n + 1e-7 * kv
    step[::40] *= 10
    rows = BatchRows(np.arange(300.0), np.ones(300), np.zeros(300), n, kv, step)
    assert fit_law(rows).value[[0, 2, 3]] == pytest.approx([0.01, 5e-5, 1e-7], rel=0.02)


def bench(**changes):
    content = {"input_lens": [9, 9], "output_lens": [3, 3], "ttfts": [0.1, 0.1],
               "itls": [[0.02, 0.02]] * 2, "start_times": [0.0, 1.0]} | changes  # fmt: skip
    return json.dumps({key: value for key, value in content.items() if value is not None})


HEAD = "arrival_s,first_token_s,finish_s,prompt_tokens,output_tokens\n"
SCRAPE = ("vllm:num_requests_running 1\nvllm:prompt_tokens_total 5\n"
          "vllm:generation_tokens_total {}\n")  # fmt: skip
RANGE = ('{"data": {"resultType": "matrix", "result": [{"metric": {"__name__": '
         '"vllm:num_requests_running"}, "values": [[0, "1"]]}]}}')  # fmt: skip
WRONG = [
    (bench(start_times=None), ["start_times", "--save-detailed"]),
    (bench(ttfts=[0.1]), ["ttfts", "1 entries", "2"]),
    (bench(ttfts=[0.1, float("nan")]), ["ttfts", "row 2", "nan"]),
    (bench(ttfts=[0.1, -0.3]), ["row 2", "first token", "before the arrival"]),
    (bench(itls=[[0.02, 0.02], [0.02, "x"]]), ["itls", "row 2", "'x'"]),
    (bench(itls=[[0.02, 0.02], [0.02, -1]]), ["itls", "row 2", "-1"]),
    (bench(itls=[[20.0, 20.0]] * 2), ["20 s", "milliseconds"]),
    (bench(errors=["boom", "boom"]), ["no request that completed", "2 failed"]),
    (bench(input_lens=[], output_lens=[], ttfts=[], itls=[], start_times=[]), ["no request"]),
    (bench(output_lens=[3, 2.5]), ["output tokens", "row 2", "2.5"]),
    (bench(output_lens=[1, 1], itls=[[], []]), ["no batch time"]),
    (bench(), ["2 batch times", "longer run"]),
    ("{", ["not JSON", "row 1"]),
    ('{"status": "success", "data": {"resultType": "vector"}}', ["resultType", "matrix"]),
    ('{"data": {"resultType": "matrix", "result": 5}}', ["result", "a list", "5"]),
    ('{"data": {"resultType": "matrix", "result": [5]}}', ["result", "row 1", "metric"]),
    ('{"data": {"resultType": "matrix", "result": [{"metric": {}, "values": []}]}}', ["no name"]),
    (RANGE.replace('"1"', "3, 4"), ["row 1", "vllm:num_requests_running", "[time, value]"]),
    (RANGE.replace('"1"', '"x"'), ["row 1", "vllm:num_requests_running", "'x'"]),
    (RANGE, ["missing", "vllm:prompt_tokens_total"]),
    ("[1, 2]", ["known are", "query_range"]),
    ("[]", ["empty list"]),
    ("a,b\n1,2\n", ["vllm bench serve"]),
    (HEAD, ["no rows"]),
    (HEAD + "0,1,2,5,nan\n", ["row 1", "output_tokens", "nan"]),
    (HEAD + "0,1,2,5,9\n3,2,4,5,9\n", ["row 2", "first token", "before the arrival"]),
    (HEAD + "0,3,2,5,9\n", ["row 1", "finish", "before the first token"]),
    (HEAD + "0,100,900000,5,9\n", ["not plausible", "seconds"]),
    ("arrival_s,ttft_s,prompt_tokens,output_tokens\n0,1,5,9\n", ["vllm bench serve"]),
    ("# TYPE x gauge\n" + SCRAPE.format(3), ["no time", "--interval"]),
    ("# time 0\nvllm:num_requests_running 1\n", ["missing", "vllm:prompt_tokens_total"]),
    ("# time 0\n" + SCRAPE.format("x"), ["row 4", "generation_tokens_total", "'x'"]),
    ("# time 0\n" + SCRAPE.format(1), ["1 times"]),
    ("# time 0\nvllm:a b c d\n", ["row 2", "not a line of Prometheus"]),
    ("".join(f"# time {t}\n" + SCRAPE.format(9 - t) for t in range(5)), ["restarted", "row 2"]),
    ("t_s,step_time_ms,prefill_tokens,decode_tokens,kv_tokens\n1,5,0,1,9\n1,5,0,1,9\n",
     ["row 2", "time does not increase"]),
    ("t_s,step_time_ms,prefill_tokens,decode_tokens,kv_tokens\n1,-5,0,1,9\n",
     ["row 1", "step_time_ms", "-5"]),
    ("t_s,step_time_ms,prefill_tokens,decode_tokens,kv_tokens\n"
     + "".join(f"{t},11000,0,{t},9\n" for t in range(20)), ["11 s", "another unit"]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "words"), WRONG)
def test_wrong_input_is_one_line_that_says_where(log, text, words):
    with pytest.raises(FluidServeError) as wrong:
        calibrate_run(log(text))
    said = str(wrong.value)
    assert "\n" not in said
    for word in words:
        assert word in said, said


TOKENS = ("nan", "-1", "1e400", "", '"x"', "null", "[]", "{}", "0", "1e9", "inf", "true", "1e-300")


@pytest.fixture(scope="module")
def good_files():
    served = decode_node(40, NOISE)
    times, metrics = served.metrics(1.0, CAPACITY)
    return [served.bench_json(), served.csv(), exposition(times[:30], metrics, CAPACITY),
            range_export(times[:30], {k: v[:30] for k, v in metrics.items()})]  # fmt: skip


@given(which=st.integers(0, 3), random=st.randoms(use_true_random=False), prefill=st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_damaged_file_is_read_or_refused_never_a_traceback(
    good_files, tmp_path_factory, which, random, prefill
):
    text = good_files[which]
    for _ in range(random.randint(1, 3)):
        first, last = random.choice([m.span() for m in re.finditer(r"-?\d+\.?\d*(e-?\d+)?", text)])
        text = text[:first] + random.choice(TOKENS) + text[last:]
    path = tmp_path_factory.mktemp("damaged") / "run"
    path.write_text(text)
    try:
        found = calibrate_run(read_server_log(path), remote_prefill=not prefill)
    except FluidServeError as wrong:
        assert "\n" not in str(wrong)
    else:
        assert np.isfinite(found.law.value[0])


def test_several_engines_are_told_apart(log):
    times, metrics = decode_node(300, 0.0).metrics(1.0, CAPACITY)
    both = exposition(times, metrics, labels='engine="0"') + exposition(
        times, metrics, labels='engine="1"'
    )
    with pytest.raises(WorkloadError, match=r"--engine .of: 0, 1"):
        log(both)
    assert len(log(both, engine="1")) == len(times)


def test_failed_requests_are_dropped_and_counted(log):
    served = decode_node(300, 0.0)
    content = json.loads(served.bench_json())
    content["errors"][7] = "timeout"
    content["output_lens"][7], content["itls"][7] = 0, []
    found = calibrate_run(log(json.dumps(content)), remote_prefill=True)
    assert found.dropped["failed requests"] == 1
    assert found.law.value[0] == pytest.approx(DECODE_NODE[0], rel=0.02)


@pytest.fixture
def runs():
    root = Path(__file__).resolve().parents[2]
    folder = Path(os.environ.get("FLUIDSERVE_SHARED", root.parent / "shared")) / "data"
    if not folder.is_dir():
        pytest.skip("no shared data: set FLUIDSERVE_SHARED")
    return folder


@pytest.mark.slow
def test_a_real_run_gives_the_kernels_cost_of_kv(runs):
    """Kernels of the same model and card: d_kv 9.07e-8 s/token, d_0 11.1 ms without CPU gaps."""
    name = "runs/vllm019_sharegpt/RTXPRO6000_Llama-3.1-8B_requests.csv"
    found = calibrate_run(read_server_log(runs / name))
    law = dict(zip(COEFFICIENTS, found.law.value, strict=True))
    assert law["d_kv"] == pytest.approx(9.07e-8, rel=0.05)
    assert 0.0111 < law["d_0"] < 0.0145
    assert found.held_out is not None and found.held_out.mape < 0.02


@pytest.mark.slow
def test_a_real_run_on_an_h100_is_known_to_one_percent(runs):
    found = calibrate_run(
        read_server_log(runs / "runs/vllm011_h100/jan21-llama7b-train-1_requests.csv")
    )
    assert found.held_out is not None and found.held_out.mape < 0.01
    assert found.law.identified("d_0") and found.law.identified("d_kv")
