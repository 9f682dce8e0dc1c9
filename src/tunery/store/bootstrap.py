"""The first start: one organisation, one project, one owner, one key."""

from sqlalchemy import Connection, update

from tunery.domain.clock import Clock, system_clock
from tunery.domain.ids import new_id
from tunery.domain.tenants import ApiKey, Organization, Project, Role, User, lookup_prefix, new_secret
from tunery.settings import Settings
from tunery.store import tenants
from tunery.store.database import lock_across_processes, migrate, open_database, write
from tunery.store.tables import api_keys

LOCK = 0x626F6F74  # "boot"
FIRST_KEY = "first key"
ENVIRONMENT_KEY = "TUNERY_API_KEY"


def set_up(settings: Settings) -> None:
    """What an api needs that nobody has started a server for before: the schema, and the key of the settings where they
    have one. Any number may do so at once. Raises SettingsError."""
    engine = open_database(settings)
    migrate(engine)
    if settings.api_key is not None:
        with write(engine) as conn:
            bootstrap(conn, clock=system_clock, key=settings.api_key.get_secret_value())
    engine.dispose()


def bootstrap(conn: Connection, *, clock: Clock, key: str | None) -> str | None:
    """Make what a fresh database lacks. Returns the secret of a key it made up, once; else None.

    With `key` (TUNERY_API_KEY) that one is taken instead; when it differs from the last start's, it replaces it.
    """
    lock_across_processes(conn, LOCK)
    now = int(clock())
    known = tenants.list_organizations(conn)
    owner = _owner(conn, known[0]) if known else _make_organization(conn, now)
    if key is not None:
        _install(conn, owner, key, now)
        return None
    if known:
        return None
    secret = new_secret()
    tenants.insert_key(conn, _key(owner, FIRST_KEY, secret, now))
    return secret


def issue_key(conn: Connection, *, clock: Clock, name: str) -> str:
    """One more key like the first, for whoever may write to the database itself. Returns its secret, once."""
    secret = new_secret()
    tenants.insert_key(conn, _key(_owner(conn, tenants.list_organizations(conn)[0]), name, secret, int(clock())))
    return secret


def _make_organization(conn: Connection, now: int) -> tuple[User, Project]:
    organization = Organization(new_id("organization"), "personal", "personal", now)
    project = Project(new_id("project"), organization.id, "default", now)
    user = User(new_id("user"), organization.id, "Owner", "owner@localhost", Role.OWNER, now)
    tenants.insert_organization(conn, organization)
    tenants.insert_project(conn, project)
    tenants.insert_user(conn, user)
    tenants.set_membership(conn, project.id, user.id, Role.OWNER, now)
    return user, project


def _owner(conn: Connection, organization: Organization) -> tuple[User | None, Project]:
    project = tenants.list_projects(conn, organization.id, limit=1).items[0]
    people = tenants.list_users(conn, organization.id, limit=1000).items
    owners = [user for user in reversed(people) if user.role is Role.OWNER]
    return (owners[0] if owners else None), project


def _install(conn: Connection, owner: tuple[User | None, Project], secret: str, now: int) -> None:
    if tenants.find_key_by_prefix(conn, lookup_prefix(secret)) is not None:
        return
    conn.execute(
        update(api_keys)
        .where(api_keys.c.name == ENVIRONMENT_KEY, api_keys.c.revoked_at.is_(None))
        .values(revoked_at=now)
    )
    tenants.insert_key(conn, _key(owner, ENVIRONMENT_KEY, secret, now))


def _key(owner: tuple[User | None, Project], name: str, secret: str, now: int) -> ApiKey:
    """The first key opens the default project and the administration: on one's own machine they are one person's."""
    user, project = owner
    return ApiKey.of(
        secret,
        organization_id=project.organization_id,
        project_id=project.id,
        user_id=user.id if user else None,
        name=name,
        created_at=now,
        role=Role.OWNER,
        is_admin=True,
    )
