"""Serve the online predictor: from flags to a service, and from its start to its end."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import signal
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fluidserve import ending
from fluidserve.flags import FlagError
from fluidserve.fleets import fleet_of
from fluidserve.inputs import load_inputs
from fluidserve.progress import tell
from scheduling import (
    BatchTrace,
    CorrectedPredictor,
    Predictor,
    RequestMeta,
    SeldomToldPredictor,
)
from serving import FileAccessError, FluidServeError

if TYPE_CHECKING:
    from fluidserve.serve.guard import Limits
    from fluidserve.serve.keeper import Keeper
    from fluidserve.serve.llmd_service import LlmdService
    from fluidserve.serve.service import Service

TOKEN = "FLUIDSERVE_TOKEN"
"""Variable of the environment that may hold the token."""

SHORTEST_TOKEN = 16
LONGEST_TIME = 86_400.0
GRACE = 10
"""Seconds that calls in flight get at the end."""


@dataclass(frozen=True, eq=False)
class Asked:
    """What a command asks.

    Parameters
    ----------
    service
        The predictor and its operations.
    llmd
        Answers to routers of llm-d, for the first instance.
    limits
        Bounds of the service.
    token
        What every call must bear, or None.
    keeper
        Of the state, or None.
    where
        Host and port.
    """

    service: Service
    llmd: LlmdService
    limits: Limits
    token: str | None
    keeper: Keeper | None
    where: tuple[str, int]


def asked(params: Mapping[str, Any]) -> Asked:
    """Return what the parameters of the command ask, checked, with the state that is kept.

    Raises
    ------
    FluidServeError
        One line on what is wrong.
    """
    from fluidserve.serve.extra import check_extra

    limits = _limits(params)
    token = _token(params["token_file"])
    where = _where(params, token)
    every = _seconds("--snapshot-every", params["snapshot_every"])
    if params["state"] is None and params["snapshot_every"] is not None:
        raise FluidServeError("--snapshot-every needs --state, the file to write")
    delay, stale = params["signal_delay"], params["stale_after"]
    if not 0 <= delay < float("inf"):
        raise FlagError("--signal-delay", delay, "a finite time >= 0")
    if stale is not None and not 0 < stale < float("inf"):
        raise FlagError("--stale-after", stale, "a finite time > 0")
    rate = params["arrival_rate"]
    if rate is not None and not 0 <= rate < float("inf"):
        raise FlagError("--arrival-rate", rate, "a finite number >= 0")
    is_seldom = params["reports"] == "seldom"
    if is_seldom and params["level"] == "lightweight":
        raise FluidServeError(
            "--level lightweight: with --reports seldom each report makes a new forecast anyway"
        )
    inputs = load_inputs({key: value for key, value in params.items() if key != "arrival_rate"})
    fleet = fleet_of(params, inputs.instance)

    def made(instances: Any) -> Predictor:
        kind = SeldomToldPredictor if is_seldom else Predictor
        return kind(
            instances, inputs.question.mix, level=params["level"], arrival_rate=rate,
            signal_delay=delay, stale_after=stale,
        )  # fmt: skip

    predictor = made(fleet)
    check_extra()
    from fluidserve.serve.keeper import Keeper
    from fluidserve.serve.llmd_service import LlmdService
    from fluidserve.serve.service import Service
    from scheduling.aggregates import AggregatePredictor, Aggregates, Candidate

    llmd = LlmdService(AggregatePredictor(fleet[0], inputs.question.mix, rate), fleet[0].time_unit)
    llmd.predictor.predict([Candidate(Aggregates(1, 1), 1)])
    corrector = CorrectedPredictor(predictor) if params["corrector"] else None
    service = Service(predictor, inputs.instance.time_unit, corrector)
    keeper = None
    if params["state"] is not None:
        keeper = Keeper(Path(params["state"]), 5.0 if every is None else every)
        keeper.read(service)
    _warm(made(fleet[:1]))
    if keeper is not None:
        keeper.write(keeper.packed(service))  # what cannot be kept is better known now
    return Asked(service, llmd, limits, token, keeper, where)


def _limits(params: Mapping[str, Any]) -> Limits:
    from fluidserve.serve.guard import Limits

    most = params["max_in_flight"]
    if not 1 <= most <= 100_000:
        raise FlagError("--max-in-flight", most, "a whole number from 1 to 100000")
    patience = _seconds("--patience", params["patience"])
    return Limits(in_flight=most, patience=Limits().patience if patience is None else patience)


def _seconds(flag: str, value: float | None) -> float | None:
    if value is not None and not 0.01 <= value <= LONGEST_TIME:
        raise FlagError(flag, value, f"seconds from 0.01 to {LONGEST_TIME:.0f}")
    return value


def _token(path: str | None) -> str | None:
    """Return the token of a file or of the environment."""
    if path is None:
        token, source = os.environ.get(TOKEN), TOKEN
        if token is None:
            return None
    else:
        source = f"--token-file {path}"
        try:
            with open(path, encoding="ascii") as file:
                token = file.read(4097)
        except OSError as wrong:
            raise FileAccessError(f"{source}: {wrong.strerror or wrong}") from wrong
        except ValueError as wrong:
            raise FluidServeError(f"{source}: no text of printable ASCII") from wrong
    token = token.strip()
    if not SHORTEST_TOKEN <= len(token) <= 4096 or not all("!" <= each <= "~" for each in token):
        raise FluidServeError(
            f"{source}: a token has at least {SHORTEST_TOKEN} printable ASCII characters, no blanks"
        )
    return token


def _where(params: Mapping[str, Any], token: str | None) -> tuple[str, int]:
    host, port = params["host"], params["port"]
    if not 0 <= port <= 65535:
        raise FlagError("--port", port, "a whole number from 0 to 65535; 0 takes a free one")
    if token is None and not params["allow_no_token"] and not _is_loopback(host):
        raise FluidServeError(
            f"--host {host}: others than this machine could call; give --token-file or {TOKEN}, "
            "or --allow-no-token"
        )
    return host, port


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _warm(predictor: Predictor) -> None:
    """Have everything compiled before the first call."""
    predictor.enqueue_request(0, RequestMeta(0, 1), 0.0)
    predictor.predict(None, RequestMeta(1, 1), 0.0, "ttft")
    predictor.sync_batch_result(0, BatchTrace(0, 1.0, 1.0, 0, 1, started=(0,)))
    predictor.sync_batch_result(0, BatchTrace(1, 2.0, 1.0, 0, 1))
    predictor.predict(None, RequestMeta(1, 1), 3.0)


def serve(ask: Asked) -> None:
    """Serve until a signal says to end.

    Raises
    ------
    FluidServeError
        If the address cannot be had.
    """
    import uvicorn

    from fluidserve.serve.application import application
    from fluidserve.serve.connections import protocol_of

    app = application(ask.service, ask.llmd, limits=ask.limits, token=ask.token, keeper=ask.keeper)
    listening = _listening(*ask.where)
    config = uvicorn.Config(
        app, http=protocol_of(ask.limits.patience), ws="none", loop="asyncio",
        log_level="error", access_log=False, timeout_graceful_shutdown=GRACE, server_header=False,
        lifespan="on",
    )  # fmt: skip
    server = uvicorn.Server(config)
    _take_signals(server)
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    restored = ", state restored" if ask.service.restored else ""
    tell(f"{len(ask.service.predictor.instances)} instances{restored}; ends on Ctrl-C or SIGTERM")
    click.echo(f"http://{shown}:{port}")
    with contextlib.closing(listening):
        server.run(sockets=[listening])


def _listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens at an address."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
        family, kind, proto, _, address = found[0]
        # with the protocol named, asyncio sends answers at once (TCP_NODELAY), not 40 ms later
        listening = socket.socket(family, kind, proto)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(1024)
        except OSError:
            listening.close()
            raise
    except (OSError, UnicodeError) as wrong:
        why = getattr(wrong, "strerror", None) or wrong
        raise FluidServeError(f"--host {host} --port {port}: {why}") from wrong
    return listening


def _take_signals(server: Any) -> None:
    """Let signals end the server in good order, not the command at once."""
    signal.set_wakeup_fd(-1)
    ending.finished()  # what the server puts back when it has ended

    def end(*_: object) -> None:
        server.should_exit = True

    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, end)
