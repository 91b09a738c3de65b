"""A small service."""

from __future__ import annotations

import pytest
from toy_service import client_of, service_of


@pytest.fixture
def service():
    return service_of()


@pytest.fixture
def client(service):
    return client_of(service)
