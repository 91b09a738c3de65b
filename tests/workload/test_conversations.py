"""Turns of conversations: what they repeat, when they come, and how many there are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving import ConfigError, RequestTable, WorkloadError
from workload import Workload, describe, generate, read_trace, write_requests

TALK = {"turns": 4, "think_time": 20.0, "answer_token_time": 0.5, "sessions": 30}
SYSTEM = {"system_prompts": 3, "system_prompt_length": 70}


def pieces(table: RequestTable) -> list[list[tuple[int, int]]]:
    held = table.contents
    assert held is not None
    pairs = list(zip(held.piece_id.tolist(), held.piece_length.tolist(), strict=True))
    return [pairs[a:b] for a, b in zip(held.first[:-1], held.first[1:], strict=True)]


def before(table: RequestTable) -> list[int | None]:
    """Return the request whose answer each request repeats last; None where it is not there."""
    assert table.contents is not None
    of_answer = {content: k for k, content in enumerate(table.contents.answer.tolist())}
    return [of_answer.get(row[-2][0]) if len(row) > 1 else None for row in pieces(table)]


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    turns=st.integers(1, 6),
    systems=st.integers(0, 3),
    per_token=st.sampled_from([None, 0.0, 0.3]),
    think=st.sampled_from([0.0, 5.0]),
    size=st.integers(1, 200),
)
def test_a_turn_repeats_what_was_said(seed, turns, systems, per_token, think, size):
    options = {"turns": turns, "arrival_rate": 2.0}
    if turns > 1:
        options |= {"think_time": think, "answer_token_time": per_token}
    if systems:
        options |= {"system_prompts": systems, "system_prompt_length": 70}
    table = describe("normal", **options).sample(seed, num_requests=size)
    assert len(table) == size and table.contents is not None
    rows, answer = pieces(table), table.contents.answer.tolist()
    new = [row[-1] for row in rows]
    assert len({one for one, _ in new} | set(answer)) == 2 * size  # each is said once
    for k, (row, follows) in enumerate(zip(rows, before(table), strict=True)):
        assert table.prefill_length[k] == sum(length for _, length in row)
        if systems:
            assert row[0][0] in range(1, systems + 1) and row[0][1] == 70
        assert len(row) % 2 == (0 if systems else 1)
        assert len(row) // 2 < turns + bool(systems)
        assert 10 <= new[k][1] <= 200  # a turn of the scenario, whose lengths these are
        if follows is not None:
            said = (answer[follows], int(table.decode_length[follows]))
            assert row[:-1] == [*rows[follows], said]
            gap = table.arrival_time[k] - table.arrival_time[follows]
            took = table.decode_length[follows] * (per_token or 0.0)
            assert gap >= took - 1e-9
            if think == 0:
                assert gap == pytest.approx(took, abs=1e-9)
    answered = [one for one in before(table) if one is not None]
    assert len(set(answered)) == len(answered)  # a turn has one turn after it


def test_a_longer_draw_begins_with_the_shorter_one():
    workload = describe("normal", **TALK, **SYSTEM)
    long, short = workload.sample(5, num_requests=900), workload.sample(5, num_requests=300)
    for name, column in long.take(range(300)).arrays().items():
        assert column.tobytes() == short.arrays()[name].tobytes(), name
    until = workload.sample(5, horizon=float(long.arrival_time[-1]) * (1 + 1e-9))
    assert until.arrival_time == pytest.approx(long.arrival_time)
    assert pieces(until) == pieces(long)
    assert workload.sample(6, num_requests=300).arrival_time[0] != short.arrival_time[0]


def test_nothing_but_prompts_changes_where_requests_are_no_turns():
    plain = describe("bursty").sample(3, num_requests=200)
    system = describe("bursty", **SYSTEM).sample(3, num_requests=200)
    assert system.arrival_time.tobytes() == plain.arrival_time.tobytes()
    assert system.decode_length.tobytes() == plain.decode_length.tobytes()
    assert (system.prefill_length == plain.prefill_length + 70).all()
    assert {row[0][0] for row in pieces(system)} == {1, 2, 3}
    assert plain.contents is None


def within(values: list[float], expected: float) -> bool:
    """Return whether a mean is what it should be, within four of its standard errors."""
    error = np.std(values, ddof=1) / np.sqrt(len(values))
    return abs(np.mean(values) - expected) <= 4 * error and 4 * error < 0.1 * expected


def test_conversations_go_on_from_time_0_as_ever_after():
    """Over less than the time between two turns, so that a start from nothing would show."""
    workload = describe("normal", **TALK, **SYSTEM)
    assert workload.conversations is not None
    gap = workload.conversations.gap
    assert gap == pytest.approx(20 + 0.5 * workload.conversations.turn_mix.mean_decode)
    draws = [workload.sample(seed, horizon=gap / 2) for seed in range(450)]
    assert within([len(table) for table in draws], workload.profile(gap / 2).total)
    rows = [(table.prefill_length, table.decode_length) for table in draws]
    mix = workload.mix
    counts = np.mean([len(table) for table in draws])  # ratios of means have no small bias
    assert within([p.sum() / counts for p, _ in rows], mix.mean_prefill)
    assert within([d.sum() / counts for _, d in rows], mix.mean_decode)
    assert within([(p * d + d * (d + 1) / 2).sum() / counts for p, d in rows], mix.work)
    first = [sum(len(row) == 2 for row in pieces(table)) for table in draws]
    assert within(first, workload.profile(gap / 2).total / 4)


def test_as_many_sessions_go_on_as_were_asked_for():
    """Gaps that begin and end before time 200 last together as long as theory says."""
    workload = describe("normal", **TALK)
    talk = workload.conversations
    assert talk is not None
    found = []
    for seed in range(120):
        table = workload.sample(seed, horizon=200.0)
        pairs = [(k, one) for k, one in enumerate(before(table)) if one is not None]
        later, earlier = np.array(pairs).T
        found.append(float((table.arrival_time[later] - table.arrival_time[earlier]).sum()))
    begin = workload.rate * 3 / 4  # turns that another follows, per time
    assert begin * talk.gap == pytest.approx(30)
    decode, weight = talk.turn_mix.decode, talk.turn_mix.probability
    square = 2 * 20.0**2 + 2 * 20.0 * 0.5 * (weight @ decode) + 0.25 * (weight @ decode**2)
    assert within(found, begin * (200 * talk.gap - square))  # gap * (200 - gap), on average


def test_the_rate_of_sessions_and_the_scatter_of_arrivals():
    workload = describe("normal", **TALK)
    assert workload.rate == pytest.approx(30 * 4 / (3 * (20 + 0.5 * 38)))
    assert workload.dispersion == 4.0
    counts = [len(workload.sample(seed, horizon=2000.0)) for seed in range(150)]
    scatter = np.var(counts, ddof=1) / np.mean(counts)
    assert 2.5 < scatter < 5.5  # 4, with a standard error of sqrt(2 / 149), less what is cut off
    assert workload.scaled(3).rate == 3 * workload.rate
    slow = workload.stretched(2.0)
    assert slow.conversations is not None and slow.conversations.gap == pytest.approx(78)
    assert slow.at_rate(0.1).rate == 0.1


def test_a_draw_is_written_and_read_again(tmp_path):
    table = generate("normal", num_requests=60, seed=4, **TALK, **SYSTEM)
    write_requests(table, tmp_path / "r.csv")
    back = read_trace(tmp_path / "r.csv", start=0.0).requests.arrays()
    for name in ("contents_first", "contents_piece_id", "contents_piece_length", "contents_answer"):
        assert back[name].tobytes() == table.arrays()[name].tobytes()


@pytest.mark.parametrize(
    ("options", "key", "allowed"),
    [
        ({"turns": 0}, "turns", "a whole number >= 1"),
        ({"turns": 3}, "turns", "beside think_time"),
        ({"turns": 1, "think_time": 3.0}, "think_time", "turns above 1"),
        ({"think_time": 3.0}, "think_time", "turns above 1"),
        ({"answer_token_time": 0.1}, "answer_token_time", "turns above 1"),
        ({"turns": 2, "think_time": -1.0}, "think_time", ">= 0"),
        ({"sessions": 5}, "sessions", "turns above 1"),
        ({"turns": 2, "think_time": 0.0, "sessions": 5}, "sessions", "some time apart"),
        ({"turns": 2, "think_time": 1.0, "sessions": 0}, "sessions", "a whole number >= 1"),
        (TALK | {"arrival_rate": 1.0}, "sessions", "the rate"),
        (TALK | {"types": "(1,1,1)"}, "sessions", "the rate"),
        ({"system_prompts": 2}, "system_prompts", "together"),
        ({"system_prompt_length": 2}, "system_prompt_length", "together"),
        ({"system_prompts": 0, "system_prompt_length": 2}, "system_prompts", ">= 1"),
        ({"turns": 2, "think_time": 1.0, "rate_shape": "sine(amplitude=0.5,period=9)"},
         "rate_shape", "constant"),
    ],
)  # fmt: skip
def test_what_contradicts_is_refused(options, key, allowed):
    with pytest.raises(ConfigError, match=rf"config key '{key}': .*{allowed}"):
        describe("normal", **options)


def test_requests_that_others_repeat_are_not_left_out():
    workload = describe("normal", L_filter=90, **TALK)  # of what is said in a turn
    assert workload.mix.longest_decode == 90
    with pytest.raises(ConfigError, match=r"'L_filter': 50 .*repeat each other"):
        workload.filtered(50)
    with pytest.raises(ConfigError, match="repeat each other"):
        workload.fitting(10**9)
    with pytest.raises(WorkloadError, match="conversations at a time are too many"):
        describe("normal", turns=2, think_time=1e12, arrival_rate=1.0).sample(1, num_requests=1)
    with pytest.raises(WorkloadError, match="no request arrives by time"):
        describe("normal", turns=2, think_time=1.0, arrival_rate=1e-9).sample(1, horizon=1.0)
    assert isinstance(describe("normal", turns=1), Workload)
