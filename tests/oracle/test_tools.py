"""The tools of the differential tests: what they compare, the cases they draw, how they shrink."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import columns
import pytest
from case import DEFAULTS, Case
from compare import difference
from families import COMPARED, make
from real_side import Answer
from shrink import smaller

EVERY = [(family, *which) for which, families in COMPARED.items() for family in families]
ROW = dict.fromkeys(columns.DECISIONS, 0) | {"sched_ids": ["0:5", "1:1"], "sched_us": 71.5}
REQUEST = dict.fromkeys(columns.REQUESTS, 0) | {"status": "pending", "done": None}


def answer(status="finished", rows=3, applied=3, request=REQUEST, **cells):
    """Return an answer whose last row has ``cells``."""
    decisions = columns.text_of(columns.DECISIONS, [ROW] * (rows - 1) + [ROW | cells])
    return Answer(status, decisions, columns.text_of(columns.REQUESTS, [request]), applied=applied)


def test_equal_answers_do_not_differ():
    assert difference("it", answer(), answer()) is None


@pytest.mark.parametrize("column", [c for c in columns.DECISIONS if c != "sched_us"])
def test_each_column_of_a_decision_is_compared(column):
    found = difference("it", answer(**{column: 7}), answer())
    assert (found.log, found.row, found.column, found.ours) == ("decision log", 2, column, "7")


@pytest.mark.parametrize("column", columns.REQUESTS)
def test_each_column_of_a_request_is_compared(column):
    found = difference("it", answer(request=REQUEST | {column: "x"}), answer())
    assert (found.log, found.row, found.column, found.ours) == ("request log", 0, column, "x")


def test_the_time_of_a_decision_is_not_compared():
    assert difference("it", answer(sched_us=0.1), answer()) is None


def test_a_row_too_many_and_a_row_too_few_differ():
    assert difference("it", answer(rows=4), answer()).column == "rows"
    assert difference("it", answer(rows=2), answer()).column == "rows"


def test_another_header_differs():
    renamed = replace(answer(), decisions=answer().decisions.replace("n_sched", "scheduled"))
    assert difference("it", renamed, answer()).column == "header"


def test_where_the_real_run_broke_off_only_applied_steps_count():
    theirs = answer("max_iters", rows=5, applied=4, sched_ids=["9:9"])
    assert difference("it", answer(rows=4), theirs) is None
    assert difference("it", answer(rows=3), theirs).column == "rows"
    assert difference("it", answer(rows=4, sched_ids=[]), theirs).row == 3


def test_where_the_real_scheduler_raised_ours_has_to_end():
    theirs = answer("raised:RuntimeError")
    assert difference("it", answer(), theirs) is None
    assert difference("it", answer(rows=4), theirs).column == "rows"


def test_who_waits_for_ever_may_be_called_stuck():
    theirs = answer("stuck")
    assert difference("it", answer(status="stuck"), theirs) is None
    named = answer(request=REQUEST | {"status": "stuck"})
    assert difference("it", named, theirs) is None
    assert difference("it", named, answer()).column == "status"


@pytest.mark.parametrize(("family", "engine", "version"), EVERY)
def test_a_name_stands_for_one_case(family, engine, version):
    texts = [make(family, number, engine, version).to_json() for number in range(6)]
    assert texts == [make(family, number, engine, version).to_json() for number in range(6)]
    assert len(set(texts)) == 6
    for text in texts:
        case = Case.from_json(text)
        assert case.to_json() == text
        assert all(a.arrival <= b.arrival for a, b in pairwise(case.requests))
        times = [one.arrival for one in case.requests] + list(case.batch_time.values())
        assert all((time * 2**20).is_integer() for time in times)


def test_versions_of_an_engine_get_the_same_requests():
    newer, older = (make("case", 3, "vllm_v0", version) for version in ("0.6.3", "0.5.4"))
    assert (newer.requests, newer.settings) == (older.requests, older.settings)


def test_a_failing_case_is_made_as_small_as_its_reason():
    case = make("case_ext", 4, "vllm_v1", "0.33")
    assert len(case.requests) > 2
    long = max(one.prompt for one in case.requests)

    def fails(candidate):
        return max(one.prompt for one in candidate.requests) == long

    small = smaller(case, fails, trials=5000)
    assert len(small.requests) == 1
    assert (small.requests[0].prompt, small.requests[0].output) == (long, 1)
    kept = {key for key, value in small.settings.items() if value != DEFAULTS[key]}
    assert kept <= {"block_size", "num_gpu_blocks", "max_num_seqs"}
