"""Random small nodes and request tables, and what it means that two engines agree."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from serving import BatchTimeLaw, DecodeNode, RequestTable

POLICY_FILE = Path(__file__).parent / "policies.py"
USER_QUEUES = [
    f"{POLICY_FILE}:{name}" for name in ("short_prompts_age", "highest_response_ratio", "undecided")
]
USER_VICTIMS = [f"{POLICY_FILE}:least_progress", f"{POLICY_FILE}:undecided"]
QUEUES = ["FCFS", "priority", "SJF", *USER_QUEUES]
VICTIMS = ["LIFO", "FIFO", "LRU", "random", *USER_VICTIMS]


CONCAVE = ((1, 0.1), (3, 0.37), (4, 0.41), (9, 0.43))
DECODE_TABLES = [None, None, ((2, 0.3),), CONCAVE, ((0, 0.0), (2.5, 1.3), (1000, 1.31))]


@st.composite
def tables(draw, most=40):
    """Requests whose arrivals tie often and come faster than a small node serves them."""
    size = draw(st.integers(1, most))
    longest_p, longest_d = draw(st.sampled_from([(3, 30), (10, 40), (30, 30), (10, 5)]))
    gap = draw(st.sampled_from([0.0, 0.25, 1.0, 1.0, 30.0]))

    def column(low, high):
        values = st.integers(low, high)
        return draw(st.lists(values, min_size=size, max_size=size))

    arrival = np.cumsum(np.array(column(0, 3)) * gap)
    return RequestTable.validated(
        arrival,
        column(1, longest_p),
        column(1, longest_d),
        priority=column(-1, 1),
        predicted_decode_length=column(1, longest_d),
    )


@st.composite
def nodes(draw, table):
    """Nodes on which the longest request just fits, or that hold a few."""
    need = table.prefill_length + table.decode_length
    least = int(need.max())
    M_total = least + draw(st.integers(0, 2 * least))
    d_kv = draw(st.sampled_from([0.0, 0.001, 0.037, 0.1]))
    law = BatchTimeLaw(
        d_0=draw(st.sampled_from([0.0, 0.011, 1.0])),
        d_kv=d_kv,
        d_decode=draw(st.sampled_from([d_kv, 0.0, 0.013])),
        d_swap=draw(st.sampled_from([0.0, 0.007])),
        d_decode_table=draw(st.sampled_from(DECODE_TABLES)),
    )
    return DecodeNode(
        batch_time=law,
        mode=draw(st.sampled_from(["swapping", "sacrifice"])),
        M_total=M_total,
        B=draw(st.one_of(st.none(), st.integers(1, 4 * least))),
        admission_threshold=draw(st.sampled_from([1.0, 1.0, 1.0, 0.9, 0.5, 1 / 3])),
        queue_policy=draw(st.sampled_from(QUEUES)),
        victim_policy=draw(st.sampled_from(VICTIMS)),
        length_source=draw(st.sampled_from(["oracle", "predicted"])),
    )


@st.composite
def cases(draw, most=40):
    """A table, a node, a seed, and a number of batches that mostly lets everyone finish.

    It is finite because with sacrifice some victim policies evict everyone for ever.
    """
    table = draw(tables(most))
    most_batches = draw(st.one_of(st.just(2000), st.just(2000), st.integers(1, 100)))
    return table, draw(nodes(table)), draw(st.integers(0, 2**32 - 1)), most_batches


def user_functions(node):
    """Return the plain Python functions of a node's user policies, for the reference."""
    import runpy

    names = runpy.run_path(str(POLICY_FILE))
    keys = (node.queue_policy, node.victim_policy)
    found = [names.get(key.rpartition(":")[2]) for key in keys]
    return {"queue_key": found[0], "victim_key": found[1]}


def assert_same_columns(records, columns):
    """Every column bit for bit; NaN equals NaN."""
    for name, expected in columns.items():
        got = records[name].tolist()
        assert len(got) == len(expected), name
        for row, (one, other) in enumerate(zip(got, expected, strict=True)):
            same = one == other or (one != one and other != other)
            assert same, f"{name}[{row}]: engine {one!r}, reference {other!r}"


def assert_same_runs(run, reference):
    """All records of an engine's run and of a reference's are equal, bit for bit."""
    assert_same_columns(run.requests, reference.request_columns())
    tables = (
        (run.batches, reference.BATCH_COLUMNS, reference.rows),
        (run.events, list(run.events), reference.events),
        (run.memory_events, list(run.memory_events), reference.memory_events),
    )
    for records, names, rows in tables:
        columns = list(zip(*rows, strict=True)) or [()] * len(names)
        assert_same_columns(records, dict(zip(names, columns, strict=True)))
