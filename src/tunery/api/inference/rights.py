"""An answer in the making ends when its key may no longer ask: revoked, expired, narrowed, its owner demoted or gone,
its project archived.

Stands apart because `running` knows of tasks only, and what looks keys up imports the services that hold those.
"""

import asyncio
import logging

from sqlalchemy.exc import SQLAlchemyError

from tunery.api.auth import check_still
from tunery.api.services import Services
from tunery.domain.errors import TuneryError
from tunery.domain.tenants import Caller, Scope
from tunery.store.database import read

log = logging.getLogger(__name__)

LOOK_EVERY_S = 2.0


async def watch_rights(services: Services) -> None:
    """Runs as long as the server. Of all answers together it reads a few rows each time, and none while there are no
    answers."""
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        try:
            await look(services)
        except SQLAlchemyError:
            log.warning("the rights of running answers could not be looked at; they are looked at again", exc_info=True)


async def look(services: Services) -> None:
    callers = services.running.callers
    if not callers:
        return
    for caller, error in (await services.look(lambda: _lost(services, callers))).items():
        services.running.cut_off(caller, error)


def _lost(services: Services, callers: set[Caller]) -> dict[Caller, TuneryError]:
    lost: dict[Caller, TuneryError] = {}
    with read(services.engine) as conn:
        for caller in callers:
            try:
                check_still(conn, caller, Scope.MODELS_REQUEST, services.clock())
            except TuneryError as error:
                lost[caller] = error
    return lost
