"""Results in the forms of other projects: a run, written, read again by us and by the rules."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from bench_serve_reference import GOLDEN, metrics

import fluidserve as fs
from calibration.server_runs import calibrate_run, read_server_log
from discrete.decode_node.log import DecodeNodeLog

NODE = ("--M-total", 3000, "--B", "none", "--d-0", 0.02, "--d-decode", 0.0004, "--d-kv", 2e-6)
DRAWN = ("--num-requests", 120, "--seed", 3, "--no-verbose")
KEYS = json.loads(GOLDEN.read_text(encoding="utf-8"))


def simulate(run, *given, unit="s", node=NODE):
    done = run("simulate", *DRAWN, *node, "--time-unit", unit, *given)
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def read(name="b.json"):
    with open(name) as file:
        return json.load(file)


def as_notes(written):
    """Return the lists of a detailed result as the notes that the plain reading takes."""
    columns = {
        "prompt_len": "input_lens", "output_tokens": "output_lens", "ttft": "ttfts", "itl": "itls",
        "latency": "latencies", "start": "start_times", "error": "errors",
    }  # fmt: skip
    lists = zip(*(written[key] for key in columns.values()), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in lists]


def test_the_keys_are_those_of_vllm_in_its_order(run):
    simulate(run, "--bench-json", "b.json", "--save-detailed")
    written = list(read())
    latencies = [f"{s}_{n}_ms" for n in ("ttft", "tpot", "itl", "e2el")
                 for s in ("mean", "median", "std", "p99")]  # fmt: skip
    assert written == [*KEYS["keys"], *latencies]
    simulate(run, "--bench-json", "b.json", "--percentile-metrics", "ttft", "--metric-percentiles",
             "5,99.9")  # fmt: skip
    short = [key for key in KEYS["keys"] if key not in KEYS["detailed"]]
    stats = ("mean", "median", "std", "p5", "p99.9")
    assert list(read()) == [*short, *(f"{s}_ttft_ms" for s in stats)]


@pytest.mark.parametrize("given", [(), ("--until", 3), ("--M-total", 400, "--mode", "sacrifice")])
@pytest.mark.parametrize("unit", ["s", "ms"])
def test_the_numbers_follow_from_the_lists_by_the_rules_of_vllm(run, unit, given):
    """The lists are the notes of a client: the plain reading of them gives every number."""
    node = NODE if unit == "s" else (*NODE[:4], "--d-0", 20, "--d-decode", 0.4, "--d-kv", 2e-3)
    more = ("--until", 3000) if unit == "ms" and "--until" in given else given
    told = simulate(run, *more, "--bench-json", "b.json", "--save-detailed", "--goodput",
                    "ttft_ms:60", "--goodput", "e2el_ms:2000", unit=unit, node=node)  # fmt: skip
    written = read()
    goodput = {"ttft": 60.0, "e2el": 2000.0}
    expected = metrics(as_notes(written), written["duration"], goodput, (99.0,))
    for key, value in expected.items():
        assert written[key] == pytest.approx(value, rel=1e-9, abs=1e-9), key
    factor = {"s": 1.0, "ms": 1e-3}[unit]
    assert written["duration"] == pytest.approx(told["metrics"]["duration"] * factor)
    assert written["completed"] == told["metrics"]["completed"]
    assert written["num_prompts"] == 120 and written["request_rate"] == pytest.approx(
        told["workload"]["mean_arrival_rate"] / factor
    )
    assert 0 < written["request_goodput"] < written["request_throughput"]
    if not given:  # everyone has finished: the run's own metrics are of the same requests
        for key in ("mean_ttft_ms", "std_e2el_ms", "p99_tpot_ms", "mean_itl_ms", "std_itl_ms"):
            assert written[key] == pytest.approx(told["metrics"][key], rel=1e-9), key
        assert written["failed"] == 0
    if "--until" in given:
        assert 0 < written["failed"] < 120 == written["num_prompts"]
        assert {*written["errors"]} == {"", "not answered when the run ended"}
    if "--mode" in given:
        assert told["metrics"]["recompute_waste"] > 0


@pytest.mark.parametrize("memory", [(), ("--M-total", 400, "--mode", "sacrifice")])
def test_the_lists_are_the_rows_of_the_request_file(run, memory):
    until = 20 if memory else 3  # the small memory fills later
    line = ("--until", until, *memory, "--bench-json", "b.json", "--save-detailed", "--out", "x")
    simulate(run, *line)
    with open("x/request_traces.csv") as file:
        rows = [row for row in csv.DictReader(file) if float(row["arrival_time"]) <= until]
    written = read()
    sent = len(rows)
    assert 0 < sent < 120
    for key in KEYS["detailed"]:
        assert len(written[key]) == sent
    for at, row in enumerate(rows):
        arrival, first, done = (
            float(row[key]) for key in ("arrival_time", "first_token_time", "completion_time")
        )
        assert written["start_times"][at] == arrival
        assert written["input_lens"][at] == int(row["prefill_length"])
        if np.isnan(done):
            assert written["errors"][at] and written["output_lens"][at] == 0
            assert written["latencies"][at] == 0
            assert written["ttfts"][at] == (0 if np.isnan(first) else first - arrival)
        else:
            assert written["latencies"][at] == done - arrival and not written["errors"][at]
            assert written["output_lens"][at] == int(row["decode_length"])
            # a token that is decoded anew after a sacrifice is not sent again
            assert len(written["itls"][at]) == written["output_lens"][at] - 1
            assert written["ttfts"][at] == first - arrival
            assert first + sum(written["itls"][at]) == pytest.approx(done)
    assert any(int(row["sacrifice_count"]) for row in rows) == bool(memory)


def test_our_own_readers_read_it(run):
    told = simulate(run, "--bench-json", "b.json", "--save-detailed", "--out", "x")
    requests = fs.read_trace("b.json").requests
    with open("x/requests.csv") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["prefill_length"]) for row in rows] == requests.prefill_length.tolist()
    assert [int(row["decode_length"]) for row in rows] == requests.decode_length.tolist()
    arrivals = np.array([float(row["arrival_time"]) for row in rows])
    assert requests.arrival_time == pytest.approx(arrivals - arrivals[0], abs=1e-9)
    log = read_server_log("b.json")
    assert 1e3 * np.mean(log.finish - log.arrival) == pytest.approx(told["metrics"]["mean_e2el_ms"])
    found = calibrate_run(log, remote_prefill=True).coefficients()
    given = dict(zip(NODE[4::2], NODE[5::2], strict=True))
    for flag, value in given.items():
        key = flag.removeprefix("--").replace("-", "_")
        assert found[key]["value"] == pytest.approx(value, rel=0.02), key


def test_a_vllm_server_is_written_and_its_law_is_found_again(run):
    law = {"d_0": 0.02, "d_prefill": 1e-4, "d_decode": 4e-4, "d_kv": 5e-6}
    flags = [x for key, value in law.items() for x in (f"--{key.replace('_', '-')}", value)]
    done = run(
        "simulate", "--engine", "vllm_v1", "--num-gpu-blocks", 2000, "--no-enable-prefix-caching",
        "--max-num-batched-tokens", 2048, "--num-requests", 300, "--arrival-rate", 8,
        "--no-verbose", *flags, "--bench-json", "b.json", "--save-detailed", "--llmd-report",
        "r.json",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    written, report = read(), read("r.json")
    expected = metrics(as_notes(written), written["duration"], {}, (99.0,))
    assert expected.pop("request_goodput") is written["request_goodput"] is None
    for key, value in expected.items():
        assert written[key] == pytest.approx(value, rel=1e-9, abs=1e-9), key
    check(report, TREE)
    found = calibrate_run(read_server_log("b.json")).coefficients()
    for key, value in law.items():
        assert found[key]["value"] == pytest.approx(value, rel=0.1), key


def test_a_replayed_file_has_no_rate_and_a_named_model_its_name(run):
    with open("r.csv", "w") as file:
        file.write("arrival_time,prefill_length,decode_length\n0.5,20,30\n1.5,10,1\n")
    line = ("simulate", "--engine", "decode_node", "--requests", "r.csv",
            "--model", "Llama-3.1-8B", "--hardware", "RTX4090")  # fmt: skip
    assert run(*line, "--bench-json", "b.json", "--llmd-report", "r.json").exit_code == 0
    written, report = read(), read("r.json")
    assert written["request_rate"] == "inf" and written["burstiness"] == 1.0
    assert written["model_id"].endswith("Llama-3.1-8B") and written["backend"] == "fluidserve"
    assert written["request_goodput"] is None and written["completed"] == 2
    (component,) = report["scenario"]["stack"]
    assert component["standardized"]["model"]["name"] == written["model_id"]
    assert component["standardized"]["role"] == "decode"
    load = report["scenario"]["load"]["standardized"]
    assert "rate_qps" not in load and load["source"] == "sampled"
    assert "prefill is left out" in report["run"]["description"]
    tpot = report["results"]["request_performance"]["aggregate"]["latency"]["time_per_output_token"]
    assert tpot["min"] == tpot["max"] == pytest.approx(written["mean_tpot_ms"])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--bench-json", "b.json", "--time-unit", "none"), "--bench-json.*--time-unit s | ms"),
        (("--llmd-report", "b.json", "--time-unit", "none"), "--llmd-report.*--time-unit s | ms"),
        (("--save-detailed",), "--save-detailed needs --bench-json"),
        (("--percentile-metrics", "ttft"), "--percentile-metrics needs --bench-json"),
        (("--metric-percentiles", "50"), "--metric-percentiles needs --bench-json"),
        (("--bench-json", "b.json", "--percentile-metrics", "ttft,ttfb"), "ttft,tpot,itl,e2el"),
        (("--bench-json", "b.json", "--metric-percentiles", "50,101"), "from 0 to 100"),
        (("--bench-json", "b.json", "--metric-percentiles", "50,,99"), "from 0 to 100"),
        (("--bench-json", "b.json", "--goodput", "queue_delay:1"), "ttft, tpot, e2el"),
        (("--bench-json", "b.json", "--llmd-report", "./b.json"), "--bench-json.*another option"),
        (("--llmd-report", "b.json", "--save-state", "b.json"), "--llmd-report.*another option"),
        (("--bench-json", "nowhere/b.json"), "nowhere/b.json: cannot be written"),
        (("--llmd-report", "nowhere/b.json"), "nowhere/b.json: cannot be written"),
    ],
)
def test_what_cannot_be_written_is_refused_before_the_work(run, tmp_path, given, said):
    done = run("simulate", *DRAWN, *NODE, "--time-unit", "s", "--out", "x", *given)
    assert done.exit_code == 2 and len(done.stderr.splitlines()) == 1
    assert all(word in done.stderr for word in said.split(".*"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flag", ["--bench-json", "--llmd-report"])
def test_the_file_that_is_read_is_not_written_over(run, tmp_path, flag):
    text = "arrival_time,prefill_length,decode_length\n0.5,20,30\n"
    (tmp_path / "r.csv").write_text(text)
    done = run("simulate", "--requests", "r.csv", "--time-unit", "s", *NODE, flag, "r.csv")
    assert done.exit_code == 2 and "r.csv: is the file that is read" in done.stderr
    assert (tmp_path / "r.csv").read_text() == text


def test_a_run_that_goes_on_from_a_state_writes_the_requests_of_both_parts(run):
    simulate(run, "--bench-json", "whole.json", "--save-detailed")
    simulate(run, "--save-state", "s.npz", "--until", 2)
    done = run("simulate", "--resume", "s.npz", "--bench-json", "b.json", "--save-detailed")
    assert done.exit_code == 0, done.stderr
    told = {"date", "request_rate", "burstiness"}  # a state does not say how requests were drawn
    whole, both = read("whole.json"), read()
    assert both["request_rate"] == "inf"
    assert all(both[key] == whole[key] for key in whole if key not in told)


# --- llm-d Benchmark Report -----------------------------------------------------------------------

STATISTIC = {"mode", "stddev", "min", "p0p1", "p1", "p5", "p10", "p25", "p50", "p75", "p90", "p95",
             "p99", "p99p9", "max"}  # fmt: skip
"""Numbers that a statistic may have besides its units and its mean, which it must have."""

PER_TOKEN, TIME = {"ms/token", "s/token"}, {"ms", "s"}
UNITS = {
    "input_length": {"count"}, "output_length": {"count"},
    "time_to_first_token": TIME, "request_latency": TIME,
    "normalized_time_per_output_token": PER_TOKEN, "time_per_output_token": PER_TOKEN,
    "inter_token_latency": PER_TOKEN,
    "input_token_rate": {"tokens/s"}, "output_token_rate": {"tokens/s"},
    "total_token_rate": {"tokens/s"}, "request_rate": {"queries/s"},
    "running_requests": {"count"}, "waiting_requests": {"count"}, "swapped_requests": {"count"},
    "kv_cache_usage": {"percent", "fraction"}, "cache_hit_rate": {"percent", "fraction"},
}  # fmt: skip
"""Units that the schema allows for each statistic that we write."""

TREE = {
    "version": str,
    "run": {"uid": str, "time": {"duration": str}, "description": str, "keywords": list},
    "scenario": {
        "stack": list,
        "load": {
            "metadata": {"cfg_id": str},
            "standardized": {
                "tool": str, "tool_version": str, "source": str, "rate_qps": float,
                "input_seq_len": {"distribution": str, "value": float, "min": int, "max": int},
                "output_seq_len": {"distribution": str, "value": float, "min": int, "max": int},
            },
            "native": {"config": dict},
        },
    },
    "results": {
        "request_performance": {
            "aggregate": {
                "requests": {"total": int, "failures": int, "incomplete": int,
                             "input_length": "statistic", "output_length": "statistic"},
                "latency": dict.fromkeys(
                    ("time_to_first_token", "normalized_time_per_output_token",
                     "time_per_output_token", "inter_token_latency", "request_latency"),
                    "statistic",
                ),
                "throughput": dict.fromkeys(
                    ("input_token_rate", "output_token_rate", "total_token_rate", "request_rate"),
                    "statistic",
                ),
            }
        },
        "observability": {"components": list},
    },
}  # fmt: skip
"""Our reading of the part of the schema of v0.2 that we write: keys, and types of the values."""


def check(value, schema, name="report"):
    """Hold a part of a report against a part of the schema; keys that it lacks are forbidden."""
    if schema == "statistic":
        assert value["units"] in UNITS[name], name
        assert set(value) - STATISTIC == {"units", "mean"}, name
        assert all(isinstance(each, float) for key, each in value.items() if key != "units"), name
        order = [key for key in ("min", *(k for k in value if k[0] == "p"), "max") if key in value]
        assert [value[key] for key in order] == sorted(value[key] for key in order), name
    elif isinstance(schema, dict):
        assert set(value) <= set(schema), name
        for key, each in value.items():
            check(each, schema[key], key)
    else:
        assert type(value) is schema, name


def test_the_report_of_llmd_follows_its_schema(run):
    told = simulate(run, "--llmd-report", "r.json", "--bench-json", "b.json", "--until", 3,
                    "--metric-percentiles", "1,50,99.9")  # fmt: skip
    report, bench = read("r.json"), read()
    check(report, TREE)
    assert report["version"] == "0.2"
    (component,) = report["scenario"]["stack"]
    assert set(component) == {"metadata", "standardized", "native"}
    assert {"label", "cfg_id"} <= set(component["metadata"])
    assert component["standardized"]["kind"] == "generic"  # no model and no card were named
    assert component["native"]["config"]["M_total"] == 3000
    (observed,) = report["results"]["observability"]["components"]
    assert observed["component_label"] == component["metadata"]["label"]
    for name, statistic in observed["aggregate"].items():
        check(statistic, "statistic", name)
    used = observed["aggregate"]["kv_cache_usage"]
    assert used["mean"] == pytest.approx(told["metrics"]["memory_utilization"])

    found = report["results"]["request_performance"]["aggregate"]
    assert found["requests"]["total"] == bench["completed"] + bench["failed"]
    assert found["requests"]["incomplete"] == bench["failed"]
    assert found["requests"]["failures"] == 0
    names = {"time_to_first_token": "ttft", "time_per_output_token": "tpot",
             "inter_token_latency": "itl", "request_latency": "e2el"}  # fmt: skip
    stats = {"mean": "mean", "stddev": "std", "p50": "median", "p1": "p1", "p99p9": "p99.9"}
    for theirs, ours in names.items():
        for stat, key in stats.items():
            written = bench[f"{key}_{ours}_ms"]
            assert found["latency"][theirs][stat] == pytest.approx(written, rel=1e-9)
    assert found["throughput"]["total_token_rate"]["mean"] == bench["total_token_throughput"]
    length = found["requests"]["output_length"]
    assert length["mean"] == pytest.approx(bench["total_output_tokens"] / bench["completed"])


def test_a_prefix_cache_is_in_the_metrics_and_in_the_report(run, monkeypatch):
    totals = DecodeNodeLog.totals
    monkeypatch.setattr(
        DecodeNodeLog, "totals", lambda log: totals(log) | {"prefix_cache_hit_rate": 0.25}
    )
    told = simulate(run, "--llmd-report", "r.json")
    assert told["metrics"]["prefix_cache_hit_rate"] == 0.25
    (observed,) = read("r.json")["results"]["observability"]["components"]
    check(observed["aggregate"]["cache_hit_rate"], "statistic", "cache_hit_rate")
    assert observed["aggregate"]["cache_hit_rate"]["mean"] == 0.25


def test_the_same_run_gives_the_same_report_and_another_seed_another(run):
    texts = []
    for seed in (1, 1, 2):
        simulate(run, "--llmd-report", "r.json", "--seed", seed)
        with open("r.json") as file:
            texts.append(file.read())
    assert texts[0] == texts[1]
    one, other = (json.loads(text)["run"]["uid"] for text in texts[1:])
    assert one != other


def test_a_run_in_which_nobody_was_answered_has_no_latencies(run):
    simulate(run, "--until", 0, "--llmd-report", "r.json", "--bench-json", "b.json")
    report, bench = read("r.json"), read()
    check(report, TREE)
    assert report["results"]["request_performance"]["aggregate"]["latency"] == {}
    assert bench["completed"] == 0 and bench["mean_ttft_ms"] == 0
