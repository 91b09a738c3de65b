"""What a run says of a KV capacity that is an estimate: against runs of the two ends."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

import discrete
from serving import BatchTimeLaw, DecodeNode
from studies import CapacityEstimate, Question, capacity_doubt
from workload import describe

NODE = DecodeNode(
    BatchTimeLaw(d_0=0.01, d_decode=1e-4, d_kv=0.0), time_unit="s", M_total=1000, B=None
)


def run(node: DecodeNode, rate: float):
    question = Question(describe("normal"), node, num_requests=300).at_rate(rate)
    done = discrete.simulate(question.requests, node)
    held = float(done.batches["gpu_memory_used"].max())
    return question, done.metrics().latencies["ttft"].mean, {"memory": held}


def test_a_full_node_says_its_ttft_at_both_ends_of_the_estimate():
    question, ttft, largest = run(NODE, 40.0)
    assert largest["memory"] > 990
    line = capacity_doubt(question, CapacityEstimate("M_total", 0.1), mean_ttft=ttft,
                          largest=largest)  # fmt: skip
    assert line.startswith("estimated: M_total = 1,000 is known to 10 % and decides this answer")
    shown = re.findall(r"([\d,.]+) s(?:,|$)", line)
    ends = [run(replace(NODE, M_total=size), 40.0)[1] for size in (900, 1100)]
    assert ends[0] > ttft > ends[1]
    assert shown == [f"{each:.3g}" for each in (ttft, *ends)]
    assert "with 900 the mean TTFT" in line and "with 1,100 the mean TTFT" in line


def test_memory_that_stays_below_the_estimate_is_no_doubt():
    question, ttft, largest = run(NODE, 2.0)
    estimate = CapacityEstimate("M_total", 0.1)
    assert 0 < largest["memory"] < 900
    assert capacity_doubt(question, estimate, mean_ttft=ttft, largest=largest) == ""
    same = run(replace(NODE, M_total=900), 2.0)[1]
    assert same == ttft  # so there was indeed none
    again = capacity_doubt(question, estimate, mean_ttft=ttft, largest=largest, evicted=3)
    assert again == ""  # runs of both ends have the same mean TTFT


def test_blocks_that_gave_way_are_a_reason_to_look():
    question, ttft, largest = run(NODE, 40.0)
    low = {"memory": 0.5 * largest["memory"]}
    estimate = CapacityEstimate("M_total", 0.1)
    assert capacity_doubt(question, estimate, mean_ttft=ttft, largest=low) == ""
    said = capacity_doubt(question, estimate, mean_ttft=ttft, largest=low, evicted=1)
    assert said.startswith("estimated: M_total")


def test_a_request_that_may_not_fit_is_said():
    node = replace(NODE, M_total=310)
    question, ttft, largest = run(node, 40.0)
    assert max(question.requests.prefill_length + question.requests.decode_length) > 186
    line = capacity_doubt(question, CapacityEstimate("M_total", 0.4), mean_ttft=ttft,
                          largest=largest)  # fmt: skip
    assert "with 186 some request never fits" in line and "with 434 the mean TTFT" in line


@pytest.mark.parametrize("error", [0.001, 0.5, 3.0])
def test_the_ends_hold_at_least_one_block_and_the_error(error):
    less, more = CapacityEstimate("M_total", error).bounds(NODE)
    assert 2 <= less.M_total <= max(1000 * (1 - error), 10)
    assert more.M_total >= 1000 * (1 + error)
