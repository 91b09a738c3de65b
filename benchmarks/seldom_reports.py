"""How well the predictor does where most reports of batches never come.

One decode node, of which a predictor hears every n-th report, or none. Prints the mean absolute
error of its TTFT and E2EL, and of how many requests it believes to be there, once for who takes
silence for a batch that goes on and once for who believes its own forecasts meanwhile.

    python benchmarks/seldom_reports.py
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field

import numpy as np

from scheduling import (
    BatchTrace,
    Predictions,
    Predictor,
    RequestMeta,
    SeldomToldPredictor,
    View,
    route,
)
from scheduling.drift import EVERY, Beliefs
from serving import DecodeNode
from studies import Question
from workload import describe

REPORTS = (1, 5, 20, 100, 0)
"""Every how-many-th report comes; 0 stands for none."""

SKIPPED = 0.25
"""Share of the requests, the first ones, that do not count."""


@dataclass
class Some:
    """Hands every n-th report on to a predictor, and notes what this says."""

    predictor: Predictor
    every: int
    said: list[tuple[float, float]] = field(default_factory=list)

    def enqueue_request(self, instance_id: int, request_meta: RequestMeta, ts: float) -> None:
        """Hand on what was sent."""
        self.predictor.enqueue_request(instance_id, request_meta, ts)

    def sync_batch_result(self, instance_id: int, batch_trace: BatchTrace) -> None:
        """Hand on a report, or lose it."""
        if self.every and batch_trace.batch_id % self.every == 0:
            self.predictor.sync_batch_result(instance_id, batch_trace)

    def predict(
        self, instance_id: int | None, request_meta: RequestMeta, ts: float, action_hint: str
    ) -> Predictions:
        """Ask the predictor."""
        return self.predictor.predict(instance_id, request_meta, ts, action_hint)

    def choose(self, view: View, request: RequestMeta) -> int:
        """Ask about a request, and send it to the one instance that there is."""
        found = self.predictor.predict(None, request, view.time)
        self.said.append((float(found.ttft[0]), float(found.e2el[0])))
        return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--load", type=float, default=0.8)
    parser.add_argument("--num-requests", type=int, default=2000)
    asked = parser.parse_args()
    node = DecodeNode()
    question = Question(describe("normal"), node, num_requests=asked.num_requests, seed=3)
    question = question.at_load(asked.load)
    first = int(SKIPPED * asked.num_requests)
    print(f"{'predictor':22} {'reports':>9} {'TTFT':>10} {'E2EL':>10} {'requests':>9}")
    for kind in (Predictor, SeldomToldPredictor):
        for every in REPORTS:
            some = Some(kind([node], question.mix), every)
            beliefs = Beliefs(some.predictor)
            run = route(
                question.requests, [node], some.choose, predictor=some, capacity=[1.0],
                listeners=[beliefs],
            )  # fmt: skip
            truth = np.column_stack([run.samples.ttft, run.samples.e2el])
            ttft, e2el = np.abs(np.array(some.said) - truth)[first:].mean(axis=0)
            drift = beliefs.drift(run)[first // EVERY :].mean()
            name = {0: "none", 1: "all"}.get(every, f"every {every}")
            print(f"{kind.__name__:22} {name:>9} {ttft:10.2f} {e2el:10.2f} {drift:9.2f}",
                  flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
