"""The old completions endpoint: plain text or token ids in, text out. Also scores texts."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tunery.domain.errors import InvalidRequest
from tunery.domain.ids import new_id
from tunery.serving.http.broker import check_length
from tunery.serving.http.envelope import Heading, Usage, completion_logprobs, prompt_logprobs
from tunery.serving.http.schemas import CompletionRequest
from tunery.serving.http.service import Service, sampling_params
from tunery.serving.requests import Generation, Output, SamplingParams, TokenLogprob

_DEFAULT_MAX_TOKENS = 16
_MAX_PROMPTS = 2048


@dataclass
class _Choice:
    index: int
    prompt_ids: list[int]
    text: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: str | None = None
    scores: tuple[TokenLogprob | None, ...] | None = None
    num_characters: int = 0  # sent before, for text_offset


@dataclass
class Completion:
    """A request that has been accepted."""

    request: CompletionRequest
    heading: Heading
    generations: list[Generation]
    choices: dict[str, _Choice]  # by generation
    cached: dict[str, int]  # first generation of each prompt → its cached tokens
    usage: Usage


def prepare(service: Service, request: CompletionRequest) -> Completion:
    service.adapter_of(request.model)
    if request.echo and request.stream:
        raise InvalidRequest("'echo' cannot be streamed.", param="echo", code="unsupported_value")
    prompts = _prompts(service, request)
    count = request.n or 1
    generations: list[Generation] = []
    for number, prompt_ids in enumerate(prompts):
        generations += service.generations(
            request, prompt_ids, _params(service, request, prompt_ids), count, f"{number}:"
        )
    choices = {generation.id: _Choice(index, generation.prompt_ids) for index, generation in enumerate(generations)}
    heading = Heading(new_id("completion"), request.model, service.fingerprint)
    cached = {generation.id: 0 for generation in generations[::count]}
    usage = Usage(sum(len(prompt_ids) for prompt_ids in prompts))
    return Completion(request, heading, generations, choices, cached, usage)


def _params(service: Service, request: CompletionRequest, prompt_ids: list[int]) -> SamplingParams:
    wanted = _DEFAULT_MAX_TOKENS if request.max_tokens is None else request.max_tokens
    max_tokens = check_length(len(prompt_ids), wanted, service.engine.context_length, param="prompt")
    params_request = request
    if request.echo and request.logprobs is not None and request.prompt_logprobs is None:
        params_request = request.model_copy(update={"prompt_logprobs": request.logprobs})
    return sampling_params(
        params_request,
        max_tokens=max_tokens,
        top_logprobs=request.logprobs,
        grammar=None,
        vocab_size=service.vocab_size,
    )


def _prompts(service: Service, request: CompletionRequest) -> list[list[int]]:
    prompts = [service.renderer.encode(prompt) if isinstance(prompt, str) else prompt for prompt in _listed(request)]
    if not 1 <= len(prompts) <= _MAX_PROMPTS:
        raise InvalidRequest(f"'prompt' must hold 1 to {_MAX_PROMPTS} prompts.", param="prompt", code="invalid_value")
    for prompt_ids in prompts:
        if not prompt_ids or not all(0 <= token < service.vocab_size for token in prompt_ids):
            raise InvalidRequest(
                f"Every prompt needs at least one token, and token ids are 0 to {service.vocab_size - 1}.",
                param="prompt",
                code="invalid_value",
            )
    return prompts


def _listed(request: CompletionRequest) -> Sequence[str | list[int]]:
    """One text, several texts, one list of token ids or several."""
    prompt = request.prompt
    if isinstance(prompt, str):
        return [prompt]
    ids = [item for item in prompt if isinstance(item, int)]
    return [ids] if ids else [item for item in prompt if not isinstance(item, int)]


def _take(service: Service, completion: Completion, output: Output) -> _Choice:
    choice = completion.choices[output.id]
    choice.text += output.text
    choice.logprobs += output.logprobs
    completion.usage.num_output_tokens[output.id] = output.num_output_tokens
    if output.id in completion.cached:
        completion.cached[output.id] = service.cached_tokens(output.num_cached_tokens)
        completion.usage.num_cached_tokens = sum(completion.cached.values())
    if output.finish_reason is not None:
        choice.finish_reason = output.finish_reason
        choice.scores = output.prompt_logprobs
    return choice


async def complete(service: Service, completion: Completion) -> dict[str, Any]:
    async for output in service.run(completion.generations):
        _take(service, completion, output)
    documents = [_document(service, completion, choice) for choice in completion.choices.values()]
    return completion.heading.document("text_completion", choices=documents, usage=completion.usage.document())


def _document(service: Service, completion: Completion, choice: _Choice) -> dict[str, Any]:
    request = completion.request
    prompt = service.renderer.decode(choice.prompt_ids, skip_special_tokens=False) if request.echo else ""
    logprobs = None
    if request.logprobs is not None:
        logprobs = completion_logprobs(choice.logprobs, service.table, len(prompt))
        if request.echo and choice.scores is not None:
            logprobs = _with_prompt(service, choice, logprobs)
    document = {
        "index": choice.index,
        "text": prompt + choice.text,
        "logprobs": logprobs,
        "finish_reason": choice.finish_reason,
    }
    if request.prompt_logprobs is not None and choice.scores is not None:
        document["prompt_logprobs"] = prompt_logprobs(choice.scores, service.table)
    return document


def _with_prompt(service: Service, choice: _Choice, answer: dict[str, Any]) -> dict[str, Any]:
    """The prompt's own log-probabilities before the answer's; the first token has none."""
    entries = [entry for entry in choice.scores or () if entry is not None]
    first = service.table.text_of(choice.prompt_ids[0])
    prompt = completion_logprobs(entries, service.table, len(first))
    start = {"tokens": [first], "token_logprobs": [None], "top_logprobs": [None], "text_offset": [0]}
    return {key: start[key] + prompt[key] + answer[key] for key in start}


async def stream(service: Service, completion: Completion) -> AsyncIterator[dict[str, Any]]:
    options = completion.request.stream_options
    wants_usage = options is not None and options.include_usage
    async for output in service.run(completion.generations):
        choice = _take(service, completion, output)
        if output.text or output.finish_reason is not None or output.logprobs:
            body = {
                "index": choice.index,
                "text": output.text,
                "logprobs": _stream_logprobs(service, completion, choice, output),
                "finish_reason": output.finish_reason,
            }
            yield _chunk(completion, [body], {"usage": None} if wants_usage else {})
    if wants_usage:
        yield _chunk(completion, [], {"usage": completion.usage.document()})


def _stream_logprobs(
    service: Service, completion: Completion, choice: _Choice, output: Output
) -> dict[str, Any] | None:
    if completion.request.logprobs is None:
        return None
    document = completion_logprobs(list(output.logprobs), service.table, choice.num_characters)
    choice.num_characters += len(output.text)
    return document


def _chunk(completion: Completion, choices: list[dict[str, Any]], usage: dict[str, Any]) -> dict[str, Any]:
    return completion.heading.document("text_completion", choices=choices, **usage)
