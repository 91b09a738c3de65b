"""Measure how far each method is from the engine over random scenarios, and learn from it.

    python benchmarks/error_campaign.py run --rows rows.journal --scenarios 20000
    python benchmarks/error_campaign.py run --rows rows.journal --scenarios 200     # quick
    python benchmarks/error_campaign.py fit --rows rows.journal                     # minutes
    python benchmarks/error_campaign.py judge --rows rows.journal                   # Markdown

``run`` goes on where it was interrupted, and with a higher number where it ended. ``--lengths``
adds trace files as further families of lengths; they are never fitted to. With ``--truth OLD`` only
methods are asked again, after a change of theirs; ``--engine-only`` makes such rows and asks no
method; ``--protocol saturated`` runs the tenth of the scenarios that capacities learn from. ``fit``
writes the coefficients that every answer reads its expected error from, each with the seeds it was
learnt from; what too few rows tell of stays as it is, and is named; ``judge`` prints the tables
of the score card for scenarios that were held out, the worst first.
"""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from studies.campaign.fit import SEEDS, cases_of, fit, merge
from studies.campaign.page import tables
from studies.campaign.running import read_campaign, run_campaign
from studies.campaign.scenarios import PROTOCOLS, protocol_of
from workload import read_lengths

HOME = Path(__file__).resolve().parents[1] / "ode" / "error_model" / "coefficients.json"


def run(given: argparse.Namespace) -> None:
    """Run the scenarios that are left."""
    files = {Path(each).name.split(".")[0]: read_lengths(each) for each in given.lengths}
    before = {row["number"]: row for row in read_campaign(given.truth).rows} if given.truth else {}

    def told(done: int, total: int) -> None:
        print(f"{done} of {total} scenarios", file=sys.stderr, flush=True)

    numbers = range(given.scenarios)
    if given.protocol is not None:
        numbers = [i for i in numbers if protocol_of(i, given.seed, files) == given.protocol]
    shared = (given.seed, files, before, not given.engine_only)
    only = given.protocol
    run_campaign(given.rows, shared, numbers, only=only, workers=given.workers, told=told)


def learn(given: argparse.Namespace) -> None:
    """Write the coefficients, and say which of them stay as they are."""
    known = json.loads(given.out.read_text(encoding="utf-8")) if given.out.exists() else {}
    campaigns = [read_campaign(path) for path in given.rows]
    seeds = {each.seed for each in campaigns}
    for seed in seeds - {None, *SEEDS}:
        raise SystemExit(f"seed {seed} is for judging; fits learn from {SEEDS}")
    measured = [row for each in campaigns for row in each.rows]
    keys, cases = zip(*sorted(cases_of(measured).items(), key=lambda each: each[0]), strict=True)
    found = {}
    with ProcessPoolExecutor(given.workers) as pool:
        for done, (key, entry) in enumerate(zip(keys, pool.map(fit, cases), strict=True), 1):
            if entry is not None:
                found[key] = entry | {"seeds": sorted(each for each in seeds if each is not None)}
            print(f"{done} of {len(keys)} fits", file=sys.stderr, flush=True)
    kept = merge(known, found)
    print(f"learnt {len(found)}, kept as they were {len(kept)}:", *kept, sep="\n  ",
          file=sys.stderr)  # fmt: skip
    given.out.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


def judged(given: argparse.Namespace) -> None:
    """Print coverage and error on held-out scenarios, and whom ``auto`` would have chosen."""
    print(tables([row for path in given.rows for row in read_campaign(path).unseen]), end="")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    commands = parser.add_subparsers(required=True)
    runs = commands.add_parser("run", help="measure, resumable")
    runs.add_argument("--rows", type=Path, required=True)
    runs.add_argument("--scenarios", type=int, default=20_000)
    runs.add_argument("--seed", type=int, default=1)
    runs.add_argument("--lengths", nargs="*", default=[], help="trace or lengths-only files")
    runs.add_argument("--workers", type=int)
    runs.add_argument("--protocol", choices=PROTOCOLS, help="only scenarios of this one")
    runs.add_argument("--truth", type=Path, help="journal whose runs of the engine are taken over")
    runs.add_argument("--engine-only", action="store_true", help="ask methods later, by --truth")
    runs.set_defaults(do=run)
    fits = commands.add_parser("fit", help="learn the coefficients")
    fits.add_argument(
        "--rows", type=Path, required=True, nargs="+", help="of one or more campaigns"
    )
    fits.add_argument("--out", type=Path, default=HOME)
    fits.add_argument("--workers", type=int)
    fits.set_defaults(do=learn)
    judges = commands.add_parser("judge", help="coverage on held-out scenarios")
    judges.add_argument("--rows", type=Path, required=True, nargs="+")
    judges.set_defaults(do=judged)
    given = parser.parse_args()
    given.do(given)


if __name__ == "__main__":
    main()
