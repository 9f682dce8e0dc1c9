"""Whose word counts for where a request came from, and which requests the log tells of."""

import logging
import socket
import threading

import pytest
from fastapi.testclient import TestClient

from tests.api.conftest import SECRET, Api
from tests.fixtures_services import free_port
from tunery.api import health
from tunery.api.health import Health
from tunery.api.middleware import Visitors
from tunery.settings import SettingsError, load_settings
from tunery.store.audit import list_audit
from tunery.store.database import read

PROXY = "10.1.2.3"


def address_in_audit(api: Api, peer: str, headers: dict[str, str]) -> str | None:
    with TestClient(api.client.app, client=(peer, 1), headers=api.as_key(SECRET)) as client:
        made = client.post("/v1/organization/projects", json={"name": "p"}, headers=headers)
        assert made.status_code == 200
        client.post("/v1/files", files={"file": ("a.bin", b"x")}, data={"purpose": "user_data"}, headers=headers)
    with read(api.engine) as conn:
        by_route, by_middleware = list_audit(conn, api.organization_id).items[:2]
    assert by_route.actor.ip_address == by_middleware.actor.ip_address
    return by_route.actor.ip_address


def test_nobody_is_believed_by_default(make_api) -> None:
    api = make_api()
    for peer in ("127.0.0.1", PROXY, "203.0.113.9"):
        assert address_in_audit(api, peer, {"x-forwarded-for": "198.51.100.7"}) == peer


@pytest.mark.parametrize(
    ("peer", "sent", "believed"),
    [
        (PROXY, "198.51.100.7", "198.51.100.7"),
        (PROXY, "6.6.6.6, 198.51.100.7", "198.51.100.7"),  # the first is the client's own word
        (PROXY, "198.51.100.7, 10.9.9.9", "198.51.100.7"),  # two proxies of ours
        ("127.0.0.1", "198.51.100.7", "127.0.0.1"),
        ("203.0.113.9", "198.51.100.7", "203.0.113.9"),
    ],
)
def test_configured_proxies_are_believed(make_api, peer: str, sent: str, believed: str) -> None:
    api = make_api(trusted_proxies=["10.0.0.0/8"])
    assert address_in_audit(api, peer, {"x-forwarded-for": sent}) == believed


def test_the_dashboard_alone_is_believed_for_whom_it_asks(make_api) -> None:
    api = make_api()
    ours, strange = api.client.app.state.visitors, Visitors()  # type: ignore[attr-defined]
    assert address_in_audit(api, "127.0.0.1", ours.headers("198.51.100.7")) == "198.51.100.7"
    assert address_in_audit(api, "127.0.0.1", ours.headers("2001:db8::7")) == "2001:db8::7"
    name = Visitors.HEADER
    guesses = ["198.51.100.7", " 198.51.100.7", "x 198.51.100.7", strange.headers("198.51.100.7")[name]]
    guesses += [ours.headers("198.51.100.7")[name][1:], ours.headers("no address")[name], "", "é 1"]
    for guess in guesses:
        assert address_in_audit(api, "127.0.0.1", {name: guess.encode()}) == "127.0.0.1"  # type: ignore[dict-item]


def test_a_proxy_that_is_no_address_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNERY_TRUSTED_PROXIES", "10.0.0.0/8,*")
    with pytest.raises(SettingsError, match="trusted_proxies"):
        load_settings()


@pytest.mark.parametrize(
    ("access_log", "told"),
    [
        (
            "changes",
            {"POST /v1/fine_tuning/alpha/graders/validate 400", "GET /v1/files/nope 404", "GET /v1/models 401"},
        ),
        ("none", set()),
    ],
)
def test_log_tells_of_changes_and_refusals(
    make_api, caplog: pytest.LogCaptureFixture, access_log: str, told: set[str]
) -> None:
    client = make_api(access_log=access_log).client
    with caplog.at_level(logging.INFO, "tunery.api.access"):
        for path in ("/v1/models", "/health", "/v1/fine_tuning/jobs", "/metrics", "/v1/files/nope"):
            client.get(path)
        client.get("/v1/models", headers={"authorization": "Bearer sk-wrong"})
        client.post("/v1/fine_tuning/alpha/graders/validate", json={})
    assert {record.getMessage() for record in caplog.records} == told


def test_all_requests_are_told_when_asked_for(make_api, caplog: pytest.LogCaptureFixture) -> None:
    client = make_api(access_log="all").client
    with caplog.at_level(logging.INFO, "tunery.api.access"):
        client.get("/v1/models")
    assert [record.getMessage() for record in caplog.records] == ["GET /v1/models 200"]


def test_live_and_ready_differ_while_a_part_is_down(api: Api) -> None:
    """There is neither worker nor engine here."""
    assert api.client.get("/health/live").status_code == 200
    ready, report = api.client.get("/health/ready"), api.client.get("/health")
    assert (ready.status_code, report.status_code) == (503, 200)
    assert Health.model_validate(ready.json()) == Health.model_validate(report.json())
    states = {part: ready.json()[part] for part in ("worker", "engine", "database", "blobs")}
    assert states == {"worker": "down", "engine": "down", "database": "up", "blobs": "up"}


def test_an_api_is_ready_without_a_worker_and_not_without_its_blobs(
    make_api, engine_url: str, s3_settings: dict[str, str]
) -> None:
    ready = make_api(engine_urls=[engine_url], **s3_settings).client.get("/health/ready")
    assert (ready.status_code, ready.json()["status"], ready.json()["worker"]) == (200, "degraded", "down")
    nobody = f"http://127.0.0.1:{free_port()}"
    without = make_api(engine_urls=[engine_url], **{**s3_settings, "s3_endpoint": nobody}).client.get("/health/ready")
    assert (without.status_code, without.json()["blobs"], without.json()["database"]) == (503, "down", "up")


def test_looks_at_a_store_that_is_silent_hold_no_thread(
    make_api, s3_settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes connections and says nothing. Threads are what answers need."""
    monkeypatch.setattr(health, "BLOBS_SILENT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent_s3 = {**s3_settings, "s3_endpoint": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        client = make_api(**silent_s3).client
        assert client.get("/health/ready").json()["blobs"] == "down"
        before = threading.active_count()
        assert {client.get("/health/ready").json()["blobs"] for _ in range(8)} == {"down"}
        assert threading.active_count() <= before
