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
# # The fluid model of a vLLM server, derived
#
# A vLLM server computes its prompts itself, beside the tokens of the requests that run. This
# notebook takes the decisions of its scheduler for one step and reads them as **a list of
# flows**. From this list it derives the capacity and which limit sets it, what asynchronous
# scheduling costs, and what preemption costs, and compares each with the engine `vllm_v1`, which
# decides as vLLM does.
#
# `FLUIDSERVE_QUICK=1` runs the same notebook with fewer requests.

# %%
import os

import matplotlib.pyplot as plt
import numpy as np
import sympy as sp
from IPython.display import Math

import fluidserve as fs
from fluid import (
    balance,
    equilibrium_gradients,
    render,
    saturation,
    saturation_formulas,
    server_equilibrium_formulas,
)
from serving import RequestTable, VllmV1

plt.rcParams.update(fs.plots.STYLE)
QUICK = bool(os.environ.get("FLUIDSERVE_QUICK"))
DISCRETE, FLUID, OTHER = "#8c8c8c", "#0072B2", "#D55E00"

model = fs.server_equations()
for flow in model.flows:
    print(f"{flow.name:14s} {flow.origin or 'outside'!s:>8s} -> {flow.destination or 'outside'!s}")

# %% [markdown]
# WAITING is $Q$. RUNNING is $X_{j,r}$: class $j$ of prompts and answers, row $r$ of requests that
# started together. PREEMPTED is $R_{j,q}$. Requests that start make a new row behind the others,
# and so do those that start again. Whoever is preempted goes in front of the queue. Nobody is
# lost on the way: a flow changes the number of requests only where it begins or ends outside.

# %%
states = {item.symbol: 1 for item in model.states}
change = balance(model.flows, states)
print(change)
assert {name for name, by in change.items() if by} == {
    "arrive", "complete", "start_and_end", "again_and_end",
}  # fmt: skip

# %% [markdown]
# What moves along the flows is set by three shares, each cut to 0..1. If the growth of RUNNING
# does not fit, the share $v_r$ is preempted, the last row first. Otherwise the share $w_q$ of
# PREEMPTED starts again in what RUNNING leaves of the tokens of the step, the seats and the KV;
# and $f$ of WAITING starts in what these leave.

# %%
by_code = {item.code: item for item in model.definitions}
lines = [
    rf"{sp.latex(by_code[code].symbol)} &= {sp.latex(by_code[code].expression)}"
    for code in ("v", "w", "fresh")
]
Math(r"\begin{aligned}" + r"\\".join(lines) + r"\end{aligned}")

# %% [markdown]
# ## The symbols march
#
# `render` writes the step as a Python function that needs only NumPy. Called again and again it
# is a solver. Below, 20 requests per second arrive for 6 s, then 60 for 4 s, then 10. The server
# has room for about 30. The function, the compiled solver behind `fs.solve`, and the engine at
# 100 times the size see the same arrivals.

# %%
scope = {}
exec(render(model, "python"), scope)
server_step = scope["server_step"]

mix = fs.RequestMix.from_lengths([40, 100, 300], [20, 60, 120], [0.5, 0.3, 0.2])
law = fs.BatchTimeLaw(d_0=0.01, d_decode=1e-4, d_kv=2e-7, d_prefill=1e-4)
server = VllmV1(batch_time=law, num_gpu_blocks=600, max_num_seqs=128)
rush = fs.RateProfile.steps([0, 6, 10], [20.0, 60.0, 10.0], 20.0)


def march(end):
    """Return ends of steps, and requests in the system then, by the symbols alone."""
    parameters = {
        "pi": mix.probability, "p": mix.prefill, "D": mix.decode, "hit": np.zeros(len(mix)),
        "kv_tokens": 16 * (600 - 1), "reserve": 0, "block_size": 16, "max_num_seqs": 128,
        "max_num_batched_tokens": server.max_num_batched_tokens, "gap": 0.0, "ahead": 1,
        "unknown": 1, "cache": 1, "d_0": law.d_0, "d_decode": law.d_decode, "d_kv": law.d_kv,
        "e_0": law.d_0, "e_n": law.d_decode, "e_k": law.d_kv, "e_p": law.d_prefill, "e_a": 0.0,
        "e_h": 0.0, "epsilon": 1e-9, "arrival_rate": 0.0,
    }  # fmt: skip
    state = {
        "Q": 0.0, "X": np.zeros((3, 0)), "R": np.zeros((3, 0)), "g": np.zeros(0), "y": np.zeros(0),
        "mark": np.zeros(0), "taken": 0.0, "t": 0.0, "free_at": 0.0,
    }  # fmt: skip
    started, path = 0.0, []
    while state["t"] < end:
        state["Q"] = float(rush.count(state["t"])) - started  # arrivals follow the curve
        alive = np.sum(state["X"] * (state["g"] < mix.decode[:, None])) + state["R"].sum()
        # who is decided on in this step ends the one before when the device is free
        path.append((state["free_at"], rush.count(state["free_at"]) - (started - alive)))
        state, made = server_step(**state, **parameters)
        started += made["started"]
        for name, marks in (("X", ["g"]), ("R", ["y", "mark"])):  # rows that hold nobody
            kept = state[name].sum(axis=0) > 1e-9
            state[name] = state[name][:, kept]
            state |= {mark: state[mark][kept] for mark in marks}
    return np.array(path).T


time, symbols = march(19.5)
solved = fs.solve(rush, mix, server)
n = 20 if QUICK else 100
large = server.scaled(n)
arrivals = np.random.default_rng(1).poisson(n * float(rush.count(20.0)))
when = np.interp(
    np.sort(np.random.default_rng(2).random(arrivals)) * float(rush.count(20.0)),
    rush.cumulative, rush.time,
)  # fmt: skip
atom = np.random.default_rng(3).choice(3, arrivals, p=mix.probability)
table = RequestTable.validated(when, mix.prefill[atom].astype(int), mix.decode[atom])
run = fs.simulate(table, large).trajectory()

_, axis = plt.subplots(figsize=(9, 3.6))
grid = np.linspace(0.2, 19, 400)
axis.plot(grid, run("in_system", grid) / n, color=DISCRETE, lw=4, label=f"engine, n = {n}")
axis.plot(grid, solved("in_system", grid), color=FLUID, label="solve")
axis.plot(grid, np.interp(grid, time, symbols), color=OTHER, ls="--", label="symbols")
axis.set(xlabel="time [s]", ylabel="requests in the system", title="A rush on one server")
axis.legend()
plt.show()

# %%
far = np.abs(np.interp(grid, time, symbols) - solved("in_system", grid))
error = np.sqrt(np.mean((solved("in_system", grid) - run("in_system", grid) / n) ** 2))
print(f"symbols - solve: {far.max():.2f} requests at most, of {symbols.max():.0f}")
print(f"solve - engine:  {error / np.mean(run('in_system', grid) / n):.2%} of the mean (RMS)")
assert far.max() < 0.03 * symbols.max()

# %% [markdown]
# What is left between symbols and solver is how the number between two steps is drawn: the march
# itself is the same, step by step (`tests/ode/test_server_step.py`).
#
# ## Capacity, and the limit that sets it
#
# At rest $x$ requests start and $x$ end in a step. In every sum over rows a row of age $a$ then
# has $x \pi_j$ requests of class $j$ as long as they have a seat, so that the sums are $x$ times
# a polynomial in the lengths. Seats, tokens and KV each give the $x$ at which they are full. The
# first of them counts, and the law gives the time of the step.

# %%
formulas = saturation_formulas()
limits = [
    rf"x_{{\text{{{name.replace('_', ' ')}}}}} &= {sp.latex(formulas[name])}"
    for name in ("max_num_seqs", "max_num_batched_tokens", "KV blocks")
]
limits.append(rf"\tau &= {sp.latex(formulas['batch_time'])}")
Math(r"\begin{aligned}" + r"\\".join(limits) + r"\end{aligned}")

# %% [markdown]
# From here on requests have many lengths. (Where only three occur, requests that started together
# end together, and the server loses more to preemption than the model has.)

# %%
chat = fs.describe("normal").mix
seats = np.arange(8, 201, 4)
few = (16, 64, 160) if QUICK else (16, 32, 64, 96, 128, 160, 192)


def completes(node, requests=2000 if QUICK else 8000):
    """Return what a full engine completes per second, and what it computes again per request."""
    rate = 1.5 * fs.capacity(chat, node)
    asked = fs.Question(fs.Workload(chat, rate=rate), node, num_requests=requests)
    done = fs.simulate(asked.requests, node, record_batches=False)
    ends = np.sort(done.requests["completion_time"])
    first, last = requests // 4, 3 * requests // 4
    again = done.metrics().totals["recompute_waste"] / requests
    return (last - first) / (ends[last] - ends[first]), again


_, axis = plt.subplots(figsize=(9, 3.8))
for blocks, color in ((250, OTHER), (700, FLUID), (4000, "#009E73")):
    nodes = [VllmV1(batch_time=law, num_gpu_blocks=blocks, max_num_seqs=int(s)) for s in seats]
    full = [saturation(chat, node) for node in nodes]
    axis.plot(seats, [each.throughput for each in full], color=color, label=f"{blocks} blocks")
    bound = [s for s, each in zip(seats, full, strict=True) if each.binds == "KV blocks"]
    if bound:
        axis.axvline(bound[0], color=color, ls=":", lw=1)
    for s in few:
        node = VllmV1(batch_time=law, num_gpu_blocks=blocks, max_num_seqs=s)
        axis.plot(s, completes(node)[0], "o", color=color, ms=4)
axis.set(xlabel="max_num_seqs", ylabel="capacity [requests/s]")
axis.set_title("Seats bind to the left of the dotted line, KV to the right; dots: engine")
axis.legend(loc="lower right")
plt.show()

# %% [markdown]
# ## What asynchronous scheduling costs
#
# A step is decided when the one before begins. Whoever arrives during a step is therefore too
# late for the next one, which is already decided, and starts in the one after it. The wait is a
# half step without, and one and a half with asynchronous scheduling. In exchange the processor
# decides while the device computes: without it each step takes the `cpu_gap` longer.

# %%
wait = server_equilibrium_formulas()["wait"]
x, mean_decode = sp.symbols("x E_D", positive=True)
often_busy = wait.subs({sp.Symbol("O_2", nonnegative=True): 0, sp.exp(-mean_decode * x): 0})
Math(rf"\text{{mean wait}} = {sp.latex(sp.simplify(often_busy))}")

# %%
for gap in (0.0, 0.008):
    for is_ahead in (False, True):
        node = VllmV1(
            batch_time=law, num_gpu_blocks=4000, cpu_gap=gap, async_scheduling=is_ahead
        ).scaled(20)
        rate = 20 * 40.0
        asked = fs.Question(
            fs.Workload(chat, rate=rate), node, num_requests=4000 if QUICK else 20000
        )
        seen = fs.simulate(asked.requests, node, record_batches=False).samples(1000)
        ours = fs.equilibrium(chat, node, rate)
        print(
            f"gap {1000 * gap:.0f} ms, {'a' if is_ahead else ''}synchronous: mean TTFT "
            f"{1000 * ours.ttft:5.1f} ms (engine {1000 * seen.of('ttft')[0].mean():5.1f}), TPOT "
            f"{1000 * ours.tpot:5.1f} ms (engine {1000 * seen.of('tpot')[0].mean():5.1f})"
        )

# %% [markdown]
# ## What preemption costs
#
# A server with a queue and full KV lives from hand to mouth: where too few requests end in a
# step, the growth of the others is taken from the last that started. It computes its prompt and
# tokens again, less what nobody has overwritten in the prefix cache. In a large system the ends
# of many requests are as regular as the growth, and hardly anybody is preempted. With the prefix
# cache the model has too little of this work, by up to a half where there is little; the capacity
# is up to 2 % too high.

# %%
sizes = np.geomspace(200, 4000, 12).astype(int)
some = (200, 1000) if QUICK else (200, 400, 800, 1600, 3200)
fig, axes = plt.subplots(1, 2, figsize=(11, 3.6))
for cache, color in ((True, FLUID), (False, OTHER)):
    words = "with" if cache else "without"
    settings = {"batch_time": law, "max_num_seqs": 1000, "enable_prefix_caching": cache}
    full = [saturation(chat, VllmV1(num_gpu_blocks=int(b), **settings)) for b in sizes]
    seen = [completes(VllmV1(num_gpu_blocks=b, **settings)) for b in some]
    again = [each.recomputed / each.entering for each in full]
    axes[0].loglog(sizes, again, color=color, label=f"{words} prefix cache")
    axes[0].loglog(some, [each[1] for each in seen], "o", color=color, ms=4)
    axes[1].semilogx(sizes, [each.throughput for each in full], color=color)
    axes[1].semilogx(some, [each[0] for each in seen], "o", color=color, ms=4)
axes[0].set(xlabel="num_gpu_blocks", ylabel="computed again [tokens/request]",
            title="Work that preemptions repeat; dots: engine")  # fmt: skip
axes[1].set(xlabel="num_gpu_blocks", ylabel="capacity [requests/s]", title="Capacity")
for axis in axes:
    axis.set_xticks(some, [str(b) for b in some])
    axis.minorticks_off()
axes[0].legend()
fig.tight_layout()
plt.show()

# %% [markdown]
# ## What moves it
#
# SymPy differentiates the same closed forms. Shown is by how many per cent capacity and mean
# latencies change where a parameter grows by one per cent.

# %%
rate = 0.6 * fs.capacity(mix, server)
slopes, point = equilibrium_gradients(mix, server, rate), fs.equilibrium(mix, server, rate)
values = {
    "arrival_rate": rate, "kv_tokens": 16 * (600 - 1), "max_num_seqs": 128, "d_0": law.d_0,
    "d_decode": law.d_decode, "d_kv": law.d_kv, "d_prefill": law.d_prefill,
}  # fmt: skip
here = {"capacity": fs.capacity(mix, server), "ttft": point.ttft, "tpot": point.tpot}
print(f"{'':14s}" + "".join(f"{quantity:>10s}" for quantity in here))
for name, value in values.items():
    cells = (slopes[quantity][name] * value / size for quantity, size in here.items())
    print(f"{name:14s}" + "".join(f"{cell:+10.3f}" for cell in cells))
