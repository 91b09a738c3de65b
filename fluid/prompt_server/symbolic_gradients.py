"""Derivatives of the closed forms of a server, by SymPy and the theorem of implicit functions.

What has no formula, the tokens that preemptions compute again, is differenced.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import sympy as sp

from fluid.prompt_server.closed_forms import saturation_formulas, server_equilibrium_formulas
from fluid.prompt_server.closed_values import QUANTITIES, closed_values
from fluid.prompt_server.equilibrium import ServerEquilibrium, further_steps
from fluid.prompt_server.life import life
from fluid.prompt_server.recompute import recomputed_tokens
from fluid.prompt_server.saturation import KV_BLOCKS, ServerSaturation, saturation_of_many
from serving import RequestMix
from serving.kinds.prompt_server import PromptServer

HOLDS = 1e-5
"""Relative difference between formula and code up to which they say the same."""

ACROSS_STEPS = 0.03
"""Half the range, relative, over which the whole steps of long prompts are averaged."""

RELATIVE = 1e-3
"""Step of the differences of what preemptions compute again, which is smooth in this range."""


def of_equilibrium(
    mix: RequestMix, server: PromptServer, rate: float, point: ServerEquilibrium
) -> dict[str, dict[str, float]] | None:
    """Return the derivatives of :data:`QUANTITIES`, None where the formulas are not the code's."""
    x = rate * (point.tau + point.idle)
    values = closed_values(mix, server, rate, x)
    unknown = {"x": x, "tau": point.tau}
    if server.prompts_apart:
        unknown["one"] = point.ttft - point.wait
    at = dict(values.value) | unknown
    form = _differentiated(server.prompts_apart)
    by_unknown = np.array([[cell(at) for cell in row] for row in form["jacobian"]])
    several = mix.mean_decode > 1
    names = QUANTITIES if several else QUANTITIES[:4]
    if not _holds(form, names, at, point):
        return None
    found: dict[str, dict[str, float]] = {name: {} for name in QUANTITIES}
    further = _further_by_room(mix, server, x)
    for parameter, slopes in values.slope.items():
        pushed = np.array([_along(row, slopes, at) for row in form["conditions"]])
        moved = np.linalg.solve(by_unknown, -pushed)
        along = dict(zip(unknown, moved.tolist(), strict=True)) | dict(slopes)
        room = slopes.get("T_max", 0.0) - life(mix, server).decodes * along["x"]
        if parameter == "prefix_hit_share":  # shorter prompts are as more room
            room += _left(mix, server, x) / max(1.0 - server.hit_share[0], 1e-9)
        along["F"] = further * room
        for name in names:
            found[name][parameter] = _along(form[name], along, at)
    if not several:  # nobody decodes
        found["tpot"] = dict.fromkeys(values.slope, math.nan)
        found["e2el"] = dict(found["ttft"])
    return found


def _holds(
    form: Mapping[str, Any],
    names: Sequence[str],
    at: Mapping[str, float],
    point: ServerEquilibrium,
) -> bool:
    """Return whether the formulas give what the code found, which has limits besides.

    Such are the 20 turns that it takes where prompts have steps of their own.
    """
    near = [(abs(each(at)), at["tau"]) for each in form["zero"]]
    for name in names:
        found = point.tau if name == "batch_time" else getattr(point, name)
        near.append((abs(form["value"][name](at) - found), found))
    return all(by <= HOLDS * abs(size) for by, size in near)


def _left(mix: RequestMix, server: PromptServer, x: float) -> float:
    """Return the tokens [tokens] of a step that decodes leave to prompts."""
    return server.step_tokens - x * life(mix, server).decodes


def _further_by_room(mix: RequestMix, server: PromptServer, x: float) -> float:
    """Return the derivative of the further steps of a prompt by the tokens left to it [1/token].

    Steps are whole, so that it is the slope over a range of a few per cent.
    """
    if server.prompts_apart:
        return 0.0
    step = ACROSS_STEPS * _left(mix, server, x) / max(life(mix, server).decodes, 1e-300)
    few, many = (
        float(mix.probability @ further_steps(mix, server, x + by)) for by in (step, -step)
    )
    return (many - few) / (2 * ACROSS_STEPS * _left(mix, server, x))


Slopes = Mapping[str, Callable[[Mapping[str, float]], float]]


def _along(by: Slopes, slopes: Mapping[str, float], at: Mapping[str, float]) -> float:
    """Return the derivative of an expression along a direction of its symbols."""
    return sum(by[name](at) * slope for name, slope in slopes.items() if name in by and slope)


@cache
def _differentiated(apart: bool) -> Mapping[str, Any]:
    """Return the derivatives of conditions and quantities by every symbol, as functions."""
    formulas = server_equilibrium_formulas(apart)
    conditions = formulas["conditions"]
    return {
        "zero": [_numeric(c) for c in conditions],
        "value": {name: _numeric(formulas[name]) for name in QUANTITIES},
        "jacobian": [[_numeric(sp.diff(c, z)) for z in formulas["unknowns"]] for c in conditions],
        "conditions": [_all_slopes(c) for c in conditions],
        **{name: _all_slopes(formulas[name]) for name in QUANTITIES},
    }


def _all_slopes(expression: Any) -> Slopes:
    return {str(x): _numeric(sp.diff(expression, x)) for x in expression.free_symbols}


def _numeric(expression: Any) -> Callable[[Mapping[str, float]], float]:
    symbols = sorted(expression.free_symbols, key=str)
    function = sp.lambdify(symbols, expression, modules="math")
    return lambda values: float(function(*(values[str(x)] for x in symbols)))


def of_capacity(mix: RequestMix, server: PromptServer, rate: float) -> dict[str, float] | None:
    """Return the derivatives of ``x / (time of a step of x)``, x being set by what binds.

    None where the formulas are not the code's.
    """
    full = saturation_of_many(mix, server)
    values = closed_values(mix, server, rate, full.entering)
    at = dict(values.value) | {"x": full.entering, "room": _room(mix, server, full)}
    form = _full_step(server.prompts_apart, full.binds)
    again_by_x = 0.0
    if full.recomputed:
        step = RELATIVE * full.entering
        near = [recomputed_tokens(mix, server, full.entering + by) for by in (-step, step)]
        again_by_x = (near[1] - near[0]) / (2 * step)
    time = form["time"](at) + at["e_p"] * full.recomputed
    near_time = abs(time - full.batch_time) <= HOLDS * full.batch_time
    if not near_time or abs(form["x"](at) - full.entering) > HOLDS * full.entering:
        return None
    found = {}
    for parameter, slopes in values.slope.items():
        moved = _along(form["slopes of x"], slopes, at)
        longer = _along(form["slopes of time"], {"x": moved, **slopes}, at)
        longer += at["e_p"] * again_by_x * moved + slopes.get("e_p", 0.0) * full.recomputed
        found[parameter] = (moved - full.throughput * longer) / full.batch_time
    return found


@cache
def _full_step(apart: bool, binds: str) -> Mapping[str, Any]:
    formulas = saturation_formulas(apart)
    limit, time = formulas[binds], formulas["batch_time"]
    return {
        "x": _numeric(limit), "time": _numeric(time), "slopes of x": _all_slopes(limit),
        "slopes of time": _all_slopes(time),
    }  # fmt: skip


def _room(mix: RequestMix, server: PromptServer, full: ServerSaturation) -> float:
    """Return the KV [tokens] that stays free where KV is what binds, else 0."""
    if full.binds != KV_BLOCKS:
        return 0.0
    return server.kv_tokens - server.reserve - full.entering * life(mix, server).held
