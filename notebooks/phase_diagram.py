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
# # Phase diagram of a node
#
# When does a full memory cost throughput? Requests that are alike stay in step with each other;
# requests of random length do not. This notebook draws a map of what a node does. One axis is the
# spread of the decode lengths, the other is the prompt length per decoded token, and each load has
# its own panel.
#
# `FLUIDSERVE_QUICK=1` runs the same notebook on a coarser map.

# %%
import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Image

import fluidserve as fs
from fluid import certificate
from studies.phase_diagram import engine_regimes, gamma_case, phase_diagram

plt.rcParams.update(fs.plots.STYLE)
QUICK = bool(os.environ.get("FLUIDSERVE_QUICK"))
pictures = Path(tempfile.mkdtemp())

# %% [markdown]
# ## One point
#
# The decode lengths of this case are gamma distributed with mean 40 and CV 0.1 (standard deviation
# over mean), rounded up to whole tokens. Prompts are half as long. The largest root of the survival
# polynomial says whether a full node is stable. The fluid model with an endless queue says how many
# requests an unstable node completes.

# %%
mix, node = gamma_case(0.1, 0.5)
found, full = certificate(mix, node), fs.collapsed_throughput(mix, node)
print(found.message)
print(f"largest root {found.max_root:.4f}")
print(f"collapsed: {full.throughput / full.capacity:.3f} of capacity, "
      f"{full.evictions_per_completion:.2f} evictions per completion")  # fmt: skip
for load, (name, throughput, evictions) in zip(
    (0.8, 0.95, 1.1), engine_regimes(mix, node, (0.8, 0.95, 1.1)), strict=True
):
    says = fs.regime(mix, node, load * full.capacity)
    print(f"load {load}: {says}; engine {name}, {throughput:.3f} of capacity, {evictions:.2f}")
    assert says == name and abs(throughput - full.throughput / full.capacity) < 0.01

# %% [markdown]
# ## What the spread does
#
# The largest root crosses 1 at the spread where the loss of throughput ends. The two computations
# are independent of each other.

# %%
spread = np.linspace(0, 0.35, 8 if QUICK else 29)
figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.4), layout="constrained")
for ratio in (0.1, 0.5, 2.0):
    cases = [gamma_case(float(cv), ratio) for cv in spread]
    root = [certificate(*case).max_root for case in cases]
    theta = [fs.collapsed_throughput(*case) for case in cases]
    left.plot(spread, root, label=f"p / E[D] = {ratio:g}")
    right.plot(spread, [each.throughput / each.capacity for each in theta])
    unstable = np.array(root) >= 1
    assert (np.array([each.evicts for each in theta]) == unstable).all()
left.axhline(1, color="#6b6b6b", lw=0.8)
left.set(xlabel="CV of the decode lengths", title="Largest root")
right.set(xlabel="CV of the decode lengths", title="Collapsed throughput / capacity")
left.legend()
plt.show()

# %% [markdown]
# ## The map
#
# In the map, *healthy* means that every queue becomes empty. *Bistable* means healthy until the
# memory fills, then collapsed. *Backlogged* means overload with a steadily full memory. *Limit
# cycle* means overload in which requests enter and are evicted in step. The colour of a point is
# what the discrete engine does there, from a long queue and from an empty node.

# %%
coarse = {
    "cv": (0.0, 0.1, 0.2, 0.3), "ratio": (0.1, 0.5, 2.0, 10.0), "marked_cv": (0.0, 0.2),
    "marked_ratio": (0.1, 2.0),
}  # fmt: skip
diagram = phase_diagram(**(coarse if QUICK else {}))
answer = diagram.to_json()["engine"]
print(f"the engine agrees at {answer['agree']} of {answer['points']} points")
assert answer["disagree"] == []

# %%
fs.plots.phase_diagram(diagram, pictures / "map.png")
Image(pictures / "map.png", width=800)
