"""Answers whose client goes away before their end: what was computed is charged, whatever was read of it."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler
from typing import Any

import httpx
import pytest
import uvicorn
from sqlalchemy import Row

from tests import receivers
from tests.api.conftest import BASE, SECRET, Api
from tests.rows import ledger
from tunery.store.database import read

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
LONG = {"model": BASE, "max_tokens": 1500, "temperature": 1, "seed": 4, "logit_bias": {"2": -100}}
ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": (CHAT, {"messages": [{"role": "user", "content": "Say something."}]}),
    "three answers": (CHAT, {"messages": [{"role": "user", "content": "Say something."}], "n": 3}),
    "functions": (
        CHAT,
        {"messages": [{"role": "user", "content": "Say something."}], "functions": [{"name": "f", "parameters": {}}]},
    ),
    "completion": (COMPLETIONS, {"prompt": "Once"}),
    "several prompts": (COMPLETIONS, {"prompt": ["Once", "Twice upon"], "n": 2, "echo": True}),
}


@contextlib.contextmanager
def listening(api: Api) -> Iterator[str]:
    """The api on a port: a client in process cannot go away."""
    server = uvicorn.Server(uvicorn.Config(api.client.app, log_level="error", lifespan="off"))
    listener = socket.create_server(("127.0.0.1", 0))
    portal = api.client.portal  # the loop of the test client, whose lifespan runs there
    assert portal is not None
    thread = threading.Thread(target=lambda: portal.call(server.serve, [listener]), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join(20)


@pytest.fixture
def api(make_api: Callable[..., Api], engine_url: str) -> Api:
    return make_api(engine_urls=[engine_url], tokens_per_minute=1_000_000)


@pytest.fixture
def url(api: Api) -> Iterator[str]:
    with listening(api) as address:
        yield address


def break_off(
    url: str, path: str, body: dict[str, Any], after: int | None, headers: dict[str, str] | None = None
) -> int:
    """How many chunks were read. `after` None: the client goes before the first byte."""
    sent = {"authorization": f"Bearer {SECRET}", **(headers or {})}
    timeout = httpx.Timeout(60, read=0.3 if after is None else 60)
    read = 0
    with (
        contextlib.suppress(httpx.ReadTimeout),
        httpx.stream("POST", url + path, json=body, headers=sent, timeout=timeout) as answer,
    ):
        for line in answer.iter_lines():
            read += line.startswith("data: {")
            if after is not None and read >= after:
                break
    return read


def computed(engine_url: str) -> float:
    """Tokens that the engine has drawn."""
    lines = httpx.get(f"{engine_url}/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("tunery_engine_output_tokens_total"))


def records(api: Api, number: int, project_id: str | None = None) -> Sequence[Row[Any]]:
    """The ledger of a project, once it has so many lines."""
    deadline = time.monotonic() + 20
    while True:
        with read(api.engine) as conn:
            found = ledger(conn, project_id or api.project_id)
        if len(found) >= number or time.monotonic() > deadline:
            return found
        time.sleep(0.02)


@pytest.mark.parametrize("after", [1, 8], ids=["first chunk", "between chunks"])
@pytest.mark.parametrize("kind", ASKED)
def test_a_stream_costs_what_was_computed_until_it_was_broken_off(
    api: Api, url: str, engine_url: str, kind: str, after: int
) -> None:
    path, body = ASKED[kind]
    before = computed(engine_url)
    break_off(url, path, LONG | body | {"stream": True}, after)
    (record,) = records(api, 1)

    assert record.output_tokens == computed(engine_url) - before
    assert after - 5 <= record.output_tokens < 1000
    whole = api.client.post(path, json=LONG | body | {"max_tokens": 1}).json()["usage"]
    assert record.input_tokens == whole["prompt_tokens"]


@pytest.mark.parametrize("kind", ASKED)
def test_a_whole_answer_that_nobody_waited_for_costs_what_was_computed(
    api: Api, url: str, engine_url: str, kind: str
) -> None:
    path, body = ASKED[kind]
    before = computed(engine_url)
    break_off(url, path, LONG | body, None)
    (record,) = records(api, 1)

    assert 0 < record.output_tokens == computed(engine_url) - before


def test_the_last_chunk_is_not_needed(api: Api, url: str, engine_url: str) -> None:
    path, body = ASKED["chat"]
    before = computed(engine_url)
    break_off(url, path, LONG | body | {"stream": True, "max_tokens": 6, "stop": None}, 7)
    (record,) = records(api, 1)

    assert record.output_tokens == computed(engine_url) - before == 6


def test_a_client_that_goes_while_it_waits_pays_no_more_than_was_computed(api: Api, url: str, engine_url: str) -> None:
    """Some of the answers have not begun: the engine has no room for all of them at once."""
    before = computed(engine_url)
    prompts = ["word " * 30 + str(number) for number in range(200)]
    body = LONG | {"prompt": prompts, "stream": True, "max_tokens": 400}
    break_off(url, COMPLETIONS, body, 3)
    (record,) = records(api, 1)

    full = api.client.post(COMPLETIONS, json={"model": BASE, "prompt": prompts, "max_tokens": 1}).json()["usage"]
    assert record.output_tokens == computed(engine_url) - before - 200
    assert 0 < record.input_tokens < full["prompt_tokens"]


def test_the_tokens_of_the_minute_are_corrected_and_not_forgotten(api: Api, url: str) -> None:
    path, body = ASKED["chat"]
    break_off(url, path, LONG | body | {"stream": True}, 8)
    (record,) = records(api, 1)
    left = int(api.client.post(path, json=LONG | body | {"max_tokens": 1}).headers["x-ratelimit-remaining-tokens"])

    spent = record.input_tokens + record.output_tokens
    assert 1_000_000 - left >= spent  # the second request has taken its own few ahead
    assert 1_000_000 - left < spent + 100


def test_under_one_id_of_the_client_each_answer_is_charged(api: Api, url: str) -> None:
    """Broken off just before its end, taken whole, and two at once: four answers."""
    path, body = ASKED["chat"]
    asked = LONG | body | {"max_tokens": 6, "stream": True}
    headers = {"idempotency-key": "mine"}
    break_off(url, path, asked, 6, headers)
    records(api, 1)
    break_off(url, path, asked, 100, headers)
    records(api, 2)
    both = [threading.Thread(target=break_off, args=(url, path, asked, 100, headers)) for _ in range(2)]
    for each in both:
        each.start()
    for each in both:
        each.join()

    assert [record.output_tokens for record in records(api, 4)][1:] == [6, 6, 6]


class Uncounted(BaseHTTPRequestHandler):
    """Streams without ever saying a usage."""

    def do_POST(self) -> None:
        assert json.loads(self.rfile.read(int(self.headers["content-length"])))["stream"] is True
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        for number in range(20):
            choice = {"index": number % 2, "delta": {"content": "x"}, "finish_reason": None}
            event = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
            self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def test_of_a_stream_that_says_no_usage_what_was_received_is_counted(make_api: Callable[..., Api]) -> None:
    with receivers.listening(Uncounted) as upstream:
        api = make_api(upstream_base_url=f"{upstream}/v1", upstream_api_key="sk-at-openai")
        target = {"name": "old", "target": "openai:gpt-4o-mini-2024-07-18"}
        assert api.client.post("/tunery/v1/aliases", json=target).status_code == 200
        messages = [{"role": "user", "content": "x" * 400}]
        api.client.post(CHAT, json={"model": "old", "messages": messages, "stream": True, "n": 2})
        (record,) = records(api, 1)

    assert (record.input_tokens, record.output_tokens) == (100, 20)
