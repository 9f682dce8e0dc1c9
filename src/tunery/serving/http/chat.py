"""Chat completions: a request becomes generations, their outputs become an answer or a stream of chunks."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

from tunery.domain.errors import InvalidRequest
from tunery.domain.ids import new_id
from tunery.domain.schemas import check_cost
from tunery.serving.http.broker import check_length
from tunery.serving.http.envelope import Heading, Usage, call_document, chat_logprobs, prompt_logprobs
from tunery.serving.http.schemas import ChatRequest, Message, as_sent
from tunery.serving.http.service import Service, sampling_params
from tunery.serving.http.tool_use import CallStream, Piece, ToolPolicy, new_call_id, policy_of, rules_of
from tunery.serving.requests import Generation, Output, TokenLogprob
from tunery.serving.text import TokenTable
from tunery.texts import say


@dataclass
class Chat:
    """A request that has been accepted."""

    request: ChatRequest
    heading: Heading
    policy: ToolPolicy
    has_format: bool  # the answer must be JSON, unless it is a call
    generations: list[Generation]
    usage: Usage


async def prepare(service: Service, request: ChatRequest) -> Chat:
    """Everything that can be refused is refused here, before anything is computed. Raises InvalidRequest."""
    service.adapter_of(request.model)
    _check(request)
    policy = policy_of(request)
    rules = rules_of(request, policy)
    if rules is not None:
        check_cost(rules.schemas)
    tools = policy.tools if policy.choice != "none" else []
    service.check_size(sum(map(size_of, request.messages)), param="messages")
    prompt_ids = service.renderer.prompt_ids(as_sent(request.messages), tools or None)
    wanted = request.max_completion_tokens if request.max_completion_tokens is not None else request.max_tokens
    num_top = (request.top_logprobs or 0) if request.logprobs else None
    max_tokens = check_length(
        len(prompt_ids),
        wanted,
        service.engine.context_length,
        param="messages",
        num_answers=request.n or 1,
        num_top=num_top,
    )
    params = sampling_params(
        request,
        max_tokens=max_tokens,
        top_logprobs=num_top,
        grammar=await service.grammars.get(rules, request.cache_salt or "") if rules is not None else None,
        vocab_size=service.vocab_size,
    )
    generations = service.generations(request, prompt_ids, params, request.n or 1)
    heading = Heading(new_id("chat"), request.model, service.fingerprint)
    has_format = rules is not None and rules.answer is not None
    return Chat(request, heading, policy, has_format, generations, Usage([generations]))


def size_of(message: Message) -> int:
    """Characters of its text."""
    if isinstance(message.content, list):
        return sum(len(part.text or "") for part in message.content)
    return len(message.content or "")


def _check(request: ChatRequest) -> None:
    for index, message in enumerate(request.messages):
        stands_alone = message.role == "assistant" and (message.tool_calls or message.function_call or message.refusal)
        if message.content is None and not stands_alone:
            path = f"messages[{index}]"
            raise InvalidRequest(say("error.content_null", path=path), param=f"{path}.content", code="invalid_type")
    if request.top_logprobs is not None and not request.logprobs:
        raise InvalidRequest(say("error.top_logprobs_alone"), param="top_logprobs", code="invalid_value")
    if request.stream_options is not None and not request.stream:
        raise InvalidRequest(say("error.stream_options_alone"), param="stream_options", code="invalid_value")


@dataclass
class _Choice:
    """One answer as far as it has come."""

    index: int
    calls: CallStream | None
    has_begun: bool = False  # to be told
    text: str = ""
    call_documents: list[dict[str, Any]] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    is_cut: bool = False  # within a call
    finish_reason: str | None = None
    prompt_logprobs: list[dict[str, Any] | None] | None = None

    def pieces(self, output: Output) -> list[Piece]:
        if self.calls is None:
            return [Piece(output.text)] if output.text else []
        pieces = self.calls.push(output.text)
        if output.finish_reason is not None:
            pieces += self.calls.finish(is_cut=output.finish_reason == "length" or output.is_stopped)
        self.is_cut = any(piece.is_cut for piece in pieces)
        return pieces


def _choices(chat: Chat) -> dict[str, _Choice]:
    return {
        generation.id: _Choice(index, _call_stream(chat) if chat.policy.may_call else None)
        for index, generation in enumerate(chat.generations)
    }


def _call_stream(chat: Chat) -> CallStream:
    policy = chat.policy
    names = [function.name for function in policy.functions]
    return CallStream(names, must_call=policy.must_call, has_format=chat.has_format)


async def complete(service: Service, chat: Chat) -> dict[str, Any]:
    """The whole answer at once."""
    choices = _choices(chat)
    async for output in service.whole(chat.generations):
        choice = choices[output.id]
        chat.usage.take(output)
        choice.logprobs += output.logprobs
        for piece in choice.pieces(output):
            choice.text += piece.text
            if piece.call is not None:
                choice.call_documents.append(call_document(piece.call, new_call_id()))
        if output.finish_reason is not None:
            choice.finish_reason = _finish_reason(chat, choice, output.finish_reason)
            if output.prompt_logprobs is not None:
                choice.prompt_logprobs = prompt_logprobs(output.prompt_logprobs, service.table)
    documents = [_choice_document(chat, choice, service.table) for choice in choices.values()]
    return chat.heading.document(
        "chat.completion", choices=documents, usage=chat.usage.document(), service_tier="default"
    )


def _finish_reason(chat: Chat, choice: _Choice, reason: str) -> str:
    return chat.policy.finish_reason(reason, has_calls=bool(choice.call_documents), is_cut=choice.is_cut)


def _choice_document(chat: Chat, choice: _Choice, table: TokenTable) -> dict[str, Any]:
    has_calls = bool(choice.call_documents) or chat.policy.must_call
    content = choice.text.rstrip() if has_calls else choice.text
    message: dict[str, Any] = {
        "role": "assistant",
        "content": None if has_calls and not content else content,
        "refusal": None,
        "annotations": [],
    }
    if choice.call_documents:
        message["tool_calls"] = choice.call_documents
    document = {
        "index": choice.index,
        "message": message,
        "logprobs": chat_logprobs(choice.logprobs, table) if chat.request.logprobs else None,
        "finish_reason": choice.finish_reason,
    }
    if choice.prompt_logprobs is not None:
        document["prompt_logprobs"] = choice.prompt_logprobs
    return document


async def stream(service: Service, chat: Chat) -> AsyncIterator[list[dict[str, Any]]]:
    """Chunks, those in one list that come at once: for each choice its role, then what it says, then its
    finish_reason; usage last, if asked for."""
    choices, num_open = _choices(chat), len(chat.generations)
    async for output in service.streamed(chat.generations):
        chat.usage.take(output)
        chunks = list(_chunks(service, chat, choices[output.id], output))
        num_open -= output.finish_reason is not None
        if not num_open and _wants_usage(chat):
            chunks.append(_chunk_document(chat, [], usage=chat.usage.document()))
        if chunks:
            yield chunks


def _chunks(service: Service, chat: Chat, choice: _Choice, output: Output) -> Iterator[dict[str, Any]]:
    if not choice.has_begun:
        choice.has_begun = True
        yield _chunk(chat, choice, {"role": "assistant", "content": "", "refusal": None})
    deltas = [delta for piece in choice.pieces(output) for delta in _deltas(chat, choice, piece)]
    choice.logprobs += output.logprobs
    for delta in deltas:
        # A token's log-probability goes with the text it ended in, or with what came with it.
        entries = chat_logprobs(choice.logprobs, service.table) if chat.request.logprobs else None
        choice.logprobs = []
        yield _chunk(chat, choice, delta, logprobs=entries)
    if output.finish_reason is not None:
        reason = _finish_reason(chat, choice, output.finish_reason)
        left = chat_logprobs(choice.logprobs, service.table) if choice.logprobs else None
        yield _chunk(chat, choice, {}, logprobs=left, finish_reason=reason)


def _deltas(chat: Chat, choice: _Choice, piece: Piece) -> list[dict[str, Any]]:
    """A call comes as OpenAI sends it: first its name, then its arguments."""
    if piece.call is None:
        return [{"content": piece.text}]
    index = len(choice.call_documents)
    document = call_document(piece.call, new_call_id(), index)
    choice.call_documents.append(document)
    function = {"name": piece.call.name, "arguments": ""}
    arguments = {"arguments": piece.call.arguments}
    return [
        {"tool_calls": [{**document, "function": function}]},
        {"tool_calls": [{"index": index, "function": arguments}]},
    ]


def _chunk(
    chat: Chat,
    choice: _Choice,
    delta: dict[str, Any],
    *,
    logprobs: dict[str, Any] | None = None,
    finish_reason: str | None = None,
) -> dict[str, Any]:
    body = {"index": choice.index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
    return _chunk_document(chat, [body], usage=None)


def _chunk_document(chat: Chat, choices: list[dict[str, Any]], usage: dict[str, Any] | None) -> dict[str, Any]:
    members: dict[str, Any] = {"choices": choices, "service_tier": "default"}
    if _wants_usage(chat):
        members["usage"] = usage
    return chat.heading.document("chat.completion.chunk", **members)


def _wants_usage(chat: Chat) -> bool:
    options = chat.request.stream_options
    return options is not None and options.include_usage
