"""The audit log of what changes outside `/organization`."""

from tests.api.conftest import EXAMPLE, Api
from tunery.api.audit import EVENTS, UNLOGGED
from tunery.domain.jobs import JobStatus

LOGS = "/v1/organization/audit_logs"


def entries(api: Api) -> list[dict]:
    return api.client.get(LOGS, params={"limit": 100, "every_type": "true"}).json()["data"]


def test_every_route_that_changes_something_is_logged_or_excused(api: Api) -> None:
    document = api.client.get("/openapi.json").json()
    changing = {
        (method.upper(), path)
        for path, operations in document["paths"].items()
        for method in operations
        if method != "get" and "/organization/" not in path
    }
    assert changing == set(EVENTS) | UNLOGGED


def test_a_file_is_logged_from_upload_to_deletion(api: Api) -> None:
    file = api.make_file()
    api.client.delete(f"/v1/files/{file['id']}", headers={"user-agent": "ci/2"})
    deleted, created = entries(api)
    assert (created["type"], created["file.created"]["id"]) == ("file.created", file["id"])
    assert created["file.created"]["data"] == {"filename": "train.jsonl", "purpose": "fine-tune"}
    assert (deleted["type"], deleted["file.deleted"]["id"]) == ("file.deleted", file["id"])
    assert deleted["actor"]["api_key"]["user_agent"] == "ci/2"


def test_a_jobs_creation_and_cancellation_are_logged(api: Api) -> None:
    file = api.make_file(EXAMPLE * 12)
    body = {"model": "gpt-4o-mini", "training_file": file["id"]}
    job = api.client.post("/v1/fine_tuning/jobs", json=body).json()
    assert api.client.post(f"/v1/fine_tuning/jobs/{job['id']}/cancel").json()["status"] == JobStatus.CANCELLED
    types = [(entry["type"], entry[entry["type"]]["id"]) for entry in entries(api)[:2]]
    assert types == [("fine_tuning.job.cancelled", job["id"]), ("fine_tuning.job.created", job["id"])]


def test_what_failed_is_not_logged_as_done_and_what_was_refused_as_refused(api: Api) -> None:
    assert api.client.delete("/v1/files/file-unknown").status_code == 404
    reader = api.as_key(api.make_key(scopes=("api.files.read",)))
    assert api.client.delete("/v1/files/file-unknown", headers=reader).status_code == 403
    assert [entry["type"] for entry in entries(api)] == ["permission.refused"]


def test_a_webhooks_secret_is_not_in_the_log(api: Api) -> None:
    body = {"name": "ci", "url": "https://ci.example", "event_types": ["fine_tuning.job.failed"]}
    made = api.client.post("/v1/webhook_endpoints", json=body).json()
    (entry,) = entries(api)
    assert entry["webhook_endpoint.created"] == {"id": made["id"], "data": {"name": "ci", "url": "https://ci.example"}}


def test_a_strict_client_gets_only_the_names_that_it_knows(api: Api) -> None:
    api.make_file()
    assert api.client.get(LOGS).json()["data"] == []
    asked = api.client.get(LOGS, params={"event_types[]": "file.created"}).json()["data"]
    assert [entry["type"] for entry in asked] == ["file.created"]
