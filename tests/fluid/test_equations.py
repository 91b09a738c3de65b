"""The symbolic model: what its flow list conserves, proved symbolically, and its origin."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp

import fluid
from fluid._equations import (
    BETA,
    D_0,
    D_DECODE,
    D_KV,
    PI,
    TRANSPORTS,
    E,
    G,
    H,
    K,
    M,
    Q,
    R,
    U,
    X,
    Z,
    a,
    c,
    f,
    phi,
    q,
    s,
    tau,
    w,
    z,
)  # fmt: skip
from fluid._flows import I, J, i, j
from serving import MODES, ConfigError

ALL = [(mode, transport) for mode in MODES for transport in TRANSPORTS]


def pool_of(mode):
    return Z[j, i] if mode == "swapping" else R[j]


def written_out(expression, classes, stages):
    """Replace every sum by its terms and every template index by numbers; q = 1 at the end."""
    expression = expression.subs({J: classes, I: stages}).doit()
    ends = {q[row, stages]: 1 for row in range(1, classes + 1)}
    return expression.subs(ends).doit()


def total_derivative(model, weights, classes, stages):
    """d/dt of the weighted total of the state, term by term, with flows at their rates."""
    total = sp.S.Zero
    for variable, weight in weights.items():
        slots = [x for x in (j, i) if isinstance(variable, sp.Indexed) and x in variable.indices]
        rows = range(1, classes + 1) if j in slots else [None]
        columns = range(1, stages + 1) if i in slots else [None]
        for row in rows:
            for column in columns:
                at = {j: row or j, i: column or i}
                rhs = model.rhs(variable).subs({J: classes, I: stages}).doit()
                total += sp.sympify(weight).subs(at) * at_rates(model, rhs.subs(at), stages)
    return total


def at_rates(model, expression, stages):
    """Put the rates of the flows in place of their symbols; nobody leaves stage 0."""
    for flow in model.flows:
        if not isinstance(flow.symbol, sp.Indexed):
            expression = expression.subs(flow.symbol, flow.rate)
            continue
        for term in expression.atoms(sp.Indexed):
            if term.base == flow.symbol.base:
                inside = term.indices[-1] != 0
                slots = dict(zip(flow.symbol.indices, term.indices, strict=True))
                rate = flow.rate.subs(slots, simultaneous=True) if inside else 0
                expression = expression.subs(term, rate)
    return expression


@pytest.mark.parametrize(("mode", "transport"), ALL)
def test_requests_are_conserved_flow_by_flow(mode, transport):
    model = fluid.equations(mode, transport)
    change = fluid.balance(model.flows, {Q: 1, X[j, i]: 1, pool_of(mode): 1})
    assert change == {
        "arrive": 1, "admit": 0, "advance": 0, "complete": -1, "evict": 0, "return": 0,
    }  # fmt: skip


@pytest.mark.parametrize(("mode", "transport"), ALL)
def test_requests_are_conserved_by_the_right_hand_side(mode, transport):
    """Independent of ``balance``: add up the ODE of every state, 2 classes x 4 stages."""
    model, classes, stages = fluid.equations(mode, transport), 2, 4
    weights = {Q: 1, X[j, i]: 1, pool_of(mode): 1}
    total = written_out(total_derivative(model, weights, classes, stages), classes, stages)
    completed = written_out(model.flow("complete").total, classes, stages)
    arrived = model.flow("arrive").rate
    completed = written_out(at_rates(model, completed, stages), classes, stages)
    shares = {PI[2]: 1 - PI[1]}
    assert sp.simplify(sp.expand((total - arrived + completed).subs(shares))) == 0


@pytest.mark.parametrize("mode", MODES)
def test_tokens_change_only_by_entry_growth_completion_and_eviction(mode):
    model = fluid.equations(mode)
    size = c[j, i] if mode == "swapping" else c[j, 1]
    change = fluid.balance(model.flows, {X[j, i]: c[j, i]})
    assert change["arrive"] == 0
    assert change["admit"] == c[j, 1]
    assert sp.expand(change["advance"] - (c[j, i + 1] - c[j, i])) == 0
    assert change["complete"] == -c[j, i]
    assert change["evict"] == -c[j, i]
    assert change["return"] == size


@pytest.mark.parametrize(("mode", "transport"), ALL)
def test_reserved_memory_obeys_its_balance_law(mode, transport):
    """tau dU/dt = s a + w z - G - (tokens evicted), for the ODE itself, written out."""
    model, classes, stages = fluid.equations(mode, transport), 2, 4
    rate = written_out(
        total_derivative(model, {X[j, i]: c[j, i]}, classes, stages), classes, stages
    )
    by_code = {item.code: item.expression for item in (*model.constants, *model.definitions)}
    assert by_code["G"] == sp.Sum(f[j, i] * H[j, i], (j, 1, J), (i, 1, I))
    law = (
        by_code["s"] * a
        + w * by_code["z"]
        - sp.Sum(H[j, i] * by_code["f"], (j, 1, J), (i, 1, I))
        - sp.Sum(c[j, i] * K[j, i], (j, 1, J), (i, 1, I))
    )
    assert sp.expand(rate * tau - written_out(law, classes, stages)) == 0


def test_full_memory_is_held_by_construction():
    """Where room is what binds, dU/dt = beta (M - U) / tau: the surface U = M attracts."""
    model = fluid.equations("swapping")
    room = {item.code: item.expression for item in model.definitions}["phi"]
    admitting = (phi - w * z) / s
    growth = s * admitting + w * z - G
    assert sp.simplify(growth.subs(phi, room) - BETA * (M - U)) == 0
    # eviction takes tokens -phi when phi < 0 (no entry): the same law
    evicted = sp.Max(0, -phi).subs(phi, -sp.Symbol("lack", positive=True))
    assert evicted == sp.Symbol("lack", positive=True)
    assert sp.simplify((phi - G).subs(phi, room) - BETA * (M - U)) == 0


@pytest.mark.parametrize(("mode", "transport"), ALL)
def test_model_is_closed(mode, transport):
    """Everything is a parameter, a state, or defined from what comes before it."""
    model = fluid.equations(mode, transport)
    known = {fluid_label(item.symbol) for item in (*model.parameters, *model.states)}
    known |= {J, I, j, i, sp.Symbol("k", integer=True, positive=True)}
    for item in (*model.constants, *model.definitions):
        used = {symbol for symbol in item.expression.free_symbols if symbol.is_Symbol}
        used = {fluid_label(symbol) for symbol in used if not isinstance(symbol, sp.Indexed)}
        assert used <= known, (item.code, used - known)
        known.add(fluid_label(item.symbol))
    for flow in model.flows:
        used = {x for x in flow.rate.free_symbols if not isinstance(x, sp.Indexed)}
        assert used <= known, (flow.name, used - known)


def fluid_label(symbol):
    return symbol.base.label if isinstance(symbol, sp.Indexed) else symbol


@pytest.mark.parametrize("mode", MODES)
def test_stage_ode_is_the_first_order_of_one_batch(mode):
    """(X after a batch - X before) / tau with the engine's order of decisions is the upwind ODE.

    One batch: of RUNNING the evicted K leave, E of it executes; a share q of those completes,
    the rest moves a stage up; a fresh and w of the evicted enter at the boundary.
    """
    model = fluid.equations(mode, "upwind")
    before = sp.Piecewise((0, sp.Eq(i, 1)), ((1 - q[j, i - 1]) * E[j, i - 1], True))
    entering = sp.KroneckerDelta(i, 1) * PI[j] * a
    if mode == "swapping":
        entering += w * Z[j, i]
    else:
        entering += sp.KroneckerDelta(i, 1) * w * R[j]
    after = X[j, i] - E[j, i] - K[j, i] + before + entering
    for stage in (1, 2, 5):
        rhs = at_rates(model, model.rhs(X[j, i]).subs(i, stage).doit(), 9).subs(
            H[j, stage], E[j, stage]
        )
        rhs = rhs.subs(H[j, stage - 1], E[j, stage - 1])
        change = ((after - X[j, i]) / tau).subs(i, stage).doit()
        assert sp.expand(change - rhs) == 0, stage


def test_limited_flux_is_upwind_in_equilibrium_and_second_order_on_a_slope():
    model = fluid.equations("swapping", "superbee")
    delta = next(item.symbol for item in model.definitions if item.code == "delta")
    flux = next(item.expression for item in model.definitions if item.code == "H")
    flat = {delta: 0, delta.subs(i, i - 1): 0}
    assert flux.subs(flat) == E[j, i]
    slope = sp.Symbol("slope", positive=True)
    for sign in (1, -1):
        smooth = {delta: sign * slope, delta.subs(i, i - 1): sign * slope}
        assert sp.simplify(flux.subs(smooth) - E[j, i] - sign * slope / 2) == 0
    # at an extremum it falls back to upwind: no new oscillation
    peak = {delta: -slope, delta.subs(i, i - 1): slope}
    assert flux.subs(peak) == E[j, i]


def test_every_flow_moves_one_request():
    for mode in MODES:
        for flow in fluid.equations(mode).flows:
            changes = flow.stoichiometry()
            assert set(changes.values()) <= {1, -1}
            assert len(changes) == (flow.origin is not None) + (flow.destination is not None)


def test_batch_time_law():
    for mode in MODES:
        definitions = {item.code: item.expression for item in fluid.equations(mode).definitions}
        n, b = sp.symbols("n b")
        without_swap = definitions["tau"].subs(sp.Symbol("d_swap", nonnegative=True), 0)
        assert sp.expand(without_swap - (D_0 + D_KV * b + (D_DECODE - D_KV) * n)) == 0


def test_unknown_names_are_refused():
    with pytest.raises(ConfigError, match=r"swapping \| sacrifice"):
        fluid.equations("swap")
    with pytest.raises(ConfigError, match=r"superbee \| upwind"):
        fluid.equations("swapping", "central")
    with pytest.raises(ConfigError, match=r"text \| latex \| python"):
        fluid.render(fluid.equations(), "html")


@pytest.mark.parametrize("mode", MODES)
def test_text_and_latex_show_every_state_flow_and_parameter(mode):
    model = fluid.equations(mode, tabulated=mode == "swapping")
    text, tex = fluid.render(model, "text"), fluid.render(model, "latex")
    for flow in model.flows:
        assert f"\n  {flow.name}: " in text
    for item in model.states:
        assert f"d {item.symbol}/dt = " in text
    for item in model.parameters:
        assert item.meaning in text
    assert tex.startswith(r"\documentclass") and tex.rstrip().endswith(r"\end{document}")
    assert tex.count(r"\begin{align*}") == tex.count(r"\end{align*}") == 4
    assert tex.count(r"\frac{d}{dt}") == len(model.states) + len(model.integrals)
    assert tex.count("{") == tex.count("}")


def scalar_rhs(mode, transport, lam, state, par):
    """The model written out by hand with loops over scalars: the reference of the array code."""
    Q, X, pool = state
    J, I = par["q"].shape  # noqa: E741
    q, beta, eps = par["q"], par["beta"], par["epsilon"]
    c = [[par["p"][r, k] + k + 1 for k in range(I)] for r in range(J)]
    T = [sum(c[r][k] * X[r, k] for r in range(J)) for k in range(I)]
    U, N = sum(T), X.sum()
    ahead = [sum(T[k + 1 :]) for k in range(I)]
    e = [min(1.0, max(0.0, (par["B"] - ahead[k]) / max(T[k], eps))) for k in range(I)]
    E = [[e[k] * X[r, k] for k in range(I)] for r in range(J)]

    def flux(r, k):
        if transport == "upwind":
            return E[r][k]

        def difference(k):
            if k < 0:
                return 0.0
            return (E[r][k + 1] if k + 1 < I else 0.0) - (1 - q[r, k]) * E[r][k]

        x, y = difference(k - 1), difference(k)
        if x * y <= 0:
            return E[r][k]
        sign, x, y = np.sign(x), abs(x), abs(y)
        return E[r][k] + 0.5 * sign * max(min(2 * x, y), min(x, 2 * y))

    H = [[flux(r, k) for k in range(I)] for r in range(J)]
    n, b = sum(map(sum, E)), min(par["B"], U)
    freed = done = 0.0
    for r in range(J):
        for k in range(I):
            grown = c[r][k + 1] if k + 1 < I else 0.0
            freed += H[r][k] * (c[r][k] - (1 - q[r, k]) * grown)
            done += H[r][k] * q[r, k]
    phi = freed + beta * (par["M"] - U)
    psi = freed - done + beta * (par["kappa"] * par["M"] - U + N)
    size = np.array(c) if mode == "swapping" else np.array(c)[:, 0]
    m, z = pool.sum(), (size * pool).sum()
    w = max(0.0, min(beta, phi / max(z, eps), psi / max(z - m, eps)))
    s = sum(par["pi"][r] * c[r][0] for r in range(J))
    a = min(beta * Q, max(0.0, min((phi - w * z) / s, (psi - w * (z - m)) / (s - 1))))
    v = [beta * max(0.0, min(1.0, (-phi / beta - sum(T[:k])) / max(T[k], eps))) for k in range(I)]
    gone = np.array([[v[k] * X[r, k] for k in range(I)] for r in range(J)])
    tau = par["d_0"] + par["d_kv"] * b + (par["d_decode"] - par["d_kv"]) * n
    if "table_knot" in par:
        over = (1.2 - 1.1) / (60 - 20) * (n - 60) + 1.2  # the last slope goes on
        tau += np.interp(n, *np.transpose(TABLE)) if n < 60 else over
    if mode == "swapping":
        tau += par["d_swap"] * (max(0.0, -phi) - gone.sum() + w * (z - m))
    dX = np.zeros((J, I))
    for r in range(J):
        for k in range(I):
            dX[r, k] = -H[r][k] - gone[r, k]
            dX[r, k] += (1 - q[r, k - 1]) * H[r][k - 1] if k else par["pi"][r] * a
            if mode == "swapping":
                dX[r, k] += w * pool[r, k]
            elif k == 0:
                dX[r, k] += w * pool[r]
    lost = gone if mode == "swapping" else gone.sum(axis=1)
    return lam - a / tau, dX / tau, (lost - w * pool) / tau, tau


def random_case(mode, rng, memory):
    J, I = 3, 8  # noqa: E741
    q = rng.random((J, I)) * 0.5
    q[:, -1] = 1.0
    X = rng.random((J, I)) * (rng.random((J, I)) < 0.8) * 30
    pool = rng.random((J, I) if mode == "swapping" else (J,)) * 5 * rng.integers(0, 2)
    p = rng.integers(1, 50, (J, 1)) + np.zeros((J, I))
    used = float(((p + np.arange(1, I + 1)) * X).sum())
    par = dict(
        pi=rng.dirichlet(np.ones(J)), q=q, p=p, M=max(used * memory, 100.0),
        B=used * rng.choice([0.3, 2.0]) + 1,
        kappa=rng.choice([1.0, 0.6]), d_0=0.5, d_kv=1e-3, d_decode=3e-3, d_swap=1e-4, beta=2.0,
        epsilon=1e-9,
    )  # fmt: skip
    return float(rng.random() * 40), X, pool, par


TABLE = ((2.0, 0.3), (20.0, 1.1), (60.0, 1.2))


@pytest.mark.parametrize("tabulated", [False, True])
@pytest.mark.parametrize(("mode", "transport"), ALL)
def test_python_source_runs_alone_and_equals_loops_and_compiled_code(mode, transport, tabulated):
    import jax

    from ode.eulerian.array_functions import compiled

    model = fluid.equations(mode, transport, tabulated=tabulated)
    scope: dict = {}
    exec(fluid.render(model, "python"), scope)
    rng = np.random.default_rng(1)
    for case in range(40):
        Q, X, pool, par = random_case(mode, rng, memory=[0.9, 1.0, 1.02, 3.0][case % 4])
        if tabulated:
            bends = [0.8 / 18, 0.1 / 40 - 0.8 / 18]
            par |= {"table_first": 0.3, "table_knot": np.array([2.0, 20.0])}
            par["table_bend"] = np.array(bends)
        derivatives, reported = scope["fluid_rhs"](0.7, Q, X, pool, **par)
        dQ, dX, dpool, tau_ = scalar_rhs(mode, transport, 0.7, (Q, X, pool), par)
        name = "Z" if mode == "swapping" else "R"
        for code, value in (("Q", dQ), ("X", dX), (name, dpool)):
            np.testing.assert_allclose(derivatives[code], value, rtol=1e-9, atol=1e-9)
        assert reported["tau"] == pytest.approx(tau_, rel=1e-12)
        for library in ("numpy", "jax"):
            code = compiled(mode, transport, library, tabulated)
            with jax.enable_x64(True):
                state, growth, outputs = code.rates(code.constants(par), 0.7, Q, X, pool)
                for mine, theirs in zip(state, (dQ, dX, dpool), strict=True):
                    np.testing.assert_allclose(np.asarray(mine), theirs, rtol=1e-9, atol=1e-9)
                for item, value in zip(code.integrals, growth, strict=True):
                    assert float(value) == pytest.approx(derivatives[item], rel=1e-9, abs=1e-9)
                assert float(outputs[0]) == pytest.approx(tau_, rel=1e-12)
