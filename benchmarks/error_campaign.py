"""Measure how far each method is from the engine over random scenarios, and learn from it.

    python benchmarks/error_campaign.py run --rows rows.journal --scenarios 20000
    python benchmarks/error_campaign.py run --rows rows.journal --scenarios 200     # quick

``run`` goes on where it was interrupted, and with a higher number where it ended. ``--lengths``
adds trace files as further families of lengths; they are never fitted to.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from studies.campaign.rows import row_of
from studies.sweeps import Journal, sweep
from workload import read_lengths

MOST_SCENARIOS = 1_000_000
"""Numbers that a journal has room for."""


def run(given: argparse.Namespace) -> None:
    """Run the scenarios that are left."""
    files = {Path(each).name.split(".")[0]: read_lengths(each) for each in given.lengths}
    identity = f"error campaign, seed {given.seed}, files {' '.join(sorted(files))}"
    journal = Journal(given.rows, identity, MOST_SCENARIOS)

    def told(done: int, total: int) -> None:
        print(f"{done} of {total} scenarios", file=sys.stderr, flush=True)

    try:
        sweep(
            row_of, (given.seed, files), range(given.scenarios), journal, workers=given.workers,
            progress=told,
        )  # fmt: skip
    finally:
        journal.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    runs = commands.add_parser("run", help="measure, resumable")
    runs.add_argument("--rows", type=Path, required=True)
    runs.add_argument("--scenarios", type=int, default=20_000)
    runs.add_argument("--seed", type=int, default=1)
    runs.add_argument("--lengths", nargs="*", default=[], help="trace or lengths-only files")
    runs.add_argument("--workers", type=int)
    runs.set_defaults(do=run)
    given = parser.parse_args()
    given.do(given)


if __name__ == "__main__":
    main()
