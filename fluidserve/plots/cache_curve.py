"""Draw what a prefix cache finds over the size of the memory, and what that saves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from fluidserve.plots.style import BLUE, GREY, VERMILLION, figure, legend_above, plain_ticks


def cache_curve(
    result: Mapping[str, Any], size: NDArray, share: NDArray, path: str | Path, *, title: str = ""
) -> None:
    """Draw the hit share over the memory, and below it the load of a server that finds so much.

    Parameters
    ----------
    result
        Of ``prefix-cache``.
    size, share : shape (K,)
        Sizes [blocks], and the hit shares of the order of the requests alone.
    path
        PNG to write.
    title
        What is shown: the server, if there is one, and the requests.
    """
    points, block = result["points"], result["block_size"]
    tokens = [each["tokens"] for each in points]
    is_server = "load" in points[0]
    with figure(path, 6.4, 5.2 if is_server else 3.4) as drawing:
        panels = drawing.subplots(1 + is_server, 1, sharex=True, squeeze=False)[:, 0]
        axes = panels[0]
        shown = size > 0
        handles: dict[str, Any] = {
            "order of the requests alone": axes.plot(
                size[shown] * block, 100 * share[shown], color=GREY
            )[0]
        }
        shares = [100 * each["hit_share"] for each in points]
        if is_server:
            handles["on the server"] = axes.plot(tokens, shares, "o", color=BLUE)[0]
        axes.set(xscale="log", ylabel="prompt tokens found [%]", ylim=(0, None))
        axes.set_xlim(min(tokens) / 1.5, max(tokens) * 1.5)
        if is_server:
            loads = [each["load"] for each in points]
            handles["load"] = panels[1].plot(tokens, loads, "s-", color=VERMILLION)[0]
            panels[1].axhline(1.0, color=GREY, linewidth=0.8)
            panels[1].set(ylabel="arrivals over capacity", ylim=(0, None))
            for each in panels:
                each.axvline(
                    (result["num_gpu_blocks"] - 1) * block, color=GREY, linestyle=":", linewidth=0.9
                )
        plain_ticks(panels[-1].xaxis)
        panels[-1].set_xlabel("KV memory [tokens]" + (", dotted: this server" * is_server))
        legend_above(drawing, handles, title)
