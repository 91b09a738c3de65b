"""Make the page of errors: how far off every method is, and whether its answers had said so.

    python benchmarks/score_card.py                        # the page, about half an hour
    python benchmarks/score_card.py --quick                # a few scenarios, printed
    python benchmarks/score_card.py --rows JOURNAL         # from rows that are there

It draws scenarios with a seed that no fit saw, asks the engine and every method, and goes on where
it was interrupted. A journal of ``error_campaign.py run`` does as well; of one that fits saw, only
scenarios that were held out are judged.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from serving import FluidServeError
from studies.campaign.fit import SEEDS
from studies.campaign.page import page
from studies.campaign.running import read_campaign, run_campaign
from workload import read_lengths

PAGE = Path(__file__).resolve().parents[1] / "docs" / "score_card.md"
SEED, SCENARIOS, FEW = 1001, 3000, 12
"""Seed that no fit saw, scenarios of the page, and of a quick one."""


def told(done: int, total: int) -> None:
    print(f"{done} of {total} scenarios", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=Path, help="make the page from this journal, run nothing")
    parser.add_argument("--journal", type=Path, default=Path("score_card.journal"))
    parser.add_argument("--scenarios", type=int, help=f"default {SCENARIOS}, --quick: {FEW}")
    parser.add_argument("--seed", type=int, help=f"default {SEED}")
    parser.add_argument("--lengths", nargs="*", help="trace or lengths-only files")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="a few scenarios; print the page")
    parser.add_argument("--out", type=Path, help="default docs/score_card.md; --quick: printed")
    given = parser.parse_args()
    drawn = ("scenarios", "seed", "lengths")
    if given.rows and (given.quick or any(getattr(given, name) is not None for name in drawn)):
        parser.error(
            "--rows takes the scenarios of its journal: no --quick, --" + ", --".join(drawn)
        )
    scenarios = (
        given.scenarios if given.scenarios is not None else FEW if given.quick else SCENARIOS
    )
    seed = SEED if given.seed is None else given.seed
    if scenarios < 1:
        parser.error("--scenarios: at least 1")
    if seed in SEEDS or seed < 0:
        parser.error(f"--seed: at least 0, and none of those that fits learn from {SEEDS}")
    try:
        if not given.rows:
            files = {Path(it).name.split(".")[0]: read_lengths(it) for it in given.lengths or ()}
            run_campaign(
                given.journal,
                (seed, files, {}, True),
                range(scenarios),
                workers=given.workers,
                told=told,
            )
        text = page(read_campaign(given.rows or given.journal))
        out = given.out or (None if given.quick else PAGE)
        if out is None:
            print(text, end="")
        else:
            out.write_text(text, encoding="utf-8")
    except FluidServeError as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"{error.filename}: {error.strerror}")


if __name__ == "__main__":
    main()
