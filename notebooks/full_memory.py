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
# # A full memory, and what a threshold does about it
#
# In mode *sacrifice* an evicted request loses what it has decoded. If all requests are alike, a
# node whose memory has filled once does not recover: requests enter together and grow together, and
# the youngest are evicted and start again. From then on the node completes fewer requests than
# before, at the same arrival rate.
#
# This notebook studies one case: prompts and decodes of 20 tokens, memory and batch budget of
# 10,000 tokens.
#
# `FLUIDSERVE_QUICK=1` runs the same notebook with fewer runs.

# %%
import os
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np

import fluidserve as fs

plt.rcParams.update(fs.plots.STYLE)
QUICK = bool(os.environ.get("FLUIDSERVE_QUICK"))
BLUE, RED, GREEN = "#0072B2", "#D55E00", "#009E73"
node = fs.DecodeNode(
    fs.BatchTimeLaw.per_token(0.003, 0.00032), M_total=10_000, B=10_000, mode="sacrifice"
)
work = fs.describe(types="(20,20,5.1)")
asked = fs.Question(work, node, horizon=20_000.0)
load = work.rate / fs.capacity(work.mix, node)
print(f"capacity {fs.capacity(work.mix, node):.4f}, load {load:.4f}")

# %% [markdown]
# ## Healthy until memory first fills
#
# The picture shows one path of Poisson arrivals, from an empty node, in both modes.

# %%
end = 20_000.0
requests = work.sample(5, horizon=end)
grid = np.linspace(0, end, 2000)


def in_system(instance):
    run = fs.simulate(requests, instance, until=end, record_batches=False, sample_times=grid)
    return run.trajectory()


paths = {mode: in_system(replace(node, mode=mode)) for mode in ("sacrifice", "swapping")}
figure, axes = plt.subplots(figsize=(8.0, 3.2), layout="constrained")
for (mode, path), colour in zip(paths.items(), (RED, BLUE), strict=True):
    axes.plot(path.time, path.outputs["in_system"], color=colour, label=mode)
axes.set(xlabel="time", ylabel="requests in the system", title="The same arrivals")
axes.legend()
plt.show()
assert paths["sacrifice"].outputs["in_system"][-1] > 10 * paths["swapping"].outputs["in_system"][-1]

# %% [markdown]
# How long does the node stay healthy? The tokens in memory are modelled as a square-root diffusion.
# The mean time until this diffusion first reaches a full memory is a closed integral.

# %%
times = fs.full_memory.times_to_full(asked, runs=10 if QUICK else 60, expected=8000.0)
predicted = fs.mean_time_to_full(work.mix, node, work.rate)
error = times.std(ddof=1) / np.sqrt(times.size)
print(f"mean time until memory is full: {predicted:.0f}; engine {times.mean():.0f} +- {error:.0f}")
assert abs(predicted - times.mean()) < 3 * error
for rate in (5.05, 5.0, 4.9):
    print(f"at {rate}: {fs.mean_time_to_full(work.mix, node, rate):.2g}")

# %% [markdown]
# ## The loop
#
# The next cell raises the load of the fluid model slowly and lowers it again. Between the
# throughput of the collapsed node and the capacity there are two branches, a healthy and a
# collapsed one. A collapsed node recovers only when fewer requests arrive than it completes, and
# after its queue is empty.

# %%
loop = fs.hysteresis(work.mix, node)
low, high = loop.window
rate, done, top = loop.arrival_rate, loop.throughput, loop.top
figure, axes = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
axes.axvspan(low, high, color="#f4efe2", lw=0)
axes.plot(rate[: top + 1], done[: top + 1], "o-", color=BLUE, label="load rising")
axes.plot(rate[top:], done[top:], "s-", color=RED, label="load falling")
axes.set(xlabel="arrival rate", ylabel="completions per time unit",
         title=f"Bistable from {low:.3f} to {high:.3f}")  # fmt: skip
axes.legend()
plt.show()
assert abs(low - 3.9026) < 2e-4 and abs(high - 5.1182) < 1e-4

# %% [markdown]
# ## A threshold
#
# The setting `admission_threshold` (kappa) admits requests only while less than the share kappa of
# the memory is in use. The table has, for several values of kappa, the completions per time unit in
# 1000 < t < 3500 from a backlog of 3,000 requests, by engine and by fluid model. It also has the
# mean wait over 20,000 time units from an empty start.

# %%
rows = fs.full_memory.threshold_table(asked, runs=4 if QUICK else 16)
print("kappa  engine  fluid  evictions  wait from empty  runs that evicted")
for row in rows:
    print(f"{row.threshold:5}  {row.engine.throughput:6.2f}  {row.fluid.throughput:5.2f}"
          f"  {row.engine.evictions_per_completion:9.2f}  {row.wait:8.0f} +- {row.wait_error:3.0f}"
          f"  {row.collapsed:12.0%}")  # fmt: skip
    assert abs(row.engine.throughput - row.fluid.throughput) < 1e-6

# %% [markdown]
# 250 requests of 20 + 20 tokens fill the memory exactly. With kappa = 0.5 the memory holds at most
# 250 fresh requests, so no request is ever evicted. With a larger kappa some are.
#
# ## Which one to choose
#
# The best threshold is the largest one with which a full node still completes as many requests as
# arrive. Such a node recovers from any overload by itself. The closer the arrival rate is to the
# capacity, the smaller the threshold has to be.

# %%
for rate in (3.5, 4.0, 4.4, 4.9, 5.1):
    choice = fs.choose_threshold(work.mix, node, rate)
    print(f"{rate}: kappa {choice.threshold:.3f}, {choice.reason}")
assert choice.threshold == fs.threshold_without_eviction(work.mix, node) == 0.5
