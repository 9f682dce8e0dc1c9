"""Policy of projects and people."""

from sqlalchemy import Connection

from tunery.api.context import Context
from tunery.api.projects.schemas import MemberCreate, UserUpdate
from tunery.api.trail import Operator, record
from tunery.domain.errors import InvalidRequest, NotFound
from tunery.domain.ids import new_id
from tunery.domain.tenants import Membership, Project, Role, User
from tunery.jobs.verbs import cancel_all
from tunery.store import tenants
from tunery.store.database import read, write
from tunery.store.paging import Page
from tunery.texts import say


def create_project(context: Context, operator: Operator, name: str) -> Project:
    now = context.now()
    project = Project(new_id("project"), operator.organization_id, name, now)
    with write(context.database) as conn:
        tenants.insert_project(conn, project)
        data = {"data": {"name": name, "title": name}}
        record(conn, operator, "project.created", now=now, resource_id=project.id, project_id=project.id, details=data)
    return project


def get_project(context: Context, operator: Operator, project_id: str) -> Project:
    with read(context.database) as conn:
        return tenants.get_project(conn, project_id, operator.organization_id)


def list_projects(
    context: Context, operator: Operator, *, after: str | None, limit: int, include_archived: bool
) -> Page[Project]:
    with read(context.database) as conn:
        return tenants.list_projects(
            conn, operator.organization_id, after=after, limit=limit, include_archived=include_archived
        )


def rename_project(context: Context, operator: Operator, project_id: str, name: str | None) -> Project:
    with write(context.database) as conn:
        project = tenants.get_active_project(conn, project_id, operator.organization_id)
        if name is not None and name != project.name:
            tenants.rename_project(conn, project_id, name)
            _record_in(conn, context, operator, "project.updated", project_id, {"changes_requested": {"title": name}})
        return tenants.get_project(conn, project_id)


def archive_project(context: Context, operator: Operator, project_id: str) -> Project:
    """Its keys stop at once and its jobs are cancelled. The last active project stays: nowhere else could one work."""
    with write(context.database) as conn:
        project = tenants.get_project(conn, project_id, operator.organization_id)
        if project.archived_at is not None:
            return project
        if len(tenants.list_projects(conn, operator.organization_id, limit=2).items) == 1:
            raise InvalidRequest(say("error.last_project"), param="project_id")
        tenants.archive_project(conn, project_id, context.clock())
        cancel_all(conn, project_id, clock=context.clock)
        _record_in(conn, context, operator, "project.archived", project_id)
        return tenants.get_project(conn, project_id)


def _record_in(
    conn: Connection, context: Context, operator: Operator, type: str, project_id: str, details: dict | None = None
) -> None:
    record(conn, operator, type, now=context.clock(), resource_id=project_id, project_id=project_id, details=details)


def get_user(context: Context, operator: Operator, user_id: str) -> User:
    with read(context.database) as conn:
        return tenants.get_user(conn, user_id, operator.organization_id)


def list_users(
    context: Context, operator: Operator, *, after: str | None, limit: int, emails: tuple[str, ...]
) -> Page[User]:
    with read(context.database) as conn:
        return tenants.list_users(conn, operator.organization_id, after=after, limit=limit, emails=emails)


def update_user(context: Context, operator: Operator, user_id: str, body: UserUpdate) -> User:
    with write(context.database) as conn:
        user = tenants.get_user(conn, user_id, operator.organization_id)
        if body.role is None or body.role == user.role:
            return user
        _keep_one_owner(conn, user)
        tenants.update_user(conn, user_id, role=body.role)
        details = {"changes_requested": {"role": body.role}}
        record(conn, operator, "user.updated", now=context.clock(), resource_id=user_id, details=details)
        return tenants.get_user(conn, user_id, operator.organization_id)


def delete_user(context: Context, operator: Operator, user_id: str) -> None:
    with write(context.database) as conn:
        user = tenants.get_user(conn, user_id, operator.organization_id)
        _keep_one_owner(conn, user)
        tenants.delete_user(conn, user_id, context.clock())
        record(conn, operator, "user.deleted", now=context.clock(), resource_id=user_id)


def _keep_one_owner(conn: Connection, user: User) -> None:
    """An organisation without an owner could be administered by nobody. Locks, so that two owners cannot both go."""
    if user.role is Role.OWNER and tenants.count_owners_for_update(conn, user.organization_id) == 1:
        raise InvalidRequest(say("error.last_owner"), param="user_id")


def add_member(context: Context, operator: Operator, project_id: str, body: MemberCreate) -> Membership:
    now = context.clock()
    with write(context.database) as conn:
        tenants.get_active_project(conn, project_id, operator.organization_id)
        user = _member_to_be(conn, operator, body, now)
        tenants.set_membership(conn, project_id, user.id, Role(body.role), now)
        details = {"data": {"role": body.role}}
        record(conn, operator, "user.added", now=now, resource_id=user.id, project_id=project_id, details=details)
        return _member(conn, project_id, user.id)


def _member_to_be(conn: Connection, operator: Operator, body: MemberCreate, now: float) -> User:
    if body.user_id is not None:
        return tenants.get_user(conn, body.user_id, operator.organization_id)
    if body.email is None:
        raise InvalidRequest(say("error.member_not_named"), param="user_id")
    known = tenants.list_users(conn, operator.organization_id, emails=(body.email,)).items
    if known:
        return known[0]
    name = body.email.partition("@")[0]
    user = User(new_id("user"), operator.organization_id, name, body.email, Role.READER, int(now))
    tenants.insert_user(conn, user)
    return user


def get_member(context: Context, operator: Operator, project_id: str, user_id: str) -> Membership:
    with read(context.database) as conn:
        tenants.get_project(conn, project_id, operator.organization_id)
        return _member(conn, project_id, user_id)


def list_members(
    context: Context, operator: Operator, project_id: str, *, after: str | None, limit: int
) -> Page[Membership]:
    with read(context.database) as conn:
        tenants.get_project(conn, project_id, operator.organization_id)
        return tenants.list_members(conn, project_id, after=after, limit=limit)


def update_member(context: Context, operator: Operator, project_id: str, user_id: str, role: str | None) -> Membership:
    now = context.clock()
    with write(context.database) as conn:
        tenants.get_active_project(conn, project_id, operator.organization_id)
        member = _member(conn, project_id, user_id)
        if role is None or role == member.role:
            return member
        tenants.set_membership(conn, project_id, user_id, Role(role), now)
        details = {"changes_requested": {"role": role}}
        record(conn, operator, "user.updated", now=now, resource_id=user_id, project_id=project_id, details=details)
        return _member(conn, project_id, user_id)


def remove_member(context: Context, operator: Operator, project_id: str, user_id: str) -> None:
    now = context.clock()
    with write(context.database) as conn:
        tenants.get_project(conn, project_id, operator.organization_id)
        _member(conn, project_id, user_id)
        tenants.delete_membership(conn, project_id, user_id, now)
        record(conn, operator, "user.deleted", now=now, resource_id=user_id, project_id=project_id)


def _member(conn: Connection, project_id: str, user_id: str) -> Membership:
    member = tenants.find_membership(conn, project_id, user_id)
    if member is None:
        raise NotFound(say("error.no_such_member", user_id=user_id), param="user_id")
    return member
