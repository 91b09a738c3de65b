"""What stands before every endpoint: token, bounds on calls, bodies and patience."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

import orjson

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN = ("/healthz", "/readyz")
"""Paths that need no token and that answer whatever the load."""

RETRY_AFTER = 1
"""Seconds after which who was refused may come again."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the service.

    Parameters
    ----------
    in_flight : [calls]
        At a time.
    body : [bytes]
        Of a call.
    patience : [s]
        Until the head, and then the body, of a call has come.
    """

    in_flight: int = 256
    body: int = 1 << 20
    patience: float = 10.0


class Guard:
    """Lets calls through to an application, or refuses them with a reason.

    Parameters
    ----------
    app
        Gets the calls, each with its body read.
    limits
        Bounds.
    token
        What every call must bear, or None.
    observed
        Called with path, status and seconds from the complete body to the answer.
    """

    def __init__(
        self,
        app: App,
        limits: Limits,
        token: str | None,
        observed: Callable[[str, int, float], None],
    ) -> None:
        self._app, self._limits, self._observed = app, limits, observed
        self._bearer = None if token is None else b"Bearer " + token.encode()
        self.in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take a call."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, headers = scope["path"], dict(scope["headers"])
        is_open = path in OPEN
        if not is_open and not self._bears_token(headers):
            await self._refuse(send, path, 401, "a bearer token is needed, or it is wrong",
                               (b"www-authenticate", b"Bearer"))  # fmt: skip
            return
        if not is_open and self.in_flight >= self._limits.in_flight:
            await self._refuse(send, path, 429, f"{self.in_flight} calls are in flight, no more "
                               "are allowed", (b"retry-after", b"%d" % RETRY_AFTER))  # fmt: skip
            return
        self.in_flight += 1
        try:
            await self._pass(scope, headers, receive, send)
        finally:
            self.in_flight -= 1

    def _bears_token(self, headers: dict[bytes, bytes]) -> bool:
        if self._bearer is None:
            return True
        return hmac.compare_digest(headers.get(b"authorization", b""), self._bearer)

    async def _pass(
        self, scope: Scope, headers: dict[bytes, bytes], receive: Receive, send: Send
    ) -> None:
        """Read the body and hand the call on."""
        path = scope["path"]
        try:
            async with asyncio.timeout(self._limits.patience):
                body = await self._body(headers, receive)
        except TimeoutError:
            seconds = self._limits.patience
            await self._refuse(send, path, 408, f"the body did not come within {seconds:g} s",
                               (b"connection", b"close"))  # fmt: skip
            return
        except _Gone:
            return
        if body is None:
            await self._refuse(send, path, 413, f"a body has at most {self._limits.body} bytes",
                               (b"connection", b"close"))  # fmt: skip
            return
        given = False

        async def replay() -> MutableMapping[str, Any]:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        begun, used, status = time.perf_counter(), time.thread_time(), 500

        async def timed(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status, taken = message["status"], 1e3 * (time.perf_counter() - begun)
                cpu = 1e3 * (time.thread_time() - used)
                timing = b"app;dur=%.3f, cpu;dur=%.3f" % (taken, cpu)
                message["headers"] = [*message.get("headers", ()), (b"server-timing", timing)]
            await send(message)

        try:
            await self._app(scope, replay, timed)
        finally:
            self._observed(path, status, time.perf_counter() - begun)

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes | None:
        """Return the body; None where it is too large."""
        most = self._limits.body
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length[:20]) > most:
            return None
        parts, size = [], 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _Gone
            part = message.get("body", b"")
            size += len(part)
            if size > most:
                return None
            parts.append(part)
            if not message.get("more_body", False):
                return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _refuse(
        self, send: Send, path: str, status: int, why: str, *headers: tuple[bytes, bytes]
    ) -> None:
        self._observed(path, status, 0.0)
        body = orjson.dumps({"error": why})
        plain = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": [*plain, *headers]})
        await send({"type": "http.response.body", "body": body})


class _Gone(Exception):
    """The client has left before its body was complete."""
