"""Draw how the errors of the fluid limit fall with the size of the node."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fluidserve.plots.style import BLUE, ENGINES, figure

if TYPE_CHECKING:
    from studies.accuracy import SizePoint


def finite_size(points: Sequence[SizePoint], path: str | Path) -> None:
    """Draw the bias of the fluid and the noise of one run over the size n, with 1/n and 1/sqrt(n).

    Parameters
    ----------
    points
        Of :func:`studies.accuracy.finite_size`.
    path
        PNG to write.
    """
    n = [point.n for point in points]
    bias = [100 * abs(point.e2el_bias) for point in points]
    error = [200 * point.e2el_bias_error for point in points]
    noise = [100 * point.noise for point in points]
    middle, grey = len(n) // 2, ENGINES["discrete"][0]
    with figure(path, 6.4, 4.4) as drawing:
        axes = drawing.subplots()
        handles = {
            "bias of the fluid's mean end-to-end latency (± 2 s.e.)": axes.errorbar(
                n, bias, error, fmt="o", color=BLUE, capsize=3
            ),
            "spread of one run, in system": axes.plot(n, noise, "s", color=grey)[0],
            "1/n": axes.plot(n, [bias[middle] * n[middle] / x for x in n], ":", color=BLUE)[0],
            "1/√n": axes.plot(
                n, [noise[middle] * (n[middle] / x) ** 0.5 for x in n], ":", color=grey
            )[0],
        }
        axes.set(xscale="log", yscale="log", xlabel="size of the node n", ylabel="error [%]")
        axes.set_xticks(n, [str(x) for x in n])
        axes.minorticks_off()
        axes.grid(True, which="major")
        axes.set_yticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
        drawing.legend(list(handles.values()), list(handles), loc="outside upper center", ncols=2)
