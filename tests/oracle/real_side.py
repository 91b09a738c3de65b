"""The real schedulers as a service: give it a case, get back everything that was decided.

``scripts/oracle.sh`` fetches what is needed. ``FLUIDSERVE_ORACLE_DIR`` says where, if it is not in
the folder of the user's cache.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from case import RELEASES, Case

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LONGEST = 120.0
"""Most seconds that one case may take, before its process is ended."""


@dataclass(frozen=True)
class Answer:
    """What one side decided on a case, as CSV text, and how the run ended."""

    status: str
    decisions: str
    requests: str
    message: str = ""
    applied: int | None = None
    """Steps whose output was applied; the rows after them are of steps that never ended."""
    schedule_us: float = 0.0

    @property
    def is_cut(self) -> bool:
        """Whether the run broke off, so that only what was decided until then counts."""
        return self.status not in ("finished", "stuck")


def folder() -> Path:
    """Return where the real schedulers are, or would be."""
    if given := os.environ.get("FLUIDSERVE_ORACLE_DIR"):
        return Path(given)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "fluidserve" / "oracle"


def is_there() -> bool:
    """Return whether every release has been fetched."""
    wheels = [folder() / f"vllm-{release}" for release in RELEASES.values()]
    return (folder() / "venv").is_dir() and all(wheel.is_dir() for wheel in wheels)


class RefusedError(ValueError):
    """vLLM refuses the settings of a case."""


class RealScheduler:
    """A process that runs the scheduler of one release; use it in a ``with`` statement."""

    def __init__(self, engine: str, version: str) -> None:
        self.engine, self.version = engine, version
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> RealScheduler:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None

    def run(self, case: Case) -> Answer:
        """Run one case; a scheduler that raises or waits for ever is an answer too."""
        process = self.process = self.process or self._start()
        watchdog = threading.Timer(LONGEST, process.kill)
        watchdog.start()
        try:
            process.stdin.write(case.to_json() + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            watchdog.cancel()
        if not line:
            self.close()
            raise RuntimeError(f"the real scheduler's process ended on case {case.name}")
        answer = Answer(**json.loads(line))
        if answer.status == "refused":
            raise RefusedError(f"case {case.name}: vLLM refuses the settings: {answer.message}")
        if answer.status == "raised:StandInUsedError":
            raise RuntimeError(f"case {case.name}: a decision rests on a stand-in {answer.message}")
        return answer

    def _start(self) -> subprocess.Popen[str]:
        if not is_there():
            raise FileNotFoundError(f"no real schedulers in {folder()}: run scripts/oracle.sh")
        wheel = folder() / f"vllm-{RELEASES[self.engine, self.version]}"
        command = [
            str(folder() / "venv" / "bin" / "python"),
            str(HERE / "real"),
            *("--engine", self.engine, "--wheel", str(wheel)),
        ]
        clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=clean,
        )
