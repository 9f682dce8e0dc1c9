"""How likely a model finds a given answer: one forward pass over the prompt and the answer, nothing generated."""

import asyncio
from functools import partial
from typing import Any

import orjson

from tunery.api.context import Context
from tunery.api.delivery import Running
from tunery.api.tunery.console.schemas import ScoreOut, ScoreRequest
from tunery.chat.examples import ChatExample, Message
from tunery.chat.render import Rendered, renderer_of
from tunery.domain.errors import InvalidRequest, Unavailable
from tunery.domain.tenants import Caller, Scope
from tunery.engines.pool import Target, resolve
from tunery.engines.scoring import prompt_logprobs
from tunery.metering.ledger import RequestIds
from tunery.store.database import read
from tunery.texts import say
from tunery.wire.chat import for_ledger

TOP = 1  # vLLM: the token itself and this many of the likeliest


async def score(context: Context, caller: Caller, request_id: str, request: ScoreRequest) -> ScoreOut:
    """Raises InvalidRequest when the messages cannot be rendered or do not end with an answer."""
    target, rendered = await asyncio.to_thread(_prepare, context, caller, request)
    trained = [index for index, weight in enumerate(rendered.loss_weights) if weight > 0 and index > 0]
    if not trained:
        raise InvalidRequest(say("error.last_message_not_answer"), param="messages")
    body = {
        "prompt": rendered.token_ids,
        "max_tokens": 1,
        "temperature": 0,
        "prompt_logprobs": TOP,
        "logprob_start_len": trained[0],
        "cache_salt": caller.project_id,
        "request_id": request_id,
    }
    asked = _ask(context, caller, RequestIds(request_id), body, target)
    stop = partial(context.engines.stop, request_id)
    answer = await context.shared(Running).held(asked, caller, Scope.MODELS_REQUEST, stop)
    entries = prompt_logprobs(answer, len(rendered.token_ids))
    if entries is None:
        raise Unavailable(say("error.no_prompt_logprobs"))
    scores = [_entry(entries[index], rendered.token_ids[index]) for index in trained]
    return ScoreOut(
        model=target.public_name,
        num_tokens=len(scores),
        mean_logprob=sum(logprob for logprob, _ in scores) / len(scores),
        num_greedy_tokens=sum(is_greedy for _, is_greedy in scores),
    )


async def _ask(
    context: Context, caller: Caller, ids: RequestIds, body: dict[str, Any], target: Target
) -> dict[str, Any]:
    """The engine's answer, counted. An engine that gives none costs nothing."""
    meter, model = context.meter, target.weights_name
    estimated = len(body["prompt"]) + body["max_tokens"]
    admission = await asyncio.to_thread(meter.open_request, caller, ids, model=model, estimated_tokens=estimated)
    try:
        async with context.engines.post("/v1/completions", body, target) as given:
            answer = orjson.loads(await given.read())
    except BaseException:
        await asyncio.shield(asyncio.to_thread(meter.abandon, admission))
        raise
    await asyncio.to_thread(meter.settle, admission, model=model, usage=for_ledger(answer.get("usage") or {}))
    return answer


def _prepare(context: Context, caller: Caller, request: ScoreRequest) -> tuple[Target, Rendered]:
    with read(context.database) as conn:
        target = resolve(conn, context.catalog, request.model, caller.project_id)
    if target.upstream is not None:
        raise InvalidRequest(say("error.upstream_cannot_score"), param="model")
    folder = context.weights_folder(target.source)
    try:
        example = ChatExample(line=1, messages=_only_last_trained(request.messages), tools=request.tools)
        longest = target.base.context_length if target.base else None
        return target, renderer_of(folder).render(example, longest)
    except (KeyError, TypeError) as exc:
        raise InvalidRequest(say("error.messages_not_rendered", reason=exc), param="messages") from exc


def _only_last_trained(messages: list[Message]) -> list[Message]:
    return [
        {**message, "weight": int(index == len(messages) - 1)} if message.get("role") == "assistant" else message
        for index, message in enumerate(messages)
    ]


def _entry(entry: dict[str, Any], token: int) -> tuple[float, bool]:
    """The token's log-probability, and whether the model finds none likelier."""
    logprob = float(entry[str(token)]["logprob"])
    return logprob, all(float(other["logprob"]) <= logprob for other in entry.values())
