"""The engine vllm_v1 keeps its books: blocks, requests, states, bytes; whatever it is set to.

That its decisions are vLLM's is shown in ``tests/oracle``.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from discrete import Stop, engine_for, resume, save_state, simulate
from discrete.vllm.decision_log import DecisionLog
from discrete.vllm.layout import DECISION, STEP
from serving import BatchTimeLaw, ConfigError, Contents, RequestTable, VllmV0, VllmV1, WorkloadError

LAW = BatchTimeLaw(d_0=0.01, d_decode=1e-4, d_prefill=1e-4, d_kv=1e-6)

CACHED = ("chain", "next_alike", "previous_alike")


@st.composite
def nodes(draw):
    """Any settings, with memory for a request of 60 tokens at least."""
    block_size = draw(st.sampled_from([1, 2, 4, 16]))
    drafts = draw(st.sampled_from([0, 0, 1, 3]))
    is_asynchronous = draw(st.booleans())
    stages = 1 if drafts else draw(st.sampled_from([1, 1, 2, 4]))
    connector = "none"
    if not drafts and stages == 1 and not is_asynchronous:
        connector = draw(st.sampled_from(["none", "sync", "async"]))
    return VllmV1(
        batch_time=LAW,
        vllm_version="0.33" if drafts or stages > 1 else draw(st.sampled_from(["0.33", "0.19"])),
        block_size=block_size,
        num_gpu_blocks=60 // block_size + 3 + draw(st.integers(0, 40)),
        max_num_seqs=draw(st.sampled_from([2, 5, 64])),
        max_num_batched_tokens=max(60, draw(st.sampled_from([64, 300]))),
        enable_chunked_prefill=draw(st.booleans()),
        enable_prefix_caching=draw(st.booleans()),
        async_scheduling=is_asynchronous,
        pipeline_parallel_size=stages,
        scheduling_policy=draw(st.sampled_from(["fcfs", "priority"])),
        ignore_eos=draw(st.booleans()),
        long_prefill_token_threshold=draw(st.sampled_from([0, 8])),
        scheduler_reserve_full_isl=draw(st.booleans()),
        num_speculative_tokens=drafts,
        speculative_method=draw(st.sampled_from(["ngram", "draft_model", "eagle"])),
        speculative_accept=draw(st.sampled_from([None, "0,3,1"])),
        remote_prefill=connector != "none",
        kv_connector=connector,
        cpu_gap=draw(st.sampled_from([0.0, 0.003, 0.05])),
    )


@st.composite
def tables(draw):
    """Conversations over a few system prompts; some clients give up."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    size = draw(st.integers(1, 25))
    arrival = np.cumsum(rng.exponential(draw(st.sampled_from([0.001, 0.05])), size))
    prompt, output = rng.integers(1, 31, size), rng.integers(1, 29, size)
    count = rng.integers(0, 3, size)
    contents = Contents(
        np.append(0, np.cumsum(count)), rng.integers(1, 4, count.sum()),
        rng.integers(1, 20, count.sum()), rng.integers(0, 4, size),
    )  # fmt: skip
    gives_up = rng.random(size) < draw(st.sampled_from([0.0, 0.3]))
    patience = np.where(gives_up, rng.exponential(0.1, size), math.inf)
    priority = rng.integers(0, draw(st.sampled_from([3, 99])), size)
    return RequestTable.validated(
        arrival, prompt, output, priority=priority, contents=contents,
        abort_time=arrival + patience,
    )  # fmt: skip


def check_queue(engine):
    """Hold the waiting queue of an engine at rest to its order, and its levels to the queue."""
    req, r, order = engine.req, int(engine.state["head"][0]), []
    while r >= 0:
        order.append(r)
        r = int(req["next"][r])
    assert len(order) == engine.state["waiting"] - engine.state["held"]
    assert order == sorted(order, key=lambda r: (req["priority"][r], req["rank"][r]))
    last = {int(req["level"][r]): r for r in order}
    leaves = int(engine.state["leaves"][0])
    assert engine._level_last.tolist() == [last.get(level, -1) for level in range(leaves)]
    waiting = [sum(req["level"][r] == level for r in order) for level in range(leaves)]
    tree = engine._level_tree
    assert tree[leaves:].tolist() == waiting and tree[1:2].tolist() == [len(order)]
    assert (tree[1:leaves] == tree[2 : 2 * leaves : 2] + tree[3 : 2 * leaves : 2]).all()


def check_books(engine):
    """Hold the blocks of an engine at rest to what they are."""
    state, node = engine.state[0], engine.instance
    if state["by_priority"]:
        check_queue(engine)
    number, held = node.num_gpu_blocks, {}
    for r in np.flatnonzero(engine.req["blocks"]):
        first = engine.req["table_at"][r]
        mine = engine._block_tables[first : first + engine.req["blocks"][r]].tolist()
        assert len(set(mine)) == len(mine)
        for b in mine if state["track_blocks"] else ():
            held[b] = held.get(b, 0) + 1
    if not state["track_blocks"]:
        assert engine.req["blocks"].sum() + state["free"] == number - 1
        return
    blocks = engine._blocks
    free, b = [], int(blocks["next"][number])
    while b < number:
        free.append(b)
        assert blocks["references"][b] == 0
        b = int(blocks["next"][b])
    assert len(free) == state["free"] == len(set(free))
    assert not set(free) & set(held) and len(free) + len(held) == number - 1
    assert {b: int(blocks["references"][b]) for b in held} == held
    cached = np.flatnonzero(blocks["chain"][:number] >= 0)
    assert len(set(blocks["chain"][cached].tolist())) == state["hashed"]
    for b in cached.tolist():
        before = int(blocks["previous_alike"][b])
        head = engine._first_block[blocks["chain"][b]]
        assert head == b if before < 0 else blocks["chain"][before] == blocks["chain"][b]


@given(tables(), nodes())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_blocks_are_conserved_and_every_request_ends(table, node):
    engine = engine_for(table, node)
    for _ in range(10_000):
        stop = engine.advance(batches=7)
        check_books(engine)
        if stop != Stop.BATCHES:
            break
    assert stop == Stop.FINISHED and engine.status == "finished"
    status = engine.run().requests["status"]
    gives_up = np.isfinite(table.abort_time)
    assert set(status[~gives_up]) <= {"finished"} and set(status) <= {"finished", "aborted"}
    tokens = engine.run().requests["output_tokens"]
    assert (tokens[status == "finished"] == table.decode_length[status == "finished"]).all()
    assert engine.state["blocks_used"] == 0 and engine.state["queued"] == 0


@given(tables(), nodes(), st.integers(0, 60))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_run_goes_on_from_any_step_as_if_it_had_not_stopped(tmp_path_factory, table, node, steps):
    folder = tmp_path_factory.mktemp("state")
    whole = engine_for(table, node, record_events=True)
    whole.advance()
    half = engine_for(table, node, record_events=True)
    half.advance(batches=steps)
    save_state(half, folder / "state")
    save_state(half, folder / "again")
    assert (folder / "state").read_bytes() == (folder / "again").read_bytes()
    other = resume(folder / "state")
    other.advance()
    for name in ("requests", "batches", "events", "memory_events"):
        mine, theirs = getattr(whole.run(), name), getattr(other.run(), name)
        for column in mine:
            np.testing.assert_array_equal(mine[column], theirs[column])
    assert whole.run().metrics().to_json("s") == other.run().metrics().to_json("s")


def asked(**changed):
    some = {"batch_time": LAW, "num_gpu_blocks": 100, "max_num_batched_tokens": 64}
    return VllmV1(**some | changed)


TWO = RequestTable.validated([0.0, 0.1], [20, 30], [5, 3])


def test_a_lone_request_takes_what_its_steps_take():
    """20 prompt tokens and 5 answers, step by step: no step is decided ahead, nothing is cached."""
    table = RequestTable.validated([1.0], [20], [5])
    run = simulate(table, asked(async_scheduling=False, enable_prefix_caching=False))
    first = 0.01 + 20e-4 + 20e-6
    steps = [0.01 + 1e-4 + 1e-6 * (20 + k) for k in range(1, 5)]
    assert run.requests["first_token_time"][0] == pytest.approx(1 + first)
    assert run.requests["completion_time"][0] == pytest.approx(1 + first + sum(steps))
    metrics = run.metrics().to_json("s")
    assert metrics["mean_ttft_ms"] == pytest.approx(1e3 * first)
    assert metrics["mean_itl_ms"] == pytest.approx(250 * sum(steps))
    assert metrics["output_throughput"] == pytest.approx(5 / (1 + first + sum(steps)))


@pytest.mark.parametrize("node", [VllmV0, VllmV1])
def test_a_gap_before_each_step_leaves_the_device_idle(node):
    """A node that waits for each step has the gap as often as it has steps."""
    table, gap = RequestTable.validated([1.0], [20], [5]), 0.25
    plain = {"async_scheduling": False, "enable_prefix_caching": False} if node is VllmV1 else {}
    run = simulate(table, node(batch_time=LAW, cpu_gap=gap, **plain))
    steps = [0.01 + 20e-4 + 20e-6, *(0.01 + 1e-4 + 1e-6 * (20 + k) for k in range(1, 5))]
    assert run.requests["first_enter_running_time"][0] == 1  # when it was decided
    assert run.requests["first_token_time"][0] == pytest.approx(1 + gap + steps[0])
    assert run.requests["completion_time"][0] == pytest.approx(1 + 5 * gap + sum(steps))
    busy = run.metrics().to_json("s")["gpu_utilization"]
    assert busy == pytest.approx(sum(steps) / (1 + 5 * gap + sum(steps)))


def test_a_gap_hides_behind_the_step_before_where_steps_are_decided_ahead():
    """Two steps are decided at once; from then on, one whenever one ends."""
    table = RequestTable.validated([1.0], [20], [6])
    law = BatchTimeLaw(d_0=1.0, d_decode=0.0, d_prefill=0.0, d_kv=0.0)
    hidden = simulate(table, asked(batch_time=law, cpu_gap=0.25, ignore_eos=True))
    assert hidden.requests["first_token_time"][0] == 1 + 0.25 + 1
    assert hidden.requests["completion_time"][0] == 1 + 0.25 + 6
    # step k + 2 starts a gap of 3 after step k ended: two steps in 4, five gaps in all
    longer = simulate(table, asked(batch_time=law, cpu_gap=3.0, ignore_eos=True))
    assert longer.batches["scheduled_time"][:6].tolist() == [1, 1, 5, 6, 9, 10]
    assert longer.batches["start_time"][:6].tolist() == [4, 5, 8, 9, 12, 13]
    assert longer.requests["completion_time"][0] == 14


def test_a_prefix_that_is_known_costs_nothing():
    same = Contents(np.array([0, 1, 2]), np.array([7, 7]), np.array([48, 48]), np.array([1, 2]))
    table = RequestTable.validated([0.0, 9.0], [48, 48], [2, 2], contents=same)
    run = simulate(table, asked())
    assert run.requests["cached_tokens"].tolist() == [0, 32]  # a token at least is computed
    cold = simulate(table, asked(enable_prefix_caching=False))
    metrics = run.metrics().to_json("s")
    assert metrics["prefix_cache_queries"] == 96 and metrics["prefix_cache_hits"] == 32
    assert metrics["saved_tokens"] == 32 and metrics["evicted_blocks"] == 0
    assert metrics["wasted_tokens"] == 2  # a token beyond the end of each, as nobody knew it
    assert "saved_tokens" not in cold.metrics().to_json("s")
    saved = cold.requests["first_token_time"][1] - run.requests["first_token_time"][1]
    assert saved == pytest.approx(32e-4)


def test_a_client_that_gives_up_frees_its_blocks():
    table = RequestTable.validated([0.0, 0.0], [20, 20], [900, 5], abort_time=[0.5, math.inf])
    run = simulate(table, asked(ignore_eos=True))
    assert run.requests["status"].tolist() == ["aborted", "finished"]
    assert math.isnan(run.requests["completion_time"][0])
    metrics = run.metrics().to_json("s")
    steps = run.batches["batch_tokens"].sum()
    assert metrics["completed"] == 1 and metrics["wasted_tokens"] == steps - (20 + 5 - 1)
    assert run.duration == pytest.approx(0.5, abs=0.02)


def test_events_say_what_memory_held_right_before():
    run = simulate(TWO, asked(enable_prefix_caching=False), record_events=True)
    rows = run.memory_events
    assert rows["reason"].tolist() == ["admit", "complete", "admit", "complete"]
    assert rows["memory_before"].tolist() == [0, 32, 0, 48]


def test_what_can_never_finish_is_refused_or_waits_for_ever():
    table = RequestTable.validated([0.0, 0.1], [20, 2000], [5, 3])
    with pytest.raises(WorkloadError, match="num_gpu_blocks"):
        engine_for(table, asked())
    engine = engine_for(table, asked(strict=True))
    assert engine.advance() == Stop.STUCK and engine.status == "stuck"
    assert not engine.run().finished and engine.run().requests["status"].tolist() == [
        "finished", "pending",
    ]  # fmt: skip


def test_the_decision_log_is_the_same_in_any_pieces(tmp_path):
    """Also where a piece has no step whose output was applied."""
    table = RequestTable.validated(np.arange(40) * 0.001, np.full(40, 20), np.full(40, 9))
    for name, pieces in (("whole", 10_000), ("pieces", 1)):
        engine = engine_for(table, asked(), decision_log=tmp_path / name, log_extended=True)
        while engine.advance(batches=pieces) == Stop.BATCHES:
            pass
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "pieces").read_bytes()
    log = DecisionLog(tmp_path / "none")
    nothing = np.empty(0, np.int64)
    assert log.take(np.empty(0, STEP), np.empty(0, DECISION), nothing, nothing) == (0, 0)
    assert (tmp_path / "none").read_text().startswith("it,t_start,dur,t_end,")


def test_a_prompt_that_vllm_fetches_for_ever_is_refused():
    node = asked(
        async_scheduling=False, remote_prefill=True, kv_connector="async", free_recompute=True
    )
    with pytest.raises(WorkloadError, match="again and again") as refused:
        engine_for(RequestTable.validated([0.0, 0.1], [2, 1], [5, 3]), node)
    assert "row 2" in str(refused.value)
    fetched = simulate(TWO, node)
    assert set(fetched.requests["status"]) == {"finished"}


def test_injected_requests_come_besides_or_in_place_of_others():
    engine = engine_for(TWO, asked())
    engine.advance(until=0.05)
    engine.inject(RequestTable.validated([0.2], [16], [2]), at=0.06)
    engine.advance()
    run = engine.run()
    assert run.table.arrival_time.tolist() == [0.0, 0.26]
    assert set(run.requests["status"]) == {"finished"}
    check_books(engine)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"vllm_version": "0.19", "watermark": 0.1}, "with vllm_version 0.19"),
        ({"vllm_version": "0.19", "pipeline_parallel_size": 2}, "not compared"),
        ({"vllm_version": "0.32", "num_speculative_tokens": 2}, "not compared"),
        ({"kv_connector": "sync"}, "none without remote_prefill"),
        ({"num_speculative_tokens": 2, "pipeline_parallel_size": 2}, "pipeline_parallel_size"),
        ({"speculative_accept": "1;2"}, "a list of whole numbers >= 0"),
        ({"speculative_accept": ""}, "a list of whole numbers >= 0"),
        ({"speculative_accept": []}, "a list of whole numbers >= 0"),
        ({"speculative_accept": [1, -1]}, "a list of whole numbers >= 0"),
        ({"speculative_accept": [1, True]}, "a list of whole numbers >= 0"),
        ({"speculative_accept": [[1, 2]]}, "a list of whole numbers >= 0"),
        ({"num_gpu_blocks": 1}, ">= 2"),
        ({"cpu_gap": -0.1}, ">= 0"),
        ({"enable_prefix_caching": 1}, "true | false"),
        ({"remote_prefill": True, "kv_connector": "sync"}, "async_scheduling is false"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changed, words):
    with pytest.raises(ConfigError, match=words.replace("|", r"\|")):
        asked(**changed)
