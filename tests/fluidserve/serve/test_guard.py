"""What stands before the endpoints: token, calls at a time, size and patience."""

from __future__ import annotations

import asyncio

import pytest
from toy_service import application_of, client_of, request, service_of

TOKEN = "a-token-of-some-length"
ASK = {"request_meta": request(1), "ts": 0.0}


def test_without_the_token_nobody_gets_in(service):
    client = client_of(service, token=TOKEN)
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": TOKEN},
                    {"authorization": "Bearer \xff"}):  # fmt: skip
        encoded = {key: value.encode("latin-1") for key, value in headers.items()}
        done = client.post("/v1/predict", json=ASK, headers=encoded)
        assert done.status_code == 401 and done.headers["www-authenticate"] == "Bearer"
        assert client.get("/metrics", headers=encoded).status_code == 401
    allowed = {"authorization": f"Bearer {TOKEN}"}
    assert client.post("/v1/predict", json=ASK, headers=allowed).status_code == 200
    assert client.get("/healthz").status_code == 200
    described = client.get("/openapi.json", headers=allowed).json()
    assert described["security"] == [{"token": []}]


def test_a_large_body_is_refused_whether_it_says_its_length_or_not(service):
    client = client_of(service)
    large = b" " * 10_000_000

    def parts():
        for k in range(0, len(large), 1 << 16):
            yield large[k : k + (1 << 16)]

    headers = {"content-type": "application/json"}
    for content in (large, parts()):
        done = client.post("/v1/predict", content=content, headers=headers)
        assert done.status_code == 413 and "1048576 bytes" in done.json()["error"]


def scope_of(path="/v1/predict", *headers):
    return {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST",
        "path": path, "raw_path": path.encode(), "query_string": b"", "scheme": "http",
        "headers": [(b"content-type", b"application/json"), *headers], "client": None,
        "server": None, "root_path": "",
    }  # fmt: skip


class Call:
    """A call whose body comes when the test lets it come."""

    def __init__(self, guard, path="/v1/predict", *headers):
        self.body, self.status, self.read, self.headers = asyncio.Queue(), None, 0, {}
        self.task = asyncio.create_task(guard(scope_of(path, *headers), self._receive, self._send))

    async def _receive(self):
        self.read += 1
        return await self.body.get()

    async def _send(self, message):
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], dict(message["headers"])

    def end(self, content=b"{}"):
        self.body.put_nowait({"type": "http.request", "body": content, "more_body": False})


def test_beyond_the_bound_calls_are_told_to_come_again(service):
    async def main():
        guard = application_of(service, in_flight=3)
        slow = [Call(guard) for _ in range(3)]
        await asyncio.sleep(0)
        assert guard.in_flight == 3
        refused, open_to_all = Call(guard), Call(guard, "/healthz")
        open_to_all.end()
        await asyncio.gather(refused.task, open_to_all.task)
        assert refused.status == 429 and refused.headers[b"retry-after"] == b"1"
        assert open_to_all.status != 429
        for each in slow:
            each.end()
        await asyncio.gather(*(each.task for each in slow))
        assert guard.in_flight == 0 and {each.status for each in slow} == {422}
        late = Call(guard)
        late.end()
        await late.task
        assert late.status == 422

    asyncio.run(main())


def test_a_client_that_is_slow_with_its_body_is_let_go(service):
    async def main():
        guard = application_of(service, patience=0.05)
        call = Call(guard)
        call.body.put_nowait({"type": "http.request", "body": b"{", "more_body": True})
        await call.task
        assert call.status == 408 and guard.in_flight == 0

    asyncio.run(main())


def test_a_client_that_leaves_early_leaves_nothing(service):
    async def main():
        guard = application_of(service)
        call = Call(guard)
        call.body.put_nowait({"type": "http.disconnect"})
        await call.task
        assert call.status is None and guard.in_flight == 0

    asyncio.run(main())


@pytest.mark.parametrize("length", [b"10000000", b"9" * 400, b"-1", b"x"])
def test_a_length_that_is_too_large_or_none_is_refused_unread(service, length):
    async def main():
        call = Call(application_of(service), "/v1/predict", (b"content-length", length))
        await call.task
        assert call.status == 413 and call.read == 0

    asyncio.run(main())


def test_it_says_how_long_it_took():
    done = client_of(service_of()).post("/v1/predict", json=ASK)
    told = dict(each.split(";dur=") for each in done.headers["server-timing"].split(", "))
    assert 0 < float(told["cpu"]) <= float(told["app"]) + 0.1 < 60_000
