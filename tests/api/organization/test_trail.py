"""The audit log of what changes outside `/organization`: written with the change, or nothing is changed."""

import hashlib
from typing import Any

import pytest

from tests.api.conftest import EXAMPLE, NOW, Api, a_run, an_eval
from tests.api.test_batch_datasets import chat_pair
from tests.api.test_uploads import WHOLE, add, begin
from tests.rows import store_batch
from tunery.domain.completions import StoredCompletion
from tunery.domain.jobs import JobStatus
from tunery.domain.responses import StoredResponse
from tunery.store import completions, responses
from tunery.store.database import write

LOGS = "/v1/organization/audit_logs"
JOB = "/v1/fine_tuning/jobs"
EVALS = "/v1/evals"
PERMISSIONS = "/v1/fine_tuning/checkpoints/{checkpoint}/permissions"
HOOKS = "/v1/webhook_endpoints"
COMPLETION = "/v1/chat/completions/{completion_id}"
CONVERSATION = "/v1/conversations/{conversation_id}"

LOGGED = {
    ("POST", "/v1/files"): ["file.created"],
    ("DELETE", "/v1/files/{file_id}"): ["file.deleted"],
    ("POST", "/tunery/v1/files/{file_id}/split"): ["file.created", "file.created"],
    ("POST", "/tunery/v1/files/{file_id}/versions"): ["file.created"],
    ("POST", "/tunery/v1/stored_answers/dataset"): ["file.created"],
    ("POST", "/tunery/v1/tables/dataset"): ["file.created"],
    ("POST", "/tunery/v1/batches/{batch_id}/dataset"): ["file.created"],
    ("POST", "/v1/uploads/{upload_id}/complete"): ["file.created"],
    ("POST", "/v1/batches"): ["batch.created"],
    ("POST", "/v1/batches/{batch_id}/cancel"): ["batch.cancelled"],
    ("POST", EVALS): ["eval.created"],
    ("POST", EVALS + "/{eval_id}"): ["eval.updated"],
    ("DELETE", EVALS + "/{eval_id}"): ["eval.deleted"],
    ("POST", EVALS + "/{eval_id}/runs"): ["eval.run.created"],
    ("POST", EVALS + "/{eval_id}/runs/{run_id}"): ["eval.run.canceled"],
    ("POST", EVALS + "/{eval_id}/runs/{run_id}/cancel"): ["eval.run.canceled"],
    ("DELETE", EVALS + "/{eval_id}/runs/{run_id}"): ["eval.run.deleted"],
    ("POST", JOB): ["fine_tuning.job.created"],
    ("POST", JOB + "/{job_id}/cancel"): ["fine_tuning.job.cancelled"],
    ("POST", JOB + "/{job_id}/pause"): ["fine_tuning.job.paused"],
    ("POST", JOB + "/{job_id}/resume"): ["fine_tuning.job.resumed"],
    ("POST", "/tunery/v1/jobs/{job_id}"): ["fine_tuning.job.renamed"],
    ("POST", "/tunery/v1/models/{model}"): ["model.renamed"],
    ("POST", "/tunery/v1/models/{model}/exports"): ["model.export.created"],
    ("POST", "/tunery/v1/exports/{export_id}/cancel"): ["model.export.cancelled"],
    ("POST", "/tunery/v1/imports"): ["model.import.created"],
    ("POST", "/tunery/v1/imports/{import_id}/cancel"): ["model.import.cancelled"],
    ("DELETE", "/v1/models/{model}"): ["model.deleted"],
    ("POST", PERMISSIONS): ["checkpoint.permission.created"],
    ("DELETE", PERMISSIONS + "/{permission_id}"): ["checkpoint.permission.deleted"],
    ("POST", HOOKS): ["webhook_endpoint.created"],
    ("POST", HOOKS + "/{endpoint_id}"): ["webhook_endpoint.updated"],
    ("DELETE", HOOKS + "/{endpoint_id}"): ["webhook_endpoint.deleted"],
    ("POST", HOOKS + "/{endpoint_id}/rotate_secret"): ["webhook_endpoint.secret_rotated"],
    ("POST", "/tunery/v1/aliases"): ["alias.updated"],
    ("POST", "/tunery/v1/aliases/revert"): ["alias.reverted"],
    ("DELETE", "/tunery/v1/aliases"): ["alias.deleted"],
    ("POST", COMPLETION): ["chat.completion.updated"],
    ("DELETE", COMPLETION): ["chat.completion.deleted"],
    ("DELETE", "/v1/responses/{response_id}"): ["response.deleted"],
    ("POST", CONVERSATION): ["conversation.updated"],
    ("DELETE", CONVERSATION): ["conversation.deleted"],
    ("DELETE", CONVERSATION + "/items/{item_id}"): ["conversation.item.deleted"],
}
UNLOGGED = {  # they change nothing that somebody else could miss; the usage ledger has what they cost
    ("POST", "/tunery/v1/webhook_addresses"),  # only judged
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/embeddings"),
    ("POST", "/v1/responses"),
    ("POST", "/v1/responses/input_tokens"),
    ("POST", "/v1/responses/{response_id}/cancel"),  # it stays, as far as it came
    ("POST", "/v1/conversations"),
    ("POST", CONVERSATION + "/items"),
    ("POST", "/v1/uploads"),
    ("POST", "/v1/uploads/{upload_id}/parts"),
    ("POST", "/v1/uploads/{upload_id}/cancel"),
    ("POST", "/v1/fine_tuning/alpha/graders/run"),
    ("POST", "/v1/fine_tuning/alpha/graders/validate"),
    ("POST", HOOKS + "/{endpoint_id}/test"),
    ("POST", "/tunery/v1/webhook_deliveries/{webhook_id}/resend"),
    ("POST", "/tunery/v1/stored_answers/preview"),
    ("POST", "/tunery/v1/tables/preview"),
    ("POST", "/tunery/v1/files/{file_id}/versions/preview"),
    ("POST", "/tunery/v1/validations"),
    ("POST", "/tunery/v1/estimates"),
    ("POST", "/tunery/v1/scores"),
}


def entries(api: Api) -> list[dict]:
    """Newest first."""
    return api.client.get(LOGS, params={"limit": 100, "every_type": "true"}).json()["data"]


def test_every_route_that_changes_something_is_logged_or_excused(api: Api) -> None:
    document = api.client.get("/openapi.json").json()
    changing = {
        (method.upper(), path)
        for path, operations in document["paths"].items()
        for method in operations
        if method != "get" and "/organization/" not in path
    }
    assert changing == set(LOGGED) | UNLOGGED


class Changes:
    """Makes one change after the other, and reads what the log has of each."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.told: dict[tuple[str, str], list[str]] = {}

    def make(self, method: str, route: str, places: dict[str, str] | None = None, **values: Any) -> dict[str, Any]:
        before = len(entries(self.api))
        path = route.format(**places or {})
        answer = self.api.client.request(method, path, headers={"user-agent": "ci/2"}, **values)
        assert answer.is_success, (route, answer.text)
        new = entries(self.api)
        new = new[: len(new) - before]
        actors = [entry["actor"]["api_key"] for entry in new]
        assert all((actor["user_agent"], actor["ip_address"]) == ("ci/2", "testclient") for actor in actors)
        self.told[method, route] = [entry["type"] for entry in new]
        return answer.json()


def keep_completion(api: Api) -> str:
    asked = {"messages": [{"role": "user", "content": "Hi"}]}
    stored = StoredCompletion("chatcmpl-1", api.project_id, int(NOW), "m", asked, {"choices": []})
    with write(api.engine) as conn:
        completions.insert_completion(conn, stored)
    return stored.id


def keep_batch(api: Api) -> str:
    with write(api.engine) as conn:
        return store_batch(conn, api.context.blobs, api.project_id, [chat_pair("Hi", "Hello.")]).id


def keep_response(api: Api) -> str:
    stored = StoredResponse("resp_1", api.project_id, int(NOW), "m", "completed", {})
    with write(api.engine) as conn:
        responses.insert_response(conn, stored)
    return stored.id


def test_every_change_is_in_the_log_with_who_made_it_and_from_where(api: Api) -> None:
    changes = Changes(api)
    words = [
        " ".join(hashlib.sha256(b"%d" % number).hexdigest()[place::8] for place in range(8)) for number in range(40)
    ]
    rows = b"".join(EXAMPLE.replace(b"Hi", text.encode()).replace(b"Hello", text.encode()) for text in words)
    form = {"files": {"file": ("train.jsonl", rows)}, "data": {"purpose": "fine-tune"}}
    file = {"file_id": changes.make("POST", "/v1/files", **form)["id"]}
    changes.make("POST", "/tunery/v1/files/{file_id}/split", file, json={"validation_share": 0.2})
    changes.make("POST", "/tunery/v1/files/{file_id}/versions", file, json={"removed": [1]})
    table = "question,answer\n" + "".join(f"{word},{word[::-1]}\n" for word in words)
    kept_table = api.client.post("/v1/files", files={"file": ("faq.csv", table)}, data={"purpose": "user_data"}).json()
    changes.make("POST", "/tunery/v1/tables/dataset", json={"file": kept_table["id"]})
    upload = begin(api)
    parts = [add(api, upload, WHOLE)]
    changes.make("POST", "/v1/uploads/{upload_id}/complete", {"upload_id": upload}, json={"part_ids": parts})

    requests = api.make_file(b"{}\n", purpose="batch")["id"]
    asked = {"input_file_id": requests, "endpoint": "/v1/completions", "completion_window": "24h"}
    batch = {"batch_id": changes.make("POST", "/v1/batches", json=asked)["id"]}
    changes.make("POST", "/v1/batches/{batch_id}/cancel", batch)

    about = {"eval_id": changes.make("POST", EVALS, json=an_eval())["id"]}
    changes.make("POST", EVALS + "/{eval_id}", about, json={"name": "mine"})
    for path in ("", "/cancel"):
        run = about | {"run_id": changes.make("POST", EVALS + "/{eval_id}/runs", about, json=a_run())["id"]}
        changes.make("POST", EVALS + "/{eval_id}/runs/{run_id}" + path, run)
    changes.make("DELETE", EVALS + "/{eval_id}/runs/{run_id}", run)
    changes.make("DELETE", EVALS + "/{eval_id}", about)

    asked = {"model": "gpt-4o-mini", "training_file": file["file_id"]}
    job = {"job_id": changes.make("POST", JOB, json=asked)["id"]}
    for verb in ("pause", "resume"):
        changes.make("POST", JOB + "/{job_id}/" + verb, job)
    changes.make("POST", "/tunery/v1/jobs/{job_id}", job, json={"display_name": "mine"})
    changes.make("POST", JOB + "/{job_id}/cancel", job)
    changes.make("DELETE", "/v1/files/{file_id}", file)

    model = {"model": api.make_model().name}
    model["checkpoint"] = model["model"]
    changes.make("POST", "/tunery/v1/models/{model}", model, json={"display_name": "mine"})
    export = changes.make("POST", "/tunery/v1/models/{model}/exports", model, json={"format": "adapter"})
    changes.make("POST", "/tunery/v1/exports/{export_id}/cancel", {"export_id": export["id"]})
    asked = {"files": [requests], "base": "gpt-4o-mini"}
    taken = changes.make("POST", "/tunery/v1/imports", json=asked)
    changes.make("POST", "/tunery/v1/imports/{import_id}/cancel", {"import_id": taken["id"]})
    shared = changes.make("POST", PERMISSIONS, model, json={"project_ids": [api.make_project()]})["data"][0]["id"]
    changes.make("DELETE", PERMISSIONS + "/{permission_id}", model | {"permission_id": shared})
    alias = {"name": "old", "target": model["model"]}
    changes.make("POST", "/tunery/v1/aliases", json=alias)
    changes.make("POST", "/tunery/v1/aliases/revert", json={"name": "old"})
    changes.make("POST", "/tunery/v1/aliases", json=alias)
    changes.make("DELETE", "/tunery/v1/aliases", params={"name": "old"})
    changes.make("DELETE", "/v1/models/{model}", model)

    body = {"name": "ci", "url": "https://ci.example", "event_types": ["fine_tuning.job.failed"]}
    hook = {"endpoint_id": changes.make("POST", HOOKS, json=body)["id"]}
    changes.make("POST", HOOKS + "/{endpoint_id}", hook, json={"name": "other"})
    changes.make("POST", HOOKS + "/{endpoint_id}/rotate_secret", hook)
    changes.make("DELETE", HOOKS + "/{endpoint_id}", hook)

    kept = {"completion_id": keep_completion(api)}
    changes.make("POST", COMPLETION, kept, json={"metadata": {"a": "b"}})
    corrected = {"corrections": {kept["completion_id"]: {"content": "Hello."}}}
    changes.make("POST", "/tunery/v1/stored_answers/dataset", json=corrected)
    changes.make("POST", "/tunery/v1/batches/{batch_id}/dataset", {"batch_id": keep_batch(api)}, json={})
    changes.make("DELETE", COMPLETION, kept)
    changes.make("DELETE", "/v1/responses/{response_id}", {"response_id": keep_response(api)})
    items = [{"role": "user", "content": "Hi"}]
    conversation = {"conversation_id": api.client.post("/v1/conversations", json={"items": items}).json()["id"]}
    changes.make("POST", CONVERSATION, conversation, json={"metadata": {"a": "b"}})
    listed = api.client.get((CONVERSATION + "/items").format(**conversation)).json()["data"]
    changes.make("DELETE", CONVERSATION + "/items/{item_id}", conversation | {"item_id": listed[0]["id"]})
    changes.make("DELETE", CONVERSATION, conversation)
    assert changes.told == LOGGED


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("DELETE", "/v1/files/{file}", None),
        ("POST", "/tunery/v1/aliases", {"name": "old", "target": "gpt-4o-mini"}),
        ("POST", HOOKS, {"name": "ci", "url": "https://ci.example", "event_types": ["fine_tuning.job.failed"]}),
        ("POST", JOB, {"model": "gpt-4o-mini", "training_file": "{file}"}),
    ],
)
def test_what_cannot_be_logged_is_not_done(api: Api, method: str, path: str, body: dict[str, str] | None) -> None:
    file = api.make_file()["id"]
    with api.engine.begin() as conn:
        conn.exec_driver_sql("ALTER TABLE audit_log RENAME TO audit_log_away")
    asked = body and {
        name: value.format(file=file) if isinstance(value, str) else value for name, value in body.items()
    }
    assert api.client.request(method, path.format(file=file), json=asked).status_code == 500
    assert api.client.get(f"/v1/files/{file}").status_code == 200
    for listed in ("/tunery/v1/aliases", HOOKS, JOB):
        assert api.client.get(listed).json()["data"] == []


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
