"""What a request handler may use: one object a process, made by `create_app`, handed in by `Depends`."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, TypeVar

from fastapi import Depends, Request
from sqlalchemy import Engine
from starlette.concurrency import run_in_threadpool

from tunery.api.data.reports import ReportCache
from tunery.api.graders.similarity import Comparers
from tunery.api.inference.engines import Engines
from tunery.api.inference.running import Running
from tunery.api.inference.upstream import Upstream
from tunery.domain.clock import Clock
from tunery.metering.meter import Meter
from tunery.metering.prices import PriceTable
from tunery.models.catalog import Catalog
from tunery.settings import Settings
from tunery.store.blobs import Blobs

T = TypeVar("T")


@dataclass(frozen=True)
class Services:
    settings: Settings
    engine: Engine  # the database
    blobs: Blobs
    catalog: Catalog
    prices: PriceTable
    meter: Meter
    clock: Clock
    engines: Engines
    upstream: Upstream
    reports: ReportCache = field(default_factory=ReportCache)
    running: Running = field(default_factory=Running)
    comparers: Comparers = field(default_factory=Comparers)

    def now(self) -> int:
        return int(self.clock())

    async def look(self, work: Callable[[], T]) -> T:
        """A few short reads of the database. SQLite's are done before a thread would have begun, and wait for nobody;
        Postgres' are waited for in one."""
        if self.engine.dialect.name == "sqlite":
            return work()
        return await run_in_threadpool(work)


async def get_services(request: Request) -> Services:
    """Async although it does not wait: a plain function would cost a hop to a thread in each request."""
    return request.app.state.services


ServicesDep = Annotated[Services, Depends(get_services)]
