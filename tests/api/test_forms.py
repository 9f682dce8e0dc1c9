"""Pure parts of inference: legacy function calls, chunks put together again, usage made complete, parameters."""

from typing import Any

import pytest

from tunery.domain.errors import InvalidRequest
from tunery.wire import chat
from tunery.wire.chat import (
    CHAT,
    COMPLETIONS,
    Assembly,
    by_openai_rule,
    check,
    completed,
    estimated_tokens,
    for_ledger,
)

FUNCTION = {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}
CALL = {"name": "get_weather", "arguments": '{"city": "Paris"}'}


def test_functions_are_served_as_tools() -> None:
    body = {"model": "m", "messages": [], "functions": [FUNCTION], "function_call": {"name": "get_weather"}}
    assert chat.as_tools(body) == {
        "model": "m",
        "messages": [],
        "tools": [{"type": "function", "function": FUNCTION}],
        "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
        "parallel_tool_calls": False,
    }


@pytest.mark.parametrize("part", ["message", "delta"])
def test_tool_call_is_answered_as_function_call(part: str) -> None:
    called = {"role": "assistant", "content": None, "tool_calls": [{"id": "call_1", "function": CALL}]}
    answer = {"id": "x", "choices": [{"index": 0, part: called, "finish_reason": "tool_calls"}]}
    choice = chat.as_function_call(answer)["choices"][0]
    assert choice[part] == {"role": "assistant", "content": None, "function_call": CALL}
    assert choice["finish_reason"] == "function_call"


def chunk(delta: dict[str, Any], index: int = 0, finish: str | None = None) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "created": 1,
        "model": "m",
        "choices": [{"index": index, "delta": delta, "finish_reason": finish}],
    }


def test_chunks_are_put_together_by_choice() -> None:
    assembly = Assembly()
    for part in (
        chunk({"role": "assistant", "content": ""}),
        chunk({"content": "Hel"}),
        chunk({"content": "x"}, index=1),
        chunk({"content": "lo"}),
        chunk({}, finish="stop"),
        chunk({}, index=1, finish="length"),
    ):
        assembly.add(part)
    result = assembly.result()
    assert (result["object"], result["id"]) == ("chat.completion", "chatcmpl-1")
    assert [choice["message"]["content"] for choice in result["choices"]] == ["Hello", "x"]
    assert [choice["finish_reason"] for choice in result["choices"]] == ["stop", "length"]


def test_tool_calls_are_put_together_from_their_pieces() -> None:
    assembly = Assembly()
    first = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": ""}}
    for calls in ([first], [{"index": 0, "function": {"arguments": '{"city":'}}]):
        assembly.add(chunk({"tool_calls": calls}))
    assembly.add(chunk({"tool_calls": [{"index": 0, "function": {"arguments": ' "Paris"}'}}]}))
    assembly.add(chunk({"tool_calls": [{**first, "index": 1, "id": "call_2"}]}, finish="tool_calls"))
    calls = assembly.result()["choices"][0]["message"]["tool_calls"]
    assert [call["id"] for call in calls] == ["call_1", "call_2"]
    assert calls[0]["function"] == CALL


@pytest.mark.parametrize(
    ("cached", "shown"), [(0, 0), (1023, 0), (1024, 1024), (1151, 1024), (1152, 1152), (2000, 1920)]
)
def test_openais_rule_for_cached_tokens(cached: int, shown: int) -> None:
    assert by_openai_rule(cached) == shown
    assert by_openai_rule(shown) == shown


def test_usage_is_complete_and_reaches_the_ledger() -> None:
    usage = completed({"prompt_tokens": 1200, "completion_tokens": 3, "total_tokens": 1203}, "block")
    assert usage["prompt_tokens_details"]["cached_tokens"] == 0
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 0
    cached = completed({"prompt_tokens": 1200, "prompt_tokens_details": {"cached_tokens": 1100}}, "openai")
    assert for_ledger(cached).cached_tokens == 1024


def test_estimate_is_the_prompt_and_the_longest_answer() -> None:
    messages = [
        {"role": "user", "content": "x" * 400},
        {"role": "user", "content": [{"type": "text", "text": "y" * 40}]},
    ]
    sent = {"messages": messages, "max_tokens": 50, "n": 2}
    assert estimated_tokens(sent, context_length=None) == 110 + 100
    assert estimated_tokens(sent, context_length=2048) == 110 + 100
    assert estimated_tokens(sent, context_length=30) == 110 + 60  # no answer is longer than the context
    assert estimated_tokens({"prompt": [1, 2, 3]}, context_length=None) == 3


def test_only_honoured_parameters_reach_the_engine() -> None:
    sent = {"model": "m", "messages": [], "temperature": 0, "user": "u", "seed": None, "service_tier": "auto"}
    assert check(sent, CHAT) == {"model": "m", "messages": [], "temperature": 0}


@pytest.mark.parametrize(("name", "value"), [("best_of", 2), ("suffix", "x"), ("tools", [])])
def test_completions_have_their_own_table(name: str, value: Any) -> None:
    with pytest.raises(InvalidRequest):
        check({"model": "m", "prompt": "x", name: value}, COMPLETIONS)
