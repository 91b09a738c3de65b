"""Endpoints of llm-d's latency predictor, so that its router can call this service unchanged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response

from fluidserve.serve.bodies import Body, answer, reasons
from fluidserve.serve.llmd_messages import (
    BulkPredictionRequest,
    BulkPredictionResponse,
    BulkTrainingRequest,
    PredictionRequest,
    PredictionResponse,
    Status,
    Trained,
)

if TYPE_CHECKING:
    from fluidserve.serve.llmd_service import LlmdService

ONE: Body[PredictionRequest] = Body(PredictionRequest)
BULK: Body[BulkPredictionRequest] = Body(BulkPredictionRequest)
TRAINING: Body[BulkTrainingRequest] = Body(BulkTrainingRequest)


def llmd(service: LlmdService) -> APIRouter:
    """Return the endpoints."""
    router = APIRouter(tags=["llm-d"])
    why = reasons(409, 415, 422)

    @router.post(
        "/predict", response_model=PredictionResponse, responses=why,
        openapi_extra=ONE.described, summary="What would a request see on an instance?",
    )  # fmt: skip
    async def predict(request: Request) -> Response:
        """Predict from aggregates of an instance."""
        return answer(service.predict(await ONE.of(request)))

    @router.post(
        "/predict/bulk", response_model=BulkPredictionResponse, responses=why,
        openapi_extra=BULK.described, summary="The same for up to 100.",
    )  # fmt: skip
    async def predict_bulk(request: Request) -> Response:
        """Predict from aggregates; what fails is told among the errors."""
        return answer(service.predict_all((await BULK.of(request)).requests, strict=False))

    @router.post(
        "/predict/bulk/strict", response_model=BulkPredictionResponse, responses=why,
        openapi_extra=BULK.described, summary="The same, all or none.",
    )  # fmt: skip
    async def predict_bulk_strict(request: Request) -> Response:
        """Predict from aggregates; one that fails refuses all."""
        return answer(service.predict_all((await BULK.of(request)).requests, strict=True))

    @router.post(
        "/add_training_data_bulk", response_model=Trained, responses=why, status_code=202,
        openapi_extra=TRAINING.described, summary="Latencies that were measured.",
    )  # fmt: skip
    async def add_training_data_bulk(request: Request) -> Response:
        """Learn how far off answers are; see /status for whether they are corrected."""
        entries = (await TRAINING.of(request)).entries
        service.train(entries)
        return answer({"message": f"Accepted {len(entries)} training samples."}, 202)

    @router.get("/status", response_model=Status, responses=reasons(), summary="What answers?")
    async def status() -> Response:
        """Say what answers, and what it has learnt from measurements."""
        return answer(service.status())

    @router.get("/readyz", summary="Is the service ready?")
    async def readyz() -> Response:
        """Say so: it is as soon as it is there."""
        return answer({"status": "ready"})

    return router
