"""Several engines, as with several vLLM servers: who is asked, and what happens when one goes away."""

import asyncio
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.api.conftest import BASE, Api, start_engine
from tunery.api.inference.engine_errors import engine_error
from tunery.api.inference.resolve import Target

CHAT = "/v1/chat/completions"


def ask(api: Api, model: str = BASE, **values: Any):
    messages = [{"role": "user", "content": "Say something."}]
    body = {"model": model, "messages": messages, "max_tokens": 4, "temperature": 0, **values}
    return api.client.post(CHAT, json=body)


def test_request_goes_to_the_next_engine_when_one_is_gone(
    make_api: Callable[..., Api], engine_url: str, tiny_adapter_dir: Path
) -> None:
    nobody = "http://127.0.0.1:9"
    api = make_api(engine_kind="vllm", engine_urls=[nobody, engine_url])
    model = api.make_model()
    api.services.blobs.upload_dir(model.blob, tiny_adapter_dir)
    assert ask(api).status_code == 200
    assert ask(api, model.name).status_code == 200


def test_engine_that_dies_is_left_out(
    make_api: Callable[..., Api], tiny_model_dir: Path, engine_url: str, tiny_adapter_dir: Path
) -> None:
    mortal = start_engine(tiny_model_dir)
    api = make_api(engine_kind="vllm", engine_urls=[mortal.url, engine_url])
    names = [f"ft:{BASE}:personal::AbCd123{number}" for number in range(4)]
    for name in names:
        api.services.blobs.upload_dir(api.make_model(name).blob, tiny_adapter_dir)
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

    server = ThreadingHTTPServer(("127.0.0.1", 0), Other)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    api = make_api(engine_kind="vllm", engine_urls=[f"http://127.0.0.1:{server.server_port}", engine_url])
    assert ask(api).status_code == 200
    assert asked == []
    server.shutdown()


def test_stream_that_loses_its_engine_ends_with_an_error_event(
    make_api: Callable[..., Api], tiny_model_dir: Path
) -> None:
    engine = start_engine(tiny_model_dir)
    api = make_api(engine_url=engine.url)

    async def read() -> list[bytes]:
        from tunery.api.inference import service
        from tunery.domain.tenants import Caller, Role
        from tunery.metering.ledger import RequestIds

        caller = Caller("key_x", api.organization_id, api.project_id, None, Role.OWNER)
        messages = [{"role": "user", "content": "Say something."}]
        sent = {"model": BASE, "messages": messages, "stream": True, "max_tokens": 1500}
        ask = await service.admit(api.services, caller, RequestIds("req_x"), "chat", sent)
        events = []
        async for event in service.stream(api.services, ask):
            events.append(event)
            if len(events) == 2:
                await asyncio.to_thread(engine.kill)
        return events

    events = asyncio.run(read())
    error = json.loads(events[-1].removeprefix(b"data: "))["error"]
    assert error["code"] == "server_is_overloaded"
    assert b"[DONE]" not in events[-1]


def test_errors_in_vllms_dialect_become_openais() -> None:
    class Response:
        status_code = 400
        text = ""

        def json(self) -> Any:
            return {
                "object": "error",
                "message": "This model's maximum context length is 8192 tokens. model_abc",
                "type": "BadRequestError",
                "param": None,
                "code": 400,
            }

    target = Target(BASE, "pypi:x", None, None)
    error = engine_error(Response(), target)  # pyright: ignore[reportArgumentType]
    assert (error.status, error.type, error.param, error.code) == (
        400,
        "invalid_request_error",
        "messages",
        "context_length_exceeded",
    )


def test_adapter_comes_from_a_bucket(
    make_api: Callable[..., Api], engine_url: str, tiny_adapter_dir: Path, s3_settings: dict[str, Any]
) -> None:
    api = make_api(engine_url=engine_url, **s3_settings)
    model = api.make_model()
    assert ask(api, model.name).status_code == 500  # nobody has put its weights there yet
    api.services.blobs.upload_dir(model.blob, tiny_adapter_dir)
    answer = ask(api, model.name)
    assert answer.status_code == 200
    assert answer.json()["choices"] != ask(api).json()["choices"]


def test_weights_that_are_no_adapter_are_a_fault_without_paths(
    make_api: Callable[..., Api], engine_url: str, tmp_path: Path
) -> None:
    api = make_api(engine_url=engine_url)
    model = api.make_model()
    api.services.blobs.put(f"{model.blob}/adapter_config.json", b"{}")
    answer = ask(api, model.name)
    assert answer.status_code == 500
    assert str(tmp_path) not in answer.text
