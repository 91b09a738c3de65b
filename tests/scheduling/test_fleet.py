"""A fleet is its instances: each runs as it would alone; what is seen and charged is as said."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from discrete import simulate
from scheduling import POLICIES, Faults, Signals, route
from serving import BatchTimeLaw, DecodeNode, FluidServeError, RequestTable, VllmV0, VllmV1

LAW = BatchTimeLaw(d_0=0.01, d_kv=1e-5, d_decode=1e-4, d_prefill=2e-4)
NODE = DecodeNode(M_total=3000, B=600)
SMALL = DecodeNode(M_total=500, B=300, mode="sacrifice")
SWAPS = DecodeNode(M_total=500, B=300)
SERVER = VllmV1(batch_time=LAW, num_gpu_blocks=100, max_num_seqs=16)
IN_STEP = VllmV1(batch_time=LAW, num_gpu_blocks=30, max_num_seqs=8, async_scheduling=False)
OLD = VllmV0(batch_time=LAW, num_gpu_blocks=30, max_num_seqs=8)
COUNTING = [name for name, entry in POLICIES.items() if not entry.asks]


def requests(size, gap, seed=0):
    rng = np.random.default_rng(seed)
    return RequestTable.validated(
        np.cumsum(rng.exponential(gap, size)),
        rng.integers(1, 100, size),
        rng.geometric(1 / 20, size).clip(max=150),
    )


def assert_each_alone_is_the_same(run):
    served = 0
    for rows, each in zip(run.rows, run.runs, strict=True):
        if each is None:
            assert rows.size == 0
            continue
        served += rows.size
        alone = simulate(each.table, each.instance)
        for table in ("requests", "batches", "spans"):
            mine, other = getattr(each, table), getattr(alone, table)
            for name in mine:
                np.testing.assert_array_equal(mine[name], other[name], err_msg=name)
        np.testing.assert_array_equal(each.table.prefill_length, run.requests.prefill_length[rows])
        np.testing.assert_array_equal(each.table.arrival_time, run.dispatched[rows])
        moment = run.requests.arrival_time[rows]
        np.testing.assert_array_equal(
            run.samples.ttft[rows], each.requests["first_token_time"] - moment
        )
        np.testing.assert_array_equal(
            run.samples.e2el[rows], each.requests["completion_time"] - moment
        )
    assert served == len(run.requests)


@settings(max_examples=40)
@given(
    st.lists(st.sampled_from([NODE, SMALL, SERVER, IN_STEP, OLD]), min_size=1, max_size=4),
    st.sampled_from([*COUNTING, "jsq@2", "lmetric@3"]),
    st.sampled_from([Signals(), Signals(0.0), Signals(5.0, 0.3), Signals(float("inf"))]),
    st.sampled_from([0.0, 0.7]),
    st.sampled_from([0.003, 0.05, 1.0, 20.0]),
    st.integers(1, 120),
    st.integers(0, 5),
)
def test_each_instance_runs_as_it_would_alone(
    instances, policy, signals, decision_time, gap, size, seed
):
    table = requests(size, gap, seed)
    run = route(table, instances, policy, signals=signals, decision_time=decision_time)
    assert_each_alone_is_the_same(run)


def test_the_time_of_a_decision_is_latency():
    table = requests(200, 1.0)
    quick = route(table, [NODE] * 3, "round-robin")
    slow = route(table, [NODE] * 3, "round-robin", decision_time=0.25)
    assert (quick.dispatched == table.arrival_time).all()
    assert (slow.dispatched == table.arrival_time + 0.25).all()
    # the same sub-traces later: everything happens as much later
    np.testing.assert_allclose(slow.samples.ttft, quick.samples.ttft + 0.25)


def test_totals_are_those_of_all_instances():
    run = route(requests(400, 1.0), [NODE, SMALL], "jsq")
    one, two = (each.totals() for each in run.runs)
    found = run.metrics({"ttft": 5.0})
    assert found.completed == 400
    assert found.output_tokens == run.requests.decode_length.sum()
    assert found.duration == max(one["duration"], two["duration"])
    busy = one["gpu_utilization"] * one["duration"] + two["gpu_utilization"] * two["duration"]
    assert found.gpu_utilization == pytest.approx(busy / (2 * found.duration))
    good = (run.samples.ttft <= 5.0).sum()
    assert found.request_goodput == pytest.approx(good / found.duration)
    assert found.latencies["e2el"].mean == pytest.approx(run.samples.e2el.mean())


class Ear:
    """Writes down what it hears."""

    def __init__(self):
        self.sent, self.traces = [], []

    def enqueue_request(self, instance_id, request_meta, ts):
        self.sent.append((instance_id, request_meta.request_id, ts))

    def sync_batch_result(self, instance_id, batch_trace):
        self.traces.append((instance_id, batch_trace))


def resumed(traces):
    return sorted((trace.batch_id, r) for trace in traces for r in trace.resumed)


def after_evictions(gone, run, rows):
    """The first batch after each eviction that gave the request a token."""
    spans = run.spans
    for batch, r in gone:
        mine = spans["first_batch"][spans["request"] == rows.index(r)]
        yield int(mine[mine >= batch].min()), r


@pytest.mark.parametrize("instance", [NODE, SMALL, SWAPS, SERVER, IN_STEP, OLD])
@pytest.mark.parametrize("signals", [Signals(), Signals(20.0, 1.0)])
def test_listeners_hear_every_dispatch_and_every_batch(instance, signals):
    gap = 1.0 if isinstance(instance, DecodeNode) else 0.05
    ear, table = Ear(), requests(300, gap)
    run = route(table, [instance] * 2, "round-robin", listeners=[ear], signals=signals)
    assert [each[1] for each in ear.sent] == list(range(300))
    assert [each[0] for each in ear.sent] == run.instance.tolist()
    assert [each[2] for each in ear.sent] == run.dispatched.tolist()
    for i, each in enumerate(run.runs):
        mine = [trace for instance, trace in ear.traces if instance == i]
        assert [trace.batch_id for trace in mine] == list(range(each.num_batches))
        assert [trace.end for trace in mine] == each.batches["time"].tolist()
        assert [trace.kv_used for trace in mine] == each.batches["gpu_memory_used"].tolist()
        assert [trace.num_waiting for trace in mine] == each.batches["waiting_count"].tolist()
        started = {r: trace.end for trace in mine for r in trace.started}
        finished = {r: trace.end for trace in mine for r in trace.finished}
        rows = run.rows[i].tolist()
        assert started == dict(zip(rows, each.requests["first_token_time"], strict=True))
        assert finished == dict(zip(rows, each.requests["completion_time"], strict=True))
        gone = [(trace.batch_id, r) for trace in mine for r in trace.preempted]
        assert len(gone) == each.totals()["evictions"]
        assert resumed(mine) == sorted(set(after_evictions(gone, each, rows)))
    if signals.period is not None:
        return
    ends = [trace.end for _, trace in ear.traces]
    told = np.searchsorted(table.arrival_time, ends)
    assert (np.diff(told) >= 0).all()  # in the order of time, from one arrival to the next


def test_faults_are_drawn_alike_and_do_what_they_say():
    table = requests(500, 1.0)

    def heard(**faults):
        ear = Ear()
        route(table, [NODE] * 2, "jsq", listeners=[ear], faults=Faults(**faults, seed=3))
        return [(i, trace.batch_id) for i, trace in ear.traces]

    whole = heard()
    lost, doubled, late = heard(lost=0.2), heard(doubled=0.2), heard(reordered=0.2)
    assert lost == heard(lost=0.2)
    assert len(lost) == pytest.approx(0.8 * len(whole), rel=0.1)
    assert set(lost) < set(whole)
    assert len(doubled) == pytest.approx(1.2 * len(whole), rel=0.1)
    assert set(doubled) == set(whole)
    assert sorted(late) == sorted(whole)
    first = [batch for i, batch in late if i == 0]
    assert (np.diff(first) < 0).mean() == pytest.approx(0.2, abs=0.08)


def test_signals_are_as_old_as_they_are_said_to_be():
    table, seen = requests(300, 1.0), []

    def look(view, request):
        seen.append((view.time, view.told_at.copy(), view.in_system.copy(), view.own.copy()))
        return int((view.in_system + view.own).argmin())

    for signals in (Signals(), Signals(0.0, 0.5), Signals(10.0, 0.5), Signals(float("inf"))):
        seen.clear()
        run = route(table, [NODE] * 2, look, signals=signals)
        for row, (now, told_at, in_system, own) in enumerate(seen):
            for i, each in enumerate(run.runs):
                at = told_at[i]
                if signals.period == 0.0:
                    assert at == max(now - 0.5, 0.0)
                elif signals.period == 10.0:
                    assert at == max(np.floor((now - 0.5) / 10.0) * 10.0, 0.0)
                elif signals.period is None:
                    assert (
                        at == 0.0
                        or at in each.batches["start_time"]
                        or at in (each.batches["time"])
                    )
                mine = run.rows[i][run.rows[i] < row]
                if signals.period == float("inf"):
                    assert in_system[i] == 0 and own[i] == mine.size
                    continue
                came = (run.dispatched[mine] <= at).sum()
                left = (each.requests["completion_time"] <= at).sum()
                assert in_system[i] == came - left
                assert own[i] == mine.size - came


def test_what_cannot_be_routed():
    table = requests(20, 1.0)
    with pytest.raises(FluidServeError, match="at least one"):
        route(table, [])
    with pytest.raises(FluidServeError, match="no abort_time"):
        gone = RequestTable.validated([0.0], [5], [5], abort_time=[9.0])
        route(gone, [SERVER])
    with pytest.raises(FluidServeError, match="can never finish"):
        route(RequestTable.validated([0.0], [5000], [5]), [NODE])
    with pytest.raises(FluidServeError, match="decision_time"):
        route(table, [NODE], decision_time=-1.0)
    with pytest.raises(FluidServeError, match="a time >= 0"):
        route(table, [NODE], signals=Signals(-2.0))
    with pytest.raises(FluidServeError, match="share from 0 to 1"):
        route(table, [NODE], faults=Faults(lost=2.0))
