"""Who asks, for the audit log; and the one way to write into it from here, in the transaction of the change itself."""

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request
from sqlalchemy import Connection

from tunery.api.access import Admin
from tunery.domain.audit import Actor, AuditEvent
from tunery.domain.ids import new_id
from tunery.domain.tenants import Caller
from tunery.store import tenants
from tunery.store.audit import add_audit

MAX_USER_AGENT = 200


@dataclass(frozen=True)
class Operator:
    """An administrator and where they are."""

    caller: Caller
    ip_address: str | None
    user_agent: str | None

    @property
    def organization_id(self) -> str:
        return self.caller.organization_id


def operator_of(request: Request, caller: Admin) -> Operator:
    address = request.client.host if request.client else None
    return Operator(caller, address, (request.headers.get("user-agent") or "")[:MAX_USER_AGENT] or None)


OperatorDep = Annotated[Operator, Depends(operator_of)]


def record(
    conn: Connection,
    operator: Operator,
    type: str,
    *,
    now: float,
    resource_id: str,
    project_id: str | None = None,
    made: dict[str, Any] | None = None,
    changed: dict[str, Any] | None = None,
) -> None:
    """What was `made`, or asked to be `changed`, goes out under the event's name as OpenAI's `data` and
    `changes_requested`."""
    details = {"data": made, "changes_requested": changed}
    event = AuditEvent(
        id=new_id("audit"),
        organization_id=operator.organization_id,
        project_id=project_id or operator.caller.project_id or None,
        created_at=int(now),
        type=type,
        actor=actor_of(conn, operator.caller, operator.ip_address, operator.user_agent),
        resource_id=resource_id,
        details={name: value for name, value in details.items() if value is not None},
    )
    add_audit(conn, event)


def actor_of(conn: Connection, caller: Caller, ip_address: str | None, user_agent: str | None) -> Actor:
    user = tenants.find_user(conn, caller.user_id) if caller.user_id else None
    return Actor(
        api_key_id=caller.key_id,
        user_id=caller.user_id,
        user_email=user.email if user else None,
        is_service_account=bool(user and user.is_service_account),
        ip_address=ip_address,
        user_agent=user_agent,
    )
