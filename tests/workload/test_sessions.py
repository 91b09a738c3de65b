"""Turns that wait for answers, in files and from the generator."""

from __future__ import annotations

import numpy as np
import pytest

from serving import ConfigError, RequestTable, UnsupportedError, WorkloadError
from workload import copied, describe, generate, read_trace, write_requests

TALK = {"turns": 3, "think_time": 4.0, "sessions": 5, "closed_loop": True}


def write(path, text):
    path.write_text(text)
    return path


def test_the_projects_own_format_holds_sessions(tmp_path):
    path = write(
        tmp_path / "r.csv",
        "arrival_time,prefill_length,decode_length,session_id,think_time\n"
        "0,10,5,anna,\n0,10,5,ben,0\n1,30,5,anna,2.5\n2,9,9,,\n",
    )
    table = read_trace(path).requests
    assert table.session.tolist() == [0, 1, 0, -1]
    assert table.think_time.tolist() == [0.0, 0.0, 2.5, 0.0]
    assert table.next_turns().tolist() == [2, -1, -1, -1]
    write_requests(table, tmp_path / "again.csv")
    again = read_trace(tmp_path / "again.csv").requests
    for name, column in table.arrays().items():
        assert np.array_equal(column, again.arrays()[name])


def test_files_without_sessions_are_written_as_before(tmp_path):
    write_requests(RequestTable.validated([0.0], [1], [1]), tmp_path / "r.csv")
    head = (tmp_path / "r.csv").read_text().splitlines()[0]
    assert head == "arrival_time,prefill_length,decode_length"


@pytest.mark.parametrize(("think", "session"), [("-1", "a"), ("nan", "a"), ("x", "a"), ("1", "")])
def test_a_time_to_think_that_is_none_is_named(tmp_path, think, session):
    path = write(
        tmp_path / "r.csv",
        "arrival_time,prefill_length,decode_length,session_id,think_time\n"
        f"0,10,5,a,\n0,10,5,{session},{think}\n",
    )
    with pytest.raises(WorkloadError) as error:
        read_trace(path)
    assert (error.value.row, error.value.column, error.value.value) == (2, "think_time", think)


LATER = (
    '{"timestamp": 0, "input_length": 9, "output_length": 4, "session_id": "a"}\n'
    '{"timestamp": 3000, "input_length": 9, "output_length": 4, "session_id": "b"}\n'
    '{"input_length": 30, "output_length": 4, "session_id": "a", "delay_ms": 500}\n'
    '{"input_length": 50, "output_length": 4, "session_id": "a", "delay_ms": 700}\n'
)


def test_later_turns_of_a_trace_wait_where_that_is_asked_for(tmp_path):
    path = write(tmp_path / "t.jsonl", LATER)
    waiting = read_trace(path, closed_loop=True)
    table = waiting.requests
    assert table.arrival_time.tolist() == [0.0, 0.0, 0.0, 3.0]
    assert table.session.tolist() == [0, 0, 0, 1]
    assert table.think_time.tolist() == [0.0, 0.5, 0.7, 0.0]
    assert not any("too early" in note for note in waiting.notes)
    given = read_trace(path)
    assert not given.requests.has_sessions and any("too early" in note for note in given.notes)


def test_a_trace_without_sessions_cannot_wait(tmp_path):
    rows = "timestamp,input_length,output_length\n0,1,1\n900,1,1\n"
    with pytest.raises(WorkloadError, match="which requests are turns"):
        read_trace(write(tmp_path / "t.csv", rows), closed_loop=True)
    own = "arrival_time,prefill_length,decode_length\n0,1,1\n"
    with pytest.raises(WorkloadError, match="which requests are turns"):
        read_trace(write(tmp_path / "r.csv", own), closed_loop=True)


def test_clients_have_one_conversation_after_another():
    table = generate(num_requests=60, seed=3, **TALK)
    assert set(table.session.tolist()) == set(range(5))
    contents = table.contents
    assert contents is not None
    for client in range(5):
        rows = np.flatnonzero(table.session == client)
        assert len(set(table.arrival_time[rows])) == 1
        assert table.think_time[rows[0]] == 0.0 and (table.think_time[rows[1:]] > 0).all()
        said: list[int] = []
        for k, row in enumerate(rows):
            ids = contents.piece_id[contents.first[row] : contents.first[row + 1]].tolist()
            assert ids[:-1] == (said if k % 3 else [])
            said = [*ids, int(contents.answer[row])]
    pieces = np.add.reduceat(contents.piece_length, contents.first[:-1])
    assert (pieces == table.prefill_length).all()
    assert np.mean(table.think_time[table.think_time > 0]) == pytest.approx(4.0, rel=0.4)


def test_conversations_begin_at_a_rate_where_nobody_counts_clients():
    workload = describe(arrival_rate=6.0, turns=3, think_time=4.0, closed_loop=True)
    table = workload.sample(1, num_requests=3000)
    starts = [table.arrival_time[table.session == each][0] for each in range(1000)]
    assert len(starts) / max(starts) == pytest.approx(2.0, rel=0.15)
    assert table.think_time[np.unique(table.session, return_index=True)[1]].max() == 0.0


def test_system_prompts_stand_first_and_are_shared():
    table = generate(
        num_requests=40, turns=2, think_time=1.0, sessions=4, closed_loop=True, system_prompts=2,
        system_prompt_length=70,
    )  # fmt: skip
    contents = table.contents
    assert contents is not None
    first = contents.first[:-1]
    assert set(contents.piece_id[first].tolist()) == {1, 2}
    assert (contents.piece_length[first] == 70).all()


def test_requests_that_wait_have_no_rate():
    workload = describe(sessions=5, turns=2, think_time=1.0, closed_loop=True)
    with pytest.raises(UnsupportedError, match="wait for answers"):
        workload.profile(10.0)
    with pytest.raises(UnsupportedError, match="wait for answers"):
        workload.mean_rate  # noqa: B018 (a property that refuses)
    with pytest.raises(UnsupportedError, match="no rate that can be set"):
        workload.at_rate(2.0)
    with pytest.raises(ConfigError, match="horizon"):
        workload.sample(1, horizon=10.0)


@pytest.mark.parametrize(
    "options",
    [
        {"turns": 3, "think_time": 1.0},
        {"arrival_rate": 1.0},
        {"sessions": 3, "turns": 2, "think_time": 1.0, "answer_token_time": 0.1},
    ],
)
def test_what_a_closed_loop_needs(options):
    with pytest.raises(ConfigError):
        describe(closed_loop=True, **options)


def test_copies_of_sessions_are_sessions_of_their_own():
    table = RequestTable.validated([0.0, 1.0], [5, 5], [1, 1], session=[0, 0])
    twice = copied(table, 2)
    assert twice.session.tolist() == [0, 1, 0, 1]
    joined = table.joined(table)
    assert sorted(joined.session.tolist()) == [0, 0, 1, 1]
