"""Messages of llm-d's latency predictor, with its names; unknown fields are passed over."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from fluidserve.serve.fields import LONGEST_PROMPT, Pair, Whole

MOST_PRESENT = 100_000
MOST_OF_A_CALL = 100
"""Predictions of one call at most, as in llm-d."""

MOST_ENTRIES = 1000
"""Measurements of one call at most."""

Number = Annotated[int, Field(ge=0, le=MOST_PRESENT), Whole]
Tokens = Annotated[int, Field(ge=0, le=LONGEST_PROMPT), Whole]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Milliseconds = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]


class LlmdMessage(BaseModel):
    """What a router of llm-d sends."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


class PredictionRequest(LlmdMessage):
    """A request, and an instance by aggregates."""

    kv_cache_percentage: Share = Field(description="Share of the KV memory in use, 0 to 1.")
    input_token_length: Tokens = Field(description="Prompt of the request.")
    num_request_waiting: Number
    num_request_running: Number
    num_tokens_generated: Tokens = Field(0, description="Taken and not used.")
    prefix_cache_score: Share = Field(0.0, description="Share of the prompt in the prefix cache.")
    pod_type: Annotated[str, Field(max_length=100)] | None = Field(
        "", description="Taken and not used: answers are for the instance that is configured."
    )
    prefill_tokens_in_flight: Annotated[int, Field(ge=0, le=10**12), Whole] | None = Field(
        None, description="Prompt tokens of those who wait; 0 and null leave them as expected."
    )
    decode_tokens_in_flight: Annotated[int, Field(ge=0, le=10**12), Whole] | None = Field(
        None, description="Taken and not used: the KV in use tells it."
    )


class TrainingEntry(PredictionRequest):
    """What a request saw that was sent to an instance in a state."""

    actual_ttft_ms: Milliseconds = Field(0.0, description="0 where it was not measured.")
    actual_tpot_ms: Milliseconds = Field(0.0, description="0 where it was not measured.")
    timestamp: Annotated[str, Field(max_length=100)] | None = None


class BulkPredictionRequest(LlmdMessage):
    """Some of them."""

    requests: list[PredictionRequest] = Field(min_length=1, max_length=MOST_OF_A_CALL)


class BulkTrainingRequest(LlmdMessage):
    """Measurements."""

    entries: list[TrainingEntry] = Field(max_length=MOST_ENTRIES)


class PredictionResponse(BaseModel):
    """A prediction."""

    ttft_ms: float
    tpot_ms: float
    ttft_uncertainty: float = Field(description="Standard deviation; 0 until it was measured.")
    tpot_uncertainty: float
    ttft_prediction_bounds: Pair = Field(
        description="90 % lie between, as far as measurements tell; without any, the prediction."
    )
    tpot_prediction_bounds: Pair
    predicted_at: datetime
    model_type: str
    objective_type: str
    quantile: float | None
    last_model_load: datetime | None


class BulkError(BaseModel):
    """A prediction that failed."""

    index: int
    error: str


class BulkPredictionResponse(BaseModel):
    """Predictions in the order of the requests, but for those that failed."""

    predictions: list[PredictionResponse]
    errors: list[BulkError]
    total_requests: int
    successful_predictions: int
    failed_predictions: int
    processing_time_ms: float


class Trained(BaseModel):
    """What was taken of measurements."""

    message: str


class Corrector(BaseModel):
    """The corrector of one latency."""

    measured: int = Field(description="Measurements that it has learnt from.")
    is_on: bool = Field(description="Whether answers are corrected.")
    factor: float = Field(description="What answers are multiplied by, 0.5 to 2.")
    held_out_error: float | None = Field(description="Mean error of the logarithm without it.")
    held_out_error_corrected: float | None = Field(description="And with it.")


class Status(BaseModel):
    """What answers."""

    is_ready: bool
    model_type: str
    objective_type: str
    quantile: float | None
    last_model_load: datetime | None
    training_server_url: str
    models_exist: dict[str, bool]
    entries_received: int
    entries_learnt: int
    entries_passed_over: int = Field(description="Of a call, what is beyond the first share.")
    ttft: Corrector
    tpot: Corrector
