"""Types of the fields that a message may have, with their limits."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

LARGEST_ID = 2**63 - 1
LONGEST_PROMPT = 10_000_000
"""Tokens of a prompt at most."""

LARGEST_TIME = 1e15
LARGEST_COUNT = 10_000_000
MOST_IDS = 10_000
"""Requests that one report names at most in one list."""

MOST_OF_A_LIST = 1000
"""Messages of one call at most."""


def _whole(value: Any) -> Any:
    """Return a whole number that was written as 3.0 as an integer: JSON knows only one kind."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


Whole = BeforeValidator(_whole)

RequestId = Annotated[
    Annotated[int, Field(ge=0, le=LARGEST_ID), Whole]
    | Annotated[str, Field(min_length=1, max_length=200)],
    Field(description="Names the request: a number, or a text such as that of x-request-id."),
]
InstanceId = Annotated[
    int, Field(ge=0, le=1_000_000, description="Place of the instance in the fleet, from 0."), Whole
]
Time = Annotated[float, Field(ge=-LARGEST_TIME, le=LARGEST_TIME, allow_inf_nan=False)]
Pair = Annotated[list[float], Field(min_length=2, max_length=2)]
Latency = Annotated[float, Field(ge=0, le=LARGEST_TIME, allow_inf_nan=False)]
Prompt = Annotated[int, Field(ge=0, le=LONGEST_PROMPT), Whole]
Count = Annotated[int, Field(ge=0, le=LARGEST_COUNT), Whole]
Ids = Annotated[list[RequestId], Field(max_length=MOST_IDS)]


class Message(BaseModel):
    """What a client sends: every field checked, none unknown, and no text for a number."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def number_of(request_id: int | str) -> int:
    """Return the number that stands for the id of a request: of a text, one of its digest."""
    if isinstance(request_id, int):
        return request_id
    digest = hashlib.blake2b(request_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
