"""Golden cases: what the real schedulers decided, recorded once and compared in every test run.

    bash scripts/oracle.sh
    python tests/oracle/golden.py

records them anew, byte for byte alike as long as the families and the releases stay. There is one
file per engine and version, ``golden/ENGINE-VERSION.jsonl.xz``; each line has a case and the answer
of the real scheduler. The cases of a family are the first short ones, those in which something
happens before those in which nothing does.
"""

from __future__ import annotations

import csv
import io
import json
import lzma
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from case import Case
from columns import NOT_DECIDED
from families import COMPARED, make
from real_side import Answer, RealScheduler

FOLDER = Path(__file__).parent / "golden"

CASES = {"case": 24, "case_ext": 30, "spec": 12, "pp": 12, "knobs": 12, "remote": 12, "gap": 8}
"""Cases that are recorded of each family."""

BESIDES = {("vllm_v0", "case"): (462,)}
"""Numbers of cases that are recorded too, for what hardly ever happens: a swapped request that has
grown too large to come back."""

SHORTEST, LONGEST = 10, 150
"""Steps that a recorded case has; one that does not finish may have twice as many."""

EVENTS = "preempted swapped_out swapped_in ignored finished aborted hits drafts".split()


def path_of(engine: str, version: str) -> Path:
    """Return the file of an engine and version."""
    return FOLDER / f"{engine}-{version}.jsonl.xz"


def read(engine: str, version: str) -> list[tuple[Case, Answer]]:
    """Return the golden cases of an engine and version."""
    lines = lzma.decompress(path_of(engine, version).read_bytes()).decode().splitlines()
    pairs = ((json.loads(line)["case"], json.loads(line)["answer"]) for line in lines)
    return [(Case.from_json(json.dumps(case)), Answer(**answer)) for case, answer in pairs]


def record(engine: str, version: str) -> None:
    """Run the real scheduler and write the file of an engine and version."""
    lines = []
    with RealScheduler(engine, version) as real:
        for family in COMPARED[engine, version]:
            besides = (make(family, n, engine, version) for n in BESIDES.get((engine, family), ()))
            for case, answer in chain(
                _chosen(real, family, CASES[family]),
                ((case, without_times(real.run(case))) for case in besides),
            ):
                whole = {"case": json.loads(case.to_json()), "answer": vars(answer)}
                lines.append(json.dumps(whole) + "\n")
    FOLDER.mkdir(exist_ok=True)
    path_of(engine, version).write_bytes(lzma.compress("".join(lines).encode(), preset=9))


def _chosen(real: RealScheduler, family: str, count: int) -> Iterator[tuple[Case, Answer]]:
    """The first cases that are short and show something that few of those before them showed."""
    seen: Counter[str] = Counter()
    number = 0
    while count:
        case = make(family, number, real.engine, real.version)
        number += 1
        answer = without_times(real.run(case))
        steps = answer.decisions.count("\n") - 1
        events = shows(answer)
        rare = min((seen[event] for event in events), default=count) < number / 4
        longest = LONGEST if answer.status == "finished" else 2 * LONGEST
        if SHORTEST <= steps <= longest and (rare or number > 12 * count):
            seen.update(events)
            count -= 1
            yield case, answer


def shows(answer: Answer) -> set[str]:
    """What happens in a case, and how it ends."""
    rows = list(csv.DictReader(io.StringIO(answer.decisions)))
    happens = {event for event in EVENTS if any(row.get(event) for row in rows)}
    if any(len((row["preempted"] + " " + row["swapped_out"]).split()) > 1 for row in rows):
        happens.add("several victims")
    return (happens - {"finished"}) | {answer.status}


def without_times(answer: Answer) -> Answer:
    """Return an answer without the times that its decisions took, which differ every time."""
    rows = list(csv.reader(io.StringIO(answer.decisions)))
    timed = [rows[0].index(column) for column in NOT_DECIDED]
    for row in rows[1:]:
        for place in timed:
            row[place] = ""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return Answer(answer.status, text.getvalue(), answer.requests, answer.message, answer.applied)


if __name__ == "__main__":
    for engine, version in COMPARED:
        record(engine, version)
        cases = read(engine, version)
        ends = Counter(answer.status for _, answer in cases)
        size = path_of(engine, version).stat().st_size
        print(f"{engine} {version}: {len(cases)} cases, {size} bytes, {dict(ends)}")
