"""Chat completions, and legacy ones, on the wire: what becomes of each parameter, `functions`, which came before
`tools`, usage, and the chunks of a stream as one answer.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tunery.domain.errors import InvalidRequest
from tunery.domain.json_body import as_list, as_object
from tunery.domain.usage import TokenUsage
from tunery.texts import say

MAX_MESSAGES = 2048  # of a chat, as at OpenAI: they are all rendered before their tokens can be counted

Json = dict[str, Any]

# ---- parameters: docs/api.md prints these tables; a request is checked against one

State = Literal["honoured", "refused", "ignored"]


@dataclass(frozen=True)
class Parameter:
    state: State
    note: str = ""


HONOURED = Parameter("honoured")

COMMON: dict[str, Parameter] = {
    "model": Parameter("honoured", "a base model, an `ft:` name, a checkpoint's name or an alias"),
    "frequency_penalty": HONOURED,
    "logit_bias": HONOURED,
    "max_tokens": Parameter("honoured", "cut to what the prompt leaves of the context"),
    "n": HONOURED,
    "presence_penalty": HONOURED,
    "seed": Parameter("honoured", "the same seed, model and batch give the same tokens; a different batch may not"),
    "stop": HONOURED,
    "stream": HONOURED,
    "stream_options": Parameter("honoured", "`include_usage`"),
    "temperature": HONOURED,
    "top_p": HONOURED,
    "user": Parameter("ignored", "usage is kept by key and by project"),
}

CHAT: dict[str, Parameter] = {
    **COMMON,
    "messages": Parameter("honoured", "text; images and audio are refused"),
    "max_completion_tokens": Parameter("honoured", "cut to what the prompt leaves of the context"),
    "logprobs": HONOURED,
    "top_logprobs": HONOURED,
    "response_format": Parameter("honoured", "`text`, `json_object`, `json_schema`; beside tools the answer is either"),
    "tools": Parameter("honoured", "functions; custom tools are refused"),
    "tool_choice": Parameter("honoured", "a mode, one function, or `allowed_tools`"),
    "parallel_tool_calls": HONOURED,
    "functions": Parameter("honoured", "legacy: served as `tools`, answered as `function_call`"),
    "function_call": Parameter("honoured", "legacy: served as `tool_choice`"),
    "store": Parameter("honoured", "kept until it is deleted; off unless true"),
    "metadata": Parameter("honoured", "kept with a stored completion"),
    "moderation": Parameter("ignored", "there is no moderation model"),
    "modalities": Parameter("honoured", '`["text"]` only'),
    "audio": Parameter("refused", "there is no audio model"),
    "web_search_options": Parameter("refused", "the server makes no search"),
    "prediction": Parameter("ignored", "it speeds up OpenAI's engine and does not change the answer"),
    "prompt_cache_key": Parameter("ignored", "the cache finds every shared prefix by itself"),
    "prompt_cache_options": Parameter("ignored", "the cache finds every shared prefix by itself"),
    "prompt_cache_retention": Parameter("ignored", "blocks leave the cache when their space is needed"),
    "reasoning_effort": Parameter("refused", "the base models here do not reason apart from their answer"),
    "safety_identifier": Parameter("ignored", "usage is kept by key and by project"),
    "service_tier": Parameter("ignored", "there is one tier"),
    "verbosity": Parameter("refused", "the base models here know one; `medium` is accepted"),
}

COMPLETIONS: dict[str, Parameter] = {
    **COMMON,
    "prompt": Parameter("honoured", "text or token ids, one or several; without one, from the beginning of a text"),
    "best_of": Parameter("refused", "more than `n`; ask for more answers and choose"),
    "echo": HONOURED,
    "logprobs": HONOURED,
    "suffix": Parameter("refused", "the base models here were not trained to fill in"),
}

# Values that say no more than leaving the parameter out.
NEUTRAL: dict[str, Any] = {
    "modalities": ["text"],
    "reasoning_effort": "none",
    "suffix": "",
    "verbosity": "medium",
}


def check(body: Mapping[str, Any], table: Mapping[str, Parameter]) -> Json:
    """The parameters that the engine is to see. Raises InvalidRequest for an unknown or a refused one."""
    forwarded: Json = {}
    for name, value in body.items():
        parameter = table.get(name)
        if parameter is None:
            raise InvalidRequest(
                say("error.unrecognized_argument", name=name[:100]),
                param=name[:100],
                code="unknown_parameter",
            )
        if value is None or (name in NEUTRAL and value == NEUTRAL[name]) or _chooses_all(name, value, body):
            continue
        if parameter.state == "refused" or name == "modalities":
            raise InvalidRequest(
                say("error.parameter_not_supported", name=name, note=parameter.note),
                param=name,
                code="unsupported_parameter",
            )
        if parameter.state == "honoured":
            forwarded[name] = value
    return forwarded


def _chooses_all(name: str, value: Any, body: Mapping[str, Any]) -> bool:
    """The best `n` of `n` answers are all of them. Raises InvalidRequest for the best of fewer."""
    if name != "best_of" or isinstance(value, bool):
        return False
    count = body.get("n") or 1
    if isinstance(value, int | float) and isinstance(count, int | float) and value < count:
        raise InvalidRequest(say("error.best_of", best_of=value, n=count), param=name, code="invalid_value")
    return value == count


# ---- legacy functions: served as tools and answered in their own form, since no engine knows them


def is_legacy(body: Json) -> bool:
    return bool(body.get("functions"))


def as_tools(body: Json) -> Json:
    """The same request with `tools`. A model of that time made one call at a time."""
    rest = {name: value for name, value in body.items() if name not in ("functions", "function_call")}
    tools = [{"type": "function", "function": function} for function in body["functions"]]
    called: Json | str | None = body.get("function_call", "auto")
    choice = {"type": "function", "function": called} if isinstance(called, dict) else called
    return {**rest, "tools": tools, "tool_choice": choice, "parallel_tool_calls": False}


def own_param(param: str | None) -> str | None:
    """What the client called the parameter that an error of the request with `tools` names."""
    if param == "tool_choice":
        return "function_call"
    place = re.fullmatch(r"tools\[(\d+)\](?:\.function)?(.*)", param or "")
    return f"functions[{place[1]}]{place[2]}" if place else param


def as_function_call(answer: Json) -> Json:
    """An answer or a chunk of one, its tool calls turned into `function_call`."""
    return {**answer, "choices": [_choice(choice) for choice in answer.get("choices", ())]}


def _choice(choice: Json) -> Json:
    changed = dict(choice)
    for part in ("message", "delta"):
        if part in changed:
            changed[part] = _message(changed[part])
    if changed.get("finish_reason") == "tool_calls":
        changed["finish_reason"] = "function_call"
    return changed


def _message(message: Json) -> Json:
    calls = message.get("tool_calls")
    rest = {name: value for name, value in message.items() if name != "tool_calls"}
    return {**rest, "function_call": calls[0]["function"]} if calls else rest


# ---- usage: complete for clients, in numbers for the ledger

FIRST_CACHED, CACHED_STEP = 1024, 128  # OpenAI's rule
CHARACTERS_A_TOKEN = 4  # a rough mean, for limits only; the ledger takes the engine's count


def completed(usage: Json, rule: str) -> Json:
    """With every detail that clients read, also where an engine leaves it out. `rule` says how hits are counted."""
    prompt = as_object(usage.get("prompt_tokens_details"))
    output = as_object(usage.get("completion_tokens_details"))
    cached = prompt.get("cached_tokens") or 0
    return {
        **usage,
        "prompt_tokens_details": {
            "audio_tokens": 0,
            **prompt,
            "cached_tokens": by_openai_rule(cached) if rule == "openai" else cached,
        },
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
            **output,
        },
    }


def by_openai_rule(cached: int) -> int:
    """From 1,024 tokens in steps of 128; applying it twice changes nothing."""
    return 0 if cached < FIRST_CACHED else cached - (cached - FIRST_CACHED) % CACHED_STEP


def for_ledger(usage: Json) -> TokenUsage:
    return TokenUsage(
        input_tokens=usage.get("prompt_tokens") or 0,
        cached_tokens=as_object(usage.get("prompt_tokens_details")).get("cached_tokens") or 0,
        output_tokens=usage.get("completion_tokens") or 0,
    )


def uncounted(sent: Json, num_pieces: int) -> Json:
    """Usage of a stream whose end says none: each choice in a chunk counts as a token, the prompt as estimated."""
    return {"prompt_tokens": estimated_prompt_tokens(sent), "completion_tokens": num_pieces}


def estimated_tokens(sent: Json, context_length: int | None) -> int:
    """The prompts and the longest answers that were asked for, as far as the context lets them grow."""
    longest = sent.get("max_completion_tokens") or sent.get("max_tokens") or 0
    count = sent.get("n") or 1
    if not isinstance(longest, int) or not isinstance(count, int):  # the engine refuses it
        return estimated_prompt_tokens(sent)
    if context_length is not None:
        longest = min(longest, context_length)
    return estimated_prompt_tokens(sent) + max(0, longest * count * _num_prompts(sent.get("prompt")))


def estimated_prompt_tokens(sent: Json) -> int:
    text = sum(_length(message.get("content")) for message in sent.get("messages", ()))
    return (text + _length(sent.get("prompt")) + _length(sent.get("input"))) // CHARACTERS_A_TOKEN


def _num_prompts(prompt: Any) -> int:
    many = as_list(prompt)
    return len(many) if isinstance(prompt, list) and not (many and isinstance(many[0], int)) else 1


def _length(content: Any) -> int:
    if isinstance(content, str):
        return len(content)
    if isinstance(content, list):
        return sum(
            _length(as_object(part).get("text") if isinstance(part, dict) else part) for part in as_list(content)
        )
    return CHARACTERS_A_TOKEN if isinstance(content, int) else 0


# ---- a stream's chunks as one answer


class Assembly:
    def __init__(self) -> None:
        self._head: Json = {}
        self._choices: dict[int, Json] = {}
        self._usage: Json | None = None

    def add(self, chunk: Json) -> None:
        self._head = self._head or {key: chunk[key] for key in ("id", "created", "model") if key in chunk}
        self._usage = chunk.get("usage") or self._usage
        for part in chunk.get("choices", ()):
            self._add_choice(part)

    def _add_choice(self, part: Json) -> None:
        index = part.get("index", 0)
        choice: Json = self._choices.setdefault(
            index,
            {"index": index, "message": {"role": "assistant", "content": None, "refusal": None}, "logprobs": None},
        )
        choice["finish_reason"] = part.get("finish_reason") or choice.get("finish_reason")
        if part.get("logprobs"):
            known = as_object(choice["logprobs"])
            said = as_list(known.get("content")) + as_list(part["logprobs"].get("content"))
            choice["logprobs"] = {"refusal": None, **known, "content": said}
        delta: Json = part.get("delta", {})
        message: Json = choice["message"]
        if delta.get("content"):
            message["content"] = (message["content"] or "") + delta["content"]
        for call in delta.get("tool_calls") or ():
            _add_call(message.setdefault("tool_calls", []), call)
        if delta.get("function_call"):
            _join(message.setdefault("function_call", {"name": "", "arguments": ""}), delta["function_call"])

    def result(self) -> Json:
        """The completion as it would have been without streaming."""
        choices = [self._choices[index] for index in sorted(self._choices)]
        return {"object": "chat.completion", **self._head, "choices": choices, "usage": self._usage}


def _add_call(calls: list[Json], part: Json) -> None:
    index: int = part.get("index", 0)
    while len(calls) <= index:
        calls.append({"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
    call = calls[index]
    call["id"] = part.get("id") or call["id"]
    _join(as_object(call["function"]), as_object(part.get("function")))


def _join(call: Json, part: Json) -> None:
    call["name"] += part.get("name") or ""
    call["arguments"] += part.get("arguments") or ""
