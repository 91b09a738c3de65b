"""Draw how a batch-time law fits measured steps: the times themselves and the residuals."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fluidserve.plots.style import BLUE, GREEN, GREY, INK, PALE, VERMILLION, figure, note

if TYPE_CHECKING:
    from calibration import StepTimeFit

REGIMES = {"decode": BLUE, "mixed": VERMILLION, "prefill": GREEN}
MOST_POINTS = 4000
CROWD = 400
"""Rows beyond which dots are small and pale."""

NARROW = 6.0
"""Range of step times, largest over least, below which 1, 2 and 5 would be too few numbers."""

CONTEXTS = 5
"""Curves of the first picture, one per context."""


def step_time_fit(fit: StepTimeFit, path: str | Path) -> None:
    """Draw decode-only steps and the law over the batch size, a curve per context per request.

    Parameters
    ----------
    fit
        Of :func:`calibration.fit_step_times`.
    path
        PNG to write.
    """
    import matplotlib

    rows = fit.rows[fit.rows.regime == "decode"]
    per_request = rows.context / rows.requests
    levels = np.unique(per_request)
    if levels.size > 40:  # bands of contexts, drawn at their middle
        edges = np.quantile(per_request, np.linspace(0, 1, CONTEXTS + 1))
        band = np.clip(np.searchsorted(edges, per_request, "right") - 1, 0, CONTEXTS - 1)
        levels = np.array([np.median(per_request[band == b]) for b in np.unique(band)])
        of_row = levels[band]
    else:
        levels = levels[np.unique(np.linspace(0, levels.size - 1, CONTEXTS).round().astype(int))]
        of_row = per_request
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.85, levels.size))
    n = np.geomspace(rows.requests.min(), rows.requests.max(), 200)
    handles: dict[str, Any] = {}
    knows_context = bool((rows.context > 0).any())
    with figure(path, 6.4, 4.4) as drawing:
        axes = drawing.subplots()
        for level, colour in zip(levels.tolist(), colours, strict=True):
            shown = _sample(np.flatnonzero(of_row == level), MOST_POINTS // CONTEXTS)
            axes.plot(
                rows.requests[shown], 1e3 * rows.time[shown], "o", color=colour, ms=3.5, alpha=0.6,
                mew=0,
            )  # fmt: skip
            curve = axes.plot(n, 1e3 * fit.law.duration(n * (level + 1), n), color=colour)[0]
            handles[f"{level:,.0f} tokens" if knows_context else "law"] = curve
        axes.set(xscale="log", yscale="log", xlabel="decoding requests in the batch")
        axes.set_ylabel("step time [ms]")
        _plain_ticks(axes)
        legend = drawing.legend(
            list(handles.values()), list(handles), loc="outside upper center", ncols=CONTEXTS,
            columnspacing=1.2, handlelength=1.4,
            title=f"{_source(fit)}: dots measured, lines fitted"
            + ("; context per request" if knows_context else "; KV not given"),
        )  # fmt: skip
        legend.get_title().set_fontsize(9)


def step_time_residuals(fit: StepTimeFit, path: str | Path) -> None:
    """Draw the relative errors of the law by regime, over batch size, KV read and prefill tokens.

    Parameters
    ----------
    fit
        Of :func:`calibration.fit_step_times`.
    path
        PNG to write.
    """
    from calibration.step_times import predict

    rows = fit.rows
    error = 100 * (predict(fit.law, rows) / rows.time - 1)
    axes_of = {
        "decoding requests": rows.requests,
        "KV read by decode [tokens]": rows.context,
        "prefill tokens": rows.prefill_tokens,
    }
    axes_of = {label: x for label, x in axes_of.items() if (x > 0).any()}
    far = np.quantile(np.abs(error), 0.995, method="higher")
    limit = float(np.clip(1.02 * far, 6, 100))
    dot = {"ms": 3, "alpha": 0.35} if len(rows) > CROWD else {"ms": 8, "alpha": 0.8}
    handles: dict[str, Any] = {}
    with figure(path, 3.4 * len(axes_of) + 0.6, 3.8) as drawing:
        panels = drawing.subplots(1, len(axes_of), sharey=True, squeeze=False)[0]
        for axes, (label, x) in zip(panels, axes_of.items(), strict=True):
            band = axes.axhspan(-5, 5, color=PALE, lw=0, zorder=0.5)
            axes.axhline(0, color=INK, lw=0.8)
            for regime, colour in REGIMES.items():
                shown = _sample(np.flatnonzero((rows.regime == regime) & (x > 0)), MOST_POINTS)
                if shown.size:
                    handles[regime] = axes.plot(
                        x[shown], np.clip(error[shown], -limit, limit), ".", color=colour, mew=0,
                        **dot,
                    )[0]  # fmt: skip
            axes.set(xscale="log", xlabel=label, ylim=(-1.05 * limit, 1.05 * limit))
        panels[0].set_ylabel("predicted / measured - 1 [%]")
        beyond = float(np.mean(np.abs(error) > limit))
        if beyond > 0:
            note(panels[-1], f"{100 * beyond:.1f} % of the steps lie beyond, drawn at the edge")
        legend = drawing.legend(
            [*handles.values(), band], [*(f"{name} batches" for name in handles), "within 5 %"],
            loc="outside upper center", ncols=4, markerscale=12 / dot["ms"],
            title=f"{_source(fit)}: error of the fitted law", title_fontsize=9,
        )  # fmt: skip
        for handle in legend.legend_handles:
            if handle is not None:
                handle.set_alpha(1.0)


def _source(fit: StepTimeFit) -> str:
    """Return what was measured, for a title."""
    about = fit.rows.about
    where = " ".join(str(about[key]) for key in ("model", "hardware") if about.get(key))
    return where or Path(str(about.get("file", "step times"))).name


def _sample(rows: np.ndarray, most: int) -> np.ndarray:
    if rows.size <= most:
        return rows
    return rows[np.random.default_rng(0).choice(rows.size, most, replace=False)]


def _plain_ticks(axes: Any) -> None:
    """Write 16, not 1.6 x 10^1, on logarithmic axes, and several numbers on each."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

    axes.xaxis.set_major_locator(LogLocator(base=2))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    low, high = axes.get_ylim()
    is_narrow = high < NARROW * low
    axes.yaxis.set_major_locator(MaxNLocator(6) if is_narrow else LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_formatter(NullFormatter())
    axes.tick_params(colors=GREY)
