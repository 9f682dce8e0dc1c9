from typing import Annotated, Literal

from fastapi import Query

from tunery.api.context import ContextDep
from tunery.api.keys import service
from tunery.api.paging import After, CursorListing, Limit, cursor_listing
from tunery.api.projects.schemas import (
    AdminKeyCreate,
    AdminKeyCreated,
    AdminKeyOut,
    Deleted,
    KeyCreated,
    KeyOut,
    KeyUpdate,
    PersonalKeyCreate,
    ServiceAccountCreate,
    ServiceAccountCreated,
    ServiceAccountKey,
    ServiceAccountKeyCreate,
    ServiceAccountOut,
    ServiceAccountUpdate,
    wire_admin_key,
    wire_key,
    wire_service_account,
    wire_service_account_key,
)
from tunery.api.routing import Router
from tunery.api.trail import OperatorDep

router = Router(tags=["Administration"])

PROJECT = "/v1/organization/projects/{project_id}"
ACCOUNT = PROJECT + "/service_accounts/{service_account_id}"
ADMIN = "/v1/organization/admin_api_keys"

Access = Annotated[Literal["active", "inactive", "any"], Query(description="By the owner's access to the project.")]


@router.get(PROJECT + "/api_keys")
def list_project_api_keys(
    project_id: str,
    operator: OperatorDep,
    context: ContextDep,
    after: After = None,
    limit: Limit = 20,
    owner_project_access: Access = "any",
) -> CursorListing[KeyOut]:
    page = service.list_keys(context, operator, project_id, after=after, limit=limit)
    found = [wire_key(item.key, item.owner, item.role) for item in page.items]
    shown = [key for key in found if owner_project_access in ("any", key.owner_project_access)]
    # The cursor is the last key looked at, shown or not: the next page begins behind it.
    last_id = found[-1].id if found else None
    return CursorListing[KeyOut](
        data=shown, first_id=shown[0].id if shown else None, last_id=last_id, has_more=page.has_more
    )


@router.get(PROJECT + "/api_keys/{api_key_id}")
def retrieve_project_api_key(project_id: str, api_key_id: str, operator: OperatorDep, context: ContextDep) -> KeyOut:
    found = service.get_key(context, operator, project_id, api_key_id)
    return wire_key(found.key, found.owner, found.role)


@router.post(PROJECT + "/api_keys/{api_key_id}")
def update_project_api_key(
    project_id: str, api_key_id: str, body: KeyUpdate, operator: OperatorDep, context: ContextDep
) -> KeyOut:
    found = service.update_key(context, operator, project_id, api_key_id, body)
    return wire_key(found.key, found.owner, found.role)


@router.delete(PROJECT + "/api_keys/{api_key_id}")
def delete_project_api_key(project_id: str, api_key_id: str, operator: OperatorDep, context: ContextDep) -> Deleted:
    service.revoke_key(context, operator, project_id, api_key_id)
    return Deleted(id=api_key_id, object="organization.project.api_key.deleted")


@router.post("/tunery/v1/organization/projects/{project_id}/api_keys")
def create_personal_api_key(
    project_id: str, body: PersonalKeyCreate, operator: OperatorDep, context: ContextDep
) -> KeyCreated:
    made, secret = service.create_personal_key(context, operator, project_id, body)
    return KeyCreated(**wire_key(made.key, made.owner, made.role).model_dump(), value=secret)


@router.post(PROJECT + "/service_accounts")
def create_service_account(
    project_id: str, body: ServiceAccountCreate, operator: OperatorDep, context: ContextDep
) -> ServiceAccountCreated:
    account, made = service.create_service_account(context, operator, project_id, body)
    key = None if made is None else wire_service_account_key(*made)
    return ServiceAccountCreated(**wire_service_account(account).model_dump(), api_key=key)


@router.get(PROJECT + "/service_accounts")
def list_service_accounts(
    project_id: str, operator: OperatorDep, context: ContextDep, after: After = None, limit: Limit = 20
) -> CursorListing[ServiceAccountOut]:
    page = service.list_service_accounts(context, operator, project_id, after=after, limit=limit)
    found = [wire_service_account(item) for item in page.items]
    return CursorListing[ServiceAccountOut](**cursor_listing(found, page.has_more))


@router.get(ACCOUNT)
def retrieve_service_account(
    project_id: str, service_account_id: str, operator: OperatorDep, context: ContextDep
) -> ServiceAccountOut:
    return wire_service_account(service.get_service_account(context, operator, project_id, service_account_id))


@router.post(ACCOUNT)
def update_service_account(
    project_id: str,
    service_account_id: str,
    operator: OperatorDep,
    context: ContextDep,
    body: ServiceAccountUpdate | None = None,
) -> ServiceAccountOut:
    changes = body or ServiceAccountUpdate()
    return wire_service_account(
        service.update_service_account(context, operator, project_id, service_account_id, changes)
    )


@router.delete(ACCOUNT)
def delete_service_account(
    project_id: str, service_account_id: str, operator: OperatorDep, context: ContextDep
) -> Deleted:
    service.delete_service_account(context, operator, project_id, service_account_id)
    return Deleted(id=service_account_id, object="organization.project.service_account.deleted")


@router.post(ACCOUNT + "/api_keys")
def create_service_account_key(
    project_id: str,
    service_account_id: str,
    operator: OperatorDep,
    context: ContextDep,
    body: ServiceAccountKeyCreate | None = None,
) -> ServiceAccountKey:
    wanted = body or ServiceAccountKeyCreate()
    key, secret = service.create_account_key(
        context,
        operator,
        project_id,
        service_account_id,
        name=wanted.name,
        expires_in_s=wanted.expires_in_seconds,
        scopes=tuple(wanted.scopes),
    )
    return wire_service_account_key(key, secret)


@router.post(ADMIN)
def create_admin_api_key(body: AdminKeyCreate, operator: OperatorDep, context: ContextDep) -> AdminKeyCreated:
    made, secret = service.create_admin_key(context, operator, body.name, body.expires_in_seconds)
    return AdminKeyCreated(**wire_admin_key(made.key, made.owner).model_dump(), value=secret)


@router.get(ADMIN)
def list_admin_api_keys(
    operator: OperatorDep,
    context: ContextDep,
    after: After = None,
    limit: Limit = 20,
    order: Literal["asc", "desc"] = "asc",
) -> CursorListing[AdminKeyOut]:
    page = service.list_admin_keys(context, operator, after=after, limit=limit, descending=order == "desc")
    found = [wire_admin_key(item.key, item.owner) for item in page.items]
    return CursorListing[AdminKeyOut](**cursor_listing(found, page.has_more))


@router.get(ADMIN + "/{key_id}")
def retrieve_admin_api_key(key_id: str, operator: OperatorDep, context: ContextDep) -> AdminKeyOut:
    found = service.get_admin_key(context, operator, key_id)
    return wire_admin_key(found.key, found.owner)


@router.delete(ADMIN + "/{key_id}")
def delete_admin_api_key(key_id: str, operator: OperatorDep, context: ContextDep) -> Deleted:
    service.revoke_admin_key(context, operator, key_id)
    return Deleted(id=key_id, object="organization.admin_api_key.deleted")
