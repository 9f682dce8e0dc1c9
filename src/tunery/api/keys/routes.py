"""Keys of projects, of service accounts and of the organisation: made once, shown once, revoked at once. The audit log
has every change."""

from typing import Annotated, Literal

from fastapi import Query
from sqlalchemy import Connection

from tunery.api.access import Admin
from tunery.api.context import ContextDep
from tunery.api.paging import After, CursorListing, Limit
from tunery.api.projects.schemas import (
    AdminKeyCreate,
    AdminKeyCreated,
    AdminKeyOut,
    Deleted,
    KeyCreated,
    KeyOut,
    KeyUpdate,
    OwnedKey,
    PersonalKeyCreate,
    ServiceAccountCreate,
    ServiceAccountCreated,
    ServiceAccountKey,
    ServiceAccountKeyCreate,
    ServiceAccountOut,
    ServiceAccountUpdate,
    wire_admin_key,
    wire_key,
    wire_service_account_key,
)
from tunery.api.routing import Router
from tunery.domain.errors import NotFound, PermissionDenied
from tunery.domain.ids import new_id
from tunery.domain.tenants import UNRESTRICTED, ApiKey, Caller, Role, User, grants, new_secret
from tunery.store import tenants
from tunery.store.audit import record
from tunery.store.database import read, write
from tunery.texts import say

router = Router(tags=["Administration"])

PROJECT = "/v1/organization/projects/{project_id}"
ACCOUNT = PROJECT + "/service_accounts/{service_account_id}"
ADMIN = "/v1/organization/admin_api_keys"

Access = Annotated[Literal["active", "inactive", "any"], Query(description="By the owner's access to the project.")]


def make_key(
    conn: Connection,
    caller: Caller,
    *,
    name: str,
    now: int,
    owner_id: str | None,
    role: Role,
    project_id: str | None = None,
    expires_in_s: int | None = None,
    scopes: tuple[str, ...] = UNRESTRICTED,
) -> tuple[ApiKey, str]:
    """The stored key and its secret. Without a project it is an admin key. Raises PermissionDenied."""
    _check_grant(caller, scopes)
    secret = new_secret(is_admin=project_id is None)
    key = ApiKey.of(
        secret,
        organization_id=caller.organization_id,
        project_id=project_id,
        user_id=owner_id,
        name=name,
        created_at=now,
        role=role,
        scopes=scopes,
        expires_at=None if expires_in_s is None else now + expires_in_s,
        is_admin=project_id is None,
    )
    tenants.insert_key(conn, key)
    made = {"scopes": list(scopes)}
    record(conn, caller, "api_key.created", now=now, resource_id=key.id, project_id=project_id, made=made)
    return key, secret


def _check_grant(caller: Caller, scopes: tuple[str, ...]) -> None:
    """A restricted key gives nobody more than it has. Raises PermissionDenied."""
    if missing := [scope for scope in scopes if not grants(caller.scopes, scope)]:
        raise PermissionDenied(
            say("error.scope_not_own", missing=missing[0]),
            param="scopes",
            code="missing_scope",
        )


# ---- of projects
@router.get(PROJECT + "/api_keys")
def list_project_api_keys(
    project_id: str,
    caller: Admin,
    context: ContextDep,
    after: After = None,
    limit: Limit = 20,
    owner_project_access: Access = "any",
) -> CursorListing[KeyOut]:
    with read(context.database) as conn:
        tenants.get_project(conn, project_id, caller.organization_id)
        page = tenants.list_keys(conn, project_id=project_id, after=after, limit=limit)
        found = [wire_key(_owned(conn, key)) for key in page.items]
    shown = [key for key in found if owner_project_access in ("any", key.owner_project_access)]
    # The cursor is the last key looked at, shown or not: the next page begins behind it.
    last_id = found[-1].id if found else None
    return CursorListing[KeyOut](
        data=shown, first_id=shown[0].id if shown else None, last_id=last_id, has_more=page.has_more
    )


@router.get(PROJECT + "/api_keys/{api_key_id}")
def retrieve_project_api_key(project_id: str, api_key_id: str, caller: Admin, context: ContextDep) -> KeyOut:
    with read(context.database) as conn:
        return wire_key(_owned(conn, project_key(conn, caller, project_id, api_key_id)))


@router.post(PROJECT + "/api_keys/{api_key_id}")
def update_project_api_key(
    project_id: str, api_key_id: str, body: KeyUpdate, caller: Admin, context: ContextDep
) -> KeyOut:
    now, changed = context.now(), body.model_dump(exclude_none=True)
    with write(context.database) as conn:
        key = project_key(conn, caller, project_id, api_key_id)
        expires_at = key.expires_at if body.expires_in_seconds is None else now + body.expires_in_seconds
        scopes = key.scopes if body.scopes is None else tuple(body.scopes)
        if body.scopes is not None:
            _check_grant(caller, scopes)
        tenants.update_key(conn, key.id, expires_at=expires_at, scopes=scopes)
        record(conn, caller, "api_key.updated", now=now, resource_id=key.id, project_id=project_id, changed=changed)
        return wire_key(_owned(conn, project_key(conn, caller, project_id, key.id)))


@router.delete(PROJECT + "/api_keys/{api_key_id}")
def delete_project_api_key(project_id: str, api_key_id: str, caller: Admin, context: ContextDep) -> Deleted:
    now = context.clock()
    with write(context.database) as conn:
        project_key(conn, caller, project_id, api_key_id)
        tenants.revoke_key(conn, api_key_id, now)
        record(conn, caller, "api_key.deleted", now=now, resource_id=api_key_id, project_id=project_id)
    return Deleted(id=api_key_id, object="organization.project.api_key.deleted")


@router.post("/tunery/v1/organization/projects/{project_id}/api_keys")
def create_personal_api_key(project_id: str, body: PersonalKeyCreate, caller: Admin, context: ContextDep) -> KeyCreated:
    with write(context.database) as conn:
        tenants.get_active_project(conn, project_id, caller.organization_id)
        member = tenants.get_membership(conn, project_id, body.user_id)
        key, secret = make_key(
            conn,
            caller,
            name=body.name,
            now=context.now(),
            owner_id=body.user_id,
            role=member.role,
            project_id=project_id,
            expires_in_s=body.expires_in_seconds,
            scopes=tuple(body.scopes),
        )
    return KeyCreated(**wire_key(OwnedKey(key, member.user, member.role)).model_dump(), value=secret)


def project_key(conn: Connection, caller: Caller, project_id: str, key_id: str) -> ApiKey:
    tenants.get_project(conn, project_id, caller.organization_id)
    key = tenants.find_key(conn, key_id)
    if key is None or key.project_id != project_id or key.revoked_at is not None:
        raise NotFound(say("error.no_such_key", key_id=key_id), param="api_key_id")
    return key


def _owned(conn: Connection, key: ApiKey) -> OwnedKey:
    owner = tenants.find_user(conn, key.user_id) if key.user_id else None
    if owner is None or key.project_id is None:
        return OwnedKey(key, owner, None)
    if owner.is_service_account:
        return OwnedKey(key, owner, owner.role)
    member = tenants.find_membership(conn, key.project_id, owner.id)
    return OwnedKey(key, owner, member.role if member else None)


# ---- of service accounts
@router.post(PROJECT + "/service_accounts")
def create_service_account(
    project_id: str, body: ServiceAccountCreate, caller: Admin, context: ContextDep
) -> ServiceAccountCreated:
    now = context.now()
    account = User(
        id=new_id("service_account"),
        organization_id=caller.organization_id,
        name=body.name,
        email="",
        role=Role.MEMBER,
        created_at=now,
        is_service_account=True,
        project_id=project_id,
    )
    api_key, made = None, {"role": account.role.value}
    with write(context.database) as conn:
        tenants.get_active_project(conn, project_id, caller.organization_id)
        tenants.insert_user(conn, account)
        event = "service_account.created"
        record(conn, caller, event, now=now, resource_id=account.id, project_id=project_id, made=made)
        if not body.create_service_account_only:
            api_key = _make_account_key(conn, caller, account, now, expires_in_s=body.expires_in_seconds)
    return ServiceAccountCreated(**ServiceAccountOut.of(account).model_dump(), api_key=api_key)


def _make_account_key(
    conn: Connection,
    caller: Caller,
    account: User,
    now: int,
    *,
    name: str | None = None,
    expires_in_s: int | None,
    scopes: tuple[str, ...] = UNRESTRICTED,
) -> ServiceAccountKey:
    key, secret = make_key(
        conn,
        caller,
        name=name or account.name,
        now=now,
        owner_id=account.id,
        role=account.role,
        project_id=account.project_id,
        expires_in_s=expires_in_s,
        scopes=scopes,
    )
    return wire_service_account_key(key, secret)


@router.get(PROJECT + "/service_accounts")
def list_service_accounts(
    project_id: str, caller: Admin, context: ContextDep, after: After = None, limit: Limit = 20
) -> CursorListing[ServiceAccountOut]:
    with read(context.database) as conn:
        tenants.get_project(conn, project_id, caller.organization_id)
        page = tenants.list_service_accounts(conn, project_id, after=after, limit=limit)
    return CursorListing[ServiceAccountOut].of(page, ServiceAccountOut.of)


@router.get(ACCOUNT)
def retrieve_service_account(
    project_id: str, service_account_id: str, caller: Admin, context: ContextDep
) -> ServiceAccountOut:
    with read(context.database) as conn:
        return ServiceAccountOut.of(_account(conn, caller, project_id, service_account_id))


@router.post(ACCOUNT)
def update_service_account(
    project_id: str,
    service_account_id: str,
    caller: Admin,
    context: ContextDep,
    body: ServiceAccountUpdate | None = None,
) -> ServiceAccountOut:
    now, changed = context.clock(), {} if body is None else body.model_dump(exclude_none=True)
    with write(context.database) as conn:
        tenants.get_active_project(conn, project_id, caller.organization_id)
        account = _account(conn, caller, project_id, service_account_id)
        if not changed:
            return ServiceAccountOut.of(account)
        tenants.update_user(conn, account.id, **changed)
        event = "service_account.updated"
        record(conn, caller, event, now=now, resource_id=account.id, project_id=project_id, changed=changed)
        return ServiceAccountOut.of(_account(conn, caller, project_id, account.id))


@router.delete(ACCOUNT)
def delete_service_account(project_id: str, service_account_id: str, caller: Admin, context: ContextDep) -> Deleted:
    now = context.clock()
    with write(context.database) as conn:
        account = _account(conn, caller, project_id, service_account_id)
        tenants.delete_user(conn, account.id, now)
        record(conn, caller, "service_account.deleted", now=now, resource_id=account.id, project_id=project_id)
    return Deleted(id=service_account_id, object="organization.project.service_account.deleted")


@router.post(ACCOUNT + "/api_keys")
def create_service_account_key(
    project_id: str,
    service_account_id: str,
    caller: Admin,
    context: ContextDep,
    body: ServiceAccountKeyCreate | None = None,
) -> ServiceAccountKey:
    wanted = body or ServiceAccountKeyCreate()
    expires_in_s, scopes = wanted.expires_in_seconds, tuple(wanted.scopes)
    with write(context.database) as conn:
        tenants.get_active_project(conn, project_id, caller.organization_id)
        account = _account(conn, caller, project_id, service_account_id)
        return _make_account_key(
            conn, caller, account, context.now(), name=wanted.name, expires_in_s=expires_in_s, scopes=scopes
        )


def _account(conn: Connection, caller: Caller, project_id: str, account_id: str) -> User:
    tenants.get_project(conn, project_id, caller.organization_id)
    account = tenants.find_user(conn, account_id)
    if account is None or not account.is_service_account or account.project_id != project_id:
        raise NotFound(say("error.no_such_service_account", account_id=account_id), param="service_account_id")
    return account


# ---- of the organisation
@router.post(ADMIN)
def create_admin_api_key(body: AdminKeyCreate, caller: Admin, context: ContextDep) -> AdminKeyCreated:
    now, owner_id, expires_in_s = context.now(), caller.user_id, body.expires_in_seconds
    with write(context.database) as conn:
        key, secret = make_key(
            conn, caller, name=body.name, now=now, owner_id=owner_id, role=Role.OWNER, expires_in_s=expires_in_s
        )
        return AdminKeyCreated(**wire_admin_key(_owned(conn, key)).model_dump(), value=secret)


@router.get(ADMIN)
def list_admin_api_keys(
    caller: Admin,
    context: ContextDep,
    after: After = None,
    limit: Limit = 20,
    order: Literal["asc", "desc"] = "asc",
) -> CursorListing[AdminKeyOut]:
    organization_id, descending = caller.organization_id, order == "desc"
    with read(context.database) as conn:
        page = tenants.list_keys(conn, organization_id=organization_id, after=after, limit=limit, descending=descending)
        return CursorListing[AdminKeyOut].of(page, lambda key: wire_admin_key(_owned(conn, key)))


@router.get(ADMIN + "/{key_id}")
def retrieve_admin_api_key(key_id: str, caller: Admin, context: ContextDep) -> AdminKeyOut:
    with read(context.database) as conn:
        return wire_admin_key(_owned(conn, _admin_key(conn, caller, key_id)))


@router.delete(ADMIN + "/{key_id}")
def delete_admin_api_key(key_id: str, caller: Admin, context: ContextDep) -> Deleted:
    now = context.clock()
    with write(context.database) as conn:
        key = _admin_key(conn, caller, key_id)
        tenants.revoke_key(conn, key.id, now)
        record(conn, caller, "api_key.deleted", now=now, resource_id=key.id)
    return Deleted(id=key_id, object="organization.admin_api_key.deleted")


def _admin_key(conn: Connection, caller: Caller, key_id: str) -> ApiKey:
    key = tenants.find_key(conn, key_id)
    if key is None or not key.is_admin or key.organization_id != caller.organization_id or key.revoked_at is not None:
        raise NotFound(say("error.no_such_admin_key", key_id=key_id), param="key_id")
    return key
