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
# # Fluid against discrete
#
# The discrete engine decides request by request, as a scheduler does. The fluid model treats
# requests as a continuous mass. This notebook runs both on the same node and the same workload. It
# shows where they agree, how the difference falls as the node grows, and what eviction does to
# both.
#
# `FLUIDSERVE_QUICK=1` runs the same notebook with fewer replications.

# %%
import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Image

import fluidserve as fs

plt.rcParams.update(fs.plots.STYLE)
QUICK = bool(os.environ.get("FLUIDSERVE_QUICK"))
DISCRETE, FLUID, EVICTED = "#8c8c8c", "#0072B2", "#D55E00"
pictures = Path(tempfile.mkdtemp())

# %% [markdown]
# ## One overload, one node of size 100
#
# The load is 0.5, then 1.5, then 0.5 of the capacity. A node of size *n* has *n* times the memory,
# budget and arrivals of the default one, and its time per token is *n* times shorter.

# %%
n = 10 if QUICK else 100
node = fs.DecodeNode().scaled(n)
rush = fs.describe("normal", rate_shape="steps(0:0.5,1000:1.5,2000:0.5)")
question = fs.Question(rush, node, horizon=3000.0).at_load(1.0)
compared = fs.compare(question, ("lagrangian", "eulerian_jax"), fs.Replications(8 if QUICK else 64))
{name: round(result.nrmse["in_system"], 4) for name, result in compared.methods.items()}

# %%
discrete, fluid = fs.plots.curves_of(compared)
fs.plots.fluid_vs_discrete(
    discrete, fluid, pictures / "overload.png",
    nrmse={name: each.nrmse for name, each in compared.methods.items()},
    noise_floor=compared.noise_floor,
)  # fmt: skip
Image(pictures / "overload.png", width=800)

# %% [markdown]
# The lower part shows the residuals: fluid model minus mean of the runs. Where they stay within two
# standard errors of this mean (shaded), they are noise of the runs and not an error of the model.
#
# ## Bias falls like 1/n, noise like 1/sqrt(n)
#
# On a small node the fluid model predicts a mean end-to-end latency that is too low, because chance
# makes some batches much longer than the mean batch. A single run scatters around the mean of all
# runs; this scatter is noise and not a bias.

# %%
sizes = (3, 10, 30) if QUICK else (1, 3, 10, 30, 100)
points = fs.accuracy.finite_size(
    sizes, replications=(lambda n: max(24, 600 // n)) if QUICK else (lambda n: max(64, 6000 // n))
)
bias_slope = fs.accuracy.slope(sizes[1:], [abs(each.e2el_bias) for each in points[1:]])
noise_slope = fs.accuracy.slope(sizes, [each.noise for each in points])
print(f"slopes: bias {bias_slope:.2f}, noise {noise_slope:.2f}")
assert -1.4 < bias_slope < -0.7 and -0.65 < noise_slope < -0.35

# %%
fs.plots.finite_size(points, pictures / "size.png")
Image(pictures / "size.png", width=640)

# %% [markdown]
# ## A synchronised burst, in both modes
#
# Here 1,500 *n* requests arrive within 10 time units and fill the memory at once. They grow
# together, so the fluid model must evict as well. A sacrificed request starts again, but the length
# of its answer stays the same. The fluid model therefore remembers how far each request ever came;
# without this memory its completions would be far off.

# %%
figure, axes = plt.subplots(1, 2, figsize=(10.0, 4.0), sharey=True, layout="constrained")
for axis, mode in zip(axes, ("swapping", "sacrifice"), strict=True):
    burst = fs.accuracy.synchronised_case("uniform", n, mode=mode).question
    run = fs.simulate(burst.requests, burst.instance)
    flow = fs.solve(burst.requests.rate_profile(), burst.mix, burst.instance)
    t = np.linspace(0, run.metrics().duration, 1000)
    for name, colour in (("completed", FLUID), ("swapped", EVICTED)):
        axis.plot(t, run.trajectory()(name, t) / n, color=DISCRETE, linewidth=3)
        axis.plot(t, flow(name, t) / n, color=colour, label=f"{name} (fluid)")
    axis.set(title=mode, xlabel="time")
    late = abs(float(flow("completed", t[500]) / run.trajectory()("completed", t[500]) - 1))
    assert late < 0.04 / np.sqrt(n), late
axes[0].set_ylabel("requests / n")
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
plt.show()

# %% [markdown]
# Grey is one discrete run, colours are the fluid model. The next cell prints the evictions per
# completion, first of the discrete run and then of the fluid model.

# %%
for mode in ("swapping", "sacrifice"):
    burst = fs.accuracy.synchronised_case("uniform", n, mode=mode).question
    run = fs.simulate(burst.requests, burst.instance).metrics()
    flow = fs.solve(burst.requests.rate_profile(), burst.mix, burst.instance).metrics()
    print(f"{mode:10} {run.evictions / run.completed:.3f} {flow.evictions / flow.completed:.3f}")
