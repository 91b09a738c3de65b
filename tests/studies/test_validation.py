"""A run that a known law made is predicted by it, and the law is found again from the run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from calibration import StepRows
from calibration.measured_runs import MeasuredRun, TimeSeries, read_measured_run
from discrete import engine_for, simulate
from ode import solve
from serving import FluidServeError, RequestTable, UnsupportedError
from studies.validation import Source, match_law, replay, replayed, validate
from studies.validation.fluid import found_share
from studies.validation.requests import contradicted
from tests.references.measured import BENT_SERVER, LAW, SERVER, workload, write_run

OFF = replace(LAW, d_0=0.009, d_decode=5e-5, d_prefill=4e-5)
"""A law as step times of kernels might give it."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def run(folder):
    return read_measured_run(
        write_run(folder, "one", workload(1, 400, 6.0, prompts=30), front_end=0.02)
    )


def test_the_law_that_made_a_run_predicts_it_exactly(run):
    found = validate(replayed(run), SERVER, front_end=0.02)
    for latency in found.scores["engine"].latencies.values():
        for score in latency.values():
            assert score.error == pytest.approx(0, abs=1e-9)
    for total in found.scores["engine"].totals.values():
        assert total.error == pytest.approx(0, abs=1e-9)
    assert found.scores["engine"].series["in_system"]["nrmse"] == pytest.approx(0, abs=1e-9)


def test_without_the_front_end_the_first_token_comes_early(run):
    found = validate(replayed(run), SERVER).scores["engine"].latencies
    early = found["ttft"]["mean"]
    assert early.measured - early.predicted == pytest.approx(0.02, abs=1e-9)
    assert found["tpot"]["mean"].error == pytest.approx(0, abs=1e-9)


@pytest.fixture(scope="module")
def bent(folder):
    """Two runs of a server whose steps with prefill are bound in two ways."""
    return [
        read_measured_run(write_run(folder, name, table, front_end=0.02, server=BENT_SERVER))
        for name, table in (
            ("bent one", workload(1, 400, 6.0, prompts=30)), ("bent two", workload(2, 500, 9.0)),
        )
    ]  # fmt: skip


def test_a_law_matched_to_one_run_predicts_another(bent):
    run, other = bent
    begin = replace(SERVER, batch_time=OFF)
    before = validate(replayed(run), begin).scores["engine"].latencies["tpot"]["mean"]
    matched = match_law([Source(replayed(other), begin)], OFF)
    assert matched.front_end == pytest.approx(0.02, abs=0.003)
    found = validate(
        replayed(run), replace(SERVER, batch_time=matched.law), front_end=matched.front_end
    )
    scores = found.scores["engine"].latencies
    assert abs(before.error) > 0.1
    assert abs(scores["tpot"]["mean"].error) < 0.005
    assert abs(scores["e2el"]["p99"].error) < 0.01
    assert abs(scores["ttft"]["mean"].error) < 0.05


def test_the_beginning_of_a_run_predicts_the_rest(bent):
    run, begin = bent[0], replace(SERVER, batch_time=OFF)
    matched = match_law([Source(replayed(run), begin, until=15.0)], OFF)
    found = validate(replayed(run), replace(SERVER, batch_time=matched.law), judged_from=15.0)
    assert found.judged.sum() == (run.arrival >= 15).sum() < len(run)
    assert abs(found.scores["engine"].latencies["tpot"]["mean"].error) < 0.01
    with pytest.raises(FluidServeError, match="at least 10"):
        match_law([Source(replayed(run), begin, until=1.0)], OFF)


def test_steps_and_seconds_of_a_server_tell_its_law_as_well(bent):
    """Steps that were timed, and the throughput of each second, correct a law like requests do."""
    rng = np.random.default_rng(1)
    requests = rng.integers(1, 60, 300).astype(float)
    context = requests * rng.uniform(200, 700, 300)
    time = LAW.step_duration(requests, context)
    steps = StepRows.of(requests, context, time)
    by_steps = match_law([], OFF, [steps])
    assert by_steps.law.step_duration(20, 9000) == pytest.approx(
        LAW.step_duration(20, 9000), rel=0.002
    )
    records = simulate(replayed(bent[1]).table, BENT_SERVER).client_records()
    seconds = np.arange(1.0, 41.0)
    produced = np.cumsum(records.outputs_per_second(40))
    series = TimeSeries(seconds, {"output_throughput": np.diff(produced, prepend=0).astype(float)})
    hidden = replace(bent[1], series=series)
    by_seconds = match_law([Source(replayed(hidden), SERVER, until=12.0)], OFF)
    assert by_seconds.law.step_duration(20, 9000) == pytest.approx(
        LAW.step_duration(20, 9000), rel=0.02
    )


def test_clients_that_give_up_do_so_in_the_replay(folder):
    by_chance = workload(3, 300, 40.0)
    alike = np.full(300, 300), np.full(300, 80)  # lengths of who failed are not in the run
    overload = RequestTable.validated(by_chance.arrival_time, *alike)
    server = replace(SERVER, max_num_seqs=16)
    path = write_run(folder, "late", overload, timeout=6.0, server=server)
    run = read_measured_run(path)
    assert 0.2 < run.succeeded.mean() < 0.9 and run.timeout == 6.0
    found = replayed(run)
    np.testing.assert_allclose(found.table.abort_time, run.arrival + 6.0)
    assert any("give up when they did" in each for each in found.assumptions)
    assert any("drawn" in each for each in found.assumptions)
    scores = validate(found, server).scores["engine"]
    assert scores.totals["completed"].error == 0
    assert scores.latencies["ttft"]["mean"].error == pytest.approx(0, abs=1e-9)
    patient = replace(found.table, abort_time=np.full(300, np.inf))
    waited = validate(replace(found, table=patient), server).scores["engine"]
    assert waited.totals["completed"].error > 0.1


def test_lengths_that_times_contradict_are_found_and_mended(run):
    short = run.output_tokens.copy()
    wrong = np.arange(5, 400, 40)
    short[wrong] = np.maximum(short[wrong] // 3, 1)
    damaged = replace(run, output_tokens=short)
    assert set(np.flatnonzero(contradicted(damaged))) == set(wrong)
    found = replayed(damaged, mend_lengths=True)
    usual = int(np.median(np.delete(run.output_tokens, wrong)))
    assert set(found.table.decode_length[wrong]) == {usual}
    assert any(f"{wrong.size} of 400 answers" in each for each in found.assumptions)
    assert not contradicted(run).any()


def test_replicas_share_the_requests_in_turn(folder):
    table = workload(4, 200, 8.0)
    path = write_run(folder, "half", table)
    run = read_measured_run(path)
    two = validate(replayed(run), SERVER, replicas=2).predicted["engine"]
    halves = [
        validate(replayed(read_measured_run(write_run(folder, f"part{k}", table.take(
            np.arange(k, 200, 2))))), SERVER).predicted["engine"]
        for k in range(2)
    ]  # fmt: skip
    for k, half in enumerate(halves):
        np.testing.assert_allclose(two.ttft[k::2], half.ttft, atol=1e-9)
        np.testing.assert_allclose(two.e2el[k::2], half.e2el, atol=1e-9)


def test_a_client_that_waits_for_answers_is_replayed_so():
    """Requests of a closed loop come when others end, by the engine and not by the file."""
    table = workload(5, 120, 1e6)
    together = RequestTable.validated(np.zeros(120), table.prefill_length, table.decode_length)
    engine = engine_for(together, SERVER, max_concurrency=8)
    engine.advance()
    records = engine.run().requests
    sent, first, last = (
        np.asarray(records[name])
        for name in ("arrival_time", "first_token_time", "completion_time")
    )
    assert (np.diff(sent) >= 0).all() and sent[-1] > 1
    run = MeasuredRun(
        "closed", sent, table.prefill_length, table.decode_length, first - sent, last - sent,
        max_concurrency=8,
    )  # fmt: skip
    scores = validate(replayed(run), SERVER).scores["engine"]
    assert scores.latencies["e2el"]["p99"].error == pytest.approx(0, abs=1e-9)
    assert scores.totals["makespan"].error == pytest.approx(0, abs=1e-9)
    slower = replace(SERVER, batch_time=replace(LAW, d_0=0.024))
    scores = validate(replayed(run), slower).scores["engine"]
    assert scores.totals["makespan"].error > 0.5
    with pytest.raises(UnsupportedError, match="closed loop"):
        validate(replayed(run), SERVER, replicas=2)


def test_tokens_per_second_are_those_that_the_client_counts(run):
    grid = np.arange(1.0, 61.0)
    predicted, runs = replay(replayed(run), SERVER, 1, grid)
    counted = runs[0].client_records().outputs_per_second(60)
    off = np.abs(predicted.series["output_throughput"] - counted)
    assert counted.sum() > 10_000
    # a step that runs beyond an unknown stop token brings none: one per request
    assert off.sum() < len(run) + 60


def test_the_fluid_model_is_held_against_a_run_beside_the_engine(run):
    found = validate(replayed(run), SERVER, models=("engine", "fluid"), front_end=0.02)
    scores = found.scores["fluid"]
    table = found.requests.table
    node = replace(SERVER, prefix_hit_share=found_share(table, 16))
    alone = solve(table.rate_profile(), table.mix(), node, approximate=True).metrics()
    for name in ("ttft", "e2el"):
        predicted = alone.latencies[name].mean + 0.02
        assert scores.latencies[name]["mean"].predicted == pytest.approx(predicted, rel=1e-9)
    assert scores.totals["completed"].predicted == pytest.approx(len(table), rel=1e-3)
    engine = simulate(table, SERVER).totals()
    assert found_share(table, 16) == pytest.approx(engine["prefix_cache_hit_rate"], abs=0.01)
    one = validate(replayed(run), SERVER, models=("one_node",), front_end=0.02).scores["one_node"]
    for name, most in (("ttft", 0.1), ("tpot", 0.05), ("e2el", 0.05)):
        ours, theirs = (each.latencies[name]["mean"].predicted for each in (one, scores))
        assert ours == pytest.approx(theirs, rel=most), name
    assert one.totals["completed"].predicted == len(table)
    impatient = replace(found.requests, table=replace(table, abort_time=table.arrival_time + 9))
    with pytest.raises(UnsupportedError, match="give up"):
        validate(impatient, SERVER, models=("fluid",))
    with pytest.raises(UnsupportedError, match="give up"):
        validate(impatient, SERVER, models=("one_node",))
    slow = replace(SERVER, batch_time=SERVER.batch_time.scaled(0.001))
    with pytest.raises(UnsupportedError, match="no equilibrium from 0 to"):
        validate(replayed(run), slow, models=("one_node",))
    with pytest.raises(UnsupportedError, match="single requests"):
        validate(replayed(run), SERVER, models=("fluid",), judged_from=5.0)
