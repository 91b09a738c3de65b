"""Messages of the three operations, as they come in and as they go out."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from fluidserve.serve.fields import (
    MOST_OF_A_LIST,
    Count,
    Ids,
    InstanceId,
    Latency,
    Message,
    Pair,
    Prompt,
    RequestId,
    Time,
    Whole,
    number_of,
)
from scheduling.messages import BatchTrace, RequestMeta

MOST_CANDIDATES = 10_000
"""Pairs of request and instance that one call may ask for."""

LARGEST_BATCH_ID = 2**53


class RequestMetaIn(Message):
    """What is known of a request when it arrives."""

    request_id: RequestId
    prefill_length: Prompt = Field(description="Tokens of the prompt.")
    predicted_decode_length: Annotated[float | None, Field(gt=0, le=1e7, allow_inf_nan=False)] = (
        Field(None, description="Tokens of the answer as somebody else estimates them.")
    )
    prefix_hit: Prompt = Field(
        0, description="Tokens expected in the prefix cache; no more than the prompt count."
    )
    slo_ttft: Latency | None = Field(None, description="Promised time to the first token.")
    slo_e2el: Latency | None = Field(None, description="Promised time to the last token.")

    def meta(self) -> RequestMeta:
        """Return it in the words of the predictor."""
        return RequestMeta(
            number_of(self.request_id), self.prefill_length, self.predicted_decode_length,
            min(self.prefix_hit, self.prefill_length), self.slo_ttft, self.slo_e2el,
        )  # fmt: skip


class Enqueue(Message):
    """A request was sent to an instance."""

    instance_id: InstanceId
    request_meta: RequestMetaIn
    ts: Time = Field(description="When it was sent.")


class BatchTraceIn(Message):
    """A batch that an instance has ended."""

    batch_id: Annotated[int, Field(ge=0, le=LARGEST_BATCH_ID), Whole] = Field(
        description="Number of the batch, one more with every batch of the instance."
    )
    end: Time = Field(description="When it ended.")
    duration: Latency = Field(description="How long it took.")
    prefill_len: Count = Field(0, description="Prompt tokens that it computed.")
    decode_len: Count = Field(description="Requests that it gave a token after their first.")
    finished: Ids = Field([], description="Requests that ended with it.")
    started: Ids = Field([], description="Requests whose first token came with it.")
    preempted: Ids = Field([], description="Running requests that were evicted before it.")
    resumed: Ids = Field([], description="Evicted requests that decode again with it.")
    cancelled: Ids = Field([], description="Requests that the client gave up.")
    num_waiting: Count | None = Field(None, description="Requests in the queue after it.")
    num_running: Count | None = Field(None, description="Running requests after it.")
    kv_used: Latency | None = Field(None, description="KV tokens of running requests after it.")

    def trace(self) -> BatchTrace:
        """Return it in the words of the predictor."""
        lists = {
            name: tuple(number_of(each) for each in getattr(self, name))
            for name in ("finished", "started", "preempted", "resumed", "cancelled")
        }
        return BatchTrace(
            self.batch_id, self.end, self.duration, self.prefill_len, self.decode_len, **lists,
            num_waiting=self.num_waiting, num_running=self.num_running, kv_used=self.kv_used,
        )  # fmt: skip


class Sync(Message):
    """What an instance reports."""

    instance_id: InstanceId
    batch_trace: BatchTraceIn
    ts: Time | None = Field(None, description="When the report came in; without it, the end.")


class Ask(Message):
    """What would happen to requests, each on each of some instances, were they sent now."""

    request_meta: (
        RequestMetaIn
        | Annotated[list[RequestMetaIn], Field(min_length=1, max_length=MOST_OF_A_LIST)]
    ) = Field(description="A request, or some, none of which knows of the others.")
    instance_id: (
        InstanceId
        | Annotated[list[InstanceId], Field(min_length=1, max_length=MOST_CANDIDATES)]
        | Literal["all"]
    ) = Field("all", description="An instance, some, or all.")
    ts: Time = Field(description="Now.")
    action_hint: Literal["all", "ttft"] = Field(
        "all", description="ttft asks for first tokens only, which costs less."
    )


Enqueues = Enqueue | Annotated[list[Enqueue], Field(min_length=1, max_length=MOST_OF_A_LIST)]
Syncs = Sync | Annotated[list[Sync], Field(min_length=1, max_length=MOST_OF_A_LIST)]


class Forget(Message):
    """An instance has begun anew, with nobody there and its batches numbered from 0."""

    instance_id: InstanceId


class Accepted(BaseModel):
    """How many messages were taken."""

    accepted: int


class SyncCountsOut(BaseModel):
    """How the reports of this call came in."""

    applied: int
    duplicate: int
    late: int
    lost: int = Field(description="Reports that are missing before one of these.")
    unknown: int = Field(description="Requests in the reports that nobody had announced.")


class PredictionOut(BaseModel):
    """What would happen to a request on an instance; null where nothing is known."""

    request_id: int | str
    instance_id: int
    ttft: float | None = Field(description="Expected time to the first token.")
    tpot: float | None = Field(description="Expected time between two tokens after it.")
    e2el: float | None = Field(description="Expected time to the last token.")
    ttft_bounds: Pair | None = Field(description="90 % of TTFTs lie between.")
    e2el_bounds: Pair | None = Field(description="90 % of E2ELs lie between.")
    slo_risk: float | None = Field(description="Chance that a promise is missed.")
    externality: float | None = Field(description="Time that it adds to all others together.")
    confidence: str = Field(
        description="high, fair or low; unknown until predictions have come true; stale where "
        "reports stay away; failed scores worst."
    )
    level: str


class Predicted(BaseModel):
    """Predictions, request by request and in each by instance."""

    predictions: list[PredictionOut]
    time_unit: str


class CorrectionOut(BaseModel):
    """What was learnt for one latency of an instance, while somebody waits there or nobody does."""

    instance: int
    latency: Literal["ttft", "e2el"]
    regime: Literal["free", "queued"] = Field(description="Whether requests wait for a first token")
    measured: int = Field(description="Predictions that came true.")
    is_on: bool = Field(description="Whether answers are corrected.")
    factor: float = Field(description="What they are multiplied by, 0.5 to 2; 1 while not on.")
    held_out_error: float = Field(description="Mean error of the logarithm without a factor.")
    held_out_error_corrected: float = Field(description="And with it.")


class Corrections(BaseModel):
    """What was learnt, where anything came true."""

    corrector: bool = Field(description="Whether the service was started with --corrector.")
    corrections: list[CorrectionOut]


class Health(BaseModel):
    """The service is there."""

    status: str
    version: str
    instances: int
    time_unit: str
    restored: bool = Field(description="Whether the state came from a snapshot.")
    stale: list[int] = Field(description="Instances whose reports stay away.")


class Refused(BaseModel):
    """Why a call was refused, in one line."""

    error: str
