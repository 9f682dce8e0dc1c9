"""Bases over the API: an owner adds one from a hub on this machine, sees how far it is, and removes it."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from tests.api.conftest import Api
from tests.models.hub import Repository, serve_hub
from tests.tiny_model import CHATML
from tunery.api.context import Context
from tunery.api.tunery.transfers import runner
from tunery.api.tunery.transfers.runner import TransferRunner
from tunery.domain.tenants import Role
from tunery.jobs.identity import this_worker

ADDITIONS = "/tunery/v1/organization/base_additions"
Json = dict[str, Any]


def wait_for_end(api: Api, addition: Json) -> Json:
    deadline = time.monotonic() + 500
    while (found := api.client.get(f"{ADDITIONS}/{addition['id']}").json())["status"] in ("queued", "running"):
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    return found


def add(api: Api, **body: Any) -> Json:
    answer = api.client.post(ADDITIONS, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_an_owner_adds_a_base_and_removes_it(
    make_api: Callable[..., Api], tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "POLL_S", 0.02)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    api, stop = make_api(), threading.Event()
    own = Context.open(api.context.settings, api.context.clock)
    thread = threading.Thread(target=TransferRunner(own, this_worker(), "base").run, args=(stop,))
    endless = tmp_path / "endless"
    endless.mkdir()
    for path in tiny_model_dir.iterdir():
        (endless / path.name).symlink_to(path)
    (endless / "chat_template.jinja").unlink()
    (endless / "chat_template.jinja").write_text(CHATML.replace("<|im_end|>", ""))
    with serve_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        hub.repositories["acme/tiny"] = Repository(tiny_model_dir, {"license": "mit", "language": "ja"})
        hub.repositories["acme/endless"] = Repository(endless, {"license": "mit"})
        thread.start()
        try:
            made = wait_for_end(
                api, add(api, source="hf:acme/tiny", name="ours", price={"training": 5}, learning_rate=1e-3)
            )
            refused = wait_for_end(api, add(api, source="hf:acme/endless", name="endless"))
        finally:
            stop.set()
            thread.join()
            own.database.dispose()
    assert made["status"] == "succeeded", made
    assert made["found"]["stop_tokens"] == ["<|im_end|>"] and made["found"]["difference"] < 0.1
    assert refused["error"]["code"] == "base_refused" and "would never stop" in refused["error"]["message"]
    assert refused["error"]["texts"]["message"]["key"] == "base.never_stops"
    assert not [name for name, _ in hub.asked if name.endswith(".safetensors")][1:]  # not fetched for the refused one

    listed = {base["name"]: base for base in api.client.get("/tunery/v1/bases").json()["data"]}
    assert listed["ours"]["own"] and listed["ours"]["licence"] == "mit" and listed["ours"]["bytes"] > 100_000
    assert not listed["smollm2-135m-instruct"]["own"]
    entry = next(row for row in api.client.get("/tunery/v1/catalog").json()["data"] if row["name"] == "ours")
    assert entry["price"]["training"] == 5e-6

    twice = api.client.post(ADDITIONS, json={"source": "hf:acme/tiny", "name": "ours"})
    assert (twice.status_code, twice.json()["error"]["code"]) == (400, "name_taken")
    removed = api.client.delete("/tunery/v1/organization/bases/ours").json()
    assert removed["deleted"] and removed["freed_bytes"] > 100_000
    assert api.client.delete("/tunery/v1/organization/bases/ours").status_code == 404
    assert api.client.delete("/tunery/v1/organization/bases/gpt-4o").json()["error"]["code"] == "model_not_found"


def test_a_request_reaches_nothing_of_the_servers_own_disk(make_api: Callable[..., Api]) -> None:
    api = make_api()
    for source in ("path:/etc", "gguf:/etc/passwd"):
        answer = api.client.post(ADDITIONS, json={"source": source, "name": "mine"})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "source")


def test_only_owners_of_the_first_organisation_change_bases(make_api: Callable[..., Api]) -> None:
    api = make_api()
    body = {"source": "hf:a/b", "name": "x"}
    for secret in (api.make_key(role=Role.READER), api.make_stranger(is_admin=True)):
        headers = api.as_key(secret)
        assert api.client.get("/tunery/v1/bases", headers=headers).status_code == 200
        assert api.client.post(ADDITIONS, json=body, headers=headers).status_code == 403
        assert api.client.delete("/tunery/v1/organization/bases/x", headers=headers).status_code == 403
