"""Write the folder of a step-time fit: a law that ``--config`` reads, pictures, a summary."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from calibration import StepTimeFit
from fluidserve import plots
from fluidserve.folders import write_common
from fluidserve.law_files import Memory, law_file, server_file
from serving import DEFAULT_KIND


def law_yaml(fit: StepTimeFit, memory: Memory | None, server: str | None = None) -> str:
    """Return a configuration file of the fitted law, in seconds, with the memory of its server.

    Where ``server`` is the configuration of a server, it is that one with the law.
    """
    about = fit.rows.about
    source = " ".join(str(about[key]) for key in ("hardware", "model", "tp") if key in about)
    file = Path(str(about.get("file", "rows"))).name
    title = f"Batch-time law fitted to {file}{': ' + source if source else ''}"
    most = int(fit.rows.requests.max())
    law = replace(fit.law, measured_requests=most or None)
    if server is not None:
        return server_file(title, law, server, memory)
    return law_file(title, DEFAULT_KIND.law_values(law), memory)


def people(fit: StepTimeFit) -> str:
    """Return the fit as text for people."""
    lines = [f"Law: {fit.recipe.name} [s]", ""]
    lines += [
        f"  {c.name:<28} {c.value:.4g}  95 %: {c.low:.4g} to {c.high:.4g}  {c.unit}"
        + ("" if c.identified else "  (not identified)")
        for c in fit.coefficients
    ]
    lines += ["", "Held-out error, whole levels out at a time (MAPE %)", ""]
    lines += [
        f"  {each.regime:<8} {each.split:<14} in {each.levels_of:<20} {_percent(each.mape)}"
        f"  small {_percent(each.mape_small)}  large {_percent(each.mape_large)}"
        f"  [{each.recipe.name}]" + ("  <-" if each.recipe == fit.recipe else "")
        for each in fit.quality.held_out
    ]
    lines += ["", *(f"warning: {each}" for each in fit.warnings)]
    return "\n".join(lines) + "\n"


def _percent(share: float) -> str:
    return f"{100 * share:6.2f}" if math.isfinite(share) else f"{'-':>6}"


def write_fit(
    folder: Path,
    final: Path,
    fit: StepTimeFit,
    memory: Memory | None,
    seconds: Mapping[str, float],
    server: str | None = None,
) -> None:
    """Write the law as ``config_used.yaml``, two pictures and the summary into ``folder``."""
    plots.step_time_fit(fit, folder / "step_time_fit.png")
    plots.step_time_residuals(fit, folder / "step_time_residuals.png")
    write_common(
        folder, final,
        config_yaml=law_yaml(fit, memory, server), summary=fit.to_json(), people=people(fit),
        seed=0, timings=seconds,
    )  # fmt: skip
