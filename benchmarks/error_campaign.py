"""Measure how far each method is from the engine over random scenarios, and learn from it.

    python benchmarks/error_campaign.py run --rows rows.journal --scenarios 20000
    python benchmarks/error_campaign.py run --rows rows.journal --scenarios 200     # quick
    python benchmarks/error_campaign.py fit --rows rows.journal                     # minutes
    python benchmarks/error_campaign.py judge --rows rows.journal                   # Markdown

``run`` goes on where it was interrupted, and with a higher number where it ended. ``--lengths``
adds trace files as further families of lengths; they are never fitted to. With ``--truth OLD`` only
methods are asked again, after a change of theirs; ``--engine-only`` makes such rows and asks no
method; ``--protocol saturated`` runs the tenth of the scenarios that capacities learn from. ``fit``
writes the coefficients that every answer reads its expected error from; ``judge`` prints their
coverage on scenarios that were held out, the worst first.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from ode.error_model.model import coefficients
from studies.campaign.fit import cases_of, choices, fit, judge
from studies.campaign.rows import row_of
from studies.campaign.scenarios import ENGINES, PROTOCOLS, protocol_of
from studies.sweeps import Journal, sweep
from workload import read_lengths

HOME = Path(__file__).resolve().parents[1] / "ode" / "error_model" / "coefficients.json"
SIZES = ("below 30", "30 to 300", "300 and more")
MOST_SCENARIOS = 1_000_000
"""Numbers that a journal has room for."""


def run(given: argparse.Namespace) -> None:
    """Run the scenarios that are left."""
    files = {Path(each).name.split(".")[0]: read_lengths(each) for each in given.lengths}
    identity = f"error campaign, seed {given.seed}, files {' '.join(sorted(files))}"
    before = {row["number"]: row for row in rows_in(given.truth)} if given.truth else {}
    journal = Journal(given.rows, identity, MOST_SCENARIOS)

    def told(done: int, total: int) -> None:
        print(f"{done} of {total} scenarios", file=sys.stderr, flush=True)

    try:
        sweep(
            row_of,
            (given.seed, files, before, not given.engine_only),
            _numbers(given.scenarios, given.seed, files, given.protocol),
            journal,
            workers=given.workers,
            progress=told,
        )
    finally:
        journal.close()


def _numbers(count: int, seed: int, files: Mapping[str, Any], protocol: str | None) -> list[int]:
    """Return the numbers of the scenarios of a protocol, or all."""
    numbers = range(count)
    if protocol is None:
        return [*numbers]
    return [number for number in numbers if protocol_of(number, seed, files) == protocol]


def rows_in(path: Path) -> list[Mapping[str, Any]]:
    """Return the rows of a journal, which may be growing."""
    rows: dict[int, Mapping[str, Any]] = {}
    with open(path, encoding="utf-8") as file:
        next(file)
        for line in file:
            if line.endswith("\n"):
                rows |= {int(number): row for number, row in json.loads(line)["content"]}
    return [rows[number] for number in sorted(rows)]


def learn(given: argparse.Namespace) -> None:
    """Write the coefficients; those of methods that no row is of stay as they are."""
    found = json.loads(given.out.read_text(encoding="utf-8")) if given.out.exists() else {}
    measured = [row for path in given.rows for row in rows_in(path)]
    keys, cases = zip(*sorted(cases_of(measured).items(), key=lambda each: each[0]), strict=True)
    with ProcessPoolExecutor(given.workers) as pool:
        for done, (key, entry) in enumerate(zip(keys, pool.map(fit, cases), strict=True), 1):
            engine, method, metric = key
            known = found.setdefault(engine, {}).setdefault(method, {})
            known.pop(metric, None)
            if entry is not None:
                known[metric] = entry
            print(f"{done} of {len(keys)} fits", file=sys.stderr, flush=True)
    given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def judged(given: argparse.Namespace) -> None:
    """Print coverage and error on held-out scenarios, and whom ``auto`` would have chosen."""
    rows, measured = [], [row for path in given.rows for row in rows_in(path)]
    for (engine, method, metric), cases in cases_of(measured).items():
        entry = coefficients().get(engine, {}).get(method, {}).get(metric)
        for row in judge(cases, entry) if entry else ():
            size = "all" if row["size"] is None else SIZES[row["size"]]
            rows.append((row["off"], engine, method, metric, size, row))
    print(
        "| engine | method | metric | requests that fit | cases | off | covered | half-width "
        "| trusted | off though trusted |\n|---|---|---|---|---:|---:|---:|---:|---:|---:|"
    )
    for off, engine, method, metric, size, row in sorted(rows, key=lambda each: -each[0]):
        print(
            f"| {engine} | {method} | {metric} | {size} | {row['cases']} | {off:.0%} "
            f"| {row['covers']:.0%} | {row['median_half_width']:.3f} | {row['trusted']:.0%} "
            f"| {row['trusted_and_off']:.1%} |"
        )

    print(
        "\n| engine | scenarios | within | answer by | share | off | off and outside of its "
        "interval |\n|---|---|---:|---|---:|---:|---:|"
    )
    orders = {"over_time": ("lagrangian", "node_work"), "steady": ("stationary",)}
    for engine in ENGINES:
        of_engine = [row for row in measured if row.get("engine") == engine]
        for protocol, methods in orders.items():
            for within in (0.05, 0.1, 0.2):
                for name, found in choices(of_engine, protocol, methods, within).items():
                    print(
                        f"| {engine} | {protocol} | {within:g} | {name} | {found['share']:.0%} "
                        f"| {found['off']:.1%} | {found['off_and_outside']:.1%} |"
                    )


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
