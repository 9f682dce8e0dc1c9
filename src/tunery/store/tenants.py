"""Organisations, projects, people, keys, and the first start that makes one of each."""

from dataclasses import asdict, fields
from typing import Any

from sqlalchemy import Connection, Row, and_, bindparam, delete, insert, or_, select, update
from sqlalchemy.sql import ColumnElement

from tunery.domain.errors import InvalidRequest, NotFound
from tunery.domain.tenants import ApiKey, Membership, Organization, Project, Role, Standing, User
from tunery.store.paging import Page, fetch_page, mapping_of, values_of
from tunery.store.tables import api_keys, memberships, organizations, projects, users
from tunery.store.upsert import insert_or
from tunery.texts import say


def insert_organization(conn: Connection, organization: Organization) -> None:
    conn.execute(insert(organizations).values(asdict(organization)))


def get_organization(conn: Connection, organization_id: str) -> Organization:
    row = conn.execute(select(organizations).where(organizations.c.id == organization_id)).first()
    if row is None:
        raise NotFound(say("error.no_such_organization", organization_id=organization_id), param="id")
    return Organization(row.id, row.name, row.slug, row.created_at)


def is_organization(conn: Connection, name: str) -> bool:
    """Whether any organisation has this id, slug or name."""
    columns = (organizations.c.id, organizations.c.slug, organizations.c.name)
    query = select(organizations.c.id).where(or_(*(column == name for column in columns)))
    return conn.execute(query.limit(1)).first() is not None


def is_project(conn: Connection, project_id: str) -> bool:
    """Whether any organisation has it."""
    return conn.execute(select(projects.c.id).where(projects.c.id == project_id)).first() is not None


def list_organizations(conn: Connection) -> tuple[Organization, ...]:
    rows = conn.execute(select(organizations).order_by(organizations.c.seq))
    return tuple(Organization(row.id, row.name, row.slug, row.created_at) for row in rows)


def insert_project(conn: Connection, project: Project) -> None:
    conn.execute(insert(projects).values(asdict(project)))


def get_project(conn: Connection, project_id: str, organization_id: str | None = None) -> Project:
    """With `organization_id`, another organisation's project does not exist."""
    query = select(projects).where(projects.c.id == project_id)
    if organization_id is not None:
        query = query.where(projects.c.organization_id == organization_id)
    row = conn.execute(query).first()
    if row is None:
        raise NotFound(say("error.no_project", project_id=project_id), param="project_id")
    return _to_project(row)


def get_active_project(conn: Connection, project_id: str, organization_id: str | None = None) -> Project:
    """For what is put into the project: raises InvalidRequest when it is archived. Until the transaction ends nobody
    archives it."""
    query = select(projects.c.id).where(projects.c.id == project_id).with_for_update(read=True)
    conn.execute(query)
    project = get_project(conn, project_id, organization_id)
    if project.archived_at is not None:
        raise InvalidRequest(
            say("error.project_takes_nothing_new", name=project.name),
            param="project_id",
            code="project_archived",
        )
    return project


def list_projects(
    conn: Connection,
    organization_id: str,
    *,
    after: str | None = None,
    limit: int = 100,
    include_archived: bool = False,
) -> Page[Project]:
    query = select(projects).where(projects.c.organization_id == organization_id)
    if not include_archived:
        query = query.where(projects.c.archived_at.is_(None))
    return fetch_page(conn, query, projects, _to_project, after=after, limit=limit, descending=False)


def rename_project(conn: Connection, project_id: str, name: str) -> None:
    conn.execute(update(projects).where(projects.c.id == project_id).values(name=name))


def archive_project(conn: Connection, project_id: str, now: float) -> None:
    """Its keys stop at once, its rows stay."""
    conn.execute(
        update(projects)
        .where(projects.c.id == project_id, projects.c.archived_at.is_(None))
        .values(archived_at=int(now))
    )
    _revoke(conn, now, api_keys.c.project_id == project_id)


def insert_user(conn: Connection, user: User) -> None:
    conn.execute(insert(users).values(asdict(user)))


def find_user(conn: Connection, user_id: str) -> User | None:
    row = conn.execute(select(users).where(users.c.id == user_id)).first()
    return None if row is None else _to_user(row)


def get_user(conn: Connection, user_id: str, organization_id: str) -> User:
    user = find_user(conn, user_id)
    if user is None or user.organization_id != organization_id:
        raise NotFound(say("error.no_such_user", user_id=user_id), param="user_id")
    return user


def list_users(
    conn: Connection,
    organization_id: str,
    *,
    after: str | None = None,
    limit: int = 20,
    emails: tuple[str, ...] = (),
) -> Page[User]:
    """People, not service accounts; newest first."""
    query = select(users).where(users.c.organization_id == organization_id, ~users.c.is_service_account)
    if emails:
        query = query.where(users.c.email.in_(emails))
    return fetch_page(conn, query, users, _to_user, after=after, limit=limit)


def list_service_accounts(
    conn: Connection, project_id: str, *, after: str | None = None, limit: int = 20
) -> Page[User]:
    query = select(users).where(users.c.project_id == project_id, users.c.is_service_account)
    return fetch_page(conn, query, users, _to_user, after=after, limit=limit)


def update_user(conn: Connection, user_id: str, **values: Any) -> None:
    """`values`: name, email or role."""
    conn.execute(update(users).where(users.c.id == user_id).values(values))


def delete_user(conn: Connection, user_id: str, now: float) -> None:
    """The user's keys are revoked and kept without an owner: usage and audit rows still name them."""
    _revoke(conn, now, api_keys.c.user_id == user_id)
    conn.execute(update(api_keys).where(api_keys.c.user_id == user_id).values(user_id=None))
    conn.execute(delete(memberships).where(memberships.c.user_id == user_id))
    conn.execute(delete(users).where(users.c.id == user_id))


def count_owners_for_update(conn: Connection, organization_id: str) -> int:
    """The people who own the organisation, their rows locked until the transaction ends."""
    query = select(users.c.id).where(
        users.c.organization_id == organization_id, users.c.role == Role.OWNER, ~users.c.is_service_account
    )
    return len(conn.execute(query.with_for_update()).all())


def set_membership(conn: Connection, project_id: str, user_id: str, role: Role, now: float) -> None:
    """Add the user to the project, or change the role of a member."""
    row = {"project_id": project_id, "user_id": user_id, "role": role.value, "created_at": int(now)}
    statement = insert_or(conn, memberships).values(row)
    conn.execute(statement.on_conflict_do_update(index_elements=["project_id", "user_id"], set_={"role": role.value}))


def find_membership(conn: Connection, project_id: str, user_id: str) -> Membership | None:
    row = conn.execute(_MEMBERS.where(memberships.c.project_id == project_id, memberships.c.user_id == user_id)).first()
    return None if row is None else _to_membership(row)


def get_membership(conn: Connection, project_id: str, user_id: str) -> Membership:
    member = find_membership(conn, project_id, user_id)
    if member is None:
        raise NotFound(say("error.no_such_member", user_id=user_id), param="user_id")
    return member


def list_members(conn: Connection, project_id: str, *, after: str | None = None, limit: int = 20) -> Page[Membership]:
    """`after` is a user's id. Newest user first."""
    query = _MEMBERS.where(memberships.c.project_id == project_id)
    return fetch_page(conn, query, users, _to_membership, after=after, limit=limit)


def delete_membership(conn: Connection, project_id: str, user_id: str, now: float) -> None:
    """The member's keys for this project stop at once."""
    conn.execute(delete(memberships).where(memberships.c.project_id == project_id, memberships.c.user_id == user_id))
    _revoke(conn, now, api_keys.c.project_id == project_id, api_keys.c.user_id == user_id)


def insert_key(conn: Connection, key: ApiKey) -> None:
    conn.execute(insert(api_keys).values(asdict(key) | {"scopes": list(key.scopes)}))


# Made once: every request asks it, and building a query takes longer than running it.
_CREDENTIAL = (
    select(
        api_keys,
        users.c.role.label("owner_role"),
        users.c.is_service_account.label("owner_is_account"),
        users.c.project_id.label("owner_project_id"),
        memberships.c.role.label("member_role"),
        projects.c.archived_at.label("archived_at"),
    )
    .select_from(api_keys)
    .outerjoin(users, users.c.id == api_keys.c.user_id)
    .outerjoin(
        memberships,
        and_(memberships.c.project_id == api_keys.c.project_id, memberships.c.user_id == api_keys.c.user_id),
    )
    .outerjoin(projects, projects.c.id == api_keys.c.project_id)
    .where(api_keys.c.prefix == bindparam("prefix"))
)
_KEY_FIELDS = frozenset(each.name for each in fields(ApiKey))


def find_credential(conn: Connection, prefix: str) -> tuple[ApiKey, Standing] | None:
    """The key and what its owner is now; revoked and expired keys too: the caller decides.
    `prefix` is domain.tenants.lookup_prefix(secret)."""
    row = conn.execute(_CREDENTIAL, {"prefix": prefix}).first()
    return None if row is None else (_to_key(row), _to_standing(row))


def find_key_by_prefix(conn: Connection, prefix: str) -> ApiKey | None:
    found = find_credential(conn, prefix)
    return None if found is None else found[0]


def find_key(conn: Connection, key_id: str) -> ApiKey | None:
    row = conn.execute(select(api_keys).where(api_keys.c.id == key_id)).first()
    return None if row is None else _to_key(row)


def list_keys(
    conn: Connection,
    *,
    project_id: str | None = None,
    organization_id: str | None = None,
    after: str | None = None,
    limit: int = 20,
    descending: bool = True,
) -> Page[ApiKey]:
    """A project's keys, or with `organization_id` its admin keys. Revoked ones are left out."""
    query = select(api_keys).where(api_keys.c.revoked_at.is_(None))
    if project_id is not None:
        query = query.where(api_keys.c.project_id == project_id)
    if organization_id is not None:
        query = query.where(api_keys.c.organization_id == organization_id, api_keys.c.is_admin)
    return fetch_page(conn, query, api_keys, _to_key, after=after, limit=limit, descending=descending)


def update_key(conn: Connection, key_id: str, *, expires_at: int | None, scopes: tuple[str, ...]) -> None:
    conn.execute(update(api_keys).where(api_keys.c.id == key_id).values(expires_at=expires_at, scopes=list(scopes)))


def touch_key(conn: Connection, key_id: str, now: float) -> None:
    conn.execute(update(api_keys).where(api_keys.c.id == key_id).values(last_used_at=int(now)))


def revoke_key(conn: Connection, key_id: str, now: float) -> bool:
    """False when there is no such key or it was revoked before."""
    return _revoke(conn, now, api_keys.c.id == key_id) == 1


def _revoke(conn: Connection, now: float, *which: ColumnElement[bool]) -> int:
    """How many of these keys opened anything until now."""
    live = update(api_keys).where(*which, api_keys.c.revoked_at.is_(None))
    return conn.execute(live.values(revoked_at=int(now))).rowcount


_MEMBERS = select(
    memberships.c.project_id,
    memberships.c.role.label("project_role"),
    memberships.c.created_at.label("added_at"),
    users,
).join_from(memberships, users, memberships.c.user_id == users.c.id)


def _to_project(row: Row[Any]) -> Project:
    return Project(row.id, row.organization_id, row.name, row.created_at, row.archived_at)


def _to_user(row: Row[Any]) -> User:
    """Of a row of users, or of one joined with others."""
    values = mapping_of(row)
    found: dict[str, Any] = {column.name: values[column] for column in users.c if column.name != "seq"}
    found["role"] = Role(row.role)
    return User(**found)


def _to_membership(row: Row[Any]) -> Membership:
    project_id = mapping_of(row)[memberships.c.project_id]
    return Membership(project_id, _to_user(row), Role(row.project_role), row.added_at)


def _to_key(row: Row[Any]) -> ApiKey:
    values = values_of(row, scopes=tuple(row.scopes), role=Role(row.role))
    return ApiKey(**{name: value for name, value in values.items() if name in _KEY_FIELDS})


def _to_standing(row: Row[Any]) -> Standing:
    return Standing(
        organization_role=Role(row.owner_role) if row.owner_role else None,
        project_role=Role(row.member_role) if row.member_role else None,
        is_service_account=bool(row.owner_is_account),
        account_project_id=row.owner_project_id,
        is_archived=row.archived_at is not None,
    )
