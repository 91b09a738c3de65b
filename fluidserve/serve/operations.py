"""Endpoints of the three operations, of health and of what an instance that begins anew needs."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response

from fluidserve.serve.bodies import Body, answer, reasons
from fluidserve.serve.messages import (
    Accepted,
    Ask,
    Corrections,
    Enqueue,
    Enqueues,
    Forget,
    Health,
    Predicted,
    Sync,
    SyncCountsOut,
    Syncs,
)

if TYPE_CHECKING:
    from fluidserve.serve.service import Service

ENQUEUES: Body[Enqueue | list[Enqueue]] = Body(Enqueues)
SYNCS: Body[Sync | list[Sync]] = Body(Syncs)
ASK: Body[Ask] = Body(Ask)
FORGET: Body[Forget] = Body(Forget)


def operations(service: Service) -> APIRouter:
    """Return the endpoints of a service."""
    router = APIRouter(tags=["predictor"])

    @router.post(
        "/v1/enqueue_request", response_model=Accepted, responses=reasons(404, 409, 415, 422),
        openapi_extra=ENQUEUES.described, summary="Requests were sent to instances.",
    )  # fmt: skip
    async def enqueue_request(request: Request) -> Response:
        """Note which requests were sent where and when: all of a list, or none."""
        said = await ENQUEUES.of(request)
        return answer({"accepted": service.enqueue(said if isinstance(said, list) else [said])})

    @router.post(
        "/v1/sync_batch_result", response_model=SyncCountsOut, responses=reasons(404, 415, 422),
        openapi_extra=SYNCS.described, summary="Instances have ended batches.",
    )  # fmt: skip
    async def sync_batch_result(request: Request) -> Response:
        """Take reports of batches. Doubled, late and lost ones are counted and do no harm."""
        said = await SYNCS.of(request)
        return answer(service.sync(said if isinstance(said, list) else [said]))

    @router.post(
        "/v1/predict", response_model=Predicted, responses=reasons(404, 415, 422),
        openapi_extra=ASK.described, summary="What would happen to requests, were they sent now?",
    )  # fmt: skip
    async def predict(request: Request) -> Response:
        """Predict for each request on each instance that is asked for. It changes nothing."""
        found = service.predict(await ASK.of(request))
        return answer({"predictions": found, "time_unit": service.time_unit})

    @router.post(
        "/v1/forget_instance", response_model=Accepted, responses=reasons(404, 415, 422),
        openapi_extra=FORGET.described, summary="An instance has begun anew.",
    )  # fmt: skip
    async def forget_instance(request: Request) -> Response:
        """Let an instance be empty and its batches count from 0 again, after it was restarted."""
        service.forget((await FORGET.of(request)).instance_id)
        return answer({"accepted": 1})

    @router.get(
        "/v1/corrections", response_model=Corrections, responses=reasons(),
        summary="What was learnt from predictions that came true?",
    )  # fmt: skip
    async def corrections() -> Response:
        """Say by how much answers are corrected, and what that has gained."""
        return answer(service.corrections())

    @router.get("/healthz", response_model=Health, summary="Is the service there?")
    async def healthz() -> Response:
        """Say that the service is there, without a token and whatever the load."""
        return answer({
            "status": "ok", "version": version("fluidserve"), "time_unit": service.time_unit,
            "instances": len(service.predictor.instances), "restored": service.restored,
            "stale": service.stale(),
        })  # fmt: skip

    return router
