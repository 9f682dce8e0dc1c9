"""Null and empty mean absent, and a call's arguments mean the object they hold, whoever wrote the row."""

import json
from typing import Any

import pytest
from openai.types.chat import ChatCompletionMessage, ChatCompletionMessageFunctionToolCall
from openai.types.chat.chat_completion_message_function_tool_call import Function

from tests.datasets.conftest import chat_row, pair_row
from tunery.chat.examples import ChatExample, PreferenceExample
from tunery.chat.messages import text_of
from tunery.datasets.lines import Line
from tunery.datasets.parse import Parsed, parse_line

TOOL = {
    "type": "function",
    "function": {
        "name": "set_lamp",
        "parameters": {
            "type": "object",
            "properties": {"percent": {"type": "integer"}, "until": {"type": ["string", "null"], "default": None}},
        },
    },
}


def parsed(row: dict[str, Any]) -> Parsed:
    content = json.dumps(row).encode()
    return parse_line(Line(1, 1, content, len(content)))


def calling(arguments: Any, *, tools: Any = (TOOL,), legacy: bool = False) -> dict[str, Any]:
    function = {"name": "set_lamp", "arguments": arguments}
    call = {"id": "c", "type": "function", "function": function}
    answer = {"role": "assistant", **({"function_call": function} if legacy else {"tool_calls": [call]})}
    defined = {"functions": [tool["function"] for tool in tools]} if legacy else {"tools": list(tools)}
    return {"messages": [{"role": "user", "content": "a"}, answer], **defined}


EMPTY = (None, "", [], {}, {"a": None, "b": [{"c": ""}]})


@pytest.mark.parametrize("empty", EMPTY, ids=repr)
def test_an_optional_key_that_holds_nothing_is_absent(empty: Any) -> None:
    optional = ("name", "tool_calls", "function_call", "refusal", "weight", "audio", "annotations", "tool_call_id")
    optional += ("id", "parsed", "status", "reasoning_content")  # of other types, and of others' answers
    row = chat_row()
    for message in row["messages"]:
        message.update(dict.fromkeys(optional, empty))
    row.update(dict.fromkeys(("tools", "functions", "parallel_tool_calls"), empty))
    assert parsed(row) == parsed(chat_row())
    pair = pair_row()
    pair["input"].update(dict.fromkeys(("tools", "parallel_tool_calls"), empty))
    for message in (pair["input"]["messages"][0], pair["preferred_output"][0], pair["non_preferred_output"][0]):
        message.update(dict.fromkeys(optional, empty))
    assert parsed(pair) == parsed(pair_row())
    assert isinstance(parsed(pair).example, PreferenceExample)


def test_a_table_fills_every_key_of_every_format() -> None:
    filled = dict.fromkeys(("input", "preferred_output", "non_preferred_output", "prompt", "completion", "id"))
    assert parsed({**filled, **chat_row()}) == parsed(chat_row())
    chat = dict.fromkeys(("messages", "tools", "functions", "prompt", "preferred_completion"))
    assert parsed({**chat, **pair_row()}) == parsed(pair_row())
    plain = {"prompt": "a", "completion": "b"}
    assert parsed({**chat, **plain}) == parsed(plain)


def test_parts_calls_and_definitions_lose_their_nulls() -> None:
    part = {"type": "text", "text": "a", "image_url": None, "refusal": None, "input_audio": None}
    call = {"id": "c", "type": "function", "function": {"name": "set_lamp", "arguments": "{}"}, "custom": None}
    parameters = {
        "type": "object",
        "properties": {"percent": {"type": "integer", "enum": None, "items": None}, "city": None},
        "required": None,
    }
    function = {"name": "set_lamp", "description": None, "strict": None, "parameters": parameters}
    row = {
        "messages": [{"role": "user", "content": [part]}, {"role": "assistant", "tool_calls": [{**call, "index": 0}]}],
        "tools": [{"type": "function", "function": function, "custom": None}],
    }
    result = parsed(row)
    assert not result.problems
    assert isinstance(result.example, ChatExample)
    assert result.example.messages[0]["content"] == [{"type": "text", "text": "a"}]
    assert result.example.messages[1]["tool_calls"] == [
        {"id": "c", "type": "function", "function": {"name": "set_lamp", "arguments": "{}"}}
    ]
    properties = {"percent": {"type": "integer"}}
    assert result.example.tools == [
        {
            "type": "function",
            "function": {"name": "set_lamp", "parameters": {"type": "object", "properties": properties}},
        }
    ]


def test_a_default_of_null_stays_in_a_schema() -> None:
    example = parsed(calling("{}")).example
    assert isinstance(example, ChatExample)
    assert example.tools == [TOOL]


@pytest.mark.parametrize("calls", [None, 1])
def test_the_sdks_dump_of_an_answer_trains(calls: int | None) -> None:
    function = Function(name="set_lamp", arguments="{}")
    call = ChatCompletionMessageFunctionToolCall(id="c", type="function", function=function)
    answer = ChatCompletionMessage(
        role="assistant", content=None if calls else "Rome", tool_calls=[call] if calls else None, annotations=[]
    )
    result = parsed({"messages": [{"role": "user", "content": "a"}, answer.model_dump()], "tools": [TOOL]})
    assert not result.problems
    assert isinstance(result.example, ChatExample)
    assert result.example.messages[1] == answer.model_dump(exclude_none=True, exclude={"annotations"})


def test_what_is_required_is_not_absent_but_wrong() -> None:
    answer = {"role": "assistant", "content": "b"}
    for message in ({"role": "user", "content": None}, {"role": "function", "name": "", "content": "a"}):
        assert parsed({"messages": [message, answer]}).example is None
    for row in ({"messages": None}, {"messages": []}, {"prompt": None, "completion": "b"}):
        assert parsed(row).example is None


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({"percent": 5}, '{"percent": 5}'),
        (json.dumps(json.dumps({"percent": 5})), '{"percent": 5}'),
        (json.dumps(json.dumps(json.dumps({"percent": 5}))), '{"percent": 5}'),
        ("", "{}"),
        ("  ", "{}"),
        (None, "{}"),
        ([], "{}"),
        ("null", "{}"),
        ('""', "{}"),
        ({}, "{}"),
        ({"percent": 5, "city": None, "until": None}, '{"percent": 5, "until": null}'),
    ],
)
def test_arguments_mean_their_object(given: Any, meant: str, legacy: bool) -> None:
    result = parsed(calling(given, legacy=legacy))
    assert isinstance(result.example, ChatExample)
    assert result.example.messages[1]["tool_calls"][0]["function"]["arguments"] == meant
    (problem,) = result.problems
    assert problem.code == "arguments_not_text"
    assert json.dumps(meant) in problem.message  # the right form, to be copied
    assert problem.path.endswith("arguments")


@pytest.mark.parametrize("text", ['{"percent": 5}', '{"percent":5}', ' {"until": null} ', '{"a": "\\u00e9"}'])
def test_right_arguments_stay_letter_for_letter(text: str) -> None:
    result = parsed(calling(text))
    assert not result.problems
    assert isinstance(result.example, ChatExample)
    assert result.example.messages[1]["tool_calls"][0]["function"]["arguments"] == text


@pytest.mark.parametrize("given", ["x=1", "[1]", 7, [1], '"text"', "5", True])
def test_arguments_that_mean_no_object_are_an_error(given: Any) -> None:
    result = parsed(calling(given))
    assert result.example is None
    assert [problem.code for problem in result.problems] == ["arguments_not_json"]


def test_an_answer_of_a_pair_is_read_like_any_other() -> None:
    pair = pair_row()
    pair["input"]["tools"] = [TOOL]
    pair["preferred_output"] = [calling({"percent": 5, "city": None})["messages"][1]]
    result = parsed(pair)
    assert isinstance(result.example, PreferenceExample)
    assert result.example.preferred["tool_calls"][0]["function"]["arguments"] == '{"percent": 5}'
    assert [problem.path for problem in result.problems] == ["preferred_output[0].tool_calls[0].function.arguments"]


@pytest.mark.parametrize("key", ["tool_calls", "function_call"])
def test_a_call_needs_no_words_beside_it(key: str) -> None:
    row = calling("{}", legacy=key == "function_call")
    for content in ("", [], None, [{"type": "text", "text": ""}]):
        row["messages"][1]["content"] = content
        assert not parsed(row).problems, content


@pytest.mark.parametrize("empty", EMPTY, ids=repr)
def test_the_columns_of_other_formats_are_absent_when_empty(empty: Any) -> None:
    pairs = ("input", "preferred_output", "non_preferred_output")
    completion = {"prompt": "", "completion": "b"}
    for row, others in (
        (chat_row(), (*pairs, "prompt", "completion", "metadata")),
        (pair_row(), ("messages", "tools", "prompt", "completion")),
        (completion, ("messages", "tools", *pairs)),
    ):
        assert parsed(row).example is not None
        assert parsed({**row, **dict.fromkeys(others, empty)}) == parsed(row)


def test_tools_and_calls_lose_the_structure_of_another_type() -> None:
    row = calling("{}")
    merged = calling("{}", tools=[{**TOOL, "custom": {"name": None, "format": None}}])
    merged["messages"][1]["tool_calls"][0]["custom"] = {"name": None, "input": ""}
    assert parsed(merged) == parsed(row)
    pair = pair_row()
    pair["input"]["functions"] = []
    assert parsed(pair) == parsed(pair_row())
    nameless = calling("{}")
    nameless["messages"][1]["tool_calls"][0]["id"] = ""
    assert parsed(nameless).example is None


def test_a_function_may_have_given_nothing() -> None:
    row = calling("{}", legacy=True)
    result: dict[str, Any] = {"role": "function", "name": "set_lamp", "content": None}
    row["messages"] += [result, {"role": "assistant", "content": "done"}]
    expected = json.loads(json.dumps(row))
    expected["messages"][2]["content"] = ""
    assert parsed(row) == parsed(expected)
    assert isinstance(parsed(row).example, ChatExample)
    del result["content"]
    assert parsed(row).example is None


@pytest.mark.parametrize("content", [None, "", []], ids=repr)
def test_a_refusal_is_the_answer_whatever_empty_content_stands_beside_it(content: Any) -> None:
    answer = {"role": "assistant", "content": content, "refusal": "I may not."}
    chat = parsed({"messages": [{"role": "user", "content": "a"}, answer]})
    assert isinstance(chat.example, ChatExample) and not chat.problems
    assert text_of(chat.example.messages[-1]) == "I may not."
    pair = pair_row()
    pair["preferred_output"] = [answer]
    assert isinstance(preferring := parsed(pair).example, PreferenceExample)
    assert text_of(preferring.preferred) == "I may not."


EMPTY = [None, "", {}, [], {"a": None, "b": []}]


@pytest.mark.parametrize("empty", EMPTY)
@pytest.mark.parametrize("legacy", [False, True])
def test_a_call_loses_what_a_definition_would_hold(empty: Any, legacy: bool) -> None:
    """A table that knows one kind of function gives calls the keys of definitions, and definitions those of calls."""
    row, merged = calling("{}", legacy=legacy), calling("{}", legacy=legacy)
    message = merged["messages"][1]
    call = message["function_call"] if legacy else message["tool_calls"][0]["function"]
    call.update(description=empty, parameters=empty, strict=empty)
    assert parsed(merged) == parsed(row)


@pytest.mark.parametrize("empty", EMPTY)
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("key", ["arguments", "strict", "custom", "title"])
def test_a_definition_loses_what_others_would_hold(empty: Any, legacy: bool, key: str) -> None:
    merged = calling("{}", tools=[{**TOOL, "function": {**TOOL["function"], key: empty}}], legacy=legacy)
    assert parsed(merged) == parsed(calling("{}", legacy=legacy))


def test_an_empty_description_is_one_and_an_empty_list_is_none() -> None:
    def defined(**values: Any) -> Any:
        example = parsed(
            calling("{}", tools=[{"type": "function", "function": {"name": "set_lamp", **values}}])
        ).example
        assert isinstance(example, ChatExample) and example.tools
        return example.tools[0]["function"]

    assert defined(description="", parameters={}) == {"name": "set_lamp", "description": "", "parameters": {}}
    assert defined(description=[], parameters="", strict={}) == {"name": "set_lamp"}


@pytest.mark.parametrize("empty", EMPTY)
def test_a_text_part_loses_the_structures_of_others(empty: Any) -> None:
    row, merged = chat_row(), chat_row()
    row["messages"][0]["content"] = [{"type": "text", "text": "a"}]
    merged["messages"][0]["content"] = [{"type": "text", "text": "a", "image_url": empty, "input_audio": empty}]
    assert parsed(merged) == parsed(row)


def test_a_call_with_a_key_that_says_something_is_still_wrong() -> None:
    row = calling("{}")
    row["messages"][1]["tool_calls"][0]["function"]["description"] = "text"
    assert parsed(row).example is None
