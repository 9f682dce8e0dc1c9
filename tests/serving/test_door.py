"""Who may ask the engine for what."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serving.server import EngineServer
from tunery.domain.json_body import MAX_DEPTH, MAX_VALUES
from tunery.serving.http.app import MAX_BODY_BYTES
from tunery.serving.http.door import is_loopback
from tunery.serving.settings import API_KEY, EngineSettings, parse_arguments

KEY = "the-engines-key"
OURS = {"authorization": f"Bearer {KEY}"}
CHAT = {"model": "base", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
POSTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"model": "base", "prompt": "x", "max_tokens": 1},
    "/v1/load_lora_adapter": {"lora_name": "a", "lora_path": "/etc"},
    "/v1/unload_lora_adapter": {"lora_name": "a"},
    "/abort_requests": {"request_ids": ["x"]},
    "/tokenize": {"prompt": "x"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, adapters: dict[str, Path]) -> Path:
    """Where the engine may read adapters, with one good one."""
    folder = tmp_path_factory.mktemp("own")
    shutil.copytree(adapters["full"], folder / "good")
    return folder


@pytest.fixture(scope="module")
def server(settings: EngineSettings, folder: Path) -> Iterator[EngineServer]:
    with EngineServer(replace(settings, api_key=KEY, adapters_below=(folder,))) as running:
        yield running


@pytest.mark.parametrize(
    "headers", [{}, {"authorization": "Bearer wrong"}, {"authorization": KEY}, {"authorization": "Bearer é"}]
)
def test_without_its_key_nothing_is_done(server: EngineServer, headers: dict[str, str]) -> None:
    sent = {name: value.encode() for name, value in headers.items()}
    answers = [httpx.post(server.url + path, json=body, headers=sent) for path, body in POSTS.items()]
    answers += [httpx.get(server.url + path, headers=sent) for path in ("/v1/models", "/metrics", "/nothing")]

    assert {answer.status_code for answer in answers} == {401}
    assert {answer.json()["error"]["code"] for answer in answers} == {"invalid_api_key"}
    assert httpx.get(f"{server.url}/health", headers=sent).status_code == 200


def test_with_its_key_all_is_answered(server: EngineServer) -> None:
    assert httpx.get(f"{server.url}/v1/models", headers=OURS).status_code == 200
    assert httpx.get(f"{server.url}/metrics", headers=OURS).status_code == 200
    assert httpx.post(f"{server.url}/v1/chat/completions", json=CHAT, headers=OURS).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.test"}, 403),
        ({"host": "127.0.0.1.evil.test"}, 403),
        ({"host": ""}, 403),
        ({"origin": "http://localhost:3000"}, 403),
        ({"content-type": "text/plain"}, 400),
        ({"content-type": "application/x-www-form-urlencoded"}, 400),
        ({"content-type": "multipart/form-data; boundary=application/json"}, 400),
    ],
)
@pytest.mark.parametrize("path", POSTS)
def test_a_web_page_is_refused_with_the_key_and_without(
    server: EngineServer, path: str, headers: dict[str, str], status: int
) -> None:
    json = {"content-type": "application/json"}
    assert httpx.post(server.url + path, content=b"{}", headers=json | OURS | headers).status_code == status
    assert httpx.post(server.url + path, content=b"{}", headers=json | headers).status_code in (401, 403)


def load(server: EngineServer, path: Path | str) -> httpx.Response:
    body = {"lora_name": "probe", "lora_path": str(path)}
    return httpx.post(f"{server.url}/v1/load_lora_adapter", json=body, headers=OURS)


def test_adapters_come_from_the_engines_own_folder_alone(
    server: EngineServer, folder: Path, adapters: dict[str, Path], tmp_path: Path
) -> None:
    """Whatever is there, or not, the refusal is the same: nothing is found out by asking."""
    shutil.copytree(adapters["full"], folder / "linked")
    (folder / "linked" / "adapter_model.safetensors").unlink()
    (folder / "linked" / "adapter_model.safetensors").symlink_to("/etc/passwd")
    (folder / "away").symlink_to(adapters["full"])
    (folder.parent / f"{folder.name}-beside").mkdir()
    outside = [
        "/etc", "/etc/passwd", "/nonexistent", "/proc/self", tmp_path, adapters["full"], folder / ".." / "x",
        folder.parent / f"{folder.name}-beside", folder / "linked", folder / "away", os.path.relpath(adapters["full"]),
    ]  # fmt: skip
    refusals = {load(server, path).text for path in outside}

    assert len(refusals) == 1 and "Adapters are not loaded from there." in refusals.pop()
    assert load(server, folder / "good").status_code == 200
    assert (
        httpx.post(f"{server.url}/v1/unload_lora_adapter", json={"lora_name": "probe"}, headers=OURS).status_code == 200
    )


def test_the_key_comes_from_the_environment_and_is_needed_on_other_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(["--model-dir", "m", "--host", "0.0.0.0"])
    monkeypatch.setenv(API_KEY, KEY)
    settings = parse_arguments(["--model-dir", "m", "--host", "0.0.0.0", "--adapters-dir", "a", "--adapters-dir", "b"])
    assert (settings.api_key, settings.adapters_below) == (KEY, (Path("a"), Path("b")))


@pytest.mark.parametrize(
    ("host", "is_local"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("bench", False),
    ],
)
def test_which_addresses_are_this_machine(host: str, is_local: bool) -> None:
    assert is_loopback(host) == is_local


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("is_declared", [True, False])
def test_a_body_is_bounded(server: EngineServer, path: str, is_declared: bool) -> None:
    body = b'{"prompt": "' + b"x" * MAX_BODY_BYTES + b'"}'
    sent = body if is_declared else iter([body[:1000], body[1000:]])
    try:
        answer = httpx.post(server.url + path, content=sent, headers=OURS | {"content-type": "application/json"})
    except httpx.WriteError:  # the engine had answered and closed before all was sent
        return
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    "body",
    [
        b'{"x": [' + b"1," * MAX_VALUES + b"1]}",
        b'{"x": ' + b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1) + b"}",
        b"{",
        b"\xff",
    ],
)
def test_many_values_and_many_levels_are_refused_before_they_are_looked_at(
    server: EngineServer, path: str, body: bytes
) -> None:
    answer = httpx.post(server.url + path, content=body, headers=OURS | {"content-type": "application/json"})
    assert answer.status_code == 400 and answer.json()["error"]["param"] is None
