"""The application: its endpoints together, how their errors are told, and what stands before it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import HTMLResponse
from starlette.exceptions import HTTPException

from fluidserve.serve.bodies import Refusal, answer, described, reasons
from fluidserve.serve.guard import Guard, Limits
from fluidserve.serve.keeper import Keeper
from fluidserve.serve.llmd import llmd
from fluidserve.serve.llmd_service import LlmdService
from fluidserve.serve.metrics import Metrics
from fluidserve.serve.operations import operations
from fluidserve.serve.page import page
from fluidserve.serve.service import Service
from serving.errors import shortened

WORDS = """Predicts for each instance of a fleet what one more request would see there.

All times are in the unit that /healthz names, on one clock of the client's choice, but those of
llm-d's endpoints, which are in milliseconds. /v1/enqueue_request and /v1/sync_batch_result take
one message or a list of them."""


def application(
    service: Service,
    llmd_service: LlmdService,
    *,
    limits: Limits,
    token: str | None = None,
    keeper: Keeper | None = None,
) -> Guard:
    """Return the application of a service, guarded.

    Parameters
    ----------
    service, llmd_service
        What answers.
    limits
        Bounds.
    token
        What every call must bear, or None.
    keeper
        Of the state, or None.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if keeper is None:
            yield
        else:
            async with keeper.lifespan(service):
                yield

    app = FastAPI(
        title="FluidServe predictor", version=version("fluidserve"), docs_url=None, redoc_url=None,
        lifespan=lifespan, openapi_url=None,
    )  # fmt: skip
    metrics = Metrics(service, llmd_service, keeper)
    for router in (operations(service), llmd(llmd_service), metrics.router(), _pages(app)):
        app.include_router(router)
    described(app, WORDS, has_token=token is not None)
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(HTTPException, _not_there)
    app.add_exception_handler(Exception, _failed)
    guard = Guard(app, limits, token, metrics.observe)
    metrics.paths = frozenset(app.openapi()["paths"])
    metrics.in_flight = lambda: guard.in_flight
    return guard


def _pages(app: FastAPI) -> APIRouter:
    """Return the endpoints that describe the others."""
    router = APIRouter(tags=["service"])

    @router.get("/openapi.json", responses=reasons(), summary="The OpenAPI document.")
    async def openapi() -> dict[str, Any]:
        """Describe every endpoint for programs."""
        return app.openapi()

    @router.get(
        "/docs", responses=reasons(), response_class=HTMLResponse, summary="A page to read."
    )
    async def docs() -> Response:
        """Describe every endpoint for people; the page loads nothing from anywhere."""
        return HTMLResponse(page(app.openapi()))

    return router


async def _refused(_: Request, wrong: Any) -> Response:
    return answer({"error": wrong.why}, wrong.status)


async def _not_there(request: Request, wrong: Any) -> Response:
    """Answer where there is no such endpoint, or not this method of it."""
    allowed = (wrong.headers or {}).get("Allow")
    why = f"takes {allowed}, not {request.method}" if allowed else "is no call; /docs lists them"
    response = answer({"error": f"{shortened(request.url.path)} {why}"}, wrong.status_code)
    response.headers.update(wrong.headers or {})
    return response


async def _failed(request: Request, wrong: Exception) -> Response:
    logging.getLogger("fluidserve.serve").error("%s failed", request.url.path, exc_info=wrong)
    return answer({"error": "the service has failed here; its log says how"}, 500)
