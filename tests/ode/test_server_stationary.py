"""One server in equilibrium, against runs of the engine and against the large system."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import discrete
from fluid import capacity, equilibrium
from ode import regime, stationary
from serving import BatchTimeLaw, RequestMix, SolveError, UnsupportedError, VllmV0, VllmV1
from studies import Question, analyze
from workload import Workload, describe

LAW = BatchTimeLaw(d_0=0.01, d_decode=1e-4, d_kv=2e-7, d_prefill=1e-4, d_prefill_attention=1e-9)
MIX = describe("normal").mix
SEATS = VllmV1(batch_time=LAW, num_gpu_blocks=6000, max_num_seqs=64)
KV = VllmV1(batch_time=LAW, num_gpu_blocks=300)
APART = VllmV0(batch_time=LAW, num_gpu_blocks=6000, max_num_seqs=64)


def engine(node, rate, requests):
    asked = Question(Workload(MIX, rate=rate), node, num_requests=requests).requests
    samples = discrete.simulate(asked, node, record_batches=False).samples(requests // 10)
    return {name: samples.of(name)[0] for name in ("ttft", "tpot", "e2el")}


@pytest.mark.parametrize(
    ("node", "load", "mean", "tail"),
    [
        (SEATS, 0.3, 0.02, 0.05), (SEATS, 0.8, 0.04, 0.15), (SEATS, 0.9, 0.1, 0.2),
        (KV, 0.6, 0.04, 0.1), (KV, 0.9, 0.2, 0.2),
        (APART, 0.3, 0.08, 0.3), (APART, 0.6, 0.12, 0.35),
    ],
)  # fmt: skip
def test_one_server_is_near_the_engine(node, load, mean, tail):
    rate = load * capacity(MIX, node)
    found, runs = stationary(MIX, node, rate), engine(node, rate, 300_000 if load > 0.7 else 60_000)
    assert found.load == pytest.approx(load)
    assert found.latencies["ttft"].mean == pytest.approx(runs["ttft"].mean(), rel=mean)
    assert found.latencies["ttft"].percentiles[99] == pytest.approx(
        np.percentile(runs["ttft"], 99), rel=tail
    )
    for name in ("tpot", "e2el"):
        assert found.latencies[name].mean == pytest.approx(runs[name].mean(), rel=0.06), name


@pytest.mark.parametrize("node", [SEATS, replace(SEATS, async_scheduling=False)])
def test_a_large_server_has_the_latencies_of_its_equilibrium(node):
    node = node.scaled(1000)
    rate = 0.6 * capacity(MIX, node)
    point, found = equilibrium(MIX, node, rate), stationary(MIX, node, rate).latencies
    assert found["ttft"].mean == pytest.approx(point.ttft, rel=0.02)
    assert found["tpot"].mean == pytest.approx(point.tpot, rel=0.02)
    assert found["e2el"].mean == pytest.approx(point.e2el, rel=0.02)


def test_bursts_make_queues_longer():
    rate = 0.9 * capacity(MIX, SEATS)
    calm, wild = (stationary(MIX, SEATS, rate, dispersion=c).latencies for c in (1.0, 4.0))
    assert wild["ttft"].percentiles[99] > 1.2 * calm["ttft"].percentiles[99]


def test_more_load_never_helps():
    means = [
        stationary(MIX, KV, load * capacity(MIX, KV)).latencies["ttft"].mean
        for load in np.linspace(0.05, 0.97, 24)
    ]
    assert (np.diff(means) > -1e-3 * np.array(means[1:])).all()


def test_what_has_no_equilibrium_says_so():
    with pytest.raises(SolveError, match=r"load is 1\.0\d+, the backlog grows"):
        stationary(MIX, SEATS, 1.02 * capacity(MIX, SEATS))
    assert regime(MIX, SEATS, 1.02 * capacity(MIX, SEATS)) == "backlogged"
    assert regime(MIX, SEATS, 0.98 * capacity(MIX, SEATS)) == "healthy"
    with pytest.raises(UnsupportedError, match="scheduling_policy 'priority'"):
        stationary(MIX, replace(SEATS, scheduling_policy="priority"), 1.0)
    single = stationary(RequestMix.from_lengths([50], [1]), SEATS, 1.0)
    assert np.isnan(single.latencies["tpot"].mean) and single.latencies["ttft"].mean > 0


@pytest.mark.parametrize("over_time", [False, True])
def test_a_server_is_analyzed(over_time):
    stream = Workload(MIX, rate=0.5 * capacity(MIX, SEATS))
    question = Question(stream, SEATS, horizon=10.0 if over_time else None)
    found = analyze(question, over_time=over_time, method="model")
    assert found.binds == "max_num_seqs" and found.regime == "healthy"
    assert found.load == pytest.approx(0.5, rel=1e-6)
    assert found.certificate is not None and found.certificate.stable
    assert found.latencies["ttft"].mean > 0 and found.units["max_num_seqs"] == "request"
    assert found.elasticity["mean_ttft"]["d_0"] > 0.2
