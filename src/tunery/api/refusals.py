"""Refused keys and refused rights in the audit log, so bounded that nobody can fill the disk by asking."""

import logging
import time
from collections import OrderedDict
from dataclasses import dataclass, field

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tunery.api.access import address_of, user_agent_of
from tunery.api.context import Context
from tunery.domain.audit import Actor, AuditEvent, EventType
from tunery.domain.clock import Clock
from tunery.domain.ids import new_id
from tunery.domain.tenants import lookup_prefix
from tunery.store import tenants
from tunery.store.audit import actor_of, add_audit
from tunery.store.database import write

log = logging.getLogger(__name__)

API_PATHS = ("/v1/", "/tunery/")
TYPES: dict[int, EventType] = {
    401: "login.failed",
    403: "permission.refused",
}  # the first is OpenAI's name, for sessions
SAME_AGAIN_S = 600  # the same refusal of the same address is counted for so long, not written
MAX_AN_HOUR = 100
MAX_REMEMBERED = 1000


@dataclass
class Allowance:
    """Which refusals are written: the first of its kind, then one in ten minutes, and no more than 100 an hour."""

    clock: Clock = time.monotonic
    seen: OrderedDict[tuple[str | None, int, str], float] = field(default_factory=OrderedDict)
    written: list[float] = field(default_factory=list)  # of the last hour
    num_left_out: int = 0

    def take(self, kind: tuple[str | None, int, str]) -> int | None:
        """How many were left out before this one; None when this one is left out, too."""
        now = self.clock()
        self.written = [at for at in self.written if at > now - 3600]
        if self.seen.get(kind, float("-inf")) > now - SAME_AGAIN_S or len(self.written) >= MAX_AN_HOUR:
            self.num_left_out += 1
            return None
        self.seen[kind] = now
        self.seen.move_to_end(kind)
        while len(self.seen) > MAX_REMEMBERED:
            self.seen.popitem(last=False)
        self.written.append(now)
        left_out, self.num_left_out = self.num_left_out, 0
        return left_out


class Refusals:
    """Plain ASGI: a refusal is written down before it is answered."""

    def __init__(self, app: ASGIApp, context: Context) -> None:
        self.app = app
        self._context = context
        self.allowance = Allowance()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def noted(message: Message) -> None:
            is_refusal = message["type"] == "http.response.start" and message["status"] in TYPES
            if is_refusal and scope["path"].startswith(API_PATHS):
                await self._note(scope, message["status"])
            await send(message)

        await self.app(scope, receive, noted)

    async def _note(self, scope: Scope, status: int) -> None:
        """Never raises: a log that cannot be written refuses nobody who would be let in."""
        key = self._key_of(scope)
        left_out = self.allowance.take((address_of(HTTPConnection(scope)), status, key))
        if left_out is None:
            return
        try:
            await run_in_threadpool(self._write, scope, status, key, left_out)
        except SQLAlchemyError:
            log.exception("not in the audit log: %s of %s %s", TYPES[status], scope["method"], scope["path"])

    def _key_of(self, scope: Scope) -> str:
        """The part of the key that finds its row; it is no secret."""
        secret = Headers(scope=scope).get("authorization", "").partition(" ")[2].strip()
        return lookup_prefix(secret) if secret else ""

    def _write(self, scope: Scope, status: int, key: str, left_out: int) -> None:
        caller = scope["state"].get("caller")
        error = scope["state"].get("error")
        with write(self._context.database) as conn:
            if caller is not None:
                actor = actor_of(conn, caller)
                organization_id, project_id = caller.organization_id, caller.project_id or None
            else:
                actor, organization_id, project_id = self._stranger(conn, key, HTTPConnection(scope))
            details = {
                "error_code": getattr(error, "code", None),
                "error_message": getattr(error, "message", "")[:500],
                "request": f"{scope['method']} {scope['path'][:200]}",
                "not_listed": left_out,
            }
            event = AuditEvent(
                id=new_id("audit"),
                organization_id=organization_id,
                project_id=project_id,
                created_at=self._context.now(),
                type=TYPES[status],
                actor=actor,
                resource_id=None,
                details=details,
            )
            add_audit(conn, event)

    def _stranger(self, conn: Connection, prefix: str, request: HTTPConnection) -> tuple[Actor, str, str | None]:
        """Who has, or had, a key that begins so; else nobody, in the log of the organisation that set the server up."""
        key = tenants.find_key_by_prefix(conn, prefix) if prefix else None
        agent = user_agent_of(request)
        actor = Actor(api_key_id=key.id if key else None, ip_address=address_of(request), user_agent=agent)
        if key is not None:
            return actor, key.organization_id, key.project_id
        return actor, tenants.list_organizations(conn)[0].id, None
