"""Which other projects may use a checkpoint. Only the owner of its project decides."""

from typing import Annotated, Literal

from fastapi import Query

from tunery.api.access import ModelsReader, ModelsWriter, require_owner
from tunery.api.context import ContextDep
from tunery.api.fine_tuning.schemas import DeletedPermission, Permission, PermissionsCreate
from tunery.api.paging import After, CursorListing, Limit
from tunery.api.routing import Router
from tunery.domain.errors import NotFound
from tunery.store import models, tenants
from tunery.store.audit import record
from tunery.store.database import read, write
from tunery.store.paging import Page
from tunery.texts import say

router = Router(prefix="/v1/fine_tuning/checkpoints", tags=["Checkpoint permissions"])


@router.post("/{checkpoint:path}/permissions")
def create_permissions(
    checkpoint: str, body: PermissionsCreate, caller: ModelsWriter, context: ContextDep
) -> CursorListing[Permission]:
    # One permission a project, all or none. Sharing twice gives the permission that is there.
    require_owner(caller)
    with write(context.database) as conn:
        model = models.get_own_model(conn, checkpoint, caller.project_id)
        tenants.get_active_project(conn, caller.project_id)
        for project_id in body.project_ids:
            tenants.get_active_project(conn, project_id, caller.organization_id)
        made = tuple(
            models.insert_permission(conn, model.name, project_id, context.now())
            for project_id in dict.fromkeys(body.project_ids)
        )
        for item in made:
            told = {"project_id": item.project_id, "fine_tuned_model_checkpoint": model.name}
            event = "checkpoint.permission.created"
            record(conn, caller, event, now=context.clock(), resource_id=item.id, made=told)
    return CursorListing[Permission].of(Page(made), Permission.of)


@router.get("/{checkpoint:path}/permissions")
def list_permissions(
    checkpoint: str,
    caller: ModelsReader,
    context: ContextDep,
    project_id: Annotated[str | None, Query(max_length=200)] = None,
    after: After = None,
    limit: Limit = 10,
    order: Literal["ascending", "descending"] = "descending",
) -> CursorListing[Permission]:
    require_owner(caller)
    with read(context.database) as conn:
        model = models.get_own_model(conn, checkpoint, caller.project_id)
        page = models.list_permissions(
            conn, model.name, project_id=project_id, after=after, limit=limit, descending=order == "descending"
        )
    return CursorListing[Permission].of(page, Permission.of)


@router.delete("/{checkpoint:path}/permissions/{permission_id}")
def delete_permission(
    checkpoint: str, permission_id: str, caller: ModelsWriter, context: ContextDep
) -> DeletedPermission:
    require_owner(caller)
    with write(context.database) as conn:
        model = models.get_own_model(conn, checkpoint, caller.project_id)
        if not models.delete_permission(conn, model.name, permission_id):
            raise NotFound(say("error.no_such_permission", permission_id=permission_id), param="permission_id")
        record(conn, caller, "checkpoint.permission.deleted", now=context.clock(), resource_id=permission_id)
    return DeletedPermission(id=permission_id)
