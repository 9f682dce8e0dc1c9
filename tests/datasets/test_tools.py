"""What training writes as a call, serving reads back."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.datasets.test_render import WEATHER, call, say
from tunery.chat.examples import ChatExample
from tunery.chat.render import Renderer
from tunery.chat.template import ChatTemplate
from tunery.chat.tools import ToolCall, parse_calls, parse_cut_call, with_tools, write_call

objects = st.dictionaries(
    st.text(max_size=5), st.none() | st.booleans() | st.integers() | st.text(max_size=9), max_size=4
)


@given(content=st.text(st.characters(exclude_characters="<"), max_size=30), arguments=st.lists(objects, max_size=3))
def test_calls_are_read_back_as_they_were_written(content: str, arguments: list[dict[str, Any]]) -> None:
    texts = [json.dumps(value) for value in arguments]
    message = {**say("assistant", content), "tool_calls": [call(f"f{i}", text) for i, text in enumerate(texts)]}
    (written,) = with_tools([message], None)
    found, calls = parse_calls(written["content"])
    assert found == (content.rstrip() if calls else content)
    assert [parsed.name for parsed in calls] == [f"f{i}" for i in range(len(texts))]
    assert [json.loads(parsed.arguments) for parsed in calls] == arguments


@pytest.mark.parametrize(
    "text",
    [
        "no call at all",
        "I would write <tool_call> here",
        '<tool_call>\n{"name": 5}\n</tool_call>',
        '<tool_call>\n["f"]\n</tool_call>',
        "<tool_call>\n{broken\n</tool_call>",
    ],
)
def test_text_that_is_no_call_stays_text(text: str) -> None:
    assert parse_calls(text) == (text, [])


def test_a_call_that_was_cut_behind_its_object_is_still_read() -> None:
    assert parse_calls('Well. <tool_call>\n{"name": "f", "arguments": {"x": 1}}')[1][0].arguments == '{"x": 1}'


def test_arguments_that_are_no_json_are_not_lost() -> None:
    _, calls = parse_calls(write_call("f", "x = 1"))
    assert calls[0].arguments == "x = 1"


def test_definitions_follow_the_instructions() -> None:
    messages = [say("system", "Be kind."), say("user", "Hi")]
    system = with_tools(messages, [WEATHER])[0]["content"]
    assert system.startswith("Be kind.\n\n# Tools\n")
    assert json.dumps(WEATHER) in system
    assert with_tools(messages[1:], [WEATHER])[0]["content"].startswith("# Tools\n")
    assert with_tools(messages, None) == messages


def test_results_of_one_turn_stand_together() -> None:
    results = [say("tool", "1", tool_call_id="a"), say("tool", "2", tool_call_id="b")]
    (written,) = with_tools(results, None)
    assert written["role"] == "user"
    assert written["content"].count("<tool_response>") == 2


CUT_CALLS = [
    ("", ["a"], ("a", "")),
    ("\n{", ["a"], ("a", "")),
    ('\n{"name": "get_w', ["get_weather", "get_time"], ("get_weather", "")),
    ('\n{"name": "get_weather"', ["get_weather"], ("get_weather", "")),
    ('\n{"name": "get_weather", "argum', ["get_weather"], ("get_weather", "")),
    ('\n{"name": "get_weather", "arguments": {"city": "Ro', ["get_weather"], ("get_weather", '{"city": "Ro')),
    ('{ "name":"get_weather","arguments":{"city":"Rome"}', ["get_weather"], ("get_weather", '{"city":"Rome"}')),
    ('\n{"name": "f", "arguments": {"a": 1}}\n</tool_', ["f"], ("f", '{"a": 1}')),
]


@pytest.mark.parametrize(("body", "names", "call"), CUT_CALLS)
def test_a_call_that_breaks_off_has_its_name_and_the_arguments_so_far(
    body: str, names: list[str], call: tuple[str, str]
) -> None:
    found = parse_cut_call(body, names)
    assert found is not None and (found.name, found.arguments) == call


@pytest.mark.parametrize("body", ["", "\n{", '\n{"name": "', '\n{"name": "get_'])
def test_a_call_whose_name_is_not_clear_has_the_first_that_it_may_become(body: str) -> None:
    assert parse_cut_call(body, ["get_weather", "get_time"]) == ToolCall("get_weather", "")


@pytest.mark.parametrize("begun", ["s", "get_weathers", "GET"])
def test_a_call_that_can_become_none_of_the_functions_is_none(begun: str) -> None:
    assert parse_cut_call('\n{"name": "' + begun, ["get_weather", "get_time"]) is None


HERMES = (
    "{% if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}{% endfor %}<|im_end|>\n"
    "{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls %}"
    "<tool_call>{{ c.function.name }}:{{ c.function.arguments.city }}</tool_call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_a_template_that_knows_tools_writes_them_itself(renderer: Renderer) -> None:
    native = Renderer(
        renderer.tokenizer,
        ChatTemplate(HERMES, {}),
        special_tokens=renderer.special_tokens,
        eos_ids=renderer.eos_ids,
    )
    messages = [
        say("user", "Weather?"),
        {"role": "assistant", "tool_calls": [call("get_weather", '{"city": "Rome"}')]},
        say("tool", "sunny", tool_call_id="call_1"),
        say("assistant", "Sunny."),
    ]
    layout = native.layout(ChatExample(1, messages, tools=[WEATHER]))
    assert "# Tools" not in layout.text
    trained = [layout.text[span.start : span.end] for span in layout.spans]
    assert trained == ["<tool_call>get_weather:Rome</tool_call><|im_end|>", "Sunny.<|im_end|>"]
