"""Bodies of calls: read by one rule, refused in one line, described in the OpenAPI document."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import orjson
from fastapi import FastAPI, Request, Response
from pydantic import TypeAdapter, ValidationError

from fluidserve.serve.messages import Refused

T = TypeVar("T")
REF = "#/components/schemas/{model}"
LONGEST = 300
"""Characters of a reason."""

SHOULD = "Input should be "
"""What pydantic begins with where it says what a value should be."""

REASONS = {
    401: "No token, or a wrong one.",
    404: "There is no such instance.",
    408: "The body did not come in time.",
    409: "The service cannot do this in its present state.",
    413: "The body is too large.",
    415: "The body is no application/json.",
    422: "Something in the body is not allowed.",
    429: "Too many calls are in flight; come again after Retry-After seconds.",
}


class Refusal(Exception):
    """A call that is refused.

    Parameters
    ----------
    status
        Of HTTP.
    why
        One line.
    """

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status, self.why = status, " ".join(why.split())


def reasons(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return how an endpoint may refuse, for its description."""
    return {
        each: {"model": Refused, "description": REASONS[each]}
        for each in (*statuses, 401, 408, 413, 429)
    }


class Body(Generic[T]):
    """What an endpoint takes.

    Parameters
    ----------
    kind
        A model, or some of them.
    """

    known: dict[str, Any] = {}  # noqa: RUF012
    """Schemas of all bodies by name."""

    def __init__(self, kind: Any) -> None:
        self._adapter: TypeAdapter[T] = TypeAdapter(kind)
        schema = self._adapter.json_schema(ref_template=REF)
        Body.known |= schema.pop("$defs", {})
        if "title" in schema and schema.get("type") == "object":
            name = schema["title"]
            Body.known[name] = schema
            schema = {"$ref": REF.format(model=name)}
        self.described = {
            "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}
        }

    async def of(self, request: Request) -> T:
        """Return what a call says.

        Raises
        ------
        Refusal
            If it is no JSON, or not what the endpoint takes.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise Refusal(415, "the body must be of the type application/json")
        try:
            return self._adapter.validate_json(await request.body())
        except ValidationError as wrong:
            raise Refusal(422, _told(wrong)) from None


def _told(wrong: ValidationError) -> str:
    """Return one line on the error that lies deepest: the others are of other readings.

    Where a place has several readings and none of them fits, it says all of them.
    """
    errors = wrong.errors(include_url=False, include_context=False)
    first = max(errors, key=lambda each: (
        len(_place(each)), not each["type"].endswith("_type")
    ))  # fmt: skip
    why = first["msg"]
    if _is_reading(first):
        here = [
            each["msg"] for each in errors if _place(each) == _place(first) and _is_reading(each)
        ]
        why = SHOULD + " or ".join(dict.fromkeys(each.removeprefix(SHOULD) for each in here))
    where = ".".join(map(str, _place(first)))
    said = f"{where}: {why}" if where else why
    return f"{said[:LONGEST]}..." if len(said) > LONGEST else said


def _is_reading(error: Any) -> bool:
    """Return whether an error says that a value is not what one reading of it takes."""
    of_kind = error["type"].endswith("_type") or error["type"] == "literal_error"
    return of_kind and error["msg"].startswith(SHOULD)


def _place(error: Any) -> list[int | str]:
    """Return where in the message an error is."""
    return [part for part in error["loc"] if _is_place(part)]


def _is_place(part: int | str) -> bool:
    """Return whether part of a place is one in the message, not a reading of it."""
    return isinstance(part, int) or (part.islower() and part.isidentifier() and part not in _TYPES)


_TYPES = {"int", "str", "float", "none"}


def answer(content: Any, status: int = 200) -> Response:
    """Return an answer in JSON."""
    return Response(
        orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), status,
        media_type="application/json",
    )  # fmt: skip


def described(app: FastAPI, words: str, *, has_token: bool) -> None:
    """Let an application's OpenAPI document tell of the bodies, and of the token."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = made()
            document["info"]["description"] = words
            document["components"]["schemas"] |= Body.known
            if has_token:
                document["components"]["securitySchemes"] = {
                    "token": {"type": "http", "scheme": "bearer"}
                }
                document["security"] = [{"token": []}]
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
