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
# # What a prediction is worth to a router
#
# A router sends each request to the instance on which the fluid model predicts the best outcome.
# This notebook asks four questions. How wrong may a prediction be before a simple count is better?
# What does it cost to share forecasts? Is the profile of another model good enough? How long does
# a decision take when many candidates are asked?
#
# `FLUIDSERVE_QUICK=1` runs the same notebook on fewer requests and fewer seeds.

# %%
import os
import time
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import spearmanr

import fluidserve as fs
from fluidserve import config
from fluidserve.inputs import load_config_of
from scheduling import Predictor, RequestMeta, route
from studies import Question
from workload import describe

plt.rcParams.update(fs.plots.STYLE)
QUICK = bool(os.environ.get("FLUIDSERVE_QUICK"))
SEEDS, SIZE = (1, 700) if QUICK else (4, 2500)

# %% [markdown]
# ## One instance
#
# Forty requests are sent to a node whose batches have room for 2,000 tokens. The forecast says,
# batch by batch, how many requests in the order of arrival have room. A request takes part in the
# first batch that has room for it, so its TTFT is a look-up.

# %%
node, mix = fs.DecodeNode(), describe("normal").mix
predictor = Predictor([node], mix, arrival_rate=0.1)
for k in range(40):
    predictor.enqueue_request(0, RequestMeta(k, prefill_length=60), ts=0.0)
asked = RequestMeta(99, prefill_length=60)
found = predictor.predict(None, asked, ts=1.0)[0]
curves, about = predictor.forecasts
steps = int(about[0, 0])
start, reach = curves[0, 0, :steps], curves[0, 2, :steps]

figure, axes = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
axes.step(start, reach, where="post", label="has room")
axes.axhline(41, color="#6b6b6b", lw=0.8, ls="--")
axes.axvline(1.0 + found.ttft, color="#b3421f", lw=1, label="first token of the next request")
axes.set(xlabel="time", ylabel="number in the order of arrival [requests]", ylim=(0, 60),
         xlim=(0, 200), title="How far the batches of a node reach")  # fmt: skip
axes.legend(frameon=False)
plt.show()
print(f"the 41st request waits {found.ttft:.0f}, and ends after {found.e2el:.0f} on average")

# %% [markdown]
# ## How wrong may a prediction be?
#
# Eight nodes at nine tenths of their capacity. Each predicted TTFT is multiplied by a random
# factor, whose logarithm has the standard deviation on the axis, drawn anew for each candidate.
# Everything else is as it was. What two heuristics reach on the same requests is drawn beside it.


# %%
class Noisy:
    """A predictor whose TTFT are wrong by random factors."""

    def __init__(self, predictor, sigma, seed):
        self._of, self._sigma = predictor, sigma
        self._draw = np.random.default_rng(seed)
        self.enqueue_request = predictor.enqueue_request
        self.sync_batch_result = predictor.sync_batch_result

    def predict(self, instance_id, request_meta, ts, action_hint):
        found = self._of.predict(instance_id, request_meta, ts, action_hint)
        ttft = found.ttft
        ttft *= np.exp(self._draw.normal(0.0, self._sigma, len(found)))
        return found


fleet = [node] * 8
question = Question(describe("normal"), node, num_requests=SIZE, seed=11)
question = question.at_rate(0.9 * 8 * question.capacity)


def mean_ttft(policy, seed, predictor=None):
    run = route(question.replication(seed), fleet, policy, predictor=predictor, seed=seed)
    return float(run.after(SIZE // 10).ttft.mean())


def noisy_ttft(sigma, seed):
    return mean_ttft("predicted-ttft", seed, Noisy(Predictor(fleet, question.mix), sigma, seed))


sigmas = [0.0, 0.3, 1.0] if QUICK else [0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0]
jsq = np.array([mean_ttft("jsq", s) for s in range(SEEDS)])
least_kv = np.array([mean_ttft("least-kv", s) for s in range(SEEDS)])
by_error = np.array([[noisy_ttft(sigma, s) for s in range(SEEDS)] for sigma in sigmas])
relative = by_error / jsq

figure, axes = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
axes.plot(sigmas, relative.mean(axis=1), marker="o", label="lowest predicted TTFT")
if SEEDS > 1:
    half = 1.96 * relative.std(axis=1, ddof=1) / np.sqrt(SEEDS)
    axes.fill_between(sigmas, relative.mean(axis=1) - half, relative.mean(axis=1) + half, alpha=0.2)
axes.axhline(1.0, color="#6b6b6b", lw=1, ls="--", label="join the shortest queue")
axes.axhline((least_kv / jsq).mean(), color="#6b6b6b", lw=1, ls=":", label="least KV")
axes.set(xlabel="standard deviation of the logarithm of the error", ylabel="mean TTFT over JSQ",
         title="What a wrong prediction costs", ylim=(0, None))  # fmt: skip
axes.legend(frameon=False)
plt.show()
for sigma, row in zip(sigmas, relative, strict=True):
    print(f"error {sigma:.1f}: {row.mean():.2f} of JSQ")
assert relative[0].mean() < 1.0

# %% [markdown]
# ## Shared forecasts
#
# On level `lightweight` a forecast is made for every question, on level `reuse` only where
# something changed. The table says what that does to the answers of a router, and to its decisions
# a second.

# %%
print(f"{'level':<13}{'TTFT over JSQ':>15}{'forecasts':>12}{'decisions/s':>14}{'p99 [us]':>11}")
for level in ("lightweight", "reuse"):
    ratio, made, rate, tail = [], 0, [], []
    for seed in range(SEEDS):
        predictor = Predictor(fleet, question.mix, level=level)
        took = []

        def timed(view, request, predictor=predictor, took=took):
            begin = time.perf_counter()
            best = int(np.argmin(predictor.predict(None, request, view.time, "ttft").ttft))
            took.append(time.perf_counter() - begin)
            return best

        run = route(question.replication(seed), fleet, timed, predictor=predictor, seed=seed)
        ratio.append(run.after(SIZE // 10).ttft.mean() / jsq[seed])
        made += predictor.marches
        rate.append(len(took) / sum(took))
        tail.append(1e6 * np.percentile(took[100:], 99))
    print(f"{level:<13}{np.mean(ratio):>15.3f}{made // SEEDS:>12,}{np.mean(rate):>14,.0f}"
          f"{np.mean(tail):>11.0f}")  # fmt: skip

# %% [markdown]
# ## The profile of another model
#
# Four servers run Llama-3.1-8B on an RTX4090. The predictor believes that their steps take what
# another model takes on another card. Agree@1 is how often both would send a request to the same
# instance; Spearman's coefficient compares their rankings; the last column is what the routed
# requests pay.


# %%
def server(model, hardware):
    return config.instance_of(load_config_of({"model": model, "hardware": hardware}))


true = server("Llama-3.1-8B", "RTX4090")
believed = {
    "the same": true,
    "Llama-3.1-8B, RTXPRO6000": server("Llama-3.1-8B", "RTXPRO6000"),
    "Qwen3-32B, RTXPRO6000": server("Qwen3-32B", "RTXPRO6000"),
    "Llama-2-7b, H100": server("Llama-2-7b-hf", "H100"),
}
servers, few = [true] * 4, 250 if QUICK else 1500
asks = Question(describe("normal"), true, num_requests=few, seed=5)
asks = asks.at_rate(0.9 * 4 * asks.capacity)
paid = {}
print(f"{'profile':<28}{'Spearman':>10}{'Agree@1':>9}{'TTFT':>9}")
for name, other in believed.items():
    wrong = [replace(true, batch_time=other.batch_time)] * 4
    own, theirs = Predictor(servers, asks.mix), Predictor(wrong, asks.mix)
    agreed, ranks = [], []

    def by_belief(view, request, own=own, theirs=theirs, agreed=agreed, ranks=ranks):
        right = own.predict(None, request, view.time, "ttft").ttft
        said = theirs.predict(None, request, view.time, "ttft").ttft
        agreed.append(int(np.argmin(right)) == int(np.argmin(said)))
        if np.ptp(right) > 0 and np.ptp(said) > 0:
            ranks.append(spearmanr(right, said).statistic)
        return int(np.argmin(said))

    run = route(asks.requests, servers, by_belief, listeners=[own, theirs])
    paid[name] = run.after(few // 10).ttft.mean()
    print(f"{name:<28}{np.mean(ranks):>10.3f}{np.mean(agreed):>9.3f}{1e3 * paid[name]:>6.1f} ms")
assert 0.5 < min(paid.values()) / max(paid.values())

# %% [markdown]
# ## A decision takes as long as the slowest candidate, and the queue before it
#
# A predictor process that asks candidates in parallel decides when the slowest has answered.
# Requests that arrive meanwhile wait. The times of single predictions are measured here, with the
# forecasts that have to be made anew among them; the queue before one process is that of Poisson
# arrivals (Lindley's recursion).

# %%
predictor = Predictor(fleet, question.mix)
single = []


def measured(view, request):
    times, best = [], []
    for i in range(len(fleet)):
        begin = time.perf_counter()
        best.append(float(predictor.predict(i, request, view.time, "ttft").ttft[0]))
        times.append(time.perf_counter() - begin)
    single.append(times)
    return int(np.argmin(best))


route(question.replication(0), fleet, measured, predictor=predictor)
single = np.array(single)[100:]


def decided(work, rate):
    """Return p99 [s] of waits and decisions that take ``work`` [s] and come at a rate [1/s]."""
    draw = np.random.default_rng(3)  # the same arrivals for both ways to ask
    gaps, waits, wait = draw.exponential(1.0 / rate, work.size), [], 0.0
    for took, gap in zip(work, gaps, strict=True):
        waits.append(wait + took)
        wait = max(0.0, wait + took - gap)
    return float(np.percentile(waits, 99))


rates = np.geomspace(50, 2000, 6)
figure, axes = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
for name, work in (
    ("one after the other", single.sum(axis=1)),
    ("in parallel", single.max(axis=1)),
):
    axes.plot(rates, [1e6 * decided(work, rate) for rate in rates], marker="o", label=name)
axes.set(xscale="log", yscale="log", xlabel="requests a second", ylabel="p99 of a decision [us]",
         title="Deciding among eight candidates")  # fmt: skip
axes.legend(frameon=False)
plt.show()
assert single.max(axis=1).mean() < single.sum(axis=1).mean()
