"""The closed forms of section 4 solved from their balance equations by SymPy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sympy as sp

LAMBDA, D_0, D_KV, EXTRA, IDLE = sp.symbols("lambda d_0 d_kv epsilon i", nonnegative=True)
WORK, MEAN_DECODE = sp.symbols("W E_D", positive=True)
VAR_TIME, COV_RUNNING_TIME = sp.symbols("V_tau C_Ntau")


def equilibrium_formulas() -> Mapping[str, Any]:
    """Return rho, tau, batch_tokens, running, decode_time and wait as expressions.

    Unknown are the mean batch time tau, tokens B and running requests N of an iteration, i its
    idle time. Per iteration ``lambda (tau + i)`` requests enter; each leaves behind W
    token-iterations and E[D] iterations; the batch-time law closes the system. Little's law per
    iteration gives the decode time, ``lambda (tau + i) E[decode] = E[N tau]``; a cycle of the
    batch clock gives the wait, ``E[tau^2] / 2`` per ``tau + i``. The batch-time law is affine; for
    one that bends, ``d_0, d_kv, epsilon`` are those of its line, see :class:`fluid.Equilibrium`.

    Returns
    -------
    mapping
        Expressions in ``lambda, d_0, d_kv, epsilon = d_decode - d_kv, i, W, E_D, V_tau = Var tau``
        and ``C_Ntau = Cov(N, tau)``.
    """
    tau, tokens, running = sp.symbols("tau B N")
    entering = LAMBDA * (tau + IDLE)
    solved = sp.solve(
        [
            sp.Eq(tokens, entering * WORK),
            sp.Eq(running, entering * MEAN_DECODE),
            sp.Eq(tau, D_0 + D_KV * tokens + EXTRA * running),
        ],
        [tau, tokens, running],
        dict=True,
    )[0]
    means = {name: sp.factor(solved[each]) for name, each in
             (("tau", tau), ("batch_tokens", tokens), ("running", running))}  # fmt: skip
    rho = sp.diff(D_KV * entering * WORK + EXTRA * entering * MEAN_DECODE, tau)
    decode = (running * tau + COV_RUNNING_TIME) / entering
    wait = (tau**2 + VAR_TIME) / (2 * (tau + IDLE))
    return {
        "rho": rho,
        **means,
        "decode_time": sp.simplify(decode.subs(solved)),
        "wait": sp.simplify(wait.subs(solved)),
    }
