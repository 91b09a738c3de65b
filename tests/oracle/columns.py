"""Columns of the decision log and of the request log, and how their values are written."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from typing import Any

DECISIONS = """
it t_start dur t_end waiting running swapped n_sched n_prefill_seqs prefill_tokens decode_tokens
tokens context blocks_used cpu_blocks_used preempted swapped_out swapped_in n_blk_out n_blk_in
sched_ids finished ignored q_waiting q_running q_swapped sched_us
""".split()
"""One row per call of schedule()."""

DECISIONS_EXTENDED = "t_sched aborted hits drafts n_hashes n_evicted pool_crc".split()

REQUESTS = """
rid arrival prompt output first_sched first_token done n_preempt n_swap_in recomputed status
""".split()
"""One row per request."""

REQUESTS_EXTENDED = "priority abort hit_tokens accepted".split()

NOT_DECIDED = ("sched_us",)
"""Columns that no comparison looks at: the time that the decision took."""


def text_of(columns: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Return rows as CSV text."""
    columns, out = list(columns), io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_written(row[column]) for column in columns] for row in rows)
    return out.getvalue()


def _written(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value))
    return str(value)
