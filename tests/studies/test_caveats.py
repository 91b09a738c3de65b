"""What a question itself leaves out is said with every answer to it."""

import dataclasses
import math

import numpy as np
import pytest

import serving
from serving import BatchTimeLaw, Contents, DecodeNode, RequestTable, VllmV1
from studies import Question, analyze, caveats
from workload import Conversations, describe

LAW = BatchTimeLaw(d_0=0.02, d_decode=5e-5, d_kv=1e-7, d_prefill=6e-5, measured_requests=64)
NODE = DecodeNode(LAW, time_unit="s", M_total=400_000, B=None)


def asked(node: DecodeNode, rate: float, text: str = "(1000,50,1)") -> Question:
    return Question(describe("normal", types=text).at_rate(rate), node)


def test_prefill_left_out_is_stated_as_a_share_of_time_and_as_a_bound():
    (said,) = caveats(asked(NODE, 10.0))
    # 1,000 tokens at 60 us are 60 ms a prompt: 0.6 s of work each second at 10 a second
    assert "prompts of 1,000 tokens" in said
    assert "60 % of the time at 10 requests/s" in said
    assert "prefill alone allows 16.7 requests/s" in said


def test_the_rate_of_the_answer_counts_not_that_of_the_question():
    (said,) = caveats(asked(NODE, 10.0), rate=20.0)
    assert "120 % of the time at 20 requests/s" in said


def test_nothing_is_said_where_nothing_is_left_out():
    spent = DecodeNode(BatchTimeLaw(), time_unit="s")
    assert caveats(asked(spent, 0.1, "(30,40,1)")) == ()


def test_requests_that_arrive_at_once_have_no_share_but_a_time_each():
    table = RequestTable.validated(
        arrival_time=np.zeros(3), prefill_length=np.full(3, 1000), decode_length=np.full(3, 50)
    )
    (said,) = caveats(Question(table, NODE), largest={"batch_size": 3})
    assert "0.06 s each" in said and "nan" not in said


def test_a_table_adds_its_mean_slope_and_the_attention_of_a_whole_prompt():
    law = BatchTimeLaw(
        d_prefill=9.0, d_prefill_table=((10, 1.0), (110, 3.0), (210, 4.0)), d_prefill_attention=1e-3
    )
    tokens = 7
    pairs = sum(range(1, tokens + 1))  # token i attends to i tokens
    assert law.prefill_time(tokens) == pytest.approx(tokens * 3.0 / 200 + 1e-3 * pairs)


def test_batches_beyond_the_measured_ones_are_extrapolated_for_lines_and_tables_alike():
    line = DecodeNode(LAW.in_unit(1.0), time_unit="s", M_total=10**7, B=None)
    said = caveats(asked(line, 60.0))[-1]
    running = analyze(asked(line, 60.0), method="model").equilibrium
    assert running is not None and running.running > 64
    assert said.startswith(f"extrapolated: {running.running:.0f} requests")
    assert "measured up to 64; its line goes on" in said
    assert "no limit of requests, such as max_num_seqs" in said
    assert len(caveats(asked(line, 60.0), largest={"batch_size": 64})) == 1
    table = BatchTimeLaw.tabulated([(1, 0.01), (32, 0.03)])
    tabled = DecodeNode(table, time_unit="s", M_total=10**7, B=None)
    (said,) = caveats(asked(tabled, 1.0), largest={"batch_size": 33.0})
    assert "33 requests run" in said and "measured up to 32; the last slope" in said


def test_an_overloaded_node_is_judged_by_the_batch_that_a_queue_fills():
    said = caveats(asked(NODE, 1e6))[-1]
    assert said.startswith("extrapolated: 3") and "measured up to 64" in said


def test_what_is_left_out_scales_with_the_node_and_its_unit():
    scaled = asked(NODE, 10.0).scaled(7)
    (said,) = caveats(scaled)
    assert "60 % of the time at 70 requests/s" in said
    assert scaled.instance.batch_time.most_requests == 7 * 64
    assert LAW.in_unit(1000).most_requests == 64
    assert math.isclose(float(LAW.in_unit(1000).prefill_time(1000)), 60.0)


@pytest.mark.parametrize("kind", serving.KINDS.values(), ids=lambda kind: kind.name)
def test_every_kind_carries_the_prefill_of_a_law_through_its_configuration(kind):
    values = kind.law_values(LAW)
    assert values["measured_requests"] == 64
    none = dict.fromkeys(kind.law_keys)
    again = kind.law({**none, **kind.law_values(BatchTimeLaw()), **values})
    assert (again.d_prefill, again.most_requests) == (6e-5, 64)


def test_analyze_says_it_too():
    warnings = analyze(asked(NODE, 10.0), method="model").warnings
    assert any("prefill is left out" in line for line in warnings)


def test_swapping_that_costs_nothing_is_said_where_times_are_real():
    law = BatchTimeLaw.per_token(0.02, 1e-5)
    for unit, d_swap, swapped, is_said in [
        ("s", 0.0, 5.0, True), ("s", 0.0, 0.0, False), ("s", 1e-6, 5.0, False),
        ("none", 0.0, 5.0, False),
    ]:  # fmt: skip
        node = DecodeNode(dataclasses.replace(law, d_swap=d_swap), time_unit=unit)
        said = caveats(asked(node, 0.1, "(30,40,1)"), largest={"swapped": swapped})
        assert bool(said) == is_said
        assert not is_said or said[0].startswith("swapping is free: up to 5 requests")


def test_a_prefix_cache_that_nobody_can_use_is_said():
    plain = describe("normal", types="(1000,50,1)").at_rate(10.0)
    talks = dataclasses.replace(plain, conversations=Conversations(plain.mix, 2, 5.0))
    caching, server = VllmV1(), VllmV1(enable_prefix_caching=False)
    (said,) = caveats(Question(plain, caching, num_requests=3))
    assert said.startswith("prefix cache: it finds nothing") and "--system-prompts" in said
    history, hits = caveats(Question(talks, caching, num_requests=3))
    assert history.startswith("conversations:") and hits.startswith("prefix hits:")
    assert not caveats(Question(plain, server, num_requests=3))
    assert not caveats(Question(plain, VllmV1(remote_prefill=True), num_requests=3))
    table = RequestTable.validated([0.0, 1.0], [20, 20], [5, 5])
    (said,) = caveats(Question(table, caching))
    assert said.startswith("prefix cache: it finds nothing")
    same = Contents(np.array([0, 1, 2]), np.array([7, 7]), np.array([20, 20]), np.array([1, 2]))
    (said,) = caveats(Question(dataclasses.replace(table, contents=same), caching))
    assert said.startswith("prefix hits:") and "prefix_hit_share, 0 %" in said
