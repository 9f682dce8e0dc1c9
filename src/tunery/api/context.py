"""What a request handler may use: one object a process, made by `create_app`, handed in by `Depends`.

It knows no resource: what one of them keeps between requests is `shared` under its class.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from fastapi import Depends, Request
from sqlalchemy import Engine
from starlette.concurrency import run_in_threadpool

from tunery.domain.clock import Clock, system_clock
from tunery.engines.http import unavailable
from tunery.engines.pool import Engines
from tunery.engines.upstream import Upstream
from tunery.metering.meter import Meter
from tunery.metering.prices import PriceTable
from tunery.models.catalog import Catalog
from tunery.models.sources.cache import cached
from tunery.settings import Settings
from tunery.store.blobs import Blobs
from tunery.store.database import open_database
from tunery.texts import say

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
    judges: Upstream  # at `judge_url`
    kept: dict[type, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, settings: Settings, clock: Clock = system_clock) -> Self:
        """Everything from the settings; reads and writes nothing yet."""
        database, blobs = open_database(settings), Blobs.open(settings)
        catalog = Catalog.of(settings)
        prices = PriceTable.load(settings.prices, [model.name for model in catalog], catalog=catalog)
        return cls(
            settings=settings,
            database=database,
            blobs=blobs,
            catalog=catalog,
            prices=prices,
            meter=Meter(database, prices, settings, clock),
            clock=clock,
            engines=Engines(settings, blobs, catalog),
            upstream=Upstream(
                settings, settings.upstream_base_url, settings.upstream_api_key, key_setting="upstream_api_key"
            ),
            judges=Upstream(settings, settings.judge_url, settings.judge_api_key, key_setting="judge_api_key"),
        )

    def now(self) -> int:
        return int(self.clock())

    def shared(self, kind: type[T]) -> T:
        """The process's one object of this class, made at its first use."""
        found = self.kept.get(kind)
        return self.kept.setdefault(kind, kind()) if found is None else found

    def weights_folder(self, source: str) -> Path:
        """Where a base's weights lie. Raises Unavailable while they are being fetched."""
        folder = cached(source, self.settings.models_dir)
        if folder is None:
            raise unavailable(say("error.base_being_fetched"))
        return folder

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
