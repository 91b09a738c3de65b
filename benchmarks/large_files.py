"""Time and peak memory of commands on a large request file: ``python benchmarks/large_files.py``.

The file is made here, with lognormal lengths (hundreds of thousands of distinct pairs at 10^6
requests). Each command runs in a process of its own, compiled code from the cache.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from serving import RequestTable
from workload import write_requests

NODE = ["--model", "meta-llama/Llama-3.1-8B", "--hardware", "H100", "--load", "0.8"]
COMMANDS = {
    "trace convert": ["trace", "convert", "{file}", "{out}.csv"],
    "solve": ["solve", "--requests", "{file}", *NODE, "--out", "{out}"],
    "simulate": ["simulate", "--requests", "{file}", *NODE, "--out", "{out}"],
    "analyze": ["analyze", "--requests", "{file}", *NODE, "--out", "{out}"],
    "compare": [
        "compare", "--requests", "{file}", *NODE, "--out", "{out}", "--replications", "2",
        "--workers", "1",
    ],
}  # fmt: skip


def requests_of(size: int) -> RequestTable:
    rng = np.random.default_rng(7)
    return RequestTable.validated(
        np.cumsum(rng.exponential(0.1, size)),
        np.clip(np.rint(rng.lognormal(np.log(900), 1.0, size)), 1, 12_000),
        np.clip(np.rint(rng.lognormal(np.log(150), 0.9, size)), 1, 2_000),
    )


def measured(arguments: list[str], log: Path) -> tuple[float, float, float]:
    """Return wall time [s], processor time [s] and peak memory [MB] of a command."""
    start = time.perf_counter()
    with log.open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "fluidserve", *arguments], stdout=said, stderr=said
        )
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{arguments[0]} failed:\n{log.read_text()}")
    wall = time.perf_counter() - start
    return wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    given = parser.parse_args()
    print("| command | requests | wall [s] | processor [s] | peak memory [MB] |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / "small.csv"
        write_requests(requests_of(2_000), small)
        for name in given.commands:  # compile what is not in the cache yet
            run(name, small, folder)
        for size in given.requests:
            file = Path(folder) / "requests.csv"
            write_requests(requests_of(size), file)
            for name in given.commands:
                wall, busy, memory = run(name, file, folder)
                print(
                    f"| `{name}` | {size:,} | {wall:.1f} | {busy:.1f} | {memory:.0f} |", flush=True
                )


def run(name: str, file: Path, folder: str) -> tuple[float, float, float]:
    out = str(Path(folder) / name.replace(" ", "_"))
    arguments = [each.format(file=file, out=out) for each in COMMANDS[name]]
    return measured(arguments, Path(folder) / "log.txt")


if __name__ == "__main__":
    main()
