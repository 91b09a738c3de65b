"""One look for every picture: colours by engine, labelled axes, legends beside the data."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving import FileAccessError, Trajectory

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito's palette: told apart with every common form of colour blindness, and in grey.
INK, GREY, PALE = "#1a1a1a", "#6b6b6b", "#d9d9d9"
BLUE, SKY, GREEN = "#0072B2", "#56B4E9", "#009E73"
VERMILLION, ORANGE, PURPLE = "#D55E00", "#E69F00", "#CC79A7"

ENGINES: dict[str, tuple[str, str]] = {
    "discrete": (INK, "-"),
    "lagrangian": (BLUE, "-"),
    "eulerian_jax": (VERMILLION, "--"),
    "eulerian_diffrax": (GREEN, "-."),
    "eulerian_scipy": (PURPLE, ":"),
}
"""Colour and line of every engine and method, in every picture."""

STATES = {"waiting": ORANGE, "running": BLUE, "swapped": PURPLE}
"""Colour of every state of a request."""

STYLE: dict[str, Any] = {
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
    spread
        Standard deviation of a single run at each time of ``mean``; None draws no band.
    runs
        How many runs ``mean`` averages.
    """

    name: str
    mean: Trajectory
    spread: Trajectory | None = None
    runs: int = 1

    @property
    def label(self) -> str:
        """Words for the legend."""
        if self.name == "discrete":
            return "discrete" if self.runs == 1 else f"discrete, mean of {self.runs} runs"
        return "fluid, " + self.name.replace("_", " ").replace("eulerian", "Eulerian").replace(
            "lagrangian", "Lagrangian"
        )

    @property
    def line(self) -> dict[str, Any]:
        """Colour, dash and depth of the line."""
        colour, dash = ENGINES.get(self.name, (GREY, "-"))
        return {"color": colour, "linestyle": dash, "zorder": 2.5 if self.name == "discrete" else 3}


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

    path = Path(path)
    partial = path.with_name(f".{path.stem}.partial-{os.getpid()}{path.suffix}")
    with matplotlib.rc_context(STYLE):
        drawing = Figure(figsize=(width, height), layout="constrained")
        yield drawing
        try:
            drawing.savefig(partial)
            os.replace(partial, path)
        except OSError as error:
            raise FileAccessError(f"cannot write {path}: {error.strerror or error}") from None
        finally:
            partial.unlink(missing_ok=True)


def time_label(unit: str) -> str:
    """Return the label of a time axis."""
    return "time" if unit == "none" else f"time [{unit}]"


def per_time(unit: str) -> str:
    """Return the unit of a rate."""
    return "requests per time unit" if unit == "none" else f"requests/{unit}"


def legend_above(drawing: Figure, handles: dict[str, Any], columns: int = 4) -> None:
    """Put one legend for the whole figure above it, where it covers no data."""
    drawing.legend(
        list(handles.values()), list(handles), loc="outside upper center", ncols=columns,
        columnspacing=1.6, handlelength=2.2,
    )  # fmt: skip


def note(axes: Axes, text: str, *, x: float = 0.99, y: float = 1.02) -> None:
    """Write small grey words at the upper right, outside the data."""
    axes.text(x, y, text, transform=axes.transAxes, ha="right", va="bottom", fontsize=8, color=GREY)
