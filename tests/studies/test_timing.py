"""The time of warm work is no time of compilation, however slow the machine compiles."""

from __future__ import annotations

import pytest

from studies import timing


@pytest.mark.parametrize(("first", "told"), [(54.7, 0.25), (3.0, 0.25), (400.0, 400.0)])
def test_a_first_turn_that_compiles_does_not_count(monkeypatch, first, told):
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    turns = timing.WarmTurns()
    for turn in turns:
        now[0] += first if turn == 0 else 0.25
    assert turns.seconds == pytest.approx(told)
