"""Start a command, interrupt it at some moment, and say how it ended."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

TRACE = "arrival_time,prefill_length,decode_length\n"
GRID = (
    "kind: simulate\nbase: {num_requests: 20000}\ngrid: {load: {from: 0.1, to: 0.9, steps: 40}}\n"
)

BIG = "--num-requests 3000000 --load 0.9"
LONG = {
    "generate": "generate --num-requests 20000000 --output r.csv",
    "trace": "trace convert big.csv out.csv",
    "simulate": f"simulate {BIG} --out x",
    "simulate-state": f"simulate {BIG} --out x --save-state s.npz",
    "solve": "solve --method lagrangian --load 1.2 --horizon 1.2e7 --out x",
    "solve-work": "solve --load 0.7 --horizon 1e7 --method workload --out x",
    "solve-jax": "solve --load 0.7 --horizon 2e6 --method eulerian_jax --out x",
    "solve-scipy": "solve --load 0.7 --horizon 2e6 --method eulerian_scipy --out x",
    "compare": f"compare {BIG} --replications 500 --workers 2 --out deep/er/x",
    "compare-short": "compare --num-requests 300 --replications 4 --workers 2 --out x",
    "phase-diagram": "phase-diagram --output d",
    "analyze": "analyze --load 0.7 --solve-gradients --out x",
    "tune": 'tune max-rate --slo p99_ttft<300',
    "sweep": "sweep g.yaml --workers 2",
    "experiments": "experiments archive --output a.tar.gz",
    "calibrate-steps": "calibrate steps steps.csv --out x",
    "calibrate-run": "calibrate run run.csv --config-out c.yaml",
    "profiles": "profiles list",
    "plot": "plot done",
    "equations": "equations --mode sacrifice",
    "bench": "bench",
}  # fmt: skip
"""Every command, most with work for longer than anybody waits."""


@dataclass(frozen=True)
class Ended:
    """How an interrupted command ended.

    Parameters
    ----------
    status
        Exit status; -N for the death by a signal N.
    out, err
        What it wrote.
    seconds
        From the interrupt to the end.
    left
        Files and folders that are there and were not before.
    orphans
        Processes that it started and that are there a second later.
    """

    status: int
    out: str
    err: str
    seconds: float
    left: tuple[str, ...]
    orphans: tuple[int, ...]

    @property
    def faults(self) -> list[str]:
        """What is not clean; a command that was done before the interrupt has none."""
        if self.status == 0:
            return [] if "nterrupted" not in self.err and "Traceback" not in self.err else ["0"]
        said = [line for line in self.err.splitlines() if "interrupted" in line]
        found = {
            f"status {self.status}": self.status != 130,
            f"stderr {self.err!r}": "Traceback" in self.err
            or len(said) != 1
            or self.err.splitlines()[-1:] != said
            or not said[0].startswith("fluidserve: interrupted"),
            f"{self.seconds:.1f} s": self.seconds > 2,
            f"left {self.left}": any("partial" in n or Path(n).name[0] == "." for n in self.left),
            f"orphans {self.orphans}": bool(self.orphans),
        }
        return [what for what, wrong in found.items() if wrong]


def inputs_into(folder: Path) -> None:
    """Write the files that the commands of :data:`LONG` read."""
    (folder / "g.yaml").write_text(GRID)
    rows = "".join(f"{k},{20 + k % 90},{5 + k % 40}\n" for k in range(200_000))
    (folder / "big.csv").write_text(TRACE + rows)
    steps = (
        f"{10 + 0.02 * n + 1e-4 * kv + 0.01 * ((n * 7 + kv) % 5)},{n},{kv}\n"
        for n in range(1, 120)
        for kv in range(n * 100, n * 900, n * 40)
    )
    (folder / "steps.csv").write_text("step_time_ms,decode_tokens,kv_tokens\n" + "".join(steps))
    served = (
        f"{0.3 * k},{0.3 * k + 0.05 + 0.001 * (k % 7)},{0.3 * k + 0.05 + 0.02 * (50 + k % 90)},"
        f"{100 + k % 300},{50 + k % 90}\n"
        for k in range(3000)
    )
    head = "arrival_time,first_token_time,finish_time,prefill_length,decode_length\n"
    (folder / "run.csv").write_text(head + "".join(served))
    subprocess.run(
        [sys.executable, "-m", "fluidserve", "simulate", "--num-requests", "500", "--out",
         str(folder / "done")], cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    shutil.copytree(folder / "done", folder / "data/experiments/one")


def interrupted(
    line: str,
    after: float,
    folder: Path,
    how: int = signal.SIGINT,
    *,
    group: bool = True,
    **env: str,
) -> Ended:
    """Run a command, interrupt it and wait for its end.

    Parameters
    ----------
    line
        Words after ``fluidserve``.
    after : [seconds]
        From when the command's own first line has run; from the start of Python if negative.
    folder
        Where it runs.
    how
        Signal.
    group
        Whether all its processes get the signal, as from a terminal, or the command alone.
    **env
        More of the environment.
    """
    before = _files(folder)
    with subprocess.Popen(
        [sys.executable, "-m", "fluidserve", *line.split()], cwd=folder, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
    ) as process:  # fmt: skip
        while after >= 0 and process.poll() is None and not _catches(process.pid, signal.SIGTERM):
            time.sleep(0.0005)
        time.sleep(abs(after))
        asked = time.perf_counter()
        if process.poll() is None:
            (os.killpg if group else os.kill)(process.pid, how)
        try:
            process.wait(timeout=60)
            seconds = time.perf_counter() - asked
            out, err = process.communicate(timeout=60)
        finally:
            if process.poll() is None:
                process.kill()
    until = time.monotonic() + 1
    while (orphans := _of_session(process.pid)) and time.monotonic() < until:
        time.sleep(0.01)
    for each in orphans:
        os.kill(each, signal.SIGKILL)
    left = tuple(sorted(_files(folder) - before))
    return Ended(process.returncode, out, err, seconds, left, tuple(orphans))


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def _catches(process: int, number: int) -> bool:
    """Return whether a process has its own way with a signal."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False
    caught = next((row for row in status.splitlines() if row.startswith("SigCgt")), "SigCgt:\t0")
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


def _of_session(leader: int) -> list[int]:
    """Return the processes that a command has started and that run."""
    found = []
    for each in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = each.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == leader and fields[0] != "Z":
            found.append(int(each.parent.name))
    return found
