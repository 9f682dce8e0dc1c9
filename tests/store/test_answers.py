"""Stored completions and responses as one list, on both databases."""

from sqlalchemy import Connection

from tests.rows import store_completion, store_response
from tests.store.conftest import NOW, Tenant
from tunery.store.answers import DAY_S, Wanted, count_answers, estimated_bytes, list_answers


def test_both_kinds_are_one_list_and_pages_meet(conn: Connection, tenant: Tenant) -> None:
    """Also where many were made in one second."""
    made = []
    for at in (1, 2, 2, 2, 3):
        made.append((at, "chat", store_completion(conn, tenant.project_id, "q", "a", created_at=NOW + at)))
        made.append((at, "responses", store_response(conn, tenant.project_id, "q", "a", created_at=NOW + at)))
    store_completion(conn, tenant.other_project_id, "q", "a", created_at=NOW)
    found, after = [], None
    while True:
        page = list_answers(conn, tenant.project_id, Wanted(), after=after, limit=3)
        found += page.items
        if not page.has_more:
            break
        after = page.items[-1].id
    assert {one.id for one in found} == {id for _, _, id in made} and len(found) == len(made)
    assert [one.created_at for one in found] == sorted((one.created_at for one in found), reverse=True)
    assert {one.id: one.api for one in found} == {id: api for _, api, id in made}
    assert list_answers(conn, tenant.project_id, Wanted(), after="resp_none").items == ()


def test_each_filter_and_all_together(conn: Connection, tenant: Tenant) -> None:
    project, odd = tenant.project_id, {'k"ey].$': "välue%'"}
    first = store_completion(conn, project, "q", "a", created_at=NOW, model="ft:a", metadata={"k": "1"})
    second = store_completion(conn, project, "q", "a", created_at=NOW + 10, model="b", metadata=odd)
    third = store_response(conn, project, "q", "a", created_at=NOW + 20, model="ft:a", metadata={"k": "1", "l": "2"})

    def ids(**wanted: object) -> set[str]:
        return {one.id for one in list_answers(conn, project, Wanted(**wanted)).items}  # type: ignore[arg-type]

    assert ids(api="chat") == {first, second} and ids(api="responses") == {third}
    assert ids(model="ft:a") == {first, third} and ids(model="ft:A") == set()
    assert ids(since=NOW + 10) == {second, third} and ids(until=NOW + 10) == {first}
    assert ids(metadata={"k": "1"}) == {first, third} and ids(metadata={"k": "1", "l": "2"}) == {third}
    assert ids(metadata=odd) == {second} and ids(metadata={"k": "2"}) == set()
    assert ids(api="responses", model="ft:a", since=NOW + 1, until=NOW + 21, metadata={"l": "2"}) == {third}


def test_counts_by_model_and_day(conn: Connection, tenant: Tenant) -> None:
    day = NOW // DAY_S * DAY_S
    for at, model in ((day, "a"), (day + DAY_S - 1, "a"), (day + DAY_S, "a"), (day, "b")):
        store_response(conn, tenant.project_id, "q", "a", created_at=at, model=model)
    store_completion(conn, tenant.project_id, "q", "a", created_at=day, model="a")
    found = count_answers(conn, tenant.project_id, Wanted())
    assert {(one.model, one.day): one.num_answers for one in found} == {
        ("a", day): 3,
        ("a", day + DAY_S): 1,
        ("b", day): 1,
    }
    assert estimated_bytes(conn, tenant.project_id, Wanted()) > 3 * estimated_bytes(
        conn, tenant.project_id, Wanted(), 1
    )
    assert sum(one.num_answers for one in count_answers(conn, tenant.project_id, Wanted(model="a", api="chat"))) == 1
