"""The score card: errors are what they say, and a fit is judged on what it did not see."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from fluid import capacity
from studies import score_card
from studies.score_card import QUANTITIES, Condition, Score, fit_capacity, score, summary

CASE = Condition(0.8, 1.0, "none", "normal", 10)


def test_a_condition_is_what_it_is_named():
    question, node = CASE.question(), CASE.instance
    assert question.stream.rate == pytest.approx(0.8 * capacity(question.mix, node))
    assert (node.M_total, node.B) == (100_000, 20_000)
    full = replace(CASE, mode="sacrifice").instance
    assert (full.M_total, full.B, full.mode) == (20_000, None, "sacrifice")
    everything = list(score_card.conditions())
    assert len(everything) == math.prod(len(values) for values in score_card.GRID.values())


def test_a_score_is_the_metrics_of_the_fluid_over_those_of_the_engine():
    from studies import Replications, compare

    scored = score(CASE, ("lagrangian",), requests_wanted=8000, horizon=800.0, workers=1)
    question = CASE.question(800.0)
    runs = max(8, math.ceil(8000 / question.profile.total))
    done = compare(question, ("lagrangian",), Replications(runs, workers=1))
    metrics = done.methods["lagrangian"].metrics
    assert metrics is not None and done.discrete.metrics is not None
    error = metrics.latencies["e2el"].mean / done.discrete.metrics.latencies["e2el"].mean - 1
    assert scored.error("lagrangian", "mean_e2el") == pytest.approx(error, rel=1e-12)
    assert -0.05 < error < 0 and 0 < scored.standard_error["mean_e2el"] < 0.05


def made_up(condition, factor):
    """Return a score whose engine is a fluid of another capacity."""
    question = condition.question(2000.0)
    other = question.on(score_card.with_capacity(question.instance, factor))
    truth = score_card.solved(other, "lagrangian")
    return Score(condition, truth, {}, {"lagrangian": dict(truth)})


def test_a_capacity_that_is_there_is_found_and_helps_on_what_is_held_out():
    cases = [replace(CASE, load=load, lengths=it) for load in (1.1, 1.2) for it in
             ("normal", "heavy")]  # fmt: skip
    scores = [made_up(case, 0.9) for case in cases]
    fit = fit_capacity(
        scores, "lagrangian", lambda it: it.lengths == "heavy", horizon=2000.0,
        factors=(0.84, 0.88, 0.9, 0.92, 1.0),
    )  # fmt: skip
    assert fit.factor == 0.9 and fit.helps
    assert fit.after < 1e-9 < fit.before


def test_a_capacity_that_is_not_there_does_not_help():
    """Fitted to a condition off in one way, it makes one that is off in the other way worse."""
    fitted, held = replace(CASE, load=1.1), replace(CASE, load=1.1, lengths="heavy")
    scores = [made_up(fitted, 0.88), made_up(held, 1.0)]
    fit = fit_capacity(
        scores, "lagrangian", lambda it: it.lengths == "heavy", horizon=2000.0,
        factors=(0.88, 1.0),
    )  # fmt: skip
    assert fit.factor == 0.88 and not fit.helps and fit.after > fit.before


def test_a_summary_counts_what_is_within_five_per_cent():
    def row(load, error):
        return Score(
            replace(CASE, load=load), dict.fromkeys(QUANTITIES, 100.0), {},
            {"m": dict.fromkeys(QUANTITIES, 100.0 * (1 + error))},
        )  # fmt: skip

    first, second = summary([row(0.5, 0.01), row(0.5, -0.2), row(0.8, 0.04)], "m", "load")
    assert (first["conditions"], first["mean_e2el"]["within"]) == (2, 1)
    assert first["mean_e2el"]["largest"] == pytest.approx(-0.2)
    assert second["mean_e2el"]["within"] == 1
    assert summary([row(0.5, 0.1)], "other", "load")[0]["mean_e2el"]["median_error"] is None
