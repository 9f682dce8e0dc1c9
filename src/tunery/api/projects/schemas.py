"""Projects, people and keys on the wire."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from tunery.api.body import Body
from tunery.api.paging import Resource
from tunery.domain.numbers import Int
from tunery.domain.tenants import ApiKey, Membership, Role, Scope, User

Name = Annotated[str, Field(min_length=1, max_length=256)]
ExpiresIn = Annotated[Int | None, Field(ge=1, le=10 * 365 * 86_400)]
Scopes = Annotated[
    list[Annotated[Scope, Field(strict=False)]],
    Field(max_length=64, description="What the key may do: nothing with an empty list, everything with `api.all`."),
]
RoleName = Literal["owner", "member", "reader"]


class ProjectCreate(Body):
    """`external_key_id`, `geography` and `residency` mean nothing on one's own machine and are accepted."""

    name: Name
    external_key_id: str | None = None
    geography: str | None = None
    residency: str | None = None


class ProjectUpdate(Body):
    name: Name | None = None
    external_key_id: str | None = None
    geography: str | None = None


class ProjectOut(Resource):
    id: str
    object: Literal["organization.project"] = "organization.project"
    name: str
    created_at: int
    archived_at: int | None
    status: Literal["active", "archived"]


class UserUpdate(Body):
    """Only the role is kept; the rest describes people for OpenAI's own purposes."""

    role: RoleName | None = None
    role_id: str | None = None
    developer_persona: str | None = None
    technical_level: str | None = None


class UserOut(Resource):
    id: str
    object: Literal["organization.user"] = "organization.user"
    name: str
    email: str
    role: str
    added_at: int = Field(validation_alias="created_at")
    is_service_account: bool = False


class MemberCreate(Body):
    """By the id of somebody in the organisation, or by a mail address, which is added to it when it is new."""

    role: RoleName
    user_id: str | None = None
    email: Annotated[str | None, Field(min_length=3, max_length=320, pattern=r"^[^@\s]+@[^@\s]+$")] = None


class MemberUpdate(Body):
    role: RoleName | None = None


class MemberOut(BaseModel):
    id: str
    object: Literal["organization.project.user"] = "organization.project.user"
    name: str
    email: str
    role: str
    added_at: int


class ServiceAccountCreate(Body):
    name: Name
    create_service_account_only: bool | None = None
    expires_in_seconds: ExpiresIn = None


class ServiceAccountUpdate(Body):
    name: Name | None = None
    role: Literal["member", "owner"] | None = None


class ServiceAccountOut(Resource):
    id: str
    object: Literal["organization.project.service_account"] = "organization.project.service_account"
    name: str
    role: str
    created_at: int


class ServiceAccountKeyCreate(Body):
    name: Name | None = None
    expires_in_seconds: ExpiresIn = None
    scopes: Scopes = Field(default_factory=lambda: [Scope.ALL])


class ServiceAccountKey(BaseModel):
    """A new key; `value` is shown here and never again."""

    id: str
    object: Literal["organization.project.service_account.api_key"] = "organization.project.service_account.api_key"
    name: str
    value: str
    created_at: int
    expires_at: int | None


class ServiceAccountCreated(ServiceAccountOut):
    api_key: ServiceAccountKey | None


class PersonalKeyCreate(Body):
    """A key for a member of the project, who has the member's role."""

    name: Name
    user_id: str
    expires_in_seconds: ExpiresIn = None
    scopes: Scopes = Field(default_factory=lambda: [Scope.ALL])


class KeyUpdate(Body):
    expires_in_seconds: ExpiresIn = None
    scopes: Scopes | None = None


class OwnerUser(Resource):
    id: str
    name: str
    email: str
    role: str
    created_at: int


class OwnerServiceAccount(Resource):
    id: str
    name: str
    role: str
    created_at: int


class KeyOwner(BaseModel):
    type: Literal["user", "service_account"] | None
    user: OwnerUser | None = None
    service_account: OwnerServiceAccount | None = None


class KeyOut(BaseModel):
    id: str
    object: Literal["organization.project.api_key"] = "organization.project.api_key"
    name: str
    redacted_value: str
    created_at: int
    last_used_at: int | None
    expires_at: int | None
    scopes: list[str]
    owner: KeyOwner
    owner_project_access: Literal["active", "inactive"]


class KeyCreated(KeyOut):
    value: str = Field(description="The key itself, shown here and never again.")


class AdminKeyCreate(Body):
    name: Name
    expires_in_seconds: ExpiresIn = None


class AdminKeyOwner(BaseModel):
    type: Literal["user"] = "user"
    object: Literal["organization.user"] = "organization.user"
    id: str | None
    name: str | None
    created_at: int | None
    role: str


class AdminKeyOut(BaseModel):
    id: str
    object: Literal["organization.admin_api_key"] = "organization.admin_api_key"
    name: str
    redacted_value: str
    created_at: int
    last_used_at: int | None
    expires_at: int | None
    owner: AdminKeyOwner


class AdminKeyCreated(AdminKeyOut):
    value: str = Field(description="The key itself, shown here and never again.")


@dataclass(frozen=True)
class OwnedKey:
    key: ApiKey
    owner: User | None
    role: Role | None  # the owner's in the key's project; None when there is none any more


class Deleted(BaseModel):
    id: str
    object: str
    deleted: bool = True


def wire_member(member: Membership) -> MemberOut:
    user = member.user
    return MemberOut(id=user.id, name=user.name, email=user.email, role=member.role.value, added_at=member.added_at)


def wire_key(owned: OwnedKey) -> KeyOut:
    key, owner, role = owned.key, owned.owner, owned.role
    return KeyOut(
        id=key.id,
        name=key.name,
        redacted_value=key.hint,
        created_at=key.created_at,
        last_used_at=key.last_used_at,
        expires_at=key.expires_at,
        scopes=list(key.scopes),
        owner=_wire_owner(owner, role or key.role),
        owner_project_access="active" if owner is None or role is not None else "inactive",
    )


def _wire_owner(owner: User | None, role: Role) -> KeyOwner:
    if owner is None:
        return KeyOwner(type=None)
    shared = {"id": owner.id, "name": owner.name, "role": role.value, "created_at": owner.created_at}
    if owner.is_service_account:
        return KeyOwner(type="service_account", service_account=OwnerServiceAccount(**shared))
    return KeyOwner(type="user", user=OwnerUser(email=owner.email, **shared))


def wire_service_account_key(key: ApiKey, secret: str) -> ServiceAccountKey:
    return ServiceAccountKey(
        id=key.id, name=key.name, value=secret, created_at=key.created_at, expires_at=key.expires_at
    )


def wire_admin_key(owned: OwnedKey) -> AdminKeyOut:
    key, owner = owned.key, owned.owner
    return AdminKeyOut(
        id=key.id,
        name=key.name,
        redacted_value=key.hint,
        created_at=key.created_at,
        last_used_at=key.last_used_at,
        expires_at=key.expires_at,
        owner=AdminKeyOwner(
            id=owner.id if owner else None,
            name=owner.name if owner else None,
            created_at=owner.created_at if owner else None,
            role=Role.OWNER.value,
        ),
    )
