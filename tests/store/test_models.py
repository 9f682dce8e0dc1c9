import pytest
from sqlalchemy import Connection

from tests.rows import fine_tuned_model
from tests.store.conftest import NOW, Tenant
from tunery.domain.errors import NotFound
from tunery.domain.models import FineTunedModel
from tunery.store import models
from tunery.store.paging import Page


def make_model(
    conn: Connection, tenant: Tenant, name: str = "ft:base:acme:s:abcdefgh", step: int = 3
) -> FineTunedModel:
    made = {"job_id": "ftjob-1", "step_number": step, "trained_tokens": 77}
    model = fine_tuned_model(name=name, project_id=tenant.project_id, created_at=NOW, owned_by="acme", **made)
    models.insert_model(conn, model)
    return model


def test_a_model_is_seen_by_its_own_project_only(conn: Connection, tenant: Tenant) -> None:
    model = make_model(conn, tenant)
    assert models.find_model(conn, model.name, tenant.project_id) == model
    assert models.find_model(conn, model.name, tenant.other_project_id) is None
    assert models.list_models(conn, tenant.other_project_id) == ()


def test_a_shared_model_is_used_by_the_other_project_but_not_owned(conn: Connection, tenant: Tenant) -> None:
    model = make_model(conn, tenant)
    permission = models.insert_permission(conn, model.name, tenant.other_project_id, NOW)
    assert models.insert_permission(conn, model.name, tenant.other_project_id, NOW + 1) == permission
    assert models.find_model(conn, model.name, tenant.other_project_id) == model
    assert models.list_models(conn, tenant.other_project_id) == (model,)
    for act in (models.get_own_model, models.delete_model):
        with pytest.raises(NotFound):
            act(conn, model.name, tenant.other_project_id)
    assert models.delete_permission(conn, model.name, permission.id)
    assert not models.delete_permission(conn, model.name, permission.id)
    assert models.find_model(conn, model.name, tenant.other_project_id) is None


def test_a_deleted_model_is_gone_with_its_permissions(conn: Connection, tenant: Tenant) -> None:
    model = make_model(conn, tenant)
    models.insert_permission(conn, model.name, tenant.other_project_id, NOW)
    assert models.delete_model(conn, model.name, tenant.project_id) == model
    assert models.list_permissions(conn, model.name) == Page()
    with pytest.raises(NotFound):
        models.delete_model(conn, model.name, tenant.project_id)


def test_permissions_are_paged_both_ways(conn: Connection, tenant: Tenant) -> None:
    model = make_model(conn, tenant)
    first = models.insert_permission(conn, model.name, tenant.project_id, NOW)
    second = models.insert_permission(conn, model.name, tenant.other_project_id, NOW)
    down = models.list_permissions(conn, model.name, limit=1)
    assert down.items == (second,) and down.has_more
    assert models.list_permissions(conn, model.name, after=second.id).items == (first,)
    assert models.list_permissions(conn, model.name, descending=False).items == (first, second)
    assert models.list_permissions(conn, model.name, project_id=tenant.project_id).items == (first,)


def test_the_models_of_a_job_come_highest_step_first(conn: Connection, tenant: Tenant) -> None:
    early = make_model(conn, tenant, "ft:a:o:s:aaaaaaaa:ckpt-step-1", step=1)
    late = make_model(conn, tenant, "ft:a:o:s:bbbbbbbb", step=2)
    assert models.list_models_of_job(conn, "ftjob-1") == (late, early)


def test_an_alias_can_be_turned_and_its_history_tells_the_way_back(conn: Connection, tenant: Tenant) -> None:
    project = tenant.project_id
    models.set_alias(conn, project, "support", "ft:old", now=NOW, changed_by="user-1")
    models.set_alias(conn, project, "support", "ft:new", now=NOW + 1, reason="better")
    alias = models.find_alias(conn, project, "support")
    assert alias and (alias.target, alias.created_at, alias.updated_at) == ("ft:new", NOW, NOW + 1)
    changes = models.list_alias_changes(conn, project, "support")
    assert [(change.target, change.reason) for change in changes] == [("ft:new", "better"), ("ft:old", "")]
    assert models.list_aliases(conn, tenant.other_project_id) == ()
    assert models.delete_alias(conn, project, "support", now=NOW + 2)
    assert not models.delete_alias(conn, project, "support", now=NOW + 2)
    assert models.find_alias(conn, project, "support") is None
    assert models.list_alias_changes(conn, project, "support")[0].target is None
