"""Every way to fail gives OpenAI's envelope, and never a traceback."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import text

from tests.api.conftest import Api
from tunery.api.body import MAX_JSON_BYTES
from tunery.domain.errors import TEXT_HEADER
from tunery.store.database import write
from tunery.texts import translator

ENVELOPE_KEYS = ["message", "type", "param", "code"]


def error_of(answer: Any) -> dict[str, Any]:
    body = answer.json()
    assert list(body) == ["error"]
    # Clients compare the text of the error: the order is part of the contract.
    assert list(body["error"]) == ENVELOPE_KEYS
    return body["error"]


def test_unknown_path_names_method_and_url(api: Api) -> None:
    answer = api.client.post("/v1/no/such/thing", json={})
    assert answer.status_code == 404
    assert error_of(answer)["message"] == "Invalid URL (POST /v1/no/such/thing)"


@pytest.mark.parametrize(
    ("path", "key", "word"),
    [
        ("/v1/files/file-none", "error.no_such_file", "file-none はありません"),
        ("/v1/fine_tuning/jobs/ftjob-none", "error.no_such_job", "ftjob-none が見つかりません"),
        ("/v1/models/none", "error.no_such_model", "存在しないか"),
        ("/v1/no/such/thing", "error.invalid_url", "このURLはありません"),
    ],
)
def test_an_error_of_ours_can_be_worded_in_another_language(api: Api, path: str, key: str, word: str) -> None:
    answer = api.client.get(path)
    known = json.loads(answer.headers[TEXT_HEADER])
    assert known["key"] == key
    assert translator("en").reword("", known) == error_of(answer)["message"]
    assert word in translator("ja").reword("", known)


@pytest.mark.parametrize(
    ("method", "path", "named"),
    [
        ("POST", "/v1/response", "POST /v1/responses"),
        ("GET", "/v1/responses/resp_1/nothing", "GET /v1/responses/{response_id}"),
        ("POST", "/v1/assistants", "POST /v1/chat/completions"),
        ("POST", "/v1/threads/thread_1/runs", "POST /v1/chat/completions"),
        ("POST", "/v1/embedding", "POST /v1/embeddings"),
        ("POST", "/v1/moderations", "no moderation model"),
        ("POST", "/v1/fine-tunes", "POST /v1/fine_tuning/jobs"),
        ("POST", "/v1/fine-tuning/jobs", "Did you mean POST /v1/fine_tuning/jobs?"),
        ("POST", "/chat/completions", "Did you mean POST /v1/chat/completions? Set the client's base URL"),
        ("GET", "/models", "Did you mean GET /v1/models?"),
        ("POST", "/v1/v1/files", "Did you mean POST /v1/files?"),
        ("POST", "/v1/v1/v1/chat/completions", "Did you mean POST /v1/chat/completions?"),
        ("GET", "/v1/files/", "Did you mean GET /v1/files?"),
        ("POST", "//v1//completions", "Did you mean POST /v1/completions?"),
        ("POST", "/openai/deployments/gpt/chat/completions", "Did you mean POST /v1/chat/completions?"),
        ("POST", "/v1/engines/davinci/completions", "Did you mean POST /v1/completions?"),
        ("GET", "/v1/uploads/upload_1/nothing/here", "POST /v1/uploads/{upload_id}/parts"),
    ],
)
def test_unknown_path_names_the_right_one(api: Api, method: str, path: str, named: str) -> None:
    answer = api.client.request(method, f"http://testserver{path}")
    assert answer.status_code == 404
    error = error_of(answer)
    assert (error["type"], error["code"]) == ("invalid_request_error", "unknown_url")
    assert error["message"].startswith(f"Invalid URL ({method} {path})") and named in error["message"]


def test_wrong_method_is_405(api: Api) -> None:
    answer = api.client.put("/v1/files", json={})
    assert answer.status_code == 405
    assert error_of(answer)["message"].startswith("Not allowed to PUT on /v1/files.")
    assert answer.headers["allow"] == "GET, POST"
    assert api.client.patch("/v1/models/m").headers["allow"] == "GET, DELETE"
    assert api.client.get("/v1/completions").headers["allow"] == "POST"


@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b'{"model": "gpt-4o-mini",}', b"[" * 100_000])
def test_body_that_is_no_json_is_400(api: Api, body: bytes) -> None:
    answer = api.client.post("/v1/fine_tuning/jobs", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    error_of(answer)


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"model": "gpt-4o-mini"}, "training_file", "missing_required_parameter"),
        ({"model": 7, "training_file": "f"}, "model", "invalid_type"),
        ({"model": "m", "training_file": "f", "modle": "x"}, "modle", "unknown_parameter"),
        ({"model": "m", "training_file": "f", "seed": 1.5}, "seed", "invalid_type"),
        ({"model": "m", "training_file": "f", "method": {"type": "magic"}}, "method.type", "invalid_value"),
        ({"model": "m", "training_file": "f", "metadata": {"a": 1}}, "metadata.a", "invalid_type"),
        (
            {"model": "m", "training_file": "f", "hyperparameters": {"n_epochs": "all"}},
            "hyperparameters.n_epochs",
            "invalid_type",
        ),
        ({"model": "m", "training_file": "f", "suffix": "a\0b"}, None, "invalid_value"),
    ],
)
def test_parameter_errors_name_the_parameter(api: Api, body: dict[str, Any], param: str | None, code: str) -> None:
    answer = api.client.post("/v1/fine_tuning/jobs", json=body)
    assert answer.status_code == 400
    error = error_of(answer)
    assert (error["type"], error["code"]) == ("invalid_request_error", code)
    if param is not None:
        assert error["param"] == param


def test_missing_body_is_400(api: Api) -> None:
    assert error_of(api.client.post("/v1/fine_tuning/jobs"))["code"] == "missing_required_parameter"


@pytest.mark.parametrize("limit", ["-1", "many", "1001", "9" * 40])
def test_limit_out_of_bounds_is_400(api: Api, limit: str) -> None:
    answer = api.client.get("/v1/fine_tuning/jobs", params={"limit": limit})
    assert answer.status_code == 400
    assert error_of(answer)["param"] == "limit"


def test_unexpected_fault_tells_the_request_id_and_nothing_else(api: Api) -> None:
    with write(api.engine) as conn:
        conn.execute(text("ALTER TABLE files RENAME TO files_gone"))
    answer = api.client.get("/v1/files")
    assert answer.status_code == 500
    error = error_of(answer)
    assert error["type"] == "server_error"
    assert answer.headers["x-request-id"] in error["message"]
    assert not re.search(r"Traceback|sqlalchemy|files_gone|no such table", answer.text, re.IGNORECASE)


def test_every_answer_carries_openais_headers(api: Api) -> None:
    headers = api.client.get("/v1/models").headers
    assert headers["x-request-id"].startswith("req_")
    assert headers["openai-version"] == "2020-10-01"
    assert int(headers["openai-processing-ms"]) >= 0
    assert headers["openai-organization"] == api.organization_id


def test_json_body_that_would_not_fit_in_memory_is_413(api: Api) -> None:
    def endless() -> Iterator[bytes]:  # without a content-length
        yield b'{"model": "'
        for _ in range(MAX_JSON_BYTES // 1024**2 + 1):
            yield b"x" * 1024**2

    answer = api.client.post("/v1/fine_tuning/jobs", content=endless(), headers={"content-type": "application/json"})
    assert answer.status_code == 413
    assert error_of(answer)["code"] == "request_too_large"


@pytest.mark.parametrize("path", ["/v1/files/a%00b", "/v1/models/%00", "/v1/files?after=%00", "/v1/files?purpose=a%00"])
def test_nul_in_the_address_is_400(api: Api, path: str) -> None:
    answer = api.client.get(path)
    assert answer.status_code == 400
    error_of(answer)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/fine_tuning/jobs", "/v1/uploads"])
@pytest.mark.parametrize(
    ("body", "word"),
    [
        ("[]", "an array"),
        ("null", "body"),
        ('"text"', "a string"),
        ("5", "body"),
        ('{"metadata": {"a": "\\u0000"}}', ""),
    ],
)
def test_no_error_is_about_none(api: Api, path: str, body: str, word: str) -> None:
    """What is wrong with the whole body has no parameter to name."""
    answer = api.client.post(path, content=body, headers={"content-type": "application/json"})
    message = error_of(answer)["message"]
    assert answer.status_code == 400 and "None" not in message and word in message
