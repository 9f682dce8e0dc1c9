"""LangChain's ChatOpenAI with `use_responses_api`, against the server of OPENAI_BASE_URL."""

import os
from typing import Any, Literal

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

MODEL = os.environ["TUNERY_TEST_MODEL"]


class Answer(BaseModel):
    """The verdict."""

    verdict: Literal["sunny", "rainy"]


@tool
def get_weather(city: Literal["Rome", "Oslo"]) -> str:
    """Tells the weather."""
    return f"Sunny in {city}."


def model(**values: Any) -> ChatOpenAI:
    chosen = {"model": MODEL, "temperature": 0, "max_tokens": 16, "max_retries": 0, **values}
    return ChatOpenAI(use_responses_api=True, **chosen)


def text_whole_and_streamed() -> None:
    asked = [SystemMessage("Be brief."), HumanMessage("Hi")]
    whole = model().invoke(asked)
    assert whole.usage_metadata is not None and whole.usage_metadata["output_tokens"] == 16
    assert whole.response_metadata["status"] == "incomplete"
    pieces = list(model().stream(asked))
    assert "".join(piece.text for piece in pieces) == whole.text
    again = model().invoke([*asked, whole, HumanMessage("More")])
    assert again.usage_metadata is not None
    assert again.usage_metadata["input_tokens"] > whole.usage_metadata["input_tokens"]


def turns_by_previous_response() -> None:
    chained = model(use_previous_response_id=True)
    first = chained.invoke("One")
    second = chained.invoke([HumanMessage("One"), first, HumanMessage("Two")])
    whole = model().invoke([HumanMessage("One"), first, HumanMessage("Two")])
    assert second.text == whole.text


def a_tool() -> None:
    calling = model(max_tokens=1000).bind_tools(
        [get_weather], tool_choice="get_weather", strict=True, parallel_tool_calls=False
    )
    asked = HumanMessage("The weather in Rome?")
    first = calling.invoke([asked])
    assert isinstance(first, AIMessage)
    assert first.response_metadata["status"] == "completed", first
    (call,) = first.tool_calls
    assert call["name"] == "get_weather" and call["args"]["city"] in ("Rome", "Oslo")
    streamed = None
    for piece in calling.stream([asked]):
        streamed = piece if streamed is None else streamed + piece
    assert streamed is not None and streamed.tool_calls[0]["args"] == call["args"]
    result = ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"])
    assert model().invoke([asked, first, result]).text


def a_structured_answer() -> None:
    for method in ("json_schema", "function_calling"):
        given = model(max_tokens=1000).with_structured_output(Answer, method=method).invoke("The weather?")
        assert isinstance(given, Answer)


@tool
def track_parcel(parcel: str) -> str:
    """Tells where a parcel is."""
    return f"{parcel} was sent."


def a_tuned_model_calls_and_answers() -> None:
    calling = model(model=os.environ["TUNERY_TEST_TOOL_MODEL"], max_tokens=100).bind_tools([track_parcel])
    for letter in "QZ":
        asked = [SystemMessage("Say where parcels are."), HumanMessage(f"Where is parcel {letter}?")]
        whole = calling.invoke(asked)
        streamed = None
        for piece in calling.stream(asked):
            streamed = piece if streamed is None else streamed + piece
        for first in (whole, streamed):
            assert isinstance(first, AIMessage)
            (call,) = first.tool_calls
            assert (call["name"], call["args"]) == ("track_parcel", {"parcel": letter})
            result = ToolMessage(track_parcel.invoke(call["args"]), tool_call_id=call["id"])
            assert calling.invoke([*asked, first, result]).text == f"Parcel {letter} was sent."


PARTS = (
    text_whole_and_streamed,
    turns_by_previous_response,
    a_tool,
    a_structured_answer,
    a_tuned_model_calls_and_answers,
)

if __name__ == "__main__":
    for part in PARTS:
        part()
        print("passed", part.__name__, flush=True)  # noqa: T201
