"""Load on ``fluidserve serve`` from another process: predictions per second and latencies.

Starts the service, tells it of a fleet at work, and calls it over raw connections that each send
the next call when they have the answer to the last. Prints one line per case. The service says in
``Server-Timing`` how long a call took from its complete body to its answer, and how much of this it
computed; the client's latencies have the wait for the other connections in them as well, and the
client's own work. ``per core`` is predictions over the CPU time of the whole service, connections
included: what one core of its own would do.

    python benchmarks/serve_load.py --seconds 10
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from given import positive, run, whole

from serving import FluidServeError

CONFIG = Path(__file__).parents[1] / "config" / "llama8b_decode_node.yaml"
FLEET = ("--config", str(CONFIG), "--scenario", "normal")


def message(path: str, body: object) -> bytes:
    """Return a call as it goes over the wire."""
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


async def answered(reader: asyncio.StreamReader) -> tuple[int, float, bytes]:
    """Return status, service time [ms] and body of an answer."""
    head = await reader.readuntil(b"\r\n\r\n")
    status, length, taken = int(head[9:12]), 0, 0.0
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
        elif name.lower() == b"server-timing":
            taken = float(value.rpartition(b"=")[2])  # of the CPU, which stands last
    return status, taken, await reader.readexactly(length)


async def call(port: int, path: str, body: object) -> bytes:
    """Send one call and return the body of its answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(message(path, body))
    status, _, content = await answered(reader)
    writer.close()
    assert status == 200, (status, content)
    return content


async def at_work(port: int, instances: int, each: int) -> None:
    """Tell the service of a fleet on which ``each`` requests run and one waits."""
    for i in range(instances):
        sent = [
            {"instance_id": i, "ts": 0.001 * k,
             "request_meta": {"request_id": 1000 * i + k, "prefill_length": 40 + k}}
            for k in range(each + 1)
        ]  # fmt: skip
        await call(port, "/v1/enqueue_request", sent)
        started = [1000 * i + k for k in range(each)]
        trace = {"batch_id": 0, "end": 0.5, "duration": 0.02, "decode_len": each}
        report = {"instance_id": i, "batch_trace": {**trace, "started": started}}
        await call(port, "/v1/sync_batch_result", report)


async def load(port: int, content: bytes, connections: int, seconds: float) -> dict[str, list]:
    """Call from so many connections for so long; return latencies and service times [ms]."""
    found: dict[str, list] = {"latency": [], "service": [], "status": []}
    end = time.perf_counter() + seconds

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (began := time.perf_counter()) < end:
            writer.write(content)
            status, taken, _ = await answered(reader)
            found["latency"].append(1e3 * (time.perf_counter() - began))
            found["service"].append(taken)
            found["status"].append(status)
        writer.close()

    await asyncio.gather(*(client() for _ in range(connections)))
    return found


def at(values: list[float], share: float) -> float:
    """Return a quantile."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def cases(instances: int) -> dict[str, tuple[bytes, int, tuple[int, ...]]]:
    """Return calls by name: the call, predictions in it, and connections to try."""
    one = {"request_id": 10**9, "prefill_length": 80}
    ask = {"request_meta": one, "ts": 0.505}
    pods = [
        {"kv_cache_percentage": 0.02 * (k % 25), "input_token_length": 80, "num_request_waiting":
         k % 3, "num_request_running": 20 + k % 40, "num_tokens_generated": 0,
         "prefix_cache_score": 0.0}
        for k in range(100)
    ]  # fmt: skip
    return {
        "one candidate": (message("/v1/predict", {**ask, "instance_id": 0}), 1, (50, 200)),
        f"{instances} candidates": (message("/v1/predict", ask), instances, (1, 50, 200)),
        f"{instances} candidates, TTFT": (
            message("/v1/predict", {**ask, "action_hint": "ttft"}), instances, (1, 50, 200)
        ),
        "llm-d bulk of 100": (message("/predict/bulk/strict", {"requests": pods}), 100, (1, 50)),
    }  # fmt: skip


def cpu_of(pid: int) -> float:
    """Return the CPU time of a process [s]; Linux alone says it."""
    with open(f"/proc/{pid}/stat") as file:
        parts = file.read().rpartition(")")[2].split()
    return (int(parts[11]) + int(parts[12])) / os.sysconf("SC_CLK_TCK")


async def measure(pid: int, port: int, seconds: float, instances: int, running: int) -> None:
    await at_work(port, instances, running)
    print(f"{'call':28} {'conns':>5} {'calls/s':>8} {'pred/s':>9} {'p50 ms':>7} {'p99 ms':>7} "
          f"{'cpu p50':>8} {'cpu p99':>8} {'per core':>9}")  # fmt: skip
    for name, (content, size, connections) in cases(instances).items():
        await load(port, content, 4, 1.0)  # forecasts are made, the allocator is warm
        for count in connections:
            used = cpu_of(pid)
            found = await load(port, content, count, seconds)
            used = cpu_of(pid) - used
            refused = sum(status != 200 for status in found["status"])
            rate = (len(found["status"]) - refused) / seconds
            print(f"{name:28} {count:5} {rate:8.0f} {rate * size:9.0f} "
                  f"{at(found['latency'], 0.5):7.2f} {at(found['latency'], 0.99):7.2f} "
                  f"{at(found['service'], 0.5):8.3f} {at(found['service'], 0.99):8.3f} "
                  f"{rate * seconds * size / used:9.0f}"
                  f"{f'  {refused} refused' if refused else ''}", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=positive, default=10.0, help="of each case")
    parser.add_argument("--instances", type=whole, default=100)
    parser.add_argument("--running", type=whole, default=50, help="requests on each instance")
    asked = parser.parse_args()
    service = subprocess.Popen(
        [sys.executable, "-m", "fluidserve", "serve", *FLEET, "--port", "0",
         "--replicas", str(asked.instances)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert service.stdout is not None
        address = service.stdout.readline()
        if not address:
            raise FluidServeError("the service has not begun")
        port = int(address.strip().rpartition(":")[2])
        asyncio.run(measure(service.pid, port, asked.seconds, asked.instances, asked.running))
    finally:
        service.terminate()
        service.wait()


if __name__ == "__main__":
    run(main)
