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
# # The fluid limit
#
# This notebook shows that the discrete engine approaches the fluid model as the node grows. A node
# of size *n* has *n* times the memory, the batch budget and the arrivals of the default node, and
# *n* times less time per token. The notebook sends a rush (load 0.5, then 1.4, then 0.5) to nodes
# of growing size and plots the requests in the system, divided by *n*, next to the fluid model.
#
# `FLUIDSERVE_QUICK=1` runs the same notebook with fewer replications.

# %%
import os

import matplotlib.pyplot as plt
import numpy as np

import fluidserve as fs

plt.rcParams.update(fs.plots.STYLE)
QUICK = bool(os.environ.get("FLUIDSERVE_QUICK"))
BLUE, GREY = "#0072B2", "#8c8c8c"
END = 1500.0
t = np.linspace(0, END, 301)


def rush(n):
    node = fs.DecodeNode().scaled(n)
    work = fs.describe("normal", rate_shape="steps(0:0.5,500:1.4,1000:0.5)")
    return work.at_rate(fs.capacity(work.mix, node)), node


def fluid_path(n):
    work, node = rush(n)
    return fs.solve(work.profile(END), work.mix, node, drain=False)("in_system", t) / n


def runs(n, count):
    work, node = rush(n)
    paths = []
    for seed in range(count):
        requests = work.sample(seed, horizon=END)
        run = fs.simulate(requests, node, until=END, record_batches=False, sample_times=t)
        paths.append(run.trajectory()("in_system", t) / n)
    return np.array(paths)


# %% [markdown]
# The fluid curve is almost the same for every *n*. The only difference comes from the straddle: the
# room that stays unused because the next request does not fit, a constant number of tokens.

# %%
limit = fluid_path(1000)
for n in (1, 10, 100):
    apart = np.abs(fluid_path(n) - limit).max() / limit.max()
    print(f"n = {n}: fluid differs from that of n = 1000 by {apart:.2%} of its peak")
assert apart < 0.01

# %% [markdown]
# ## Single runs approach the fluid model

# %%
sizes = (1, 10, 100)
count = {1: 60, 10: 40, 100: 16} if QUICK else {1: 2000, 10: 1000, 100: 200}
found = {n: runs(n, count[n]) for n in sizes}
figure, axes = plt.subplots(1, 3, figsize=(10.4, 3.4), sharey=True, layout="constrained")
for axis, n in zip(axes, sizes, strict=True):
    low, high = np.percentile(found[n], (5, 95), axis=0)
    axis.fill_between(t, low, high, color="#e2e2e2", lw=0, label="90 % of single runs")
    axis.plot(t, found[n].mean(axis=0), color=GREY, lw=2.6, label="mean of the runs")
    axis.plot(t, fluid_path(n), color=BLUE, label="fluid")
    axis.set(title=f"n = {n}", xlabel="time")
axes[0].set_ylabel("requests in the system / n")
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
plt.show()

# %% [markdown]
# ## How fast
#
# There are two errors: the *noise* of one run around the mean of all runs, and the *bias* of the
# fluid model against this mean. The noise falls like 1/sqrt(n). The bias is the mean effect of
# chance, a second-order effect, and falls like 1/n.

# %%
mean_level = limit.mean()
noise = {n: float(np.sqrt(found[n].var(axis=0, ddof=1).mean()) / mean_level) for n in sizes}
bias = {n: float((fluid_path(n) - found[n].mean(axis=0)).mean() / mean_level) for n in sizes}
for n in sizes:
    error = noise[n] / np.sqrt(count[n])
    print(f"n = {n:3}: noise {noise[n]:6.1%}, bias {bias[n]:+6.1%} (at most +- {error:.1%})")
slope = fs.accuracy.slope(sizes, [noise[n] for n in sizes])
print(f"noise falls like n^{slope:.2f}")
assert -0.65 < slope < -0.35
assert bias[1] < 5 * bias[100] and bias[1] < 0

# %% [markdown]
# A steady load shows best how the bias falls. The next cell measures the mean end-to-end latency
# and removes the noise that comes from the random lengths and arrivals.

# %%
points = fs.accuracy.finite_size(
    (3, 10, 30) if QUICK else (1, 3, 10, 30, 100),
    replications=(lambda n: max(24, 600 // n)) if QUICK else (lambda n: max(64, 6000 // n)),
)
large = [point for point in points if point.n >= 3]
for point in points:
    print(f"n = {point.n:3}: bias {point.e2el_bias:+.2%} +- {point.e2el_bias_error:.2%}, "
          f"noise {point.noise:.1%}")  # fmt: skip
law = fs.accuracy.slope([p.n for p in large], [p.e2el_bias for p in large])
print(f"bias falls like n^{law:.2f}")
assert -1.4 < law < -0.7
