"""The engine ``vllm_v0`` against a plain reading of the scheduler, and what every run must keep."""

from __future__ import annotations

import csv
import random
from dataclasses import replace

import numpy as np
import pytest
import vllm_v0_reference as reference
from hypothesis import example, given, settings
from hypothesis import strategies as st

import discrete
from discrete import Stop
from discrete.vllm import engine as _vllm
from discrete.vllm.layout import Status
from discrete.vllm_v0.engine import VllmV0Engine
from discrete.vllm_v0.layout import EXHAUSTED, STUCK
from serving import BatchTimeLaw, ConfigError, RequestTable, UnsupportedError, VllmV0, WorkloadError
from serving.kinds import reading_of

MOST = 400
"""Schedule() calls after which a case is cut off."""

TICK = 2.0**-20
"""Times are multiples of this [s]: sums of them are exact, in whatever order."""


def table_of(asked):
    return RequestTable.validated(*map(list, zip(*asked, strict=True)))


def engine_of(asked, case, **options):
    """Return the engine of a case."""
    return discrete.engine_for(table_of(asked), node_of(case), **options)


def node_of(case):
    """Return the instance that the settings of the reference describe."""
    law = BatchTimeLaw(
        d_0=case.d0, d_decode=case.d1, d_prefill=case.d1, d_kv=case.d2, d_swap=case.dsw
    )
    return VllmV0(
        batch_time=law,
        vllm_version="0.5.4" if case.old else "0.6.3",
        block_size=case.block_size,
        num_gpu_blocks=case.num_gpu_blocks,
        num_cpu_blocks=case.num_cpu_blocks,
        max_num_seqs=case.max_num_seqs,
        max_num_batched_tokens=case.max_num_batched_tokens,
        enable_chunked_prefill=case.chunked,
        preemption_mode="swap" if case.swap else "recompute",
        max_model_len=case.max_model_len,
        watermark=case.watermark,
        remote_prefill=case.remote_prefill,
        free_recompute=case.free_recompute,
        strict=True,
    )


def case_of(number):
    """Return requests that tie and come in bursts, and a small node that is short of memory."""
    chance = random.Random(number)
    in_chunks = number % 3 == 0  # long prompts in small chunks, preempted in the middle
    shapes = [(4, 30), (4, 30), (12, 12), (40, 20), (9, 1)]
    prompt, output = (60, 20) if in_chunks else chance.choice(shapes)
    gap = chance.choice([0, 3000, 30000])
    asked, now = [], 0
    for _ in range(chance.randint(1, 40)):
        asked.append((now * TICK, chance.randint(1, prompt), chance.randint(1, output)))
        now += gap * chance.randint(0, 2)
    block, seqs = chance.choice([1, 2, 4, 16]), chance.choice([2, 3, 8, 64])
    longest = max(p + d for _, p, d in asked)
    blocks = max(2, int(longest * chance.choice([0.5, 1, 1.2, 1.5, 2])) // block + 1)
    chunked = in_chunks or chance.random() < 0.5
    budget = max(seqs, chance.choice([1, 4, 16, 64] if chunked else [16, 64, 64, 512]))
    case = reference.Settings(
        block_size=block,
        num_gpu_blocks=blocks,
        num_cpu_blocks=chance.choice([0, 1, 5, 100, 100]) * blocks,
        max_num_seqs=seqs,
        max_num_batched_tokens=budget,
        max_model_len=chance.choice([longest, longest, max(2, longest // 2)]),
        chunked=chunked,
        swap=chance.random() < 0.6,
        watermark=chance.choice([0.0, 0.01, 0.05, 0.2]),
        remote_prefill=chance.random() < (0.7 if in_chunks else 0.2),
        free_recompute=chance.random() < 0.5,
        old=chance.random() < 0.4,
        d0=chance.choice([1, 4097]) * TICK,
        d1=chance.choice([0, 300]) * TICK,
        d2=chance.choice([0, 1]) * TICK,
        dsw=chance.choice([0, 50]) * TICK,
    )
    return asked, case


CASES = st.integers(0, 2**40).map(case_of)


def read_by_reference(asked, case, most=MOST):
    """Return the rows, the requests and the end of a run in plain Python."""
    requests = [reference.Request(number, *one) for number, one in enumerate(asked)]
    rows, end = reference.simulate(requests, case, most=most - 1)
    if end == "max_iters":
        end = "pending" if any(one.status == "pending" for one in requests) else "finished"
    return rows, requests, end


def as_text(value):
    if value is None:
        return ""
    if isinstance(value, list):
        return " ".join(map(str, value))
    return repr(value) if isinstance(value, float) else str(value)


def log_of(path, columns):
    with path.open() as file:
        return [[row[name] for name in columns] for row in csv.DictReader(file)]


REQUEST_COLUMNS = ("first_sched", "first_token", "done", "n_preempt", "n_swap_in", "recomputed")


@settings(max_examples=120)
@example(case=case_of(303))  # a remote prompt is preempted in the middle and computed here
@example(case=case_of(316))  # a swapped request waits for a seat
@given(case=CASES)
def test_every_decision_is_that_of_the_reference(case, tmp_path_factory):
    asked, given_settings = case
    rows, requests, end = read_by_reference(*case)
    folder = tmp_path_factory.mktemp("logs")
    engine = engine_of(
        asked,
        given_settings,
        decision_log=folder / "decisions.csv",
        request_log=folder / "requests.csv",
    )
    engine.advance(batches=MOST)
    assert engine.status == end
    columns = list(rows[0]) if rows else ["it"]
    assert log_of(folder / "decisions.csv", columns) == [
        [as_text(row[name]) for name in columns] for row in rows
    ]
    if end == "swap_space_exhausted":  # the reference stops in the middle of a call
        return
    assert log_of(folder / "requests.csv", ("status", *REQUEST_COLUMNS)) == [
        [as_text(getattr(one, name)) for name in ("status", *REQUEST_COLUMNS)] for one in requests
    ]


def members(engine, first):
    """Return who is linked from ``first`` on."""
    found = []
    while first >= 0:
        found.append(first)
        first = int(engine.req["next"][first])
    return found


@settings(max_examples=40)
@given(case=CASES)
def test_blocks_and_requests_are_accounted_for_after_every_step(case):
    node, engine = node_of(case[1]), engine_of(*case)
    stop = Stop.BATCHES
    while stop == Stop.BATCHES and engine.batch < MOST:
        stop = engine.advance(batches=1)
        s, req = engine.state[0], engine.req
        running = engine._running[: s["running"]].tolist()
        swapped = members(engine, int(s["swapped_head"]))
        waiting = members(engine, int(s["resumed"])) + list(range(s["fresh"], s["arrived"]))
        here = running + swapped + waiting
        assert len(set(here)) == len(here) == s["arrived"] - s["left"]
        assert [len(running), len(swapped), len(waiting)] == [
            s["running"],
            s["swapped"],
            s["waiting"],
        ]
        assert 0 <= s["blocks_used"] <= node.num_gpu_blocks
        assert s["blocks_used"] == req["blocks"][running].sum()
        lost = (req["status"] == Status.IGNORED) & (req["blocks"] > 0)
        assert s["cpu_used"] == req["blocks"][swapped].sum() + req["blocks"][lost].sum()
        assert 0 <= s["cpu_used"] <= node.num_cpu_blocks
        held = req[running + swapped]
        slots = held["length"] - held["decodes"]
        assert (held["blocks"] == -(-slots // node.block_size)).all()
        assert (req["blocks"][waiting] == 0).all() and (req["computed"][waiting] == 0).all()
    ended = np.isin(engine.req["status"], (Status.FINISHED, Status.IGNORED))
    done = engine.req[engine.req["status"] == Status.FINISHED]
    whole = done["generated"] == done["output"]
    assert (whole | (done["length"] > node.max_model_len)).all()
    assert ended.sum() == engine.state["left"][0]
    assert ended.all() == (stop == Stop.FINISHED)


def written(run, folder):
    folder.mkdir()
    return [path.read_bytes() for path in run.write(folder)]


@settings(max_examples=30)
@given(case=CASES, pause=st.integers(0, 60), steps=st.integers(1, 7))
def test_resuming_and_stepping_change_nothing(case, pause, steps, tmp_path_factory):
    asked, given_settings = case
    tmp_path = tmp_path_factory.mktemp("state")
    options = {"record_events": True, "sample_times": np.arange(0, 2, 0.03)}
    whole = engine_of(asked, given_settings, **options)
    whole.advance(batches=MOST)
    first = engine_of(asked, given_settings, **options)
    first.advance(batches=min(pause, MOST))
    discrete.save_state(first, tmp_path / "state.npz")
    again = discrete.resume(tmp_path / "state.npz")
    assert (again.batch, again.time) == (first.batch, first.time)
    stop = None
    while again.batch < MOST and stop not in (Stop.FINISHED, Stop.STUCK):
        stop = again.advance(batches=min(steps, MOST - again.batch))
    assert again.finished == whole.finished
    runs = [written(run, tmp_path / name) for name, run in
            (("whole", whole.run()), ("again", again.run()))]  # fmt: skip
    assert runs[0] == runs[1]
    np.testing.assert_equal(whole.run().metrics().to_json(), again.run().metrics().to_json())
    assert (whole.samples == again.samples).all()


def test_small_chunks_of_work_and_small_sinks_change_nothing(tmp_path, monkeypatch):
    rng = np.random.default_rng(3)
    asked = list(zip(np.sort(rng.uniform(0, 4, 200)).tolist(), rng.integers(1, 60, 200).tolist(),
                     rng.integers(1, 40, 200).tolist(), strict=True))  # fmt: skip
    case = reference.Settings(num_gpu_blocks=20, swap=True, d0=0.01, d1=0.0001)
    runs = []
    for name in ("a", "b"):
        engine = engine_of(asked, case, record_events=True)
        engine.advance()
        assert engine.finished and engine.state["evicted"] > 20
        runs.append(written(engine.run(), tmp_path / name))
        monkeypatch.setattr(_vllm, "FUEL", 50)
        monkeypatch.setattr(_vllm, "AT_FIRST", 3)
    assert runs[0] == runs[1]


LONELY = reference.Settings(block_size=4, num_gpu_blocks=4, swap=True, watermark=0.25)


def test_a_swapped_request_that_the_watermark_keeps_out_leaves_the_node_stuck():
    rows, _, end = read_by_reference([(0.0, 10, 30)], LONELY)
    engine = engine_of([(0.0, 10, 30)], LONELY)
    assert (end, engine.advance(), engine.status) == ("stuck", Stop.STUCK, "stuck")
    assert engine.batch == len(rows)
    assert engine.advance() == Stop.STUCK and engine.batch == len(rows)


def test_a_later_arrival_moves_the_clock_of_a_node_that_does_nothing():
    asked = [(0.0, 10, 30), (1000.0, 1, 1)]
    rows, _, end = read_by_reference(asked, LONELY)
    engine = engine_of(asked, LONELY)
    assert engine.advance(until=500.0) == Stop.UNTIL and engine.time == 500.0
    engine.advance()
    assert (engine.status, engine.batch, engine.time) == (end, len(rows), rows[-1]["t_end"])


def test_a_node_without_cpu_space_ends_as_it_was_before_the_fatal_call():
    asked = [(0.0, 8, 20), (0.0, 8, 20)]
    case = reference.Settings(block_size=4, num_gpu_blocks=8, num_cpu_blocks=3, swap=True, d0=1.0)
    rows, _, _ = read_by_reference(asked, case)
    asked.append((rows[-1]["t_end"], 5000, 1))  # the fatal call would drop it
    rows, _, end = read_by_reference(asked, case)
    engine = engine_of(asked, case, record_events=True)
    assert engine.advance() == Stop.STUCK
    assert engine.state["waiting"][0] == 1
    assert engine.status == end == "swap_space_exhausted"
    assert engine.batch == len(rows)
    before = engine_of(asked, case, record_events=True)
    before.advance(batches=len(rows))
    arrays = before.arrays()
    for name, array in engine.arrays().items():
        if name != "req":
            assert array.tobytes() == arrays[name].tobytes(), name
    for name in sorted(set(engine.req.dtype.names) - {"chunk"}):
        np.testing.assert_array_equal(engine.req[name], before.req[name], name)


def test_a_prefill_that_preempts_itself_for_ever_is_found():
    # the whole pool is taken at admission, and a chunk needs a free block to go on
    case = reference.Settings(
        block_size=4, num_gpu_blocks=3, watermark=0.0, chunked=True, max_num_batched_tokens=4,
        max_num_seqs=4, d0=1.0,
    )  # fmt: skip
    asked = [(0.0, 10, 5)]
    rows, _, end = read_by_reference(asked, case)
    assert end == "pending" and sum(row["n_sched"] for row in rows[-100:]) > 0
    engine = engine_of(asked, case, record_batches=False)
    assert (engine.advance(), engine.status) == (Stop.STUCK, "stuck")
    bounded = engine_of(asked, case)
    assert bounded.advance(batches=5000) == Stop.BATCHES


def test_a_long_prefill_in_small_chunks_is_no_circle():
    case = reference.Settings(
        num_gpu_blocks=500, chunked=True, max_num_batched_tokens=2, max_num_seqs=2, d0=1.0
    )
    engine = engine_of([(0.0, 6000, 2)], case)
    assert (engine.advance(), engine.time) == (Stop.FINISHED, 3001.0)


def test_requests_sent_later_are_served_like_any_other():
    case = reference.Settings(num_gpu_blocks=40, d0=0.01, d1=0.0001)
    asked = [(0.1 * k, 20 + k, 10 + k) for k in range(30)]
    whole = engine_of(asked, case)
    whole.advance()
    sent = engine_of(asked[:12], case)
    sent.advance(until=0.5)
    start = sent.time
    sent.inject(table_of([(t - start, p, d) for t, p, d in asked[12:]]), replace=False)
    sent.advance()
    np.testing.assert_allclose(sent.req["done"], whole.req["done"], rtol=1e-12)


def test_totals_count_what_the_requests_got():
    asked = [(0.0, 30, 10), (0.0, 30, 10), (1.0, 500, 3)]
    case = reference.Settings(
        block_size=10, num_gpu_blocks=7, watermark=0.0, max_num_batched_tokens=64, max_num_seqs=8,
        d0=1.0,
    )  # fmt: skip
    _, requests, _ = read_by_reference(asked, case)
    run = discrete.simulate(table_of(asked), node_of(case))
    totals = run.metrics().totals
    assert [one.status for one in requests] == ["finished", "finished", "ignored"]
    assert totals["completed"] == 2 and totals["output_tokens"] == 20
    assert totals["evictions"] == sum(one.n_preempt for one in requests) > 0
    assert totals["recompute_waste"] == sum(one.recomputed for one in requests) > 0
    assert run.requests["status"].tolist() == ["finished", "finished", "ignored"]
    assert run.duration == max(one.done for one in requests)


def test_what_the_engine_does_not_know_is_refused():
    node = VllmV0()
    with pytest.raises(WorkloadError, match=r"row 2.*abort_time.*vllm_v0 does not know clients"):
        VllmV0Engine(
            RequestTable.validated([0.0, 1.0], [5, 5], [5, 5], abort_time=[np.inf, 2.0]), node
        )
    with pytest.raises(WorkloadError, match="max_model_len = 9"):
        VllmV0Engine(table_of([(0.0, 5, 5)]), replace(node, max_model_len=9))
    with pytest.raises(ConfigError, match=r"max_num_batched_tokens.*>= max_num_seqs = 256"):
        VllmV0(max_num_batched_tokens=255)
    with pytest.raises(UnsupportedError, match="no fluid model answers for the engine vllm_v0"):
        reading_of(replace(node, remote_prefill=True))


def test_the_words_of_an_end_are_those_of_the_kernel():
    assert VllmV0Engine.stuck_words == {STUCK: "stuck", EXHAUSTED: "swap_space_exhausted"}
