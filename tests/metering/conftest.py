"""The store's fixtures, and a project that spends."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine

from tests.store.conftest import NOW, MakeJob, Tenant, make_job, tenant
from tunery.domain.tenants import Caller, Role
from tunery.metering.ledger import RequestIds
from tunery.metering.meter import Meter
from tunery.metering.prices import PriceTable
from tunery.settings import Settings

__all__ = ["MakeJob", "make_job", "tenant"]

BASE = "gpt-4o-mini-2024-07-18"
TUNED = f"ft:{BASE}:acme::abcdefgh"


class Clock:
    def __init__(self) -> None:
        self.now = float(NOW)

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def prices() -> PriceTable:
    return PriceTable.load()


@pytest.fixture
def caller(tenant: Tenant) -> Caller:
    return Caller("key_a", tenant.organization_id, tenant.project_id, tenant.user_id, Role.MEMBER)


MakeMeter = Callable[..., Meter]


@pytest.fixture
def make_meter(database: Engine, prices: PriceTable, clock: Clock) -> MakeMeter:
    def make(**settings: Any) -> Meter:
        return Meter(database, prices, Settings(**settings), clock)

    return make


def ids(number: int, client: str | None = None) -> RequestIds:
    return RequestIds(f"req_{number}", client)
