"""A second opinion about shapes: what this server answers, read by the types of the Open Responses specification."""

import json
import os
from typing import Any

import httpx
import openresponses_types as shapes

MODEL = os.environ["TUNERY_TEST_MODEL"]
URL = os.environ["OPENAI_BASE_URL"] + "/responses"
HEADERS = {"authorization": f"Bearer {os.environ['OPENAI_API_KEY']}"}
TOOL = {
    "type": "function",
    "name": "get_weather",
    "description": "Tells the weather.",
    "parameters": {"type": "object", "properties": {}, "required": [], "additionalProperties": False},
    "strict": True,
}
ASKED: list[dict[str, Any]] = [
    {"input": "Hi", "metadata": {"a": "b"}, "instructions": "Be brief."},
    {"input": "Hi", "tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False},
    {"input": "Hi", "top_logprobs": 2, "include": ["message.output_text.logprobs"]},
    {"input": "Hi", "text": {"format": {"type": "json_object"}}},
]


def event_types() -> dict[str, Any]:
    """By the `type` that each is for."""
    found = {}
    for name in dir(shapes):
        if name.endswith("StreamingEvent"):
            kind = getattr(shapes, name)
            (value,) = kind.model_fields["type"].annotation  # an enum of one member
            found[value.value] = kind
    return found


def main() -> None:
    known, seen = event_types(), set()
    for asked in ASKED:
        body = {"model": MODEL, "temperature": 0, "max_output_tokens": 32, **asked}
        answer = httpx.post(URL, json=body, headers=HEADERS, timeout=60)
        answer.raise_for_status()
        shapes.ResponseResource.model_validate(answer.json())
        with httpx.stream("POST", URL, json={**body, "stream": True}, headers=HEADERS, timeout=60) as stream:
            for line in stream.iter_lines():
                if line.startswith("data: "):
                    event = json.loads(line.removeprefix("data: "))
                    known[event["type"]].model_validate(event)
                    seen.add(event["type"])
    assert {"response.created", "response.output_text.delta", "response.function_call_arguments.done"} <= seen
    print("passed", len(seen), "kinds of events", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
