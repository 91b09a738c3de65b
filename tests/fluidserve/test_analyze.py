"""``fluidserve analyze``: its JSON, its page, and what it says of wrong input."""

from __future__ import annotations

import json

import pytest

KEYS = {
    "load", "rho", "capacity", "mean_arrival_rate", "regime", "equilibrium", "moments",
    "certificate",
    "metrics", "latencies_are", "gradients", "warnings",
}  # fmt: skip


def test_json_and_page(run, tmp_path):
    done = run("analyze", "--load", "0.8", "--out", str(tmp_path / "a"))
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.keys() >= KEYS
    assert found["load"] == pytest.approx(0.8)
    assert found["equilibrium"].keys() == {
        "tau", "batch_tokens", "running", "running_by_class", "decode_time",
        "decode_time_by_class", "wait",
    }  # fmt: skip
    assert found["certificate"].keys() >= {
        "stable", "max_root", "ode_blind", "cycle_loss", "theta_sac",
    }  # fmt: skip
    assert found["certificate"]["theta_sac"] is None
    for name in ("ttft", "e2el"):
        p50, p95, p99 = (found["metrics"][f"p{q}_{name}"] for q in (50, 95, 99))
        assert 0 < p50 < p95 < p99
    page = (tmp_path / "a" / "analysis.html").read_text(encoding="utf-8")
    assert "What a request will see" in page and "data:image/png" in page
    summary = json.loads((tmp_path / "a" / "summary.json").read_text(encoding="utf-8"))
    assert summary["metrics"] == found["metrics"]


def test_check_one_of_the_model(run, tmp_path):
    """p = 50, D = 20, d_0 = 1, d_1 = 1e-3, lambda = .495868: tau* = 2.5, B* = 1500."""
    done = run(
        "analyze", "--types", "(50,20,0.495868)", "--B", "none", "--M-total", "100000",
        "--out", str(tmp_path / "a"),
    )  # fmt: skip
    found = json.loads(done.stdout)["equilibrium"]
    assert found["tau"] == pytest.approx(2.5, abs=1e-3)
    assert found["batch_tokens"] == pytest.approx(1500, abs=1)
    assert found["decode_time"] == pytest.approx(52.846, abs=0.01)
    assert found["wait"] == pytest.approx(1.2928, abs=1e-3)


def test_overload_says_so(run, tmp_path):
    done = run("analyze", "--load", "1.2", "--horizon", "1000", "--out", str(tmp_path / "a"))
    found = json.loads(done.stdout)
    assert found["equilibrium"] is None and found["rho"] is None
    assert found["regime"] == "backlogged"
    assert found["latencies_are"].startswith("of all arrivals in [0, 1000)")
    assert any("no healthy equilibrium" in line for line in found["warnings"])


def test_a_trace_is_analyzed_over_its_arrivals(run, tmp_path):
    requests = tmp_path / "requests.csv"
    rows = [f"{i * 7.5},{20 + i % 50},{10 + i % 30}" for i in range(200)]
    requests.write_text("arrival_time,prefill_length,decode_length\n" + "\n".join(rows) + "\n")
    done = run("analyze", "--requests", str(requests), "--out", str(tmp_path / "a"))
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert any("Poisson" in line for line in found["warnings"])


def test_an_unmodelled_policy_is_one_line(run, tmp_path):
    done = run("analyze", "--queue-policy", "SJF", "--out", str(tmp_path / "a"))
    assert done.exit_code == 2
    assert len(done.stderr.strip().splitlines()) == 1 and "--approximate" in done.stderr
    assert not (tmp_path / "a").exists()


def test_what_moves_a_server_is_in_json_page_and_table(run, tmp_path):
    server = ["--engine", "vllm_v1", "--num-gpu-blocks", "20000", "--max-num-seqs", "64", "--d-0",
              "0.01", "--d-decode", "1e-4", "--d-kv", "1e-7", "--d-prefill", "1e-4"]  # fmt: skip
    done = run("analyze", *server, "--load", "0.5", "--out", str(tmp_path / "a"))
    assert done.exit_code == 0, done.stderr
    moved = json.loads(done.stdout)["gradients"]["closed_form"]
    assert moved["derivative"].keys() >= {"capacity", "ttft", "tpot", "e2el"}
    # a law without an offset but d_0: all times together move the capacity by their sum, -1
    law = sum(moved["elasticity"]["capacity"][name] for name in
              ("d_0", "d_decode", "d_kv", "d_prefill"))  # fmt: skip
    assert law == pytest.approx(-1.0, rel=1e-6)
    assert moved["elasticity"]["capacity"]["max_num_seqs"] > 0
    assert moved["elasticity"]["ttft"]["arrival_rate"] > 0
    page = (tmp_path / "a" / "analysis.html").read_text()
    assert "What moves capacity and equilibrium" in page and "max_num_seqs" in page
    shown = run("analyze", *server, "--load", "0.5", "--table", "--out", str(tmp_path / "b"))
    assert "capacity by +1 % of" in shown.stdout
    node = run("analyze", "--load", "0.5", "--out", str(tmp_path / "c"))
    assert "closed_form" not in json.loads(node.stdout)["gradients"]
