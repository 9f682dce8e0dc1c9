"""Several engines, as with several vLLM servers: who is asked, and what happens when one goes away."""

import asyncio
import contextlib
import json
import re
import shutil
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from tests.api.conftest import BASE, Api
from tests.engine_process import start_engine
from tests.loops import run
from tests.receivers import listening
from tunery.domain.errors import TEXT_HEADER, text_of
from tunery.engines import pool
from tunery.engines.pool import Target, engine_error
from tunery.engines.scoring import EngineScorer
from tunery.models.sources import cache
from tunery.models.sources.base import Facts
from tunery.texts import translator
from tunery.wire.stream import DONE, read_events, write_event

CHAT = "/v1/chat/completions"


def ask(api: Api, model: str = BASE, **values: Any):
    messages = [{"role": "user", "content": "Say something."}]
    body = {"model": model, "messages": messages, "max_tokens": 4, "temperature": 0, **values}
    return api.client.post(CHAT, json=body)


def test_request_goes_to_the_next_engine_when_one_is_gone(
    make_api: Callable[..., Api], engine_url: str, tiny_adapter_dir: Path
) -> None:
    nobody = "http://127.0.0.1:9"
    api = make_api(engine_urls=[nobody, engine_url])
    model = api.make_model()
    api.context.blobs.upload_dir(model.blob, tiny_adapter_dir)
    assert ask(api).status_code == 200
    assert ask(api, model.name).status_code == 200


def test_an_adapter_of_another_base_is_told_of_when_it_is_loaded(
    make_api: Callable[..., Api],
    engine_url: str,
    tiny_model_dir: Path,
    tiny_adapter_dir: Path,
    home: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """In the log, and the answer comes all the same; nothing is said of one on the same weights."""
    api = make_api(engine_urls=[engine_url], model_cache=home / "bases")
    source = api.context.catalog.resolve(BASE).source
    (home / "bases").mkdir()

    def copy(to: Path) -> Facts:
        shutil.copytree(tiny_model_dir, to, dirs_exist_ok=True)
        return Facts()

    folder = cache._make(source, home / "bases", copy)
    hashes = {"same": cache.hashes_of(folder), "other": {"model.safetensors": "0" * 64}}
    for suffix, known in hashes.items():
        model = api.make_model(f"ft:{BASE}:personal:{suffix}:AbCd1234", source=source, base_sha256=known)
        api.context.blobs.upload_dir(model.blob, tiny_adapter_dir)
        assert ask(api, model.name).status_code == 200
    deadline = time.monotonic() + 60
    while "was trained on other weights" not in caplog.text and time.monotonic() < deadline:
        time.sleep(0.05)
    told = [record.getMessage() for record in caplog.records if "was trained on other weights" in record.getMessage()]
    assert len(told) == 1
    assert ":other:" in told[0]


def test_engine_that_dies_is_left_out(
    make_api: Callable[..., Api], tiny_model_dir: Path, engine_url: str, tiny_adapter_dir: Path
) -> None:
    mortal = start_engine(tiny_model_dir)
    api = make_api(engine_urls=[mortal.url, engine_url])
    names = [f"ft:{BASE}:personal::AbCd123{number}" for number in range(4)]
    for name in names:
        api.context.blobs.upload_dir(api.make_model(name).blob, tiny_adapter_dir)
    before = [ask(api, name).json()["choices"][0]["message"] for name in names]
    mortal.kill()
    after = [ask(api, name) for name in names]
    assert [answer.status_code for answer in after] == [200] * 4
    assert [answer.json()["choices"][0]["message"] for answer in after] == before


def test_engine_of_another_base_is_not_asked(make_api: Callable[..., Api], engine_url: str) -> None:
    asked: list[str] = []

    class Other(BaseHTTPRequestHandler):
        """A server with another base: it says so, and takes note when it is asked all the same."""

        def do_GET(self) -> None:
            body = json.dumps({"object": "list", "data": [{"id": "hf:some/other-base", "parent": None}]}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            asked.append(self.path)
            self.send_error(500)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with listening(Other) as other:
        assert ask(make_api(engine_urls=[other, engine_url])).status_code == 200
    assert asked == []


def test_stream_that_loses_its_engine_ends_with_an_error_event(
    make_api: Callable[..., Api], tiny_model_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = start_engine(tiny_model_dir)
    api = make_api(engine_urls=[engine.url])

    async def read() -> list[bytes]:
        from tunery.api import inference as service
        from tunery.domain.tenants import Caller, Role
        from tunery.metering.ledger import RequestIds

        caller = Caller("key_x", api.organization_id, api.project_id, None, Role.OWNER)
        messages = [{"role": "user", "content": "Say something."}]
        sent = {"model": BASE, "messages": messages, "stream": True, "max_tokens": 1500, "n": 8}
        ask = await service.admit(api.context, caller, RequestIds("req_x"), "chat", sent)
        events = []
        async for event in service.stream(api.context, ask):
            events.append(event)
            if len(events) == 2:
                await asyncio.to_thread(engine.kill)
        return events

    events = run(read())
    error = json.loads(events[-1].removeprefix(b"data: "))["error"]
    assert error["code"] == "server_is_overloaded" and error["text"]["key"] == "error.engine_lost"
    assert b"[DONE]" not in events[-1]
    assert "the engine was lost" in caplog.text


@contextlib.contextmanager
def talk(answer: bytes | None) -> Iterator[str]:
    """Something that listens, and to each connection says this and closes it; None: nothing, and keeps it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        kept = []

        def serve() -> None:
            with contextlib.suppress(OSError):  # closed at the end
                while True:
                    connection, _ = listener.accept()
                    kept.append(connection)
                    if answer is not None:
                        connection.recv(65536)
                        connection.sendall(answer)
                        connection.close()

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        for connection in kept:
            connection.close()


LOADING = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"


@pytest.mark.parametrize("answer", [None, b"", LOADING, b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{"], ids=repr)
def test_an_engine_that_loads_was_not_lost(
    make_api: Callable[..., Api],
    answer: bytes | None,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool, "DISCOVER_TIMEOUT_S", 0.3)
    with talk(answer) as url:
        api = make_api(engine_urls=[url])
        refused = ask(api)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "server_is_overloaded")
        assert "starting" in refused.json()["error"]["message"]
        assert api.client.get("/health").json()["engine"] != "up"
    assert "lost" not in caplog.text


def test_errors_in_vllms_dialect_become_openais() -> None:
    message = "This model's maximum context length is 8192 tokens. model_abc"
    told = {"object": "error", "message": message, "type": "BadRequestError", "param": None, "code": 400}
    error = engine_error(400, json.dumps(told).encode(), Target(BASE, "pypi:x", None, None))
    assert (error.status, error.type, error.param, error.code) == (
        400,
        "invalid_request_error",
        "messages",
        "context_length_exceeded",
    )


@pytest.mark.parametrize(
    ("path", "sent", "key"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "word " * 9000}]}, "error.context_length"),
        (CHAT, {"messages": [{"role": "user", "content": "x" * 4_000_000}]}, "error.context_length.characters"),
        (CHAT, {"messages": [{"role": "boss", "content": "x"}]}, "error.value_not_supported"),
        (CHAT, {"messages": [{"role": "user", "content": None}]}, "error.content_null"),
        (CHAT, {"messages": [{"content": "x"}]}, "error.missing_parameter"),
        (CHAT, {"top_logprobs": 2}, "error.top_logprobs_alone"),
        (CHAT, {"tool_choice": "required"}, "error.tool_choice_alone"),
        (CHAT, {"logit_bias": {"word": 1}}, "error.logit_bias_key"),
        (CHAT, {"n": 128, "max_tokens": 900, "logprobs": True, "top_logprobs": 20}, "error.answers_too_long"),
        (CHAT, {"temperature": 9.5}, "error.decimal_above_max_value.le"),
        ("/v1/completions", {"prompt": [10**6]}, "error.token_id"),
        ("/v1/completions", {"prompt": ["x"] * 3000}, "error.prompts_too_many"),
    ],
)
@pytest.mark.parametrize("streams", [False, True])
def test_what_an_engine_refuses_can_be_worded_in_another_language(
    make_api: Callable[..., Api], engine_url: str, path: str, sent: dict[str, Any], key: str, streams: bool
) -> None:
    asked = {"messages": [{"role": "user", "content": "Hi"}]} if path == CHAT else {}
    answer = make_api(engine_urls=[engine_url]).client.post(
        path, json={"model": BASE, "stream": streams, **asked, **sent}
    )
    known = json.loads(answer.headers[TEXT_HEADER])
    assert answer.status_code == 400 and known["key"] == key
    assert translator("en").reword("", known) == answer.json()["error"]["message"]
    assert re.search("[ぁ-ん]", translator("ja").reword("", known))
    assert list(answer.json()["error"]) == ["message", "type", "param", "code"]


def test_what_an_engine_says_that_is_no_text_of_ours_is_told_as_it_came() -> None:
    told = json.dumps({"error": {"message": "too much"}}).encode()
    for header in (
        "null",
        "no JSON",
        '"text"',
        '{"key": "error.of_a_newer_server", "params": {}}',
        '{"params": {}}',
        "[[]",
    ):
        error = engine_error(400, told, Target(BASE, "pypi:x", None, None), text_of({TEXT_HEADER: header}))
        assert translator("ja").reword(error.message, error.text) == "too much"


def test_chunk_ends_at_its_newline_and_not_at_other_ends_of_lines() -> None:
    texts = ["one\u2028two", "three\x85four", "five\x0bsix", "seven"]
    events = b"".join(write_event({"text": text}) for text in texts) + DONE

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(events), 7):
            yield events[start : start + 7]

    async def read() -> list[str]:
        return [chunk["text"] async for chunk in read_events(pieces())]

    assert run(read()) == texts


OTHER = """
[bases.other]
source = "hf:some/other-base@main"
context_length = 2048

[[models]]
name = "other-1"
base = "other"
"""


@pytest.fixture
def two_bases(tmp_path: Path) -> dict[str, Path]:
    """The settings of an installation whose catalog has a second base."""
    catalog, prices = tmp_path / "catalog.toml", tmp_path / "prices.toml"
    catalog.write_text(OTHER)
    prices.write_text('currency = "usd"\n[default]\ntraining = 1\ninput = 1\ncached_input = 1\noutput = 1\n')
    return {"catalog": catalog, "prices": prices}


def test_model_on_a_base_that_no_engine_has_is_refused(
    make_api: Callable[..., Api], engine_url: str, two_bases: dict[str, Path]
) -> None:
    api = make_api(engine_urls=[engine_url], **two_bases)
    tuned = api.make_model("ft:other-1:personal::AbCd1234", base_model="other-1", source="hf:some/other-base@main")
    assert ask(api).status_code == 200
    for name, stream in [("other-1", False), ("other-1", True), (tuned.name, False)]:
        answer = ask(api, name, stream=stream)
        error = answer.json()["error"]
        assert (answer.status_code, error["type"], error["param"], error["code"]) == (
            404,
            "invalid_request_error",
            "model",
            "model_not_found",
        )
        assert name in error["message"]
        assert "--served-name hf:some/other-base@main" in error["message"]
        assert "engine_urls" in error["message"]
    listed = {model["id"] for model in api.client.get("/v1/models").json()["data"]}
    assert {BASE, "other-1", tuned.name} <= listed  # they may be trained and moved all the same


@pytest.mark.parametrize("name", ["hf:some/other-base@main", "some/other-base", "other-1"])
def test_each_base_has_its_engine(
    make_api: Callable[..., Api], engine_url: str, tiny_model_dir: Path, two_bases: dict[str, Path], name: str
) -> None:
    second = start_engine(tiny_model_dir, name=name)
    api = make_api(engine_urls=[engine_url, second.url], **two_bases)
    assert ask(api).status_code == 200
    assert ask(api, "other-1").json()["model"] == "other-1"
    second.kill()
    gone = ask(api, "other-1")
    assert (gone.status_code, gone.json()["error"]["code"]) == (503, "server_is_overloaded")
    assert ask(api).status_code == 200


def test_adapter_comes_from_a_bucket(
    make_api: Callable[..., Api], engine_url: str, tiny_adapter_dir: Path, s3_settings: dict[str, Any]
) -> None:
    api = make_api(engine_urls=[engine_url], **s3_settings)
    model = api.make_model()
    assert ask(api, model.name).status_code == 500  # nobody has put its weights there yet
    api.context.blobs.upload_dir(model.blob, tiny_adapter_dir)
    answer = ask(api, model.name)
    assert answer.status_code == 200
    assert answer.json()["choices"] != ask(api).json()["choices"]


def test_weights_that_are_no_adapter_are_a_fault_without_paths(
    make_api: Callable[..., Api], engine_url: str, tmp_path: Path
) -> None:
    api = make_api(engine_urls=[engine_url])
    model = api.make_model()
    api.context.blobs.put(f"{model.blob}/adapter_config.json", b"{}")
    answer = ask(api, model.name)
    assert answer.status_code == 500
    assert str(tmp_path) not in answer.text


@pytest.mark.parametrize(("key", "status"), [("right", 200), ("wrong", 503), (None, 503)])
def test_an_engine_is_asked_with_its_key(
    make_api: Callable[..., Api],
    tiny_model_dir: Path,
    tiny_adapter_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    key: str | None,
    status: int,
) -> None:
    """In every kind of request: a base, an adapter that has to be loaded, a score, the look at its health."""
    monkeypatch.setenv("TUNERY_ENGINE_API_KEY", "right")
    engine = start_engine(tiny_model_dir)
    monkeypatch.delenv("TUNERY_ENGINE_API_KEY")
    api = make_api(engine_urls=[engine.url], engine_api_key=key)
    model = api.make_model()
    api.context.blobs.upload_dir(model.blob, tiny_adapter_dir)
    try:
        answers = [ask(api), ask(api, model.name), ask(api, stream=True)]
        scorer = EngineScorer(engine.url, api.context.settings.engine_api_key)
        assert bool(scorer.bases()) == (status == 200)
    finally:
        engine.kill()
    assert [answer.status_code for answer in answers] == [status] * 3
    assert "right" not in answers[0].text
