"""Score card of fluid methods over a grid of conditions (minutes; --quick: one size).

Usage: python benchmarks/score_card.py [--methods lagrangian,node_work] > score_card.json
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from typing import Any

from studies import score_card


def plain(value: Any) -> Any:
    """Return a value that JSON can hold: NaN null."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def table(scores: list[score_card.Score], method: str) -> list[str]:
    """Return the summary of a method as a table in Markdown."""
    lines = []
    for by in ("load", "burstiness", "mode", "lengths", "n"):
        for row in score_card.summary(scores, method, by):
            cells = [f"{by} {row[by]}", str(row["conditions"])]
            for quantity in score_card.QUANTITIES:
                of = row[quantity]
                middle = "-" if of["median_error"] is None else f"{100 * of['median_error']:+.1f}"
                cells.append(f"{of['within']} ({middle} %)")
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", default="lagrangian,node_work")
    parser.add_argument("--requests", type=int, default=score_card.REQUESTS_WANTED)
    parser.add_argument("--quick", action="store_true", help="n = 1 only")
    given = parser.parse_args()
    methods = given.methods.split(",")
    grid = {**score_card.GRID, **({"n": (1,)} if given.quick else {})}
    scores = []
    for number, each in enumerate(score_card.conditions(grid), 1):
        print(number, each, file=sys.stderr, flush=True)
        scores.append(score_card.score(each, methods, requests_wanted=given.requests, workers=1))
    fits = {}
    for method in methods:
        print(f"\n{method}\n" + "\n".join(table(scores, method)), file=sys.stderr, flush=True)
        # At n = 1, where the fluid limit is furthest off; heavy lengths are held out.
        small = [
            each for each in scores
            if each.condition.n == 1 and each.condition.burstiness == 1
            and each.condition.mode == score_card.NO_EVICTION
        ]  # fmt: skip
        fit = score_card.fit_capacity(small, method, lambda it: it.lengths == "heavy")
        by_load = score_card.fit_capacity(small, method, lambda it: it.load in (0.5, 0.95))
        fits[method] = {
            name: {
                "factor": f.factor, "before": f.before, "after": f.after,
                "before_fitted": f.before_fitted, "after_fitted": f.after_fitted,
                "helps": f.helps,
            }
            for name, f in (("lengths held out", fit), ("loads held out", by_load))
        }  # fmt: skip
        print(json.dumps(fits[method], indent=1), file=sys.stderr, flush=True)
    print(json.dumps(plain({"scores": [s.to_json() for s in scores], "capacity": fits}), indent=1))


if __name__ == "__main__":
    main()
