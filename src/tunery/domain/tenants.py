"""Organisations, projects, people and keys."""

import hashlib
from dataclasses import dataclass
from enum import StrEnum

from tunery.domain.ids import random_text


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
