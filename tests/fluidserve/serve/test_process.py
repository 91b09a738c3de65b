"""The command as a process: it listens, outlives ``kill -9``, bears bad clients, and ends well."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from urllib.parse import urlsplit

import httpx2
import pytest
from toy_service import batch, request, sent

pytestmark = pytest.mark.slow

FLEET = (
    "--types", "(20,10,1);(60,25,1);(120,40,1)", "--time-unit", "s", "--d-0", "0.01", "--d-1",
    "1e-6", "--M-total", "20000", "--B", "2000", "--replicas", "2",
)  # fmt: skip


@contextmanager
def served(*options, **environment):
    """Start the command on a free port; yield the process and a client of it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "fluidserve", "serve", *FLEET, "--port", "0", *map(str, options)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | environment,
    )  # fmt: skip
    try:
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:"), process.stderr.read()
        with httpx2.Client(base_url=address, timeout=30) as client:
            yield process, client
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def ended(process):
    process.send_signal(signal.SIGTERM)
    status = process.wait(timeout=20)
    return status, process.stderr.read()


def predictions(client):
    done = client.post("/v1/predict", json={"request_meta": request(99, 80), "ts": 0.5})
    assert done.status_code == 200, done.text
    return done.json()


def test_it_goes_on_where_it_was_killed(tmp_path):
    state = tmp_path / "state.npz"
    with served("--state", state, "--snapshot-every", 0.1) as (process, client):
        client.post("/v1/enqueue_request", json=[sent(k, k % 2, 0.01 * k) for k in range(40)])
        report = batch(0, end=0.42, started=list(range(0, 30, 2)), decode_len=15)
        assert client.post("/v1/sync_batch_result", json=report).json()["applied"] == 1
        before = predictions(client)
        first, second = before["predictions"]
        assert first["ttft"] != second["ttft"] and min(first["e2el"], second["e2el"]) > 0.1
        at = state.stat().st_mtime_ns
        client.post("/v1/enqueue_request", json=sent(70, 0, 0.45))
        before = predictions(client)
        while state.stat().st_mtime_ns == at:
            time.sleep(0.02)
        time.sleep(0.3)  # a second write, should the first have been under way
        process.kill()
        process.wait()
    with served("--state", state) as (process, client):
        assert client.get("/healthz").json()["restored"] is True
        assert predictions(client) == before
        assert client.post("/v1/sync_batch_result", json=report).json()["duplicate"] == 1
        client.post("/v1/enqueue_request", json=sent(71, 1, 0.46))
        after = predictions(client)
        status, said = ended(process)
        assert status == 0 and "Traceback" not in said
    with served("--state", state) as (process, client):  # the end has kept the last of it
        assert predictions(client) == after


def test_what_is_learnt_and_believed_outlives_a_kill(tmp_path):
    state = tmp_path / "state.npz"
    options = ("--reports", "seldom", "--corrector", "--state", state)
    with served(*options, "--snapshot-every", 0.1) as (process, client):
        for k in range(60):
            now = 3.0 * k
            ask = {"request_meta": request(k), "ts": now, "instance_id": 0}
            (said,) = client.post("/v1/predict", json=ask).json()["predictions"]
            client.post("/v1/enqueue_request", json=[sent(k, 0, now), sent(1000 + k, 1, now)])
            end = now + 1.5 * said["ttft"]
            client.post("/v1/sync_batch_result", json=batch(9 * k, end=end, started=[k]))
            end = now + 1.3
            client.post("/v1/sync_batch_result", json=batch(9 * k + 8, end=end, finished=[k]))
        learnt = client.get("/v1/corrections").json()
        used = [each for each in learnt["corrections"] if each["is_on"]]
        assert used and {each["instance"] for each in learnt["corrections"]} == {0}
        ask = {"request_meta": request(99, 80), "ts": 180.5}
        before = client.post("/v1/predict", json=ask).json()
        left = metric(client, "left_unheard_total")
        assert left > 40  # of instance 1 nobody has told anything
        time.sleep(0.5)
        process.kill()
        process.wait()
    with served(*options) as (process, client):
        assert client.get("/healthz").json()["restored"] is True
        assert client.get("/v1/corrections").json() == learnt
        assert client.post("/v1/predict", json=ask).json() == before
        assert metric(client, "left_unheard_total") == left
        assert ended(process)[0] == 0
    line = [
        sys.executable,
        "-m",
        "fluidserve",
        "serve",
        *FLEET,
        "--port",
        "0",
        "--state",
        str(state),
    ]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and not done.stdout and "report seldom" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def metric(client, name):
    """Return a metric without labels."""
    lines = client.get("/metrics").text.splitlines()
    (found,) = [line for line in lines if line.startswith(f"fluidserve_{name} ")]
    return float(found.rpartition(" ")[2])


def raw(client, head, *, wait=10.0):
    """Send bytes as they are; return what comes back until the server closes, and how long."""
    address = urlsplit(str(client.base_url))
    with socket.create_connection((address.hostname, address.port), timeout=wait) as connection:
        began = time.monotonic()
        answer = b""
        try:
            connection.sendall(head)
            while part := connection.recv(1 << 16):
                answer += part
        except ConnectionError:
            pass
        return answer, time.monotonic() - began


def test_bad_clients_get_errors_and_the_others_answers():
    with served("--patience", 0.5, "--max-in-flight", 4) as (process, client):
        answer, seconds = raw(client, b"POST /v1/predict HTTP/1.1\r\nHost: x\r\n")
        assert answer == b"" and 0.3 < seconds < 5  # a head that never ends
        answer, seconds = raw(client, b"")
        assert answer == b"" and 0.3 < seconds < 5  # nothing at all
        head = b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        answer, seconds = raw(client, head + b"Content-Length: 50\r\n\r\n{")
        assert answer.startswith(b"HTTP/1.1 408 ") and 0.3 < seconds < 5
        answer, _ = raw(client, head + b"Content-Length: 10000000\r\n\r\n" + b"x" * 10_000_000)
        assert not answer or answer.startswith(b"HTTP/1.1 413 ")
        answer, _ = raw(client, b"\x00\x01 nonsense\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 400 ")
        answer, seconds = raw(client, b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 100_000)
        assert seconds < 5
        done = client.post("/v1/predict", content=b" " * 10_000_000,
                           headers={"content-type": "application/json"})  # fmt: skip
        assert done.status_code == 413
        assert predictions(client)["time_unit"] == "s"
        assert client.get("/metrics").text.count("fluidserve_in_flight 1.0") == 1
        status, said = ended(process)
        assert status == 0 and "Traceback" not in said, said


def test_overload_is_told_and_nothing_else_fails():
    with served("--max-in-flight", 2, "--patience", 5) as (_, client):
        address = urlsplit(str(client.base_url))
        head = b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        body = json.dumps({"request_meta": request(1), "ts": 0.0}).encode()
        held = [socket.create_connection((address.hostname, address.port)) for _ in range(2)]
        for each in held:
            each.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body))
        time.sleep(0.3)
        refused = client.post("/v1/predict", content=body,
                              headers={"content-type": "application/json"})  # fmt: skip
        assert refused.status_code == 429 and refused.headers["retry-after"] == "1"
        assert client.get("/healthz").status_code == 200
        for each in held:
            each.sendall(body)
            assert each.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
            each.close()
        assert predictions(client)


def test_a_token_of_the_environment_is_asked_for():
    token = "a-token-of-the-environment"
    with served(FLUIDSERVE_TOKEN=token) as (_, client):
        assert client.get("/status").status_code == 401
        found = client.get("/status", headers={"authorization": f"Bearer {token}"})
        assert found.status_code == 200
