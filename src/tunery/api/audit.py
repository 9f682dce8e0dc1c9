"""Writes into the audit log what changes outside `/organization`, whose own routes log with their transaction.

Plain ASGI: an answer that says that something was changed is held until the log has it.
"""

import asyncio
import logging
from typing import Any

import orjson
from sqlalchemy.exc import SQLAlchemyError
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tunery.api.context import Context
from tunery.api.refusals import TYPES, Refusals
from tunery.api.trail import MAX_USER_AGENT, actor_of
from tunery.domain.audit import AuditEvent
from tunery.domain.ids import new_id
from tunery.domain.tenants import Caller
from tunery.store.audit import add_audit
from tunery.store.database import write

log = logging.getLogger(__name__)

API_PATHS = ("/v1/", "/tunery/")

JOB = "/v1/fine_tuning/jobs"
PERMISSIONS = "/v1/fine_tuning/checkpoints/{checkpoint}/permissions"
HOOKS = "/v1/webhook_endpoints"
COMPLETION = "/v1/chat/completions/{completion_id}"

EVENTS: dict[tuple[str, str], str] = {
    ("POST", "/v1/files"): "file.created",
    ("DELETE", "/v1/files/{file_id}"): "file.deleted",
    ("POST", "/tunery/v1/files/{file_id}/split"): "file.created",
    ("POST", "/v1/uploads/{upload_id}/complete"): "file.created",
    ("POST", JOB): "fine_tuning.job.created",
    ("POST", JOB + "/{job_id}/cancel"): "fine_tuning.job.cancelled",
    ("POST", JOB + "/{job_id}/pause"): "fine_tuning.job.paused",
    ("POST", JOB + "/{job_id}/resume"): "fine_tuning.job.resumed",
    ("POST", "/tunery/v1/jobs/{job_id}"): "fine_tuning.job.renamed",
    ("POST", "/tunery/v1/models/{model}"): "model.renamed",
    ("DELETE", "/v1/models/{model}"): "model.deleted",
    ("POST", PERMISSIONS): "checkpoint.permission.created",
    ("DELETE", PERMISSIONS + "/{permission_id}"): "checkpoint.permission.deleted",
    ("POST", HOOKS): "webhook_endpoint.created",
    ("POST", HOOKS + "/{endpoint_id}"): "webhook_endpoint.updated",
    ("DELETE", HOOKS + "/{endpoint_id}"): "webhook_endpoint.deleted",
    ("POST", HOOKS + "/{endpoint_id}/rotate_secret"): "webhook_endpoint.secret_rotated",
    ("POST", "/tunery/v1/aliases"): "alias.updated",
    ("POST", "/tunery/v1/aliases/revert"): "alias.reverted",
    ("DELETE", "/tunery/v1/aliases"): "alias.deleted",
    ("POST", COMPLETION): "chat.completion.updated",
    ("DELETE", COMPLETION): "chat.completion.deleted",
}
UNLOGGED = frozenset(  # they change nothing that somebody else could miss; the usage ledger has what they cost
    {
        ("POST", "/tunery/v1/webhook_addresses"),  # only judged
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/completions"),
        ("POST", "/v1/uploads"),
        ("POST", "/v1/uploads/{upload_id}/parts"),
        ("POST", "/v1/uploads/{upload_id}/cancel"),
        ("POST", "/v1/fine_tuning/alpha/graders/run"),
        ("POST", "/v1/fine_tuning/alpha/graders/validate"),
        ("POST", HOOKS + "/{endpoint_id}/test"),
        ("POST", "/tunery/v1/webhook_deliveries/{webhook_id}/resend"),
        ("POST", "/tunery/v1/validations"),
        ("POST", "/tunery/v1/estimates"),
        ("POST", "/tunery/v1/scores"),
    }
)
TOLD = (
    "filename",
    "purpose",
    "display_name",
    "model",
    "training_file",
    "name",
    "url",
    "target",
    "project_id",
)  # no secret, no prompt


class AuditTrail:
    def __init__(self, app: ASGIApp, context: Context) -> None:
        self.app = app
        self.context = context
        self.refusals = Refusals(context)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        held: list[Message] = []

        async def hold(message: Message) -> None:
            begins = message["type"] == "http.response.start"
            if begins and message["status"] in TYPES and scope["path"].startswith(API_PATHS):
                await self.refusals.note(scope, message["status"])
            if not held and not (begins and self._is_logged(scope, message)):
                await send(message)
                return
            held.append(message)
            if not begins and not message.get("more_body"):
                await self._log(scope, held)
                for each in held:
                    await send(each)

        await self.app(scope, receive, hold)

    def _is_logged(self, scope: Scope, message: Message) -> bool:
        return message["status"] < 300 and _event_type(scope) is not None and "caller" in scope.get("state", {})

    async def _log(self, scope: Scope, messages: list[Message]) -> None:
        """The change is made: when the log cannot be written, the server's own log has it and the client its answer."""
        body = b"".join(message.get("body", b"") for message in messages)
        try:
            await asyncio.to_thread(self._write, scope, _parsed(body))
        except SQLAlchemyError:
            log.exception("not in the audit log: %s %s", _event_type(scope), scope["path"])

    def _write(self, scope: Scope, answer: dict[str, Any]) -> None:
        caller: Caller = scope["state"]["caller"]
        agent = Headers(scope=scope).get("user-agent", "")[:MAX_USER_AGENT]
        address = scope["client"][0] if scope.get("client") else None
        with write(self.context.database) as conn:
            event = AuditEvent(
                id=new_id("audit"),
                organization_id=caller.organization_id,
                project_id=caller.project_id or None,
                created_at=self.context.now(),
                type=_event_type(scope) or "",
                actor=actor_of(conn, caller, address, agent or None),
                resource_id=_resource_id(scope, answer),
                details={"data": {name: answer[name] for name in TOLD if isinstance(answer.get(name), str)}},
            )
            add_audit(conn, event)


def _event_type(scope: Scope) -> str | None:
    return EVENTS.get((scope["method"], getattr(scope.get("route"), "path", "")))


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _resource_id(scope: Scope, answer: dict[str, Any]) -> str | None:
    """What the answer is about; of a list of new objects, the first; else what the path names."""
    if isinstance(answer.get("file"), dict):  # a completed upload
        return answer["file"].get("id")
    if isinstance(answer.get("id"), str):
        return answer["id"]
    listed = answer.get("data")
    if isinstance(listed, list) and listed and isinstance(listed[0], dict) and "id" in listed[0]:
        return listed[0]["id"]
    named = list(scope.get("path_params", {}).values())
    return named[-1] if named else answer.get("name")
