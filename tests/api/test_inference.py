"""Completions through the api and a real engine. Its tiny random model talks noise, but in the right form."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.conftest import BASE, NOW, Api
from tests.engine_process import start_engine
from tests.rows import ledger
from tunery.store import models
from tunery.store.database import read, write

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
MESSAGES = [{"role": "user", "content": "Say something."}]


@pytest.fixture
def api(make_api: Callable[..., Api], engine_url: str) -> Api:
    return make_api(engine_urls=[engine_url])


def ask(api: Api, model: str = "gpt-4o-mini", path: str = CHAT, **values: Any):
    body = {"model": model, "max_tokens": 8, "temperature": 0, **values}
    if path == CHAT:
        body.setdefault("messages", MESSAGES)
    return api.client.post(path, json=body)


def events_of(text: str) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_alias_of_a_base_answers_with_the_snapshots_name(api: Api) -> None:
    answer = ask(api)
    body = answer.json()
    assert answer.status_code == 200, answer.text
    assert (body["object"], body["model"]) == ("chat.completion", BASE)
    assert answer.headers["x-tunery-model"] == BASE
    assert body["id"].startswith("chatcmpl-")
    usage_of = body["usage"]
    assert usage_of["total_tokens"] == usage_of["prompt_tokens"] + usage_of["completion_tokens"]
    assert usage_of["prompt_tokens_details"]["cached_tokens"] >= 0


@pytest.mark.parametrize(
    ("path", "values"),
    [
        (CHAT, {"max_tokens": 5.0, "n": 2.0, "seed": 1.0, "logprobs": True, "top_logprobs": 2.0}),
        (CHAT, {"max_tokens": None, "max_completion_tokens": 5.0, "stream": True}),
        (COMPLETIONS, {"prompt": "One", "n": 2.0, "best_of": 2.0, "logprobs": 1.0}),
        (COMPLETIONS, {"prompt": [65.0, 66.0], "echo": True}),
        (COMPLETIONS, {"prompt": [[65.0, 66], [67, 68.0]], "stream": True}),
        ("/v1/responses", {"input": "One", "max_tokens": None, "max_output_tokens": 16.0, "top_logprobs": 0.0}),
    ],
)
def test_whole_numbers_may_come_as_floats(api: Api, path: str, values: dict[str, Any]) -> None:
    """As JavaScript does not, and R, PHP and Lua do."""
    floats = {"model": "gpt-4o-mini", "max_tokens": 5.0, "temperature": 0, "messages": MESSAGES, **values}
    floats = {name: value for name, value in floats.items() if value is not None}
    if path != CHAT:
        del floats["messages"]
    answers = [
        api.client.post(path, json=body) for body in (floats, json.loads(json.dumps(floats), parse_float=int_of))
    ]
    assert [answer.status_code for answer in answers] == [200, 200], answers[0].text
    said = [answer.text if floats.get("stream") else answer.json() for answer in answers]
    if path == CHAT and not floats.get("stream"):
        assert said[0]["choices"] == said[1]["choices"] and said[0]["usage"] == said[1]["usage"]


def int_of(text: str) -> int:
    return int(float(text))


@pytest.mark.parametrize("prompt", [[65.5], [65, 1e300], [True], ["a", 1.0], [[1.5]]])
def test_no_other_numbers_are_token_ids(api: Api, prompt: list[Any]) -> None:
    answer = ask(api, path=COMPLETIONS, prompt=prompt)
    assert (answer.status_code, answer.json()["error"]["param"].partition("[")[0]) == (400, "prompt"), answer.text


def test_stream_says_the_same_as_the_whole(api: Api) -> None:
    whole = ask(api).json()["choices"][0]["message"]["content"]
    chunks = events_of(ask(api, stream=True).text)
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == whole
    assert {chunk["model"] for chunk in chunks} == {BASE}
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert all("usage" not in chunk for chunk in chunks)


def test_stream_ends_with_usage_when_asked(api: Api) -> None:
    chunks = events_of(ask(api, stream=True, stream_options={"include_usage": True}).text)
    assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 8


def test_legacy_completion(api: Api) -> None:
    body = ask(api, path=COMPLETIONS, prompt="Once").json()
    assert (body["object"], body["model"]) == ("text_completion", BASE)
    assert body["id"].startswith("cmpl-")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("values", "param"),
    [
        ({"functions": [{"name": "g"}, {"name": "f", "parameters": {"type": "odd"}}]}, "functions[1].parameters"),
        ({"functions": [{"name": "a name"}]}, "functions[0].name"),
        ({"functions": [{"name": "f"}], "function_call": {"name": "fly"}}, "function_call"),
    ],
)
def test_errors_of_legacy_functions_name_what_was_sent(api: Api, values: Any, param: str, stream: bool) -> None:
    answer = ask(api, **values, stream=stream)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


MANY_PROPERTIES = {"type": "object", "properties": {f"p{index}": {} for index in range(401)}}
MANY = {"name": "f", "parameters": MANY_PROPERTIES, "schema": MANY_PROPERTIES}
INVALID_PARAMETERS = "invalid_function_parameters"


@pytest.mark.parametrize(
    ("values", "param", "code"),
    [
        ({"audio": {"voice": "alloy"}}, "audio", "unsupported_parameter"),
        ({"web_search_options": {}}, "web_search_options", "unsupported_parameter"),
        ({"temprature": 1}, "temprature", "unknown_parameter"),
        ({"temperature": 3}, "temperature", None),
        ({"messages": []}, "messages", None),
        ({"n": "two"}, "n", None),
        ({"stream": "yes"}, "stream", "invalid_type"),
        ({"tools": [{"type": "function", "function": MANY}]}, "tools[0].function.parameters", INVALID_PARAMETERS),
        ({"functions": [{"name": "g"}, MANY]}, "functions[1].parameters", INVALID_PARAMETERS),
        ({"response_format": {"type": "json_schema", "json_schema": MANY}}, "response_format", "invalid_json_schema"),
    ],
)
def test_parameters_that_cannot_be_honoured_are_400(api: Api, values: Any, param: str, code: str | None) -> None:
    answer = ask(api, **values)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    if code:
        assert answer.json()["error"]["code"] == code


@pytest.mark.parametrize(
    "body",
    [
        r'{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "\ud800"}]}',
        r'{"model": "gpt-4o-mini\u0000", "messages": [{"role": "user", "content": "x"}]}',
        r'{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "x"}], "metadata": {"a\u0000": "b"}}',
        r'{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "x"}], "metadata": {"a": "b\u0000"}}',
        r'{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "x"}], "seed": 1e400}',
        r'{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "x"}], "temperature": NaN, "top_p": 7}',
        r'{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "x"}], "seed": 99999999999999999999999}',
    ],
)
def test_text_and_numbers_that_are_none_are_400(api: Api, body: str) -> None:
    answer = api.client.post(CHAT, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text


def test_parameters_that_say_nothing_are_taken(api: Api) -> None:
    answer = ask(api, user="u", service_tier="auto", prompt_cache_key="k", modalities=["text"], verbosity="medium")
    assert answer.status_code == 200, answer.text


def test_prompt_beyond_the_context_is_openais_400(api: Api) -> None:
    answer = ask(api, messages=[{"role": "user", "content": "word " * 2000}])
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "context_length_exceeded"


def test_unknown_model_is_404(api: Api) -> None:
    answer = ask(api, model=f"ft:{BASE}:x::AbCd1234")
    assert answer.json()["error"]["code"] == "model_not_found"


def test_stored_completion_lives_until_it_is_deleted(api: Api) -> None:
    made = ask(api, store=True, metadata={"set": "one"}).json()
    streamed = events_of(ask(api, store=True, stream=True, metadata={"set": "two"}).text)
    ask(api)
    page = api.client.get(CHAT).json()
    assert [item["id"] for item in page["data"]] == [made["id"], streamed[0]["id"]]
    whole, joined = (item["choices"][0]["message"] for item in page["data"])
    assert (whole["role"], whole["content"]) == (joined["role"], joined["content"])
    assert page["data"][1]["usage"]["completion_tokens"] == 8
    found = api.client.get(f"{CHAT}?metadata[set]=two").json()["data"]
    assert [item["id"] for item in found] == [streamed[0]["id"]]
    path = f"{CHAT}/{made['id']}"
    assert api.client.post(path, json={"metadata": {"set": "three"}}).json()["metadata"] == {"set": "three"}
    messages = api.client.get(f"{path}/messages").json()["data"]
    assert [(message["role"], message["content"]) for message in messages] == [("user", "Say something.")]
    stranger = api.as_key(api.make_stranger())
    assert api.client.get(path, headers=stranger).status_code == 404
    assert api.client.delete(path).json() == {
        "object": "chat.completion.deleted",
        "id": made["id"],
        "deleted": True,
    }
    assert api.client.get(path).status_code == 404


def test_every_answer_is_in_the_ledger(api: Api) -> None:
    spent = [ask(api).json()["usage"]]
    chunks = events_of(ask(api, stream=True, stream_options={"include_usage": True}).text)
    spent.append(chunks[-1]["usage"])
    events_of(ask(api, stream=True).text)
    with read(api.engine) as conn:
        records = ledger(conn, api.project_id)
    assert len(records) == 3
    assert [record.input_tokens for record in records[:2]] == [each["prompt_tokens"] for each in spent]
    assert [record.output_tokens for record in records[:2]] == [each["completion_tokens"] for each in spent]
    assert {record.model for record in records} == {BASE}


def test_budget_of_requests_is_openais_429(make_api: Callable[..., Api], engine_url: str) -> None:
    api = make_api(engine_urls=[engine_url], requests_per_minute=1)
    first = ask(api)
    assert first.headers["x-ratelimit-limit-requests"] == "1"
    second = ask(api)
    assert second.status_code == 429
    assert second.json()["error"]["code"] == "rate_limit_exceeded"


@pytest.fixture
def tuned(api: Api, tiny_adapter_dir: Path) -> Iterator[str]:
    model = api.make_model()
    api.context.blobs.upload_dir(model.blob, tiny_adapter_dir)
    yield model.name


def test_fine_tuned_model_is_loaded_when_first_asked(api: Api, tuned: str) -> None:
    answer = ask(api, model=tuned)
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"] == tuned
    assert answer.headers["x-tunery-model"] == tuned
    assert answer.json()["choices"][0]["message"]["content"] != ask(api).json()["choices"][0]["message"]["content"]


def test_alias_answers_under_its_own_name_and_says_whose_weights(api: Api, tuned: str) -> None:
    with write(api.engine) as conn:
        models.set_alias(conn, api.project_id, "support-bot", tuned, now=NOW)
    answer = ask(api, model="support-bot")
    assert answer.json()["model"] == "support-bot"
    assert answer.headers["x-tunery-model"] == tuned


def test_restarted_engine_gets_its_adapters_again(
    make_api: Callable[..., Api], tiny_model_dir: Path, tiny_adapter_dir: Path
) -> None:
    engine = start_engine(tiny_model_dir)
    api = make_api(engine_urls=[engine.url])
    model = api.make_model()
    api.context.blobs.upload_dir(model.blob, tiny_adapter_dir)
    before = ask(api, model=model.name).json()["choices"]
    engine.kill()
    down = ask(api, model=model.name)
    assert down.status_code == 503
    assert int(down.headers["retry-after"]) > 0
    assert ask(api, model=model.name, stream=True).status_code == 503
    again = start_engine(tiny_model_dir, port=int(engine.url.rpartition(":")[2]))
    try:
        assert ask(api, model=model.name).json()["choices"] == before
    finally:
        again.kill()


def test_without_an_engine_the_answer_is_503(make_api: Callable[..., Api]) -> None:
    answer = ask(make_api())
    assert answer.status_code == 503
    assert "retry-after" in answer.headers


@pytest.mark.parametrize("values", [{"prompt": ""}, {"prompt": [""]}, {"prompt": "", "echo": True}, {}])
def test_a_completion_needs_no_prompt(api: Api, values: Any) -> None:
    answer = ask(api, path=COMPLETIONS, **values)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("values", "code", "words"),
    [
        ({"best_of": 1}, "", ""),
        ({"n": 2, "best_of": 2}, "", ""),
        ({"n": 2.0, "best_of": 2}, "", ""),
        ({"n": 1, "best_of": 2}, "unsupported_parameter", "more than `n`"),
        ({"best_of": True}, "unsupported_parameter", "more than `n`"),
        ({"n": 2, "best_of": 1}, "invalid_value", "must not be less than 'n' (2)"),
        ({"n": 3.0, "best_of": 2.0}, "invalid_value", "must not be less than 'n'"),
        ({"best_of": 0}, "invalid_value", "must not be less than 'n' (1)"),
    ],
)
def test_the_best_of_as_many_answers_as_are_wanted_are_all_of_them(
    api: Api, values: Any, code: str, words: str
) -> None:
    answer = ask(api, path=COMPLETIONS, prompt="a", **values)
    assert answer.status_code == (400 if code else 200), answer.text
    if code:
        error = answer.json()["error"]
        assert (error["param"], error["code"]) == ("best_of", code) and words in error["message"]


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_tokens_are_taken_ahead_no_further_than_the_context(
    make_api: Callable[..., Api], engine_url: str, path: str
) -> None:
    api = make_api(engine_urls=[engine_url], tokens_per_minute=30_000)
    prompt = {"prompt": ["a", "b"]} if path == COMPLETIONS else {}
    assert ask(api, path=path, max_tokens=16_384, stop=["a", "e", "o", "\n"], **prompt).status_code == 200
    assert ask(api, path=path, max_tokens=16_384, n=8, **prompt).status_code == 429


LEGACY = {"functions": [{"name": "paint", "parameters": {}}], "function_call": {"name": "paint"}}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("length", [1, 11, 60], ids=["cut in the name", "cut in the arguments", "long"])
def test_legacy_functions_are_answered_in_their_form(api: Api, length: int, stream: bool) -> None:
    """The engine knows tools only: what it answers, whole or cut, comes back as a function call."""
    answer = ask(api, **LEGACY, max_tokens=length, stream=stream)
    choices = [chunk["choices"][0] for chunk in (events_of(answer.text) if stream else [answer.json()])]
    said = [choice["delta" if stream else "message"] for choice in choices]
    calls = [part["function_call"] for part in said if "function_call" in part]
    assert "".join(call.get("name") or "" for call in calls) == "paint"
    assert not any(part.get("content") or "tool_calls" in part for part in said)
    assert choices[-1]["finish_reason"] in ("length", "stop")
