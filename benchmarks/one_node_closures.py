"""What each part of the one-node method is worth: random decode nodes, with one part switched off.

    python benchmarks/error_campaign.py run --seed 2 --rows rows.journal --lengths FILE...
    python benchmarks/one_node_closures.py --rows rows.journal --lengths FILE...

Scenarios over time that no fit saw, the last ones first. A part is switched off by putting
something plainer in its place while the method is asked; the method itself has no such switches.
Some minutes.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

import fluid._capacity
import fluid.node_work.closure
import fluid.node_work.decode_node
import ode.node_work.solve
from fluid.node_work.request_work import request_work
from ode import solve
from ode.node_work.coming import Coming
from ode.node_work.decode_times import steady
from ode.node_work.latencies import Node, highest_start
from ode.node_work.model import DecodeNodeModel
from ode.node_work.presence import Arrivals
from ode.node_work.regimes import Regimes
from serving import RequestMix
from studies.campaign.judge import NOISES, OFF
from studies.campaign.rows import NOISIEST
from studies.campaign.running import read_campaign
from studies.campaign.scenarios import draw
from workload import read_lengths

ENGINE, METHOD = "decode_node", "node_work"
METRICS = {"mean_ttft": "mean TTFT", "p99_e2el": "p99 E2EL"}
CHANGES = 0.01
"""Relative change of one of the metrics from which an answer counts as another one."""


@dataclass(frozen=True, slots=True)
class AtOneRate:
    """Arrivals that come as they do, and as if the rate stayed while a request waits."""

    coming: Coming
    rate: float

    def moments(self, level: NDArray[np.intp]) -> NDArray[np.float64]:
        """Return the moments of the arrivals."""
        return self.coming.moments(level)

    def arrived(self, when: NDArray[np.float64], wait: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return how many come in ``wait`` at the rate of the window."""
        return self.rate * wait


def _plainer(of: Callable[[Node, NDArray[np.float64]], Node]) -> Any:
    """Return a patch that changes what latencies are drawn from."""
    drawn = DecodeNodeModel.arrivals

    def arrivals(
        self: DecodeNodeModel, node: Node, flow: NDArray[np.float64], count: int
    ) -> Arrivals:
        return drawn(self, of(node, flow), flow, count)

    return patch.object(DecodeNodeModel, "arrivals", arrivals)


def _lasting(node: Node, flow: NDArray[np.float64]) -> Node:
    closure = node.closure
    return replace(node, decode=steady(closure, highest_start(closure, node.levels.work, flow)))


def _one_rate(node: Node, _: NDArray[np.float64]) -> Node:
    return replace(node, coming=AtOneRate(node.coming, node.closure.rate))


OFFS: Mapping[str, Callable[[], Any]] = {
    "requests are young after an empty start": lambda: patch.object(
        Regimes, "_age", lambda _, oldest: math.inf
    ),
    "decodes that outlast their window see what comes": lambda: _plainer(_lasting),
    "who comes during a wait comes at the rate of then": lambda: _plainer(_one_rate),
    "dispersion of the arrivals": lambda: patch.object(
        ode.node_work.solve, "dispersion_within", lambda *_: 1.0
    ),
    "sacrifices slow a full node": lambda: patch.object(
        fluid.node_work.decode_node, "_useful", lambda *_: 1.0
    ),
    "few requests are packed whole": lambda: patch.object(
        fluid._capacity, "packs_whole", lambda *_: False
    ),
    "a long queue was made by long requests": lambda: patch.object(
        fluid.node_work.closure, "_lundberg", lambda *_: 0.0
    ),
}
"""What replaces each part: all ages are there; the window lasts for ever; arrivals at the rate of
the window; Poisson arrivals; evictions cost nothing; the straddle of many; those who execute are
like all."""


WHERE: Mapping[str, Callable[[RequestMix, Any], bool]] = {
    "sacrifices slow a full node": lambda _, node: node.mode == "sacrifice",
    "few requests are packed whole": fluid._capacity.packs_whole,
}
"""Where parts play no role, nothing is asked without them."""


@contextmanager
def without(part: str | None) -> Iterator[None]:
    """Switch a part off, and forget what was worked out with it; None leaves all of them on."""
    if part is None:
        yield
        return
    _forget()
    try:
        with OFFS[part]():
            yield
    finally:
        _forget()


def _forget() -> None:
    for known in (fluid._capacity.saturation, request_work):
        function: Any = known
        while not hasattr(function, "cache_clear"):
            function = function.__wrapped__
        function.cache_clear()


def errors_of(
    row: Mapping[str, Any], seed: int, files: Mapping[str, RequestMix]
) -> dict[str | None, dict[str, float]]:
    """Return predicted over engine by part switched off and metric, None for none switched off."""
    found: dict[str | None, dict[str, float]] = {}
    for part in (None, *OFFS):
        question = draw(row["number"], seed, files).question
        if part is not None and part in WHERE and not WHERE[part](question.mix, question.instance):
            found[part] = found[None]
            continue
        with without(part):
            flow = solve(question.profile, question.mix, question.instance, method=METHOD)
            of = flow.metrics().latencies
        values = {"mean_ttft": of["ttft"].mean, "p99_e2el": of["e2el"].percentiles[99]}
        found[part] = {name: values[name] / row["truth"][name] for name in METRICS}
    return found


def is_judged(row: Mapping[str, Any]) -> bool:
    """Return whether the engine knows the metrics of an answer over time well enough."""
    if "failed" in row or row["engine"] != ENGINE or row["protocol"] != "over_time":
        return False
    noise = [row["standard_error"].get(name) for name in METRICS]
    return all(each is not None and each <= NOISIEST for each in noise)


Found = list[dict[str | None, dict[str, float]]]
"""Results of :func:`errors_of`, by scenario."""


def off_by(
    rows: list[Mapping[str, Any]], found: Found, part: str | None, name: str
) -> NDArray[np.bool_]:
    """Return whether each answer without a part is off, as the score card says it."""
    noise = np.array([row["standard_error"][name] for row in rows])
    ratio = np.array([of[part][name] for of in found])
    return (np.abs(ratio - 1.0) > OFF) & (np.abs(np.log(ratio)) > NOISES * noise)


def changed_by(found: Found, part: str | None) -> NDArray[np.bool_]:
    """Return whether each answer is another one without a part."""
    change = [[of[part][name] / of[None][name] - 1.0 for name in METRICS] for of in found]
    return np.abs(np.array(change)).max(axis=1) > CHANGES


def table_of(rows: list[Mapping[str, Any]], found: Found) -> str:
    """Return the shares that are off, in Markdown."""
    heads = [f"{words}{of}" for words in METRICS.values() for of in ("", ", of the changed")]
    lines = [
        f"| without | answers that change | {' | '.join(heads)} |",
        "|---|---:|" + "---:|" * len(heads),
    ]
    for part in (None, *OFFS):
        changed, cells = changed_by(found, part), []
        for name in METRICS:
            before, off = (off_by(rows, found, each, name) for each in (None, part))
            cells.append(f"{off.mean():.1%}")
            some = changed.any()
            of_these = [f"{each[changed].mean():.0%}" for each in (before, off)] if some else "-"
            cells.append(" to ".join(of_these))
        count = "-" if part is None else f"{changed.sum()}"
        lines.append(f"| {part or 'none of them'} | {count} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--rows", type=Path, required=True, help="journal of error_campaign.py run")
    parser.add_argument("--lengths", nargs="*", default=[], help="files that it was run with")
    parser.add_argument("--scenarios", type=int, default=200)
    given = parser.parse_args()
    campaign = read_campaign(given.rows)
    files = {Path(each).name.split(".")[0]: read_lengths(each) for each in given.lengths}
    if campaign.seed is None or sorted(files) != sorted(campaign.files):
        parser.error(f"--lengths: the journal is of {' '.join(campaign.files) or 'no files'}")
    rows = [row for row in campaign.unseen[::-1] if is_judged(row)][: given.scenarios]
    found = [errors_of(row, campaign.seed, files) for row in rows]
    print(f"{len(rows)} scenarios\n\n{table_of(rows, found)}")


if __name__ == "__main__":
    main()
