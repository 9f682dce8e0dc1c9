"""What a request handler may use: one object a process, made by `create_app`, handed in by `Depends`.

It knows no resource: what one of them keeps between requests is `shared` under its class.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request
from sqlalchemy import Engine
from starlette.concurrency import run_in_threadpool

from tunery.domain.clock import Clock
from tunery.engines.pool import Engines
from tunery.engines.upstream import Upstream
from tunery.metering.meter import Meter
from tunery.metering.prices import PriceTable
from tunery.models.catalog import Catalog
from tunery.settings import Settings
from tunery.store.blobs import Blobs

T = TypeVar("T")


@dataclass(frozen=True)
class Context:
    settings: Settings
    database: Engine
    blobs: Blobs
    catalog: Catalog
    prices: PriceTable
    meter: Meter
    clock: Clock
    engines: Engines
    upstream: Upstream
    kept: dict[type, Any] = field(default_factory=dict)

    def now(self) -> int:
        return int(self.clock())

    def shared(self, kind: type[T]) -> T:
        """The process's one object of this class, made at its first use."""
        found = self.kept.get(kind)
        return self.kept.setdefault(kind, kind()) if found is None else found

    async def look(self, work: Callable[[], T]) -> T:
        """A few short reads of the database. SQLite's are done before a thread would have begun, and wait for nobody;
        Postgres' are waited for in one."""
        if self.database.dialect.name == "sqlite":
            return work()
        return await run_in_threadpool(work)


async def get_context(request: Request) -> Context:
    """Async although it does not wait: a plain function would cost a hop to a thread in each request."""
    return request.app.state.context


ContextDep = Annotated[Context, Depends(get_context)]
