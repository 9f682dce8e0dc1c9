"""A question to the Responses API in place of chat completions, for an account or a program that speaks that: the same
messages as input items, and the answer as a completion would hold it."""

from collections.abc import Iterator
from typing import Any

from openai import OpenAI
from openai.types.responses import Response

from tunery.migrate.source import Json

LEAST_TOKENS = 16  # OpenAI takes no smaller limit here
LOGPROBS = "message.output_text.logprobs"


def create(client: OpenAI, model: str, messages: list[Json], tools: list[Json] | None, *, max_tokens: int) -> Response:
    """Greedy, with log-probabilities, and kept nowhere. Raises OpenAIError."""
    request: dict[str, Any] = {
        "model": model,
        "input": [item for message in messages for item in _items(message)],
        "temperature": 0,
        "max_output_tokens": max(max_tokens, LEAST_TOKENS),
        "include": [LOGPROBS],
        "store": False,
    }
    if tools:
        request["tools"] = [{"type": "function", "strict": False, **tool["function"]} for tool in tools]
    return client.responses.create(**request)


def _items(message: Json) -> Iterator[Json]:
    if message["role"] == "tool":
        output = _content(message.get("content") or "", "tool")
        yield {"type": "function_call_output", "call_id": message["tool_call_id"], "output": output}
        return
    if content := message.get("content"):
        yield {"role": message["role"], "content": _content(content, message["role"])}
    for call in message.get("tool_calls") or ():
        yield {"type": "function_call", "call_id": call["id"], **call["function"]}


def _content(content: str | list[Json], role: str) -> str | list[Json]:
    """Parts under this API's names. What it has no name for goes as it is: the server then says so."""
    if isinstance(content, str):
        return content
    text = "output_text" if role == "assistant" else "input_text"
    parts: list[Json] = []
    for part in content:
        if part.get("type") == "text":
            parts.append({"type": text, "text": part["text"]})
        elif part.get("type") == "image_url":
            image = part["image_url"]
            parts.append({"type": "input_image", "image_url": image["url"], "detail": image.get("detail", "auto")})
        else:
            parts.append(part)
    return parts


def answer_of(response: Response) -> Json:
    """What `capture` keeps of an answer."""
    parts = [part for item in response.output if item.type == "message" for part in item.content]
    calls = [item for item in response.output if item.type == "function_call"]
    is_cut = response.incomplete_details is not None and response.incomplete_details.reason == "max_output_tokens"
    usage = response.usage
    return {
        "answer": response.output_text,
        "tool_calls": [
            {"id": call.call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in calls
        ],
        "logprobs": [token.logprob for part in parts if part.type == "output_text" for token in part.logprobs or ()],
        "usage": {"prompt_tokens": usage.input_tokens, "completion_tokens": usage.output_tokens} if usage else {},
        "finish_reason": "length" if is_cut else "tool_calls" if calls else "stop",
    }
