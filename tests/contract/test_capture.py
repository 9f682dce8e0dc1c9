"""`tunery migrate openai capture` through chat completions and through Responses: the same answers."""

from dataclasses import replace

import pytest
from openai import OpenAI
from openai.types.responses import Response, ResponseFunctionToolCall

from tests.api.conftest import BASE
from tunery.migrate import responses
from tunery.migrate.capture import Prompt, capture

TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
ASKED = {"role": "user", "content": "Hi"}
CALLED = [ASKED, {"role": "assistant", "content": None, "tool_calls": [CALL]}]
PROMPTS = {
    "a word": Prompt(1, [ASKED], "Hello"),
    "instructions and parts": Prompt(
        2, [{"role": "system", "content": "Be brief."}, {**ASKED, "content": [{"type": "text", "text": "Hi"}]}]
    ),
    "several turns": Prompt(3, [ASKED, {"role": "assistant", "content": "Hello"}, {**ASKED, "content": "More"}]),
    "a call and what came of it": Prompt(
        4, [*CALLED, {"role": "tool", "tool_call_id": "call_1", "content": "21"}], tools=[TOOL]
    ),
}


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_both_apis_give_the_same_answer(client: OpenAI, prompt: Prompt) -> None:
    (chat,) = capture(client, BASE, [prompt], max_tokens=16)
    (response,) = capture(client, BASE, [prompt], api="responses", max_tokens=16)
    assert chat.error is None and chat.finish_reason == "length"
    assert response.logprobs == pytest.approx(chat.logprobs, abs=1e-4)
    assert replace(response, latency_ms=0, logprobs=[]) == replace(chat, latency_ms=0, logprobs=[])


def test_an_error_is_a_row_through_either(client: OpenAI) -> None:
    said = {api: next(capture(client, "nothing", [PROMPTS["a word"]], api=api)).error for api in ("chat", "responses")}
    assert said["chat"] == said["responses"]
    assert str(said["chat"]).startswith("404: ")


@pytest.mark.parametrize("kind", ["image_url", "input_audio"])
def test_what_is_no_text_is_asked_too_and_refused_here(client: OpenAI, kind: str) -> None:
    """Left out, the old model would be measured by another question."""
    inner = {"url": "data:image/png;base64,AAAA"} if kind == "image_url" else {"data": "AAAA", "format": "wav"}
    asked = [{**ASKED, "content": [{"type": "text", "text": "What is it?"}, {"type": kind, kind: inner}]}]
    (answer,) = capture(client, BASE, [Prompt(1, asked)], api="responses")
    assert answer.answer is None and str(answer.error).startswith("400: ")


def test_calls_are_kept_as_chat_writes_them() -> None:
    call = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "look", "arguments": "{}"}
    output = [ResponseFunctionToolCall.model_validate(call)]
    answer = responses.answer_of(Response.model_construct(output=output, incomplete_details=None, usage=None))
    assert (answer["tool_calls"], answer["finish_reason"], answer["answer"]) == ([CALL], "tool_calls", "")
