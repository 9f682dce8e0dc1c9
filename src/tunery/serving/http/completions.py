"""The old completions endpoint: plain text or token ids in, text out. Also scores texts."""

from bisect import bisect_left
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tunery.domain.errors import InvalidRequest
from tunery.domain.ids import new_id
from tunery.serving.http.broker import MAX_CANDIDATES, check_length
from tunery.serving.http.envelope import Heading, Usage, completion_logprobs, echoed_logprobs, prompt_logprobs
from tunery.serving.http.schemas import CompletionRequest
from tunery.serving.http.service import Service, sampling_params
from tunery.serving.requests import Generation, Output, SamplingParams, TokenLogprob
from tunery.texts import say

_DEFAULT_MAX_TOKENS = 16
_MAX_ANSWERS = 2048  # over all prompts


@dataclass(frozen=True)
class _Prompt:
    text: str  # as `echo` gives it back
    ids: list[int]
    is_empty: bool = False  # the id is the one that begins a text, which nobody sent


@dataclass
class _Choice:
    """One answer as far as it has come."""

    index: int
    prompt: _Prompt
    text: str = ""  # what is to be said next, with its log-probabilities
    logprobs: list[TokenLogprob] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    num_characters: int = 0  # of the answer so far
    finish_reason: str | None = None
    scores: tuple[TokenLogprob | None, ...] | None = None
    has_begun: bool = False

    @property
    def num_placed(self) -> int:
        """How many of its tokens have their character in the text. One that holds a part of a character waits for the
        rest; in an answer that has ended it counts to the last one."""
        return len(self.offsets) if self.finish_reason else bisect_left(self.offsets, self.num_characters)

    def places(self, num_before: int) -> list[int]:
        """Where the placed tokens begin in the text of prompt and answer."""
        last = max(0, num_before + self.num_characters - 1)
        return [min(num_before + offset, last) for offset in self.offsets[: self.num_placed]]


@dataclass
class Completion:
    """A request that has been accepted."""

    request: CompletionRequest
    heading: Heading
    generations: list[Generation]
    choices: dict[str, _Choice]  # by generation
    usage: Usage


def prepare(service: Service, request: CompletionRequest) -> Completion:
    """Everything that can be refused is refused here. Raises InvalidRequest."""
    service.adapter_of(request.model)
    count = request.n or 1
    prompts = _prompts(service, request, count)
    params = _params(service, request)
    answers = []
    for number, prompt in enumerate(prompts):
        max_tokens = check_length(
            len(prompt.ids),
            _DEFAULT_MAX_TOKENS if request.max_tokens is None else request.max_tokens,
            service.engine.context_length,
            param="prompt",
            num_answers=count * len(prompts),
            num_top=request.logprobs,
        )
        mine = replace(params, max_tokens=max_tokens)
        answers.append(service.generations(request, prompt.ids, mine, count, f"{number}:"))
    _check_scores(params, prompts, count)
    places = [(each, prompt) for prompt, same in zip(prompts, answers, strict=True) for each in same]
    choices = {each.id: _Choice(index, prompt) for index, (each, prompt) in enumerate(places)}
    heading = Heading(new_id("completion"), request.model, service.fingerprint)
    usage = Usage(answers)
    return Completion(request, heading, [each for each, _ in places], choices, usage)


def _params(service: Service, request: CompletionRequest) -> SamplingParams:
    """Of every answer; how long it may be depends on its prompt."""
    params_request = request
    if request.echo and request.logprobs is not None:  # what is echoed is told of every token
        num_top = request.logprobs if request.prompt_logprobs is None else request.prompt_logprobs
        params_request = request.model_copy(update={"prompt_logprobs": num_top, "logprob_start_len": 0})
    return sampling_params(
        params_request,
        max_tokens=0,
        top_logprobs=request.logprobs,
        grammar=None,
        vocab_size=service.vocab_size,
    )


def _check_scores(params: SamplingParams, prompts: list[_Prompt], count: int) -> None:
    """Log-probabilities of the prompts are part of the answer, too."""
    if params.prompt_logprobs is None:
        return
    wanted = sum(len(prompt.ids) for prompt in prompts) * count * (1 + params.prompt_logprobs)
    if wanted > MAX_CANDIDATES:
        raise InvalidRequest(
            say("error.prompt_logprobs_too_many", wanted=wanted, most=MAX_CANDIDATES),
            param="prompt",
            code="invalid_value",
        )


def _prompts(service: Service, request: CompletionRequest, count: int) -> list[_Prompt]:
    listed = _listed(request)
    if not 1 <= len(listed) * count <= _MAX_ANSWERS:
        raise InvalidRequest(
            say("error.prompts_too_many", most=_MAX_ANSWERS // count, count=count),
            param="prompt",
            code="invalid_value",
        )
    prompts = [_prompt(service, prompt) for prompt in listed]
    for prompt in prompts:
        if not all(0 <= token < service.vocab_size for token in prompt.ids):
            raise InvalidRequest(
                say("error.token_id", most=service.vocab_size - 1), param="prompt", code="invalid_value"
            )
    return prompts


def _prompt(service: Service, given: str | list[int]) -> _Prompt:
    if not given:
        return _Prompt("", service.text_start_ids, is_empty=True)
    if isinstance(given, str):
        service.check_size(len(given), param="prompt")
        return _Prompt(given, service.renderer.encode(given))
    return _Prompt(service.renderer.decode(given, skip_special_tokens=False), given)


def _listed(request: CompletionRequest) -> Sequence[str | list[int]]:
    """One text, several texts, one list of token ids or several."""
    prompt = request.prompt
    if isinstance(prompt, str):
        return [prompt]
    ids = [item for item in prompt if isinstance(item, int)]
    return [ids] if ids else [item for item in prompt if not isinstance(item, int)]


def _take(completion: Completion, output: Output) -> _Choice:
    choice = completion.choices[output.id]
    choice.text += output.text
    choice.num_characters += len(output.text)
    choice.logprobs += output.logprobs
    choice.offsets += output.offsets
    choice.finish_reason = output.finish_reason
    if output.prompt_logprobs is not None:
        choice.scores = output.prompt_logprobs
    completion.usage.take(output)
    return choice


async def complete(service: Service, completion: Completion) -> dict[str, Any]:
    async for output in service.whole(completion.generations):
        _take(completion, output)
    documents = [_document(service, completion, choice) for choice in completion.choices.values()]
    return completion.heading.document("text_completion", choices=documents, usage=completion.usage.document())


async def stream(service: Service, completion: Completion) -> AsyncIterator[list[dict[str, Any]]]:
    """Chunks, those in one list that come at once."""
    options, num_open = completion.request.stream_options, len(completion.generations)
    wants_usage = options is not None and options.include_usage
    async for output in service.streamed(completion.generations):
        choice, chunks = _take(completion, output), list[dict[str, Any]]()
        num_open -= output.finish_reason is not None
        if choice.text or choice.num_placed or output.finish_reason is not None:
            document = _document(service, completion, choice)
            choice.has_begun = True
            num_told = choice.num_placed
            choice.text = ""
            del choice.logprobs[:num_told], choice.offsets[:num_told]
            chunks.append(_chunk(completion, [document], {"usage": None} if wants_usage else {}))
        if not num_open and wants_usage:
            chunks.append(_chunk(completion, [], {"usage": completion.usage.document()}))
        if chunks:
            yield chunks


def _document(service: Service, completion: Completion, choice: _Choice) -> dict[str, Any]:
    """What the choice has to say since its last document; the first one echoes the prompt."""
    request, prompt = completion.request, choice.prompt
    is_echo = request.echo and not choice.has_begun
    logprobs = None
    if request.logprobs is not None:
        before = len(prompt.text) if request.echo else 0
        placed = choice.logprobs[: choice.num_placed]
        logprobs = completion_logprobs(placed, choice.places(before), service.table)
        if is_echo and choice.scores is not None and not prompt.is_empty:
            echoed = echoed_logprobs(prompt.ids, choice.scores, prompt.text, service.table)
            logprobs = {key: echoed[key] + logprobs[key] for key in echoed}
    document = {
        "index": choice.index,
        "text": (prompt.text if is_echo else "") + choice.text,
        "logprobs": logprobs,
        "finish_reason": choice.finish_reason,
    }
    if request.prompt_logprobs is not None and choice.scores is not None and not choice.has_begun:
        document["prompt_logprobs"] = prompt_logprobs(choice.scores, service.table)
    return document


def _chunk(completion: Completion, choices: list[dict[str, Any]], usage: dict[str, Any]) -> dict[str, Any]:
    return completion.heading.document("text_completion", choices=choices, **usage)
