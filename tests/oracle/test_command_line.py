"""``fluidserve simulate`` writes the decisions of vLLM too, from files and flags."""

from __future__ import annotations

import csv

import golden
import our_side
import pytest
import yaml
from click.testing import CliRunner
from compare import difference
from families import COMPARED
from real_side import Answer

from fluidserve.cli import cli

EVERY = [(engine, version, f) for (engine, version), fs in COMPARED.items() for f in fs]


def requests_into(path, case):
    """Write the requests of a case as a file of this project."""
    names = "arrival_time prefill_length decode_length priority abort_time content answer_content"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names.split())
        for one in case.requests:
            cells = (one.arrival, one.prompt, one.output, one.priority)
            writer.writerow([*map(repr, cells), one.abort, one.content, one.answer])


def _spent(engine):
    """Coefficients of the law that an engine reads; the present one moves no blocks."""
    return {"d_0", "d_prefill", "d_decode", "d_kv"} | ({"d_swap"} if engine == "vllm_v0" else set())


@pytest.mark.parametrize(("engine", "version", "family"), EVERY)
def test_the_command_writes_what_vllm_decides(engine, version, family, tmp_path):
    case, theirs = next(
        (case, answer)
        for case, answer in golden.read(engine, version)
        if case.name.startswith(f"{family}/")
        and answer.status == "finished"
        and case.requests[0].arrival == 0.0  # files are read from their first arrival on
    )
    requests_into(tmp_path / "requests.csv", case)
    law = {key: time for key, time in case.batch_time.items() if key in _spent(engine)}
    config = {"engine": engine, **our_side.settings_of(case), **law}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    flags = {
        "config": "config.yaml",
        "requests": "requests.csv",
        "out": "out",
        "decision-log": "decisions.csv",
        "request-log": "requests_log.csv",
    }
    words = [word for flag, name in flags.items() for word in (f"--{flag}", tmp_path / name)]
    words += ["--log-extended"] * case.extended
    done = CliRunner().invoke(cli, ["simulate", *map(str, words)])
    assert done.exit_code == 0, done.output
    decisions, requests = (
        (tmp_path / flags[f"{log}-log"]).read_text() for log in ("decision", "request")
    )
    assert difference(case.name, Answer("finished", decisions, requests), theirs) is None
