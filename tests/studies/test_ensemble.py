"""Replications: what each draws, what is kept of them, and that workers change nothing."""

from __future__ import annotations

import json
import multiprocessing
import operator
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from discrete import simulate
from serving import (
    LATENCIES,
    OUTPUTS,
    ConfigError,
    DecodeNode,
    Distribution,
    RequestTable,
    WorkloadError,
)
from studies import Question, Replications, run_ensemble
from studies.comparison.replicate import Sampling, condensed, replicate
from studies.pool import WorkerLost, worker_pool
from workload import describe, generate

NODE = DecodeNode()
WORKLOAD = describe("normal", arrival_rate=0.1)


def same(one, other) -> bool:
    mine, others = one.arrays(), other.arrays()
    return mine.keys() == others.keys() and all(
        mine[name].tobytes() == others[name].tobytes() for name in mine
    )


def asked(source=WORKLOAD, **length) -> Question:
    return Question(source, NODE, seed=7, **length)


def test_replications_of_a_file_keep_its_times_and_deal_out_its_rows():
    table = generate(num_requests=60, seed=3)
    drawn = [asked(table).replication(r) for r in range(4)]
    assert same(drawn[0], table)
    for each in drawn[1:]:
        assert (each.arrival_time == table.arrival_time).all()
        rows = sorted(zip(each.prefill_length, each.decode_length, strict=True))
        assert rows == sorted(zip(table.prefill_length, table.decode_length, strict=True))
    assert not same(drawn[1], table) and not same(drawn[1], drawn[2])


def test_replications_of_a_workload_are_draws_of_their_own_over_one_horizon():
    ensemble = run_ensemble(asked(num_requests=40), Replications(1))
    first = WORKLOAD.sample(7, num_requests=40)
    assert same(ensemble.requests, first) and ensemble.horizon == first.horizon
    each = asked(horizon=first.horizon)
    second, third = each.replication(1), each.replication(2)
    assert second.horizon <= first.horizon and not same(second, third)
    assert same(second, each.replication(1))


@pytest.mark.parametrize("source", [WORKLOAD, generate(num_requests=50, seed=1)])
@pytest.mark.parametrize("workers", [2, 3])
def test_workers_change_no_bit(source, workers):
    length = {} if isinstance(source, RequestTable) else {"num_requests": 50}
    ensembles = [
        run_ensemble(Question(source, NODE, **length), Replications(9, workers=each, points=100))
        for each in (1, workers)
    ]
    one, other = ensembles
    for name in OUTPUTS:
        for part in ("mean", "sd", "low", "high"):
            values = [getattr(each, part).outputs[name].tobytes() for each in ensembles]
            assert values[0] == values[1]
    assert json.dumps(one.metrics.to_json()) == json.dumps(other.metrics.to_json())


def test_mean_spread_bands_and_metrics_are_those_of_the_runs():
    ensemble = run_ensemble(asked(num_requests=50), Replications(8, workers=1))
    each = asked(horizon=ensemble.horizon)
    runs = [simulate(ensemble.requests, NODE, seed=7)]
    runs += [simulate(each.replication(r), NODE, seed=7 + r) for r in range(1, 8)]
    for name in OUTPUTS:
        values = np.stack([run.trajectory()(name, ensemble.grid) for run in runs])
        assert ensemble.mean.outputs[name] == pytest.approx(values.mean(0), abs=1e-9)
        assert ensemble.sd.outputs[name] == pytest.approx(values.std(0, ddof=1), abs=1e-9)
        low, high = np.percentile(values, [5, 95], axis=0)
        assert ensemble.low.outputs[name] == pytest.approx(low, rel=1e-5, abs=1e-9)
        assert ensemble.high.outputs[name] == pytest.approx(high, rel=1e-5, abs=1e-9)
        error = values.std(0, ddof=1) / np.sqrt(8)
        assert ensemble.standard_error(name) == pytest.approx(error, abs=1e-9)
    for name in LATENCIES:
        parts = [run.samples().of(name) for run in runs]
        pooled = Distribution.of(*(np.concatenate(part) for part in zip(*parts, strict=True)))
        mine = ensemble.metrics.latencies[name]
        assert (mine.mean, mine.std) == pytest.approx((pooled.mean, pooled.std))
        assert dict(mine.percentiles) == pytest.approx(dict(pooled.percentiles))
        means = [v @ w / w.sum() for v, w in parts]
        assert ensemble.replication_means[name] == pytest.approx(means)
    totals = [run.metrics() for run in runs]
    assert ensemble.metrics.completed == pytest.approx(np.mean([m.completed for m in totals]))
    assert ensemble.metrics.duration == pytest.approx(np.mean([m.duration for m in totals]))


def test_goodput_is_the_mean_over_replications():
    ensemble = run_ensemble(asked(num_requests=50), Replications(5), goodput={"ttft": 3.0})
    each = asked(horizon=ensemble.horizon)
    drawn = [ensemble.requests, *(each.replication(r) for r in range(1, 5))]
    runs = [simulate(table, NODE).metrics({"ttft": 3.0}) for table in drawn]
    expected = np.mean([run.request_goodput for run in runs])
    assert ensemble.metrics.request_goodput == pytest.approx(expected) and expected > 0


def test_a_replication_in_which_nobody_arrives_counts_as_empty():
    rare = describe("normal", arrival_rate=1e-3)
    seed = next(s for s in range(99) if rare.sample(s, num_requests=1).horizon < 300)
    question = Question(rare, NODE, num_requests=1, seed=seed)
    ensemble = run_ensemble(question, Replications(12))
    assert 1 <= ensemble.metrics.completed * 12 < 12
    assert ensemble.replications == 12
    empty = Sampling(question.until(1e-6), np.linspace(0, 1e-6, 50), tuple(OUTPUTS))
    assert (replicate(empty, 1).values == 0).all()


def test_one_replication_has_no_spread_to_speak_of():
    ensemble = run_ensemble(asked(num_requests=10), Replications(1))
    assert np.isnan(ensemble.sd.outputs["waiting"]).all()
    assert (ensemble.low.outputs["waiting"] == ensemble.mean.outputs["waiting"]).all()


def test_replications_go_on_until_as_many_as_are_wanted():
    seen = []

    def wanted(mean, sd):
        seen.append((mean.shape, np.isfinite(sd).all()))
        return [1000.0, 100.0, 100.0][len(seen) - 1]

    question, kept = asked(num_requests=20), {"outputs": ("in_system",), "points": 10}
    ensemble = run_ensemble(question, Replications(500, wanted=wanted, **kept), drain=False)
    # 16, then no more than four times as many, then the hundred and a little.
    assert ensemble.replications == 105 and len(seen) == 3
    assert ensemble.metrics is None and seen[0] == ((1, 10), True)
    endless = Replications(40, wanted=lambda *_: 1e9, **kept)
    most = run_ensemble(question, endless, drain=False)
    assert most.replications == 40


def test_progress_counts_replications():
    seen = []
    run_ensemble(
        asked(num_requests=10), Replications(5, workers=2), told=lambda *done: seen.append(done)
    )
    assert seen == [("replication", count, 5) for count in (2, 3, 4, 5)]


@pytest.mark.parametrize(
    ("length", "runs", "error"),
    [
        ({"num_requests": 5}, {"count": 0}, ConfigError),
        ({"num_requests": 5}, {"workers": 0}, ConfigError),
        ({"num_requests": 5, "horizon": 3.0}, {}, ConfigError),
        ({}, {}, WorkloadError),
        ({"num_requests": 0}, {}, ConfigError),
    ],
)
def test_options_that_are_not_allowed_are_refused(length, runs, error):
    with pytest.raises(error):
        run_ensemble(asked(**length), Replications(**{"count": 2, **runs}))


def test_requests_that_are_all_there_at_time_0_are_followed_to_the_last_completion():
    table = RequestTable.validated([0, 0], [20, 10], [30, 5])
    ensemble = run_ensemble(asked(table), Replications(3))
    assert ensemble.horizon == simulate(table, NODE).metrics().duration > 30
    assert ensemble.mean.outputs["completed"][-1] > 1
    assert "last completion" in ensemble.horizon_is
    later = RequestTable.validated([0, 7], [20, 10], [30, 5])
    assert run_ensemble(asked(later), Replications(1)).horizon_is == "last arrival"


def test_requests_that_cannot_run_are_refused_before_anything_does():
    with pytest.raises(WorkloadError, match="M_total = 100"):
        run_ensemble(Question(generate(num_requests=50), DecodeNode(M_total=100)))
    with pytest.raises(ConfigError, match="horizon"):
        run_ensemble(asked(RequestTable.validated([0, 0], [1, 1], [1, 1]), horizon=0.0))
    with pytest.raises(ConfigError, match="num_requests"):
        run_ensemble(asked(generate(num_requests=5), num_requests=5))


@given(
    st.lists(st.tuples(st.floats(0, 100), st.floats(0.1, 3)), min_size=1, max_size=400),
    st.integers(1, 50),
)
def test_condensing_keeps_mass_and_mean_and_orders_the_rest(pairs, points):
    values, weight = (np.array(each) for each in zip(*pairs, strict=True))
    short, mass = condensed(values, weight, points)
    assert short.size <= max(points, 1) or short.size == values.size <= points
    assert mass.sum() == pytest.approx(weight.sum())
    assert short @ mass == pytest.approx(values @ weight, abs=1e-9)


def test_condensing_moves_percentiles_by_less_than_a_point():
    rng = np.random.default_rng(1)
    values = rng.lognormal(size=200_000)
    full = Distribution.of(values, np.ones(values.size))
    short = Distribution.of(*condensed(values, np.ones(values.size)))
    for q, value in full.percentiles.items():
        assert short.percentiles[q] == pytest.approx(value, rel=2e-3)
    assert short.std == pytest.approx(full.std, rel=2e-3)


def test_an_interrupt_stops_the_workers_and_is_passed_on():
    began = time.perf_counter()

    def interrupt(step, done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_ensemble(asked(num_requests=50), Replications(10**6, workers=2), told=interrupt)
    deadline = time.perf_counter() + 10
    while multiprocessing.active_children() and time.perf_counter() < deadline:
        time.sleep(0.02)
    assert not multiprocessing.active_children()
    assert time.perf_counter() - began < 30


SCRIPT = """
    import sys
    import time
    from studies import Question, Replications, run_ensemble
    from serving import DecodeNode
    from workload import describe

    print("begins", flush=True)  # once: workers do not run the caller's script again
    question = Question(describe("normal", arrival_rate=0.1), DecodeNode(), num_requests=40)
    ensemble = run_ensemble(
        question,
        Replications(int(sys.argv[1]), workers=2),
        told=lambda _, done, total: print(done, flush=True) if done in (2, 20) else None,
    )
    print("heavy:", sorted({"jax", "sympy", "pandas", "matplotlib"} & set(sys.modules)))
"""


def test_a_script_without_a_main_guard_works_and_imports_nothing_heavy(tmp_path):
    script = tmp_path / "study.py"
    script.write_text(textwrap.dedent(SCRIPT))
    done = subprocess.run(
        [sys.executable, str(script), "6"], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split("\n")[:3] == ["begins", "2", "heavy: []"]


def test_a_task_that_fails_raises_here_and_its_worker_goes_on():
    with worker_pool(operator.truediv, 6, 1) as submit:
        failed, done = submit(0), submit(3)
        with pytest.raises(ZeroDivisionError) as raised:
            failed.result(timeout=60)
        assert "in a worker process" in raised.value.__notes__[0]
        assert done.result(timeout=60) == 2
        with pytest.raises((AttributeError, pickle.PicklingError)):
            submit(lambda: None).result(timeout=60)


def test_a_worker_that_is_lost_fails_its_task_and_those_to_come():
    with worker_pool(operator.call, os._exit, 1) as submit:
        for task in [submit(1), submit(1)]:
            with pytest.raises(WorkerLost, match="from outside"):
                task.result(timeout=60)


HALF_WRITTEN = """
    import operator
    from studies.pool import worker_pool

    with worker_pool(operator.mul, bytes(1000), 2) as submit:
        first, *rest = [submit(100_000) for _ in range(40)]  # results of 100 MB
        first.result()
        print("interrupted", flush=True)
        raise KeyboardInterrupt
"""


def test_a_result_that_is_half_written_holds_nobody_up(tmp_path):
    """Its reader waited for the rest, and the script for its reader: a Ctrl-C in eight hung."""
    script = tmp_path / "study.py"
    script.write_text(textwrap.dedent(HALF_WRITTEN))
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=60
    )  # fmt: skip
    assert done.stdout == "interrupted\n"
    assert done.returncode in (-signal.SIGINT, 130)


def test_control_c_ends_a_script_with_one_traceback_and_no_orphans(tmp_path):
    script = tmp_path / "study.py"
    script.write_text(textwrap.dedent(SCRIPT))
    process = subprocess.Popen(
        [sys.executable, str(script), "100000000"], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    while process.stdout.readline() != "20\n":
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does: to all of the group
    _, errors = process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGINT, 130)
    assert errors.count("Traceback") <= 1 and errors.rstrip().endswith("KeyboardInterrupt")
    deadline = time.perf_counter() + 20
    while time.perf_counter() < deadline:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("a worker outlived the script")
