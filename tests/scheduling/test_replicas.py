"""The least fleet is the one that running every fleet finds; its bound is below every run."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from discrete import simulate
from fluid import least_node_times
from scheduling.gpu_time import gpu_time
from scheduling.replicas import guessed, least_replicas
from scheduling.sizing import Sizing, measured
from serving import (
    BatchTimeLaw,
    ConfigError,
    DecodeNode,
    RequestTable,
    UnsupportedError,
    VllmV0,
    VllmV1,
)
from studies.question import Question
from studies.tuning import parse_slo
from workload import describe

LAW = BatchTimeLaw(d_0=0.01, d_kv=1e-5, d_decode=1e-4, d_prefill=2e-4)
BENT = BatchTimeLaw(
    d_0=0.01, d_kv=1e-5, d_decode=1e-4, d_prefill_attention=1e-7, d_prefill_context=1e-6,
    d_mixed_decode=1e-5, d_decode_table=((1.0, 0.001), (4.0, 0.006), (9.0, 0.007)),
    d_prefill_table=((16.0, 0.012), (64.0, 0.02), (72.0, 0.04), (256.0, 0.07)),
    d_mixed_kv_table=((0.0, 0.0), (500.0, 0.004)),
)  # fmt: skip
NODE = DecodeNode(M_total=3000, B=600)
SERVER = VllmV1(batch_time=LAW, num_gpu_blocks=100, max_num_seqs=16)
ANY = (
    NODE,
    DecodeNode(M_total=500, B=300, mode="sacrifice"),
    DecodeNode(M_total=700, B=None, batch_time=BatchTimeLaw.per_token(0.0, 1e-3)),
    SERVER,
    VllmV1(batch_time=BENT, num_gpu_blocks=60, max_num_seqs=12, max_num_batched_tokens=128),
    VllmV1(batch_time=LAW, num_gpu_blocks=900, prefix_hit_share=0.4, async_scheduling=False),
    VllmV0(batch_time=LAW, num_gpu_blocks=30, max_num_seqs=8),
)


def requests(size, gap, seed=0):
    rng = np.random.default_rng(seed)
    return RequestTable.validated(
        np.cumsum(rng.exponential(gap, size)),
        rng.integers(1, 100, size),
        rng.geometric(1 / 20, size).clip(max=150),
    )


def trace_of(node, slo, gap, seed=0, size=400, **more):
    return Sizing(Question(requests(size, gap, seed), node), (parse_slo(slo, "s"),), **more)


@pytest.mark.parametrize("policy", ["jsq", "round-robin", "least-kv", "jsq@2", "predicted-ttft"])
@pytest.mark.parametrize(
    ("node", "slo", "gap"),
    [(NODE, "p99_e2el<170", 0.4), (NODE, "mean_ttft<2", 1.0), (SERVER, "p90_ttft<0.1", 0.01)],
)
def test_the_answer_is_that_of_running_every_fleet(node, slo, gap, policy):
    sizing = trace_of(node, slo, gap, policy=policy, size=150 if "predicted" in policy else 400)
    found = least_replicas(sizing)
    assert found.value > 1 and found.confirmed
    limit = sizing.slos[0].limit
    met = [
        measured(sizing, n, 0)["values"][slo] <= limit
        for n in range(1, found.value + 4)
    ]  # fmt: skip
    assert met == [False] * (found.value - 1) + [True] * 4


@settings(max_examples=10, deadline=None)
@given(
    st.sampled_from([NODE, SERVER]),
    st.sampled_from(["mean_ttft", "p90_e2el", "p99_queue_delay"]),
    st.floats(0.5, 3.0),
    st.sampled_from([0.02, 0.1, 0.5]),
    st.integers(0, 99),
    st.sampled_from([None, (1, 12), (3, 9)]),
)
def test_both_sides_of_an_answer_were_run(node, statistic, times, gap, seed, bracket):
    """Whatever the guess, the answer meets and one instance less misses, or there is no less."""
    alone = trace_of(node, f"{statistic}<1", gap, seed, size=60)
    limit = times * measured(alone, 12, 0)["values"][f"{statistic}<1"] + 1e-3
    sizing = trace_of(node, f"{statistic}<{limit:.6g}", gap, seed, size=60)
    found = least_replicas(sizing, bracket=bracket)
    low, high = bracket or (1, 4096)
    verdicts = {size.replicas: size.met for size in found.sizes}
    assert all(low <= n <= high for n in verdicts)
    if found.value is None:
        assert not any(verdicts.values()) and "impossible" in found.reason
    else:
        assert verdicts[found.value] and low <= found.value
        assert found.value == low or not verdicts[found.value - 1]
        assert found.confirmed == (found.value == 1 or found.value > low)


def test_a_stream_is_run_until_its_verdict_is_certain():
    stream = describe("normal", arrival_rate=0.3)
    sizing = Sizing(Question(stream, DecodeNode()), (parse_slo("p99_ttft<40", "none"),),
                    run_length=3000, replications=6)  # fmt: skip
    found = least_replicas(sizing)
    assert found.value == 3 and found.confirmed
    for size in found.sizes:
        assert size.certain or len(size.rows) == 6
        values = [row["values"]["p99_ttft<40"] for row in size.rows]
        assert size.values["p99_ttft"] == pytest.approx(np.mean(values))
        if len(values) > 1:
            error = np.std(values, ddof=1) / math.sqrt(len(values))
            assert size.errors["p99_ttft"] == pytest.approx(error)
    assert {row["requests"] for size in found.sizes for row in size.rows} >= {3000}


def test_without_objectives_a_stream_must_be_kept_up_with():
    stream = describe("normal", arrival_rate=0.3)
    sizing = Sizing(Question(stream, DecodeNode()), (), run_length=20_000)
    found = least_replicas(sizing)
    load = sizing.question.at_rate(0.3).stream.rate / sizing.question.capacity
    assert found.value == math.ceil(load) == guessed(sizing)[0]


def test_what_more_instances_do_not_help_is_impossible():
    found = least_replicas(trace_of(NODE, "p99_ttft<0.5", 1.0))
    assert found.value is None and not found.confirmed
    assert found.reason.startswith("impossible: no number of instances from 1 to ")
    assert "p99_ttft<0.5" in found.reason and max(s.replicas for s in found.sizes) < 200


def test_one_instance_has_no_smaller_fleet():
    found = least_replicas(trace_of(NODE, "p99_ttft<1e4", 1.0))
    assert found.value == 1 and found.confirmed and "no smaller fleet" in found.reason


def test_a_bracket_is_kept_to():
    sizing = trace_of(NODE, "p99_e2el<170", 0.4)
    free = least_replicas(sizing).value
    above = least_replicas(sizing, bracket=(free + 2, free + 5))
    assert above.value == free + 2 and not above.confirmed and "not to be tried" in above.reason
    assert least_replicas(sizing, bracket=(1, free - 1)).value is None
    for wrong in ((0, 3), (4, 3), (1.5, 3)):
        with pytest.raises(ConfigError, match="bracket"):
            least_replicas(sizing, bracket=wrong)


def test_rows_that_are_known_are_not_run_again():
    sizing = trace_of(NODE, "p99_e2el<170", 0.4)
    rows = {}

    def measure(replicas, run):
        assert (replicas, run) not in rows
        rows[replicas, run] = measured(sizing, replicas, run)
        return rows[replicas, run]

    first = least_replicas(sizing, measure=measure)
    again = least_replicas(sizing, measure=lambda n, k: rows[n, k])
    assert again.to_json() == first.to_json() and first.runs == len(rows)


@pytest.mark.parametrize("node", ANY, ids=lambda node: node.engine)
@pytest.mark.parametrize("gap", [1e-4, 0.3])
def test_no_run_takes_less_time_than_the_bound(node, gap):
    for size, seed in itertools.product((1, 7, 300), (0, 1)):
        table = requests(size, gap, seed)
        mix = table.mix()
        least = size * float(mix.probability @ least_node_times(mix, node))
        totals = simulate(table, node).totals()
        busy = totals["gpu_utilization"] * totals["duration"]
        assert 0 < least <= busy * (1 + 1e-9)


def test_the_bound_is_near_what_a_full_instance_takes():
    """A bound far below would hold as well, and say nothing."""
    for node, share in ((NODE, 0.93), (SERVER, 0.92), (VllmV1(batch_time=LAW), 0.9)):
        table = requests(3000, 1e-4)
        mix = table.mix()
        least = 3000 * float(mix.probability @ least_node_times(mix, node))
        totals = simulate(table, node).totals()
        assert least > share * totals["gpu_utilization"] * totals["duration"]


def test_the_bound_of_an_affine_law_is_its_closed_form():
    """Of a node whose memory is full all the time: W/M batches of d_0 + d_1 M."""
    node = DecodeNode(M_total=2000, B=None)
    mix = requests(500, 1.0).mix()
    whole = mix.work / 2000 * node.batch_time.duration(2000, 0)
    assert float(mix.probability @ least_node_times(mix, node)) == pytest.approx(whole)


def test_gpu_time_and_prices_add_up():
    sizing = trace_of(SERVER, "p90_ttft<0.1", 0.01)
    found = least_replicas(sizing)
    used = gpu_time(found.answer, 2)
    told, row = used.to_json(), found.answer.rows[0]
    assert told["gpus"] == 2 * found.value
    assert told["gpu_hours"] == pytest.approx(2 * found.value * row["lasts"] / 3600)
    best = told["perfect_system"]
    assert 0 < best["gpu_time"] <= 2 * row["busy"] <= told["gpu_time"]
    assert best["gpu_hours"] == pytest.approx(best["gpu_time"] / 3600)
    assert best["replicas"] == math.ceil(best["gpu_time"] / 2 / row["lasts"]) <= found.value
    assert best["switched_gpu_hours"] >= best["gpu_hours"]
    price = used.price(3.0)
    assert price["total"] == pytest.approx(3 * told["gpu_hours"])
    tokens = told["prompt_tokens"], told["output_tokens"]
    parts = price["per_million_prompt_tokens"], price["per_million_output_tokens"]
    assert np.dot(tokens, parts) / 1e6 == pytest.approx(price["total"])
    assert sum(tokens) * price["per_million_tokens"] / 1e6 == pytest.approx(price["total"])
    assert 0 < price["prefill_share"] < 1


def test_the_share_of_prompts_is_what_batches_take_longer_for_them():
    """Answers of one token are made by their prompts' steps alone; long answers hardly are."""
    for decode, low, high in ((1, 1.0, 1.0), (400, 0.0, 0.1)):
        table = RequestTable.validated(np.arange(50) * 0.1, [20] * 50, [decode] * 50)
        # an asynchronous server decodes once more before it knows that an answer has ended
        node = replace(SERVER, async_scheduling=False)
        sizing = Sizing(Question(table, node), (parse_slo("p99_ttft<9999", "s"),))
        used = gpu_time(least_replicas(sizing).answer)
        assert low <= used.prefill_share <= high


def test_a_decode_node_gives_prompts_no_price_and_no_unit_no_price_at_all():
    node = DecodeNode(M_total=3000, B=600, time_unit="s")
    price = gpu_time(least_replicas(trace_of(node, "mean_ttft<2", 1.0)).answer).price(1.0)
    assert price["per_million_prompt_tokens"] is None and price["prefill_share"] is None
    used = gpu_time(least_replicas(trace_of(NODE, "mean_ttft<2", 1.0)).answer)
    assert used.to_json()["gpu_hours"] is None and used.to_json()["gpu_time"] > 0
    with pytest.raises(UnsupportedError, match="no unit"):
        used.price(1.0)


def test_requests_that_repeat_each_other_have_no_bound():
    talk = describe("normal", arrival_rate=3.0, turns=3, think_time=9.0)
    sizing = Sizing(Question(talk, VllmV1(batch_time=LAW)), (parse_slo("p99_ttft<99", "s"),),
                    run_length=500)  # fmt: skip
    best = gpu_time(least_replicas(sizing).answer).to_json()["perfect_system"]
    assert best["gpu_hours"] is None and "repeat" in best["reason"]


def test_a_file_needs_an_objective_and_a_fleet_has_no_itl():
    with pytest.raises(UnsupportedError, match="name an objective"):
        Sizing(Question(requests(50, 1.0), NODE), ())
    with pytest.raises(UnsupportedError, match="no ITL"):
        trace_of(NODE, "p99_itl<2", 1.0)
    with pytest.raises(ConfigError, match="max_run_length"):
        Sizing(
            Question(describe("normal", arrival_rate=0.3), DecodeNode().scaled(1000)), (),
            max_run_length=100, run_length=100,
        ).length(2)  # fmt: skip
