"""The batch-time law in compiled code: one evaluation, which every kernel calls.

A kernel knows a law by the address of its :meth:`serving.BatchTimeLaw.vector`. A loop in which only
the tokens of a batch change takes :func:`at_requests` out of the loop and calls :func:`of_tokens`
inside; everything else calls :func:`batch_duration`. All give the bits of
:meth:`serving.BatchTimeLaw.duration`.
"""

from __future__ import annotations

from serving.batch_time import LAW_VECTOR
from serving.compilation import compiled
from serving.compiled_memory import real_at, record_at

_law = record_at(LAW_VECTOR)
PIECES_AT = LAW_VECTOR.itemsize


@compiled
def _table_time(table, pieces, requests):
    """Return a table's time, ``time + slope * (requests - first)`` of the piece it is in."""
    first = real_at(table, 0)
    if requests <= first:
        return real_at(table, pieces)
    low, high = 0, pieces
    while high - low > 1:
        middle = (low + high) >> 1
        if real_at(table, middle) <= requests:
            low = middle
        else:
            high = middle
    time, slope = real_at(table, pieces + low), real_at(table, 2 * pieces + low)
    return slope * (requests - real_at(table, low)) + time


@compiled
def at_requests(law, requests, moved):
    """Return the law of a batch of so many requests as a line in its tokens.

    Parameters
    ----------
    law
        Address of the law's vector.
    requests
        Requests that the batch executes.
    moved : [tokens]
        Tokens moved between GPU and CPU since the last batch.

    Returns
    -------
    tuple
        For :func:`of_tokens`.
    """
    s = _law(law)
    extra = s.per_request_extra * requests
    if s.pieces > 0.0:
        extra += _table_time(law + PIECES_AT, int(s.pieces), requests)
    return s.d_0, s.d_kv, extra, s.d_swap * moved


@compiled
def of_tokens(line, tokens):
    """Return the duration [time] of a batch of ``tokens`` on the line of :func:`at_requests`."""
    return line[0] + line[1] * tokens + line[2] + line[3]


@compiled
def batch_duration(law, tokens, requests, moved):
    """Return the duration [time] of a batch; see :func:`at_requests` and :func:`of_tokens`."""
    return of_tokens(at_requests(law, requests, moved), tokens)


@compiled
def step_duration(law, decode, context, prefill, attention, prefill_context, moved):
    """Return the duration [time] of a step; see :meth:`serving.BatchTimeLaw.step_duration`."""
    if prefill == 0:
        return batch_duration(law, context + decode, decode, moved)
    s = _law(law)
    decode_table = law + PIECES_AT
    prefill_table = decode_table + 24 * int(s.pieces)
    kv_table = prefill_table + 24 * int(s.prefill_pieces)
    read = s.d_kv * context
    if s.mixed_kv_pieces > 0.0:
        read = _table_time(kv_table, int(s.mixed_kv_pieces), context)
    if s.prefill_pieces > 0.0:
        computed = _table_time(prefill_table, int(s.prefill_pieces), prefill + decode)
    else:
        computed = s.d_0 + s.d_decode * decode + s.d_prefill * prefill
        if s.pieces > 0.0:
            computed += _table_time(decode_table, int(s.pieces), decode)
    attended = s.d_prefill_attention * attention
    mixed = computed + s.d_mixed_decode * decode + read + attended
    return mixed + s.d_prefill_context * prefill_context + s.d_swap * moved
