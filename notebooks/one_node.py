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
# The fluid limit knows no chance: on a single node near capacity its mean TTFT is off by a factor
# and its percentiles say nothing. What decides there is how the **work in the system** strays:
# $V$, the token-iterations that the requests in the system still need. It jumps by
# $w = pD + D(D+1)/2$ when a request arrives, and falls as batches execute.
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
# Given V, how many tokens $X$ would the requests in the system like to execute? If arrivals per
# iteration grow with the batch time, $\tau = d_0 + d_1 X$, the number of requests is negative
# binomial, and their stages $(R, c)$ (work to go, tokens) are independent. With
# $q = \lambda d_1 W$ and $\varphi(\theta) = \mathbb{E}\, e^{\theta R}$ over the stages,
#
# $$ \mathbb{E}\, e^{\theta V} = \left(\frac{1 - q}{1 - q\,\varphi(\theta)}\right)^{s + 1},
#    \qquad s = d_0 \mathbb{E}[D] / (d_1 W), $$
#
# the $+1$ because time is spent in long batches. Picking one stage out of it gives
# $\mathbb{E}[X \mid V]$, picking two the variance: a Panjer recursion.

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
# ## The law that arrivals meet
#
# $V$ falls at $r(V) = \mathbb{E}[\min(X, C) / \tau \mid V]$, so its law obeys
#
# $$ \partial_t f(v) = \partial_v\,[r f] + \lambda \int f(v - w)\, dF(w) - \lambda f(v). $$
#
# Arrivals see it (PASTA). One that finds $X > C$ waits until $V$ has come down to $R$, the work of
# a saturated set, for $(V - R)\,\tau_C / C$; otherwise for the rest of the batch under way. What
# follows from its start is a backward equation for the time of $D$ batches.

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
# An empty start, arrivals over 6,000 time units, everybody counted. Nothing is fitted.

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
# The fluid limit is a wall: everybody waits alike. The node-work process follows the two kinds of
# arrivals, those who find room and those who do not, down to one request in five hundred.

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
