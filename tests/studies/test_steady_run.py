"""Long runs of the engine in a steady state: warm, followed by others, and as sure as they say."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import discrete
from discrete import Progress
from serving import BatchTimeLaw, DecodeNode, RequestMix, UnsupportedError
from studies import Question
from studies.automatic.steady import drift, first_look, steady
from studies.engine_runs import PIECES, Group, Length, length_of, pieces_of, run_of, statistics
from studies.engine_runs.clock import OverBudgetError
from workload import Workload, describe, replication_seed

DECODE = 50


def slowed(running: float, slower: float, seed: int = 3) -> Question:
    """Return requests of whom so many run, so that a batch takes so many times an empty one."""
    law = BatchTimeLaw(d_0=1.0, d_decode=(slower - 1) / running, d_kv=0.0)
    node = DecodeNode(M_total=10**8, B=None, batch_time=law)
    rate = running / DECODE / slower
    return Question(describe(types=f"(10,{DECODE},{rate})"), node, seed=seed)


@pytest.fixture(scope="module")
def answers() -> list[Any]:
    """A thousand run, a batch takes five times an empty one; twenty seeds, one run each."""
    return [steady(slowed(1000, 5.0, seed), 0.5, 10.0) for seed in range(20)]


def test_where_many_slow_each_other_the_mean_is_that_of_the_fluid_limit(answers: list[Any]) -> None:
    """Half a batch until the first one begins, and as many batches as tokens."""
    assert all(each.error.replications == 1 for each in answers)
    found = float(np.mean([each.latencies["e2el"].mean for each in answers]))
    assert found == pytest.approx((DECODE + 0.5) * 5.0, rel=0.006)
    first = float(np.mean([each.latencies["ttft"].mean for each in answers]))
    assert first == pytest.approx(1.5 * 5.0, rel=0.006)


def test_the_intervals_of_a_single_run_cover_what_they_say(answers: list[Any]) -> None:
    inside = 0
    for each in answers:
        off = math.log(each.latencies["e2el"].mean / ((DECODE + 0.5) * 5.0))
        inside += abs(off) <= each.error.errors["mean_e2el"].half_width
    assert inside >= 15


def test_a_run_is_warm_before_it_counts_and_others_follow_the_last_that_count() -> None:
    question = slowed(300, 10.0)
    length = length_of(question, 400)
    early, late, outlived = [], [], 0
    for number in range(30):
        table = question.stream.sample(
            replication_seed(question.seed, number), num_requests=length.total
        )
        at = discrete.simulate(table, question.instance, record_batches=False).requests
        stay = at["completion_time"] - at["arrival_time"]
        of = length.counted
        early.append(stay[of.start : of.start + 3000].mean())
        late.append(stay[of.stop - 300 : of.stop].mean())
        outlived += int((at["completion_time"][of] > table.arrival_time[-1]).sum())
    for some in (early, late):
        error = float(np.std(some, ddof=1)) / math.sqrt(len(some))
        assert np.mean(some) == pytest.approx((DECODE + 0.5) * 10.0, abs=4 * error)
        assert error < 0.06 * np.mean(some)
    assert outlived < 100 * len(late)


def test_a_run_is_as_long_as_its_slowest_memory_asks() -> None:
    short, long = (length_of(slowed(300, slower), 400) for slower in (2.0, 10.0))
    assert long.memory == pytest.approx(5 * short.memory, rel=1e-6)
    assert long.warm >= 3 * long.memory and long.piece >= 6 * long.memory
    assert short.after == long.after == 300
    with pytest.raises(UnsupportedError, match="no steady state"):
        length_of(slowed(300, 2.0).at_load(1.1), 400)
    with pytest.raises(UnsupportedError, match="requests to settle and to tell its noise"):
        length_of(slowed(3000, 100.0), 400)


def test_a_full_instance_does_not_remember_what_its_load_forgets() -> None:
    """Its batches cannot grow: without a slope, and with one that counts for little, alike."""
    mix = RequestMix.from_lengths([9], [10], [1.0])

    def at_half(slope: float) -> Length:
        node = DecodeNode(M_total=19, B=None, batch_time=BatchTimeLaw.per_token(1.0, slope))
        return length_of(Question(Workload(mix, 1.0), node, seed=1).at_load(0.5), 400)

    assert at_half(0.0).memory <= at_half(100.0).memory <= 2 * 10


def test_the_doubt_of_pieces_of_a_run_is_that_of_a_process_with_a_memory() -> None:
    rng = np.random.default_rng(7)
    memory, piece, runs = 50.0, 150, 1500
    keeps = math.exp(-1 / memory)
    value = rng.standard_normal(runs)
    sums = np.zeros((runs, PIECES))
    for step in range(PIECES * piece):
        value = keeps * value + math.sqrt(1 - keeps**2) * rng.standard_normal(runs)
        sums[:, step // piece] += value
    means = sums / piece
    of_pieces = math.sqrt(np.mean(np.var(means, axis=1, ddof=1)) / PIECES)
    length = Length(0, piece, 0, memory)
    assert length.doubt > 1.15
    assert length.doubt * of_pieces == pytest.approx(np.std(means.mean(axis=1)), rel=0.06)
    assert Length(0, piece, 0, 0.0).doubt == pytest.approx(1.0)


def test_a_percentile_that_pieces_do_not_reach_is_as_unsure_as_it_is() -> None:
    """Rare excursions make a tail, which most pieces miss: these agree with each other, and err."""
    rng = np.random.default_rng(11)
    memory, piece, runs, inside = 20.0, 120, 300, 0
    keeps = math.exp(-1 / memory)
    value = rng.standard_normal(runs)
    path = np.empty((PIECES * piece, runs))
    for step in range(PIECES * piece):
        value = keeps * value + math.sqrt(1 - keeps**2) * rng.standard_normal(runs)
        path[step] = np.exp(value)
    for run in range(runs):
        groups = [Group() for _ in range(PIECES)]
        for k, group in enumerate(groups):
            some = path[k * piece : (k + 1) * piece, run]
            group.add(some, some, float(some.mean()))
        means, errors = statistics(groups)
        off = abs(math.log(means[3]) - 2.3263)
        inside += off <= 1.895 * Length(0, piece, 0, memory).doubt * errors[3]
    # about the mean of pieces, instead of about the percentile of all, it were 55 %
    assert inside >= 0.62 * runs


def test_pieces_are_the_requests_that_count_in_their_order() -> None:
    question = slowed(20, 1.5)
    length = length_of(question, 400)
    found = run_of(question, 0, length)
    assert found.e2el.size == PIECES * length.piece
    parts = pieces_of(found, 2.0)
    np.testing.assert_array_equal(np.concatenate([each.e2el for each in parts]), found.e2el)
    assert parts[0].in_system == 2.0 * parts[0].e2el.mean()


@pytest.mark.parametrize("trend", [0.0, 0.5])
def test_runs_that_have_not_settled_say_so(trend: float) -> None:
    rng = np.random.default_rng(5)
    groups = [Group() for _ in range(PIECES)]
    for k, group in enumerate(groups):
        values = rng.exponential(1.0 + trend * k, 4000)
        group.add(values, values, float(values.mean()))
    found = drift(groups, 1.1)
    if trend:
        # of 1 to 4.5 the halves are 1.75 and 3.75
        assert found[:2] == pytest.approx(2.0 / 1.75, rel=0.1)
        assert (found > 0).all()
    else:
        assert (found == 0).all()


def test_a_first_run_that_is_seen_to_take_too_long_is_stopped_early() -> None:
    def look(arrived: int) -> None:
        clock: Any = SimpleNamespace(look=lambda now: None, spent=1.5, budget=10.0)
        first_look(clock)(Progress(0.0, 0, 0, arrived, 1000))

    with pytest.raises(OverBudgetError, match="takes some 30 s, more than 10 s"):
        look(50)
    look(101)
