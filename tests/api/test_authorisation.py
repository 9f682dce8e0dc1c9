"""Walks every operation of the OpenAPI document with keys that have no right to the objects it names.

The document is read, so a new route is walked without anybody thinking of it; one that the walk cannot classify fails.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.api.conftest import BASE, NOW, Api, a_run, an_eval, keep_output_item
from tunery.api.openapi import OPEN_PATHS
from tunery.domain.completions import StoredCompletion
from tunery.domain.jobs import JobStatus
from tunery.domain.responses import Conversation, StoredResponse
from tunery.domain.tenants import Role
from tunery.store import completions, conversations, models, outbox, responses
from tunery.store.database import write
from tunery.wire.responses.items import read_items

OPEN = set(OPEN_PATHS)
TUNED = f"ft:{BASE}:personal::AbCd1234"
CHAT = [{"role": "user", "content": "Hi"}]

# Operations without an object in their path. What they name stands in the body or the query: here is the way to ask
# for somebody else's, and the answer must be that it does not exist.
Ids = dict[str, str]
REFERENCES: dict[tuple[str, str], Callable[[Ids], dict[str, Any]]] = {
    ("POST", "/v1/fine_tuning/jobs"): lambda ids: {"json": {"model": BASE, "training_file": ids["file_id"]}},
    ("POST", "/tunery/v1/organization/projects/{project_id}/api_keys"): lambda ids: {
        "json": {"name": "mine", "user_id": ids["user_id"]}
    },
    ("POST", "/v1/fine_tuning/checkpoints/{checkpoint}/permissions"): lambda ids: {
        "json": {"project_ids": [ids["project_id"]]}
    },
    ("POST", "/tunery/v1/estimates"): lambda ids: {"json": {"model": BASE, "training_file": ids["file_id"]}},
    ("POST", "/tunery/v1/validations"): lambda ids: {"json": {"file": ids["file_id"]}},
    ("POST", "/tunery/v1/tables/preview"): lambda ids: {"json": {"file": ids["file_id"]}},
    ("POST", "/tunery/v1/tables/dataset"): lambda ids: {"json": {"file": ids["file_id"]}},
    ("POST", "/tunery/v1/imports"): lambda ids: {"json": {"files": [ids["file_id"]], "base": BASE}},
    ("POST", "/v1/batches"): lambda ids: {
        "json": {"input_file_id": ids["requests_id"], "endpoint": "/v1/responses", "completion_window": "24h"}
    },
    ("POST", "/v1/evals/{eval_id}/runs"): lambda _: {"json": a_run()},
    ("POST", "/v1/chat/completions"): lambda ids: {"json": {"model": TUNED, "messages": CHAT}},
    ("POST", "/v1/completions"): lambda _: {"json": {"model": TUNED, "prompt": "Hi"}},
    ("POST", "/v1/embeddings"): lambda _: {"json": {"model": TUNED, "input": "Hi"}},
    ("POST", "/v1/responses"): lambda ids: {
        "json": {"model": BASE, "input": "Hi", "previous_response_id": ids["response_id"]}
    },
    ("POST", "/v1/responses/input_tokens"): lambda ids: {
        "json": {"model": BASE, "input": "Hi", "conversation": ids["conversation_id"]}
    },
    ("POST", "/tunery/v1/stored_answers/preview"): lambda ids: {"json": {"ids": [ids["answer_id"]]}},
    ("POST", "/tunery/v1/stored_answers/dataset"): lambda ids: {
        "json": {"ids": [ids["answer_id"]], "corrections": {ids["answer_id"]: {"content": "Hello."}}}
    },
    ("POST", "/tunery/v1/scores"): lambda _: {
        "json": {"model": TUNED, "messages": [*CHAT, {"role": "assistant", "content": "Hello."}]}
    },
    ("POST", "/tunery/v1/aliases"): lambda _: {"json": {"name": "mine", "target": TUNED}},
    ("DELETE", "/tunery/v1/aliases"): lambda ids: {"params": {"name": ids["alias"]}},
    ("POST", "/tunery/v1/aliases/revert"): lambda ids: {"json": {"name": ids["alias"]}},
    ("GET", "/tunery/v1/aliases/history"): lambda ids: {"params": {"name": ids["alias"]}},
    ("GET", "/tunery/v1/model_name"): lambda _: {"params": {"model": TUNED}},
}
# OpenAI's own status for a model that a job cannot be created on.
REFUSALS = {
    ("POST", "/v1/fine_tuning/jobs"): 400,
    ("GET", "/tunery/v1/model_name"): 400,
    ("POST", "/v1/batches"): 400,
    ("POST", "/tunery/v1/imports"): 400,
    ("DELETE", "/tunery/v1/organization/bases/{base}"): 403,  # whose the bases are, no stranger is asked
    ("POST", "/v1/responses"): 400,
    ("POST", "/tunery/v1/stored_answers/preview"): 200,  # which counts it as gone
    ("POST", "/tunery/v1/stored_answers/dataset"): 400,  # with no row there is no file
}
EMPTY_LISTS = {("GET", "/tunery/v1/aliases/history")}  # a name without a history has an empty one
CREATES = {  # they name nobody's object
    ("POST", "/v1/files"),
    ("POST", "/v1/uploads"),
    ("POST", "/v1/conversations"),
    ("POST", "/v1/webhook_endpoints"),
    ("POST", "/tunery/v1/webhook_addresses"),
    ("POST", "/v1/organization/projects"),
    ("POST", "/tunery/v1/organization/base_additions"),
    ("POST", "/v1/organization/admin_api_keys"),
    ("POST", "/v1/fine_tuning/alpha/graders/run"),
    ("POST", "/v1/evals"),
    ("POST", "/v1/fine_tuning/alpha/graders/validate"),
}
QUERIES: dict[str, dict[str, Any]] = {
    path: {"start_time": int(NOW) - 86_400}
    for path in (
        "/v1/organization/usage/completions",
        "/v1/organization/usage/embeddings",
        "/v1/organization/costs",
        "/tunery/v1/organization/usage.csv",
        "/tunery/v1/organization/costs.csv",
    )
}


@dataclass(frozen=True)
class Operation:
    method: str
    path: str
    names: tuple[str, ...]  # the path's parameters
    body: dict[str, Any] | None  # the schema, resolved, with its media type

    @property
    def key(self) -> tuple[str, str]:
        return self.method, self.path


def operations(document: dict[str, Any]) -> Iterator[Operation]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if path not in OPEN:
                names = [each["name"] for each in operation.get("parameters", []) if each["in"] == "path"]
                yield Operation(method.upper(), path, tuple(names), operation.get("requestBody"))


def sample(schema: dict[str, Any], document: dict[str, Any]) -> Any:
    """A value that the schema allows: the required parts and no more."""
    if "$ref" in schema:
        return sample(document["components"]["schemas"][schema["$ref"].rpartition("/")[2]], document)
    for choice in ("anyOf", "oneOf", "allOf"):
        if choice in schema:
            return sample(schema[choice][0], document)
    if "const" in schema or "enum" in schema:
        return schema.get("const", schema.get("enum", [None])[0])
    if schema.get("type") == "object":
        return {name: sample(schema["properties"][name], document) for name in schema.get("required", [])}
    if schema.get("type") == "array":
        return [sample(schema["items"], document)] * schema.get("minItems", 1)
    if schema.get("type") in ("integer", "number"):
        return int(schema.get("minimum", schema.get("exclusiveMinimum", 0) + 1))
    if schema.get("type") == "boolean":
        return False
    return "USD" if "^[A-Z]{3}$" in schema.get("pattern", "") else "https://example.com"


def send(api: Api, operation: Operation, ids: Ids, headers: dict[str, str] | None) -> Any:
    path = operation.path
    for name in operation.names:
        path = path.replace("{" + name + "}", ids[name])
    more: dict[str, Any] = REFERENCES.get(operation.key, lambda _: {})(ids)
    if not more and operation.body:
        more = _body(operation.body, api.client.get("/openapi.json").json())
    if operation.path in QUERIES:
        more["params"] = QUERIES[operation.path]
    sent = {"authorization": ""} if headers is None else headers
    return api.client.request(operation.method, path, headers=sent, **more)


def _body(body: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    ((media_type, content),) = body["content"].items()
    value = sample(content["schema"], document)
    if media_type == "application/json":
        return {"json": value}
    files = {name: b"x" for name in value if name in ("file", "data")}
    return {"files": files, "data": {name: each for name, each in value.items() if name not in files}}


@pytest.fixture
def ids(api: Api) -> Ids:
    """One object of every kind, by the name that it has in paths."""
    file = api.make_file()
    job = api.make_job(status=JobStatus.QUEUED, metadata={"run_eval": "eval_gone"})
    requests = api.make_file(purpose="batch")["id"]
    batch = {"input_file_id": requests, "endpoint": "/v1/responses", "completion_window": "24h"}
    model = api.make_model(TUNED)
    upload = {"bytes": 1, "filename": "a", "mime_type": "text/jsonl", "purpose": "fine-tune"}
    hook = {"name": "ci", "url": "https://ci.example", "event_types": ["fine_tuning.job.failed"]}
    made = {
        path: api.client.post(path, json=body).json()
        for path, body in {
            "/v1/uploads": upload,
            "/v1/batches": batch,
            f"/tunery/v1/models/{TUNED}/exports": {"format": "adapter"},
            "/tunery/v1/imports": {"files": [file["id"]], "base": BASE},
            "/tunery/v1/organization/base_additions": {"source": "hf:acme/tiny", "name": "tiny"},
            "/v1/evals": an_eval(),
            "/v1/webhook_endpoints": hook,
            "/v1/organization/admin_api_keys": {"name": "admin"},
            f"/v1/organization/projects/{api.project_id}/service_accounts": {"name": "robot"},
            "/tunery/v1/aliases": {"name": "support", "target": TUNED},
            f"/v1/organization/projects/{api.project_id}/users": {"email": "ada@example.com", "role": "member"},
        }.items()
    }
    uploaded, batched, exported, imported, added, asked, hooked, admin, account, alias, user = made.values()
    completion = StoredCompletion("chatcmpl-1", api.project_id, int(NOW), TUNED, {"messages": CHAT}, {"choices": []})
    response = StoredResponse("resp_1", api.project_id, int(NOW), BASE, "completed", {}, is_background=True)
    conversation = Conversation("conv_1", api.project_id, int(NOW))
    (item,) = read_items("Hi")
    friend = api.make_project()
    run = api.client.post(f"/v1/evals/{asked['id']}/runs", json=a_run()).json()
    with write(api.engine) as conn:
        completions.insert_completion(conn, completion)
        responses.insert_response(conn, response)
        conversations.insert_conversation(conn, conversation)
        responses.add_items(
            conn, api.project_id, [item], int(NOW), response_id=response.id, conversation_id=conversation.id
        )
        output_item_id = keep_output_item(conn, api.project_id, run["id"])
        permission = models.insert_permission(conn, TUNED, friend, NOW)
        notice = outbox.insert_outbox(
            conn, "webhook", "t", {}, project_id=api.project_id, now=NOW, endpoint_id=hooked["id"]
        )
        outbox.mark_dead(conn, notice, now=NOW, error="gone")
    limit = {"currency": "USD", "interval": "month", "threshold_amount": 100}
    api.client.post(f"/v1/organization/projects/{api.project_id}/spend_limit", json=limit)
    return {
        "file_id": file["id"],
        "job_id": job.id,
        "batch_id": batched["id"],
        "requests_id": requests,
        "export_id": exported["id"],
        "import_id": imported["id"],
        "addition_id": added["id"],
        "base": "no-such-base",
        "eval_id": asked["id"],
        "run_id": run["id"],
        "output_item_id": output_item_id,
        "model": model.name,
        "checkpoint": model.name,
        "permission_id": permission.id,
        "upload_id": uploaded["id"],
        "completion_id": completion.id,
        "response_id": response.id,
        "answer_id": response.id,
        "conversation_id": conversation.id,
        "item_id": item["id"],
        "endpoint_id": hooked["id"],
        "webhook_id": notice,
        "project_id": api.project_id,
        "user_id": user["id"],
        "api_key_id": account["api_key"]["id"],
        "service_account_id": account["id"],
        "key_id": admin["id"],
        "rate_limit_id": "rl-all-models",
        "alias": alias["name"],
    }


def secret_of(api: Api, who: str) -> str:
    """An owner with every right: in another organisation, or in another project of this one."""
    if who == "stranger":
        return api.make_stranger(is_admin=True, role=Role.OWNER)
    return api.make_key(project_id=api.make_project(), role=Role.OWNER)


@pytest.mark.parametrize("who", ["stranger", "neighbour"])
def test_nothing_of_a_project_exists_for_a_foreign_key(api: Api, ids: Ids, who: str) -> None:
    headers = api.as_key(secret_of(api, who))
    wrong, walked = [], 0
    for operation in operations(api.client.get("/openapi.json").json()):
        if operation.key in CREATES:
            continue
        answer = send(api, operation, ids, headers)
        walked += 1
        if not _hides(operation, answer, ids, who):
            wrong.append(f"{operation.method} {operation.path}: {answer.status_code} {answer.text[:200]}")
    assert not wrong, "\n".join(wrong)
    assert walked > 60


def _hides(operation: Operation, answer: Any, ids: Ids, who: str) -> bool:
    if who == "neighbour" and "/organization/" in operation.path:
        return answer.status_code == 403  # the neighbour's key administers nothing at all
    if operation.key in EMPTY_LISTS:
        return answer.status_code == 200 and answer.json()["data"] == []
    if operation.names or operation.key in REFERENCES:
        return answer.status_code == REFUSALS.get(operation.key, 404)
    leaked = [value for name, value in ids.items() if name != "rate_limit_id" and value in answer.text]
    return operation.method == "GET" and answer.status_code == 200 and not leaked


def test_the_walk_asks_in_a_way_that_works_for_the_owner(api: Api, ids: Ids) -> None:
    """Otherwise `not found` above could mean a wrong question. What deletes and what needs an engine is left out."""
    wrong = []
    for operation in operations(api.client.get("/openapi.json").json()):
        needs_engine = operation.path.endswith(
            (
                "completions",
                "/embeddings",
                "/responses",
                "/input_tokens",
                "/scores",
                "/estimates",
                "/run",
                "/test",
                "/resend",
            )
        )
        if operation.path.endswith("/log"):
            continue  # of a trainer that has failed: this job has not been trained
        takes_away = operation.method == "DELETE" or operation.path.endswith("/archive")
        if takes_away or (operation.method != "GET" and needs_engine):
            continue
        answer = send(api, operation, ids, {})
        if answer.status_code in (401, 403, 404) or answer.status_code >= 500:
            wrong.append(f"{operation.method} {operation.path}: {answer.status_code} {answer.text[:200]}")
    assert not wrong, "\n".join(wrong)


def test_without_a_key_every_operation_is_refused(api: Api, ids: Ids) -> None:
    answers = {
        operation.key: send(api, operation, ids, None).status_code
        for operation in operations(api.client.get("/openapi.json").json())
    }
    assert {key: status for key, status in answers.items() if status != 401} == {}


def test_the_walk_has_left_everything_in_its_place(api: Api, ids: Ids) -> None:
    headers = api.as_key(secret_of(api, "stranger"))
    for operation in operations(api.client.get("/openapi.json").json()):
        if operation.names and operation.method != "GET":
            send(api, operation, ids, headers)
    for path in (
        f"/v1/files/{ids['file_id']}",
        f"/v1/models/{ids['model']}",
        f"/v1/webhook_endpoints/{ids['endpoint_id']}",
        f"/v1/evals/{ids['eval_id']}/runs/{ids['run_id']}",
        f"/v1/chat/completions/{ids['completion_id']}",
        f"/v1/responses/{ids['response_id']}",
        f"/v1/conversations/{ids['conversation_id']}/items/{ids['item_id']}",
        f"/v1/organization/projects/{ids['project_id']}/api_keys/{ids['api_key_id']}",
        f"/v1/organization/admin_api_keys/{ids['key_id']}",
    ):
        assert api.client.get(path).status_code == 200, path
    assert api.client.get(f"/v1/fine_tuning/jobs/{ids['job_id']}").json()["status"] == "queued"
