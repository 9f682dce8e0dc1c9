"""Webhook endpoints, and test deliveries to a real receiver."""

import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from openai import InvalidWebhookSignatureError, OpenAI

from tests.api.conftest import Api
from tests.receivers import listening
from tunery.store import webhooks as store
from tunery.store.database import write

EVENT = "fine_tuning.job.succeeded"
Received = list[tuple[dict[str, str], bytes]]


@pytest.fixture
def receiver() -> Iterator[tuple[str, Received]]:
    """An address that takes webhooks, and what came."""
    received: Received = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            received.append((dict(self.headers.items()), body))
            self.send_response(418)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with listening(Handler) as address:
        yield f"{address}/hook", received


def make(api: Api, url: str = "https://example.com/hook", **values: Any) -> dict[str, Any]:
    body = {"name": "mine", "url": url, "event_types": [EVENT], **values}
    answer = api.client.post("/v1/webhook_endpoints", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_secret_is_shown_once(api: Api) -> None:
    made = make(api)
    assert made["signing_secret"].startswith("whsec_")
    shown = api.client.get(f"/v1/webhook_endpoints/{made['id']}").json()
    assert "signing_secret" not in shown
    assert shown["signing_secret_hint"].endswith(made["signing_secret"][-4:])


@pytest.mark.parametrize(
    "values",
    [{"url": "ftp://example.com"}, {"event_types": []}, {"event_types": ["job.done"]}, {"name": ""}, {"colour": "red"}],
)
def test_endpoint_that_makes_no_sense_is_400(api: Api, values: dict[str, Any]) -> None:
    body = {"name": "mine", "url": "https://example.com", "event_types": [EVENT], **values}
    assert api.client.post("/v1/webhook_endpoints", json=body).status_code == 400


def test_update_moves_updated_at_only_when_something_changes(api: Api) -> None:
    made = make(api)
    api.clock.now += 60
    path = f"/v1/webhook_endpoints/{made['id']}"
    assert api.client.post(path).json()["updated_at"] == made["updated_at"]
    assert api.client.post(path, json={"name": "mine"}).json()["updated_at"] == made["updated_at"]
    changed = api.client.post(path, json={"name": "new"}).json()
    assert (changed["name"], changed["updated_at"]) == ("new", made["updated_at"] + 60)


def test_list_delete_and_foreign_projects(api: Api) -> None:
    first, second = make(api)["id"], make(api)["id"]
    page = api.client.get("/v1/webhook_endpoints", params={"limit": 1}).json()
    assert ([item["id"] for item in page["data"]], page["has_more"]) == ([second], True)
    stranger = api.as_key(api.make_stranger())
    assert api.client.get(f"/v1/webhook_endpoints/{first}", headers=stranger).status_code == 404
    assert api.client.delete(f"/v1/webhook_endpoints/{first}", headers=stranger).status_code == 404
    assert api.client.delete(f"/v1/webhook_endpoints/{first}").json() == {
        "object": "webhook_endpoint.deleted",
        "id": first,
        "deleted": True,
    }
    assert api.client.get(f"/v1/webhook_endpoints/{first}").status_code == 404


def test_test_delivery_is_signed_as_the_sdk_verifies(
    make_api: Callable[..., Api], receiver: tuple[str, Received]
) -> None:
    api = make_api(webhook_allow_private_addresses=True)
    api.clock.now = time.time()
    url, received = receiver
    made = make(api, url)
    answer = api.client.post(f"/v1/webhook_endpoints/{made['id']}/test", json={"event_type": EVENT}).json()
    assert (answer["status_code"], answer["success"], answer["event_type"]) == (418, True, EVENT)
    headers, body = received[0]
    event = OpenAI(api_key="x").webhooks.unwrap(body, headers, secret=made["signing_secret"])
    assert event.type == EVENT
    assert event.data.id.startswith("ftjob-")


@pytest.mark.parametrize("keep_old", [True, False])
def test_rotation_keeps_the_old_secret_for_a_day_when_asked(
    make_api: Callable[..., Api], receiver: tuple[str, Received], keep_old: bool
) -> None:
    api = make_api(webhook_allow_private_addresses=True)
    api.clock.now = time.time()
    url, received = receiver
    old = make(api, url)
    path = f"/v1/webhook_endpoints/{old['id']}"
    new = api.client.post(f"{path}/rotate_secret", json={"keep_old_secret_active_for_24_hours": keep_old}).json()
    assert new["signing_secret"] != old["signing_secret"]
    api.client.post(f"{path}/test", json={"event_type": EVENT})
    headers, body = received[0]
    webhooks = OpenAI(api_key="x").webhooks
    webhooks.verify_signature(body, headers, secret=new["signing_secret"])
    if keep_old:
        webhooks.verify_signature(body, headers, secret=old["signing_secret"])
    else:
        with pytest.raises(InvalidWebhookSignatureError):
            webhooks.verify_signature(body, headers, secret=old["signing_secret"])


def test_test_delivery_to_a_private_address_is_refused(api: Api, receiver: tuple[str, Received]) -> None:
    """To an endpoint that was made while they were allowed."""
    url, received = receiver
    made = make(api)
    with write(api.engine) as conn:
        store.update_endpoint(conn, made["id"], api.project_id, now=2, url=url)
    answer = api.client.post(f"/v1/webhook_endpoints/{made['id']}/test", json={"event_type": EVENT})
    assert answer.status_code == 400
    assert "private address" in answer.json()["error"]["message"]
    assert received == []


PRIVATE = [
    "http://127.0.0.1:8000/hook",
    "https://10.1.2.3/",
    "http://localhost/",
    "http://[::1]/",
    "http://[::ffff:192.168.0.1]/",
    "http://2130706433/",
    "http://0x7f.1/",
    "http://169.254.169.254/latest/meta-data",
    "https://user:word@192.168.1.1:8443/x",
]


@pytest.mark.parametrize("url", PRIVATE)
def test_an_address_that_is_never_called_makes_no_endpoint(api: Api, url: str) -> None:
    made, judged = make(api), api.client.post("/tunery/v1/webhook_addresses", json={"url": url}).json()
    assert judged["refused"] is True
    body = {"name": "mine", "url": url, "event_types": [EVENT]}
    for path, sent in (("/v1/webhook_endpoints", body), (f"/v1/webhook_endpoints/{made['id']}", {"url": url})):
        answer = api.client.post(path, json=sent)
        error = answer.json()["error"]
        assert (answer.status_code, error["param"], error["code"]) == (400, "url", "invalid_value")
        assert "webhook_allow_private_addresses" in error["message"] and judged["problem"] in error["message"]
    (kept,) = api.client.get("/v1/webhook_endpoints").json()["data"]
    assert kept["url"] == made["url"]


@pytest.mark.parametrize("url", PRIVATE[:4])
def test_a_private_address_is_taken_where_the_setting_allows_it(make_api: Callable[..., Api], url: str) -> None:
    api = make_api(webhook_allow_private_addresses=True)
    assert make(api, url)["url"] == url
    judged = api.client.post("/tunery/v1/webhook_addresses", json={"url": url}).json()
    assert (judged["problem"], judged["refused"]) == (None, False)


def test_a_host_that_is_not_known_yet_is_warned_of_and_taken(api: Api) -> None:
    url = "https://no-such-host.invalid/hook"
    judged = api.client.post("/tunery/v1/webhook_addresses", json={"url": url}).json()
    assert judged["problem"] and not judged["refused"]
    assert make(api, url)["url"] == url


def test_event_types_are_those_that_happen_here(api: Api) -> None:
    assert api.client.get("/v1/webhook_event_types").json()["data"] == [
        "fine_tuning.job.succeeded",
        "fine_tuning.job.failed",
        "fine_tuning.job.cancelled",
        "batch.completed",
        "batch.failed",
        "batch.expired",
        "batch.cancelled",
        "eval.run.succeeded",
        "eval.run.failed",
        "eval.run.canceled",
    ]


def test_an_address_to_come_is_taken_and_nothing_is_sent_there(api: Api) -> None:
    """As OpenAI takes it: its SDK's own tests make endpoints with it."""
    body = {"name": "n", "url": "https://", "event_types": ["fine_tuning.job.succeeded"]}
    made = api.client.post("/v1/webhook_endpoints", json=body)
    assert (made.status_code, made.json()["url"]) == (200, "https://")
    judged = api.client.post("/tunery/v1/webhook_addresses", json={"url": "https://"}).json()
    assert "https://" in judged["problem"]


@pytest.mark.parametrize(
    "url",
    [
        "https://h:99999/",
        "https://h:abc/",
        "https://h:-1/",
        "https://h:0/",
        "https://[::1/",
        "https://[zz]/",
        "http://",
        "https:///path",
        "https://?",
        "https://:80/",
        "https://a..b/",
        f"https://{'a' * 64}.example/",
        "https://h/\r\nx: y",
        "https://h/a b",
        "https://h\u202e/",
        "https://h/\u2028",
    ],
)
def test_odd_addresses_are_one_400(api: Api, url: str) -> None:
    hooked = api.client.post(
        "/v1/webhook_endpoints",
        json={"name": "n", "url": "https://example.com/", "event_types": ["fine_tuning.job.succeeded"]},
    ).json()
    for path in ("/v1/webhook_endpoints", f"/v1/webhook_endpoints/{hooked['id']}"):
        body = {"name": "n", "url": url, "event_types": ["fine_tuning.job.succeeded"]}
        answer = api.client.post(path, json=body)
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["param"] == "url"
