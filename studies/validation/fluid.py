"""What the fluid model says of a measured run: of the mix of its requests and their arrivals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving import Instance, RequestTable, UnsupportedError
from studies.validation.prediction import EMPTY, Prediction
from studies.validation.replay import dealt
from studies.validation.requests import Replayed


def by_fluid(
    requests: Replayed, instance: Instance, replicas: int, grid: NDArray[np.float64]
) -> Prediction:
    """Return the fluid solution of the requests that one replica gets, for all replicas.

    Raises
    ------
    UnsupportedError
        If clients give up or wait for answers, which the fluid model does not know.
    """
    from ode import solve

    if requests.max_concurrency is not None:
        raise UnsupportedError("no fluid model answers for a client that waits for answers")
    if requests.table.has_aborts:
        raise UnsupportedError("no fluid model answers for clients that give up")
    table = requests.table.take(dealt(requests.table, replicas)[0])
    node: Any = instance
    if getattr(node, "enable_prefix_caching", False):
        node = replace(node, prefix_hit_share=found_share(table, node.block_size))
    solution = solve(table.rate_profile(), table.mix(), node, approximate=True)
    samples, totals = solution.samples(), solution.metrics().totals
    series = {name: replicas * solution(name, grid) for name in ("running", "waiting")}
    nobody = np.full(samples.ttft.size, np.nan)
    return Prediction(
        ttft=samples.ttft, e2el=samples.e2el, tpot=samples.tpot, gaps=EMPTY, gap_weight=EMPTY,
        arrival=nobody, finish=nobody, grid=grid, series=series, weight=samples.weight,
        totals={"completed": replicas * totals["completed"], "makespan": totals["duration"]},
    )  # fmt: skip


def found_share(table: RequestTable, block_size: int) -> float:
    """Return the share of prompt tokens that a cache of any size finds, in whole blocks."""
    if table.contents is None:
        return 0.0
    contents, seen, found = table.contents, {}, 0
    for row, length in enumerate(table.prefill_length.tolist()):
        first, last = contents.first[row], contents.first[row + 1]
        if first == last:
            continue
        name = int(contents.piece_id[first])
        shared = min(int(contents.piece_length[first]), seen.get(name, 0), length - 1)
        found += shared // block_size * block_size
        seen[name] = max(seen.get(name, 0), int(contents.piece_length[first]))
    return found / float(table.prefill_length.sum())
