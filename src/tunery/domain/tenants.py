"""Organisations, projects, people and keys."""

import hashlib
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from tunery.domain.ids import new_id, random_text


class Role(StrEnum):
    OWNER = "owner"
    MEMBER = "member"
    READER = "reader"


class Scope(StrEnum):
    """What a key may be restricted to. A scope that ends in `.read` only looks."""

    ALL = "api.all"
    ALL_READ = "api.all.read"
    FILES_READ = "api.files.read"
    FILES_WRITE = "api.files.write"
    JOBS_READ = "api.fine_tuning.jobs.read"
    JOBS_WRITE = "api.fine_tuning.jobs.write"
    MODELS_READ = "api.model.read"
    MODELS_WRITE = "api.model.write"
    MODELS_REQUEST = "model.request"
    EVALS_READ = "api.evals.read"
    EVALS_WRITE = "api.evals.write"
    WEBHOOKS_READ = "api.webhooks.read"
    WEBHOOKS_WRITE = "api.webhooks.write"
    MANAGEMENT_READ = "api.management.read"
    MANAGEMENT_WRITE = "api.management.write"


UNRESTRICTED: tuple[str, ...] = (Scope.ALL.value,)


def grants(scopes: tuple[str, ...], wanted: str) -> bool:
    """Whether a key with `scopes` may do what `wanted` names. No scopes grant nothing."""
    return wanted in scopes or Scope.ALL in scopes or (wanted.endswith(".read") and Scope.ALL_READ in scopes)


@dataclass(frozen=True)
class Organization:
    id: str
    name: str
    slug: str  # stands in the names of its models
    created_at: int


@dataclass(frozen=True)
class Project:
    id: str
    organization_id: str
    name: str
    created_at: int
    archived_at: int | None = None

    @property
    def status(self) -> Literal["active", "archived"]:
        return "active" if self.archived_at is None else "archived"


@dataclass(frozen=True)
class User:
    id: str
    organization_id: str
    name: str
    email: str
    role: Role
    created_at: int
    is_service_account: bool = False
    project_id: str | None = None  # set for a service account


@dataclass(frozen=True)
class Membership:
    project_id: str
    user: User
    role: Role  # in this project
    added_at: int


def new_secret(*, is_admin: bool = False) -> str:
    """A key in OpenAI's form, with 285 random bits."""
    return ("sk-admin-" if is_admin else "sk-proj-") + random_text(48)


def hash_secret(secret: str) -> str:
    """SHA-256, hex. No salt and no slow hash: the secrets are random, and every request pays for it."""
    return hashlib.sha256(secret.encode()).hexdigest()


def lookup_prefix(secret: str) -> str:
    """Finds the row. Cut from the hash, not from the secret: a short key of the user's own must not lie in clear."""
    return hash_secret(secret)[:16]


def key_hint(secret: str) -> str:
    return f"sk-...{secret[-4:]}" if len(secret) >= 16 else "sk-..."


@dataclass(frozen=True)
class ApiKey:
    """The secret itself is never stored: `prefix` finds the row, `hash` (SHA-256, hex) decides."""

    id: str
    organization_id: str
    project_id: str | None  # None: an admin key
    user_id: str | None
    name: str
    prefix: str
    hash: str
    hint: str  # `sk-…abcd`, for lists
    created_at: int
    role: Role = Role.OWNER  # counts for a key that nobody owns; another has what its owner has now, see rights_of
    scopes: tuple[str, ...] = UNRESTRICTED
    expires_at: int | None = None
    revoked_at: int | None = None
    last_used_at: int | None = None
    is_admin: bool = False

    @classmethod
    def of(cls, secret: str, **fields: Any) -> "ApiKey":
        """The key that this secret opens; `fields`: what it does not tell."""
        prefix, hashed, hint = lookup_prefix(secret), hash_secret(secret), key_hint(secret)
        return cls(id=new_id("key"), prefix=prefix, hash=hashed, hint=hint, **fields)


@dataclass(frozen=True)
class Standing:
    """What the owner of a key is at this moment, and the key's project."""

    organization_role: Role | None = None  # of a service account: its role in its project
    project_role: Role | None = None  # of a member of the key's project
    is_service_account: bool = False
    account_project_id: str | None = None
    is_archived: bool = False  # the key's project is


@dataclass(frozen=True)
class Rights:
    role: Role  # in the project
    is_admin: bool  # may administer the organisation


def rights_of(key: ApiKey, owner: Standing) -> Rights | None:
    """What the key may do now: never more than its owner, whatever the owner was when it was made. None: nothing.

    A key that nobody owns was made by whoever holds the machine and keeps what it was given; the keys of a person who
    is gone are revoked.
    """
    if owner.is_archived:
        return None
    if key.user_id is None:
        return Rights(key.role, key.is_admin)
    if owner.is_service_account:
        is_home = owner.account_project_id == key.project_id
        return Rights(owner.organization_role, False) if is_home and owner.organization_role else None
    owns = owner.organization_role is Role.OWNER
    if key.is_admin and owns:
        return Rights(Role.OWNER, True)
    if owner.project_role is None:
        return None
    return Rights(owner.project_role, owns and owner.project_role is Role.OWNER)


NO_PROJECT = ""  # of an admin key whose organisation has no active project


@dataclass(frozen=True)
class Caller:
    """Who asks: what every service function receives after authentication."""

    key_id: str
    organization_id: str
    project_id: str
    user_id: str | None
    role: Role  # in the project, now
    is_admin: bool = False  # administers the organisation, now
    scopes: tuple[str, ...] = UNRESTRICTED
    # From where, for the audit log. The same caller from elsewhere is the same caller.
    ip_address: str | None = field(default=None, compare=False)
    user_agent: str | None = field(default=None, compare=False)
