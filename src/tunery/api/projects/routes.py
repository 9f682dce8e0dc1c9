"""Projects, who is in them, and the people of the organisation. Every change is in the audit log."""

from typing import Annotated, Any

from fastapi import Query
from sqlalchemy import Connection

from tunery.api.access import Admin
from tunery.api.context import ContextDep
from tunery.api.paging import After, CursorListing, Limit
from tunery.api.projects.schemas import (
    Deleted,
    MemberCreate,
    MemberOut,
    MemberUpdate,
    ProjectCreate,
    ProjectOut,
    ProjectUpdate,
    UserOut,
    UserUpdate,
    wire_member,
)
from tunery.api.routing import Router
from tunery.domain.errors import InvalidRequest
from tunery.domain.ids import new_id
from tunery.domain.tenants import Caller, Project, Role, User
from tunery.jobs.verbs import cancel_all
from tunery.store import tenants, transfers
from tunery.store.audit import record
from tunery.store.database import read, write
from tunery.texts import reference, say

router = Router(prefix="/v1/organization", tags=["Administration"])

Emails = Annotated[list[str] | None, Query(alias="emails[]", max_length=100)]


@router.post("/projects")
def create_project(body: ProjectCreate, caller: Admin, context: ContextDep) -> ProjectOut:
    now, name = context.now(), body.name
    project = Project(new_id("project"), caller.organization_id, name, now)
    with write(context.database) as conn:
        tenants.insert_project(conn, project)
        made = {"name": name, "title": name}
        record(conn, caller, "project.created", now=now, resource_id=project.id, project_id=project.id, made=made)
    return ProjectOut.of(project)


@router.get("/projects")
def list_projects(
    caller: Admin,
    context: ContextDep,
    after: After = None,
    limit: Limit = 20,
    include_archived: bool = False,
) -> CursorListing[ProjectOut]:
    organization_id = caller.organization_id
    with read(context.database) as conn:
        page = tenants.list_projects(conn, organization_id, after=after, limit=limit, include_archived=include_archived)
    return CursorListing[ProjectOut].of(page, ProjectOut.of)


@router.get("/projects/{project_id}")
def retrieve_project(project_id: str, caller: Admin, context: ContextDep) -> ProjectOut:
    with read(context.database) as conn:
        return ProjectOut.of(tenants.get_project(conn, project_id, caller.organization_id))


@router.post("/projects/{project_id}")
def update_project(
    project_id: str, caller: Admin, context: ContextDep, body: ProjectUpdate | None = None
) -> ProjectOut:
    name = body.name if body else None
    with write(context.database) as conn:
        project = tenants.get_active_project(conn, project_id, caller.organization_id)
        if name is not None and name != project.name:
            tenants.rename_project(conn, project_id, name)
            now, changed = context.clock(), {"title": name}
            record(
                conn,
                caller,
                "project.updated",
                now=now,
                resource_id=project_id,
                project_id=project_id,
                changed=changed,
            )
        return ProjectOut.of(tenants.get_project(conn, project_id))


@router.post("/projects/{project_id}/archive")
def archive_project(project_id: str, caller: Admin, context: ContextDep) -> ProjectOut:
    # Its keys stop at once, its jobs are cancelled, its exports and imports end. The last active project stays: nowhere
    # else could one work.
    now = context.clock()
    with write(context.database) as conn:
        project = tenants.get_project(conn, project_id, caller.organization_id)
        if project.archived_at is not None:
            return ProjectOut.of(project)
        if len(tenants.list_projects(conn, caller.organization_id, limit=2).items) == 1:
            raise InvalidRequest(say("error.last_project"), param="project_id")
        tenants.archive_project(conn, project_id, now)
        cancel_all(conn, project_id, clock=context.clock)
        transfers.end_all(conn, project_id, now, _archived(project))
        record(conn, caller, "project.archived", now=now, resource_id=project_id, project_id=project_id)
        return ProjectOut.of(tenants.get_project(conn, project_id))


def _archived(project: Project) -> dict[str, Any]:
    """Why what it has under way fails."""
    message = say("error.project_takes_nothing_new", name=project.name)
    return {"code": "project_archived", "message": message, "texts": {"message": reference(message)}}


@router.post("/projects/{project_id}/users")
def add_project_user(project_id: str, body: MemberCreate, caller: Admin, context: ContextDep) -> MemberOut:
    now, made = context.clock(), {"role": body.role}
    with write(context.database) as conn:
        tenants.get_active_project(conn, project_id, caller.organization_id)
        user = _member_to_be(conn, caller, body, now)
        tenants.set_membership(conn, project_id, user.id, Role(body.role), now)
        record(conn, caller, "user.added", now=now, resource_id=user.id, project_id=project_id, made=made)
        return wire_member(tenants.get_membership(conn, project_id, user.id))


def _member_to_be(conn: Connection, caller: Caller, body: MemberCreate, now: float) -> User:
    if body.user_id is not None:
        return tenants.get_user(conn, body.user_id, caller.organization_id)
    if body.email is None:
        raise InvalidRequest(say("error.member_not_named"), param="user_id")
    known = tenants.list_users(conn, caller.organization_id, emails=(body.email,)).items
    if known:
        return known[0]
    name = body.email.partition("@")[0]
    user = User(new_id("user"), caller.organization_id, name, body.email, Role.READER, int(now))
    tenants.insert_user(conn, user)
    return user


@router.get("/projects/{project_id}/users")
def list_project_users(
    project_id: str, caller: Admin, context: ContextDep, after: After = None, limit: Limit = 20
) -> CursorListing[MemberOut]:
    with read(context.database) as conn:
        tenants.get_project(conn, project_id, caller.organization_id)
        page = tenants.list_members(conn, project_id, after=after, limit=limit)
    return CursorListing[MemberOut].of(page, wire_member)


@router.get("/projects/{project_id}/users/{user_id}")
def retrieve_project_user(project_id: str, user_id: str, caller: Admin, context: ContextDep) -> MemberOut:
    with read(context.database) as conn:
        tenants.get_project(conn, project_id, caller.organization_id)
        return wire_member(tenants.get_membership(conn, project_id, user_id))


@router.post("/projects/{project_id}/users/{user_id}")
def update_project_user(
    project_id: str, user_id: str, caller: Admin, context: ContextDep, body: MemberUpdate | None = None
) -> MemberOut:
    now, role = context.clock(), body.role if body else None
    with write(context.database) as conn:
        tenants.get_active_project(conn, project_id, caller.organization_id)
        member = tenants.get_membership(conn, project_id, user_id)
        if role is None or role == member.role:
            return wire_member(member)
        tenants.set_membership(conn, project_id, user_id, Role(role), now)
        changed = {"role": role}
        record(conn, caller, "user.updated", now=now, resource_id=user_id, project_id=project_id, changed=changed)
        return wire_member(tenants.get_membership(conn, project_id, user_id))


@router.delete("/projects/{project_id}/users/{user_id}")
def remove_project_user(project_id: str, user_id: str, caller: Admin, context: ContextDep) -> Deleted:
    now = context.clock()
    with write(context.database) as conn:
        tenants.get_project(conn, project_id, caller.organization_id)
        tenants.get_membership(conn, project_id, user_id)
        tenants.delete_membership(conn, project_id, user_id, now)
        record(conn, caller, "user.deleted", now=now, resource_id=user_id, project_id=project_id)
    return Deleted(id=user_id, object="organization.project.user.deleted")


@router.get("/users")
def list_users(
    caller: Admin, context: ContextDep, emails: Emails = None, after: After = None, limit: Limit = 20
) -> CursorListing[UserOut]:
    named = tuple(emails or ())
    with read(context.database) as conn:
        page = tenants.list_users(conn, caller.organization_id, after=after, limit=limit, emails=named)
    return CursorListing[UserOut].of(page, UserOut.of)


@router.get("/users/{user_id}")
def retrieve_user(user_id: str, caller: Admin, context: ContextDep) -> UserOut:
    with read(context.database) as conn:
        return UserOut.of(tenants.get_user(conn, user_id, caller.organization_id))


@router.post("/users/{user_id}")
def update_user(user_id: str, caller: Admin, context: ContextDep, body: UserUpdate | None = None) -> UserOut:
    role = body.role if body else None
    with write(context.database) as conn:
        user = tenants.get_user(conn, user_id, caller.organization_id)
        if role is None or role == user.role:
            return UserOut.of(user)
        _keep_one_owner(conn, user)
        tenants.update_user(conn, user_id, role=role)
        record(conn, caller, "user.updated", now=context.clock(), resource_id=user_id, changed={"role": role})
        return UserOut.of(tenants.get_user(conn, user_id, caller.organization_id))


@router.delete("/users/{user_id}")
def delete_user(user_id: str, caller: Admin, context: ContextDep) -> Deleted:
    now = context.clock()
    with write(context.database) as conn:
        user = tenants.get_user(conn, user_id, caller.organization_id)
        _keep_one_owner(conn, user)
        tenants.delete_user(conn, user_id, now)
        record(conn, caller, "user.deleted", now=now, resource_id=user_id)
    return Deleted(id=user_id, object="organization.user.deleted")


def _keep_one_owner(conn: Connection, user: User) -> None:
    """An organisation without an owner could be administered by nobody. Locks, so that two owners cannot both go."""
    if user.role is Role.OWNER and tenants.count_owners_for_update(conn, user.organization_id) == 1:
        raise InvalidRequest(say("error.last_owner"), param="user_id")
