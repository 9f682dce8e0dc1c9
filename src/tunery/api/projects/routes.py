from typing import Annotated

from fastapi import Query

from tunery.api.context import ContextDep
from tunery.api.paging import After, CursorListing, Limit, cursor_listing
from tunery.api.projects import service
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
    wire_project,
    wire_user,
)
from tunery.api.routing import Router
from tunery.api.trail import OperatorDep

router = Router(prefix="/v1/organization", tags=["Administration"])

Emails = Annotated[list[str] | None, Query(alias="emails[]", max_length=100)]


@router.post("/projects")
def create_project(body: ProjectCreate, operator: OperatorDep, context: ContextDep) -> ProjectOut:
    return wire_project(service.create_project(context, operator, body.name))


@router.get("/projects")
def list_projects(
    operator: OperatorDep,
    context: ContextDep,
    after: After = None,
    limit: Limit = 20,
    include_archived: bool = False,
) -> CursorListing[ProjectOut]:
    page = service.list_projects(context, operator, after=after, limit=limit, include_archived=include_archived)
    return CursorListing[ProjectOut](**cursor_listing([wire_project(item) for item in page.items], page.has_more))


@router.get("/projects/{project_id}")
def retrieve_project(project_id: str, operator: OperatorDep, context: ContextDep) -> ProjectOut:
    return wire_project(service.get_project(context, operator, project_id))


@router.post("/projects/{project_id}")
def update_project(
    project_id: str, operator: OperatorDep, context: ContextDep, body: ProjectUpdate | None = None
) -> ProjectOut:
    return wire_project(service.rename_project(context, operator, project_id, body.name if body else None))


@router.post("/projects/{project_id}/archive")
def archive_project(project_id: str, operator: OperatorDep, context: ContextDep) -> ProjectOut:
    return wire_project(service.archive_project(context, operator, project_id))


@router.post("/projects/{project_id}/users")
def add_project_user(project_id: str, body: MemberCreate, operator: OperatorDep, context: ContextDep) -> MemberOut:
    return wire_member(service.add_member(context, operator, project_id, body))


@router.get("/projects/{project_id}/users")
def list_project_users(
    project_id: str, operator: OperatorDep, context: ContextDep, after: After = None, limit: Limit = 20
) -> CursorListing[MemberOut]:
    page = service.list_members(context, operator, project_id, after=after, limit=limit)
    return CursorListing[MemberOut](**cursor_listing([wire_member(item) for item in page.items], page.has_more))


@router.get("/projects/{project_id}/users/{user_id}")
def retrieve_project_user(project_id: str, user_id: str, operator: OperatorDep, context: ContextDep) -> MemberOut:
    return wire_member(service.get_member(context, operator, project_id, user_id))


@router.post("/projects/{project_id}/users/{user_id}")
def update_project_user(
    project_id: str, user_id: str, operator: OperatorDep, context: ContextDep, body: MemberUpdate | None = None
) -> MemberOut:
    role = body.role if body else None
    return wire_member(service.update_member(context, operator, project_id, user_id, role))


@router.delete("/projects/{project_id}/users/{user_id}")
def remove_project_user(project_id: str, user_id: str, operator: OperatorDep, context: ContextDep) -> Deleted:
    service.remove_member(context, operator, project_id, user_id)
    return Deleted(id=user_id, object="organization.project.user.deleted")


@router.get("/users")
def list_users(
    operator: OperatorDep, context: ContextDep, emails: Emails = None, after: After = None, limit: Limit = 20
) -> CursorListing[UserOut]:
    page = service.list_users(context, operator, after=after, limit=limit, emails=tuple(emails or ()))
    return CursorListing[UserOut](**cursor_listing([wire_user(item) for item in page.items], page.has_more))


@router.get("/users/{user_id}")
def retrieve_user(user_id: str, operator: OperatorDep, context: ContextDep) -> UserOut:
    return wire_user(service.get_user(context, operator, user_id))


@router.post("/users/{user_id}")
def update_user(user_id: str, operator: OperatorDep, context: ContextDep, body: UserUpdate | None = None) -> UserOut:
    return wire_user(service.update_user(context, operator, user_id, body or UserUpdate()))


@router.delete("/users/{user_id}")
def delete_user(user_id: str, operator: OperatorDep, context: ContextDep) -> Deleted:
    service.delete_user(context, operator, user_id)
    return Deleted(id=user_id, object="organization.user.deleted")
