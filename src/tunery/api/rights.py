"""An answer in the making ends when its key may no longer ask: revoked, expired, narrowed, its owner demoted or gone,
its project archived.

Stands apart because `running` knows of tasks only, and what looks keys up imports the context.
"""

import asyncio
import logging

from sqlalchemy.exc import SQLAlchemyError

from tunery.api.access import check_still
from tunery.api.context import Context
from tunery.api.running import Running
from tunery.domain.errors import TuneryError
from tunery.domain.tenants import Caller, Scope
from tunery.store.database import read

log = logging.getLogger(__name__)

LOOK_EVERY_S = 2.0


async def watch_rights(context: Context) -> None:
    """Runs as long as the server. Of all answers together it reads a few rows each time, and none while there are no
    answers."""
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        try:
            await look(context)
        except SQLAlchemyError:
            log.warning("the rights of running answers could not be looked at; they are looked at again", exc_info=True)


async def look(context: Context) -> None:
    callers = context.shared(Running).callers
    if not callers:
        return
    for caller, error in (await context.look(lambda: _lost(context, callers))).items():
        context.shared(Running).cut_off(caller, error)


def _lost(context: Context, callers: set[Caller]) -> dict[Caller, TuneryError]:
    lost: dict[Caller, TuneryError] = {}
    with read(context.database) as conn:
        for caller in callers:
            try:
                check_still(conn, caller, Scope.MODELS_REQUEST, context.clock())
            except TuneryError as error:
                lost[caller] = error
    return lost
