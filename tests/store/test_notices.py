"""The outbox, its log of deliveries, and webhook endpoints."""

import threading
from dataclasses import replace

import pytest
from sqlalchemy import Connection, Engine

from tests.rows import notices
from tests.store.conftest import NOW, Tenant
from tunery.domain.errors import NotFound
from tunery.domain.ids import new_id
from tunery.domain.notices import NoticeStatus, WebhookEndpoint
from tunery.store import outbox, webhooks
from tunery.store.database import write

TOPIC = "fine_tuning.job.succeeded"


def put(conn: Connection, tenant: Tenant, now: float = NOW, **more: str) -> str:
    return outbox.insert_outbox(conn, "webhook", TOPIC, {"id": "x"}, project_id=tenant.project_id, now=now, **more)


def make_endpoint(conn: Connection, tenant: Tenant, *event_types: str) -> WebhookEndpoint:
    ident = new_id("webhook")
    endpoint = WebhookEndpoint(ident, tenant.project_id, "ci", "https://ci.test", event_types, NOW, secret="whsec_old")
    webhooks.insert_endpoint(conn, endpoint)
    return endpoint


def test_due_notices_are_claimed_oldest_first_and_once(conn: Connection, tenant: Tenant) -> None:
    first, second = put(conn, tenant), put(conn, tenant)
    put(conn, tenant, now=NOW + 100)
    claimed = outbox.claim_due(conn, "worker", now=NOW, lease_s=60)
    assert [(notice.id, notice.attempts) for notice in claimed] == [(first, 1), (second, 1)]
    assert outbox.claim_due(conn, "other", now=NOW, lease_s=60) == ()


def test_a_notice_whose_sender_died_is_claimed_again(conn: Connection, tenant: Tenant) -> None:
    put(conn, tenant)
    outbox.claim_due(conn, "dead", now=NOW, lease_s=60)
    (notice,) = outbox.claim_due(conn, "worker", now=NOW + 61, lease_s=60)
    assert notice.attempts == 2


def test_senders_at_once_share_the_notices(database: Engine, tenant: Tenant) -> None:
    with write(database) as conn:
        made = {put(conn, tenant) for _ in range(12)}
    line, taken = threading.Barrier(4), []

    def work(name: str) -> None:
        line.wait()
        for _ in range(12):
            with write(database) as conn:
                taken.extend(notice.id for notice in outbox.claim_due(conn, name, now=NOW, lease_s=60, limit=2))

    threads = [threading.Thread(target=work, args=(f"worker-{index}",)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(taken) == len(made) and set(taken) == made


def test_a_delivered_notice_stays_delivered(conn: Connection, tenant: Tenant) -> None:
    notice = put(conn, tenant)
    assert outbox.mark_delivered(conn, notice, now=NOW)
    assert not outbox.mark_dead(conn, notice, now=NOW, error="late")
    assert outbox.claim_due(conn, "worker", now=NOW + 999, lease_s=60) == ()
    (kept,) = notices(conn, tenant.project_id)
    assert (kept.status, kept.finished_at) == (NoticeStatus.DELIVERED, NOW)


def test_a_retry_waits_for_its_time(conn: Connection, tenant: Tenant) -> None:
    notice = put(conn, tenant)
    outbox.claim_due(conn, "worker", now=NOW, lease_s=60)
    assert outbox.mark_retry(conn, notice, next_attempt_at=NOW + 30, error="503")
    assert outbox.claim_due(conn, "worker", now=NOW + 29, lease_s=60) == ()
    (again,) = outbox.claim_due(conn, "worker", now=NOW + 30, lease_s=60)
    assert (again.id, again.attempts, again.last_error) == (notice, 2, "503")


def test_a_finished_notice_can_be_sent_again_by_its_own_project(conn: Connection, tenant: Tenant) -> None:
    notice = put(conn, tenant)
    assert not outbox.resend(conn, notice, tenant.project_id, now=NOW)
    outbox.mark_dead(conn, notice, now=NOW, error="gone")
    assert not outbox.resend(conn, notice, tenant.other_project_id, now=NOW)
    assert outbox.resend(conn, notice, tenant.project_id, now=NOW + 5)
    assert [due.id for due in outbox.claim_due(conn, "worker", now=NOW + 5, lease_s=60)] == [notice]


def test_the_lag_is_that_of_the_longest_due_notice(conn: Connection, tenant: Tenant) -> None:
    assert outbox.pending_lag_s(conn, NOW) == 0
    put(conn, tenant)
    assert outbox.pending_lag_s(conn, NOW + 12.5) == 12.5


def test_each_attempt_is_logged(conn: Connection, tenant: Tenant) -> None:
    endpoint = make_endpoint(conn, tenant, TOPIC)
    put(conn, tenant, endpoint_id=endpoint.id)
    (notice,) = outbox.claim_due(conn, "worker", now=NOW, lease_s=60)
    outbox.add_delivery(conn, notice, now=NOW, duration_ms=12, status_code=503)
    outbox.add_delivery(conn, replace(notice, attempts=2), now=NOW + 1, duration_ms=9, error="timed out")
    log = outbox.list_deliveries(conn, tenant.project_id, endpoint_id=endpoint.id)
    assert [(entry.attempt, entry.status_code, entry.error) for entry in log.items] == [
        (2, None, "timed out"),
        (1, 503, None),
    ]
    assert outbox.list_deliveries(conn, tenant.other_project_id).items == ()


def test_of_a_notice_that_is_sent_again_and_again_the_latest_attempts_are_kept(
    conn: Connection, tenant: Tenant
) -> None:
    first, second = put(conn, tenant), put(conn, tenant)
    notice, other = outbox.claim_due(conn, "w", now=NOW, lease_s=60)
    assert (notice.id, other.id) == (first, second)
    outbox.add_delivery(conn, other, now=NOW, duration_ms=1, status_code=200)
    for number in range(outbox.MAX_ATTEMPTS + 7):
        outbox.add_delivery(conn, replace(notice, attempts=number), now=NOW + number, duration_ms=1, status_code=500)
    kept = outbox.list_deliveries(conn, tenant.project_id, notice_id=notice.id, limit=1_000).items
    assert [each.attempt for each in kept] == list(range(outbox.MAX_ATTEMPTS + 6, 6, -1))
    assert len(outbox.list_deliveries(conn, tenant.project_id, notice_id=other.id).items) == 1


def test_endpoints_belong_to_their_project(conn: Connection, tenant: Tenant) -> None:
    endpoint = make_endpoint(conn, tenant, TOPIC)
    assert webhooks.get_endpoint(conn, endpoint.id, tenant.project_id) == endpoint
    assert webhooks.list_endpoints(conn, tenant.other_project_id).items == ()
    with pytest.raises(NotFound):
        webhooks.get_endpoint(conn, endpoint.id, tenant.other_project_id)
    with pytest.raises(NotFound):
        webhooks.update_endpoint(conn, endpoint.id, tenant.other_project_id, now=NOW, name="x")
    with pytest.raises(NotFound):
        webhooks.delete_endpoint(conn, endpoint.id, tenant.other_project_id)
    webhooks.delete_endpoint(conn, endpoint.id, tenant.project_id)


def test_endpoints_hear_what_they_asked_for(conn: Connection, tenant: Tenant) -> None:
    asked = make_endpoint(conn, tenant, TOPIC)
    other = make_endpoint(conn, tenant, "fine_tuning.job.failed")
    assert webhooks.endpoints_for(conn, tenant.project_id, TOPIC) == (asked,)
    webhooks.update_endpoint(conn, other.id, tenant.project_id, now=NOW + 1, event_types=(TOPIC,))
    assert len(webhooks.endpoints_for(conn, tenant.project_id, TOPIC)) == 2


def test_an_old_secret_signs_for_a_while_after_a_rotation(conn: Connection, tenant: Tenant) -> None:
    endpoint = make_endpoint(conn, tenant)
    rotated = webhooks.rotate_secret(
        conn, endpoint.id, tenant.project_id, secret="whsec_new", now=NOW, keep_old_s=86_400
    )
    assert rotated.secrets_at(NOW + 86_399) == ("whsec_new", "whsec_old")
    assert rotated.secrets_at(NOW + 86_400) == ("whsec_new",)
    at_once = webhooks.rotate_secret(conn, endpoint.id, tenant.project_id, secret="whsec_3", now=NOW)
    assert at_once.secrets_at(NOW) == ("whsec_3",)
