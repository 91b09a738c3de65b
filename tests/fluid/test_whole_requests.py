"""A node of few whole requests: the march against the engine, and what follows from it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from discrete import simulate
from fluid import capacity, equilibrium_gradients, requests_that_fit, saturation, whole_requests
from fluid._capacity import FEW
from serving import BatchTimeLaw, DecodeNode, RequestMix, RequestTable

LAW = BatchTimeLaw.per_token(0.02, 1e-5)
ALIKE = ([371], [20])
MIXED = ([371] * 21, range(10, 31))
WIDE = ([50] * 39, range(20, 401, 10))


def drawn(mix: RequestMix, count: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    at = np.random.default_rng(seed).choice(len(mix), size=count, p=mix.probability)
    return mix.prefill[at].astype(int), mix.decode[at]


def from_a_backlog(mix: RequestMix, node: DecodeNode, count: int = 6000) -> float:
    """Return what the engine completes per time, for the work that it drew."""
    p, d = drawn(mix, count)
    rows = simulate(RequestTable.validated(np.zeros(count), p, d), node).batches
    done, time = rows["completed_count"], rows["time"]
    first, last = int(0.1 * done.size), int(0.85 * done.size)
    work = np.mean(p * d + d * (d + 1) / 2)
    return (done[last] - done[first]) / (time[last] - time[first]) * work / mix.work


@pytest.mark.parametrize("lengths", [ALIKE, MIXED, WIDE])
@pytest.mark.parametrize("fit", [1.05, 2.1, 2.9, 4.6, 9.0])
@pytest.mark.parametrize("limit", ["B", "M"])
def test_capacity_of_few_is_what_the_engine_completes(lengths, fit, limit):
    mix = RequestMix.from_lengths(*lengths)
    tokens = int(max(fit * mix.work / mix.mean_decode, (mix.prefill + mix.decode).max()))
    sizes = {"M_total": tokens, "B": None} if limit == "M" else {"M_total": 10**5, "B": tokens}
    node = DecodeNode(LAW, **sizes)
    bound = 0.002 if lengths is ALIKE else 0.015  # of the draw of the engine's lengths
    assert capacity(mix, node) == pytest.approx(from_a_backlog(mix, node), rel=bound)


@pytest.mark.parametrize(("budget", "slots"), [(800, 2), (1000, 2), (1500, 3), (1600, 4)])
def test_a_budget_of_two_whole_requests(budget, slots):
    """371 + 1 to 371 + 20 tokens: 800 and 1,000 hold two, never more; closed form."""
    mix, node = RequestMix.from_lengths(*ALIKE), DecodeNode(LAW, M_total=9180, B=budget)
    batch = 0.02 + 1e-5 * slots * mix.work / 20
    assert capacity(mix, node) == pytest.approx(slots / (20 * batch), rel=1e-3)


@pytest.mark.parametrize("budget", [800, 1130, 1300])
def test_load_1_is_where_the_backlog_starts_to_grow(budget):
    """The verdict of a load just below and just above 1, against Poisson arrivals."""
    mix, node = RequestMix.from_lengths(*ALIKE), DecodeNode(LAW, M_total=9180, B=budget)
    count, gaps = 30_000, np.random.default_rng(3).exponential(size=30_000)
    backlog = []
    for load in (0.96, 1.04):
        arrival = np.cumsum(gaps) / (load * capacity(mix, node))
        table = RequestTable.validated(arrival, np.full(count, 371), np.full(count, 20))
        run = simulate(table, node, record_batches=False)
        backlog.append(count - int((run.requests["completion_time"] <= arrival[-1]).sum()))
    assert backlog[0] < 0.01 * count < 0.02 * count < backlog[1]


lengths_strategy = st.lists(
    st.tuples(st.integers(1, 300), st.integers(1, 60)), min_size=1, max_size=4, unique=True
)


@settings(deadline=None, max_examples=25)
@given(
    lengths_strategy,
    st.floats(1.0, 8.0),
    st.floats(1.0, 8.0),
    st.sampled_from(["swapping", "sacrifice"]),
    st.sampled_from([1.0, 0.7]),
)
def test_the_march_is_the_engine(pairs, memory, budget, mode, threshold):
    """Whatever binds, and whatever an eviction costs; swaps take time as well."""
    mix = RequestMix.from_lengths(*zip(*pairs, strict=True))
    longest = float((mix.prefill + mix.decode).max())
    law = BatchTimeLaw(d_0=1.0, d_decode=0.2, d_kv=1e-3, d_swap=1e-4)
    node = DecodeNode(
        law, M_total=int(memory * longest) + 1, B=int(budget * longest) + 1, mode=mode,
        admission_threshold=threshold,
    )  # fmt: skip
    found = whole_requests(mix, node)
    assert found.throughput(mix) == pytest.approx(from_a_backlog(mix, node), rel=0.04)


def test_what_a_sacrifice_loses_is_no_part_of_the_capacity():
    mix = RequestMix.from_lengths(*WIDE)
    sacrifice = DecodeNode(LAW, M_total=1600, B=None, mode="sacrifice")
    swapping = DecodeNode(LAW, M_total=1600, B=None)
    assert requests_that_fit(mix, sacrifice) < FEW
    assert capacity(mix, sacrifice) == capacity(mix, swapping)
    lossy = whole_requests(mix, sacrifice)
    assert lossy.evictions_per_completion > 0.3
    assert lossy.throughput(mix) < 0.85 * capacity(mix, sacrifice)
    assert lossy.throughput(mix) == pytest.approx(from_a_backlog(mix, sacrifice), rel=0.02)


@pytest.mark.parametrize("lengths", [ALIKE, MIXED, WIDE])
def test_many_and_few_meet(lengths):
    """Either side of FEW the capacity is the same curve to 1 %."""
    mix = RequestMix.from_lengths(*lengths)
    each = mix.work / mix.mean_decode
    few, many = (DecodeNode(LAW, M_total=10**6, B=round(FEW * each * x)) for x in (0.999, 1.001))
    assert requests_that_fit(mix, few) < FEW < requests_that_fit(mix, many)
    assert saturation(mix, few).batch_tokens == pytest.approx(
        saturation(mix, many).batch_tokens, rel=0.015
    )


def test_a_request_that_does_not_fit_runs_alone():
    mix = RequestMix.from_lengths([50], [10])
    node = DecodeNode(LAW, M_total=40, B=None)
    assert capacity(mix, node) == pytest.approx(1 / (10 * 0.02 + 1e-5 * mix.work))


def test_the_capacity_of_few_has_no_slope_in_sizes_and_lengths():
    """It is a staircase in them: no number, rather than that of a smooth formula."""
    mix, node = RequestMix.from_lengths(*ALIKE), DecodeNode(LAW, M_total=9180, B=1000)
    slopes = equilibrium_gradients(mix, node, 0.5 * capacity(mix, node))["capacity"]
    assert all(np.isnan(slopes[name]) for name in ("M_total", "B", "mean_prefill", "mean_decode"))
    slower = DecodeNode(BatchTimeLaw.per_token(0.0201, 1e-5), M_total=9180, B=1000)
    change = (capacity(mix, slower) - capacity(mix, node)) / 1e-4
    assert slopes["d_0"] == pytest.approx(change, rel=0.01)
