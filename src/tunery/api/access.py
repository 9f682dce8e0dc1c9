"""Bearer key → Caller: who asks, for which project, with which rights."""

import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPBearer
from sqlalchemy import Connection
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection

from tunery.api.context import Context
from tunery.domain.errors import AuthenticationFailed, InvalidRequest, NotFound, PermissionDenied
from tunery.domain.tenants import (
    NO_PROJECT,
    ApiKey,
    Caller,
    Rights,
    Role,
    Scope,
    grants,
    hash_secret,
    lookup_prefix,
    rights_of,
)
from tunery.store import tenants
from tunery.store.database import read, write
from tunery.texts import say

NO_KEY = (
    "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth "
    "(i.e. Authorization: Bearer YOUR_KEY). `tunery serve` printed one at its first start."
)
MAX_USER_AGENT = 200  # of it is kept in the audit log
TOUCH_EVERY_S = 60  # last-used times are for people: one write a minute and key is enough

# Only for the OpenAPI document: the header itself is read below, so that a missing key gets OpenAI's 401.
bearer = HTTPBearer(auto_error=False, description="An API key of this server: `Authorization: Bearer sk-…`.")


def bearer_secret(authorization: str | None) -> str:
    scheme, _, secret = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not secret.strip():
        raise AuthenticationFailed(NO_KEY)
    return secret.strip()


def masked(secret: str) -> str:
    return secret if len(secret) <= 8 else f"{secret[:4]}{'*' * 8}{secret[-4:]}"


def find_key(conn: Connection, secret: str, now: float) -> tuple[ApiKey, Rights]:
    """The live key that this secret opens, and what it may do now. Every way to fail reads alike, so that probing
    teaches nothing."""
    found = tenants.find_credential(conn, lookup_prefix(secret))
    if found is not None and hmac.compare_digest(found[0].hash, hash_secret(secret)):
        key, rights = found[0], rights_of(*found)
        if rights is not None and is_live(key, now):
            return key, rights
    raise AuthenticationFailed(say("error.incorrect_key", secret=masked(secret)), code="invalid_api_key")


def is_live(key: ApiKey, now: float) -> bool:
    return key.revoked_at is None and (key.expires_at or now + 1) > now


@dataclass(frozen=True)
class Account:
    """The optional headers OpenAI-Organization and OpenAI-Project. They may only name what the key reaches anyway."""

    organization: str | None = None
    project: str | None = None

    @classmethod
    def of(cls, request: Request) -> "Account":
        return cls(request.headers.get("openai-organization"), request.headers.get("openai-project"))

    def unknown(self, conn: Connection, key: ApiKey) -> tuple[str, ...]:
        """The headers that name nothing of this server: those of an old account at OpenAI, which SDKs send by
        themselves from the environment. The key decides without them, unless it is an admin key, which reaches several
        projects."""
        names = []
        if self.organization and not tenants.is_organization(conn, self.organization):
            names.append("openai-organization")
        if self.project and key.project_id is not None and not tenants.is_project(conn, self.project):
            names.append("openai-project")
        return tuple(names)

    def without(self, names: tuple[str, ...]) -> "Account":
        return Account(
            None if "openai-organization" in names else self.organization,
            None if "openai-project" in names else self.project,
        )


def check_still(conn: Connection, caller: Caller, scope: Scope, now: float) -> None:
    """Whether a caller who was let in would be let in now. Raises AuthenticationFailed or PermissionDenied."""
    known = tenants.find_key(conn, caller.key_id)
    found = tenants.find_credential(conn, known.prefix) if known else None
    rights = rights_of(*found) if found else None
    project = tenants.get_project(conn, caller.project_id, caller.organization_id)
    if found is None or rights is None or not is_live(found[0], now) or project.archived_at is not None:
        raise AuthenticationFailed(say("error.key_ended"), code="invalid_api_key")
    check_scope(replace(caller, role=rights.role, scopes=found[0].scopes), scope)


def caller_of(conn: Connection, key: ApiKey, rights: Rights, account: Account) -> Caller:
    organization = account.organization
    if organization and organization != key.organization_id:
        own = tenants.get_organization(conn, key.organization_id)
        if organization not in (own.slug, own.name):
            raise AuthenticationFailed(say("error.organization_header_differs"), code="mismatched_organization")
    return Caller(
        key_id=key.id,
        organization_id=key.organization_id,
        project_id=_project(conn, key, account.project),
        user_id=key.user_id,
        role=rights.role,
        is_admin=rights.is_admin,
        scopes=key.scopes,
    )


def _project(conn: Connection, key: ApiKey, wanted: str | None) -> str:
    if key.project_id is not None:
        if wanted and wanted != key.project_id:
            raise AuthenticationFailed(say("error.project_header_differs"), code="mismatched_project")
        return key.project_id
    return _project_of_admin_key(conn, key.organization_id, wanted)


def _project_of_admin_key(conn: Connection, organization_id: str, wanted: str | None) -> str:
    """An admin key belongs to no project: the header names one, else it is the organisation's first active one. "":
    there is none, so that it can administer, and nothing else."""
    if not wanted:
        active = tenants.list_projects(conn, organization_id, limit=1).items
        return active[0].id if active else NO_PROJECT
    try:
        project = tenants.get_project(conn, wanted, organization_id)
    except NotFound as exc:
        raise AuthenticationFailed(say("error.no_such_project", wanted=wanted), code="mismatched_project") from exc
    if project.archived_at is not None:
        raise AuthenticationFailed(say("error.project_archived", wanted=wanted), code="project_archived")
    return project.id


async def authenticate(context: Context, request: Request) -> Caller:
    secret = bearer_secret(request.headers.get("authorization"))
    now = context.clock()
    key, caller, ignored = await context.look(partial(_identify, context, secret, Account.of(request), now))
    caller = replace(caller, ip_address=address_of(request), user_agent=user_agent_of(request))
    if (key.last_used_at or 0) < now - TOUCH_EVERY_S:
        await run_in_threadpool(_touch, context, key.id, now)
    request.state.caller, request.state.ignored_headers = caller, ignored
    return caller


def address_of(request: HTTPConnection) -> str | None:
    return request.client.host if request.client else None


def user_agent_of(request: HTTPConnection) -> str | None:
    return request.headers.get("user-agent", "")[:MAX_USER_AGENT] or None


def _identify(context: Context, secret: str, account: Account, now: float) -> tuple[ApiKey, Caller, tuple[str, ...]]:
    with read(context.database) as conn:
        key, rights = find_key(conn, secret, now)
        ignored = () if context.settings.strict_account_headers else account.unknown(conn, key)
        return key, caller_of(conn, key, rights, account.without(ignored)), ignored


def _touch(context: Context, key_id: str, now: float) -> None:
    with write(context.database) as conn:
        tenants.touch_key(conn, key_id, now)


def check_scope(caller: Caller, scope: Scope) -> None:
    is_read = scope.endswith(".read")
    if not grants(caller.scopes, scope):
        raise PermissionDenied(say("error.missing_scopes", scope=scope), code="missing_scope")
    if caller.role is Role.READER and not is_read:
        raise PermissionDenied(say("error.reader_only"))


def require_owner(caller: Caller) -> None:
    if caller.role is not Role.OWNER:
        raise PermissionDenied(say("error.needs_owner"))


class Gate:
    """A dependency that decides who comes in. A route asks it before anything of the body is read (`routing.Route`);
    what depends on it gets the caller whom it let in."""

    def __init__(self, check: Callable[[Context, Request], Awaitable[Caller]]) -> None:
        self._check = check

    async def admit(self, request: Request) -> None:
        """Raises AuthenticationFailed or PermissionDenied."""
        request.state.admitted = await self._check(request.app.state.context, request)

    async def __call__(self, request: Request, _: Annotated[object, Security(bearer)]) -> Caller:
        return request.state.admitted


def access(scope: Scope) -> Gate:
    """Lets a request in when its key is valid and has `scope`."""

    async def check(context: Context, request: Request) -> Caller:
        caller = await authenticate(context, request)
        check_scope(caller, scope)
        if caller.project_id == NO_PROJECT:
            raise InvalidRequest(say("error.no_active_project"), code="project_archived")
        return caller

    return Gate(check)


async def _check_admin(context: Context, request: Request) -> Caller:
    """The key must be an admin key, or belong to an owner of the organisation: owning a project is not enough."""
    caller = await authenticate(context, request)
    check_scope(caller, Scope.MANAGEMENT_READ if request.method == "GET" else Scope.MANAGEMENT_WRITE)
    if not caller.is_admin:
        raise PermissionDenied(say("error.needs_admin"))
    return caller


async def _check_server_admin(context: Context, request: Request) -> Caller:
    """As an admin, of the organisation that set the server up: what all organisations share is for its owners."""
    caller = await _check_admin(context, request)
    if caller.organization_id != await context.look(partial(_first_organization, context)):
        raise PermissionDenied(say("error.needs_server_admin"))
    return caller


def _first_organization(context: Context) -> str:
    with read(context.database) as conn:
        return tenants.list_organizations(conn)[0].id


FilesReader = Annotated[Caller, Depends(access(Scope.FILES_READ))]
FilesWriter = Annotated[Caller, Depends(access(Scope.FILES_WRITE))]
JobsReader = Annotated[Caller, Depends(access(Scope.JOBS_READ))]
JobsWriter = Annotated[Caller, Depends(access(Scope.JOBS_WRITE))]
ModelsReader = Annotated[Caller, Depends(access(Scope.MODELS_READ))]
ModelsWriter = Annotated[Caller, Depends(access(Scope.MODELS_WRITE))]
ModelsUser = Annotated[Caller, Depends(access(Scope.MODELS_REQUEST))]
EvalsReader = Annotated[Caller, Depends(access(Scope.EVALS_READ))]
EvalsWriter = Annotated[Caller, Depends(access(Scope.EVALS_WRITE))]
WebhooksReader = Annotated[Caller, Depends(access(Scope.WEBHOOKS_READ))]
WebhooksWriter = Annotated[Caller, Depends(access(Scope.WEBHOOKS_WRITE))]
Admin = Annotated[Caller, Depends(Gate(_check_admin))]
ServerAdmin = Annotated[Caller, Depends(Gate(_check_server_admin))]
