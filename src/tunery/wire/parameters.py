"""What becomes of each request parameter. docs/api.md prints this table; a request is checked against it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tunery.domain.errors import InvalidRequest
from tunery.texts import say

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


def check(body: Mapping[str, Any], table: Mapping[str, Parameter]) -> dict[str, Any]:
    """The parameters that the engine is to see. Raises InvalidRequest for an unknown or a refused one."""
    forwarded: dict[str, Any] = {}
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
    """The best `n` of `n` answers are all of them."""
    return name == "best_of" and value == (body.get("n") or 1) and not isinstance(value, bool)
