"""Compile the engines and solvers that most tests use, by one small answer of each.

Numba keeps what it compiled beside the sources. Tests that run side by side would each compile it.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile

from click.testing import CliRunner

from fluidserve.cli import cli

FEW = "--num-requests 30 --no-verbose --no-pictures --replications 2 --workers 1 --out run"
LAW = "--num-gpu-blocks 300 --d-0 0.01 --d-decode 1e-4 --d-kv 1e-7 --d-prefill 1e-4"
LINES = (
    f"compare {FEW} --load 0.9 --methods lagrangian,node_work",
    f"compare {FEW} --engine vllm_v1 {LAW} --arrival-rate 10",
    f"compare {FEW} --engine vllm_v0 {LAW} --arrival-rate 10",
)


def answer(line: str) -> str:
    """Run a line in a folder that is thrown away; return what went wrong."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        done = CliRunner().invoke(cli, line.split())
        os.chdir("/")
    return "" if done.exit_code == 0 else f"fluidserve {line}: {done.stderr}{done.exception or ''}"


def main() -> None:
    """Run every line, on as many processes as the tests."""
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        failed = list(filter(None, pool.map(answer, LINES, chunksize=1)))
    if failed:
        sys.exit("\n".join(failed))


if __name__ == "__main__":
    main()
