"""Responses and conversations through the official SDK, with strict validation of what this server answers."""

import json
import time
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from openai import OpenAI
from openai.types.responses import Response, ResponseFunctionToolCall
from pydantic import BaseModel

from tests.api.conftest import BASE
from tests.contract.conftest import Live
from tests.contract.tool_model import INSTRUCTIONS, LETTERS

TOOL: dict[str, Any] = {
    "type": "function",
    "name": "get_weather",
    "description": "Tells the weather.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Rome", "Oslo"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}
ONE_CALL: dict[str, Any] = {"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False}
GREEDY: dict[str, Any] = {"model": BASE, "temperature": 0, "max_output_tokens": 16}


class City(BaseModel):
    name: Literal["Rome", "Oslo"]


def test_a_whole_response_is_kept_and_can_be_deleted(client: OpenAI) -> None:
    made = client.responses.create(**GREEDY, input="Say something.", metadata={"test": "whole"})
    assert (made.status, made.model, made.metadata) == ("incomplete", BASE, {"test": "whole"})
    assert made.incomplete_details is not None
    assert made.incomplete_details.reason == "max_output_tokens"
    assert made.usage is not None
    assert (made.usage.output_tokens, made.usage.input_tokens_details.cache_write_tokens) == (16, 0)
    assert client.responses.retrieve(made.id) == made
    listed = list(client.responses.input_items.list(made.id))
    assert [item.content[0].text for item in listed] == ["Say something."]  # pyright: ignore
    client.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError, match="not found"):
        client.responses.retrieve(made.id)


def test_a_stream_says_the_same_as_the_whole(client: OpenAI) -> None:
    whole = client.responses.create(**GREEDY, input="Say something.")
    events = list(client.responses.create(**GREEDY, input="Say something.", stream=True))
    assert [event.type for event in events[:4]] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == whole.output_text
    last = events[-1]
    assert last.type == "response.incomplete"
    assert last.response.output_text == whole.output_text
    assert last.response.usage is not None
    assert last.response.usage.output_tokens == 16
    assert client.responses.retrieve(last.response.id) == last.response


def test_the_streaming_helper_follows_text_and_calls(client: OpenAI) -> None:
    with client.responses.stream(model=BASE, input="The weather in Rome?", temperature=0, **ONE_CALL) as stream:
        for _ in stream:
            pass
        final = stream.get_final_response()
    call = final.output[0]
    assert isinstance(call, ResponseFunctionToolCall)
    assert (call.name, call.status) == ("get_weather", "completed")
    assert json.loads(call.arguments)["city"] in ("Rome", "Oslo")


def test_structured_output_is_parsed(client: OpenAI) -> None:
    parsed = client.responses.parse(
        model=BASE, input="A city.", text_format=City, temperature=0.5, max_output_tokens=400,
        instructions="Answer in JSON.",
    )  # fmt: skip
    assert parsed.text is not None
    assert parsed.text.format is not None
    assert parsed.text.format.type == "json_schema"
    assert parsed.status == "completed" and isinstance(parsed.output_parsed, City)


def calls_of(response: Response) -> list[ResponseFunctionToolCall]:
    return [item for item in response.output if isinstance(item, ResponseFunctionToolCall)]


@pytest.mark.parametrize("way", ["echoed", "previous", "conversation", "references"])
def test_a_call_and_its_result_in_a_second_turn(client: OpenAI, way: str) -> None:
    """Whatever way a client keeps the first turn, the second has the same tokens."""
    question = {"type": "message", "role": "user", "content": "The weather in Rome?"}
    asked: dict[str, Any] = {"model": BASE, "temperature": 0}
    conversation = client.conversations.create().id if way == "conversation" else None
    first = client.responses.create(**asked, **ONE_CALL, input=[question], conversation=conversation)
    (call,) = calls_of(first)
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny."}
    more: dict[str, Any] = {"input": [result]}
    if way == "previous":
        more["previous_response_id"] = first.id
    elif way == "conversation":
        more["conversation"] = conversation
    elif way == "echoed":
        more["input"] = [question, *first.output, result]
    else:
        more["input"] = [question, {"type": "item_reference", "id": call.id}, result]
    second = client.responses.create(**asked, tools=[TOOL], tool_choice="none", max_output_tokens=16, **more)
    chat = client.chat.completions.create(
        model=BASE,
        temperature=0,
        max_completion_tokens=16,
        tools=[{"type": "function", "function": {key: value for key, value in TOOL.items() if key != "type"}}],
        tool_choice="none",
        messages=[
            {"role": "user", "content": "The weather in Rome?"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": call.call_id,
                        "type": "function",
                        "function": {"name": call.name, "arguments": call.arguments},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": call.call_id, "content": "Sunny."},
        ],
    )  # pyright: ignore
    assert second.output_text == chat.choices[0].message.content
    assert second.usage is not None and chat.usage is not None
    assert second.usage.input_tokens == chat.usage.prompt_tokens
    assert second.usage.output_tokens == chat.usage.completion_tokens
    if conversation is not None:
        kinds = [item.type for item in client.conversations.items.list(conversation, order="asc")]
        assert kinds == ["message", "function_call", "function_call_output", "message"]


def test_conversations_and_their_items(client: OpenAI) -> None:
    made = client.conversations.create(
        items=[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}],
        metadata={"topic": "demo"},
    )
    assert client.conversations.retrieve(made.id).metadata == {"topic": "demo"}
    assert client.conversations.update(made.id, metadata={"topic": "other"}).metadata == {"topic": "other"}
    added = client.conversations.items.create(made.id, items=[{"role": "user", "content": "More"}]).data[0]
    newest_first = [item.id for item in client.conversations.items.list(made.id, limit=1)]
    assert (len(newest_first), newest_first[0]) == (3, added.id)
    assert client.conversations.items.retrieve(added.id, conversation_id=made.id) == added  # pyright: ignore
    assert client.conversations.items.delete(added.id, conversation_id=made.id).id == made.id  # pyright: ignore
    assert len(list(client.conversations.items.list(made.id))) == 2
    assert client.conversations.delete(made.id).deleted is True
    with pytest.raises(openai.NotFoundError, match="Conversation with id"):
        client.conversations.retrieve(made.id)


def test_tokens_are_counted_before_they_are_asked_for(client: OpenAI) -> None:
    asked: dict[str, Any] = {"model": BASE, "input": "Count me.", "instructions": "Be short.", "tools": [TOOL]}
    counted = client.responses.input_tokens.count(**asked).input_tokens
    made = client.responses.create(**asked, max_output_tokens=16)
    assert made.usage is not None
    assert counted == made.usage.input_tokens > 0


def test_logprobs_are_included_when_they_are_asked_for(client: OpenAI) -> None:
    asked: dict[str, Any] = {**GREEDY, "input": "Hi", "top_logprobs": 2}
    made = client.responses.create(**asked, include=["message.output_text.logprobs"])
    logprobs = made.output[0].content[0].logprobs  # pyright: ignore
    assert len(logprobs) == 16
    assert len(logprobs[0].top_logprobs) == 2
    events = client.responses.create(**asked, include=["message.output_text.logprobs"], stream=True)
    told = [entry for event in events if event.type == "response.output_text.delta" for entry in event.logprobs]
    assert [entry.token for entry in told] == [entry.token for entry in logprobs]
    assert client.responses.create(**asked).output[0].content[0].logprobs == []  # pyright: ignore


def ended(client: OpenAI, response_id: str) -> Response:
    deadline = time.monotonic() + 60
    while (found := client.responses.retrieve(response_id)).status in ("queued", "in_progress"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def test_background_responses_are_polled_and_followed(client: OpenAI) -> None:
    begun = client.responses.create(**GREEDY, input="Take your time.", background=True)
    assert begun.status == "queued"
    made = ended(client, begun.id)
    assert (made.status, made.background) == ("incomplete", True)
    events = list(client.responses.retrieve(begun.id, stream=True))
    assert [event.type for event in events[:3]] == ["response.created", "response.queued", "response.in_progress"]
    assert events[-1].response == made  # pyright: ignore
    later = list(client.responses.retrieve(begun.id, stream=True, starting_after=4))
    assert later == events[5:]
    assert client.responses.cancel(begun.id) == made


def test_a_background_stream_is_followed_from_where_it_was_left(client: OpenAI) -> None:
    asked: dict[str, Any] = {**GREEDY, "max_output_tokens": 64, "input": "Say something."}
    stream = client.responses.create(**asked, background=True, stream=True)
    seen = [event for event, _ in zip(stream, range(4), strict=False)]
    stream.close()
    response_id = seen[0].response.id  # pyright: ignore
    rest = list(client.responses.retrieve(response_id, stream=True, starting_after=3))
    assert [event.sequence_number for event in seen + rest] == list(range(4 + len(rest)))
    assert rest[-1].type == "response.incomplete"


@pytest.fixture
def long_one(client: OpenAI) -> Iterator[str]:
    yield client.responses.create(model=BASE, input="Go on.", background=True, max_output_tokens=1500, temperature=1).id


def test_a_background_response_is_cancelled(client: OpenAI, long_one: str, live: Live) -> None:
    assert client.responses.cancel(long_one).status == "cancelled"
    assert client.responses.cancel(long_one).status == "cancelled"
    assert client.responses.retrieve(long_one).status == "cancelled"
    whole = client.responses.create(**GREEDY, input="Hi")
    with pytest.raises(openai.BadRequestError, match="Cannot cancel a synchronous response"):
        client.responses.cancel(whole.id)


PARCEL: dict[str, Any] = {
    "type": "object",
    "properties": {"parcel": {"type": "string"}},
    "required": ["parcel"],
    "additionalProperties": False,
}
TRACK: dict[str, Any] = {"name": "track_parcel", "description": "Tells where a parcel is.", "parameters": PARCEL}


@pytest.mark.parametrize("letter", LETTERS)
def test_a_tuned_model_calls_with_the_right_arguments_and_answers(client: OpenAI, tool_model: str, letter: str) -> None:
    """Streamed and whole, as responses and as chats."""
    asked: dict[str, Any] = {"model": tool_model, "temperature": 0, "tools": [{"type": "function", **TRACK}]}
    question = {"role": "user", "content": f"Where is parcel {letter}?"}

    def ask(*items: Any) -> list[Response]:
        given: dict[str, Any] = {**asked, "instructions": INSTRUCTIONS, "input": [question, *items]}
        with client.responses.stream(**given) as stream:
            for _ in stream:
                pass
            return [client.responses.create(**given), stream.get_final_response()]

    for first in ask():
        (call,) = calls_of(first)
        assert (call.name, json.loads(call.arguments)) == ("track_parcel", {"parcel": letter})
        result = {"type": "function_call_output", "call_id": call.call_id, "output": f"{letter} was sent."}
        assert [second.output_text for second in ask(*first.output, result)] == [f"Parcel {letter} was sent."] * 2

    messages: list[Any] = [{"role": "system", "content": INSTRUCTIONS}, question]
    as_chat: dict[str, Any] = {**asked, "tools": [{"type": "function", "function": TRACK}]}
    said = client.chat.completions.create(**as_chat, messages=messages).choices[0].message
    assert said.tool_calls is not None
    result = {"role": "tool", "tool_call_id": said.tool_calls[0].id, "content": f"{letter} was sent."}
    answered = client.chat.completions.create(**as_chat, messages=[*messages, said, result])
    assert answered.choices[0].message.content == f"Parcel {letter} was sent."
