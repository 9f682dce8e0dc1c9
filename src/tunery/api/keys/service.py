"""Policy of keys: made once, shown once, revoked at once."""

from dataclasses import dataclass

from sqlalchemy import Connection

from tunery.api.context import Context
from tunery.api.projects.schemas import KeyUpdate, PersonalKeyCreate, ServiceAccountCreate, ServiceAccountUpdate
from tunery.api.trail import Operator, record
from tunery.domain.errors import NotFound, PermissionDenied
from tunery.domain.ids import new_id
from tunery.domain.tenants import (
    UNRESTRICTED,
    ApiKey,
    Role,
    User,
    grants,
    hash_secret,
    key_hint,
    lookup_prefix,
    new_secret,
)
from tunery.store import tenants
from tunery.store.database import read, write
from tunery.store.paging import Page
from tunery.texts import say


@dataclass(frozen=True)
class OwnedKey:
    key: ApiKey
    owner: User | None
    role: Role | None  # the owner's in the key's project; None when there is none any more


def new_key(
    operator: Operator,
    *,
    name: str,
    now: int,
    owner_id: str | None,
    role: Role,
    project_id: str | None = None,
    expires_in_s: int | None = None,
    scopes: tuple[str, ...] = UNRESTRICTED,
) -> tuple[ApiKey, str]:
    """The row and the secret. Without a project it is an admin key."""
    secret = new_secret(is_admin=project_id is None)
    key = ApiKey(
        id=new_id("key"),
        organization_id=operator.organization_id,
        project_id=project_id,
        user_id=owner_id,
        name=name,
        prefix=lookup_prefix(secret),
        hash=hash_secret(secret),
        hint=key_hint(secret),
        created_at=now,
        role=role,
        scopes=scopes,
        expires_at=None if expires_in_s is None else now + expires_in_s,
        is_admin=project_id is None,
    )
    return key, secret


def _store(conn: Connection, operator: Operator, key: ApiKey) -> None:
    _check_grant(operator, key.scopes)
    tenants.insert_key(conn, key)
    details = {"data": {"scopes": list(key.scopes)}}
    record(
        conn,
        operator,
        "api_key.created",
        now=key.created_at,
        resource_id=key.id,
        project_id=key.project_id,
        details=details,
    )


def _check_grant(operator: Operator, scopes: tuple[str, ...]) -> None:
    """A restricted key gives nobody more than it has. Raises PermissionDenied."""
    if missing := [scope for scope in scopes if not grants(operator.caller.scopes, scope)]:
        raise PermissionDenied(
            say("error.scope_not_own", missing=missing[0]),
            param="scopes",
            code="missing_scope",
        )


def list_keys(
    context: Context, operator: Operator, project_id: str, *, after: str | None, limit: int
) -> Page[OwnedKey]:
    with read(context.database) as conn:
        tenants.get_project(conn, project_id, operator.organization_id)
        page = tenants.list_keys(conn, project_id=project_id, after=after, limit=limit)
        return Page(tuple(_owned(conn, key) for key in page.items), page.has_more)


def get_key(context: Context, operator: Operator, project_id: str, key_id: str) -> OwnedKey:
    with read(context.database) as conn:
        return _owned(conn, _project_key(conn, operator, project_id, key_id))


def update_key(context: Context, operator: Operator, project_id: str, key_id: str, body: KeyUpdate) -> OwnedKey:
    now = context.now()
    with write(context.database) as conn:
        key = _project_key(conn, operator, project_id, key_id)
        expires_at = key.expires_at if body.expires_in_seconds is None else now + body.expires_in_seconds
        scopes = key.scopes if body.scopes is None else tuple(body.scopes)
        if body.scopes is not None:
            _check_grant(operator, scopes)
        tenants.update_key(conn, key_id, expires_at=expires_at, scopes=scopes)
        details = {"changes_requested": body.model_dump(exclude_none=True)}
        record(conn, operator, "api_key.updated", now=now, resource_id=key_id, project_id=project_id, details=details)
        return _owned(conn, _project_key(conn, operator, project_id, key_id))


def create_personal_key(
    context: Context, operator: Operator, project_id: str, body: PersonalKeyCreate
) -> tuple[OwnedKey, str]:
    with write(context.database) as conn:
        tenants.get_active_project(conn, project_id, operator.organization_id)
        member = tenants.find_membership(conn, project_id, body.user_id)
        if member is None:
            raise NotFound(say("error.no_such_member", user_id=body.user_id), param="user_id")
        key, secret = new_key(
            operator,
            name=body.name,
            now=context.now(),
            owner_id=body.user_id,
            role=member.role,
            project_id=project_id,
            expires_in_s=body.expires_in_seconds,
            scopes=tuple(body.scopes),
        )
        _store(conn, operator, key)
    return OwnedKey(key, member.user, member.role), secret


def revoke_key(context: Context, operator: Operator, project_id: str, key_id: str) -> None:
    with write(context.database) as conn:
        _project_key(conn, operator, project_id, key_id)
        tenants.revoke_key(conn, key_id, context.clock())
        record(conn, operator, "api_key.deleted", now=context.clock(), resource_id=key_id, project_id=project_id)


def _project_key(conn: Connection, operator: Operator, project_id: str, key_id: str) -> ApiKey:
    tenants.get_project(conn, project_id, operator.organization_id)
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


def create_service_account(
    context: Context, operator: Operator, project_id: str, body: ServiceAccountCreate
) -> tuple[User, tuple[ApiKey, str] | None]:
    """The account and, unless it was asked for without, its first key."""
    now = context.now()
    account = User(
        id=new_id("service_account"),
        organization_id=operator.organization_id,
        name=body.name,
        email="",
        role=Role.MEMBER,
        created_at=now,
        is_service_account=True,
        project_id=project_id,
    )
    with write(context.database) as conn:
        tenants.get_active_project(conn, project_id, operator.organization_id)
        tenants.insert_user(conn, account)
        details = {"data": {"role": account.role.value}}
        record(
            conn,
            operator,
            "service_account.created",
            now=now,
            resource_id=account.id,
            project_id=project_id,
            details=details,
        )
        if body.create_service_account_only:
            return account, None
        key, secret = _account_key(operator, account, body.name, now, body.expires_in_seconds, UNRESTRICTED)
        _store(conn, operator, key)
    return account, (key, secret)


def _account_key(
    operator: Operator, account: User, name: str, now: int, expires_in_s: int | None, scopes: tuple[str, ...]
) -> tuple[ApiKey, str]:
    return new_key(
        operator,
        name=name,
        now=now,
        owner_id=account.id,
        role=account.role,
        project_id=account.project_id,
        expires_in_s=expires_in_s,
        scopes=scopes,
    )


def create_account_key(
    context: Context,
    operator: Operator,
    project_id: str,
    account_id: str,
    *,
    name: str | None,
    expires_in_s: int | None,
    scopes: tuple[str, ...],
) -> tuple[ApiKey, str]:
    with write(context.database) as conn:
        tenants.get_active_project(conn, project_id, operator.organization_id)
        account = _account(conn, operator, project_id, account_id)
        key, secret = _account_key(operator, account, name or account.name, context.now(), expires_in_s, scopes)
        _store(conn, operator, key)
    return key, secret


def get_service_account(context: Context, operator: Operator, project_id: str, account_id: str) -> User:
    with read(context.database) as conn:
        return _account(conn, operator, project_id, account_id)


def list_service_accounts(
    context: Context, operator: Operator, project_id: str, *, after: str | None, limit: int
) -> Page[User]:
    with read(context.database) as conn:
        tenants.get_project(conn, project_id, operator.organization_id)
        return tenants.list_service_accounts(conn, project_id, after=after, limit=limit)


def update_service_account(
    context: Context, operator: Operator, project_id: str, account_id: str, body: ServiceAccountUpdate
) -> User:
    changes = body.model_dump(exclude_none=True)
    with write(context.database) as conn:
        tenants.get_active_project(conn, project_id, operator.organization_id)
        account = _account(conn, operator, project_id, account_id)
        if not changes:
            return account
        tenants.update_user(conn, account_id, **changes)
        record(
            conn,
            operator,
            "service_account.updated",
            now=context.clock(),
            resource_id=account_id,
            project_id=project_id,
            details={"changes_requested": changes},
        )
        return _account(conn, operator, project_id, account_id)


def delete_service_account(context: Context, operator: Operator, project_id: str, account_id: str) -> None:
    now = context.clock()
    with write(context.database) as conn:
        _account(conn, operator, project_id, account_id)
        tenants.delete_user(conn, account_id, now)
        record(conn, operator, "service_account.deleted", now=now, resource_id=account_id, project_id=project_id)


def _account(conn: Connection, operator: Operator, project_id: str, account_id: str) -> User:
    tenants.get_project(conn, project_id, operator.organization_id)
    account = tenants.find_user(conn, account_id)
    if account is None or not account.is_service_account or account.project_id != project_id:
        raise NotFound(say("error.no_such_service_account", account_id=account_id), param="service_account_id")
    return account


def create_admin_key(context: Context, operator: Operator, name: str, expires_in_s: int | None) -> tuple[OwnedKey, str]:
    with write(context.database) as conn:
        owner_id = operator.caller.user_id
        key, secret = new_key(
            operator, name=name, now=context.now(), owner_id=owner_id, role=Role.OWNER, expires_in_s=expires_in_s
        )
        _store(conn, operator, key)
        return _owned(conn, key), secret


def get_admin_key(context: Context, operator: Operator, key_id: str) -> OwnedKey:
    with read(context.database) as conn:
        return _owned(conn, _admin_key(conn, operator, key_id))


def list_admin_keys(
    context: Context, operator: Operator, *, after: str | None, limit: int, descending: bool
) -> Page[OwnedKey]:
    with read(context.database) as conn:
        page = tenants.list_keys(
            conn, organization_id=operator.organization_id, after=after, limit=limit, descending=descending
        )
        return Page(tuple(_owned(conn, key) for key in page.items), page.has_more)


def revoke_admin_key(context: Context, operator: Operator, key_id: str) -> None:
    with write(context.database) as conn:
        _admin_key(conn, operator, key_id)
        tenants.revoke_key(conn, key_id, context.clock())
        record(conn, operator, "api_key.deleted", now=context.clock(), resource_id=key_id)


def _admin_key(conn: Connection, operator: Operator, key_id: str) -> ApiKey:
    key = tenants.find_key(conn, key_id)
    if key is None or not key.is_admin or key.organization_id != operator.organization_id or key.revoked_at is not None:
        raise NotFound(say("error.no_such_admin_key", key_id=key_id), param="key_id")
    return key
