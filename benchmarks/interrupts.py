"""Interrupt every command at random moments and count the ends that are not clean.

    python benchmarks/interrupts.py --count 120

Half of them compile their kernels afresh. A clean end is one line on stderr and exit status 130,
within 2 seconds, with no process and no partial file left over. Linux only: it reads /proc.
"""

from __future__ import annotations

import argparse
import collections
import random
import shutil
import signal
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "references"))

from interrupted import LONG, inputs_into, interrupted


def main() -> None:
    """Run and print one line per interrupt and a summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=120, help="interrupts")
    parser.add_argument("--longest", type=float, default=8.0, help="latest moment [s]")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default=",".join(LONG), help="commands, comma-separated")
    parser.add_argument("--from-exec", action="store_true", help="Python's own start included")
    asked = parser.parse_args()
    chance, names = random.Random(asked.seed), asked.only.split(",")
    slowest, count, faulty = 0.0, collections.Counter(), 0
    with tempfile.TemporaryDirectory() as name:
        folder, cache = Path(name) / "work", Path(name) / "cache"
        folder.mkdir()
        inputs_into(folder)
        for number in range(asked.count):
            command = names[number % len(names)]
            after = asked.longest * chance.random() ** 2
            how = chance.choice([signal.SIGINT, signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
            group, cold = chance.random() < 0.7, chance.random() < 0.5
            shutil.rmtree(cache, ignore_errors=True)
            env = {"NUMBA_CACHE_DIR": str(cache)} if cold else {}
            when = -after if asked.from_exec else after
            ended = interrupted(LONG[command], when, folder, how, group=group, **env)
            count["done before" if ended.status == 0 else "interrupted"] += 1
            slowest = max(slowest, ended.seconds if ended.status else 0.0)
            faulty += bool(ended.faults)
            print(
                f"{number:4d} {command:16s} {after:5.2f} s {how.name:8s}",
                f"{'cold' if cold else 'warm'} {'group' if group else 'alone'}:",
                f"{ended.status} in {ended.seconds:.2f} s",
                *ended.faults,
                flush=True,
            )
            _clear(folder, ended.left)
    print(dict(count), f"not clean: {faulty}", f"slowest end {slowest:.2f} s")
    sys.exit(1 if faulty else 0)


def _clear(folder: Path, left: tuple[str, ...]) -> None:
    for name in left:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
