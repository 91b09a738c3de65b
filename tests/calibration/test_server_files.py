"""Files of load generators and of Prometheus: what is read, what is chosen, what is refused."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from time import process_time

import numpy as np
import pytest
from chunked_prefill_server import serve
from served import exposition
from server_files import EPOCH, aiperf, guidellm, inference_perf, llmservingsim

from calibration.server_runs import calibrate_run, read_server_log
from serving import FluidServeError, WorkloadError

LAW = np.array([0.0111, 4e-5, 6e-5, 9.07e-8])
CAPACITY = 60_000


@pytest.fixture(scope="module")
def served():
    rng = np.random.default_rng(2)
    long = (np.arange(160) // 20) % 2 == 1
    arrival = np.cumsum(rng.exponential(1, 160) * np.where(long, 0.5, 0.1))
    prompt = np.where(long, rng.integers(1500, 3000, 160), rng.integers(10, 200, 160))
    return serve(arrival, prompt, rng.integers(20, 200, 160), LAW)


@pytest.fixture
def log(tmp_path):
    def read(text, **options):
        path = tmp_path / "run"
        path.write_text(text)
        return read_server_log(path, **options)

    return read


WRITERS = {
    "inference-perf": (inference_perf, True),
    "inference-perf, nested": (
        lambda served: json.dumps([
            each | {"info": {
                "request_metrics": {"text": {"input_tokens": each["info"]["input_tokens"]}},
                "response_metrics": {key: each["info"][key] for key in
                                     ("output_tokens", "output_token_times")},
            }}
            for each in json.loads(inference_perf(served))
        ]),
        True,
    ),
    "guidellm": (lambda served: json.dumps(guidellm(served)), False),
    "aiperf": (aiperf, True),
    "aiperf as one list": (
        lambda served: json.dumps([json.loads(line) for line in aiperf(served).splitlines()]), True
    ),
    "LLMServingSim": (llmservingsim, False),
    "LLMServingSim, indented": (
        lambda served: "\n\n".join(
            json.dumps(json.loads(line), indent=1) for line in llmservingsim(served).splitlines()
        ),
        False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("writer", WRITERS)
def test_every_load_generator_gives_the_requests_and_the_law(served, log, writer):
    write, has_tokens = WRITERS[writer]
    found = log(write(served))
    assert found.arrival == pytest.approx(served.arrival - served.arrival[0], abs=1e-6)
    assert found.first_token - found.arrival == pytest.approx(
        [t[0] - a for t, a in zip(served.tokens, served.arrival, strict=True)], abs=1e-6
    )
    assert found.prompt_tokens.tolist() == served.prompt.tolist()
    assert found.output_tokens.tolist() == served.output.tolist()
    assert (found.inter_token is not None) == has_tokens
    law = calibrate_run(found).law
    assert law.value == pytest.approx(LAW, rel=0.02)


def test_an_indented_file_of_a_benchmark_is_found_by_its_content(served, log):
    content = json.dumps(json.loads(served.bench_json()), indent=2)
    assert len(log("\ufeff\n  " + content)) == 160


def test_failed_requests_are_left_out_and_counted(served, log):
    records = json.loads(inference_perf(served))
    records[3]["error"] = {"error_type": "timeout"}
    records[5]["info"] |= {"output_tokens": 0, "output_token_times": []}
    assert log(json.dumps(records)).dropped == {"failed requests": 1, "requests without output": 1}
    lines = aiperf(served).splitlines()
    lines[2] = json.dumps(
        {"metadata": {"was_cancelled": True}, "metrics": {}, "error": {"code": 1}}
    )
    assert log("\n".join(lines)).dropped == {"failed requests": 1}
    assert log(json.dumps(guidellm(served, total=160, failed=7))).dropped == {"failed requests": 7}


def test_a_sample_of_the_requests_is_refused(served, log):
    with pytest.raises(WorkloadError, match="holds 160 of 900 requests"):
        log(json.dumps(guidellm(served, total=900)))


def test_of_several_results_one_is_chosen(served, log):
    first, second = json.loads(served.bench_json()), json.loads(served.bench_json(0.5))
    text = "\n".join(json.dumps(each | {"request_rate": rate}) for each, rate in
                     ((first, 3), (second, "inf")))  # fmt: skip
    for several in (text, f"[{text.replace(chr(10), ',')}]"):
        with pytest.raises(WorkloadError, match=r"2 results.*--result \(1: request_rate 3; 2: "):
            log(several)
        with pytest.raises(WorkloadError, match="--result 3"):
            log(several, result=3)
        chosen = log(several, result=2)
        assert np.median(chosen.first_token - chosen.arrival) > 0.5
    assert len(log(json.dumps(first), result=1)) == 160
    benchmarks = guidellm(served)
    benchmarks["benchmarks"] = benchmarks["benchmarks"] * 2
    with pytest.raises(WorkloadError, match=r"2 benchmarks of guidellm.*1: constant rate 5"):
        log(json.dumps(benchmarks))
    assert len(log(json.dumps(benchmarks), result=2)) == 160


REFUSED = [
    (json.dumps({"load_summary": {}, "successes": {}}), ["per_request_lifecycle_metrics.json"]),
    (json.dumps({"request_latency": {"avg": 1}, "input_config": {}}), ["profile_export.jsonl"]),
    (json.dumps({"a": 1}), ["known are", "guidellm", "aiperf"]),
    (json.dumps({"request_throughput": 3}), ["input_lens", "--save-detailed"]),
    ('{"a": 1} {"a"', ["not JSON", "row 1"]),
    ("[" * 5000, ["too deep"]),
    ('{"input_lens": [' + "1" * 5000 + "]}", ["too long"]),
    (json.dumps([{"info": {"input_tokens": 3, "output_tokens": 2}, "start_time": 1}]),
     ["row 1", "output_token_times"]),
    (json.dumps([{"info": {"input_tokens": 3, "output_tokens": 2, "output_token_times": [2, 1]},
                  "start_time": 1}]), ["row 1", "times must not fall"]),
    ('{"metadata": {"request_start_ns": 1.5}, "metrics": {}}', ["request_start_ns", "1.5"]),
    ('{"metadata": {"request_start_ns": 1}, "metrics": {"ttft": {"value": 1, "unit": "h"}}}',
     ["ttft", "'h'", "ms"]),
    (json.dumps({"input_toks": 1, "output_toks": 2, "last_token_ts": 3, "first_token_ts": 2}),
     ["queued_ts"]),
    (json.dumps({"benchmarks": []}), ["benchmarks"]),
    (json.dumps({"benchmarks": [{"requests": {"successful": 3}}]}), ["successful", "3"]),
    ("arrival_s,first_token_s,finish_s,prompt_tokens,output_tokens\n0,1,2,1e300,5\n",
     ["row 1", "prompt tokens", "2^53"]),
    ("t_s,step_time_ms,prefill_tokens,decode_tokens,kv_tokens\n1,5,-3,1,9\n",
     ["row 1", "prefill_tokens", "-3"]),
    ("t_s,step_time_ms,prefill_tokens,decode_tokens\n1,5,0,1\n", ["kv_tokens", "missing"]),
    ("t_s,step_time_ms,prefill_tokens,decode_tokens,kv_tokens\n1,5e-324,3,1,9\n",
     ["row 1", "step_time_ms", "5e-324", "1e-9"]),  # 0 in seconds
    (json.dumps({"metadata": {"request_start_ns": 1}, "metrics": {
        "ttft": {"value": 1, "unit": "ms"}, "request_latency": {"value": 9, "unit": "ms"},
        "inter_chunk_latency": {"value": [2, 1e308], "unit": "ms"},
        "input_sequence_length": {"value": 1, "unit": "tokens"},
        "output_sequence_length": {"value": 3, "unit": "tokens"},
    }}), ["row 1", "times between outputs", "1e+305", "1e12"]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "words"), REFUSED)
def test_what_is_no_result_is_refused_by_what_is_missing(log, text, words):
    with pytest.raises(FluidServeError) as wrong:
        log(text)
    said = str(wrong.value)
    assert said.isprintable()
    for word in words:
        assert word in said, said


def test_a_clock_may_be_dates(served, log):
    zone = timezone(timedelta(hours=5, minutes=30))

    def date(seconds, own=UTC):
        return datetime.fromtimestamp(EPOCH + seconds, own).isoformat()

    lines = ["arrival_time,first_token_time,finish_time,input_len,output_len"]
    lines += [
        f"{date(a)},{date(t[0], zone)},{date(t[-1])},{p},{d}"
        for a, t, p, d in zip(
            served.arrival, served.tokens, served.prompt, served.output, strict=True
        )
    ]
    with pytest.raises(WorkloadError, match=r"row 2.*arrival_time"):  # one clock a column
        log("\n".join([lines[0], "5,2023-11-14T22:13:20+00:00,9,1,5", *lines[2:]]))
    found = log("\n".join(lines) + "\n")
    assert found.arrival == pytest.approx(served.arrival - served.arrival[0], abs=2e-6)
    assert found.finish == pytest.approx(
        np.array([t[-1] for t in served.tokens]) - served.arrival[0], abs=2e-6
    )


def test_scrapes_may_be_dated(served, log):
    times, metrics = served.metrics(1.0, CAPACITY)
    text = exposition(times, metrics, CAPACITY)
    plain = log(text)
    for form in ("%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M:%S+00:00"):
        dated = text
        for time in times:
            day = datetime.fromtimestamp(time + EPOCH, UTC).strftime(form)
            dated = dated.replace(f"# time {time + EPOCH:.3f}", f"# time {day}")
        found = log(dated)
        assert found.time == pytest.approx(plain.time)
        assert found.running.tolist() == plain.running.tolist()
    with pytest.raises(WorkloadError, match=r"row 1.*'2023-11-14T'"):
        log("# time 2023-11-14T\n" + text)


def test_the_stated_capacity_comes_before_blocks_times_their_size(served, log):
    times, metrics = served.metrics(1.0, CAPACITY)
    text = exposition(times, metrics, CAPACITY)
    mixed = text.replace('block_size="16"', f'block_size="4",kv_cache_size_tokens="{CAPACITY}"')
    assert log(mixed).kv_capacity == CAPACITY
    assert log(mixed.replace(f'kv_cache_size_tokens="{CAPACITY}"', 'x="None"')).kv_capacity == (
        CAPACITY / 4
    )
    one = f'num_gpu_blocks="{CAPACITY // 16}"'
    cut = text.rindex("# time") - 1
    restarted = text[:cut] + text[cut:].replace(one, 'num_gpu_blocks="9"')
    with pytest.raises(WorkloadError, match="several KV capacities"):
        log(restarted)


def of_engine(served, number, capacity, more=""):
    times, metrics = served.metrics(1.0, capacity)
    labels = f'engine="{number}",model_name="m"{more}'
    return exposition(times, metrics, capacity, labels=labels)


def test_the_engine_that_is_chosen_has_its_own_capacity(served, log):
    both = of_engine(served, 0, CAPACITY) + of_engine(served, 1, 2 * CAPACITY)
    assert log(both, engine="0").kv_capacity == CAPACITY
    assert log(both, engine="1").kv_capacity == 2 * CAPACITY
    with pytest.raises(WorkloadError, match=r"--engine \(of: 0, 1\)"):
        log(both)
    with pytest.raises(WorkloadError, match=r"--engine 7.*no series has it.*0, 1"):
        log(both, engine="7")


def test_engines_are_told_apart_by_any_label(served, log):
    both = of_engine(served, 0, CAPACITY, ',pod="a"') + of_engine(served, 0, CAPACITY, ',pod="b"')
    with pytest.raises(WorkloadError, match=r"--label pod=... \(of: a, b\)"):
        log(both)
    assert len(log(both, labels={"pod": "b"})) > 5
    with pytest.raises(WorkloadError, match=r"--label zone=x.*labels are: .*pod"):
        log(both, labels={"zone": "x"})
    # Two servers whose only difference is the model: each has its own share of KV in use.
    two = of_engine(served, 0, CAPACITY)
    two += two.replace('model_name="m"', 'model_name="n"')
    with pytest.raises(WorkloadError, match=r"--label model_name=... \(of: m, n\)"):
        log(two)


def test_adapters_of_one_engine_are_added(served, log):
    """A third of the requests uses an adapter, whose series begin after the first scrapes."""
    times, metrics = served.metrics(1.0, CAPACITY)
    divided = ("vllm:num_requests_running", "vllm:prompt_tokens_total",
               "vllm:generation_tokens_total")  # fmt: skip
    base = {key: v - v // 3 if key in divided else v for key, v in metrics.items()}
    late = np.flatnonzero(metrics["vllm:prompt_tokens_total"] // 3)[0]
    adapter = {key: metrics[key][late:] // 3 for key in divided}
    text = exposition(times, base, CAPACITY) + exposition(
        times[late:], adapter, labels='engine="0",model_name="sql-lora"'
    )
    found, whole = log(text), log(exposition(times, metrics, CAPACITY))
    for name in ("running", "prompt_tokens", "generation_tokens"):
        assert getattr(found, name).tolist() == getattr(whole, name).tolist(), name
    assert len(found.notes) == 3 and "by model_name, are added" in found.notes[0]


def test_a_gap_is_refused_or_left_out_and_counted(served, log):
    times, metrics = served.metrics(1.0, CAPACITY)
    text = exposition(times, metrics, CAPACITY)
    lines = text.splitlines()
    at = [row for row, line in enumerate(lines) if "kv_cache_usage_perc{" in line][7]
    lines[at] = lines[at].rpartition(" ")[0] + " NaN"
    with pytest.raises(WorkloadError, match=r"kv_cache_usage_perc.*'NaN'.*--skip-gaps"):
        log("\n".join(lines))
    found = log("\n".join(lines), skip_gaps=True)
    assert found.dropped == {"times at which a metric has no value": 1}
    assert len(found) == times.size - 1
    del lines[at]
    assert log("\n".join(lines)).dropped == {"times at which a metric has no value": 1}


def test_a_label_of_any_length_is_read_in_a_moment(served, log):
    """Each digit of a label name was once tried as its begin, so that this took minutes."""
    times, metrics = served.metrics(1.0, CAPACITY)
    text = exposition(times[:5], metrics, CAPACITY, labels=f'{"1" * 20_000}x,engine="0"')
    began = process_time()
    assert len(log(text)) == 5
    assert process_time() - began < 5
