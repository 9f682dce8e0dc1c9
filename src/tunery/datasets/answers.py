"""Answers that were kept, through either API, as chats; and a chat with its answer as a line of a training file."""

from dataclasses import dataclass, replace
from typing import Any, Literal

from tunery.datasets.message_rules import KEYS
from tunery.domain.completions import StoredCompletion
from tunery.domain.errors import InvalidRequest
from tunery.domain.json_body import as_list, as_object
from tunery.domain.responses import StoredResponse
from tunery.domain.usage import TokenUsage
from tunery.wire.chat import for_ledger
from tunery.wire.responses.items import answer_of, message_of
from tunery.wire.responses.request import chat_request

Json = dict[str, Any]
Problem = Literal["no_answer", "cut_off", "failed", "cancelled", "under_way", "earlier_gone"]
"""Why an answer teaches nothing."""

OF_A_ROW = ("messages", "tools", "functions", "parallel_tool_calls")
FINISHED: dict[str | None, Problem] = {"length": "cut_off", "content_filter": "cut_off"}
STATUSES: dict[str, Problem] = {
    "incomplete": "cut_off",
    "failed": "failed",
    "cancelled": "cancelled",
    "queued": "under_way",
    "in_progress": "under_way",
}


@dataclass(frozen=True)
class Exchange:
    """What a model was asked and what it answered."""

    request: Json  # of a chat: `messages`, and the tools where there were some
    answer: Json  # the assistant's message; empty where there is none
    status: str  # as a response has it
    usage: TokenUsage | None
    problem: Problem | None
    error: str | None = None  # of one that failed

    @property
    def texts(self) -> list[str]:
        """What was said, a message each, calls of tools included; the answer is the last."""
        return [said(message) for message in (*self.request["messages"], self.answer)]


def said(message: Json) -> str:
    """Its words, and its calls as a program would write them."""
    calls = [as_object(call.get("function")) for call in as_list(message.get("tool_calls"))]
    calls += [as_object(message["function_call"])] if message.get("function_call") else []
    content = message.get("content")
    words = "\n".join(_words(part) for part in as_list(content)) if isinstance(content, list) else content
    lines = [str(words or message.get("refusal") or "")]
    lines += [f"{call.get('name', '')}({call.get('arguments', '')})" for call in calls]
    return "\n".join(filter(None, lines))


def _words(part: Any) -> str:
    known = as_object(part)
    return str(known.get("text") or known.get("refusal") or known.get("type") or "")


def of_completion(stored: StoredCompletion) -> Exchange:
    """Of several answers the first."""
    choices = as_list(stored.response.get("choices"))
    choice = as_object(choices[0]) if choices else {}
    answer = _message(as_object(choice.get("message")))
    problem = FINISHED.get(choice.get("finish_reason")) or _lack(answer)
    usage = stored.response.get("usage")
    request = {name: stored.request[name] for name in OF_A_ROW if stored.request.get(name) not in (None, [])}
    request["messages"] = [_message(as_object(message)) for message in as_list(stored.request.get("messages"))]
    status = "incomplete" if problem == "cut_off" else "completed"
    return Exchange(request, answer, status, for_ledger(usage) if usage else None, problem)


def of_text(stored: StoredCompletion) -> Exchange | None:
    """A text completion as a chat: the prompt is what a user said. None: the prompt is not one text."""
    prompt = stored.request.get("prompt")
    texts = as_list(prompt) if isinstance(prompt, list) else [prompt]
    if len(texts) != 1 or not isinstance(texts[0], str):
        return None
    choices = as_list(stored.response.get("choices"))
    choice = as_object(choices[0]) if choices else {}
    text = str(choice.get("text") or "")
    said = text.removeprefix(texts[0]) if stored.request.get("echo") else text
    request = {"messages": [{"role": "user", "content": texts[0]}]}
    answer = {**choice, "message": {"role": "assistant", "content": said}}
    return of_completion(replace(stored, request=request, response={**stored.response, "choices": [answer]}))


def of_response(stored: StoredResponse, items: list[Json], output: list[Json], *, is_whole: bool = True) -> Exchange:
    """`items`: all that the model was to see, unless `is_whole` says that a part of it is no more."""
    kept = {name: stored.body.get(name) for name in ("instructions", "tools")}
    if stored.body.get("parallel_tool_calls") is False:
        kept["parallel_tool_calls"] = False
    exchange = own_part(stored, items, output)
    try:
        found = chat_request({"model": stored.model, **kept}, items)
    except InvalidRequest:  # the output of a call, or all of it, was taken out of the conversation since
        is_whole, found = False, exchange.request
    problem = exchange.problem if is_whole else "earlier_gone"  # which no correction of the answer mends
    return replace(exchange, request={name: found[name] for name in OF_A_ROW if name in found}, problem=problem)


def own_part(stored: StoredResponse, own: list[Json], output: list[Json]) -> Exchange:
    """Without what came before, which a chain of many responses would be long with: to be looked through."""
    body, answer = stored.body, answer_of(output) if output else {}
    problem = STATUSES.get(stored.status) or _lack(answer)
    usage, error = as_object(body.get("usage")), as_object(body.get("error")).get("message")
    request: Json = {"messages": [message_of(item) for item in own]}
    return Exchange(request, answer, stored.status, _usage(usage), problem, error)


def _lack(answer: Json) -> Problem | None:
    return None if said(answer) else "no_answer"


def _usage(usage: Json) -> TokenUsage | None:
    if not usage:
        return None
    cached = as_object(usage.get("input_tokens_details")).get("cached_tokens") or 0
    return TokenUsage(usage.get("input_tokens") or 0, cached, usage.get("output_tokens") or 0)


def _message(message: Json) -> Json:
    """Without what a training file has no place for: annotations, and other keys that clients echo."""
    known = KEYS.get(message.get("role", ""), set(message))
    return {key: value for key, value in message.items() if key in known and (value is not None or key == "content")}


def training_row(request: Json, answer: Json) -> Json:
    """Teaches the answer alone: earlier ones have rows of their own, or were not chosen."""
    messages = [
        {**message, "weight": 0} if message.get("role") == "assistant" else message for message in request["messages"]
    ]
    return {**request, "messages": [*messages, answer]}
