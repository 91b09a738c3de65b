"""Derivatives of the closed forms: means and capacity by SymPy, second moments by differences."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import sympy as sp

from fluid._capacity import saturation
from fluid._equilibrium import Equilibrium, equilibrium
from fluid._parameters import parameter_values
from fluid._symbolic_equilibrium import equilibrium_formulas
from serving import DecodeNode, RequestMix, UnsupportedError

QUANTITIES = ("tau", "batch_tokens", "running", "wait", "capacity")
DIFFERENTIATED = (
    "arrival_rate", "d_0", "d_kv", "d_decode", "mean_prefill", "mean_decode", "M_total", "B",
    "admission_threshold",
)  # fmt: skip
RELATIVE = 1e-3
"""Step of the differences of smooth moments, whose error falls with its fourth power."""

M, B, KAPPA = sp.symbols("M B kappa", positive=True)
D_0, D_KV, D_DECODE = sp.symbols("d_0 d_kv d_decode", nonnegative=True)
W, MEAN = sp.symbols("W E_D", positive=True)
SQUARE, FIRST, P_SQUARE, P = sp.symbols("a_2 a_1 p_2 p_1", nonnegative=True)
"""E[(p+1)^2], E[p+1], E[p^2], E[p]."""


def equilibrium_gradients(
    mix: RequestMix, instance: DecodeNode, arrival_rate: float
) -> dict[str, dict[str, float]]:
    """Return d(quantity)/d(parameter) of the healthy equilibrium and of the capacity.

    SymPy differentiates the formulas of :func:`fluid.equilibrium_formulas` and of
    :func:`fluid.capacity`. Idle time and Var tau have no formula in the parameters; their
    derivatives, which are small parts of those of the means and of the wait, are five-point
    differences. At a kink of the capacity, where two limits bind at once, the derivative is that
    of one of them.

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
    UnsupportedError
        For a tabulated batch-time law.
    SolveError
        If load >= 1: there is no equilibrium.
    """
    law = instance.batch_time
    if law.d_decode_table is not None:
        raise UnsupportedError("the closed forms are differentiated for linear batch-time laws")
    state = equilibrium(mix, instance, arrival_rate)
    values = {
        "lambda": arrival_rate, "d_0": law.d_0, "d_kv": law.d_kv,
        "epsilon": law.per_request_extra, "i": state.idle, "W": mix.work, "E_D": mix.mean_decode,
        "V_tau": state.moments.var_batch_time,
    }  # fmt: skip
    longer = float(mix.probability @ (mix.prefill + mix.decode + 1))
    direct: dict[str, dict[str, float]] = {
        "arrival_rate": {"lambda": 1.0},
        "d_0": {"d_0": 1.0},
        "d_kv": {"d_kv": 1.0, "epsilon": -1.0},
        "d_decode": {"epsilon": 1.0},
        "mean_prefill": {"W": mix.mean_decode},
        "mean_decode": {"W": longer, "E_D": 1.0},
    }
    out: dict[str, dict[str, float]] = {name: {} for name in QUANTITIES}
    formulas = _slopes()
    for name in DIFFERENTIATED:
        chain = direct.get(name)
        if chain is not None:
            idle, variance = _implicit(mix, instance, arrival_rate, name)
            chain = chain | {"i": idle, "V_tau": variance}
        for quantity, by_symbol in formulas.items():
            out[quantity][name] = sum(
                by_symbol[symbol](values) * slope for symbol, slope in (chain or {}).items()
            )
    out["capacity"] = _capacity_slopes(mix, instance, longer)
    return out


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
) -> tuple[float, float]:
    """Return the derivatives of the idle time and of Var tau, by differences of fourth order."""
    value = parameter_values(mix, instance, arrival_rate)[name]
    law = instance.batch_time

    def at(by: float) -> Equilibrium:
        if name == "arrival_rate":
            return equilibrium(mix, instance, arrival_rate + by)
        if name == "mean_prefill":
            return equilibrium(replace(mix, prefill=mix.prefill + by), instance, arrival_rate)
        if name == "mean_decode":
            return equilibrium(_longer(mix, by), instance, arrival_rate)
        new = replace(law, **{name: getattr(law, name) + by})
        return equilibrium(mix, replace(instance, batch_time=new), arrival_rate)

    short = name == "mean_prefill" and mix.prefill.min() < 2 * RELATIVE * value
    forward = name == "mean_decode" or value == 0 or short
    step = value * RELATIVE if value > 0 else RELATIVE * max(law.d_0, 1e-9)
    weights = (-25 / 12, 4, -3, 4 / 3, -1 / 4) if forward else (1 / 12, -2 / 3, 0, 2 / 3, -1 / 12)
    first = 0 if forward else -2
    states = [(w, at((first + k) * step)) for k, w in enumerate(weights) if w]
    return (
        sum(w * each.idle for w, each in states) / step,
        sum(w * each.moments.var_batch_time for w, each in states) / step,
    )


def _longer(mix: RequestMix, chance: float) -> RequestMix:
    """Return ``mix`` with one token more at this chance."""
    return RequestMix(
        np.tile(mix.prefill, 2),
        np.concatenate([mix.decode, mix.decode + 1]),
        np.concatenate([mix.probability * (1 - chance), mix.probability * chance]),
        np.tile(mix.request_class, 2),
    )


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


def _capacity_slopes(mix: RequestMix, instance: DecodeNode, longer: float) -> dict[str, float]:
    """Return d(capacity)/d(parameter) of the ceiling that binds."""
    share, p = mix.probability, mix.prefill
    law = instance.batch_time
    values: dict[str, float] = {
        "M": float(instance.M_total), "B": float(min(instance.token_budget, 2**62)),
        "kappa": float(instance.admission_threshold), "d_0": law.d_0, "d_kv": law.d_kv,
        "d_decode": law.d_decode, "W": mix.work, "E_D": mix.mean_decode,
        "a_2": float(share @ (p + 1) ** 2), "a_1": float(share @ (p + 1)),
        "p_2": float(share @ p**2), "p_1": float(share @ p),
    }  # fmt: skip
    found = saturation(mix, instance)
    names = ["M", "B", *(["kappa"] if instance.admission_threshold < 1 else []), "one"]
    tokens = {name: _numeric(_ceilings()[name])(values) for name in names}
    binding = min(names, key=lambda name: abs(tokens[name] - found.batch_tokens))
    slopes = _throughput_slopes(binding)
    chains = {
        "d_0": {"d_0": 1.0}, "d_kv": {"d_kv": 1.0}, "d_decode": {"d_decode": 1.0},
        "mean_prefill": {
            "W": mix.mean_decode, "a_2": 2 * values["a_1"], "a_1": 1.0,
            "p_2": 2 * values["p_1"], "p_1": 1.0,
        },
        "mean_decode": {"W": longer, "E_D": 1.0},
        "M_total": {"M": 1.0}, "B": {"B": 1.0}, "admission_threshold": {"kappa": 1.0},
    }  # fmt: skip
    return {
        name: sum(slopes[x](values) * by for x, by in chains.get(name, {}).items() if x in slopes)
        for name in DIFFERENTIATED
    }


@cache
def _throughput_slopes(binding: str) -> Mapping[str, Callable[[Mapping[str, float]], float]]:
    tokens = _ceilings()[binding]
    tau = D_0 + D_KV * tokens + (D_DECODE - D_KV) * tokens * MEAN / W
    throughput = tokens / (W * tau)
    return {str(x): _numeric(sp.diff(throughput, x)) for x in throughput.free_symbols}
