"""The symbols of a server that computes its own prompts, and what a symbolic model of it holds."""

from __future__ import annotations

from dataclasses import dataclass

import sympy as sp

from fluid._equations import PI, Quantity
from fluid._flows import Flow, State, j, right_hand_side

Q = sp.Symbol("Q", nonnegative=True)
X, R, p, D, hit = (sp.IndexedBase(x) for x in ("X", "R", "p", "D", "hit"))
g, y, MARK = (sp.IndexedBase(x) for x in ("g", "y", "mark"))
TAKEN, DECIDED, FREE_AT, CREDIT = sp.symbols("K t u credit", real=True)
ARRIVAL, M, SIZE, SEATS, TOKENS = sp.symbols("lambda M s N_max T_max", positive=True)
RESERVE, GAP, EPS = sp.symbols("rho gamma epsilon", nonnegative=True)
AHEAD, UNKNOWN, CACHE = sp.symbols("ahead unknown cache", nonnegative=True)
d_0, d_n, d_kv = sp.symbols("d_0 d_decode d_kv", nonnegative=True)
e_0, e_n, e_k, e_p, e_a, e_h = sp.symbols("e_0 e_n e_k e_p e_a e_h", nonnegative=True)

PARAMETERS = (
    Quantity(ARRIVAL, "arrival_rate", "requests/time", "arrival rate"),
    Quantity(PI[j], "pi", "1", "share of class j among arrivals"),
    Quantity(p[j], "p", "tokens", "prompt of class j"),
    Quantity(D[j], "D", "tokens", "answer of class j"),
    Quantity(hit[j], "hit", "1", "share of the prompt that the prefix cache has"),
    Quantity(M, "kv_tokens", "tokens", "KV"),
    Quantity(RESERVE, "reserve", "tokens", "KV that an admission leaves free"),
    Quantity(SIZE, "block_size", "tokens", "tokens of a block"),
    Quantity(SEATS, "max_num_seqs", "requests", "requests that run at once"),
    Quantity(TOKENS, "max_num_batched_tokens", "tokens", "tokens of a step"),
    Quantity(GAP, "gap", "time", "from the decision of a step to its start, at least"),
    Quantity(AHEAD, "ahead", "1", "1 with asynchronous scheduling, else 0"),
    Quantity(
        UNKNOWN, "unknown", "1", "1 where besides nobody knows in advance which token is the last"
    ),
    Quantity(CACHE, "cache", "1", "1 where the preempted find in the cache what is left there"),
    Quantity(d_0, "d_0", "time", "fixed time of a step without prompts"),
    Quantity(d_n, "d_decode", "time/request", "time per decode in it"),
    Quantity(d_kv, "d_kv", "time/token", "time per KV token read in it"),
    Quantity(e_0, "e_0", "time", "fixed time of a step with prompts: d_0 unless a table says it"),
    Quantity(e_n, "e_n", "time/request", "time per decode in it: d_decode + d_mixed_decode"),
    Quantity(e_k, "e_k", "time/token", "time per KV token read in it: d_kv"),
    Quantity(e_p, "e_p", "time/token", "time per prompt token: d_prefill"),
    Quantity(e_a, "e_a", "time/token^2", "time per pair attended: d_prefill_attention"),
    Quantity(e_h, "e_h", "time/token", "time per known prompt token: d_prefill_context"),
    Quantity(EPS, "epsilon", "1", "less than this is nothing: guard of divisions and roundings"),
)
"""A law that bends has in ``d`` and ``e`` the line that it is at the step."""


@dataclass(frozen=True, slots=True)
class ServerEquations:
    """The closed symbolic model of one step of a server.

    Parameters
    ----------
    prompts_apart
        See :func:`fluid.server_equations`.
    parameters, constants, states, definitions, flows, integrals
        As of :class:`fluid.Equations`; rates are per step.
    marks
        What rows and clock carry besides requests; ``expression`` is the value after the step.
    """

    prompts_apart: bool
    parameters: tuple[Quantity, ...]
    constants: tuple[Quantity, ...]
    states: tuple[Quantity, ...]
    definitions: tuple[Quantity, ...]
    flows: tuple[Flow, ...]
    integrals: tuple[Quantity, ...]
    marks: tuple[Quantity, ...]

    def rhs(self, variable: State) -> sp.Expr:
        """Return the change of ``variable`` in a step as one template, from the flow list."""
        return right_hand_side(self.flows, variable)

    def flow(self, name: str) -> Flow:
        """Return a flow by name."""
        return next(flow for flow in self.flows if flow.name == name)
