"""Run cases on a real scheduler: a case per line of stdin, an outcome per line of stdout.

    python tests/oracle/real --engine vllm_v1 --wheel DIR/vllm-0.33.0

One engine and release per process: both want the module name ``vllm``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import columns
from case import Case
from clock import Clock, Outcome
from stand_ins import make_importable


def main() -> None:
    """Answer every line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=["vllm_v0", "vllm_v1"], required=True)
    parser.add_argument("--wheel", type=Path, required=True, help="folder of an unpacked wheel")
    asked = parser.parse_args()
    os.environ.update(VLLM_CONFIGURE_LOGGING="0", VLLM_NO_USAGE_STATS="1")
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever vLLM prints is no answer
    make_importable(asked.engine, asked.wheel.resolve())
    if asked.engine == "vllm_v0":
        from v0 import V0 as Real
    else:
        from v1 import V1 as Real
    for line in sys.stdin:
        print(json.dumps(_answer(Case.from_json(line), Real)), file=answers, flush=True)


def _answer(case: Case, real: Any) -> dict:
    try:
        scheduler = real(case)
    except Exception as error:
        return {"status": "refused", "message": str(error), "decisions": "", "requests": ""}
    return _text(case, Clock(case, scheduler).run())


def _text(case: Case, outcome: Outcome) -> dict:
    extended = case.extended
    decisions = columns.DECISIONS + columns.DECISIONS_EXTENDED * extended
    requests = columns.REQUESTS + columns.REQUESTS_EXTENDED * extended
    for row in outcome.rows:  # a step in flight where the run broke off has no end of its own
        row.setdefault("t_start", None)
        row.setdefault("t_end", None)
    return {
        "status": outcome.status,
        "message": outcome.message,
        "applied": outcome.applied,
        "schedule_us": sum(row["sched_us"] for row in outcome.rows),
        "decisions": columns.text_of(decisions, outcome.rows),
        "requests": columns.text_of(requests, (record.row() for record in outcome.records)),
    }


if __name__ == "__main__":
    main()
