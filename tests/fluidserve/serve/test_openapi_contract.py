"""What the OpenAPI document says is what the service does: calls are made from it and checked."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from toy_service import application_of, service_of

pytestmark = pytest.mark.slow

schema = schemathesis.openapi.from_asgi("/openapi.json", application_of(service_of()))


@schema.parametrize()
@settings(
    max_examples=25, deadline=None, phases=[Phase.explicit, Phase.generate], derandomize=True,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
def test_every_call_does_what_the_document_says(case):
    case.call_and_validate()
