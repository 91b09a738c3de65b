"""Set one style for every picture: colours by engine, labelled axes, legends beside the data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fluidserve.methods import method_name
from serving import Trajectory
from serving.files import atomic_write

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

# Okabe & Ito's palette: told apart with every common form of colour blindness, and in grey.
INK, GREY, PALE = "#1a1a1a", "#6b6b6b", "#e2e2e2"
BLUE, SKY, GREEN = "#0072B2", "#56B4E9", "#009E73"
VERMILLION, ORANGE, PURPLE = "#D55E00", "#E69F00", "#CC79A7"
WINE = "#882255"

SWAPS_NOBODY = "this engine swaps nobody out"
BAND_LABEL = "90 % of single runs"
EXPECTED_LABEL = "90 % of answers like this one, {}"
"""Words for where the engine's mean is expected, with the name of the answer."""

MEAN_LABEL = "90 % interval of this mean"
"""Words for how well runs of the engine know their mean."""

EXPECTED_OF = "in_system"
"""The output whose error is known: of its mean over time."""

ENGINES: dict[str, tuple[str, str]] = {
    "discrete": ("#8c8c8c", "-"),
    "lagrangian": (BLUE, "-"),
    "eulerian_jax": (VERMILLION, "--"),
    "eulerian_diffrax": (GREEN, "-."),
    "eulerian_scipy": (PURPLE, ":"),
    "node_work": (WINE, "--"),
}
"""Colour and line of every engine and method, in every picture."""

HIGHEST_BAND = 1.6
"""Height of an interval over that of the lines beside it, from which it is cut off."""

STATES = {"waiting": ORANGE, "running": BLUE, "swapped": PURPLE}
"""Colour of every state of a request."""

STYLE: Any = {
    "figure.dpi": 110,
    "savefig.dpi": 160,
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.limits": (-3, 5),
    "axes.formatter.use_mathtext": True,
    "grid.color": "#e8e8e8",
    "grid.linewidth": 0.6,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 1.5,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.fontsize": 9,
}


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """What one engine or method says over time.

    Parameters
    ----------
    name
        ``discrete`` or the name of a fluid method; chooses the colour.
    mean
        The trajectory (of one run, the mean of several, or a fluid solution).
    low, high
        Where the middle 90 % of single runs lie; None draws no band.
    sd
        Standard deviation of a single run.
    runs
        How many runs ``mean`` averages.
    off
        Factors from a solution to both ends of where the engine's mean number in system is
        expected, see :func:`factors`; None draws no interval.
    """

    name: str
    mean: Trajectory
    low: Trajectory | None = None
    high: Trajectory | None = None
    sd: Trajectory | None = None
    runs: int = 1
    off: tuple[float, float] | None = None

    @property
    def label(self) -> str:
        """Words for the legend."""
        if self.name == "discrete":
            return "discrete" if self.runs == 1 else f"discrete, mean of {self.runs} runs"
        return f"fluid, {method_name(self.name)}"

    @property
    def line(self) -> dict[str, Any]:
        """Colour, dash and depth of the line."""
        colour, dash = ENGINES.get(self.name, (GREY, "-"))
        if self.name == "discrete":  # broad and below, so that a fluid on top of it shows both
            return {"color": colour, "linestyle": dash, "linewidth": 2.6, "zorder": 2.5}
        return {"color": colour, "linestyle": dash, "linewidth": 1.3, "zorder": 3}


@contextmanager
def figure(path: str | Path, width: float, height: float) -> Iterator[Figure]:
    """Yield a figure in the house style, written whole to ``path`` at the end.

    Raises
    ------
    FileAccessError
        If the picture cannot be written.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        drawing = Figure(figsize=(width, height), layout="constrained")
        yield drawing
        with atomic_write(path, "wb") as file:
            drawing.savefig(file, format="png")


def unit_named(unit: str) -> str:
    """Return a unit of time as axes name it."""
    return "time units" if unit == "none" else unit


def time_label(unit: str) -> str:
    """Return the label of a time axis."""
    return f"time [{unit_named(unit)}]"


def per_time(unit: str) -> str:
    """Return the unit of a rate."""
    return "requests per time unit" if unit == "none" else f"requests/{unit}"


def legend_above(drawing: Figure, handles: dict[str, Any], title: str = "") -> None:
    """Put title and one legend of the whole figure above it, where they cover no data."""
    if not handles:
        if title:
            drawing.suptitle(title, fontsize=9)
        return
    width = sum(len(label) + 7 for label in handles)  # in letters
    rows = -(-width // min(145, int(13.4 * drawing.get_figwidth())))
    legend = drawing.legend(
        list(handles.values()), list(handles), loc="outside upper center",
        ncols=-(-len(handles) // rows), columnspacing=1.6, handlelength=2.2,
        title=title or None, title_fontsize=9,
    )  # fmt: skip
    legend.get_title().set_multialignment("center")


def band(axes: Axes, curve: Curve, output: str, t: NDArray[np.float64], factor: float = 1.0) -> Any:
    """Fill where the middle 90 % of single runs lie; None where that is not known."""
    if curve.low is None or curve.high is None or output not in curve.low.outputs:
        return None
    low, high = curve.low(output, t) * factor, curve.high(output, t) * factor
    return axes.fill_between(t, low, high, color=PALE, lw=0, zorder=1.5)


def factors(error: Mapping[str, Any] | None, metric: str) -> tuple[float, float] | None:
    """Return the factors from a prediction to both ends of where the engine's mean is expected.

    Parameters
    ----------
    error
        As :meth:`ode.error_model.ErrorReport.to_json` returns it; None of an older version.
    metric
        Whose; None is returned where its error is not known.
    """
    row = (error or {}).get("metrics", {}).get(metric)
    if row is None:
        return None
    return 1 / (1 + row["high"]), 1 / max(1 + row["low"], 1e-300)


def expected_band(
    axes: Axes, curve: Curve, output: str, t: NDArray[np.float64], handles: dict[str, Any]
) -> None:
    """Fill where the engine's mean is expected about a solution, where its error is known.

    The interval is that of the mean over time. It is drawn about every time by the same factors,
    and leaves the panel where it is far wider than the line is high.
    """
    if curve.off is None or output != EXPECTED_OF or output not in curve.mean.outputs:
        return
    mean = curve.mean(output, t)
    low, high = (mean * factor for factor in curve.off)
    colour = curve.line["color"]
    label = EXPECTED_LABEL.format(method_name(curve.name))
    label = MEAN_LABEL if curve.name == "discrete" else label
    most = HIGHEST_BAND * max(float(mean.max()), float(axes.dataLim.y1), 1e-9)
    filled = axes.fill_between(
        t, low, high.clip(max=most), color=colour, alpha=0.16, lw=0, zorder=1.6
    )
    handles.setdefault(label, filled)


def from_zero(axes: Axes) -> None:
    """Start the axis at 0, with room above where everything is 0, and write 40k for 40,000."""
    from matplotlib.ticker import EngFormatter

    low, high = axes.dataLim.y0, axes.dataLim.y1
    if max(abs(low), abs(high)) < 1e-9:
        axes.set_ylim(0, 1)
    else:
        axes.set_ylim(bottom=0)
    if high >= 1e4:
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))


def say(axes: Axes, words: str) -> None:
    """Write into a panel that has nothing to show."""
    axes.text(
        0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center", color=GREY,
        fontsize=8.5,
    )  # fmt: skip


def plain_ticks(axis: Any) -> None:
    """Label a logarithmic axis with numbers as one writes them."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.set_minor_formatter(NullFormatter())


def note(axes: Axes, text: str, *, x: float = 0.99, y: float = 1.02) -> None:
    """Write small grey words at the upper right, outside the data."""
    axes.text(x, y, text, transform=axes.transAxes, ha="right", va="bottom", fontsize=8, color=GREY)
