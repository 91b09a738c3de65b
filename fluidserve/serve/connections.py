"""Connections: a client is let go whose call's head is slow, or huge."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

LARGEST_HEAD = 1 << 16
"""Bytes of the head of a call."""


def protocol_of(patience: float) -> type[asyncio.Protocol]:
    """Return the class of connections whose clients get so many seconds for a head."""

    class Connection(HttpToolsProtocol):
        """A connection whose heads come in time, or that ends."""

        _timer: asyncio.TimerHandle | None = None
        _head = 0

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self._waits_for_head():
                self._head += len(data)
            super().data_received(data)
            if not self._waits_for_head():
                self._stop()
            elif self._head > LARGEST_HEAD:
                self.transport.close()
            elif self._head:
                self._wait()

        def _waits_for_head(self) -> bool:
            return self.cycle is None or self.cycle.response_complete

        def _wait(self) -> None:
            if self._timer is None:
                self._timer = self.loop.call_later(patience, self._end)

        def _stop(self) -> None:
            self._head = 0
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _end(self) -> None:
            if not self.transport.is_closing():
                self.transport.close()

    return Connection
