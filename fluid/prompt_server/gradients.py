"""Derivatives of capacity and equilibrium of a server that computes its own prompts."""

from __future__ import annotations

from fluid.prompt_server.closed_values import OF_LAW, QUANTITIES, is_line
from fluid.prompt_server.equilibrium import ServerEquilibrium, equilibrium
from fluid.prompt_server.parameters import OF_SERVER, parameter_values, with_parameter
from fluid.prompt_server.saturation import capacity
from serving import RequestMix, SolveError, answers
from serving.kinds.prompt_server import MODEL, PromptServer

DIFFERENTIATED = ("arrival_rate", *OF_SERVER, *OF_LAW, "prefix_hit_share")

STEP = 0.01
"""Step of the differences for a law that bends: far more than one of its segments is wide."""


@answers(MODEL)
def equilibrium_gradients(
    mix: RequestMix, instance: PromptServer, arrival_rate: float
) -> dict[str, dict[str, float]]:
    """Return d(quantity)/d(parameter) of the healthy equilibrium and of the capacity.

    Exact where the law is a line, but for what preemptions compute again; for a law that bends, and
    where the equilibrium meets a limit of its computation, differences of :func:`fluid.equilibrium`
    and :func:`fluid.capacity`. A size of the server moves
    the capacity if it is the limit that binds, and the latencies not at all: nobody meets a limit.
    The capacity of few requests that KV fills is marched in whole ones, which has no gradient: that
    of the closed form stands for it.

    Parameters
    ----------
    mix, instance
        Lengths, and the server.
    arrival_rate : [requests/time]

    Returns
    -------
    dict
        By quantity -- ``batch_time``, ``running``, ``wait``, ``ttft``, ``tpot``, ``e2el``,
        ``capacity`` -- then by parameter; ``kv_tokens`` is one token of num_gpu_blocks times
        block_size. Where there is no equilibrium, ``capacity`` alone.
    """
    try:
        point = equilibrium(mix, instance, arrival_rate)
    except SolveError:
        point = None
    found: dict[str, dict[str, float]] | None = None
    full: dict[str, float] | None = None
    if is_line(instance.batch_time):
        from fluid.prompt_server import symbolic_gradients as symbolic  # SymPy is slow to import

        full = symbolic.of_capacity(mix, instance, arrival_rate)
        found = {} if point is None else symbolic.of_equilibrium(mix, instance, arrival_rate, point)
    if found is not None and full is not None:
        return found | {"capacity": full}
    differences = _differences(mix, instance, arrival_rate, point)
    differences |= {} if full is None else {"capacity": full}
    return differences | (found or {})


def _differences(
    mix: RequestMix, server: PromptServer, rate: float, point: ServerEquilibrium | None
) -> dict[str, dict[str, float]]:
    """Return central differences; one-sided where a parameter cannot become smaller."""
    names = QUANTITIES if point is not None else ()
    found: dict[str, dict[str, float]] = {name: {} for name in (*names, "capacity")}
    values = parameter_values(mix, server, rate)
    for parameter in DIFFERENTIATED:
        value = values.get(parameter, 0.0)
        step = max(STEP * value, 1.0) if parameter in OF_SERVER else STEP * value
        if step == 0.0:
            continue  # nothing says how small a step is
        ends = [with_parameter(mix, server, rate, parameter, value + by) for by in (-step, step)]
        width = ends[1].value - ends[0].value
        full = [capacity(each.mix, each.instance) for each in ends]
        found["capacity"][parameter] = (full[1] - full[0]) / width
        if point is None:
            continue
        try:
            low, high = (equilibrium(x.mix, x.instance, x.arrival_rate) for x in ends)
        except SolveError:
            continue  # no equilibrium on one side
        for name in QUANTITIES:
            of = "tau" if name == "batch_time" else name
            found[name][parameter] = (getattr(high, of) - getattr(low, of)) / width
    return found
