"""Organisations, projects, people and keys."""

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    OWNER = "owner"
    MEMBER = "member"
    READER = "reader"


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
    role: Role = Role.OWNER
    scopes: tuple[str, ...] = ()  # empty: all
    expires_at: int | None = None
    revoked_at: int | None = None
    last_used_at: int | None = None
    is_admin: bool = False


@dataclass(frozen=True)
class Caller:
    """Who asks: what every service function receives after authentication."""

    key_id: str
    organization_id: str
    project_id: str
    user_id: str | None
    role: Role
    is_admin: bool = False
    scopes: tuple[str, ...] = ()
