"""The numeric equilibrium evaluates what SymPy solves from the balance equations."""

from __future__ import annotations

import pytest
import sympy as sp

from fluid import equilibrium, equilibrium_formulas
from serving import BatchTimeLaw, DecodeNode, RequestMix

FORMULAS = equilibrium_formulas()


@pytest.mark.parametrize("share_of_capacity", [0.02, 0.3, 0.9])
@pytest.mark.parametrize("law", [(1.0, 1e-3, 1e-3), (2.0, 0.05, 1e-4), (0.5, 0.0, 2e-3)])
def test_numbers_are_the_formulas(law, share_of_capacity):
    d_0, d_decode, d_kv = law
    node = DecodeNode(BatchTimeLaw(d_0, d_decode, d_kv), M_total=10**7, B=None)
    mix = RequestMix.from_lengths([50, 10, 300], [20, 3, 70], [0.5, 0.3, 0.2], [0, 0, 1])
    rate = share_of_capacity / (d_kv * mix.work + (d_decode - d_kv) * mix.mean_decode)
    found = equilibrium(mix, node, rate)
    values = {
        "lambda": rate, "d_0": d_0, "d_kv": d_kv, "epsilon": d_decode - d_kv, "i": found.idle,
        "W": mix.work, "E_D": mix.mean_decode, "V_tau": found.moments.var_batch_time,
        "C_Ntau": found.moments.cov_running_time.sum(),
    }  # fmt: skip
    for name, formula in FORMULAS.items():
        symbols = sorted(formula.free_symbols, key=str)
        assert {str(each) for each in symbols} <= values.keys()
        value = sp.lambdify(symbols, formula)(*(values[str(each)] for each in symbols))
        assert getattr(found, name) == pytest.approx(value, rel=1e-9), name


def test_the_formulas_of_section_4():
    """With one coefficient and no idling they are those written in the model."""
    d_1, lam, work, d_0, mean = sp.symbols("d_1 lambda W d_0 E_D", positive=True)
    named = {
        each: {"d_kv": d_1, "epsilon": 0, "i": 0, "lambda": lam, "W": work, "d_0": d_0,
               "E_D": mean}.get(str(each), each)
        for formula in FORMULAS.values() for each in formula.free_symbols
    }  # fmt: skip
    plain = {name: formula.subs(named) for name, formula in FORMULAS.items()}
    rho = lam * d_1 * work
    tau = d_0 / (1 - rho)
    covariance, variance = sp.symbols("C_Ntau V_tau")
    expected = {
        "rho": rho,
        "tau": tau,
        "batch_tokens": lam * tau * work,
        "running": lam * tau * mean,
        "decode_time": mean * tau * (1 + covariance / (lam * tau * mean * tau)),
        "wait": (tau**2 + variance) / (2 * tau),
    }
    for name, formula in expected.items():
        assert sp.simplify(plain[name] - formula) == 0, name
