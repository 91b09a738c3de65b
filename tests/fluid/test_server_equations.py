"""The symbolic step of a server: what its flow list conserves, what it is made of, how it reads."""

from __future__ import annotations

import pytest
import sympy as sp

import fluid
from fluid._flows import QUEUED, RANGES, ROWS, I, J, i, j, q, r
from fluid.prompt_server.step_equations import Q, R, X, g, y
from serving import ConfigError

KINDS = {False: "beside decodes", True: "in steps of their own"}


def label(symbol):
    return symbol.base.label if isinstance(symbol, sp.Indexed) else symbol


@pytest.mark.parametrize("apart", KINDS)
def test_requests_are_conserved_flow_by_flow(apart):
    model = fluid.server_equations(apart)
    change = fluid.balance(model.flows, {Q: 1, X[j, r]: 1, R[j, q]: 1})
    assert change == {
        "arrive": 1, "start": 0, "start_and_end": -1, "start_again": 0, "again_and_end": -1,
        "preempt": 0, "complete": -1,
    }  # fmt: skip


@pytest.mark.parametrize("apart", KINDS)
def test_a_request_keeps_its_class_and_its_tokens_on_every_way(apart):
    """A row that starts again is the row that was preempted, and has its class and tokens."""
    model = fluid.server_equations(apart)
    back, out = model.flow("start_again"), model.flow("preempt")
    assert (back.origin, back.destination) == (R[j, q], X[j, ROWS + q])
    assert (out.origin, out.destination) == (X[j, r], R[j, r - ROWS])
    marks = {item.code: item.expression for item in model.marks}
    assert marks["y"] == y[q] and marks["g"].subs(sp.Symbol("prompts"), 0) == g[r] + 1


@pytest.mark.parametrize("apart", KINDS)
def test_who_is_to_start_starts_or_has_ended(apart):
    """Both ways out of WAITING together are what starts, whatever the lengths."""
    model = fluid.server_equations(apart)
    total = model.flow("start").rate + model.flow("start_and_end").rate
    starts = next(item.expression for item in model.integrals if item.code == "started")
    for ahead in (0, 1):
        for decode in (1, 2, 7):
            at = {sp.IndexedBase("D")[j]: decode, sp.Symbol("ahead", nonnegative=True): ahead}
            assert sp.simplify(total.subs(at) - sp.IndexedBase("pi")[j] * starts) == 0


@pytest.mark.parametrize("apart", KINDS)
def test_model_is_closed(apart):
    """Everything is a parameter, a state, a mark, or defined from what comes before it."""
    model = fluid.server_equations(apart)
    given = (*model.parameters, *model.states, *model.marks)
    known = {label(item.symbol) for item in given}
    known |= {J, I, j, i, q, r, ROWS, QUEUED, sp.Symbol("k", integer=True, positive=True)}

    def used(expression):
        symbols = (x for x in expression.free_symbols if not isinstance(x, sp.Indexed))
        return {label(x) for x in symbols}

    for item in (*model.constants, *model.definitions):
        assert used(item.expression) <= known, (item.code, used(item.expression) - known)
        known.add(label(item.symbol))
    for expression in [x.rate for x in model.flows] + [x.expression for x in model.marks]:
        assert used(expression) <= known, expression


@pytest.mark.parametrize("apart", KINDS)
def test_the_change_of_a_state_is_what_the_flows_bring_and_take(apart):
    """New rows are told by their place; the rest of a row is what was there less what leaves."""
    model = fluid.server_equations(apart)
    old = {ROWS: 3, QUEUED: 2}
    change = model.rhs(X[j, r]).subs(old)
    moved = {flow.name: flow.symbol.base for flow in model.flows if flow.name != "arrive"}
    for row in range(1, 7):
        found = change.subs(r, row).doit()
        if row <= 3:
            wanted = -moved["preempt"][j, row] - moved["complete"][j, row]
        elif row <= 5:
            wanted = moved["start_again"][j, row - 3]
        else:
            wanted = moved["start"][j]
        outside = {moved[x][j, row]: 0 for x in ("preempt", "complete") if row > 3}
        assert sp.expand(found.subs(outside) - wanted) == 0, row
    assert set(RANGES) == {i, j, q, r}


@pytest.mark.parametrize("apart", KINDS)
def test_text_and_latex_show_every_state_flow_and_parameter(apart):
    model = fluid.server_equations(apart)
    text, tex = fluid.render(model), fluid.render(model, "latex")
    assert KINDS[apart] in text.splitlines()[0]
    for flow in model.flows:
        assert f"\n  {flow.name}: " in text
    for item in model.states:
        assert f"change of {item.symbol} = " in text
    for item in (*model.parameters, *model.marks, *model.definitions):
        assert item.meaning in text
    assert tex.startswith(r"\documentclass") and tex.rstrip().endswith(r"\end{document}")
    assert tex.count(r"\begin{align*}") == tex.count(r"\end{align*}") == 5
    assert tex.count(r"\Delta ") >= len(model.states) + len(model.integrals)
    assert tex.count("{") == tex.count("}")
    with pytest.raises(ConfigError, match=r"text \| latex \| python"):
        fluid.render(model, "html")
