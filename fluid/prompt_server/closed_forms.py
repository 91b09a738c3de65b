"""Closed forms of a server that computes its own prompts, from the symbols of its step.

At rest x requests start and x end in a step, a row per age: row r has ``x pi[j]`` requests of class
j as long as they have a seat. Put into the definitions of the step, this makes every sum over rows
x times the sum over the life of a request, and these sums are polynomials in the lengths. The
limits of a step then give x, and the law the time of the step.

The batch-time law is a line here. Sums over blocks have no formula; they stay symbols.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import sympy as sp

from fluid._equations import PI
from fluid._flows import j, r
from fluid.prompt_server import step_equations as step
from fluid.prompt_server.symbols import (
    AHEAD,
    ARRIVAL,
    DECIDED,
    FREE_AT,
    GAP,
    RESERVE,
    TOKENS,
    D,
    X,
    d_kv,
    d_n,
    e_0,
    e_a,
    e_h,
    e_k,
    e_n,
    e_p,
    g,
    p,
)

ENTERING, TAU, ONE, STEPS = sp.symbols("x tau one steps", positive=True)
AGE = sp.Symbol("a", integer=True, positive=True)
E_P, E_D, E_PD, E_DD = sp.symbols("E_p E_D E_pD E_DD", positive=True)
HELD, ROOM = sp.symbols("W_h room", nonnegative=True)
OWN, OWN_SQUARE, FURTHER = sp.symbols("O_1 O_2 F", nonnegative=True)
MOMENTS = {(0, 0): sp.S.One, (1, 0): E_P, (0, 1): E_D, (1, 1): E_PD, (0, 2): E_DD}
"""x: requests that start in a step. E_p, E_D, E_pD, E_DD: means over requests of p, D, p D, D^2.
W_h: KV that the blocks of a request hold in its steps after the prompt, summed. room: KV that
stays free on average. O_1, O_2: mean and mean square of what a prompt adds to the time of its
step. F: steps that a prompt takes beyond its first, on average."""


def _life(value: sp.Expr, last: sp.Expr) -> sp.Expr:
    """Return the mean over requests of the sum of ``value`` over ages 1..last - 1."""
    total = sp.expand(sp.summation(sp.expand(value), (AGE, 1, last - 1)))
    prompt, answer = sp.symbols("p D", positive=True)
    terms = sp.Poly(total.subs({p[j]: prompt, D[j]: answer}), prompt, answer).terms()
    return sp.expand(sp.Add(*(factor * MOMENTS[powers] for powers, factor in terms)))


def at_rest(expression: sp.Sum) -> sp.Expr:
    """Return a sum over classes and rows of RUNNING at rest, nobody being preempted.

    Parameters
    ----------
    expression
        ``Sum(value * X[j, r])``, or where its condition holds ``g[r] < last``; ``Y`` is X.
    """
    value, last = expression.function, D[j] + AHEAD  # until then a request has a seat
    if isinstance(value, sp.Piecewise):
        value, condition = value.args[0]
        last = condition.rhs if condition.lhs == g[r] else condition.lhs
    each = (value / (step.Y[j, r] if value.has(step.Y) else X[j, r])).subs(g[r], AGE)
    return ENTERING * _life(sp.simplify(each), last)


@cache
def _definitions(apart: bool) -> Mapping[str, Any]:
    """Return the definitions of the step at rest, by code name: x start, and nobody again."""
    found = {x.code: x.expression for x in step.server_equations(apart).definitions}
    nobody = {
        x: 0
        for name in ("prefill", "pairs", "known", "context", "entering")
        for x in found[name].atoms(sp.Sum)
    }
    seats = at_rest(found["seats"])
    decodes, read = at_rest(found["decodes"]), at_rest(found["read"])
    prompts = {
        symbol: found[code].subs(nobody).subs(step.FRESH, ENTERING)
        for symbol, code in (
            (step.tokens, "prefill"), (step.pairs, "pairs"), (step.known, "known"),
            (step.context, "context"), (step.entering, "entering"),
        )
    }  # fmt: skip
    return {
        "found": found, "seats": seats, "decodes": decodes, "read": read,
        "at": prompts | {step.n: decodes, step.read: read},
    }  # fmt: skip


def _open(expression: sp.Expr) -> sp.Expr:
    """Return what the running leave where nobody is preempted."""
    return expression.args[0][0] if isinstance(expression, sp.Piecewise) else expression


@cache
def saturation_formulas(apart: bool = False) -> Mapping[str, Any]:
    """Return x by each limit of a full step, and the mean time of a step of x, as expressions.

    Whoever waits takes what is left of tokens, seats and KV. What is left is what x starts take, an
    equation for x. ``room`` is the KV that stays free: the prompt that waits is met in proportion
    to its blocks, and a uniform part of it is free.

    Returns
    -------
    mapping
        ``max_num_seqs``, ``max_num_batched_tokens`` (not with prompts apart) and ``KV blocks`` in
        [requests/step]; ``batch_time``, from one decode to the next [time].
    """
    rest = _definitions(apart)
    found, x = rest["found"], ENTERING
    seats, blocks = rest["seats"], x * HELD
    left = {
        "max_num_seqs": (_open(found["free"]), sp.S.One),
        "max_num_batched_tokens": (_open(found["left"]), step.O_1),
        "KV blocks": (_open(found["room"]) - ROOM, step.B_1),
    }
    out: dict[str, Any] = {}
    for name, (rule, each) in left.items():
        if apart and name == "max_num_batched_tokens":
            continue  # decodes do not share the step with prompts
        at = {y: rest["decodes"] for y in rule.atoms(sp.Sum)}
        at |= {step.seats: seats, step.memory: blocks}
        at |= {y: RESERVE for y in rule.atoms(sp.Piecewise)}
        out[name] = sp.factor(sp.solve(sp.Eq(rule.subs(at), x * each), x)[0])
    return out | {"batch_time": _batch_time(apart)}


def _batch_time(apart: bool) -> sp.Expr:
    """Return the mean time from one decode to the next where x start in it."""
    rest = _definitions(apart)
    found, x = rest["found"], ENTERING
    some = found["some"].subs(rest["at"])
    guarded = next(iter(found["time_with"].atoms(sp.Max)))  # the guard of a division
    prompts = sp.expand(STEPS * found["time_with"].subs(guarded, STEPS))
    prompts = sp.collect(prompts, STEPS).subs(rest["at"])
    if apart:  # so many steps of prompts, none larger than a step may be
        steps = sp.Max(some, x * step.O_1 / TOKENS)
        return _base(apart) + prompts.subs(STEPS, steps) + steps * GAP
    without = found["time_without"].subs(rest["at"])
    # the device waits for a decision that was made ``ahead`` steps before
    plain = sp.Symbol("plain", positive=True)
    late = sp.factor(sp.solve(sp.Eq(TAU, plain + GAP - AHEAD * TAU), TAU)[0] - plain)
    mean = prompts.subs(STEPS, some) + (1 - some) * without
    return (plain + sp.Max(0, late)).subs(plain, mean)


def _base(apart: bool) -> sp.Expr:
    """Return the time of a step of decodes alone, the decision included."""
    rest = _definitions(apart)
    late = rest["found"]["tau"].args[1][0] if apart else rest["found"]["tau"]
    late = next(iter(late.atoms(sp.Max))).subs({step.begin: FREE_AT}).subs(FREE_AT, DECIDED)
    return rest["found"]["time_without"].subs(rest["at"]) + sp.simplify(late)


def prompt_time() -> sp.Expr:
    """Return what the prompt of class j adds to the time of a step with prompts."""
    own = {x.code: x.expression.function / PI[j] for x in step.server_equations().constants}
    return (
        e_k * own["prompt_context"] + e_p * own["prompt_tokens"] + e_a * own["prompt_pairs"]
        + e_h * own["prompt_known"]
    )  # fmt: skip


@cache
def server_equilibrium_formulas(apart: bool = False) -> Mapping[str, Any]:
    """Return the healthy equilibrium: conditions that are 0 in it, and what follows from it.

    In a step and the idle time after it ``lambda (tau + i)`` requests arrive and start; an empty
    server is as frequent as if ``lambda E[D] tau`` requests were a Poisson number.

    Parameters
    ----------
    apart
        Prompts in steps of their own. Then ``one``, the time of a step of prompts, is unknown
        besides: who comes during such a step makes another one.

    Returns
    -------
    mapping
        ``conditions``, a tuple of expressions in ``unknowns``; ``batch_time``, ``running``,
        ``wait``, ``ttft``, ``decode_time``, ``tpot`` and ``e2el``.
    """
    x, tau = ENTERING, TAU
    cycle = x - ARRIVAL * tau / (1 - sp.exp(-ARRIVAL * E_D * tau))
    rest = _definitions(apart)
    busy = 1 - sp.exp(-x * E_D)
    several = rest["decodes"] / x
    mean_read = rest["read"] / x / several
    conditions, unknowns = (cycle, tau - _batch_time(False)), (x, tau)
    own_step = tau + OWN
    residual = (tau**2 + x * OWN_SQUARE / (1 - (ARRIVAL * OWN) ** 2)) / (2 * tau)
    seen = e_n + e_k * mean_read
    if apart:
        base, share = _base(apart), ARRIVAL * OWN
        fixed = e_0 - e_a * step.A_1 - e_h * step.H_1 + GAP  # whatever is not the prompts' own
        steps = (1 - sp.exp(-ARRIVAL * base)) * sp.exp(ARRIVAL * ONE)
        together = (steps * fixed + share * base) / (1 - share)
        one = fixed + share * (base + together) / steps
        conditions, unknowns = (cycle, tau - base - together, ONE - one), (x, tau, ONE)
        residual = (base**2 + (tau - base) * ONE) / (2 * tau)
        own_step, seen = ONE, d_n + d_kv * mean_read
    wait = busy * (residual + (0 if apart else AHEAD * tau))
    ttft = wait + own_step + FURTHER * tau
    tpot = tau + seen
    decode = (E_D - 1) * tpot
    return {
        "conditions": conditions, "unknowns": unknowns, "batch_time": tau,
        "running": rest["seats"] + x, "wait": wait, "ttft": ttft, "tpot": tpot,
        "decode_time": decode, "e2el": ttft + decode,
    }  # fmt: skip
