"""What each policy chooses, and what that is good for."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fluid import capacity
from scheduling import POLICIES, Prediction, RequestMeta, Signals, View, lowest, route
from scheduling.policies import needs_predictor, policy_of
from serving import ConfigError, Contents, DecodeNode, FluidServeError, RequestTable

NODE = DecodeNode(M_total=6000, B=800)
FILE = Path(__file__).parent / "users_policies.py"
ASKED = RequestMeta(0, 50)


def requests(size, load, servers=4, seed=0):
    rng = np.random.default_rng(seed)
    prompts, answers = rng.integers(20, 80, size), rng.geometric(1 / 30, size).clip(max=300)
    table = RequestTable.validated(np.arange(size), prompts, answers)
    rate = load * servers * capacity(table.mix(), NODE)
    return RequestTable.validated(np.cumsum(rng.exponential(1 / rate, size)), prompts, answers)


def ttft(policy, *, load=0.85, size=4000, seed=0, **more):
    instances = more.pop("instances", [NODE] * 4)
    run = route(requests(size, load, seed=seed), instances, policy, **more)
    return float(run.after(size // 10).ttft.mean())


def view(**told):
    """Return what is seen of three instances that told these numbers."""
    seen = View.of([1.0, 2.0, 4.0], [100.0, 200.0, 400.0])
    for name, values in told.items():
        if name in seen.reports.dtype.names:
            seen.reports[name] = values
        else:
            getattr(seen, name)[:] = values
    return seen


CHOICES = [
    ("jsq", {"arrived": [9, 8, 9], "left": [2, 3, 1]}, 1),
    ("jsq-own", {"arrived": [9, 8, 9], "left": [2, 3, 1], "sent": [9, 12, 10]}, 0),
    ("jsq-capacity", {"arrived": [3, 6, 11], "left": [0, 0, 0]}, 2),
    ("jsq-residual", {"arrived": [1, 2, 4], "left": [0, 0, 0], "batch_start": [0, 0, math.nan],
                      "batch_duration": [3.0, 2.0, 0.0]}, 2),
    ("least-kv", {"memory": [50, 80, 210]}, 1),
    ("least-tokens", {"memory": [50, 40, 10], "waiting_prompts": [0, 5, 60]}, 1),
    ("free-kv", {"memory": [10, 100, 300], "running": [9, 4, 10]}, 1),
    ("pending-prefill", {"pending_prompts": [70, 30, 50]}, 1),
    ("lmetric", {"pending_prompts": [0, 10, 200], "arrived": [9, 6, 0], "left": [0, 0, 0]}, 2),
]  # fmt: skip


@pytest.mark.parametrize(("name", "told", "expected"), CHOICES, ids=[each[0] for each in CHOICES])
def test_a_score_sees_what_it_is_named_after(name, told, expected):
    assert policy_of(name, 0)[1](view(**told), ASKED) == expected
    assert policy_of(f"{name}@3", 0)[1](view(**told), ASKED) == expected


def test_every_score_of_what_is_told_stands_in_the_table_above():
    scores = {name for name, each in POLICIES.items() if each.score and not each.asks}
    assert {name for name, *_ in CHOICES} == scores


def test_ties_go_to_who_has_waited_longest_for_a_request():
    seen = view(last_sent=[5, 2, 3])
    assert lowest(seen, np.array([1.0, 1.0, 1.0])) == 1
    assert lowest(seen, np.array([1.0, 2.0, 1.0])) == 2
    assert lowest(seen, np.array([math.nan, math.inf, math.nan])) == 1
    assert lowest(seen, np.full(3, math.nan)) == 1
    assert lowest(view(), np.zeros(3)) == 0
    seen.among = [0, 2]
    assert lowest(seen, np.array([1.0, 0.0, 1.0])) == 2
    assert lowest(seen, np.array([1.0, 0.0, math.nan])) == 0


def test_round_robin_visits_in_turn_and_random_visits_all():
    table = requests(400, 0.5)
    assert route(table, [NODE] * 4, "round-robin").instance.tolist() == [0, 1, 2, 3] * 100
    one, other = (route(table, [NODE] * 4, "random", seed=seed).instance for seed in (1, 2))
    assert (one == route(table, [NODE] * 4, "random", seed=1).instance).all()
    assert (one != other).any()
    assert np.bincount(one, minlength=4).min() > 60


def test_the_shortest_queue_beats_chance_and_two_choices_lie_between():
    shortest, two, chance = (ttft(name) for name in ("jsq", "jsq@2", "random"))
    assert shortest < two < 0.5 * chance


def test_at_all_instances_a_power_of_k_is_the_policy_itself():
    table = requests(1000, 0.9)
    one, other = (route(table, [NODE] * 4, name).instance for name in ("least-kv", "least-kv@4"))
    assert (one == other).all()


def test_stale_signals_make_the_shortest_queue_herd_and_own_dispatches_mend_it():
    stale = Signals(60.0)
    fresh, herding = ttft("jsq", signals=Signals(0.0)), ttft("jsq", signals=stale)
    mended = ttft("jsq-own", signals=stale)
    assert herding > 3 * fresh
    assert mended < 0.5 * herding
    table = requests(1000, 0.85)
    chosen = route(table, [NODE] * 4, "jsq", signals=stale).instance
    in_turn = route(table, [NODE] * 4, "round-robin", signals=stale).instance
    assert (np.diff(chosen) == 0).mean() > 0.7
    assert (np.diff(in_turn) == 0).mean() == 0


def test_who_never_hears_anything_deals_by_its_own_count():
    table = requests(400, 0.5)
    chosen = route(table, [NODE] * 4, "jsq-own", signals=Signals(math.inf)).instance
    assert chosen.tolist() == [0, 1, 2, 3] * 100


def test_capacity_counts_where_instances_are_unequal():
    slow = replace(NODE, batch_time=NODE.batch_time.in_unit(3.0))
    fleet = [NODE, NODE, slow, slow]
    table = requests(3000, 0.4)
    blind, seeing = (route(table, fleet, name) for name in ("jsq", "jsq-capacity"))
    assert seeing.after(300).e2el.mean() < 0.9 * blind.after(300).e2el.mean()
    assert np.bincount(seeing.instance)[2:].sum() < 0.7 * np.bincount(blind.instance)[2:].sum()


def test_requests_with_one_prefix_go_to_one_instance_unless_it_is_crowded():
    size = 800
    rng = np.random.default_rng(1)
    base = requests(size, 0.6)
    ids = rng.integers(1, 9, size)
    contents = Contents.validated(np.arange(size + 1), ids, np.full(size, 10))
    table = RequestTable.validated(
        base.arrival_time, base.prefill_length, base.decode_length, contents=contents
    )
    chosen = route(table, [NODE] * 4, "prefix-affinity").instance
    home = [np.bincount(chosen[ids == each], minlength=4).max() for each in range(1, 9)]
    assert np.sum(home) > 0.45 * size
    spread = route(table, [NODE] * 4, "jsq-own").instance
    other = [np.bincount(spread[ids == each], minlength=4).max() for each in range(1, 9)]
    assert np.sum(home) > 1.3 * np.sum(other)
    # one prefix for all: the instance that has it is not given everything
    crowded = Contents.validated(np.arange(size + 1), np.ones(size, int), np.full(size, 10))
    table = RequestTable.validated(
        base.arrival_time, base.prefill_length, base.decode_length, contents=crowded
    )
    assert np.bincount(route(table, [NODE] * 4, "prefix-affinity").instance).max() < 0.6 * size


def test_a_regression_learns_to_route():
    chance, learned, shortest = (ttft(name) for name in ("random", "regression", "jsq"))
    assert learned < 0.3 * chance
    assert learned < 1.1 * shortest


class Oracle:
    """Predicts by a rule, and notes what it was asked."""

    def __init__(self, ttft, e2el=None, cost=None):
        self._ttft, self._e2el, self._cost = ttft, e2el or ttft, cost or [0.0] * len(ttft)
        self.asked, self.sent, self.traces = [], 0, 0

    def enqueue_request(self, instance_id, request_meta, ts):
        self.sent += 1

    def sync_batch_result(self, instance_id, batch_trace):
        self.traces += 1

    def predict(self, instance_id, request_meta, ts, action_hint):
        self.asked.append((instance_id, request_meta.request_id, ts, action_hint))
        which = range(len(self._ttft)) if instance_id is None else [instance_id]
        return Told([self._one(i) for i in which])

    def _one(self, i):
        if isinstance(self._ttft[i], Exception):
            raise self._ttft[i]
        return Prediction(
            i, self._ttft[i], 0.1, self._e2el[i], None, None, None, self._cost[i],
            "failed" if math.isnan(self._ttft[i]) else "high", "reference",
        )  # fmt: skip


class Told(list):
    """Predictions as arrays too."""

    ttft = property(lambda self: np.array([each.ttft for each in self]))
    e2el = property(lambda self: np.array([each.e2el for each in self]))
    behind = property(lambda self: np.array([each.externality for each in self]))


def chosen_by(policy, oracle, **meta):
    seen = view()
    seen.predictor, seen.time = oracle, 7.0
    return policy_of(policy, 0)[1](seen, replace(ASKED, **meta))


def test_predictive_policies_take_the_least_of_what_they_are_named_after():
    oracle = Oracle([3.0, 2.0, 4.0], [9.0, 8.0, 5.0], [0.0, 5.0, 0.5])
    assert chosen_by("predicted-ttft", oracle) == 1
    assert chosen_by("predicted-e2el", oracle) == 2
    assert chosen_by("predicted-cost", oracle) == 0
    assert oracle.asked[0] == (None, 0, 7.0, "ttft")
    assert chosen_by("predicted-total", oracle) == 0
    assert [each[3] for each in oracle.asked[1:]] == ["all", "behind", "all"]
    oracle.asked.clear()
    chosen_by("predicted-ttft@2", oracle)
    assert len({each[0] for each in oracle.asked}) == 2


def test_the_tightest_instance_that_keeps_the_promise():
    oracle = Oracle([3.0, 2.0, 4.0], [9.0, 8.0, 5.0])
    assert chosen_by("slo-headroom", oracle, slo_ttft=3.5) == 0
    assert chosen_by("slo-headroom", oracle, slo_ttft=5.0) == 2
    assert chosen_by("slo-headroom", oracle, slo_ttft=5.0, slo_e2el=8.5) == 1
    assert chosen_by("slo-headroom", oracle, slo_ttft=1.0) == 1
    assert chosen_by("slo-headroom", oracle) == 1


def test_a_prediction_that_fails_scores_worst():
    nothing = math.nan
    assert chosen_by("predicted-ttft", Oracle([nothing, 2.0, nothing])) == 1
    assert chosen_by("slo-headroom", Oracle([nothing, 99.0, nothing]), slo_ttft=1.0) == 1
    assert chosen_by("predicted-ttft@3", Oracle([TimeoutError(), 2.0, nothing])) in (0, 1, 2)
    late = Oracle([TimeoutError(), 2.0, 1.0])
    assert all(chosen_by("predicted-ttft@2", late) != 0 for _ in range(5))
    # where all fail the request goes somewhere
    assert chosen_by("predicted-ttft", Oracle([TimeoutError()] * 3)) == 0
    with pytest.raises(FluidServeError, match="there is none"):
        route(requests(5, 0.5), [NODE], "predicted-ttft")


def test_predictions_that_fail_are_counted_and_a_run_of_nothing_else_is_refused():
    table, nothing = requests(20, 0.5), math.nan
    run = route(table, [NODE] * 2, "predicted-ttft", predictor=Oracle([nothing, 1.0]))
    assert (run.instance == 1).all()
    assert (run.predictions.asked, run.predictions.failed) == (40, 20)
    with pytest.raises(FluidServeError, match=r"policy predicted-ttft failed.*Timeout"):
        route(table, [NODE] * 2, "predicted-ttft", predictor=Oracle([TimeoutError()] * 2))
    assert route(table, [NODE] * 2, "jsq").predictions.asked == 0


def test_a_predictor_hears_all_that_happens():
    oracle = Oracle([1.0, 2.0])
    run = route(requests(50, 0.5), [NODE] * 2, "predicted-ttft", predictor=oracle)
    assert (run.instance == 0).all()
    assert oracle.sent == 50 and oracle.traces == run.runs[0].num_batches
    assert run.runs[1] is None and run.rows[1].size == 0


def test_lengths_are_told_only_where_that_is_asked():
    seen = []

    def look(view, request):
        seen.append(request)
        return 0

    table = RequestTable.validated([0.0, 1.0], [5, 6], [7, 8], predicted_decode_length=[9, 10])
    route(table, [NODE], look)
    assert [each.predicted_decode_length for each in seen] == [None, None]
    seen.clear()
    route(table, [NODE], look, predicted_lengths=True, slo=(2.0, None))
    assert [each.predicted_decode_length for each in seen] == [9, 10]
    assert [(each.prefill_length, each.slo_ttft, each.slo_e2el) for each in seen] == [
        (5, 2.0, None), (6, 2.0, None),
    ]  # fmt: skip


def test_a_policy_of_a_user_is_called():
    table = requests(40, 0.5)
    run = route(table, [NODE] * 3, f"{FILE}:last")
    assert (run.instance == 2).all() and run.policy == f"{FILE}:last"
    both = route(table, [NODE] * 3, f"{FILE}:Alternates").instance
    assert both.tolist() == [1, 0] * 20
    assert (route(table, [NODE] * 3, "operator:ne").instance == 1).all()


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ("nonsense", "random"),
        ("jsk", "jsq"),
        ("jsq@0", "whole number"),
        ("jsq@x", "whole number"),
        ("random@2", "without @"),
        ("nowhere.py:last", "there is no file"),
        ("no_such_module:last", "No module"),
        (f"{FILE}:lost", "defines no function 'lost'"),
        (f"{FILE}:alone", "a function of"),
        (f"{FILE}:too_far", "chose 2"),
        (f"{FILE}:no_number", "chose 'first'"),
        (f"{FILE}:fails", "AttributeError"),
    ],
)
def test_what_is_no_policy_is_said(policy, words):
    with pytest.raises(FluidServeError, match=words):
        route(requests(5, 0.5), [NODE] * 2, policy)
    assert not needs_predictor(policy)


def test_a_word_is_suggested_once():
    with pytest.raises(ConfigError) as said:
        policy_of("jsk", 0)
    assert str(said.value).count("did you mean 'jsq'?") == 1


def test_names():
    assert needs_predictor("predicted-ttft") and needs_predictor("predicted-ttft@2")
    with pytest.raises(ConfigError):
        policy_of("", 0)
