"""Clients that wait: turns after answers, a limit on concurrency, and a stated share of hits."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from discrete import engine_for, resume, save_state
from discrete.vllm_v1.hit_share import tokens_found
from serving import (
    BatchTimeLaw,
    ConfigError,
    Contents,
    DecodeNode,
    RequestTable,
    UnsupportedError,
    VllmV1,
    WorkloadError,
)

LAW = BatchTimeLaw(d_0=0.01, d_decode=1e-4, d_prefill=1e-4, d_kv=1e-6)
NODE = VllmV1(batch_time=LAW, block_size=4, num_gpu_blocks=60, max_num_batched_tokens=64)
SAME = ("completion_time", "first_token_time", "preemption_count", "cached_tokens")


@st.composite
def cases(draw):
    """A node, requests some of which are turns of sessions, and a limit or none."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    size = draw(st.integers(1, 40))
    arrival = np.cumsum(rng.exponential(draw(st.sampled_from([0.0, 0.02])), size))
    count = rng.integers(0, 3, size)
    contents = Contents(
        np.append(0, np.cumsum(count)), rng.integers(1, 4, count.sum()),
        rng.integers(1, 20, count.sum()), rng.integers(0, 4, size),
    )  # fmt: skip
    has_sessions = draw(st.booleans())
    table = RequestTable.validated(
        arrival, rng.integers(1, 31, size), rng.integers(1, 29, size), contents=contents,
        priority=rng.integers(0, 3, size),
        session=rng.integers(-1, draw(st.sampled_from([1, 8])), size) if has_sessions else None,
        think_time=rng.exponential(0.1, size) if has_sessions else None,
    )  # fmt: skip
    node = replace(
        NODE,
        num_gpu_blocks=draw(st.sampled_from([20, 60])),
        scheduling_policy=draw(st.sampled_from(["fcfs", "priority"])),
        async_scheduling=draw(st.booleans()),
        max_num_seqs=draw(st.sampled_from([2, 64])),
    )
    limit = draw(st.sampled_from([None, 1, 3, 10] if has_sessions else [1, 3, 10]))
    return node, table, limit


def sent_when(table, done, limit):
    """Return when each request is sent, from when they ended: the rule, read plainly."""
    last, free = {}, np.full(len(table), math.inf)
    earliest = table.arrival_time.astype(float).copy()
    for r, session in enumerate(table.session.tolist()):
        if session >= 0 and session in last:
            earliest[r] = max(earliest[r], done[last[session]] + table.think_time[r])
        if session >= 0:
            last[session] = r
    sent = np.full(len(table), math.nan)
    for k, r in enumerate(sorted(range(len(table)), key=lambda r: (earliest[r], r))):
        # the k-th is sent once at most limit - 1 of the k before it have not ended
        before = np.sort(free[np.isfinite(free)])
        left = 0.0 if limit is None or k < limit else before[k - limit]
        sent[r] = max(earliest[r], left)
        free[r] = done[r]
    return sent


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cases())
def test_requests_are_sent_by_the_rule_and_served_as_if_they_came_at_those_times(case):
    node, table, limit = case
    engine = engine_for(table, node, max_concurrency=limit)
    engine.advance()
    run = engine.run()
    assert engine.status == "finished"
    found = run.requests
    rows = found["req_id"]
    assert np.array_equal(np.sort(rows), np.arange(len(table)))
    assert (np.diff(found["arrival_time"]) >= 0).all()
    done, sent = np.empty(len(table)), np.empty(len(table))
    done[rows], sent[rows] = found["completion_time"], found["arrival_time"]
    assert sent.tolist() == sent_when(table, done, limit).tolist()

    opened = replace(table.in_order(rows, found["arrival_time"]), session=np.full(len(table), -1))
    open_loop = engine_for(opened, node)
    open_loop.advance()
    for name in SAME:
        assert np.array_equal(open_loop.run().requests[name], found[name], equal_nan=True)
    gaps = [np.sort(np.repeat(*each)) for each in (_gaps(run), _gaps(open_loop.run()))]
    assert gaps[0].tolist() == gaps[1].tolist()


def _gaps(run):
    gaps, weight = run._log.inter_token_latencies(0)
    return gaps, weight.astype(int)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cases(), st.integers(1, 60))
def test_a_run_goes_on_from_a_state_as_if_it_had_not_stopped(tmp_path_factory, case, batches):
    node, table, limit = case
    path = tmp_path_factory.mktemp("states") / "state"
    whole = engine_for(table, node, max_concurrency=limit)
    whole.advance()
    first = engine_for(table, node, max_concurrency=limit)
    first.advance(batches=batches)
    save_state(first, path)
    later = resume(path)
    later.advance()
    for name in ("arrival_time", *SAME):
        mine, theirs = later.run().requests[name], whole.run().requests[name]
        assert np.array_equal(mine, theirs, equal_nan=True)


def test_a_lone_client_sends_after_the_answer_and_its_thought():
    table = RequestTable.validated(
        [0.0, 0.0, 5.0], [10, 10, 10], [3, 3, 3], session=[7, 7, 7], think_time=[0.0, 1.0, 1.0]
    )
    engine = engine_for(table, NODE)
    engine.advance()
    run = engine.run().requests
    assert run["arrival_time"][1] == run["completion_time"][0] + 1.0
    assert run["arrival_time"][2] == 5.0  # later than a second after the answer


def test_who_is_not_sent_yet_is_no_latency():
    table = RequestTable.validated([0.0] * 6, [10] * 6, [20] * 6)
    engine = engine_for(table, NODE, max_concurrency=2)
    engine.advance(batches=5)
    run = engine.run()
    assert engine.progress.arrived == 2
    assert (run.requests["arrival_time"][2:] == run.duration).all()
    assert run.requests["waiting_time"][2:].tolist() == [0.0] * 4


@pytest.mark.parametrize("limit", [0, -3])
def test_a_limit_is_a_whole_number(limit):
    with pytest.raises(ConfigError, match="max_concurrency"):
        engine_for(RequestTable.validated([0.0], [1], [1]), NODE, max_concurrency=limit)


def test_what_does_not_go_together_is_refused():
    sessions = RequestTable.validated([0.0, 1.0], [5, 5], [2, 2], session=[0, 0])
    with pytest.raises(WorkloadError, match="decode_node does not know turns"):
        engine_for(sessions, DecodeNode())
    leaving = RequestTable.validated([0.0], [5], [2], abort_time=[1.0])
    with pytest.raises(WorkloadError, match="give up"):
        engine_for(leaving, NODE, max_concurrency=1)
    engine = engine_for(sessions, NODE)
    with pytest.raises(UnsupportedError, match="injected"):
        engine.inject(leaving)
    with pytest.raises(WorkloadError, match="dealt out anew"):
        sessions.with_lengths_permuted(np.random.default_rng(1))


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(1, 200), min_size=1, max_size=60), st.floats(0, 1),
    st.sampled_from([1, 4, 16]),
)  # fmt: skip
def test_a_stated_share_is_met_over_many_prompts(prompts, share, block):
    prompts = np.array(prompts, np.int64)
    found = tokens_found(prompts, share, block)
    assert (found % block == 0).all() and (found < prompts).all() and (found >= 0).all()
    most = (prompts - 1) // block * block
    if share * prompts.sum() <= most.sum() / 4 and (most > 0).all():
        owed = share * prompts.cumsum() - found.cumsum()
        assert owed.min() > -1e-6 * prompts.sum()
    assert found.sum() <= share * prompts.sum() + 1e-6


def test_a_stated_share_saves_its_prefill_and_holds_its_blocks():
    table = RequestTable.validated([0.0], [40], [2])
    runs = []
    for share in (0.0, 0.5):
        engine = engine_for(table, replace(NODE, prefix_hit_share=share, async_scheduling=False))
        engine.advance()
        runs.append(engine.run())
    cold, warm = (run.requests["first_token_time"][0] for run in runs)
    # 20 of 40 prompt tokens are found, and the context of the batch is the same
    assert cold - warm == pytest.approx(20 * LAW.d_prefill, rel=1e-9)
    held = [run.batches["context_tokens"][0] for run in runs]
    assert held[0] == held[1] == 40
    used = [run.trajectory().outputs["memory"].max() for run in runs]
    assert used[0] == used[1]
    assert runs[1].metrics().totals["prefix_cache_hit_rate"] == 0.5


def test_a_share_beside_known_contents_is_refused():
    table = RequestTable.validated([0.0], [9], [2], contents=Contents.none(1))
    with pytest.raises(ConfigError, match="prefix_hit_share"):
        engine_for(table, replace(NODE, prefix_hit_share=0.5))
    with pytest.raises(ConfigError, match="prefix_hit_share"):
        replace(NODE, prefix_hit_share=0.5, enable_prefix_caching=False)
