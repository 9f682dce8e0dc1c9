from dataclasses import replace

import pytest
from sqlalchemy import Connection

from tests.store.conftest import NOW, Tenant
from tunery.domain.errors import NotFound
from tunery.domain.ids import new_id
from tunery.domain.tenants import ApiKey, Project, Role, User, hash_secret, key_hint, lookup_prefix, new_secret
from tunery.store import tenants


def make_key(conn: Connection, tenant: Tenant, **changes: object) -> tuple[str, ApiKey]:
    secret = new_secret()
    key = ApiKey(
        id=new_id("key"),
        organization_id=tenant.organization_id,
        project_id=tenant.project_id,
        user_id=tenant.user_id,
        name="ci",
        prefix=lookup_prefix(secret),
        hash=hash_secret(secret),
        hint=key_hint(secret),
        created_at=NOW,
    )
    key = replace(key, **changes)
    tenants.insert_key(conn, key)
    return secret, key


def make_user(conn: Connection, tenant: Tenant, **changes: object) -> User:
    user = User(new_id("user"), tenant.organization_id, "Bo", "bo@acme.test", Role.MEMBER, NOW + 1)
    user = replace(user, **changes)
    tenants.insert_user(conn, user)
    return user


def test_a_key_is_found_by_its_secrets_prefix(conn: Connection, tenant: Tenant) -> None:
    secret, key = make_key(conn, tenant, scopes=("api.files.read",), expires_at=NOW + 5, role=Role.READER)
    assert tenants.find_key_by_prefix(conn, lookup_prefix(secret)) == key
    assert tenants.find_key_by_prefix(conn, lookup_prefix(new_secret())) is None


def test_a_key_is_revoked_once_and_leaves_the_list(conn: Connection, tenant: Tenant) -> None:
    _, key = make_key(conn, tenant)
    _, kept = make_key(conn, tenant)
    assert tenants.revoke_key(conn, key.id, NOW + 3)
    assert not tenants.revoke_key(conn, key.id, NOW + 4)
    assert tenants.list_keys(conn, project_id=tenant.project_id).items == (kept,)
    revoked = tenants.find_key(conn, key.id)
    assert revoked and revoked.revoked_at == NOW + 3


def test_the_last_use_of_a_key_is_kept(conn: Connection, tenant: Tenant) -> None:
    _, key = make_key(conn, tenant)
    tenants.touch_key(conn, key.id, NOW + 7.9)
    used = tenants.find_key(conn, key.id)
    assert used and used.last_used_at == NOW + 7


def test_admin_keys_are_listed_apart(conn: Connection, tenant: Tenant) -> None:
    make_key(conn, tenant)
    _, admin = make_key(conn, tenant, project_id=None, is_admin=True)
    assert tenants.list_keys(conn, organization_id=tenant.organization_id).items == (admin,)


def test_projects_are_listed_oldest_first_without_archived_ones(conn: Connection, tenant: Tenant) -> None:
    third = Project(new_id("project"), tenant.organization_id, "three", NOW + 1)
    tenants.insert_project(conn, third)
    tenants.archive_project(conn, tenant.project_id, NOW + 2)
    listed = [project.id for project in tenants.list_projects(conn, tenant.organization_id).items]
    assert listed == [tenant.other_project_id, third.id]
    everything = tenants.list_projects(conn, tenant.organization_id, include_archived=True)
    assert len(everything.items) == 3
    with pytest.raises(NotFound):
        tenants.get_project(conn, third.id, "org-other")


def test_an_archived_projects_keys_stop(conn: Connection, tenant: Tenant) -> None:
    _, key = make_key(conn, tenant)
    _, other = make_key(conn, tenant, project_id=tenant.other_project_id)
    tenants.archive_project(conn, tenant.project_id, NOW + 2)
    stopped, running = tenants.find_key(conn, key.id), tenants.find_key(conn, other.id)
    assert stopped and stopped.revoked_at == NOW + 2
    assert running and running.revoked_at is None


def test_a_member_has_one_role_in_a_project(conn: Connection, tenant: Tenant) -> None:
    user = make_user(conn, tenant)
    tenants.set_membership(conn, tenant.project_id, user.id, Role.READER, NOW)
    tenants.set_membership(conn, tenant.project_id, user.id, Role.MEMBER, NOW + 1)
    (member,) = tenants.list_members(conn, tenant.project_id).items
    assert (member.user, member.role, member.added_at) == (user, Role.MEMBER, NOW)
    assert tenants.find_membership(conn, tenant.other_project_id, user.id) is None


def test_a_member_who_leaves_a_project_loses_the_keys_for_it(conn: Connection, tenant: Tenant) -> None:
    user = make_user(conn, tenant)
    tenants.set_membership(conn, tenant.project_id, user.id, Role.MEMBER, NOW)
    _, key = make_key(conn, tenant, user_id=user.id)
    _, elsewhere = make_key(conn, tenant, user_id=user.id, project_id=tenant.other_project_id)
    tenants.delete_membership(conn, tenant.project_id, user.id, NOW + 5)
    gone, kept = tenants.find_key(conn, key.id), tenants.find_key(conn, elsewhere.id)
    assert gone and gone.revoked_at == NOW + 5 and kept and kept.revoked_at is None
    assert tenants.list_members(conn, tenant.project_id).items == ()


def test_a_user_who_leaves_takes_the_keys_along(conn: Connection, tenant: Tenant) -> None:
    user = make_user(conn, tenant)
    tenants.set_membership(conn, tenant.project_id, user.id, Role.MEMBER, NOW)
    _, key = make_key(conn, tenant, user_id=user.id)
    tenants.delete_user(conn, user.id, NOW + 5)
    gone = tenants.find_key(conn, key.id)
    assert gone and gone.revoked_at == NOW + 5
    with pytest.raises(NotFound):
        tenants.get_user(conn, user.id, tenant.organization_id)


def test_people_and_service_accounts_are_listed_apart(conn: Connection, tenant: Tenant) -> None:
    user = make_user(conn, tenant)
    robot = make_user(conn, tenant, is_service_account=True, project_id=tenant.project_id, email="")
    people = tenants.list_users(conn, tenant.organization_id)
    assert [person.id for person in people.items] == [user.id, tenant.user_id]
    assert tenants.list_users(conn, tenant.organization_id, emails=("bo@acme.test",)).items == (user,)
    assert tenants.list_service_accounts(conn, tenant.project_id).items == (robot,)
    assert tenants.list_service_accounts(conn, tenant.other_project_id).items == ()
    with pytest.raises(NotFound):
        tenants.get_user(conn, user.id, "org-other")
