"""One step of a server that computes its own prompts, written once as symbols.

State: WAITING ``Q``; RUNNING ``X[j, r]`` by class and row, a row being the requests that started
together, in order of entry; PREEMPTED ``R[j, q]``, the next to start first. A class is a prompt of
``p[j]`` and an answer of ``D[j]`` tokens. The scheduler does not see the class: whatever it takes
of a row it takes of all classes alike. All of a row have as many tokens, ``g[r]`` or ``y[q]``.

What the scheduler decides are shares of rows, each cut to 0..1:

* ``v[r]`` of RUNNING is preempted where its growth does not fit, the last rows first;
* ``w[q]`` of PREEMPTED starts again, in order, as far as tokens, seats and KV go;
* ``f`` of WAITING starts in what these leave.

So the next state is the flow list, and the time of the step is the law on what is in it.
Asynchronous scheduling is ``ahead = 1``: a step is decided when the one before begins, and who has
ended keeps seat and blocks for a step.
"""

from __future__ import annotations

from functools import cache

import sympy as sp

from fluid._equations import PI, Quantity, k
from fluid._flows import QUEUED, RANGES, ROWS, Flow, j, q, r
from fluid.prompt_server.symbols import (
    AHEAD,
    ARRIVAL,
    CACHE,
    CREDIT,
    DECIDED,
    EPS,
    FREE_AT,
    GAP,
    MARK,
    PARAMETERS,
    RESERVE,
    SEATS,
    SIZE,
    TAKEN,
    TOKENS,
    UNKNOWN,
    D,
    M,
    Q,
    R,
    ServerEquations,
    X,
    d_0,
    d_kv,
    d_n,
    e_0,
    e_a,
    e_h,
    e_k,
    e_n,
    e_p,
    g,
    hit,
    p,
    y,
)

FRESH, KV = sp.Symbol("f"), sp.IndexedBase("h")
v, w, own, kv, held, waiting, lost = (
    sp.IndexedBase(x) for x in ("v", "w", "o", "c", "b", "m", "l")
)
Y = sp.IndexedBase("Y")
O_1, A_1, H_1, C_1, B_1 = sp.symbols("o_1 a_1 z_1 c_1 b_1", nonnegative=True)
"""What the prompt of a mean request takes: tokens, pairs, known tokens, KV read, KV held."""
n, read, seats, memory, room = sp.symbols("n c_n s_n b_n room")
left, free, is_prompts = sp.symbols("left free prompts")
entering, tokens, pairs, known, context, sigma = sp.symbols("e T_p A Z C sigma")
begin, tau_0, tau_1, tau, end = sp.symbols("begin tau_0 tau_1 tau end")
new_kv = sp.Symbol("K_new")


def where(condition: sp.Basic, value: sp.Expr, otherwise: sp.Expr | int = 0) -> sp.Expr:
    """Return ``value`` where a condition holds."""
    return sp.Piecewise((value, condition), (sp.sympify(otherwise), True))


def over_classes(value: sp.Expr) -> sp.Expr:
    """Return the sum over classes."""
    return sp.Sum(value, RANGES[j])


def over_rows(value: sp.Expr) -> sp.Expr:
    """Return the sum over classes and rows of RUNNING."""
    return sp.Sum(value, RANGES[j], RANGES[r])


def over_preempted(value: sp.Expr) -> sp.Expr:
    """Return the sum over the rows of PREEMPTED."""
    return sp.Sum(value, RANGES[q])


def share(value: sp.Expr) -> sp.Expr:
    """Return ``value`` cut to 0..1."""
    return sp.Max(0, sp.Min(1, value))


def blocks(age: sp.Expr) -> sp.Expr:
    """Return the KV [tokens] in the blocks of a request with so many tokens."""
    return SIZE * sp.ceiling((p[j] + age) / SIZE)


def in_blocks(age: sp.Expr) -> sp.Expr:
    """Return the KV [tokens] in blocks of a request that runs: one that has ended does not grow."""
    return blocks(sp.Min(age, D[j] - 1 + UNKNOWN))


@cache
def server_equations(prompts_apart: bool = False) -> ServerEquations:
    """Return the symbolic fluid model of one step of a server that computes its own prompts.

    Parameters
    ----------
    prompts_apart
        Whether steps are prompts alone or decodes alone, prompts first, as in vLLM's V0 engine
        without chunked prefill. Otherwise prompts fill up the steps of the decodes.
    """
    return ServerEquations(
        prompts_apart=prompts_apart,
        parameters=PARAMETERS,
        constants=_constants(),
        states=_states(prompts_apart),
        definitions=_definitions(prompts_apart),
        flows=_flows(prompts_apart),
        integrals=_integrals(prompts_apart),
        marks=_marks(prompts_apart),
    )


def _constants() -> tuple[Quantity, ...]:
    own_1, known_1 = (1 - hit[j]) * p[j], hit[j] * p[j]
    one = (
        (O_1, "prompt_tokens", "tokens", "computed", own_1),
        (A_1, "prompt_pairs", "tokens^2", "pairs that attend each other",
         own_1 * (known_1 + (own_1 + 1) / 2)),
        (H_1, "prompt_known", "tokens", "found in the prefix cache", known_1),
        (C_1, "prompt_context", "tokens", "KV after the step", p[j]),
        (B_1, "prompt_held", "tokens", "KV in its blocks", blocks(sp.S.Zero)),
    )  # fmt: skip
    return tuple(
        Quantity(symbol, code, unit, f"{meaning}, of a mean prompt", over_classes(PI[j] * value))
        for symbol, code, unit, meaning, value in one
    )


def _states(apart: bool) -> tuple[Quantity, ...]:
    return (
        Quantity(Q, "Q", "requests", "WAITING, never started"),
        Quantity(X[j, r], "X", "requests", "RUNNING, class j in row r, in order of entry"),
        Quantity(R[j, q], "R", "requests", "PREEMPTED, class j in row q, the next to start first"),
    )


def _marks(apart: bool) -> tuple[Quantity, ...]:
    """Return what rows and clock carry besides requests; ``expression`` is the value afterwards."""
    after = AHEAD * begin + (1 - AHEAD) * end
    own_rows = g[r] + 1 - is_prompts if apart else g[r] + 1
    rows = (
        Quantity(g[r], "g", "tokens", "tokens of row r; 1 in a row that is new", own_rows),
        Quantity(y[q], "y", "tokens", "tokens of row q: those of the row it came from", y[q]),
        Quantity(MARK[q], "mark", "tokens", "KV taken so far when row q was preempted", MARK[q]),
        Quantity(TAKEN, "taken", "tokens", "KV taken so far", TAKEN + new_kv),
        Quantity(DECIDED, "t", "time", "when the step is decided", after),
        Quantity(FREE_AT, "free_at", "time", "when the device is free", end),
    )
    if not apart:
        return rows
    credit = where(sp.Gt(is_prompts, 0), CREDIT + 1 - sigma)
    return (*rows, Quantity(CREDIT, "credit", "1", "what prompts have left for decodes", credit))


def _definitions(apart: bool) -> tuple[Quantity, ...]:
    return (*_growth(), *_left(apart), *_again(), *_fresh(apart), *_work(apart), *_time(apart))


def _growth() -> tuple[Quantity, ...]:
    """Return who runs and what is preempted, as if the step decodes."""
    later = sp.Sum(KV[k], (k, r + 1, ROWS))
    return (
        Quantity(
            KV[r], "h", "tokens", "KV in the blocks of row r, its next token included",
            over_classes(X[j, r] * in_blocks(g[r])),
        ),
        Quantity(memory, "grown", "tokens", "the same of all rows", sp.Sum(KV[r], RANGES[r])),
        Quantity(
            v[r], "v", "1", "share of row r preempted if the step decodes: the last rows first",
            share((memory - M - later) / sp.Max(KV[r], EPS)),
        ),
    )  # fmt: skip


def _left(apart: bool) -> tuple[Quantity, ...]:
    """Return what the running leave of tokens, seats and KV for who starts."""
    running = over_rows(X[j, r])
    decodes = over_rows(where(sp.Lt(g[r], D[j] + UNKNOWN), X[j, r]))
    keep = RESERVE if apart else where(sp.Gt(seats, 0), RESERVE)
    found = [
        Quantity(seats, "seats", "requests", "RUNNING", running),
        Quantity(left, "left", "tokens", "of the step", TOKENS if apart else TOKENS - decodes),
        Quantity(free, "free", "requests", "seats", SEATS - seats),
        Quantity(room, "room", "tokens", "KV", M - keep - memory),
    ]
    if apart:
        return tuple(found)
    fits = sp.Le(memory, M * (1 + EPS))  # nobody starts in a step that preempts
    return tuple(
        Quantity(
            x.symbol, x.code, x.unit,
            x.meaning + ("" if x is found[0] else " left; nothing where anybody is preempted"),
            x.expression if x is found[0] else where(fits, x.expression),
        )
        for x in found
    )  # fmt: skip


def _again() -> tuple[Quantity, ...]:
    """Return what the preempted take, and the share of each row that starts again."""

    def behind(what: sp.IndexedBase) -> sp.Expr:
        return sp.Sum(what[k], (k, 1, q - 1))

    tokens_left = (left - behind(own)) / sp.Max(own[q], EPS)
    seats_left = (free - behind(waiting)) / sp.Max(waiting[q], EPS)
    room_left = (room - behind(held)) / sp.Max(held[q], EPS)
    found = sp.Max(1 - CACHE, share((TAKEN - MARK[q]) / sp.Max(held[q], EPS)))
    least = (SIZE + 1) / 2 * waiting[q]
    return (
        Quantity(waiting[q], "m", "requests", "in row q", over_classes(R[j, q])),
        Quantity(
            kv[q], "c", "tokens", "prompt and tokens so far of row q",
            over_classes(R[j, q] * (p[j] + y[q])),
        ),
        Quantity(
            held[q], "b", "tokens", "KV in its blocks", over_classes(R[j, q] * blocks(y[q]))
        ),
        Quantity(lost[q], "l", "1", "share that others have overwritten in the cache", found),
        Quantity(
            own[q], "o", "tokens", "to compute again: half a block each at least",
            sp.Min(kv[q], sp.Max(kv[q] * lost[q], least)),
        ),
        Quantity(
            w[q], "w", "1", "share of row q that starts again",
            share(sp.Min(tokens_left, seats_left, room_left)),
        ),
    )  # fmt: skip


def _fresh(apart: bool) -> tuple[Quantity, ...]:
    """Return who starts of WAITING; with prompts apart, also whether the step is prompts."""
    limits = (
        Q,
        (left - over_preempted(own[q])) / sp.Max(O_1, EPS),
        free - over_preempted(waiting[q]),
        (room - over_preempted(held[q])) / B_1,
    )
    fresh = Quantity(FRESH, "fresh", "requests", "WAITING that start", sp.Max(0, sp.Min(*limits)))
    starts = Quantity(
        entering, "entering", "requests", "that start", FRESH + over_preempted(w[q] * waiting[q])
    )
    if not apart:
        return fresh, starts
    may = where(sp.And(sp.Gt(entering, EPS), sp.Lt(CREDIT, 1)), sp.S.One)
    return fresh, starts, Quantity(is_prompts, "prompts", "1", "1 for a step of prompts", may)


def _work(apart: bool) -> tuple[Quantity, ...]:
    """Return what the law has to know of the step."""
    runs = Quantity(
        Y[j, r], "Y", "requests", "RUNNING that are not preempted", (1 - v[r]) * X[j, r]
    )
    decodes = where(sp.Lt(g[r], D[j] + UNKNOWN), Y[j, r])

    def of_both(each: sp.Symbol, again: sp.Expr) -> sp.Expr:
        return FRESH * each + over_preempted(w[q] * again)

    cached = kv[q] - own[q]
    attended = own[q] * (cached + (own[q] + waiting[q]) / 2) / sp.Max(waiting[q], EPS)
    total_kv = over_rows(where(sp.Lt(g[r], D[j] + UNKNOWN), Y[j, r] * (p[j] + g[r])))
    taken = of_both(B_1, held[q] - cached)
    decode_kv = n * (1 - is_prompts) + taken * is_prompts if apart else n + taken
    return (
        runs,
        Quantity(n, "decodes", "tokens", "computed of answers", over_rows(decodes)),
        Quantity(read, "read", "tokens", "KV that these read", total_kv),
        Quantity(tokens, "prefill", "tokens", "computed of prompts", of_both(O_1, own[q])),
        Quantity(pairs, "pairs", "tokens^2", "that attend each other", of_both(A_1, attended)),
        Quantity(known, "known", "tokens", "found in the cache", of_both(H_1, cached)),
        Quantity(context, "context", "tokens", "KV of those who start", of_both(C_1, kv[q])),
        Quantity(new_kv, "new_kv", "tokens", "KV taken anew", decode_kv),
    )


def _time(apart: bool) -> tuple[Quantity, ...]:
    """Return the time of the step: the mean over steps in which anybody starts and none does."""
    some = sp.Max(sigma, EPS)
    others, reads = (sp.S.Zero, sp.S.Zero) if apart else (n, read)
    with_prompts = (
        e_0 + e_n * others + e_k * (reads + context / some) + e_p * tokens / some
        + e_a * pairs / some + e_h * known / some
    )  # fmt: skip
    late = sp.Max(0, DECIDED + GAP - begin)
    if apart:
        both = where(sp.Gt(is_prompts, 0), sigma * (tau_1 + GAP), tau_0 + late)
    else:
        both = sigma * tau_1 + (1 - sigma) * tau_0 + late
    return (
        Quantity(sigma, "some", "1", "chance that anybody starts", 1 - sp.exp(-entering)),
        Quantity(
            tau_0, "time_without", "time", "of a step without prompts", d_0 + d_n * n + d_kv * read
        ),
        Quantity(tau_1, "time_with", "time", "of a step with prompts", with_prompts),
        Quantity(begin, "begin", "time", "of the step", sp.Max(FREE_AT, DECIDED)),
        Quantity(tau, "tau", "time", "of the step; the device waits for the decision", both),
        Quantity(end, "end", "time", "of the step", begin + tau),
    )


def _flows(apart: bool) -> tuple[Flow, ...]:
    arrive = sp.Symbol("F_arrive")
    start, at_once, again, last, preempt, complete = (
        sp.IndexedBase(f"F_{x}")
        for x in ("start", "start_and_end", "start_again", "again_and_end", "preempt", "complete")
    )
    decodes = 1 - is_prompts if apart else sp.S.One
    starts = is_prompts if apart else sp.S.One
    fresh, returning = starts * PI[j] * FRESH, starts * w[q] * R[j, q]
    lasts = where(sp.Lt(g[r] + 1, D[j] + AHEAD), sp.S.Zero, Y[j, r])
    let_go = where(sp.Lt(g[r], D[j]), sp.S.Zero, v[r] * X[j, r])
    after = AHEAD * begin + (1 - AHEAD) * end
    more, more_again = sp.Lt(1, D[j] + AHEAD), sp.Lt(y[q] + 1, D[j] + AHEAD)
    is_last = "the same where the token of this step is the last"
    return (
        Flow("arrive", None, Q, arrive, ARRIVAL * (after - DECIDED), "until the next decision"),
        Flow("start", Q, X[j, ROWS + QUEUED + 1], start[j], where(more, fresh),
             "first come, first served, in what the others leave of tokens, seats and KV"),
        Flow("start_and_end", Q, None, at_once[j], where(more, sp.S.Zero, fresh), is_last),
        Flow("start_again", R[j, q], X[j, ROWS + q], again[j, q], where(more_again, returning),
             "before those who wait; computes prompt and tokens again"),
        Flow("again_and_end", R[j, q], None, last[j, q],
             where(more_again, sp.S.Zero, returning), is_last),
        Flow("preempt", X[j, r], R[j, r - ROWS], preempt[j, r],
             decodes * where(sp.Lt(g[r], D[j]), v[r] * X[j, r]),
             "the growth of RUNNING does not fit: last in, first out"),
        Flow("complete", X[j, r], None, complete[j, r], decodes * (lasts + let_go),
             "the last token; with asynchronous scheduling a step after it"),
    )  # fmt: skip


def _integrals(apart: bool) -> tuple[Quantity, ...]:
    decodes = 1 - is_prompts if apart else sp.S.One
    starts = is_prompts if apart else sp.S.One
    stopped = decodes * over_rows(where(sp.Lt(g[r], D[j]), v[r] * X[j, r]))
    again = starts * over_preempted(w[q] * own[q])
    return (
        Quantity(sp.Symbol("started"), "started", "requests", "started", starts * FRESH),
        Quantity(sp.Symbol("evicted"), "evicted", "requests", "preempted", stopped),
        Quantity(sp.Symbol("wasted"), "wasted", "tokens", "computed again", again),
    )
