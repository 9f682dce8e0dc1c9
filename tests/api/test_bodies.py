"""What is read of a body, from whom, and how much: counted at the socket's side of the application."""

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args

import orjson
import pytest
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.routing import Mount

from tests.api.conftest import SECRET, Api
from tests.api.test_errors import error_of
from tests.loops import run
from tunery.api import body
from tunery.api.app import ROUTERS
from tunery.api.body import MAX_JSON_BYTES, MAX_PROMPT_BYTES
from tunery.api.chat.routes import ChatRequest
from tunery.api.routing import Route
from tunery.domain.errors import InvalidRequest
from tunery.domain.json_body import MAX_DEPTH, MAX_VALUES, read_json
from tunery.domain.tenants import Role
from tunery.serving.http.schemas import ChatRequest as EngineChatRequest

MB = 1024 * 1024
JOBS = "/v1/fine_tuning/jobs"
KEYED = {"authorization": f"Bearer {SECRET}"}


@dataclass
class Answer:
    status: int
    content: bytes
    num_read: int  # bytes that the application took

    def json(self) -> Any:
        return orjson.loads(self.content)


def send(api: Api, method: str, path: str, headers: dict[str, str], num_bytes: int, *, says_length: bool) -> Answer:
    """A body of `num_bytes`, a piece of 64 KB at each question for more."""
    told = headers | ({"content-length": str(num_bytes)} if says_length else {})
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in told.items()],
        "client": ("203.0.113.9", 1),
        "scheme": "http",
        "root_path": "",
        "http_version": "1.1",
        "server": ("test", 80),
        "app": api.client.app,
    }
    answer = Answer(0, b"", 0)

    async def receive() -> dict[str, Any]:
        if answer.num_read >= num_bytes:
            await asyncio.sleep(60)
        size = min(65536, num_bytes - answer.num_read)
        answer.num_read += size
        return {"type": "http.request", "body": b"[" * size, "more_body": answer.num_read < num_bytes}

    async def answered(message: dict[str, Any]) -> None:
        answer.status = message.get("status", answer.status)
        answer.content += message.get("body", b"")

    run(asyncio.wait_for(api.client.app(scope, receive, answered), 60))  # type: ignore[arg-type]
    return answer


def operations(api: Api) -> Iterator[tuple[str, str]]:
    for path, methods in api.client.get("/openapi.json").json()["paths"].items():
        for method in methods:
            yield method.upper(), path.replace("{", "").replace("}", "")


def test_every_route_asks_for_the_key_first() -> None:
    routes = [route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)]
    assert len(routes) > 80
    assert [route.path for route in routes if not isinstance(route, Route)] == []


LARGE_FROM_READERS = ("/tunery/v1/stored_answers/preview",)  # who may read answers may look at what they would teach


@pytest.mark.parametrize("key", ["", "Bearer sk-wrong", "reader"])
@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=B", "text/plain"])
def test_nothing_is_read_from_whom_the_route_refuses(api: Api, key: str, kind: str) -> None:
    if key == "reader":
        key = f"Bearer {api.make_key(role=Role.READER)}"
    refused = 0
    for method, path in operations(api):
        for says_length in (True, False):
            headers = {"authorization": key, "content-type": kind}
            answer = send(api, method, path, headers, 60 * MB, says_length=says_length)
            if answer.status in (401, 403):
                refused += 1
                assert answer.num_read == 0, (method, path)
                error_of(answer)
            limit = MAX_PROMPT_BYTES if path in LARGE_FROM_READERS else MAX_JSON_BYTES
            assert answer.num_read <= limit + 65536, (method, path, answer.status)
    assert refused > (60 if "reader" in key else 40)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/no/such/route"),
        ("PUT", JOBS),
        ("DELETE", "/v1/chat/completions"),
        ("POST", "/v1/models"),
        ("POST", "/health"),
        ("GET", "/v1/models"),
        ("POST", f"{JOBS}/ftjob-1/cancel"),
        ("DELETE", "/v1/files/file-1"),
    ],
)
def test_nothing_is_read_where_there_is_nothing_to_read(api: Api, method: str, path: str) -> None:
    answer = send(api, method, path, KEYED | {"content-type": "application/json"}, 60 * MB, says_length=False)
    assert answer.num_read == 0 and answer.status


@pytest.mark.parametrize("says_length", [True, False])
@pytest.mark.parametrize(
    ("path", "limit"),
    [
        (JOBS, MB),
        ("/v1/uploads", MB),
        ("/v1/organization/projects", MB),
        ("/v1/fine_tuning/alpha/graders/run", 8 * MB),
        ("/v1/webhook_endpoints", MB),
        ("/tunery/v1/validations", MB),
        ("/v1/chat/completions", 8 * MB),
        ("/v1/completions", 8 * MB),
        ("/tunery/v1/scores", 8 * MB),
    ],
)
def test_body_beyond_its_routes_limit_is_413(api: Api, path: str, limit: int, says_length: bool) -> None:
    for kind in ("application/json", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        answer = send(api, "POST", path, KEYED | {"content-type": kind}, limit + MB, says_length=says_length)
        assert answer.status == 413
        assert error_of(answer)["message"] == f"The request is larger than the limit of {limit // MB} MB."
        assert answer.num_read <= (0 if says_length else limit + 65536)


@pytest.mark.parametrize(("path", "limit"), [("/v1/files", 513 * MB), ("/v1/uploads/upload_1/parts", 64 * MB + 65536)])
def test_forms_have_the_limits_of_their_files(api: Api, path: str, limit: int) -> None:
    headers = KEYED | {"content-type": "multipart/form-data; boundary=B"}
    answer = send(api, "POST", path, headers, limit + 1, says_length=True)
    assert answer.num_read == 0
    assert answer.status in (413, 404)  # the upload is looked up first


def test_what_no_route_has_declared_is_a_few_kilobytes(api: Api) -> None:
    async def forms(scope: Any, receive: Any, send: Any) -> None:  # as the dashboard's are
        await receive()
        await receive()

    api.client.app.router.routes.insert(0, Mount("/mounted", forms))
    for says_length in (True, False):
        answer = send(api, "POST", "/mounted/form", {}, 60 * MB, says_length=says_length)
        assert answer.status == 413 and answer.num_read <= 65536
        assert error_of(answer)["message"] == "The request is larger than the limit of 8 KB."


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "GZIP"])
@pytest.mark.parametrize("path", [JOBS, "/v1/files", "/v1/chat/completions"])
def test_compressed_bodies_are_refused_unread(api: Api, path: str, encoding: str) -> None:
    answer = send(api, "POST", path, KEYED | {"content-encoding": encoding}, 1000, says_length=True)
    assert (answer.status, answer.num_read) == (415, 0)
    assert encoding in error_of(answer)["message"]


@pytest.mark.parametrize(
    "kind", [None, "application/x-www-form-urlencoded", "text/plain", "application/octet-stream", "Application/JSON"]
)
def test_json_is_read_whatever_it_is_called(api: Api, kind: str | None) -> None:
    wanted = {"model": "gpt-4o-mini", "training_file": "file-x"}
    for path, content in (
        (JOBS, wanted),
        ("/v1/chat/completions", {"model": "no-such", "messages": [{"role": "user", "content": "x"}]}),
        ("/v1/uploads", {"filename": "a", "bytes": 1, "purpose": "fine-tune", "mime_type": "x"}),
    ):
        headers = {} if kind is None else {"content-type": kind}
        as_json = api.client.post(path, json=content)
        answer = api.client.post(path, content=orjson.dumps(content), headers=headers)
        assert answer.status_code == as_json.status_code
        assert answer.status_code == 200 or error_of(answer) == error_of(as_json)


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "multipart/form-data; boundary=B", "text/plain"])
@pytest.mark.parametrize("path", [JOBS, "/v1/chat/completions", "/v1/webhook_endpoints", "/tunery/v1/aliases"])
def test_what_is_no_json_names_the_header(api: Api, path: str, kind: str) -> None:
    answer = api.client.post(path, content=b"model=gpt-4o-mini&n=1", headers={"content-type": kind})
    assert answer.status_code == 400
    assert kind in error_of(answer)["message"] and "Content-Type: application/json" in error_of(answer)["message"]


@pytest.mark.parametrize(
    "raw",
    [
        b"9" * 5000,
        b"-" + b"9" * 5000,
        b"1e999",
        b"NaN",
        b"-Infinity",
        b'"\\ud800"',
        b'"\xff"',
        b"{}" * 2,
        b"",
        b"[" * 100_000,
        b'{"a":' * 300 + b"1" + b"}" * 300,
        b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1),
        b"[" + b"[]," * MAX_VALUES + b"1]",
        b"[" + b'"",' * MAX_VALUES + b"1]",
    ],
)
def test_odd_json_is_one_sentence(api: Api, raw: bytes) -> None:
    with pytest.raises(InvalidRequest):
        read_json(raw)
    for where in ({"seed": 0}, {"metadata": {"a": 0}}, {"method": {"type": 0}}, {"x": [0]}):
        sent = orjson.dumps({"model": "m", "training_file": "f"} | where).replace(b"0", raw)
        answer = api.client.post(JOBS, content=sent, headers={"content-type": "application/json"})
        assert answer.status_code == 400 and len(answer.content) < 1000
        error_of(answer)


def test_text_is_not_counted_as_values() -> None:
    text = 'a,b{[\\"\\\\' * MAX_VALUES
    assert read_json(orjson.dumps({"content": text})) == {"content": text}
    assert read_json(b"\xef\xbb\xbf{}") == {}
    deep: Any = 1
    for _ in range(MAX_DEPTH):
        deep = [deep]
    assert read_json(orjson.dumps(deep)) == deep


def test_large_bodies_are_parsed_beside_the_event_loop(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[str] = []
    monkeypatch.setattr(
        body, "read_json", lambda raw: threads.append(threading.current_thread().name) or read_json(raw)
    )
    for text in ("x", "x" * 100_000):
        api.client.post(JOBS, json={"model": text})
    assert len(set(threads)) == 2


def test_odd_boundaries_are_one_sentence(api: Api) -> None:
    for boundary in ("x" * 5000, "\x01", "é", '"'):
        headers = {"content-type": f"multipart/form-data; boundary={boundary}".encode("latin-1")}
        answer = api.client.post("/v1/files", content=b"--x\r\n", headers=headers)
        assert answer.status_code == 400
        error_of(answer)


def bodies() -> list[type[BaseModel]]:
    """The models of all JSON bodies, and those inside them."""
    found: list[type[BaseModel]] = []
    waiting: list[Any] = [
        route.body_field.field_info.annotation
        for router in ROUTERS
        for route in router.routes
        if isinstance(route, APIRoute) and route.body_field is not None
    ]
    while waiting:
        kind = waiting.pop()
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            if kind not in found:
                found.append(kind)
                waiting += [field.annotation for field in kind.model_fields.values()]
        else:
            waiting += get_args(kind)
    return found


def kinds_of(schema: dict[str, Any]) -> Iterator[str]:
    yield schema.get("type", "")
    for each in schema.get("anyOf", ()):
        yield from kinds_of(each)


INTEGERS = [
    (kind, name)
    for kind in bodies()
    for name, schema in kind.model_json_schema()["properties"].items()
    if "integer" in kinds_of(schema)
]


@pytest.mark.parametrize(("kind", "name"), INTEGERS, ids=lambda each: getattr(each, "__name__", each))
def test_every_integer_of_a_body_may_come_as_a_float_without_a_fraction(kind: type[BaseModel], name: str) -> None:
    def problems(value: Any) -> list[Any]:
        try:
            kind.model_validate({name: value})
        except ValidationError as exc:
            return [each["type"] for each in exc.errors() if each["loc"][0] == name]
        return []

    right = next(number for number in (16, 3600, 1) if not problems(number))
    assert not problems(float(right)) and problems(right + 0.5) and problems(str(right)) and problems(True)


def test_bodies_hold_integers() -> None:
    assert len(INTEGERS) > 20


@pytest.mark.parametrize("kind", [ChatRequest, EngineChatRequest])
def test_messages_beyond_what_openai_takes_are_refused_before_they_are_rendered(kind: type[BaseModel]) -> None:
    """Sixty thousand tiny ones are a minute of rendering, whoever sends them to the engine."""
    body = {"model": "m", "messages": [{"role": "user", "content": "a"}] * 2048}
    kind.model_validate(body)
    with pytest.raises(ValidationError, match="at most 2048 items"):
        kind.model_validate({**body, "messages": [*body["messages"], *body["messages"][:1]]})
