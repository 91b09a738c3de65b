"""Two states of a server whose clients wait for answers, predicted and simulated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import discrete
from serving import BatchTimeLaw, FluidServeError, RequestTable, UnsupportedError, VllmV1
from studies.prefix_cache import PrefixCache, WaitingTurns
from workload import Conversations, LengthDistribution, RequestClass, Workload, mix_of

LAW = BatchTimeLaw(d_0=0.0067, d_decode=1.5e-5, d_kv=4.65e-8, d_prefill=2.4e-5)
SERVER = VllmV1(
    batch_time=LAW, num_gpu_blocks=120_000, max_num_seqs=1024, max_num_batched_tokens=8192
)
TURN = RequestClass(
    "turn", 1.0, LengthDistribution.uniform(1000, 5000), LengthDistribution.uniform(200, 400)
)


def waiting(rate: float, requests: int, at_once: int = 0) -> RequestTable:
    """Return conversations that begin at a rate, the last ones of them at time 0."""
    talks = Conversations(mix_of([TURN]), turns=4, think_time=30.0, waits=True)
    table = Workload(talks.mix(), rate, conversations=talks).sample(
        np.random.SeedSequence(3), num_requests=requests
    )
    burst = table.session > table.session.max() - at_once
    moved = replace(table, arrival_time=np.where(burst, 0.0, table.arrival_time))
    return moved.take(np.arange(len(table)))


def late(requests: RequestTable, node: VllmV1) -> tuple[float, float, float]:
    """Return throughput and mean wait while the last part of the conversations begins, and hits."""
    run = discrete.simulate(requests, node, record_batches=False)
    found, end = run.requests, requests.horizon
    done = np.asarray((found["completion_time"] > 0.6 * end) & (found["completion_time"] < end))
    wait = np.asarray(found["first_enter_running_time"] - found["arrival_time"])
    share = run.totals()["prefix_cache_hit_rate"]
    return float(done.sum() / (0.4 * end)), float(np.mean(wait[done])), share


@pytest.mark.slow
def test_two_states_are_those_of_the_engine() -> None:
    rate = 3.6
    states = WaitingTurns(waiting(rate, 3000), SERVER)
    healthy, backlogged = states.at(0.0), states.at(states.longest_wait())
    assert healthy.load < 0.9
    assert backlogged.load > 1.05
    throughput, wait, share = late(waiting(rate, 5000), SERVER)
    assert wait < 0.5
    assert throughput == pytest.approx(rate, rel=0.05)
    # the run begins with an empty cache, the state does not
    assert share == pytest.approx(healthy.hit_share, abs=0.03)
    throughput, wait, share = late(waiting(rate, 10_000, at_once=500), SERVER)
    assert wait > 20
    assert share < 0.03
    assert throughput == pytest.approx(rate / backlogged.load, rel=0.04)


@pytest.mark.slow
def test_the_band_ends_where_the_states_end() -> None:
    states = WaitingTurns(waiting(3.6, 4000), SERVER)
    low, high = states.band()
    assert 2.9 < low < 3.3 < 3.9 < high < 4.5
    assert states.at(states.longest_wait(low) / 2, low).load == pytest.approx(1, abs=0.01)
    with pytest.raises(FluidServeError, match="more requests"):
        states.at(2 * states.longest_wait())
    assert states.at(0.0, 0.97 * high).load < 1 < states.at(0.0, 1.03 * high).load
    few = WaitingTurns(waiting(4.0, 4000), replace(SERVER, max_num_seqs=64))
    critical = few.critical_wait()
    assert few.at(0.5 * critical).load < 1 < few.at(2 * critical).load


def test_what_has_one_state_is_refused() -> None:
    plain = waiting(3.6, 400)
    with pytest.raises(FluidServeError, match="session_id"):
        PrefixCache(plain)
    with pytest.raises(FluidServeError, match="no turn waits"):
        WaitingTurns(replace(plain, session=np.full(len(plain), -1)), SERVER)
    with pytest.raises(FluidServeError, match="number of clients"):
        WaitingTurns(replace(plain, arrival_time=np.zeros(len(plain))), SERVER)
    with pytest.raises(UnsupportedError, match="in common"):
        WaitingTurns(replace(plain, contents=None), SERVER)
