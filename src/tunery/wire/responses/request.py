"""A request for a response as the chat request that asks for the same, and the error of one in the words of the other.

What a parameter is called here and how it is nested is all that differs: what a value may be, the engine decides for
both.
"""

import re
from typing import Any

from tunery.domain.errors import InvalidRequest
from tunery.domain.json_body import as_list, as_object
from tunery.texts import say
from tunery.wire.chat import CHAT, COMMON, HONOURED, Parameter
from tunery.wire.responses.items import messages_of

Json = dict[str, Any]

RESPONSES: dict[str, Parameter] = {
    "model": COMMON["model"],
    "input": Parameter("honoured", "text, or items; images, files, audio and hosted tools' items are refused"),
    "instructions": Parameter("honoured", "a system message; not passed on by `previous_response_id`"),
    "previous_response_id": Parameter("honoured", "of a response of the project that was stored"),
    "conversation": Parameter("honoured", "one response at a time; another one meanwhile is a 409"),
    "store": Parameter("honoured", "on unless false; kept for `stored_response_days`"),
    "metadata": Parameter("honoured", "kept with the response"),
    "temperature": HONOURED,
    "top_p": HONOURED,
    "top_logprobs": Parameter("honoured", 'with `include: ["message.output_text.logprobs"]`'),
    "max_output_tokens": Parameter("honoured", "at least 16; cut to what the prompt leaves of the context"),
    "text": Parameter("honoured", "`format`: `text`, `json_object`, `json_schema`; `verbosity`: `medium` only"),
    "tools": Parameter("honoured", "functions; hosted and custom tools are refused"),
    "tool_choice": CHAT["tool_choice"],
    "parallel_tool_calls": HONOURED,
    "truncation": Parameter("honoured", "`auto` leaves out the oldest items when the prompt is too long"),
    "include": Parameter("honoured", "`message.output_text.logprobs`; nothing here has the others to include"),
    "stream": HONOURED,
    "stream_options": Parameter("ignored", "events have no padding that could be left out"),
    "background": Parameter("honoured", "needs `store`; a response whose server is restarted ends as failed"),
    "reasoning": Parameter("honoured", "`effort`: `none` only; there is no summary"),
    "access_programs": Parameter("ignored", "there are none"),
    "background_options": Parameter("ignored", "background responses begin at once"),
    "context_management": Parameter("ignored", "nothing is compacted; see `truncation`"),
    "image": Parameter("ignored", "there are no images"),
    "max_tool_calls": Parameter("ignored", "it counts calls of hosted tools, and there are none"),
    "moderation": CHAT["moderation"],
    "prompt": Parameter("refused", "templates of prompts are kept by OpenAI; send their text"),
    "prompt_cache_key": CHAT["prompt_cache_key"],
    "prompt_cache_options": CHAT["prompt_cache_options"],
    "prompt_cache_retention": CHAT["prompt_cache_retention"],
    "safety_identifier": CHAT["safety_identifier"],
    "service_tier": CHAT["service_tier"],
    "user": COMMON["user"],
}

INPUT_TOKENS: dict[str, Parameter] = {
    **{
        name: RESPONSES[name]
        for name in (
            "model",
            "input",
            "instructions",
            "previous_response_id",
            "conversation",
            "text",
            "tools",
            "tool_choice",
            "parallel_tool_calls",
            "reasoning",
        )
    },
    "truncation": Parameter("ignored", "what is counted is the whole prompt"),
    "personality": Parameter("ignored", "the base models here know one"),
}

MODES = ("none", "auto", "required")
LOGPROBS = "message.output_text.logprobs"
INCLUDABLE = (
    LOGPROBS,
    # what OpenAI knows: nothing here has them to include
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "reasoning.encrypted_content",
    "web_search_call.action.sources",
    "web_search_call.results",
)
# Keys of a function tool that are hints, or belong to what is refused elsewhere.
FUNCTION_KEYS = ("type", "name", "description", "parameters", "strict")
FUNCTION_HINTS = ("allowed_callers", "async", "defer_loading", "output_schema")


def chat_request(sent: Json, items: list[Json]) -> Json:
    """`items`: all that the model is to see but the instructions. Raises InvalidRequest."""
    body: Json = {"model": sent["model"], "messages": _messages(sent, items)}
    for name in ("temperature", "top_p"):
        if sent.get(name) is not None:
            body[name] = sent[name]
    if sent.get("max_output_tokens") is not None:
        body["max_completion_tokens"] = sent["max_output_tokens"]
    tools = [_tool(tool, f"tools[{index}]") for index, tool in enumerate(sent.get("tools") or ())]
    choice = _choice(sent.get("tool_choice"), {tool["function"]["name"] for tool in tools})
    if tools:
        body["tools"] = tools
        if sent.get("parallel_tool_calls") is not None:
            body["parallel_tool_calls"] = sent["parallel_tool_calls"]
        if choice is not None:
            body["tool_choice"] = choice
    wanted = response_format(as_object(sent.get("text")).get("format"))
    if wanted is not None:
        body["response_format"] = wanted
    if LOGPROBS in (sent.get("include") or ()):
        body |= {"logprobs": True, "top_logprobs": sent.get("top_logprobs") or 0}
    return body


def streamed(body: Json) -> Json:
    """The same chat request, its answer as chunks: the last one has the usage, which a response always tells."""
    return {**body, "stream": True, "stream_options": {"include_usage": True}}


def _messages(sent: Json, items: list[Json]) -> list[Json]:
    instructions = sent.get("instructions")
    messages = [{"role": "system", "content": instructions}] if instructions else []
    messages += messages_of(items)
    if not messages:
        raise InvalidRequest(
            say("error.missing_parameter", param="input"), param="input", code="missing_required_parameter"
        )
    return messages


def _tool(tool: Any, path: str) -> Json:
    tool = as_object(tool)
    kind = tool.get("type")
    if kind != "function":
        raise InvalidRequest(
            say("error.tool_not_supported", type=str(kind)[:100]), param=f"{path}.type", code="unsupported_parameter"
        )
    for name in tool:
        if name not in FUNCTION_KEYS + FUNCTION_HINTS:
            param = f"{path}.{name[:100]}"
            raise InvalidRequest(say("error.unknown_parameter", param=param), param=param, code="unknown_parameter")
    if not isinstance(tool.get("name"), str):
        param = f"{path}.name"
        raise InvalidRequest(
            say("error.missing_parameter", param=param), param=param, code="missing_required_parameter"
        )
    function = {name: tool[name] for name in FUNCTION_KEYS[1:] if tool.get(name) is not None}
    return {"type": "function", "function": function}


def _choice(choice: Any, names: set[str]) -> Any:
    """As chat has it. Without tools `auto` and `none` say nothing, and are taken."""
    if choice is None or isinstance(choice, str):
        if choice is not None and choice not in MODES:
            raise _invalid(str(choice), MODES, "tool_choice")
        if choice == "required" and not names:
            raise InvalidRequest(say("error.choice_without_tools", choice=choice), param="tool_choice")
        return choice
    kind = choice.get("type")
    if kind == "function":
        return _named(choice, names, "tool_choice")
    if kind == "allowed_tools":
        mode, listed = choice.get("mode", "auto"), choice.get("tools")
        if mode not in MODES[1:]:
            raise _invalid(str(mode), MODES[1:], "tool_choice.mode")
        if not isinstance(listed, list) or not listed:
            param = "tool_choice.tools"
            raise InvalidRequest(
                say("error.missing_parameter", param=param), param=param, code="missing_required_parameter"
            )
        tools = [_named(tool, names, f"tool_choice.tools[{index}]") for index, tool in enumerate(as_list(listed))]
        return {"type": kind, "allowed_tools": {"mode": mode, "tools": tools}}
    raise InvalidRequest(
        say("error.tool_not_supported", type=str(kind)[:100]), param="tool_choice.type", code="unsupported_parameter"
    )


def _named(choice: Any, names: set[str], path: str) -> Json:
    choice = as_object(choice)
    name = choice.get("name")
    if not isinstance(name, str) or choice.get("type") != "function" or name not in names:
        raise InvalidRequest(say("error.no_such_tool", name=str(name)[:100]), param=path)
    return {"type": "function", "function": {"name": name}}


def response_format(wanted: Json | None) -> Json | None:
    """`text.format` as chat has it; None for plain text. Raises InvalidRequest."""
    kind = "text" if wanted is None else wanted.get("type")
    if wanted is None or kind == "text":
        return None
    if kind == "json_object":
        return {"type": kind}
    if kind != "json_schema":
        raise _invalid(str(kind), ("text", "json_object", "json_schema"), "text.format.type")
    for name in ("name", "schema"):
        if wanted.get(name) is None:
            param = f"text.format.{name}"
            raise InvalidRequest(
                say("error.missing_parameter", param=param), param=param, code="missing_required_parameter"
            )
    keys = ("name", "description", "schema", "strict")
    return {"type": kind, kind: {name: wanted[name] for name in keys if wanted.get(name) is not None}}


def check_include(include: list[str] | None) -> None:
    """Raises InvalidRequest for what OpenAI does not know either."""
    for index, name in enumerate(include or ()):
        if name not in INCLUDABLE:
            raise _invalid(name, INCLUDABLE, f"include[{index}]")


def _invalid(text: str, supported: tuple[str, ...], param: str) -> InvalidRequest:
    return InvalidRequest(
        say("error.invalid_value", text=text[:100], supported=", ".join(map(repr, supported))),
        param=param,
        code="invalid_value",
    )


def own_param(param: str | None) -> str | None:
    """What the parameter of chat that an error names is called here."""
    if param is None:
        return None
    if param == "response_format":  # what chat says of a schema
        return "text.format.schema"
    if param.startswith("response_format."):
        return "text.format" + param.removeprefix("response_format").removeprefix(".json_schema")
    if param.startswith("messages"):
        return "input"
    if param in ("max_tokens", "max_completion_tokens"):
        return "max_output_tokens"
    place = re.fullmatch(r"(tools\[\d+\])\.function(.*)", param)
    return f"{place[1]}{place[2]}" if place else param
