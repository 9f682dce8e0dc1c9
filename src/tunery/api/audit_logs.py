"""GET /organization/audit_logs in OpenAI's shape: the part of an event that tells what happened has its name."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from fastapi import Depends, Query
from pydantic import BaseModel, ConfigDict

from tunery.api.access import Admin
from tunery.api.context import ContextDep
from tunery.api.paging import After, CursorListing, Limit
from tunery.api.routing import Router
from tunery.domain.audit import Actor, AuditEvent, OpenAIEvent
from tunery.domain.tenants import Project
from tunery.store import tenants
from tunery.store.audit import list_audit
from tunery.store.database import read

router = Router(prefix="/v1/organization", tags=["Administration"])

# A strict client fails on any other name, so that the others, such as file.deleted, come only when they are asked for.
OPENAI_TYPES: tuple[str, ...] = get_args(OpenAIEvent)

Texts = list[str] | None
EveryType = Annotated[bool, Query(description="Also the events that OpenAI's API has no name for.")]
Moment = Annotated[int | None, Query(ge=0, le=10**11)]


class AuditProject(BaseModel):
    id: str
    name: str


class AuditOut(BaseModel):
    """Besides these, one key named like `type` with `id` and what was asked for."""

    model_config = ConfigDict(extra="allow")

    id: str
    object: Literal["organization.audit_log"] = "organization.audit_log"
    type: str
    effective_at: int
    project: AuditProject | None
    actor: dict[str, Any]


def _many(name: str) -> Any:
    return Query(alias=f"{name}[]", max_length=100)


@dataclass(frozen=True)
class Range:
    """effective_at[gt], [gte], [lt] and [lte], as one half-open range."""

    since: int | None
    until: int | None


def effective_range(
    gt: Annotated[Moment, Query(alias="effective_at[gt]")] = None,
    gte: Annotated[Moment, Query(alias="effective_at[gte]")] = None,
    lt: Annotated[Moment, Query(alias="effective_at[lt]")] = None,
    lte: Annotated[Moment, Query(alias="effective_at[lte]")] = None,
) -> Range:
    lower = [value for value in (gte, None if gt is None else gt + 1) if value is not None]
    upper = [value for value in (lt, None if lte is None else lte + 1) if value is not None]
    return Range(max(lower, default=None), min(upper, default=None))


@router.get("/audit_logs")
def list_audit_logs(
    caller: Admin,
    context: ContextDep,
    effective_at: Annotated[Range, Depends(effective_range)],
    project_ids: Annotated[Texts, _many("project_ids")] = None,
    event_types: Annotated[Texts, _many("event_types")] = None,
    actor_ids: Annotated[Texts, _many("actor_ids")] = None,
    actor_emails: Annotated[Texts, _many("actor_emails")] = None,
    resource_ids: Annotated[Texts, _many("resource_ids")] = None,
    every_type: EveryType = False,
    tenant_only: bool = False,
    after: After = None,
    before: After = None,
    limit: Limit = 20,
) -> CursorListing[AuditOut]:
    """Newest first. `tenant_only` means nothing here: there is one tenant."""
    with read(context.database) as conn:
        page = list_audit(
            conn,
            caller.organization_id,
            project_ids=tuple(project_ids or ()),
            types=tuple(event_types or (() if every_type else OPENAI_TYPES)),
            actor_ids=tuple(actor_ids or ()),
            actor_emails=tuple(actor_emails or ()),
            resource_ids=tuple(resource_ids or ()),
            since=effective_at.since,
            until=effective_at.until,
            after=after,
            before=before,
            limit=limit,
        )
        projects = tenants.list_projects(conn, caller.organization_id, include_archived=True, limit=10_000).items
    names = {project.id: project for project in projects}
    return CursorListing[AuditOut].of(page, lambda event: wire_audit(event, names))


def wire_audit(event: AuditEvent, projects: dict[str, Project]) -> AuditOut:
    project = projects.get(event.project_id or "")
    values = {
        "id": event.id,
        "type": event.type,
        "effective_at": event.created_at,
        "project": AuditProject(id=project.id, name=project.name) if project else None,
        "actor": _wire_actor(event.actor),
        event.type: {"id": event.resource_id, **event.details},
    }
    return AuditOut.model_validate(values)


def _wire_actor(actor: Actor) -> dict[str, Any]:
    """A key did it; the address and the client stand beside it, where OpenAI has them for sessions only."""
    kind = "service_account" if actor.is_service_account else "user"
    owner = {"id": actor.user_id} if actor.is_service_account else {"id": actor.user_id, "email": actor.user_email}
    key = {
        "id": actor.api_key_id,
        "type": kind,
        kind: owner if actor.user_id else None,
        "ip_address": actor.ip_address,
        "user_agent": actor.user_agent,
    }
    return {"type": "api_key", "api_key": key, "session": None}
