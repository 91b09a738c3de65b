"""Policies a user writes: documented example, effect, and one clear line for every mistake."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import discrete
from discrete.decode_node import policies as _policies
from discrete.decode_node.random import draw_integer, pcg64_at, pcg64_state
from serving import BatchTimeLaw, ConfigError, DecodeNode, RequestTable
from serving.compilation import compiled

ARGUMENTS = ", ".join(_policies.PARAMETERS)


def crowd(size=60):
    rng = np.random.default_rng(8)
    return RequestTable.validated(
        np.zeros(size), rng.integers(1, 50, size), rng.integers(1, 50, size)
    )


def policy(tmp_path, body, arguments=ARGUMENTS, name="choose"):
    path = tmp_path / "policy.py"
    path.write_text(f"def {name}({arguments}):\n    {body}\n")
    return f"{path}:choose"


def test_documented_example_runs(tmp_path):
    """The example in the module's own text, cut out and used."""
    text = _policies.__doc__.split("::\n\n", 1)[1]
    path = tmp_path / "mine.py"
    path.write_text("\n".join(line[4:] for line in text.splitlines()) + "\n")
    name = "shortest_prompt_but_nobody_starves"
    node = DecodeNode(M_total=120, queue_policy=f"{path}:{name}")
    events = discrete.simulate(crowd(), node, record_events=True).events
    admitted = events["req_id"][events["event_type"] == "admit"]
    assert admitted.size == 60
    assert (np.diff(crowd().prefill_length[admitted]) >= 0).all()


def test_a_user_can_write_the_built_in_policies(tmp_path):
    node = {"M_total": 150, "B": 100, "mode": "sacrifice"}
    table = crowd()
    for built_in, body in (("SJF", "return decode_length"), ("priority", "return priority")):
        mine = discrete.simulate(
            table, DecodeNode(**node, queue_policy=policy(tmp_path, body)), record_events=True
        )
        theirs = discrete.simulate(table, DecodeNode(**node, queue_policy=built_in))
        np.testing.assert_equal(dict(mine.requests), dict(theirs.requests))
    body = "return -idle_batches if idle_batches >= 0 else -(2**40)"
    mine = discrete.simulate(table, DecodeNode(**node, victim_policy=policy(tmp_path, body)))
    theirs = discrete.simulate(table, DecodeNode(**node, victim_policy="LRU"))
    assert theirs.metrics().evictions > 0
    np.testing.assert_equal(dict(mine.requests), dict(theirs.requests))


def test_a_queue_policy_sees_the_length_that_the_scheduler_believes(tmp_path):
    table = RequestTable.validated([0.0] * 3, [5] * 3, [3, 2, 1], predicted_decode_length=[1, 2, 3])
    node = {"M_total": 9, "queue_policy": policy(tmp_path, "return decode_length")}
    oracle = discrete.simulate(table, DecodeNode(**node)).requests
    believed = discrete.simulate(table, DecodeNode(**node, length_source="predicted")).requests
    assert np.argsort(oracle["completion_time"]).tolist() == [2, 1, 0]
    assert np.argsort(believed["completion_time"]).tolist() == [0, 1, 2]


def test_an_order_that_changes_with_time_is_looked_up_at_every_boundary():
    """Batches end at 1, 2, ...: at 1 the large one is ahead and does not fit, at 2 it is not."""
    policies = Path(__file__).parent / "policies.py"
    table = RequestTable.validated([0.0, 0.5, 1.0], [10, 15, 1], [10, 5, 1])
    node = DecodeNode(
        batch_time=BatchTimeLaw.per_token(1.0, 0.0),
        M_total=25,
        queue_policy=f"{policies}:highest_response_ratio",
    )
    run = discrete.simulate(table, node)
    assert run.requests["first_enter_running_time"].tolist() == [0.0, 10.0, 2.0]


@pytest.mark.parametrize("key", ["queue_policy", "victim_policy"])
@pytest.mark.parametrize(
    ("body", "arguments", "name", "said"),
    [
        ("return now", ARGUMENTS, "other", "defines no function 'choose'"),
        ("return now", "now, request", "choose", "a function of (now, arrival_time"),
        ("return {}[now]", ARGUMENTS, "choose", "a function that Numba can compile"),
        ("return open('x')", ARGUMENTS, "choose", "a function that Numba can compile"),
        ("return 'soon'", ARGUMENTS, "choose", "a function that Numba can compile"),
        ("return (", ARGUMENTS, "choose", "a file that Python can run (SyntaxError"),
    ],
)
def test_a_policy_that_cannot_be_used_is_one_line(key, body, arguments, name, said, tmp_path):
    reference = policy(tmp_path, body, arguments, name)
    with pytest.raises(ConfigError) as caught:
        discrete.simulate(crowd(), DecodeNode(**{key: reference}))
    message = str(caught.value)
    assert said in message and key in message and reference in message
    assert "\n" not in message


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match="there is no file"):
        discrete.simulate(crowd(), DecodeNode(victim_policy=f"{tmp_path}/no.py:choose"))


def test_an_edited_policy_is_compiled_anew(tmp_path):
    import os

    node = DecodeNode(M_total=120, queue_policy=policy(tmp_path, "return decode_length"))
    first = discrete.simulate(crowd(), node).requests["completion_time"]
    path = Path(policy(tmp_path, "return -decode_length").rpartition(":")[0])
    os.utime(path, ns=(1, 1))
    second = discrete.simulate(crowd(), node).requests["completion_time"]
    assert (first != second).any()


FRESH = """
import sys, numpy as np, discrete
from discrete.decode_node.kernel import advance
from serving import DecodeNode, RequestTable
table = RequestTable.validated([0.0, 0.0], [10, 10], [6, 6])
node = DecodeNode(M_total=30, queue_policy=sys.argv[1], victim_policy=sys.argv[1])
discrete.simulate(table, node)
print(sum(advance.stats.cache_hits.values()), sum(advance.stats.cache_misses.values()))
"""


def test_a_fresh_process_compiles_no_kernel(tmp_path):
    """The kernel comes from the cache whatever the policies: they are addresses to it."""
    discrete.simulate(crowd(), DecodeNode())  # makes sure that it is in the cache
    for reference in (policy(tmp_path, "return now"), policy(tmp_path, "return -prefill_length")):
        command = [sys.executable, "-c", FRESH, reference]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert out.split() == ["1", "0"]


EDITED = """
import discrete
from serving import DecodeNode, RequestTable
table = RequestTable.validated([0.0, 0.0], [10, 10], [6, 6])
print(discrete.simulate(table, DecodeNode(M_total=26)).requests["swap_count"].tolist())
"""


@pytest.mark.slow
def test_an_edited_callee_is_not_taken_from_the_cache(tmp_path):
    """Numba's cache looks at a function's own file only; this room's also at the others."""
    root = Path(discrete.__file__).parents[1]
    for room in ("serving", "discrete"):
        skip = shutil.ignore_patterns("__pycache__")
        shutil.copytree(root / room, tmp_path / room, ignore=skip)
    seen = []
    for first, second in (("", ""), ("return s.tail, s.exec", "return s.head, s.exec")):
        path = tmp_path / "discrete" / "decode_node" / "evict.py"
        text = path.read_text()
        assert first in text
        path.write_text(text.replace(first, second) if first else text)
        done = subprocess.run(
            [sys.executable, "-c", EDITED], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        seen.append(done.stdout.strip())
    assert seen == ["[0, 1]", "[1, 0]"]


@compiled
def draws(address, bounds):
    out = np.empty(bounds.size, np.int64)
    for i in range(bounds.size):
        out[i] = draw_integer(pcg64_at(address), bounds[i])
    return out


@pytest.mark.parametrize("seed", [0, 42, 2**40 + 1])
@pytest.mark.parametrize("largest", [2, 100, 2**31 + 12345, 2**32 - 1])
def test_draws_are_those_of_numpy(seed, largest):
    bounds = np.random.default_rng(1).integers(1, largest, size=3000, endpoint=True)
    state = pcg64_state(seed)
    got = draws(state.ctypes.data, bounds)
    generator = np.random.Generator(np.random.PCG64(seed))
    assert got.tolist() == [int(generator.integers(bound)) for bound in bounds]
