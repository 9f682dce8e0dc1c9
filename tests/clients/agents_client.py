"""The OpenAI Agents SDK as it comes, against the server of OPENAI_BASE_URL: it asks for responses by default.

The model behind it is small and random, so what it must say is chosen by schemas and `tool_choice`, and what is tested
is that the SDK and the server understand each other.
"""

import asyncio
import os
from dataclasses import dataclass
from typing import Any, Literal

from agents import (
    Agent,
    ModelSettings,
    OpenAIConversationsSession,
    RunContextWrapper,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from pydantic import BaseModel

MODEL = os.environ["TUNERY_TEST_MODEL"]
MUST_CALL = ModelSettings(temperature=0, tool_choice="required", parallel_tool_calls=False)


@dataclass
class State:
    asked: int = 0


class Answer(BaseModel):
    verdict: Literal["sunny", "rainy"]


def not_asked(context: RunContextWrapper[State], _: object) -> bool:
    return context.context.asked == 0


@function_tool(is_enabled=not_asked)
def get_weather(context: RunContextWrapper[State], city: Literal["Rome", "Oslo"]) -> str:
    """Tells the weather."""
    context.context.asked += 1
    return f"Sunny in {city}."


weather = Agent[State](
    name="Weather", instructions="Look it up.", model=MODEL, tools=[get_weather], output_type=Answer,
    model_settings=MUST_CALL,
)  # fmt: skip
triage = Agent[State](
    name="Triage", instructions="Hand over.", model=MODEL, handoffs=[weather], model_settings=MUST_CALL
)
plain = Agent[State](name="Plain", model=MODEL, output_type=Answer, model_settings=ModelSettings(temperature=0))


async def a_tool_and_a_handover() -> None:
    state = State()
    result = await Runner.run(triage, "The weather in Rome?", context=state)
    assert state.asked == 1
    assert result.last_agent.name == "Weather"
    assert isinstance(result.final_output, Answer)
    assert result.context_wrapper.usage.requests == 3
    assert result.context_wrapper.usage.output_tokens > 0


async def the_same_streamed() -> None:
    state = State()
    result = Runner.run_streamed(triage, "The weather in Rome?", context=state)
    kinds = [event.type async for event in result.stream_events()]
    assert state.asked == 1
    assert "raw_response_event" in kinds and "agent_updated_stream_event" in kinds
    assert isinstance(result.final_output, Answer)


async def turns_by_previous_response() -> None:
    first = await Runner.run(plain, "One", context=State())
    assert first.last_response_id is not None
    second = await Runner.run(plain, "Two", context=State(), previous_response_id=first.last_response_id)
    alone = await Runner.run(plain, "Two", context=State())
    assert second.context_wrapper.usage.input_tokens > alone.context_wrapper.usage.input_tokens


async def turns_by_items() -> None:
    first = await Runner.run(weather, "One", context=State())
    again = [*first.to_input_list(), {"role": "user", "content": "Two"}]
    second = await Runner.run(plain, again, context=State())
    assert isinstance(second.final_output, Answer)


async def a_session_in_a_conversation() -> None:
    session = OpenAIConversationsSession()
    await Runner.run(weather, "One", context=State(), session=session)
    await Runner.run(plain, "Two", context=State(), session=session)
    kinds = [item.get("type") for item in await session.get_items()]
    assert kinds == ["message", "function_call", "function_call_output", "message", "message", "message"], kinds
    popped = await session.pop_item()
    assert popped is not None and len(await session.get_items()) == 5
    await session.clear_session()


@function_tool
def track_parcel(parcel: str) -> str:
    """Tells where a parcel is."""
    return f"{parcel} was sent."


CALLER: dict[str, Any] = {
    "model": os.environ["TUNERY_TEST_TOOL_MODEL"],
    "instructions": "Say where parcels are.",
    "model_settings": ModelSettings(temperature=0),
}
parcels = Agent[None](name="Parcels", tools=[track_parcel], **CALLER)
desk = Agent[None](name="Desk", handoffs=[parcels], **CALLER)


async def a_tuned_model_hands_over_and_calls() -> None:
    for letter in "QZ":
        question = f"Where is parcel {letter}?"
        streamed = Runner.run_streamed(desk, question)
        async for _ in streamed.stream_events():
            pass
        for result in (await Runner.run(desk, question), streamed):
            assert result.last_agent is parcels
            assert result.final_output == f"Parcel {letter} was sent.", result.final_output


async def main() -> None:
    set_tracing_disabled(True)
    for part in (
        a_tool_and_a_handover,
        the_same_streamed,
        turns_by_previous_response,
        turns_by_items,
        a_session_in_a_conversation,
        a_tuned_model_hands_over_and_calls,
    ):
        await part()
        print("passed", part.__name__, flush=True)  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main())
