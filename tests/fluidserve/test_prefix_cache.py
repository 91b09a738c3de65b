"""``fluidserve prefix-cache``."""

from __future__ import annotations

import json

import pytest

from fluidserve.tables.prefix_cache import prefix_cache_table

TALK = ("prefix-cache", "--turns", 4, "--think-time", 9, "--num-requests", 400)
SERVER = (
    "--arrival-rate", 5, "--num-gpu-blocks", 900, "--d-0", 0.01, "--d-prefill", 2e-5,
    "--d-decode", 1e-5, "--d-kv", 1e-7,
)  # fmt: skip


def test_without_a_server_the_order_of_the_requests_is_looked_at(run, tmp_path):
    done = run(*TALK, "--arrival-rate", 3, "--blocks", "50,400,100000", "--picture", "hits.png")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    shares = [each["hit_share"] for each in found["points"]]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(found["hit_share_of_endless_memory"])
    assert shares[0] < shares[-1]
    assert [each["tokens"] for each in found["points"]] == [800, 6400, 1_600_000]
    assert (tmp_path / "hits.png").stat().st_size > 10_000
    table = run(*TALK, "--arrival-rate", 3, "--blocks", "50,400", "--table")
    assert "an endless memory" in table.stdout
    assert max(map(len, table.stdout.splitlines())) <= 80


def test_of_a_server_it_knows_load_and_what_running_requests_hold(run):
    done = run(*TALK, *SERVER, "--picture", "hits.png")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert any(each["blocks"] == 899 for each in found["points"])
    loads = [each["load"] for each in found["points"]]
    assert loads == sorted(loads, reverse=True)
    assert all(0 < each["held_share"] <= 1 for each in found["points"])
    table = run(*TALK, *SERVER, "--table")
    assert "* 899" in table.stdout
    assert max(map(len, table.stdout.splitlines())) <= 80


@pytest.mark.slow
def test_clients_that_wait_have_two_states(run):
    line = (
        "prefix-cache", "--turns", 4, "--think-time", 3, "--num-requests", 1500, "--closed-loop",
        *SERVER[:6], "--d-prefill", 2e-3, *SERVER[8:],
    )  # fmt: skip
    done = run(*line, "--blocks", 4000)
    assert done.exit_code == 0, done.stderr
    (found,) = json.loads(done.stdout)["states"]
    low, high = found["both_states_last"]
    assert 0 < low <= high
    assert found["with_backlog"]["hit_share"] <= found["without_backlog"]["hit_share"]
    assert run(*line, "--picture", "a.png").exit_code == 2
    assert "name it" in run(*TALK, "--closed-loop", "--arrival-rate", 5).stderr


def test_the_table_of_two_states():
    state = {"wait": 0.0, "hit_share": 0.5, "load": 0.7}
    each = {
        "blocks": 4000, "tokens": 64_000, "without_backlog": state,
        "with_backlog": state | {"hit_share": 0.0, "load": 1.1}, "both_states_last": [3.0, 4.2],
    }  # fmt: skip
    result = {"kind": "prefix_cache_states", "time_unit": "s", "states": [each],
              "workload": {"mean_arrival_rate": 3.6}}  # fmt: skip
    said = prefix_cache_table(result)
    assert "both states last from 3 to 4.2 requests/s" in said
    assert "with backlog" in said


def test_an_overload_is_warned_of(run):
    done = run(*TALK, *SERVER[2:], "--arrival-rate", 900, "--blocks", 100)
    assert done.exit_code == 0, done.stderr
    assert "more arrives than the server can do" in done.stderr


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ((), "--arrival-rate"),
        (("--blocks", "3x"), "--blocks"),
        (("--blocks", "0"), "--blocks"),
        (("--engine", "decode_node", "--arrival-rate", 1), "no prefix cache"),
        (("--load", 0.5), "--load needs a server"),
        ((*SERVER, "--blocks", 2), "the largest request"),
        ((*SERVER, "--long-prefill-token-threshold", 9), "long_prefill_token_threshold"),
        ((*SERVER, "--no-enable-prefix-caching"), "there is no cache"),
    ],
)
def test_what_is_not_answered_is_refused(run, more, said):
    done = run(*TALK, *more)
    assert done.exit_code == 2
    assert said in done.stderr


def test_requests_without_contents_are_refused(run):
    done = run("prefix-cache", "--num-requests", 20, "--arrival-rate", 1)
    assert done.exit_code == 2
    assert "in common" in done.stderr
