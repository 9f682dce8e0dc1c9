"""The engine's HTTP face through the official client, on a real port."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import APIStatusError, BadRequestError, NotFoundError, OpenAI

from tests import vllm_process
from tests.serving.server import EngineServer
from tunery.serving.settings import EngineSettings

MESSAGES: list[Any] = [
    {"role": "system", "content": "Be brief and kind."},
    {"role": "user", "content": "Say something."},
]
SCHEMA = {
    "type": "object",
    "properties": {"size": {"type": "integer"}, "colour": {"enum": ["red", "blue"]}},
    "required": ["size", "colour"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "paint", "parameters": SCHEMA}}


@pytest.fixture(scope="module")
def server(settings: EngineSettings, adapters: dict[str, Path]) -> Iterator[EngineServer]:
    with EngineServer(settings) as running:
        running.service.engine.load("wide", adapters["wide"]).result(20)
        yield running


@pytest.fixture
def client(server: EngineServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as openai:
        yield openai


def ask(client: OpenAI, **changes: Any) -> Any:
    values = {"model": "base", "messages": MESSAGES, "max_completion_tokens": 12, "temperature": 0, **changes}
    return client.chat.completions.create(**values)


def metric(server: EngineServer, name: str) -> float:
    lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name) and not line.startswith("#"))


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_stream_joins_to_the_same_answer_and_ends_with_usage(client: OpenAI) -> None:
    whole = ask(client, extra_body={"ignore_eos": True})
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}, extra_body={"ignore_eos": True}))

    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason == "length"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens == 12
    assert len({chunk.id for chunk in chunks}) == 1


def test_cached_tokens_are_what_was_reused(client: OpenAI) -> None:
    grain = 128 if vllm_process.PYTHON else 16  # of a block
    asked = {"messages": [{"role": "user", "content": "x" * 300}], "extra_body": {"cache_salt": "proj_cached"}}
    first, second = (ask(client, **asked).usage for _ in range(2))

    assert first.prompt_tokens_details.cached_tokens == 0
    assert second.prompt_tokens - grain <= second.prompt_tokens_details.cached_tokens < second.prompt_tokens


def test_n_answers_count_the_prompt_once(client: OpenAI) -> None:
    answer = ask(client, n=3, temperature=1, seed=5)

    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert answer.usage.prompt_tokens == ask(client).usage.prompt_tokens
    again = ask(client, n=3, temperature=1, seed=5)
    assert [c.message.content for c in again.choices] == [c.message.content for c in answer.choices]


def test_stop_ends_the_answer_before_it(client: OpenAI) -> None:
    text = ask(client, max_completion_tokens=40, extra_body={"ignore_eos": True}).choices[0].message.content
    stop = text[4:6]
    answer = ask(client, max_completion_tokens=40, stop=[stop], extra_body={"ignore_eos": True}).choices[0]

    assert answer.message.content == text[: text.index(stop)]
    assert answer.finish_reason == "stop"


def test_logprobs_are_those_of_the_drawn_tokens(client: OpenAI) -> None:
    content = ask(client, logprobs=True, top_logprobs=3, extra_body={"ignore_eos": True}).choices[0].logprobs.content

    assert all(len(entry.top_logprobs) == 3 for entry in content)
    assert all(entry.top_logprobs[0].logprob == entry.logprob <= 0 for entry in content)  # greedy draws the likeliest
    chunks = ask(client, logprobs=True, stream=True, extra_body={"ignore_eos": True})
    streamed = [e for c in chunks if c.choices[0].logprobs for e in c.choices[0].logprobs.content]
    assert [entry.token for entry in streamed] == [entry.token for entry in content]


def test_logit_bias_forces_and_forbids(client: OpenAI) -> None:
    answer = ask(client, logit_bias={"70": 100}, max_completion_tokens=3, logprobs=True)
    assert len(set(answer.choices[0].message.content)) == 1
    token = answer.choices[0].logprobs.content[0].token
    banned = ask(client, logit_bias={"70": -100}, max_completion_tokens=20, extra_body={"ignore_eos": True})
    assert token not in (banned.choices[0].message.content or "")


def test_frequency_penalty_breaks_repetition(client: OpenAI) -> None:
    loop = ask(client, logit_bias={"70": 30}, max_completion_tokens=30).choices[0].message.content
    penalised = ask(client, logit_bias={"70": 30}, max_completion_tokens=30, frequency_penalty=2)
    assert loop.count(loop[0]) > penalised.choices[0].message.content.count(loop[0])


@pytest.mark.parametrize("stream", [False, True])
def test_json_schema_is_obeyed_by_a_random_model(client: OpenAI, stream: bool) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "thing", "schema": SCHEMA, "strict": True}}
    answer = ask(client, response_format=wanted, max_completion_tokens=200, temperature=1, seed=3, stream=stream)
    if stream:
        chunks = list(answer)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        reason = chunks[-1].choices[0].finish_reason
    else:
        text, reason = answer.choices[0].message.content, answer.choices[0].finish_reason

    thing = json.loads(text)
    assert set(thing) == {"size", "colour"} and thing["colour"] in ("red", "blue")
    assert reason == "stop"


def test_a_forced_tool_is_called_with_valid_arguments(client: OpenAI) -> None:
    named = ask(
        client,
        tools=[TOOL],
        tool_choice={"type": "function", "function": {"name": "paint"}},
        max_completion_tokens=300,
        temperature=1,
        seed=1,
    ).choices[0]

    call = named.message.tool_calls[0]
    assert call.function.name == "paint" and set(json.loads(call.function.arguments)) == {"size", "colour"}
    assert named.finish_reason == "stop"
    assert named.message.content is None


def test_required_tools_stream_their_calls(client: OpenAI) -> None:
    settings = {"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False, "temperature": 1, "seed": 2}
    chunks = list(ask(client, **settings, max_completion_tokens=300, stream=True))

    deltas = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert deltas[0].function.name == "paint" and deltas[0].id.startswith("call_")
    arguments = "".join(delta.function.arguments for delta in deltas)
    assert set(json.loads(arguments)) == {"size", "colour"}
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    assert not any(chunk.choices[0].delta.content for chunk in chunks)


def test_a_whole_number_may_be_written_as_a_decimal(client: OpenAI) -> None:
    wanted = {"max_tokens": 3, "n": 2, "seed": 7, "top_logprobs": 1, "logprobs": True, "temperature": 1}
    decimals = {name: float(wanted[name]) for name in ("max_tokens", "n", "seed", "top_logprobs")}
    more = {"max_completion_tokens": None}
    texts = [[one.message.content for one in ask(client, **wanted | each | more).choices] for each in ({}, decimals)]
    assert texts[0] == texts[1]
    with pytest.raises(BadRequestError, match="expected an integer"):
        ask(client, n=1.5)


def cut_calls(client: OpenAI, *, stream: bool, **changes: Any) -> list[tuple[str, str, str, str]]:
    """Of each choice the content, the name and arguments of its call, and its finish_reason."""
    settings = {"tools": [TOOL], "tool_choice": "required", "temperature": 1, "seed": 1, "stream": stream, **changes}
    settings = {key: value for key, value in settings.items() if value is not None}
    answer = ask(client, **settings)
    chunks = list(answer) if stream else [answer]
    found: dict[int, list[str]] = {}
    for choice in (choice for chunk in chunks for choice in chunk.choices):
        said = choice.delta if stream else choice.message
        parts = found.setdefault(choice.index, ["", "", "", ""])
        call = said.tool_calls[0].function if said.tool_calls else None
        parts[0] += said.content or ""
        parts[1] += (call.name or "") if call else ""
        parts[2] += (call.arguments or "") if call else ""
        parts[3] = choice.finish_reason or parts[3]
    return [tuple(parts) for _, parts in sorted(found.items())]  # type: ignore[misc]


FORCED = {"tool_choice": {"type": "function", "function": {"name": "paint"}}}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("changes", [{}, FORCED, {"n": 3}], ids=["required", "forced", "several"])
def test_a_call_that_is_cut_is_a_call(client: OpenAI, changes: dict[str, Any], stream: bool) -> None:
    opening = '<tool_call>\n{"name": "paint", "arguments": {"size":'
    for length in (1, 4, 11, 20, len(opening)):
        for content, name, arguments, reason in cut_calls(
            client, stream=stream, max_completion_tokens=length, **changes
        ):
            assert (content, name, reason) == ("", "paint", "length")
            assert '{"size":'.startswith(arguments.replace(" ", "").replace("\n", ""))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("stop", ["size", '"arguments', "call>\n"])
def test_a_stop_within_a_call_cuts_it(client: OpenAI, stop: str, stream: bool) -> None:
    for changes in ({}, FORCED):
        (found,) = cut_calls(client, stream=stream, stop=[stop], max_completion_tokens=300, **changes)
        assert (found[0], found[1], found[3]) == ("", "paint", "length")
        assert found[2].strip() in ("", '{"', '{ "')


def test_adapters_come_and_go_while_it_runs(server: EngineServer, client: OpenAI, adapters: dict[str, Path]) -> None:
    with pytest.raises(NotFoundError) as missing:
        ask(client, model="late")
    assert missing.value.code == "model_not_found"

    loaded = httpx.post(
        f"{server.url}/v1/load_lora_adapter", json={"lora_name": "late", "lora_path": str(adapters["full"])}
    )
    assert loaded.status_code == 200
    assert ask(client, model="late").model == "late"
    assert "late" in [model.id for model in client.models.list()]

    httpx.post(f"{server.url}/v1/unload_lora_adapter", json={"lora_name": "late"}).raise_for_status()
    with pytest.raises(NotFoundError):
        ask(client, model="late")


def test_token_ids_are_scored(client: OpenAI) -> None:
    answer = client.completions.create(
        model="wide", prompt=[5, 6, 7, 8], max_tokens=0, extra_body={"prompt_logprobs": 0}
    )

    scores: Any = answer.choices[0].prompt_logprobs  # type: ignore[attr-defined]
    assert scores[0] is None
    assert [next(iter(score)) for score in scores[1:]] == ["6", "7", "8"]


def test_completions_of_several_prompts_echo_and_score(client: OpenAI) -> None:
    answer = client.completions.create(model="base", prompt=["ab", "cd"], max_tokens=2, echo=True, logprobs=1, n=2)

    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert [choice.text[:2] for choice in answer.choices] == ["ab", "ab", "cd", "cd"]
    first = answer.choices[0].logprobs
    assert first.tokens[:2] == ["a", "b"] and first.token_logprobs[0] is None and first.token_logprobs[1] < 0


REFUSALS = [
    ({"temperature": 3.5}, "temperature", "decimal_above_max_value"),
    ({"top_logprobs": 2}, "top_logprobs", "invalid_value"),
    ({"n": 0}, "n", "integer_below_min_value"),
    ({"n": "2"}, "n", "invalid_type"),
    ({"nonsense": 1}, "nonsense", "unknown_parameter"),
    ({"audio": {"voice": "x"}}, "audio", "unknown_parameter"),
    ({"reasoning_effort": "low"}, "reasoning_effort", "unknown_parameter"),
    ({"messages": []}, "messages", "array_below_min_length"),
    ({"functions": [{"name": "f"}]}, "functions", "unknown_parameter"),
    ({"store": True}, "store", "unknown_parameter"),
    ({"stop": 5}, "stop", "invalid_type"),
    ({"stop": ["a", 5]}, "stop[1]", "invalid_type"),
    ({"tool_choice": {"type": "function", "function": {}}}, "tool_choice.function.name", "missing_required_parameter"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role", "invalid_value"),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "invalid_type"),
    ({"messages": [{"role": None, "content": "x"}]}, "messages[0].role", "invalid_type"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "invalid_type"),
    ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content[0]", "invalid_type"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]}, "messages[0].content[0].text",
     "invalid_type"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages", None),
    *(({"messages": [{"role": "assistant", **message}]}, f"messages[0].{param}", code) for message, param, code in (
        ({"tool_calls": "x"}, "tool_calls", "invalid_type"),
        ({"tool_calls": [5]}, "tool_calls[0]", "invalid_type"),
        ({"tool_calls": [{"id": "c"}]}, "tool_calls[0].function", "missing_required_parameter"),
        ({"tool_calls": [{"function": {"name": "f"}}]}, "tool_calls[0].function.arguments",
         "missing_required_parameter"),
        ({"tool_calls": [{"type": "custom", "function": {"name": "f", "arguments": ""}}]}, "tool_calls[0].type",
         "invalid_value"),
        ({"function_call": "auto"}, "function_call", "invalid_type"),
        ({"content": "x", "refusal": 5}, "refusal", "invalid_type"),
    )),
    ({"messages": [{"role": "user", "content": "x" * 3000}]}, "messages", "context_length_exceeded"),
    ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "array_above_max_length"),
    ({"logit_bias": {"word": 1}}, "logit_bias", "invalid_value"),
    ({"response_format": {"type": "yaml"}}, "response_format.type", "invalid_value"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "missing_required_parameter"),
    ({"tool_choice": "required"}, "tool_choice", None),
    ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "param", "code"), REFUSALS)
def test_what_cannot_be_honoured_is_refused_by_name(
    server: EngineServer, changes: dict[str, Any], param: str, code: str | None
) -> None:
    body = {"model": "base", "messages": MESSAGES, **changes}
    response = httpx.post(f"{server.url}/v1/chat/completions", json=body)

    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)
    assert list(error) == ["message", "type", "param", "code"]
    assert "None" not in error["message"] and "object is not" not in error["message"]


def test_a_schema_that_is_none_is_refused(client: OpenAI) -> None:
    bad = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}
    with pytest.raises(BadRequestError) as refused:
        ask(client, response_format=bad)
    assert refused.value.code == "invalid_json_schema"


@pytest.mark.parametrize("choice", ["auto", "required"])
def test_a_tool_that_cannot_be_held_to_is_refused_by_its_place(client: OpenAI, choice: str) -> None:
    strict = {"name": "odd", "strict": True, "parameters": {"type": "object", "properties": {"a": {"not": {}}}}}
    with pytest.raises(BadRequestError, match=r"'odd'.*'not'") as refused:
        ask(client, tools=[TOOL, {"type": "function", "function": strict}], tool_choice=choice)
    assert refused.value.param == "tools[1].function.parameters"
    assert refused.value.code == "invalid_function_parameters"


def test_a_schema_beyond_the_limits_is_refused(client: OpenAI) -> None:
    many = {"type": "object", "properties": {f"p{index}": {} for index in range(500)}}
    for place in (
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": many}}]},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "f", "schema": many}}},
    ):
        with pytest.raises(BadRequestError, match="limit of 400 properties"):
            ask(client, **place)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_place(server: EngineServer, stream: bool) -> None:
    body = {"model": "base", "messages": MESSAGES, "stream": stream, "max_tokens": 1900, "ignore_eos": True, "n": 8}
    before = metric(server, 'tunery_engine_requests_total{finish_reason="abort"}')
    sent = httpx.Request("POST", f"{server.url}/v1/chat/completions", json=body)
    head = b"POST /v1/chat/completions HTTP/1.1\r\n" + b"".join(b"%b: %b\r\n" % pair for pair in sent.headers.raw)
    with socket.create_connection(("127.0.0.1", server.port)) as leaving:
        leaving.sendall(head + b"\r\n" + sent.content)
        wait_until(lambda: metric(server, "tunery_engine_requests_running ") > 0)

    wait_until(lambda: metric(server, 'tunery_engine_requests_total{finish_reason="abort"}') == before + 8)
    assert metric(server, "tunery_engine_requests_running ") == 0


def test_metrics_count_tokens_and_times(server: EngineServer, client: OpenAI) -> None:
    before = metric(server, "tunery_engine_output_tokens_total")
    usage = ask(client, extra_body={"ignore_eos": True}).usage

    assert metric(server, "tunery_engine_output_tokens_total") == before + usage.completion_tokens
    assert metric(server, "tunery_engine_time_to_first_token_seconds_count") > 0
    assert metric(server, "tunery_engine_adapters_registered ") >= 1


def test_unknown_addresses_and_broken_bodies_get_the_envelope(server: EngineServer) -> None:
    missing = httpx.get(f"{server.url}/v1/nothing")
    kind = {"content-type": "application/json"}
    broken = httpx.post(f"{server.url}/v1/chat/completions", content=b"{", headers=kind)

    assert missing.status_code == 404 and missing.json()["error"]["message"] == "Invalid URL (GET /v1/nothing)"
    assert broken.status_code == 400 and broken.json()["error"]["type"] == "invalid_request_error"


def test_tokenize_counts_a_conversation(server: EngineServer, client: OpenAI) -> None:
    answer = httpx.post(f"{server.url}/tokenize", json={"model": "base", "messages": MESSAGES}).json()

    assert answer["count"] == len(answer["tokens"]) == ask(client).usage.prompt_tokens


def test_a_stopped_engine_says_so_and_when_to_come_back(settings: EngineSettings) -> None:
    with EngineServer(settings) as stopping:
        assert httpx.get(f"{stopping.url}/health").status_code == 200
        stopping.service.engine.stop()
        client = OpenAI(base_url=f"{stopping.url}/v1", api_key="x", max_retries=0)
        with client, pytest.raises(APIStatusError) as down:
            ask(client)
        assert down.value.status_code == 503
        assert down.value.response.headers["retry-after"] == "2"
        assert httpx.get(f"{stopping.url}/health").status_code == 503


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("wanted", [2047, 4096, 16_384, 2**40])
def test_more_tokens_than_the_context_leaves_are_cut_to_it(client: OpenAI, name: str, wanted: int) -> None:
    """Clients ask for what the model's name allows at OpenAI."""
    long = [{"role": "user", "content": "x" * 2020}]
    asked = {"max_completion_tokens": None, name: wanted, "messages": long, "extra_body": {"ignore_eos": True}}
    answer = ask(client, **asked)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.total_tokens == 2048


def test_a_completion_of_more_tokens_than_the_context_leaves_is_cut_to_it(client: OpenAI) -> None:
    answer = client.completions.create(
        model="base", prompt="x" * 2030, max_tokens=99_999, extra_body={"ignore_eos": True}
    )
    assert answer.usage is not None and answer.usage.total_tokens == 2048


@pytest.mark.parametrize("prompt", ["", [""], [[]], ["", "b"], None])
@pytest.mark.parametrize("more", [{}, {"echo": True}, {"echo": True, "logprobs": 2}, {"stream": True, "echo": True}])
def test_an_empty_prompt_is_the_beginning_of_a_text(server: EngineServer, prompt: Any, more: dict[str, Any]) -> None:
    body = {"model": "base", "max_tokens": 3, "ignore_eos": True, **more} | (
        {} if prompt is None else {"prompt": prompt}
    )
    answer = httpx.post(f"{server.url}/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    if "stream" in more:
        return
    document = answer.json()
    first = document["choices"][0]
    assert document["usage"]["completion_tokens"] == 3 * len(document["choices"])
    assert document["usage"]["prompt_tokens"] == len(document["choices"])
    if "logprobs" in more:
        assert len(first["logprobs"]["tokens"]) == 3 and None not in first["logprobs"]["token_logprobs"]


TEXTS = ["plain", "\U0001f600漢字\U0001f1ef\U0001f1f5 ok", "ends with é", "漢", "a\u0301<|im_end|>\U0001f600"]


def completion(client: OpenAI, **values: Any) -> Any:
    return client.completions.create(**{"model": "base", "max_tokens": 9, "temperature": 1, "seed": 3, **values})


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("echo", [True, False])
def test_each_token_of_a_completion_has_its_place_in_the_text(client: OpenAI, text: str, echo: bool) -> None:
    choice = completion(client, prompt=text, echo=echo, logprobs=3).choices[0]
    logprobs = choice.logprobs

    assert choice.text.startswith(text if echo else "")
    assert len({len(each) for each in logprobs.model_dump(exclude_none=True).values()}) == 1
    assert logprobs.text_offset == sorted(logprobs.text_offset)
    assert all(0 <= offset < max(1, len(choice.text)) for offset in logprobs.text_offset)
    for token, offset in zip(logprobs.tokens, logprobs.text_offset, strict=True):
        if not token.startswith(("bytes:", "<|")):
            assert choice.text.startswith(token, offset)
    assert all(len(top) == 3 for top in logprobs.top_logprobs if top is not None)


@pytest.mark.parametrize("text", TEXTS)
def test_the_places_in_a_streamed_completion_are_those_of_the_whole(client: OpenAI, text: str) -> None:
    whole = completion(client, prompt=text, echo=True, logprobs=2).choices[0]
    chunks = [chunk.choices[0] for chunk in completion(client, prompt=text, echo=True, logprobs=2, stream=True)]

    assert "".join(chunk.text for chunk in chunks) == whole.text
    for name in ("tokens", "text_offset", "token_logprobs", "top_logprobs"):
        assert [each for chunk in chunks for each in getattr(chunk.logprobs, name)] == getattr(whole.logprobs, name)


@pytest.mark.parametrize("echo", [True, False])
@pytest.mark.parametrize(
    "extra",
    [{}, {"stop": ["Z"]}, {"logit_bias": {"200": 100}}, {"logit_bias": {"230": 100}}, {"logit_bias": {"2": 100}}],
)
@pytest.mark.parametrize("max_tokens", [1, 2, 3])
def test_a_token_whose_character_never_ends_has_a_place(
    client: OpenAI, echo: bool, extra: dict[str, Any], max_tokens: int
) -> None:
    """The tiny model's tokens are bytes: 200 and 230 are parts of characters, 2 ends a text."""
    values = {"prompt": "ok", "echo": echo, "logprobs": 2, "max_tokens": max_tokens, **extra}
    whole = completion(client, **values).choices[0]
    chunks = [chunk.choices[0] for chunk in completion(client, stream=True, **values)]

    assert all(0 <= offset < max(1, len(whole.text)) for offset in whole.logprobs.text_offset)
    assert [each for chunk in chunks for each in chunk.logprobs.text_offset] == whole.logprobs.text_offset
    assert [each for chunk in chunks for each in chunk.logprobs.tokens] == whole.logprobs.tokens


def test_the_bytes_of_a_chats_tokens_join_to_its_text(client: OpenAI) -> None:
    """Also of tokens that hold a part of a character, which are written as OpenAI does."""
    choice = ask(client, temperature=1, seed=8, logprobs=True, top_logprobs=20, max_completion_tokens=60).choices[0]
    joined = b"".join(bytes(entry.bytes or b"") for entry in choice.logprobs.content)

    assert joined.decode("utf-8", "replace").rstrip("\ufffd") == choice.message.content.rstrip("\ufffd")
    broken = [
        token for entry in choice.logprobs.content for token in entry.top_logprobs if max(token.bytes or [0]) > 127
    ]
    assert broken and all(token.token == "".join(f"\\x{byte:02x}" for byte in token.bytes) for token in broken)


MANY_IDS = {str(token): 1 for token in range(200)}


@pytest.mark.parametrize(
    ("path", "changes", "param"),
    [
        ("chat/completions", {"logit_bias": {"9" * 5000: 1}}, "logit_bias"),
        ("chat/completions", {"logit_bias": {"٣": 1}}, "logit_bias"),
        ("completions", {"logit_bias": {str(token): 1 for token in range(1025)}}, "logit_bias"),
        ("completions", {"prompt": ["a", "b"], "n": 128, "max_tokens": 16_384}, "n"),
        ("chat/completions", {"n": 128, "max_tokens": 1000, "logprobs": True, "top_logprobs": 20}, "n"),
        ("completions", {"prompt": ["a"] * 1000, "max_tokens": 400}, "n"),
        ("completions", {"prompt": ["a"] * 100, "n": 21}, "prompt"),
        ("completions", {"prompt": ["a" * 1000] * 60, "n": 2, "echo": True, "logprobs": 20, "max_tokens": 1}, "prompt"),
        ("chat/completions", {"stop": "x" * 1001}, "stop"),
        ("completions", {"stop": ["a", "b" * 1001]}, "stop[1]"),
    ],
)
def test_what_would_take_too_much_is_refused_before_it_starts(
    server: EngineServer, path: str, changes: dict[str, Any], param: str
) -> None:
    body = {"model": "base", **({"messages": MESSAGES} if "chat" in path else {"prompt": "x"}), **changes}
    answer = httpx.post(f"{server.url}/v1/{path}", json=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param
    assert len(answer.text) < 1000


def test_many_answers_without_a_length_are_as_long_as_one_request_may_ask_for(client: OpenAI) -> None:
    answer = ask(client, n=128, max_completion_tokens=None, logit_bias={"2": 100, **MANY_IDS}, frequency_penalty=1)
    assert len(answer.choices) == 128


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("completions", {"prompt": "x" * 10**6}),
        ("completions", {"prompt": ["x" * 10**6, "a"]}),
        ("chat/completions", {"messages": [{"role": "user", "content": "x" * 10**6}]}),
        ("chat/completions", {"messages": [{"role": "user", "content": [{"type": "text", "text": "x" * 10**6}]}]}),
    ],
)
def test_a_prompt_that_cannot_fit_is_refused_before_its_tokens_are_counted(
    server: EngineServer, monkeypatch: pytest.MonkeyPatch, path: str, body: dict[str, Any]
) -> None:
    counted: list[int] = []
    monkeypatch.setattr(server.service.renderer, "_encode", lambda texts, *_, **__: counted.extend(map(len, texts)))
    answer = httpx.post(f"{server.url}/v1/{path}", json={"model": "base", **body})

    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "context_length_exceeded"
    assert not counted
