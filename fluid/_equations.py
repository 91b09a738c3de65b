"""The fluid model of a decode node, written once as symbols (model, sections 2 and 3).

State: WAITING ``Q``; RUNNING ``X[j, i]`` by class and stage, stage i being the token in
production; and the evicted, ``Z[j, i]`` in SWAPPED (swapping mode) or ``R[j]`` at the head of
WAITING with their progress lost (sacrifice mode). A class knows its length only through the
hazard ``q[j, i] = P(D = i | D >= i)`` and the prefill that goes with it, so nothing has to be
measured: the model is closed.

What the scheduler decides at a batch boundary is written per batch (lower-case ``a``, ``w``,
``v``); divided by the batch time it is a rate. Three decisions are order rules:

* the executing batch is a prefix of RUNNING in entry order. Older is further, so the prefix is
  taken from the last stage down until the budget B is spent;
* room in memory is what completions free less what growth takes, plus ``beta`` times what is
  still empty. Positive, it goes to the evicted first and the rest to WAITING; negative, it is
  taken from the youngest, the first stages up. The memory surface ``U = M`` is thereby held
  without switching: priorities are ordered by construction, there is no Filippov ambiguity;
* a boundary is on average half a batch away, hence ``beta = 2`` per batch for whoever waits for
  one: the mean residual wait tau / 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import sympy as sp

from fluid._flows import RANGES, Flow, J, State, i, j, r, right_hand_side, summed
from serving import MODES, ConfigError
from serving.arguments import checked

TRANSPORTS = ("superbee", "upwind")

k = sp.Symbol("k", integer=True, positive=True)

Q = sp.Symbol("Q")
X, Z, R = sp.IndexedBase("X"), sp.IndexedBase("Z"), sp.IndexedBase("R")
ARRIVAL, M, B, KAPPA, BETA, EPS = sp.symbols("lambda M B kappa beta epsilon", positive=True)
D_0, D_KV, D_DECODE, D_SWAP = sp.symbols("d_0 d_kv d_decode d_swap", nonnegative=True)
PI, q, p = sp.IndexedBase("pi"), sp.IndexedBase("q"), sp.IndexedBase("p")
c, f, T, O, e, E, v, H = (sp.IndexedBase(name) for name in "cfTOeEvH")  # noqa: E741
delta = sp.IndexedBase("delta")
F_0 = sp.Symbol("f_0", nonnegative=True)
KNOT, BEND = sp.IndexedBase("x"), sp.IndexedBase("g")
s, N, U, b, n, phi, psi, z, m, w, a, tau = sp.symbols("s N U b n phi psi z m w a tau")
G, C, V, V_1, V_k, V_c, n_1, h = sp.symbols("G C V V_1 V_k V_c n_1 h")
K, l = sp.IndexedBase("K"), sp.IndexedBase("l")  # noqa: E741


@dataclass(frozen=True, slots=True)
class Quantity:
    """A symbol with its name in code, its unit and meaning, and its expression if it has one."""

    symbol: State
    code: str
    unit: str
    meaning: str
    expression: sp.Expr | None = None


@dataclass(frozen=True, slots=True)
class Equations:
    """The closed symbolic model of one mode.

    Parameters
    ----------
    mode
        ``swapping`` or ``sacrifice``.
    transport
        ``superbee`` or ``upwind``; see :func:`equations`.
    tabulated
        Whether the batch time has a table.
    parameters
        What the instance and the mix give.
    constants
        Definitions in the parameters alone.
    states
        State variables, templates in class ``j`` and stage ``i``.
    definitions
        State-dependent quantities, each in terms of those before it.
    flows
        The flow list.
    integrals
        Running totals; ``expression`` is the rate of growth.
    """

    mode: str
    transport: str
    tabulated: bool
    parameters: tuple[Quantity, ...]
    constants: tuple[Quantity, ...]
    states: tuple[Quantity, ...]
    definitions: tuple[Quantity, ...]
    flows: tuple[Flow, ...]
    integrals: tuple[Quantity, ...]

    def rhs(self, variable: State) -> sp.Expr:
        """Return d(variable)/dt as one template, from the flow list."""
        return right_hand_side(self.flows, variable)

    def flow(self, name: str) -> Flow:
        """Return a flow by name."""
        return next(flow for flow in self.flows if flow.name == name)


PARAMETERS = (
    Quantity(ARRIVAL, "arrival_rate", "requests/time", "arrival rate"),
    Quantity(PI[j], "pi", "1", "share of class j among arrivals"),
    Quantity(q[j, i], "q", "1", "completion hazard P(D = i | D >= i); 1 at the last stage"),
    Quantity(p[j, i], "p", "tokens", "mean prefill of a request at stage i, E[p | D >= i]"),
    Quantity(M, "M", "tokens", "KV memory"),
    Quantity(B, "B", "tokens", "batch token budget"),
    Quantity(KAPPA, "kappa", "1", "admission threshold"),
    Quantity(D_0, "d_0", "time", "fixed time of a batch"),
    Quantity(D_KV, "d_kv", "time/token", "time per batch token"),
    Quantity(D_DECODE, "d_decode", "time/request", "time per executing request"),
    Quantity(D_SWAP, "d_swap", "time/token", "time per token moved GPU <-> CPU"),
    Quantity(BETA, "beta", "1/batch", "rate at which a boundary is met; 2 = half a batch away"),
    Quantity(EPS, "epsilon", "tokens", "guard of a division by nobody's tokens"),
)

CONSTANTS = (
    Quantity(
        c[j, i], "c", "tokens", "memory and batch tokens of a request at stage i", p[j, i] + i
    ),
    Quantity(
        f[j, i],
        "f",
        "tokens",
        "memory that executing stage i frees, on average",
        c[j, i] - (1 - q[j, i]) * c[j, i + 1],
    ),
    Quantity(
        l[j, i],
        "l",
        "token-iterations",
        "work done before stage i",
        sp.Sum(c[j, k], (k, 1, i)) - c[j, i],
    ),
    Quantity(s, "s", "tokens", "memory an entrant takes", sp.Sum(PI[j] * c[j, 1], (j, 1, J))),
)


TABLE = (
    Quantity(F_0, "table_first", "time", "batch time by the table up to its row 1"),
    Quantity(KNOT[r], "table_knot", "requests", "batch size at which the table bends"),
    Quantity(BEND[r], "table_bend", "time/request", "change of the table's slope there"),
)
"""Parameters of a law whose batch time is tabulated in the batch size."""


@checked()
def equations(
    mode: str = "swapping", transport: str = "superbee", *, tabulated: bool = False
) -> Equations:
    """Return the symbolic fluid model of ``mode``.

    Parameters
    ----------
    mode
        ``swapping`` or ``sacrifice``.
    transport
        ``superbee``: tokens take nearly one batch each, as in the system; ``upwind``: they take
        an exponential time, which makes every flow the rate of a Markov jump process.
    tabulated
        Whether the batch-time law has a table, interpolated linearly, in the batch size.

    Raises
    ------
    ConfigError
        If ``mode`` or ``transport`` is none of these.
    """
    if mode not in MODES:
        raise ConfigError("mode", mode, " | ".join(MODES))
    if transport not in TRANSPORTS:
        raise ConfigError("transport", transport, " | ".join(TRANSPORTS))
    pool = Z[j, i] if mode == "swapping" else R[j]
    return Equations(
        mode=mode,
        transport=transport,
        tabulated=tabulated,
        parameters=PARAMETERS + TABLE if tabulated else PARAMETERS,
        constants=tuple(x for x in CONSTANTS if mode == "sacrifice" or x.code != "l"),
        states=_states(mode),
        definitions=_definitions(mode, pool, transport, tabulated),
        flows=_flows(mode, pool),
        integrals=_integrals(mode),
    )


def _states(mode: str) -> tuple[Quantity, ...]:
    evicted = (
        Quantity(Z[j, i], "Z", "requests", "SWAPPED, stage kept")
        if mode == "swapping"
        else Quantity(R[j], "R", "requests", "sacrificed, at the head of WAITING, length kept")
    )
    return (
        Quantity(Q, "Q", "requests", "WAITING, never admitted"),
        Quantity(X[j, i], "X", "requests", "RUNNING, class j producing its token i"),
        evicted,
    )


def _definitions(mode: str, pool: State, transport: str, tabulated: bool) -> tuple[Quantity, ...]:
    indices = (j, i) if mode == "swapping" else (j,)
    size = c[j, i] if mode == "swapping" else c[j, 1]
    younger = U - O[i] - T[i]
    moved = sp.Max(0, -phi) - V + w * (z - m)
    duration = D_0 + D_KV * b + (D_DECODE - D_KV) * n
    if tabulated:
        duration += F_0 + sp.Sum(BEND[r] * sp.Max(0, n - KNOT[r]), RANGES[r])
    return (
        Quantity(T[i], "T", "tokens", "tokens of stage i", sp.Sum(c[j, i] * X[j, i], (j, 1, J))),
        Quantity(N, "N", "requests", "RUNNING", summed(X[j, i], (j, i))),
        Quantity(
            U,
            "U",
            "tokens",
            "memory with the next tokens reserved",
            summed(c[j, i] * X[j, i], (j, i)),
        ),
        Quantity(O[i], "O", "tokens", "tokens of the stages beyond i", U - sp.Sum(T[k], (k, 1, i))),
        Quantity(
            e[i],
            "e",
            "1",
            "share of stage i in the batch: the furthest first, up to B",
            sp.Max(0, sp.Min(1, (B - O[i]) / sp.Max(T[i], EPS))),
        ),
        Quantity(E[j, i], "E", "requests", "executing", e[i] * X[j, i]),
        *_transport(transport),
        Quantity(b, "b", "tokens", "batch tokens", sp.Min(B, U)),
        Quantity(n, "n", "requests", "batch size", summed(E[j, i], (j, i))),
        Quantity(n_1, "n_1", "requests", "executing their first token", sp.Sum(E[j, 1], (j, 1, J))),
        Quantity(h, "h", "tokens/batch", "tokens produced", summed(H[j, i], (j, i))),
        Quantity(G, "G", "tokens/batch", "freed less grown", summed(f[j, i] * H[j, i], (j, i))),
        Quantity(C, "C", "requests/batch", "completions", summed(q[j, i] * H[j, i], (j, i))),
        Quantity(
            phi,
            "phi",
            "tokens/batch",
            "room: freed less grown, and what is still empty",
            G + BETA * (M - U),
        ),
        Quantity(
            psi,
            "psi",
            "tokens/batch",
            "the same below the admission threshold, without reservations",
            G - C + BETA * (KAPPA * M - U + N),
        ),
        Quantity(m, "m", "requests", "evicted requests", summed(pool, indices)),
        Quantity(z, "z", "tokens", "memory they would take", summed(size * pool, indices)),
        Quantity(
            w,
            "w",
            "1/batch",
            "share of the evicted that returns: they take room first",
            sp.Max(0, sp.Min(BETA, phi / sp.Max(z, EPS), psi / sp.Max(z - m, EPS))),
        ),
        Quantity(
            a,
            "a",
            "requests/batch",
            "admission: the room that is left",
            sp.Min(
                BETA * Q,
                sp.Max(0, sp.Min((phi - w * z) / s, (psi - w * (z - m)) / sp.Max(s - 1, EPS))),
            ),
        ),
        Quantity(
            v[i],
            "v",
            "1/batch",
            "share of stage i evicted: room that lacks, the youngest first",
            BETA * sp.Max(0, sp.Min(1, (-phi / BETA - younger) / sp.Max(T[i], EPS))),
        ),
        Quantity(K[j, i], "K", "requests/batch", "evicted from stage i", v[i] * X[j, i]),
        Quantity(V, "V", "requests/batch", "evictions", summed(K[j, i], (j, i))),
        Quantity(
            V_1, "V_1", "requests/batch", "evictions before a token", sp.Sum(K[j, 1], (j, 1, J))
        ),
        *_lost(mode),
        Quantity(
            tau,
            "tau",
            "time",
            "batch time",
            duration + D_SWAP * moved if mode == "swapping" else duration,
        ),
    )


def _transport(transport: str) -> tuple[Quantity, ...]:
    """Return the flux that finishes stage i in a batch.

    A Markov stage lets everybody finish at rate 1 per batch (upwind): a token takes an
    exponential time and a cohort spreads like a Poisson count. In the system a token takes one
    batch. The second-order flux of a superbee limiter removes most of that spreading; where
    neighbours are in proportion to their survival, in equilibrium, it is the upwind flux.
    """
    if transport == "upwind":
        return (Quantity(H[j, i], "H", "requests/batch", "flux out of stage i", E[j, i]),)
    step = Quantity(
        delta[j, i],
        "delta",
        "requests",
        "what stage i + 1 holds beyond what survives of stage i",
        E[j, i + 1] - (1 - q[j, i]) * E[j, i],
    )
    before, after = delta[j, i - 1], delta[j, i]
    slope = sp.Max(0, sp.Min(2 * before, after), sp.Min(before, 2 * after)) + sp.Min(
        0, sp.Max(2 * before, after), sp.Max(before, 2 * after)
    )
    return (
        step,
        Quantity(
            H[j, i], "H", "requests/batch", "flux out of stage i, limited", E[j, i] + slope / 2
        ),
    )


def _lost(mode: str) -> tuple[Quantity, ...]:
    """Return the progress that sacrifice throws away."""
    if mode == "swapping":
        return ()
    tokens, work = (i - 1) * K[j, i], l[j, i] * K[j, i]
    return (
        Quantity(V_k, "V_k", "tokens/batch", "tokens thrown away", summed(tokens, (j, i))),
        Quantity(V_c, "V_c", "tokens/batch", "batch tokens they cost", summed(work, (j, i))),
    )


def _flows(mode: str, pool: State) -> tuple[Flow, ...]:
    arrive = sp.Symbol("F_arrive")
    admit, advance, complete, evict, back = (
        sp.IndexedBase(f"F_{name}") for name in ("admit", "advance", "complete", "evict", "return")
    )
    swapping = mode == "swapping"
    return (
        Flow("arrive", None, Q, arrive, ARRIVAL, "always"),
        Flow(
            "admit",
            Q,
            X[j, 1],
            admit[j],
            PI[j] * a / tau,
            "first come, first served, while memory has room that nobody evicted wants",
        ),
        Flow(
            "advance",
            X[j, i],
            X[j, i + 1],
            advance[j, i],
            (1 - q[j, i]) * H[j, i] / tau,
            "executing, not the last token",
        ),
        Flow(
            "complete",
            X[j, i],
            None,
            complete[j, i],
            q[j, i] * H[j, i] / tau,
            "executing, the last token",
        ),
        Flow(
            "evict",
            X[j, i],
            pool,
            evict[j, i],
            K[j, i] / tau,
            "memory is full and growth exceeds what completions free: last in, first out",
        ),
        Flow(
            "return",
            pool,
            pool.subs(pool.base.label, X.label) if swapping else X[j, 1],
            back[j, i] if swapping else back[j],
            w * pool / tau,
            "memory has room",
        ),
    )


def _integrals(mode: str) -> tuple[Quantity, ...]:
    theta, executed, started, wasted = sp.symbols("theta executed first_tokens wasted")
    rows = [
        Quantity(sp.Symbol(name), name, "requests", meaning, per_batch / tau)
        for name, meaning, per_batch in (
            ("admitted", "first admissions so far", a),
            ("completed", "completions so far", C),
            ("evicted", "evictions so far", V),
            ("evicted_fresh", "of these, before their first token", V_1),
        )
    ]
    rows += [
        Quantity(theta, "theta", "batches", "iteration clock", 1 / tau),
        Quantity(
            started, "first_tokens", "requests", "passages through stage 1",
            sp.Sum(H[j, 1], (j, 1, J)) / tau,
        ),
        Quantity(executed, "executed", "tokens", "tokens produced", h / tau),
    ]  # fmt: skip
    if mode == "sacrifice":
        work = sp.Symbol("wasted_work")
        rows += [
            Quantity(wasted, "wasted", "tokens", "tokens thrown away", V_k / tau),
            Quantity(work, "wasted_work", "token-iterations", "what they cost", V_c / tau),
        ]
    return tuple(rows)
