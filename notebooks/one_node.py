# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Tails of one node
#
# The fluid model leaves out chance. For a single node near its capacity its mean TTFT is wrong by a
# factor, and its percentiles are useless. On such a node the **work in the system** decides: $V$,
# the token-iterations that the requests in the system still need. $V$ jumps by $w = pD + D(D+1)/2$
# when a request arrives, and falls as batches execute. This notebook builds the method `node_work`
# from $V$.
#
# `FLUIDSERVE_QUICK=1` runs the same notebook with fewer replications.

# %%
import os
import tempfile
from pathlib import Path

import numpy as np
from IPython.display import Image

import fluidserve as fs
from fluid import work_closure
from serving import Distribution

QUICK = os.environ.get("FLUIDSERVE_QUICK") == "1"
RUNS = 60 if QUICK else 1500
HERE = Path(tempfile.mkdtemp())

node = fs.DecodeNode(M_total=10_000, B=2_000)
mix = fs.describe("normal").mix
capacity = fs.capacity(mix, node)
capacity

# %% [markdown]
# ## From V to a batch
#
# Given V, how many tokens $X$ would the requests in the system execute in the next batch? Arrivals
# per iteration grow with the batch time $\tau = d_0 + d_1 X$, so the number of requests has a
# negative binomial distribution. Their stages $(R, c)$ (work to go, tokens) are independent. With
# $q = \lambda d_1 W$ and $\varphi(\theta) = \mathbb{E}\, e^{\theta R}$ over the stages,
#
# $$ \mathbb{E}\, e^{\theta V} = \left(\frac{1 - q}{1 - q\,\varphi(\theta)}\right)^{s + 1},
#    \qquad s = d_0 \mathbb{E}[D] / (d_1 W), $$
#
# where the $+1$ appears because most time is spent in long batches. Singling out one stage gives
# $\mathbb{E}[X \mid V]$, and singling out two gives the variance. Both are computed by a Panjer
# recursion.

# %%
closure = work_closure(mix, node, 0.9 * capacity)
full = closure.saturation
print(f"a saturated batch: {full.batch_tokens:.0f} tokens, {full.batch_time:.2f} time units")
print(f"work of a saturated set: {closure.set_mean:,.0f} +- {closure.set_sd:,.0f}")
for share in (0.25, 0.5, 1.0, 1.5):
    v = share * closure.set_mean
    x = np.interp(v, closure.level, closure.demand)
    s = np.interp(v, closure.level, closure.spread)
    print(f"V = {v:9,.0f}: X = {x:6,.0f} +- {s:4,.0f} tokens")

# %% [markdown]
# ## The density that arrivals meet
#
# $V$ falls at the rate $r(V) = \mathbb{E}[\min(X, C) / \tau \mid V]$, where $C$ is the number of
# tokens of a saturated batch. The probability density $f$ of $V$ therefore obeys
#
# $$ \partial_t f(v) = \partial_v\,[r f] + \lambda \int f(v - w)\, dF(w) - \lambda f(v). $$
#
# Poisson arrivals find the system distributed according to $f$ (PASTA). An arrival that finds
# $X > C$ waits until $V$ has fallen to $R$, the work of a saturated set of requests; this takes
# $(V - R)\,\tau_C / C$. Any other arrival waits for the end of the batch under way. The time of the
# following $D$ batches comes from a backward equation.

# %%
for load in (0.6, 0.8, 0.9, 0.95):
    steady = fs.stationary(mix, node, load * capacity)
    ttft, e2el = steady.latencies["ttft"], steady.latencies["e2el"]
    print(
        f"load {load:4}: {steady.waits:5.1%} wait for room; TTFT mean {ttft.mean:6.1f}, "
        f"p99 {ttft.percentiles[99]:6.0f}; E2EL mean {e2el.mean:5.0f}, p99 "
        f"{e2el.percentiles[99]:5.0f}"
    )

# %% [markdown]
# ## Beside the engine
#
# Every run starts empty, requests arrive over 6,000 time units, and all of them count. No number of
# the model is fitted.

# %%
rows = {}
for load in (0.6, 0.9, 1.1):
    workload = fs.describe("normal").at_rate(load * capacity)
    runs = []
    for seed in range(RUNS):
        requests = workload.sample(np.random.SeedSequence(1, spawn_key=(seed,)), horizon=6000.0)
        runs.append(fs.simulate(requests, node, record_batches=False).samples())
    profile = workload.profile(6000.0)
    predicted = {
        method: fs.solve(profile, mix, node, method=method).samples()
        for method in ("lagrangian", "node_work")
    }
    rows[f"load {load}"] = (runs, predicted)
fs.plots.tails(rows, HERE / "tails.png")
Image(HERE / "tails.png")

# %% [markdown]
# In the fluid model all requests wait about equally long. The method `node_work` has both kinds of
# arrivals, those that find room and those that do not, and follows the engine down to one request
# in five hundred.

# %%
for title, (runs, predicted) in rows.items():
    for latency in ("ttft", "e2el"):
        truth = np.concatenate([run.of(latency)[0] for run in runs])
        found = Distribution.of(*predicted["node_work"].of(latency))
        pairs = [("mean", found.mean, truth.mean())]
        pairs += [(f"p{q}", found.percentiles[q], np.percentile(truth, q)) for q in (50, 95, 99)]
        line = ", ".join(
            f"{name} {value:.4g} ({value / true - 1:+.1%})" for name, value, true in pairs
        )
        print(f"{title}, {latency}: {line}")
