"""Derivatives of the closed forms: formulas by SymPy, what has no formula by differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import sympy as sp

from fluid._capacity import packs_whole, saturation
from fluid._equilibrium import Equilibrium, equilibrium
from fluid._parameters import (
    LAW_PARAMETERS,
    WITHOUT_EVICTION,
    decode_moves,
    parameter_values,
    with_mean_decode,
)
from fluid._symbolic_equilibrium import equilibrium_formulas
from serving import DecodeNode, RequestMix, answers

QUANTITIES = ("tau", "batch_tokens", "running", "wait", "capacity")
DIFFERENTIATED = (
    "arrival_rate", *WITHOUT_EVICTION, "mean_prefill", "mean_decode", "M_total", "B",
    "admission_threshold",
)  # fmt: skip
OF_NODE_SIZE = ("M_total", "B", "admission_threshold")
"""Parameters that move the capacity alone: the healthy node does not reach them."""

RELATIVE = 1e-3
"""Step of the differences of smooth moments, whose error falls with its fourth power."""

ACROSS_A_KINK = 1e-4
"""Step of the differences by the mean decode length: whole lengths make a kink, at which central
differences tend to the mean of both sides as the step does to 0."""

M, B, KAPPA = sp.symbols("M B kappa", positive=True)
AT_NOTHING, PER_TOKEN, PER_REQUEST = sp.symbols("d_0 d_kv epsilon", real=True)
W, MEAN = sp.symbols("W E_D", positive=True)
SQUARE, FIRST, P_SQUARE, P = sp.symbols("a_2 a_1 p_2 p_1", nonnegative=True)
"""E[(p+1)^2], E[p+1], E[p^2], E[p]."""


@answers("decode_node")
def equilibrium_gradients(
    mix: RequestMix, instance: DecodeNode, arrival_rate: float
) -> dict[str, dict[str, float]]:
    """Return d(quantity)/d(parameter) of the healthy equilibrium and of the capacity.

    SymPy differentiates the formulas of :func:`fluid.equilibrium_formulas`, in which the line of
    the equilibrium stands for the batch-time law, and of :func:`fluid.capacity`. Idle time, Var
    tau and the line have no formula in the parameters; their derivatives are differences. The
    line of an affine law is the law, so that they are small parts of the whole there.

    At a kink one derivative is returned. By the mean decode length it is the mean of both sides.
    Where two limits bind the capacity at once it is that of one of them, and where a table bends
    at the very batch of a saturated node it is the one towards larger batches. The equilibrium
    has no kink at a bend, which is spread over the batches of the node. The capacity of a node of
    few whole requests is a staircase in its sizes and lengths: by them its derivative is NaN.

    Parameters
    ----------
    mix, instance
        Lengths, and the node.
    arrival_rate : [requests/time]

    Returns
    -------
    dict
        By quantity -- ``tau``, ``batch_tokens``, ``running``, ``wait``, ``capacity`` -- then by
        parameter, as :data:`fluid.PARAMETER_UNITS` defines them, ``d_swap`` excepted: nobody is
        evicted.

    Raises
    ------
    SolveError
        If load >= 1: there is no equilibrium.
    """
    state = equilibrium(mix, instance, arrival_rate)
    values = {"lambda": arrival_rate, "W": mix.work, "E_D": mix.mean_decode} | _without_formula(
        state
    )
    direct: dict[str, dict[str, float]] = {
        "arrival_rate": {"lambda": 1.0},
        "mean_prefill": {"W": mix.mean_decode},
        "mean_decode": {"W": _work_per_mean_decode(mix), "E_D": 1.0},
    }
    out: dict[str, dict[str, float]] = {name: {} for name in QUANTITIES}
    formulas = _slopes()
    for name in DIFFERENTIATED:
        chain: dict[str, float] = {}
        if name not in OF_NODE_SIZE:
            chain = direct.get(name, {}) | _implicit(mix, instance, arrival_rate, name)
        for quantity, by_symbol in formulas.items():
            out[quantity][name] = sum(
                by_symbol[symbol](values) * slope for symbol, slope in chain.items()
            )
    out["capacity"] = _capacity_slopes(mix, instance)
    return out


def _without_formula(state: Equilibrium) -> dict[str, float]:
    """Return what the formulas take from the numeric equilibrium, by the name of its symbol."""
    line = state.line
    return {
        "d_0": line.at_nothing,
        "d_kv": line.per_token,
        "epsilon": line.per_request,
        "i": state.idle,
        "V_tau": state.moments.var_batch_time,
    }


@cache
def _slopes() -> Mapping[str, Mapping[str, Callable[[Mapping[str, float]], float]]]:
    """Return the derivative of every formula by every symbol, as functions of the values."""
    formulas = equilibrium_formulas()
    symbols = sorted(
        {each for name in QUANTITIES[:-1] for each in formulas[name].free_symbols}, key=str
    )
    return {
        name: {str(x): _numeric(sp.diff(formulas[name], x)) for x in symbols}
        for name in QUANTITIES[:-1]
    }


def _numeric(expression: Any) -> Callable[[Mapping[str, float]], float]:
    symbols = sorted(expression.free_symbols, key=str)
    function = sp.lambdify(symbols, expression)
    return lambda values: float(function(*(values[str(x)] for x in symbols)))


def _implicit(
    mix: RequestMix, instance: DecodeNode, arrival_rate: float, name: str
) -> dict[str, float]:
    """Return the derivatives of :func:`_without_formula` by one parameter, by differences."""
    value = parameter_values(mix, instance, arrival_rate)[name]
    law = instance.batch_time

    def at(by: float) -> tuple[float, dict[str, float]]:
        """Return the parameter that is reached, and the values there."""
        new_mix, node, rate, reached = mix, instance, arrival_rate, value + by
        if name == "arrival_rate":
            rate = reached
        elif name == "mean_prefill":
            new_mix = replace(mix, prefill=mix.prefill + by)
        elif name == "mean_decode":
            new_mix = with_mean_decode(mix, reached)
            reached = new_mix.mean_decode
        else:
            node = replace(instance, batch_time=replace(law, **{name: reached}))
        return reached, _without_formula(equilibrium(new_mix, node, rate))

    if name == "mean_decode":
        step = ACROSS_A_KINK * value
        (low, before), (high, after) = at(-step), at(step)
        return {key: (after[key] - before[key]) / (high - low) for key in after}
    short = name == "mean_prefill" and mix.prefill.min() < 2 * RELATIVE * value
    forward = value == 0 or short
    step = value * RELATIVE if value > 0 else RELATIVE * max(float(law.duration(0, 0)), 1e-9)
    weights = (-25 / 12, 4, -3, 4 / 3, -1 / 4) if forward else (1 / 12, -2 / 3, 0, 2 / 3, -1 / 12)
    first = 0 if forward else -2
    states = [(w, at((first + k) * step)[1]) for k, w in enumerate(weights) if w]
    return {key: sum(w * each[key] for w, each in states) / step for key in states[0][1]}


def _work_per_mean_decode(mix: RequestMix) -> float:
    """Return dW/dE[D] [token-iterations/token] as all lengths move in proportion."""
    gains, losses = decode_moves(mix.decode, mix.probability)
    last = mix.prefill + mix.decode  # tokens of the last iteration, lost by who gets shorter
    return float(gains @ (last + 1) + losses @ last)


@cache
def _ceilings() -> Mapping[str, Any]:
    """Return what may limit the tokens of a saturated batch, see :func:`fluid.saturation`."""
    straddle = SQUARE / (2 * FIRST)
    each = W / MEAN
    return {
        "M": M - straddle,
        "B": B - straddle,
        "kappa": (KAPPA * M + P_SQUARE / (2 * P)) / (1 - 1 / each),
        "one": each,
    }


def _capacity_slopes(mix: RequestMix, instance: DecodeNode) -> dict[str, float]:
    """Return d(capacity)/d(parameter) of the ceiling that binds."""
    share, p = mix.probability, mix.prefill
    law, found = instance.batch_time, saturation(mix, instance)
    line = law.tangent(found.batch_tokens, found.batch_size)
    values: dict[str, float] = {
        "M": float(instance.M_total), "B": float(min(instance.token_budget, 2**62)),
        "kappa": float(instance.admission_threshold), "d_0": line.at_nothing,
        "d_kv": line.per_token, "epsilon": line.per_request, "W": mix.work,
        "E_D": mix.mean_decode, "a_2": float(share @ (p + 1) ** 2), "a_1": float(share @ (p + 1)),
        "p_2": float(share @ p**2), "p_1": float(share @ p),
    }  # fmt: skip
    names = ["M", "B", *(["kappa"] if instance.admission_threshold < 1 else []), "one"]
    tokens = {name: _numeric(_ceilings()[name])(values) for name in names}
    binding = min(names, key=lambda name: abs(tokens[name] - found.batch_tokens))
    slopes = _throughput_slopes(binding)
    chains = {
        "mean_prefill": {
            "W": mix.mean_decode, "a_2": 2 * values["a_1"], "a_1": 1.0,
            "p_2": 2 * values["p_1"], "p_1": 1.0,
        },
        "mean_decode": {"W": _work_per_mean_decode(mix), "E_D": 1.0},
        "M_total": {"M": 1.0}, "B": {"B": 1.0}, "admission_threshold": {"kappa": 1.0},
    }  # fmt: skip
    for name in LAW_PARAMETERS:
        step = RELATIVE * getattr(law, name) or RELATIVE
        more = replace(law, **{name: getattr(law, name) + step})
        longer = more.duration(found.batch_tokens, found.batch_size) - found.batch_time
        chains[name] = {"d_0": float(longer) / step}  # whatever lengthens this very batch
    found_slopes = {
        name: sum(slopes[x](values) * by for x, by in chains.get(name, {}).items() if x in slopes)
        for name in DIFFERENTIATED
    }
    if packs_whole(mix, instance):
        found_slopes |= dict.fromkeys(("mean_prefill", "mean_decode", *OF_NODE_SIZE), math.nan)
        for name in LAW_PARAMETERS:
            found_slopes[name] = -found.throughput / found.batch_time * chains[name]["d_0"]
    return found_slopes


@cache
def _throughput_slopes(binding: str) -> Mapping[str, Callable[[Mapping[str, float]], float]]:
    tokens = _ceilings()[binding]
    tau = AT_NOTHING + PER_TOKEN * tokens + PER_REQUEST * tokens * MEAN / W
    throughput = tokens / (W * tau)
    return {str(x): _numeric(sp.diff(throughput, x)) for x in throughput.free_symbols}
