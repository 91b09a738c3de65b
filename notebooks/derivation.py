# ---
# jupyter:
#   jupytext:
#     formats: py:percent,ipynb
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The fluid model of a decode node, derived
#
# A decode node produces one token per iteration for every request of the executing batch. A
# request with prefill length $p$ that produces its token $i$ needs $c = p + i$ tokens of the
# batch and of KV memory. An iteration over $b$ tokens takes $\tau = d_0 + d_1 b$.
#
# This notebook takes the engine's rules for one batch and turns them into a **list of flows**.
# SymPy then writes the differential equations, their balance equations, and LaTeX. At the end the
# notebook checks the equilibrium against the closed form, and the solution against a second,
# independent solver.

# %%
import sympy as sp
from IPython.display import Math

import fluid
from fluid import balance, capacity, equations, render

model = equations("swapping", "upwind")
for flow in model.flows:
    print(
        f"{flow.name:9s} {flow.origin or 'outside'!s:>8s} -> {flow.destination or 'outside'!s:8s}"
        f"  at {flow.rate}"
    )

# %% [markdown]
# ## One batch, first order in its duration
#
# At a batch boundary the scheduler first evicts $K_{j,i}$ of RUNNING, returns a share $w$ of
# SWAPPED and admits $a$ from WAITING; then it executes $E_{j,i}$, of which a share
# $q_{j,i} = P(D = i \mid D \ge i)$ was in its last token and the rest moves up one stage:
#
# $$X'_{j,i} = X_{j,i} - K_{j,i} - E_{j,i} + (1 - q_{j,i-1}) E_{j,i-1} + w Z_{j,i}
#   + \delta_{i1} \pi_j a .$$
#
# Divided by $\tau$ this is the right-hand side that the flow list generates.

# %%
i, j, k = sp.symbols("i j k", integer=True, positive=True)
X, Z, E, K, q, H = (sp.IndexedBase(name) for name in "XZEKqH")
PI = sp.IndexedBase("pi")
a, w, tau = sp.symbols("a w tau")

one_batch = (
    -K[j, i]
    - E[j, i]
    + (1 - q[j, i - 1]) * E[j, i - 1]
    + w * Z[j, i]
    + sp.KroneckerDelta(i, 1) * PI[j] * a
) / tau

generated = model.rhs(X[j, i])
for flow in model.flows:  # put the rates in place of the symbols of the flows
    if not isinstance(flow.symbol, sp.Indexed):
        continue
    for term in generated.atoms(sp.Indexed):
        if term.base == flow.symbol.base:
            at = dict(zip(flow.symbol.indices, term.indices, strict=True))
            generated = generated.subs(term, flow.rate.subs(at, simultaneous=True))
generated = generated.subs({H[j, i]: E[j, i], H[j, i - 1]: E[j, i - 1]})

difference = sp.expand(generated - one_batch)
print("flow list - one batch =", difference)
assert difference == 0

# %% [markdown]
# ## Balance equations
#
# Give every state a weight. A flow that moves one request from one state to another changes the
# weighted total by the difference of the two weights, whatever the rate of the flow. With weight 1
# everywhere the total is the number of requests: only arrivals add to it, and only completions
# subtract from it.

# %%
Q = sp.Symbol("Q")
c = sp.IndexedBase("c")
for mode, pool in (("swapping", Z[j, i]), ("sacrifice", sp.IndexedBase("R")[j])):
    requests = balance(equations(mode).flows, {Q: 1, X[j, i]: 1, pool: 1})
    tokens = balance(equations(mode).flows, {X[j, i]: c[j, i]})
    print(mode, "requests:", requests)
    print(" " * len(mode), "tokens:  ", tokens)
    assert requests == {
        "arrive": 1,
        "admit": 0,
        "advance": 0,
        "complete": -1,
        "evict": 0,
        "return": 0,
    }

# %% [markdown]
# ## The memory surface
#
# The room per batch has two parts: $G$, the memory that completions free less the memory that
# growth takes, and $\beta$ times the memory that is empty. The room goes to evicted requests first
# and then to WAITING. If the room is negative, the youngest requests are evicted. Where room limits
# the node, the reserved memory $U = \sum c X$ therefore obeys $\tau\, dU/dt = \beta (M - U)$:
# memory stays full, and the equations need no switch for it.

# %%
phi, G, M, U, s, z, beta = sp.symbols("phi G M U s z beta", positive=True)
room = G + beta * (M - U)
admitted = (phi - w * z) / s
dU = sp.simplify((s * admitted + w * z - G).subs(phi, room))
print("tau dU/dt =", dU)
assert sp.expand(dU - beta * (M - U)) == 0

# %% [markdown]
# ## Equilibrium without memory pressure
#
# If no request is evicted and B does not limit the batch, $E = X$. In equilibrium every stage
# passes on what it gets, so $X_i = \lambda \tau P(D \ge i)$, and
# $\tau = d_0 + d_1 \sum_i c_i X_i = d_0 + d_1 \lambda \tau W$ with the work
# $W = E[\sum_{i \le D} (p + i)] = E[pD + D(D+1)/2]$.

# %%
lam, d_0, d_1, W, t_star = sp.symbols("lambda d_0 d_1 W tau_star", positive=True)
solution = sp.solve(sp.Eq(t_star, d_0 + d_1 * lam * t_star * W), t_star)[0]
display_form = sp.Eq(t_star, solution)
Math(sp.latex(display_form))

# %% [markdown]
# For $p = 50$, $D = 20$, $d_0 = 1$, $d_1 = 10^{-3}$, $\lambda = 0.495868$ this is
# $\tau^* = 2.5$, $B^* = 1500$, $N^* = 24.793$. The next cell solves the compiled equations from an
# empty start and compares.

# %%
from ode import solve
from serving import BatchTimeLaw, DecodeNode, RateProfile, RequestMix

mix = RequestMix.from_lengths([50], [20])
node = DecodeNode(BatchTimeLaw.per_token(1.0, 1e-3), M_total=10**6, B=None)
closed = float(solution.subs({lam: 0.495868, d_0: 1, d_1: 1e-3, W: mix.work}))
flow = solve(RateProfile.constant(0.495868, 1500.0), mix, node, method="eulerian_jax", drain=False)
for name, value in (
    ("batch_duration", closed),
    ("batch_tokens", 0.495868 * closed * mix.work),
    ("running", 0.495868 * closed * 20),
):
    reached = float(flow(name, 1490.0))
    print(f"{name:15s} closed form {value:10.4f}   solved {reached:10.4f}")
    assert abs(reached / value - 1) < 1e-3

# %% [markdown]
# ## How long a token takes
#
# In the plain stage equations (transport `upwind`) a token takes an *exponential* time, so a cohort
# spreads like a Poisson count. In the real system a token takes exactly one batch. The default
# transport adds a limited second-order correction to the flux between stages, which is zero in
# equilibrium. The next cell compares both with the iteration-clock solver, which moves cohorts
# without spreading them.

# %%
import numpy as np

mix = RequestMix.from_lengths([20, 60, 150], [20, 30, 90], [0.5, 0.3, 0.2])
node = DecodeNode(B=None)
rate = capacity(mix, node)
profile = RateProfile.steps([0, 400, 800], [0.5 * rate, 1.4 * rate, 0.5 * rate], 1200.0)
t = np.linspace(0, 1200, 1000)
reference = solve(profile, mix, node, method="lagrangian")("in_system", t)
for transport in ("upwind", "superbee"):
    mine = solve(profile, mix, node, method="eulerian_jax", transport=transport)("in_system", t)
    error = np.sqrt(np.mean((mine - reference) ** 2)) / reference.mean()
    print(f"{transport:9s} differs from the iteration clock by {error:.4f} (RMS over mean)")

# %% [markdown]
# ## The equations themselves
#
# `render` writes the equations as text, as a LaTeX document, or as a Python function that needs
# only NumPy.

# %%
print(render(fluid.equations("swapping"), "text"))

# %%
print(render(fluid.equations("sacrifice"), "python"))
