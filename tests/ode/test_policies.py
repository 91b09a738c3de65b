from __future__ import annotations

import pytest

from ode._caveats import policy_labels
from serving import DecodeNode, UnsupportedError


def test_modelled_policies_need_no_label():
    assert policy_labels(DecodeNode()) == ()


@pytest.mark.parametrize(
    ("key", "value", "modelled"),
    [
        ("queue_policy", "SJF", "FCFS"),
        ("queue_policy", "priority", "FCFS"),
        ("queue_policy", "mine.py:shortest", "FCFS"),
        ("victim_policy", "FIFO", "LIFO"),
        ("victim_policy", "LRU", "LIFO"),
        ("victim_policy", "random", "LIFO"),
        ("victim_policy", "mine.py:largest", "LIFO"),
    ],
)
def test_other_policies_are_refused_with_the_reason_or_labelled(key, value, modelled):
    node = DecodeNode(**{key: value})
    with pytest.raises(UnsupportedError, match=rf"{key} '{value}' is not modelled .*{modelled}"):
        policy_labels(node)
    assert policy_labels(node, approximate=True) == (
        f"approximate: {key} '{value}' solved as {modelled}",
    )


def test_every_unmodelled_policy_is_named():
    node = DecodeNode(queue_policy="SJF", victim_policy="random")
    assert len(policy_labels(node, approximate=True)) == 2
