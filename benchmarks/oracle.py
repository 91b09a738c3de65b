"""Compare the vLLM engines with vLLM's own schedulers, case by case and column by column.

    bash scripts/oracle.sh
    python benchmarks/oracle.py                                   # the whole table
    python benchmarks/oracle.py --engine vllm_v1 --family case --cases 100
    python benchmarks/oracle.py --family chat --cases 1           # large: for the speed
    python benchmarks/oracle.py --case case/vllm_v1-0.33/17 --shrink --keep DIR

The first line of a family that differs is shown; ``--shrink`` makes that case small first, and
``--keep`` writes it and the logs of both sides. ``--real-only`` says what the cases cover.
CPU per step is that of schedule() alone for the real scheduler, and that of the whole run without
logs, clock included, for ours. Small cases are short for ours: the large families (chat,
chat_plain, heavy) show its speed.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "oracle"))

import our_side
from case import Case
from compare import difference
from families import COMPARED, make
from large import LARGE
from real_side import Answer, RealScheduler, RefusedError
from shrink import smaller

SHOWN = 5
"""Cases of a family whose first difference is printed."""


def main() -> None:
    """Compare what was asked for; exit status 1 if anything differs."""
    asked = _asked()
    differing = 0
    if asked.case:
        family, which, number = asked.case.split("/")
        engine, version = which.split("-")
        with RealScheduler(engine, version) as real:
            differing = _family(real, family, [int(number)], asked)
    else:
        for (engine, version), families in COMPARED.items():
            if asked.engine not in (None, engine) or asked.version not in (None, version):
                continue
            with RealScheduler(engine, version) as real:
                large = [name for name, engines in LARGE.items() if engine in engines]
                for family in (*families, *large):
                    if asked.family == family or (asked.family is None and family in families):
                        numbers = range(asked.start, asked.start + asked.cases)
                        differing += _family(real, family, numbers, asked)
    sys.exit(1 if differing else 0)


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engine", choices=["vllm_v0", "vllm_v1"])
    parser.add_argument("--version", help="0.33, 0.19, 0.6.3 or 0.5.4")
    parser.add_argument(
        "--family", help="case, case_ext, spec, pp, knobs, remote, gap, or a large one"
    )
    parser.add_argument("--cases", type=int, default=100, help="cases of each family")
    parser.add_argument("--start", type=int, default=0, help="number of the first case")
    parser.add_argument("--case", help="one case by its name")
    parser.add_argument("--shrink", action="store_true", help="make the first failing case small")
    parser.add_argument("--keep", type=Path, help="folder for that case and its logs")
    parser.add_argument("--real-only", action="store_true", help="run the real side alone")
    return parser.parse_args()


def _family(real: RealScheduler, family: str, numbers, asked: argparse.Namespace) -> int:
    """Compare cases of one family, print a line, and return how many differ."""
    before, ends, covered = time.time(), Counter(), Counter()
    steps, theirs_us, ours_us, differing = 0, 0.0, 0.0, 0
    for number in numbers:
        case = make(family, number, real.engine, real.version)
        theirs = real.run(case)
        ends[theirs.status] += 1
        rows = list(csv.DictReader(io.StringIO(theirs.decisions)))
        steps, theirs_us = steps + len(rows), theirs_us + theirs.schedule_us
        covered.update(_covers(rows, theirs))
        if asked.real_only:
            continue
        ours = _ours(case)
        if not ours.message:
            ours_us += our_side.seconds_of(case) * 1e6
        found = difference(case.name, ours, theirs) if not ours.message else ours.message
        if found:
            differing += 1
            if differing <= SHOWN:
                print(f"    {found}", flush=True)
            if differing == 1:
                _keep(case, real, asked)
    print(
        f"{real.engine} {real.version:6s} {family:9s} {len(numbers):5d} cases"
        f" {'' if asked.real_only else f'{differing:5d} differ'} {steps:8d} steps"
        f" {theirs_us / max(steps, 1):7.1f} us theirs"
        f" {'' if asked.real_only else f'{ours_us / max(steps, 1):6.2f} us ours'}"
        f" {time.time() - before:6.1f} s {dict(ends)} {dict(covered)}",
        flush=True,
    )
    return differing


def _ours(case: Case) -> Answer:
    """Our side's answer; where our engine raises, the message says so."""
    try:
        return our_side.run(case)
    except Exception as error:
        words = f"{case.name}: our engine raised {type(error).__name__}: {error}"
        return Answer("raised", "", "", message=words)


def _covers(rows: list[dict[str, str]], answer: Answer) -> Counter:
    """Say what happened in a case, once each."""
    lists = ("preempted", "swapped_in", "ignored", "aborted", "hits", "drafts")
    happened = {name for name in lists if any(row.get(name) for row in rows)}
    if any(len((row["preempted"] + " " + row["swapped_out"]).split()) > 2 for row in rows):
        happened.add("many victims")
    if any(int(row.get("n_evicted") or 0) for row in rows):
        happened.add("evicted")
    return Counter(happened)


def _keep(case: Case, real: RealScheduler, asked: argparse.Namespace) -> None:
    """Show a failing case, made small, and keep it with both sides' logs."""
    if asked.shrink:
        raised = bool(_ours(case).message)

        def fails(candidate: Case) -> bool:
            try:
                theirs = real.run(candidate)
            except RefusedError:
                return False
            ours = _ours(candidate)
            if ours.message:  # settings that we refuse are no smaller case of a wrong decision
                return raised
            return difference("", ours, theirs) is not None

        case = smaller(case, fails)
        print(f"    smallest: {case.to_json()}")
        print(f"    {_ours(case).message or difference(case.name, _ours(case), real.run(case))}")
    if asked.keep:
        asked.keep.mkdir(parents=True, exist_ok=True)
        (asked.keep / "case.json").write_text(case.to_json() + "\n")
        for side, answer in (("ours", _ours(case)), ("theirs", real.run(case))):
            (asked.keep / f"{side}_decisions.csv").write_text(answer.decisions)
            (asked.keep / f"{side}_requests.csv").write_text(answer.requests)


if __name__ == "__main__":
    main()
