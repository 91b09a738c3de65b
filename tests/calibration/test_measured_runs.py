"""Measured runs are read with their settings, and refused in one line where they cannot be."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace

import numpy as np
import pytest

from calibration.measured_runs import read_measured_run
from calibration.measured_runs.law_terms import Terms, least, parts
from calibration.measured_runs.run import repeated_prompts
from discrete import simulate
from serving import BatchTimeLaw, FileAccessError, WorkloadError
from tests.references.measured import LAW, SERVER, workload, write_run

HEAD = "arrival_s,prompt_tokens,output_tokens,ttft_s,e2e_s,failed\n"


def test_a_run_is_read_with_the_settings_beside_it(tmp_path):
    table = workload(1, 120, 4.0, prompts=12)
    path = write_run(tmp_path, "one", table, front_end=0.01)
    run = read_measured_run(path)
    assert run.name == "one" and len(run) == 120 and run.succeeded.all()
    assert run.server.settings == {
        "max_num_seqs": 64, "max_num_batched_tokens": 2048, "num_gpu_blocks": 4000,
    }  # fmt: skip
    assert run.server.vllm_version == "0.19.0"
    np.testing.assert_array_equal(run.prompt_tokens, table.prefill_length)
    assert run.prompts == 12 and "after 12 requests" in run.notes[-1]
    assert np.isinf(run.timeout)


def test_requests_that_failed_have_no_latency_and_tell_when_clients_gave_up(tmp_path):
    text = HEAD + "0,100,30,0.5,2.5,0\n1,0,0,,300.4,1\n2,90,20,0.4,1.5,0\n3,0,0,,300.9,1\n"
    (tmp_path / "x_requests.csv.gz").write_bytes(gzip.compress(text.encode()))
    run = read_measured_run(tmp_path)
    assert run.succeeded.tolist() == [True, False, True, False]
    assert run.timeout == pytest.approx(300.65)
    assert run.waited is not None and run.waited[3] == 300.9
    assert np.isnan(run.e2el[1]) and np.isnan(run.ttft[3])


def test_an_index_tells_settings_and_conversations(tmp_path):
    rows = "".join(f"{k},{100},{30},0.5,2.5,0\n" for k in range(4))
    (tmp_path / "x_requests.csv").write_text(HEAD + rows)
    (tmp_path / "index.csv").write_text(
        "run,model,hardware,tp,max_num_seqs,num_gpu_blocks,system_prompts,users_per_system_prompt\n"
        "x,meta-llama/Llama-2-7b-hf,H100,2,128,7462,11,4\n"
    )
    run = read_measured_run(tmp_path / "x")
    assert (run.server.model, run.server.hardware, run.server.tp) == (
        "meta-llama/Llama-2-7b-hf", "H100", 2,
    )  # fmt: skip
    assert run.server.settings == {"max_num_seqs": 128, "num_gpu_blocks": 7462}
    assert run.prompts == 44 and "11 system prompts x 4 users" in run.notes[0]


def test_a_bundle_and_the_flags_of_a_client_are_read(tmp_path):
    rows = [
        {"input_toks": 50, "output_toks": 20, "arrival_time": k, "queued_ts": 5.0 + k,
         "first_token_ts": 5.1 + k, "last_token_ts": 6.0 + k}
        for k in range(3)
    ]  # fmt: skip
    (tmp_path / "requests.jsonl").write_text("\n".join(map(json.dumps, rows)))
    start = {
        "engine_kwargs": {"model": "a/b", "data_parallel_size": 2, "max_num_seqs": 8},
        "kv_cache": {"num_gpu_blocks": 77}, "hardware": "H100",
    }  # fmt: skip
    (tmp_path / "meta.json").write_text(json.dumps(start))
    (tmp_path / "timeseries.csv").write_text("t,running,waiting\n1,3,0\n2,1,0\n")
    run = read_measured_run(tmp_path)
    assert run.server.replicas == 2 and run.server.settings["num_gpu_blocks"] == 77
    assert run.series is not None and run.series.values["running"].tolist() == [3, 1]
    flags = (
        "--max-concurrency 20 --prefix-repetition-prefix-len 64 --prefix-repetition-num-prefixes 6"
    )
    (tmp_path / "meta.json").write_text(json.dumps({"bench_flags": flags}))
    run = read_measured_run(tmp_path)
    assert (run.max_concurrency, run.prompts, run.shared_prefix) == (20, 6, 64)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (HEAD + "0,100,30,0.5,2.5,2\n", "failed"),
        (HEAD + "0,100,30,0.5,0.2,0\n", "before the first"),
        (HEAD + "0,0,30,0.5,2.5,0\n", "prompt_tokens"),
        (HEAD + "0,100,30.5,0.5,2.5,0\n", "whole number"),
        (HEAD + "0,100,30,,2.5,0\n", "ttft_s"),
        (HEAD + "0,0,0,,300,1\n", "no request that completed"),
        ("arrival_s,prompt_tokens,failed\n0,1,0\n", "a column is missing"),
    ],
)
def test_a_damaged_run_is_refused_with_its_place(tmp_path, text, words):
    path = tmp_path / "x_requests.csv"
    path.write_text(text)
    with pytest.raises(WorkloadError, match=words) as refusal:
        read_measured_run(path)
    assert "x_requests.csv" in str(refusal.value)


def test_of_several_runs_one_must_be_named(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}_requests.csv").write_text(HEAD + "0,100,30,0.5,2.5,0\n")
    with pytest.raises(FileAccessError, match="2 runs"):
        read_measured_run(tmp_path)
    with pytest.raises(FileAccessError, match="runs there: a, b"):
        read_measured_run(tmp_path / "c")
    with pytest.raises(FileAccessError, match="holds no run"):
        (tmp_path / "empty").mkdir()
        read_measured_run(tmp_path / "empty")


def test_prompts_repeat_only_where_lengths_show_it():
    rng = np.random.default_rng(1)
    once = rng.integers(100, 200, 25)
    assert repeated_prompts(np.tile(once, 8)) == 25
    holes = np.tile(once, 8)
    holes[::3] = 0
    assert repeated_prompts(holes) == 25
    assert repeated_prompts(rng.integers(100, 200, 400)) is None
    assert repeated_prompts(np.full(400, 100)) is None  # one length says nothing
    assert repeated_prompts(np.tile(once, 2)) is None  # too few pairs


TABLE_LAW = BatchTimeLaw(
    d_0=0.001, d_decode=1e-5, d_kv=2e-8, d_decode_table=((0, 0.010), (10, 0.012), (60, 0.013)),
    d_prefill_table=((0, 0.014), (500, 0.020), (2048, 0.1)), d_mixed_decode=1e-6,
)  # fmt: skip


CORRECTION = Terms(0.002, 1.3, 0.7, 1.2, np.array([1e-6, 2e-6, 0.0, 3e-6]))


@pytest.mark.parametrize("law", [LAW, TABLE_LAW])
def test_durations_are_linear_in_a_correction(law):
    """The features of steps, timed by the law or by a corrected one, give the corrected law."""
    table = workload(2, 250, 60.0, prompts=60)
    for terms in (Terms.nothing(30), CORRECTION):
        timed_by = terms.corrected(law)
        steps = simulate(table, replace(SERVER, batch_time=timed_by)).batches
        features, rest = parts(law, terms, steps)
        np.testing.assert_allclose(features @ terms.values() + rest, steps["batch_duration"],
                                   rtol=1e-9)  # fmt: skip
        ran = np.asarray(steps["batch_duration"]) > 0
        decode, context, prefill = (
            np.asarray(steps[f"{name}_tokens"])[ran] for name in ("decode", "context", "prefill")
        )
        other = Terms.of(CORRECTION.values() * [-0.5, 0.6, 1.1, 0.9, 1, 0, 2, 3])
        wanted = other.corrected(law).step_duration(decode, context, prefill)
        same = np.ones(decode.size, bool)
        if law is LAW:  # a step that another correction finds on the other side of the bend
            tokens = decode + prefill
            same = (prefill == 0) | (terms.multiplies(law, tokens) == other.multiplies(law, tokens))
            assert 0.8 < same.mean()
            assert (same & (prefill > 0) & terms.multiplies(law, tokens)).any()
            assert (same & (prefill > 0) & ~terms.multiplies(law, tokens)).any()
        assert (prefill > 0).any() and (prefill == 0).any() and decode.max() > 30
        timed = (features @ other.values() + rest)[ran]
        np.testing.assert_allclose(timed[same], wanted[same], rtol=1e-9)


def test_no_correction_changes_nothing_and_the_least_one_is_a_law():
    for law in (LAW, TABLE_LAW):
        same = Terms.nothing(200).corrected(law)
        for decode, context in ((1, 100), (50, 9000), (300, 70000)):
            assert same.duration(context + decode, decode) == pytest.approx(
                law.duration(context + decode, decode), rel=1e-12
            )
        terms = Terms.nothing(200)
        smallest = Terms.of(least(law, terms)).corrected(law)
        assert 0 < smallest.duration(1, 1) < law.duration(1, 1)
        assert smallest.duration(100, 100) >= smallest.duration(1, 1)
