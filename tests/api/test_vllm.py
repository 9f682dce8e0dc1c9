"""The api before vLLMs: adapters that come and go, one of two that dies, and what they cannot do."""

from collections.abc import Callable
from pathlib import Path

import httpx

from tests.api.conftest import BASE, Api
from tests.engine_process import start_engine
from tests.vllm_process import VllmProcess, needs_vllm, vllm_url

pytestmark = needs_vllm


def ask(api: Api, model: str) -> httpx.Response:
    messages = [{"role": "user", "content": "Say something."}]
    body = {"model": model, "messages": messages, "max_tokens": 4, "temperature": 0}
    return api.client.post("/v1/chat/completions", json=body)


def adapters_of(url: str) -> set[str]:
    return {row["id"] for row in httpx.get(f"{url}/v1/models").json()["data"] if row.get("parent")}


def test_a_deleted_models_adapter_leaves_vllm(
    make_api: Callable[..., Api], engine_url: str, tiny_model_dir: Path, tiny_adapter_dir: Path
) -> None:
    api = make_api(engine_urls=[engine_url])
    model = api.make_model()
    api.context.blobs.upload_dir(model.blob, tiny_adapter_dir)
    assert ask(api, model.name).status_code == 200
    assert model.id in adapters_of(vllm_url(tiny_model_dir))
    assert api.client.delete(f"/v1/models/{model.name}").status_code == 200
    assert model.id not in adapters_of(vllm_url(tiny_model_dir))


def test_when_one_of_two_dies_the_other_answers_and_loads_what_it_lacks(
    make_api: Callable[..., Api], engine_url: str, tiny_model_dir: Path, tiny_adapter_dir: Path
) -> None:
    mortal = VllmProcess(tiny_model_dir)
    try:
        mortal.wait()
        front = start_engine(tiny_model_dir, vllm_url=mortal.url)
        api = make_api(engine_urls=[front.url, engine_url])
        names = [f"ft:{BASE}:personal::AbCd123{number}" for number in range(8)]
        models = [api.make_model(name) for name in names]
        for model in models:
            api.context.blobs.upload_dir(model.blob, tiny_adapter_dir)
        before = [ask(api, name).json()["choices"][0]["message"] for name in names]
        ids = {model.id for model in models}
        lost, kept = adapters_of(mortal.url) & ids, adapters_of(vllm_url(tiny_model_dir)) & ids
        assert lost and kept and not lost & kept  # each has its own
    finally:
        mortal.kill()
    after = [ask(api, name) for name in names]
    assert [answer.status_code for answer in after] == [200] * 8
    assert [answer.json()["choices"][0]["message"] for answer in after] == before
    assert lost <= adapters_of(vllm_url(tiny_model_dir))
    assert front.process.wait(60) == 1  # and whoever supervises it starts it again


def test_embeddings_are_refused_by_name(make_api: Callable[..., Api], engine_url: str) -> None:
    api = make_api(engine_urls=[engine_url])
    refused = api.client.post("/v1/embeddings", json={"model": "text-embedding-3-small", "input": "x"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")
    assert "no engine of this server has loaded" in refused.json()["error"]["message"]
