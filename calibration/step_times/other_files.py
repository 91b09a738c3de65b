"""Steps that vLLM itself wrote: the log of its iterations, results of ``vllm bench forward``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from calibration.refusal import refuse_implausible, refuse_no_duration
from calibration.server_runs.documents import number, parse_documents
from calibration.server_runs.iteration_rows import gap_between_steps, rows_of_iterations
from calibration.server_runs.iterations import from_iteration_log
from calibration.step_times.rows import StepRows
from serving import WorkloadError

ITERATIONS = "iterations of vLLM"
"""What the rows of a log say of their source."""

FORWARD_KEYS = ("case", "requests", "median_us")
"""Keys of a case of ``vllm bench forward``."""


def rows_of_log(
    text: str, path: Path, about: Mapping[str, Any], *, kv_capacity: int | None,
    block_size: int | None,
) -> StepRows:  # fmt: skip
    """Return the steps in the log of a server, each with the time until the next one begins.

    Parameters
    ----------
    text, path
        The log, and its name for messages.
    about
        What the machine is called.
    kv_capacity, block_size : [tokens]
        Of the server. Without the first, unless the log states it, KV is not told.

    Raises
    ------
    WorkloadError
        Naming the line that is wrong.
    """
    log = from_iteration_log(text, path)
    gap = gap_between_steps(log)
    rows = rows_of_iterations(log, gap, kv_capacity=kv_capacity, block_size=block_size)
    told = rows.kv_tokens is not None and not rows.kv_is_share
    chunks = np.maximum(log.contexts, rows.prefill_tokens > 0)
    each = rows.prefill_tokens / np.maximum(chunks, 1)
    between = {} if gap is None else {"time_between_steps": gap.share}
    return StepRows(
        prefill_tokens=rows.prefill_tokens,
        requests=rows.decode_tokens,
        context=np.zeros(len(rows)) if rows.kv_tokens is None or not told else rows.kv_tokens,
        prefill_context=np.zeros(len(rows)),
        time=rows.step_time,
        row=np.arange(1, len(rows) + 1),
        has_context=told,
        about={"file": str(path), "source": ITERATIONS, **about, **between},
        dropped=dict(log.dropped),
        pairs=rows.prefill_tokens * (each + 1) / 2,
    )


def is_forward(documents: list[Any]) -> bool:
    """Return whether JSON is a result of ``vllm bench forward``."""
    first = documents[0] if documents else None
    first = first[0] if isinstance(first, list) and first else first
    return isinstance(first, dict) and all(key in first for key in FORWARD_KEYS)


def rows_of_forward(text: str, path: Path, about: Mapping[str, Any]) -> StepRows:
    """Return the cases of ``vllm bench forward --output-json``: one forward pass each.

    A request whose query is one token, and drafts, behind a prefix decodes; any other computes
    ``query_len`` tokens behind ``kv_len - query_len``.

    Raises
    ------
    WorkloadError
        Naming case, key and value of the first that is wrong.
    """
    documents = parse_documents(text, path)
    if not is_forward(documents):
        raise WorkloadError("JSON, but no result of vllm bench forward --output-json", path=path)
    cases = documents[0] if isinstance(documents[0], list) else documents
    found = []
    for row, case in enumerate(cases, start=1):
        if not isinstance(case, dict) or not isinstance(case.get("requests"), list):
            raise WorkloadError("allowed: a case with a list of requests", path=path, row=row)
        requests = [_request(each, path, row) for each in case["requests"]]
        time = number(case.get("median_us"), path, row, "median_us")
        found.append((*_content(requests), time))
    columns = np.array(found, dtype=float).reshape(-1, 6).T
    prefill, decoding, context, prefix, pairs, time = columns
    refuse_no_duration(time / 1e6, column="median_us", values=time, path=path)
    refuse_implausible({"query_len": prefill, "kv_len": context + prefix}, path=path)
    return StepRows(
        prefill_tokens=prefill, requests=decoding, context=context, prefill_context=prefix,
        time=time / 1e6, row=np.arange(1, time.size + 1), about={"file": str(path), **about},
        pairs=pairs,
    )  # fmt: skip


def _request(content: Any, path: Path, row: int) -> tuple[float, float, float]:
    """Return query, KV and drafts of a request [tokens]."""
    if not isinstance(content, dict):
        raise WorkloadError("allowed: an object", path=path, row=row, column="requests")
    query, kv = (number(content.get(key), path, row, key) for key in ("query_len", "kv_len"))
    drafts = number(content.get("num_draft_tokens", 0), path, row, "num_draft_tokens")
    if not 1 <= query <= kv or drafts < 0:
        raise WorkloadError("allowed: 1 <= query_len <= kv_len", path=path, row=row,
                            column="query_len", value=query)  # fmt: skip
    return query, kv, drafts


def _content(requests: list[tuple[float, float, float]]) -> tuple[float, ...]:
    """Return the columns of a batch: prefill, decode tokens, their KV, prefix of chunks, pairs."""
    prefill = decode = context = prefix = pairs = 0.0
    for query, kv, drafts in requests:
        held = kv - query
        if held > 0 and query == 1 + drafts:
            decode, context = decode + query, context + held
        else:
            prefill, prefix = prefill + query, prefix + held
            pairs += query * (held + (query + 1) / 2)
    return prefill, decode, context, prefix, pairs
