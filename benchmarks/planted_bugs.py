"""Plant bugs in a copy of the vLLM engines, one at a time, and count the golden cases that notice.

    python benchmarks/planted_bugs.py
    python benchmarks/planted_bugs.py --only "release order,victim"

The column of the free queue's checksum is left out: a wrong order has to show in a decision. A bug
that no case notices makes the exit status 1. Each takes half a minute, most of it to compile.
"""

from __future__ import annotations

import argparse
import csv
import io
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("serving", "discrete", "tests/oracle", "benchmarks/planted_bugs.py")
LONGEST = 150
"""Most seconds for the golden cases: a bug may well make an engine run for ever."""


@dataclass(frozen=True)
class Bug:
    """A change of one place in one file of an engine."""

    name: str
    engine: str
    file: str
    right: str
    wrong: str


POOL, SCHEDULE = "discrete/vllm_v1/pool.py", "discrete/vllm_v1/schedule.py"
V0_SCHEDULE, V0_BLOCKS = "discrete/vllm_v0/schedule.py", "discrete/vllm_v0/blocks.py"
V0_SETTLE = "discrete/vllm_v0/settle.py"
BUGS = (
    Bug(
        "release order", "vllm_v1", POOL,
        "for i in range(q.blocks - 1, -1, -1):", "for i in range(q.blocks):",
    ),
    Bug(
        "blocks without a name at the end", "vllm_v1", POOL,
        "if here.chain == NOBODY and not s.free_to_tail:",
        "if here.chain == NOBODY and s.free_to_tail:",
    ),
    Bug(
        "last token", "vllm_v1", POOL,
        "min((q.length - 1) // s.block_size,", "min(q.length // s.block_size,",
    ),
    Bug(
        "caching time", "vllm_v1", SCHEDULE,
        "    cache(s, q, min(computed + tokens, q.length))\n", "    cache(s, q, computed)\n",
    ),
    Bug(
        "idle blocks", "vllm_v1", POOL,
        "idle += block(s, b).references == 0", "idle += block(s, b).references < 0",
    ),
    Bug(
        "newest of equal blocks", "vllm_v1", POOL,
        "b = first_alike(s, chain_of(s, q, i)).value\n        here",
        "b = last_alike(s, chain_of(s, q, i)).value\n        here",
    ),
    Bug("victim", "vllm_v1", SCHEDULE, "worst = s.running - 1", "worst = max(0, s.running - 2)"),
    Bug(
        "victim at a tie", "vllm_v1", SCHEDULE,
        "arrival_time(s, r) > arrival_time(s, w)", "arrival_time(s, r) >= arrival_time(s, w)",
    ),
    Bug(
        "no watermark", "vllm_v1", SCHEDULE,
        "(s.watermark_blocks if s.running > 0 else 0)", "0 * s.watermark_blocks",
    ),
    Bug(
        "watermark for the first", "vllm_v1", SCHEDULE,
        "(s.watermark_blocks if s.running > 0 else 0)", "s.watermark_blocks",
    ),
    Bug(
        "admission after a preemption", "vllm_v1", SCHEDULE,
        "    if preempted == 0:\n", "    if preempted < 2:\n",
    ),
    Bug(
        "threshold of a lone request", "vllm_v1", SCHEDULE,
        "if eligible <= 1 and not s.lone_threshold:", "if eligible <= 1 and s.lone_threshold:",
    ),
    Bug(
        "gap for empty steps", "vllm_v1", "discrete/vllm_v1/kernel.py",
        "(s.cpu_gap if duration > 0 else 0.0)", "s.cpu_gap",
    ),
    Bug(
        "victim of V0", "vllm_v0", V0_SCHEDULE,
        "victim = running(s, end).value\n", "victim = running(s, first).value\n"
        "                running(s, first).value = running(s, end).value\n",
    ),
    Bug(
        "order of the swapped", "vllm_v0", V0_SETTLE,
        "r = entry(s, VICTIMS, i).value",
        "r = entry(s, VICTIMS, count_of(s, VICTIMS).value - 1 - i).value",
    ),
    Bug(
        "no watermark in V0", "vllm_v0", V0_BLOCKS,
        "return free_blocks(s) - need >= s.watermark_blocks", "return free_blocks(s) >= need",
    ),
    Bug(
        "one block too few at the watermark", "vllm_v0", V0_BLOCKS,
        "- need >= s.watermark_blocks", "- need > s.watermark_blocks",
    ),
    Bug(
        "room in the last block", "vllm_v0", V0_BLOCKS,
        "if s.is_old or q.decodes or q.length % s.block_size != 0:",
        "if s.is_old or _slots(q) % s.block_size == 0:",
    ),
    Bug(
        "blocks to move", "vllm_v0", V0_BLOCKS,
        "return blocks_to_go_on(s, q) + _slots(q) // s.block_size", "return q.blocks",
    ),
    Bug(
        "blocks to move in 0.5.4", "vllm_v0", V0_BLOCKS,
        "return q.blocks + (1 if back else 0)", "return q.blocks",
    ),
    Bug(
        "swap-in after a preemption", "vllm_v0", V0_SCHEDULE,
        "if count_of(s, VICTIMS).value == 0:", "if count_of(s, VICTIMS).value < 2:",
    ),
    Bug(
        "admission beside the swapped", "vllm_v0", V0_SCHEDULE,
        "if not s.chunked and s.swapped == 0:", "if not s.chunked:",
    ),
    Bug(
        "running order of 0.5.4", "vllm_v0", V0_SCHEDULE,
        "if s.chunked and not s.is_old:", "if s.chunked:",
    ),
    Bug(
        "seats with chunked prefill", "vllm_v0", V0_SCHEDULE,
        "s.max_num_seqs if s.chunked else s.max_num_seqs - s.running", "s.max_num_seqs - s.running",
    ),
    Bug(
        "what is too long for a step", "vllm_v0", V0_SCHEDULE,
        "if tokens > s.longest_prefill or never_fits(s, r):", "if never_fits(s, r):",
    ),
    Bug(
        "blocks of the lost", "vllm_v0", V0_SCHEDULE,
        "            s.lost += 1\n",
        "            s.lost += 1\n            s.cpu_used -= q.blocks\n",
    ),
    Bug(
        "a CPU that is just large enough", "vllm_v0", V0_SCHEDULE,
        "blocks_to_move(s, q, False) > s.num_cpu_blocks",
        "blocks_to_move(s, q, False) >= s.num_cpu_blocks",
    ),
)  # fmt: skip


def main() -> None:
    """Plant every bug that was asked for and print who noticed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="names of bugs, comma-separated")
    parser.add_argument("--notice", metavar="ENGINE", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.notice:
        _notice(asked.notice)
        return
    wanted = asked.only.split(",") if asked.only else [bug.name for bug in BUGS]
    if unknown := set(wanted) - {bug.name for bug in BUGS}:
        parser.error(f"no such bug: {', '.join(sorted(unknown))}")
    unnoticed = 0
    for bug in BUGS:
        if bug.name in wanted:
            noticed = _planted(bug)
            unnoticed += not noticed
            print(f"{bug.engine} {bug.name}: {noticed or 'NOT NOTICED'}", flush=True)
    sys.exit(1 if unnoticed else 0)


def _planted(bug: Bug) -> str:
    """Return what the golden cases say of a copy with the bug; nothing if they say nothing."""
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name)
        for part in COPIED:
            if (ROOT / part).is_dir():
                shutil.copytree(ROOT / part, copy / part)
            else:
                (copy / part).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / part, copy / part)
        text = (copy / bug.file).read_text()
        if text.count(bug.right) != 1:
            raise SystemExit(f"{bug.name}: {text.count(bug.right)} places in {bug.file}, not one")
        (copy / bug.file).write_text(text.replace(bug.right, bug.wrong))
        command = [sys.executable, "benchmarks/planted_bugs.py", "--notice", bug.engine]
        try:
            done = subprocess.run(
                command, cwd=copy, capture_output=True, text=True, timeout=LONGEST, check=False
            )
        except subprocess.TimeoutExpired:
            return f"no end within {LONGEST} s"
    if done.returncode:
        return f"exit status {done.returncode}: {done.stderr.strip().splitlines()[-1:]}"
    return done.stdout.strip()


def _notice(engine: str) -> None:
    """Compare the golden cases of an engine and print how many differ and where first."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "oracle")]
    import golden
    import our_side
    from compare import difference

    differing: Counter[str] = Counter()
    first = None
    for which, version in golden.COMPARED:
        for case, theirs in golden.read(which, version) if which == engine else ():
            ours = our_side.run(case)
            found = difference(case.name, _without_checksum(ours), _without_checksum(theirs))
            if found:
                differing[f"{case.name.split('/')[0]} {version}"] += 1
                first = first or found
    if differing:
        print(", ".join(f"{count} of {family}" for family, count in differing.items()), "|", first)


def _without_checksum(answer):
    rows = list(csv.reader(io.StringIO(answer.decisions)))
    kept = [place for place, column in enumerate(rows[0]) if column != "pool_crc"]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([row[place] for place in kept] for row in rows)
    return replace(answer, decisions=text.getvalue())


if __name__ == "__main__":
    main()
