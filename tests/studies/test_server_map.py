"""The map of a server's regimes: the model against runs of the engine, and against plain counts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import discrete
from fluid import capacity, certificate, highest_rate, saturation
from ode.prompt_server.queued import IN_STEP, Queued, with_a_queue
from serving import BatchTimeLaw, FluidServeError, VllmV0, VllmV1
from studies.server_map import engine_regimes, named, queued_engine, server_map, server_mix
from workload import Workload

LAW = BatchTimeLaw(d_0=0.012, d_decode=6e-5, d_kv=1e-8, d_prefill=6e-5)
BENT = BatchTimeLaw(d_0=0.012, d_decode=6e-5, d_kv=1e-8, d_prefill=6e-5, d_mixed_decode=1e-4)
"""Steps with a prompt take longer for each decode beside it."""

V1 = VllmV1(batch_time=LAW, num_gpu_blocks=6000, max_num_seqs=256)
V0 = VllmV0(batch_time=LAW, num_gpu_blocks=6000, max_num_seqs=256)
TOKENS = VllmV1(batch_time=LAW, num_gpu_blocks=40_000, max_num_seqs=256, max_num_batched_tokens=500)


@pytest.mark.parametrize(
    ("load", "highest", "throughput", "swing", "name"),
    [
        (0.9, 1.0, 1.0, 0.0, "healthy"), (0.95, 1.0, 0.93, 0.9, "bistable"),
        (1.05, 1.1, 1.0, 0.0, "bistable"), (1.05, 1.1, 1.2, 0.9, "healthy"),
        (1.2, 1.1, 1.0, 0.0, "backlogged"), (1.2, 1.1, 1.3, 0.9, "limit_cycle"),
    ],
)  # fmt: skip
def test_a_regime_is_what_two_starts_lead_to(load, highest, throughput, swing, name):
    assert named(load, highest=highest, queued=Queued(throughput, swing)) == name


@pytest.mark.parametrize(
    ("node", "cv", "ratio"),
    [(V1, 0.0, 2.0), (V1, 0.3, 4.0), (V1, 0.2, 0.5), (V0, 0.0, 2.0), (V0, 0.3, 0.5)],
)
def test_a_server_with_a_queue_completes_what_the_model_says(node, cv, ratio):
    """Completions are counted from the requests of a plain run, not from a trajectory."""
    mix = server_mix(cv, ratio)
    model, engine = with_a_queue(mix, node), queued_engine(mix, node)
    assert model.throughput == pytest.approx(engine.throughput, rel=0.03)
    assert (model.swing > IN_STEP) == (engine.swing > IN_STEP) == (cv == 0)
    full = saturation(mix, node)
    stay = mix.mean_decode * full.batch_time
    table = Workload(mix, 1.0).sample(7, num_requests=int(150 * full.batch_size)).stretched(0.0)
    ended = discrete.simulate(table, node, until=60 * stay).requests["completion_time"]
    whole = np.count_nonzero((ended > 30 * stay) & (ended <= 60 * stay)) / (30 * stay)
    assert whole / capacity(mix, node) == pytest.approx(model.throughput, rel=0.04)


def test_requests_that_are_alike_complete_more_where_prompts_slow_decodes():
    """In step with each other they share the slow steps; a server with a queue runs faster."""
    bent = VllmV1(batch_time=BENT, num_gpu_blocks=6000, max_num_seqs=256)
    alike, spread = server_mix(0.0, 0.5), server_mix(0.3, 0.5)
    assert with_a_queue(alike, bent).throughput > 1.2
    assert queued_engine(alike, bent).throughput > 1.2
    assert with_a_queue(spread, bent).throughput == pytest.approx(1.0, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("node", [V1, V0], ids=["vllm_v1", "vllm_v0"])
def test_the_engine_agrees_with_the_map_away_from_its_edges(node):
    found = server_map(
        node, (0.0, 0.15, 0.3), (0.3, 2.0, 8.0), (0.8, 1.1),
        marked_cv=(0.0, 0.3), marked_ratio=(0.3, 2.0, 8.0),
    )  # fmt: skip
    assert len(found.points) == 12 and all(point.agrees for point in found.points)
    assert {"healthy", "backlogged", "limit_cycle"} == set(found.regime.ravel())
    for at in np.ndindex(found.cv.size, found.ratio.size):
        mix = server_mix(found.cv[at[0]], found.ratio[at[1]])
        assert found.binds[at] == saturation(mix, node).binds
        assert found.capacity[at] == capacity(mix, node)
        assert found.highest[at] == highest_rate(mix, node) / capacity(mix, node)
        for k, load in enumerate(found.load):
            keeps = load < found.highest[at]
            expected = ("healthy" if load < found.theta[at] else "bistable") if keeps else (
                "limit_cycle" if found.swing[at] > IN_STEP else "backlogged"
            )  # fmt: skip
            assert found.regime[(*at, k)] == expected


def test_a_collapse_is_seen_by_both():
    """Alike and bound by KV: full memory loses what preemptions compute again, and stays full."""
    mix = server_mix(0.0, 2.0)
    model = with_a_queue(mix, V1)
    assert model.throughput < 0.95
    queued, names = engine_regimes(mix, V1, (0.8, 0.95))
    assert queued.throughput < 0.96
    assert names == [
        named(x, highest=highest_rate(mix, V1) / capacity(mix, V1), queued=model)
        for x in (0.8, 0.95)
    ] == ["healthy", "bistable"]  # fmt: skip


def test_tokens_of_a_step_bind_too():
    found = server_map(TOKENS, (0.0, 0.3), (0.1, 8.0), (0.9,), marked_cv=())
    assert found.binds.tolist() == 2 * [["max_num_seqs", "max_num_batched_tokens"]]


def test_ratios_that_do_not_fit_are_left_out():
    small = VllmV1(batch_time=LAW, num_gpu_blocks=150)
    found = server_map(small, (0.0, 0.1), (0.5, 2.0, 8.0, 30.0), (0.9,), marked_cv=(0.0,),
                       marked_ratio=(2.0, 30.0))  # fmt: skip
    assert found.ratio.tolist() == [0.5, 2.0, 8.0] and {p.ratio for p in found.points} == {2.0}
    with pytest.raises(FluidServeError, match="give a smaller --mean-decode"):
        server_map(VllmV1(batch_time=LAW, num_gpu_blocks=14))


def test_batches_beyond_the_law_are_said():
    law = replace(LAW, measured_requests=64.0)
    found = server_map(replace(V1, batch_time=law), (0.0, 0.3), (0.3, 30.0), (0.9,), marked_cv=())
    assert found.warnings == [
        "extrapolated: in 2 of 4 cells up to 256 requests run, and the batch-time law was measured "
        "up to 64"
    ]


def test_certificate_and_march_see_the_same_swings_where_kv_binds():
    """Roots of a polynomial against a march of steps: two computations that share no code."""
    seen = set()
    for cv in (0.0, 0.05, 0.2, 0.3):
        for ratio in (2.0, 4.0):
            mix = server_mix(cv, ratio)
            grows = certificate(mix, V1).max_root > 1
            assert (with_a_queue(mix, V1).swing > IN_STEP) == grows
            seen.add(grows)
    assert seen == {True, False}
