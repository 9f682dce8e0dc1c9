from pathlib import Path

from openai import OpenAI
from sqlalchemy import select, update

from tests.fixtures_services import SECRETS_KEY
from tests.jobs.waiting import wait_for
from tests.notify.conftest import Post, Receiver
from tunery.domain.clock import system_clock
from tunery.notify.signing import new_secret
from tunery.settings import load_settings
from tunery.store import webhooks
from tunery.store.bootstrap import bootstrap
from tunery.store.database import connect, migrate, open_database, read, write
from tunery.store.secrets import Secrets
from tunery.store.tables import projects, webhook_endpoints


def test_event_is_delivered_as_the_official_client_verifies_it(post: Post, receiver: Receiver) -> None:
    endpoint = post.endpoint(receiver.url)
    with post.dispatcher():
        notice = post.event(endpoint, "ftjob-7")
        post.wait(notice, "delivered")
    got = receiver.received[0]
    event = OpenAI(api_key="x").webhooks.unwrap(got.body, got.headers, secret=endpoint.secret)
    assert event.type == "fine_tuning.job.succeeded"
    assert event.data.id == "ftjob-7"
    assert got.headers["webhook-id"] == notice
    assert got.headers["content-type"] == "application/json"
    assert got.headers["host"] == f"127.0.0.1:{receiver.port}"


def test_secrets_of_the_version_before_sign_after_the_upgrade_and_after_a_restart(
    home: Path, database_url: str, receiver: Receiver
) -> None:
    settings = load_settings(home=home, database_url=database_url, webhook_allow_private_addresses=True)
    engine = connect(database_url)
    with write(engine) as conn:
        bootstrap(conn, clock=system_clock, key="sk-test-key")
        project_id = conn.execute(select(projects.c.id)).scalar_one()
    key = Secrets(home / "forgotten.key", given=SECRETS_KEY)
    before = Post(settings, connect(database_url, key), project_id)
    endpoint = before.endpoint(receiver.url)
    before.engine.dispose()
    with write(engine) as conn:  # as it lay there before
        conn.execute(update(webhook_endpoints).values(secret=endpoint.secret))
    engine.dispose()
    for number in (1, 2):
        post = Post(settings, open_database(settings), project_id)
        migrate(post.engine)
        with post.dispatcher():
            post.wait(post.event(endpoint, f"ftjob-{number}"), "delivered")
        got = receiver.received[-1]
        event = OpenAI(api_key="x").webhooks.unwrap(got.body, got.headers, secret=endpoint.secret)
        assert event.data.id == f"ftjob-{number}"
        with read(post.engine) as conn:
            assert "whsec_" not in conn.execute(select(webhook_endpoints.c.secret)).scalar_one()
        post.engine.dispose()


def test_receiver_that_was_down_gets_every_event_once(post: Post, receiver: Receiver) -> None:
    endpoint = post.endpoint(receiver.url)
    receiver.down()
    notices = [post.event(endpoint, f"ftjob-{n}") for n in range(5)]
    with post.dispatcher():
        for notice in notices:
            post.wait_for_attempt(notice, 1)
        receiver.up()
        post.watch.ahead_s = 60
        for notice in notices:
            post.wait(notice, "delivered")
    assert sorted(got.headers["webhook-id"] for got in receiver.received) == sorted(notices)
    client = OpenAI(api_key="x")
    events = [client.webhooks.unwrap(got.body, got.headers, secret=endpoint.secret) for got in receiver.received]
    assert {event.data.id for event in events} == {f"ftjob-{n}" for n in range(5)}  # type: ignore[union-attr]
    log = post.attempts(notices[0])
    assert [attempt.status_code for attempt in log] == [None, 200]
    assert "ConnectError" in log[0].error
    assert log[1].duration_ms >= 0


def test_server_error_is_tried_again_with_the_same_id_and_bytes(post: Post, receiver: Receiver) -> None:
    receiver.status = 500
    notice = post.event(post.endpoint(receiver.url))
    with post.dispatcher():
        post.wait_for_attempt(notice, 1)
        receiver.status = 204
        post.watch.ahead_s = 30
        post.wait(notice, "delivered")
    first, second = receiver.received
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.body == second.body
    assert first.headers["webhook-timestamp"] != second.headers["webhook-timestamp"]


def test_redirect_is_a_failure_and_not_followed(post: Post, receiver: Receiver) -> None:
    receiver.status, receiver.location = 302, f"{receiver.url}/elsewhere"
    notice = post.event(post.endpoint(receiver.url))
    with post.dispatcher():
        row = post.wait_for_attempt(notice, 1)
    assert row.status == "pending"
    assert "redirects are not followed" in row.last_error
    assert len(receiver.received) == 1


def test_private_address_is_not_called_unless_allowed(post: Post, receiver: Receiver) -> None:
    settings = post.settings.model_copy(update={"webhook_allow_private_addresses": False})
    notice = post.event(post.endpoint(receiver.url))
    with post.dispatcher(settings):
        row = post.wait_for_attempt(notice, 1)
    assert "private address" in row.last_error
    assert receiver.received == []


def test_delivery_is_given_up_72_hours_after_the_event(post: Post, receiver: Receiver) -> None:
    receiver.status = 503
    notice = post.event(post.endpoint(receiver.url))
    with post.dispatcher():
        post.wait_for_attempt(notice, 1)
        post.watch.ahead_s = 72 * 3600
        post.wait(notice, "dead")
    assert len(receiver.received) == 2


def test_both_secrets_sign_while_one_replaces_the_other(post: Post, receiver: Receiver) -> None:
    endpoint, fresh = post.endpoint(receiver.url), new_secret()
    with write(post.engine) as conn:
        webhooks.rotate_secret(conn, endpoint.id, post.project_id, secret=fresh, now=post.watch(), keep_old_s=86_400)
    with post.dispatcher():
        post.wait(post.event(endpoint), "delivered")
        post.watch.ahead_s = 86_401
        post.wait(post.event(endpoint), "delivered")
    during, after = receiver.received
    for secret in (endpoint.secret, fresh):
        OpenAI(api_key="x").webhooks.unwrap(during.body, during.headers, secret=secret)
    assert len(during.headers["webhook-signature"].split(" ")) == 2
    assert len(after.headers["webhook-signature"].split(" ")) == 1


def test_event_of_a_deleted_endpoint_is_given_up_at_once(post: Post, receiver: Receiver) -> None:
    endpoint = post.endpoint(receiver.url)
    notice = post.event(endpoint)
    with write(post.engine) as conn:
        webhooks.delete_endpoint(conn, endpoint.id, post.project_id)
    with post.dispatcher():
        post.wait(notice, "dead")
    assert receiver.received == []


def test_two_dispatchers_deliver_each_event_once(post: Post, receiver: Receiver) -> None:
    endpoint = post.endpoint(receiver.url)
    with post.dispatcher(), post.dispatcher():
        notices = [post.event(endpoint) for _ in range(30)]
        wait_for(lambda: True if all(post.row(notice).status == "delivered" for notice in notices) else None)
    assert sorted(got.headers["webhook-id"] for got in receiver.received) == sorted(notices)
