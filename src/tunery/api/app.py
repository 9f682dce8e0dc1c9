"""Puts the HTTP service together. Makes everything it needs from the settings; reads and writes nothing yet."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from fastapi import APIRouter, FastAPI
from sqlalchemy.exc import SQLAlchemyError
from starlette.middleware.cors import CORSMiddleware
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from tunery import __version__, tracing
from tunery.api import errors, health, metrics, openapi
from tunery.api.audit_logs import router as audit
from tunery.api.batches.routes import router as batches
from tunery.api.chat.routes import router as inference
from tunery.api.chat.stored import router as stored_completions
from tunery.api.context import Context
from tunery.api.conversations.routes import router as conversations
from tunery.api.delivery import Running, watch_rights
from tunery.api.embeddings import router as embeddings
from tunery.api.evals.of_job import router as evaluations
from tunery.api.evals.routes import router as evals
from tunery.api.files.routes import router as files
from tunery.api.fine_tuning.permissions import router as permissions
from tunery.api.fine_tuning.progress import router as progress
from tunery.api.fine_tuning.routes import router as jobs
from tunery.api.fine_tuning.traces import router as traces
from tunery.api.graders.routes import router as graders
from tunery.api.graders.similarity import Comparers
from tunery.api.keys.routes import router as keys
from tunery.api.limits.routes import router as limits
from tunery.api.middleware import BodyLimit, RequestContext, VisitorAddress, Visitors
from tunery.api.models import router as models
from tunery.api.projects.routes import router as projects
from tunery.api.refusals import Refusals
from tunery.api.responses.background import end_left_alone
from tunery.api.responses.routes import router as responses
from tunery.api.tunery.aliases import router as aliases
from tunery.api.tunery.answers.batches import router as batch_datasets
from tunery.api.tunery.answers.routes import router as answers
from tunery.api.tunery.bases.routes import router as bases
from tunery.api.tunery.console.models import router as catalog
from tunery.api.tunery.console.routes import router as console
from tunery.api.tunery.datasets.routes import router as data
from tunery.api.tunery.datasets.tables import router as tables
from tunery.api.tunery.datasets.versions import router as versions
from tunery.api.tunery.mail import router as mail
from tunery.api.tunery.transfers.routes import router as transfers
from tunery.api.uploads import router as uploads
from tunery.api.usage.routes import router as reports
from tunery.api.webhooks.routes import router as webhooks
from tunery.domain.clock import Clock, system_clock
from tunery.sandbox.pool import Sandbox
from tunery.settings import Settings
from tunery.tracing import Traced

log = logging.getLogger(__name__)

TEND_EVERY_S = 30
ROUTERS: tuple[APIRouter, ...] = (
    inference,  # asked far more often than all others: a request is compared with one route after the other
    embeddings,
    responses,
    batches,
    files,
    uploads,
    jobs,
    permissions,
    progress,
    traces,
    graders,
    evals,
    evaluations,
    models,
    stored_completions,
    conversations,
    webhooks,
    aliases,
    bases,
    transfers,  # before catalog, whose `/models/{model}` takes any path
    catalog,
    console,
    answers,
    batch_datasets,
    data,
    tables,
    versions,
    projects,
    keys,
    limits,
    reports,
    audit,
    mail,
    health.router,
    metrics.router,
)


async def tend(context: Context) -> None:
    """What no request does in time: which answers arrived is noted with the next one, on a quiet server here; and
    responses whose process was killed are ended."""
    while True:
        await asyncio.sleep(TEND_EVERY_S)
        for work in (context.meter.flush, partial(end_left_alone, context)):
            try:
                await asyncio.to_thread(work)
            except SQLAlchemyError:
                log.exception("the database could not be written; it is tried again")


def create_app(settings: Settings, clock: Clock = system_clock) -> FastAPI:
    """The application. Its database must have been migrated; `tunery.api.__main__` and `tunery serve` do that."""
    context = Context.open(settings, clock)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        tending = asyncio.create_task(tend(context))
        watching = asyncio.create_task(watch_rights(context))
        yield
        tending.cancel()
        watching.cancel()
        await context.shared(Running).close()
        context.meter.flush()
        context.shared(Comparers).close()
        await context.shared(Sandbox).close()
        await context.engines.close()
        await context.upstream.close()
        await context.judges.close()
        context.database.dispose()

    app = FastAPI(
        title="Tunery",
        version=__version__,
        description="A self-hosted, drop-in replacement for OpenAI's fine-tuning platform.",
        lifespan=lifespan,
        docs_url=None,  # its page loads scripts from a CDN
        redoc_url=None,
        redirect_slashes=False,  # OpenAI answers 404, and a redirect would drop a POST's body
        # tunery.tracing does it, alike in api and engine; FastAPI's own would also tell what was in a faulty request.
        telemetry={"tracing": False, "metrics": False, "logs": False, "operation_spans": False},
    )
    app.state.context, app.state.visitors = context, Visitors()
    app.add_middleware(Refusals, context=context)
    app.add_middleware(BodyLimit)
    app.add_middleware(RequestContext, access_log=settings.access_log)
    if settings.cors_origins:
        # A key comes in a header, never by itself as a cookie does: so no `allow_credentials`.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=["*"],
        )
    if tracing.is_on():
        app.add_middleware(Traced)
    app.add_middleware(VisitorAddress, visitors=app.state.visitors)
    # Last, so first: from here on `request.client` is who asks, for audit, limits and sign-in alike.
    app.add_middleware(ProxyHeadersMiddleware, trusted_hosts=list(settings.trusted_proxies))
    errors.install(app)
    for router in ROUTERS:
        app.include_router(router)
    openapi.install(app)
    return app
