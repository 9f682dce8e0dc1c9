"""Are the parts of this installation up? `/health` tells, `/health/live` and `/health/ready` are for load balancers."""

import asyncio
from typing import Literal

from fastapi import Response
from pydantic import BaseModel, Field
from sqlalchemy.exc import SQLAlchemyError

from tunery import __version__
from tunery.api.context import Context, ContextDep
from tunery.api.routing import Router
from tunery.engines.host import State as BaseState
from tunery.store import workers
from tunery.store.blobs import Blobs
from tunery.store.database import read

router = Router(tags=["Operation"])

WORKER_SILENT_S = 30  # a worker says that it lives every few seconds
BLOBS_SILENT_S = 3.0
NEEDED = ("database", "blobs", "engine")  # without a worker jobs wait, at every api alike

State = Literal["up", "down"]


class Health(BaseModel):
    status: Literal["ok", "degraded"]
    version: str
    database: State
    blobs: State
    worker: State
    engine: State
    bases: dict[str, BaseState] = Field(description="Of each base by its name: warm ones answer at once.")


class Live(BaseModel):
    status: Literal["ok"] = "ok"


@router.get("/health/live")
async def live() -> Live:
    """200 while this process answers at all. Looks at nothing else: a restart of it would not help the others."""
    return Live()


@router.get("/health/ready", responses={503: {"model": Health, "description": "A part is down; the body says which."}})
async def ready(context: ContextDep, response: Response) -> Health:
    """200 while database, blobs and an engine are up: send requests here. The body also tells of workers."""
    found = await look(context)
    if any(getattr(found, part) == "down" for part in NEEDED):
        response.status_code = 503
    return found


@router.get("/health", responses={503: {"model": Health, "description": "The database is down."}})
async def health(context: ContextDep, response: Response) -> Health:
    """200 while requests can be answered: without a worker jobs wait, without an engine only inference fails."""
    found = await look(context)
    if found.database == "down":
        response.status_code = 503
    return found


async def look(context: Context) -> Health:
    num_workers, blobs_up, engine_up, loaded = await asyncio.gather(
        asyncio.to_thread(count_workers, context), _blobs_up(context), context.engines.is_up(), context.engines.states()
    )
    # By name: who has no key is not told of folders, which a source may be.
    bases: dict[str, BaseState] = {
        model.name: loaded[model.source] for model in context.catalog if model.source in loaded
    }
    states: dict[str, State] = {
        "database": "down" if num_workers is None else "up",
        "blobs": "up" if blobs_up else "down",
        "worker": "up" if num_workers else "down",
        "engine": "up" if engine_up else "down",
    }
    all_up = all(state == "up" for state in states.values())
    return Health(status="ok" if all_up else "degraded", version=__version__, bases=bases, **states)


async def _blobs_up(context: Context) -> bool:
    """Asked once and not long: who asks for readiness asks again. Not in a thread: a silent store would hold it, and
    with it, after some looks, those that answers need."""
    blobs = Blobs.open(context.settings, max_retries=0)
    try:
        return await asyncio.wait_for(blobs.is_up(), BLOBS_SILENT_S)
    except TimeoutError:
        return False


def count_workers(context: Context) -> int | None:
    """None when the database does not answer."""
    try:
        with read(context.database) as conn:
            return workers.count_workers(conn, seen_since=context.clock() - WORKER_SILENT_S)
    except SQLAlchemyError:
        return None
