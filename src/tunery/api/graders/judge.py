"""A model that scores another's answer: one of this server, or of the endpoint that `judge_url` names. And one that
tells by their vectors how alike two texts are."""

import json
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import orjson

from tunery.api import inference
from tunery.api.access import check_still
from tunery.api.context import Context
from tunery.api.delivery import Running
from tunery.api.graders.schemas import LabelModel, ScoreModel
from tunery.api.graders.similarity import check_length
from tunery.api.graders.template import render
from tunery.domain.errors import NotFound, TuneryError
from tunery.domain.ids import random_text
from tunery.domain.json_body import as_list, as_object
from tunery.domain.tenants import Caller, Scope
from tunery.metering.ledger import RequestIds
from tunery.store.database import read

Json = dict[str, Any]

COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")
EMBEDDER = "text-embedding-3-large"  # what OpenAI's cosine is taken of
ErrorKind = Literal["model_grader_parse_error", "model_grader_refusal_error", "model_grader_server_error"]


@dataclass(frozen=True)
class Verdict:
    """What a judge said."""

    score: float
    usage: dict[str, int]
    asked: Json = field(default_factory=dict[str, Any])  # the request for a chat
    answer: Json = field(default_factory=dict[str, Any])  # as chats are answered


class JudgeFailed(Exception):
    """`verdict`: what it said that is none, where it said anything."""

    def __init__(self, kind: ErrorKind, details: str | None = None, verdict: Verdict | None = None) -> None:
        super().__init__(kind)
        self.kind: ErrorKind = kind
        self.details = details
        self.verdict = verdict


class Judge(ABC):
    """A judge of one sample."""

    def __init__(self, context: Context, caller: Caller) -> None:
        self.context, self.caller = context, caller

    @abstractmethod
    async def ask_here(self, body: Json, kind: inference.Kind) -> Json:
        """A model of this server. Raises TuneryError: NotFound when none is called so."""

    async def ask_elsewhere(self, body: Json) -> Json:
        """The endpoint that `judge_url` names. Raises JudgeFailed."""
        try:
            async with self.context.judges.ask(inference.PATHS["chat"], body) as given:
                return as_object(orjson.loads(await given.read()))
        except (TuneryError, ValueError) as exc:
            raise JudgeFailed("model_grader_server_error", str(exc)[:500]) from exc

    async def score(self, grader: ScoreModel, values: Json) -> Verdict:
        """Raises UnknownVariable for the templates, JudgeFailed for the model, NotFound when nobody serves it."""
        lowest, highest = grader.range or (0.0, 1.0)
        wanted = f'Reply with a JSON object {{"result": NUMBER}} where NUMBER is from {lowest:g} to {highest:g}.'
        result, said = await self._result(grader, values, wanted, {"type": "number"})
        if isinstance(result, bool) or not isinstance(result, int | float) or not math.isfinite(result):
            raise JudgeFailed("model_grader_parse_error", verdict=said)
        return replace(said, score=min(highest, max(lowest, float(result))))

    async def label(self, grader: LabelModel, values: Json) -> Verdict:
        """1 for a label that passes, else 0. Raises what `score` does."""
        names = ", ".join(json.dumps(label, ensure_ascii=False) for label in grader.labels)
        wanted = f'Reply with a JSON object {{"result": LABEL}} where LABEL is one of {names}.'
        result, said = await self._result(grader, values, wanted, {"type": "string", "enum": grader.labels})
        if result not in grader.labels:
            raise JudgeFailed("model_grader_parse_error", verdict=said)
        return replace(said, score=float(result in grader.passing_labels))

    async def cosine(self, text: str, reference: str) -> float:
        """Of the vectors of both, 0 where they point apart. Raises InvalidRequest for texts that are too long, and as
        `score` does."""
        for name, value in (("input", text), ("reference", reference)):
            check_length(name, value)
        if not text or not reference:  # nothing has no vector
            return float(text == reference)
        answer = await self._ask({"model": EMBEDDER, "input": [text, reference]}, "embedding")
        one, other = (row["embedding"] for row in answer["data"])
        return min(1.0, max(0.0, sum(a * b for a, b in zip(one, other, strict=True))))

    async def _result(
        self, grader: ScoreModel | LabelModel, values: Json, wanted: str, form: Json
    ) -> tuple[Any, Verdict]:
        """What stands under `result` in its answer, which the engine holds to the form."""
        asked = _request(grader, values, wanted, form)
        answer = await self._ask(asked)
        choices, usage = as_list(answer.get("choices")), as_object(answer.get("usage"))
        message = as_object(as_object(choices[0]).get("message")) if choices else {}
        numbers = {name: usage[name] for name in COUNTS if isinstance(usage.get(name), int)}
        said = Verdict(0.0, numbers, asked, answer)
        if message.get("refusal"):
            raise JudgeFailed("model_grader_refusal_error", verdict=said)
        try:
            return json.loads(message.get("content") or "")["result"], said
        except (ValueError, KeyError, TypeError, RecursionError) as exc:
            raise JudgeFailed("model_grader_parse_error", verdict=said) from exc

    async def _ask(self, body: Json, kind: inference.Kind = "chat") -> Json:
        try:
            return await self.ask_here(body, kind)
        except NotFound:
            if not self.context.settings.judge_url or kind != "chat":
                raise
            return await self.ask_elsewhere(body)
        except TuneryError as exc:
            if exc.status < 500:
                raise
            raise JudgeFailed("model_grader_server_error", exc.message) from exc


class LiveJudge(Judge):
    """Of a request, which waits for it: for as long as who asked may ask."""

    def __init__(self, context: Context, caller: Caller, request_id: str) -> None:
        super().__init__(context, caller)
        self._request_id = request_id

    async def ask_here(self, body: Json, kind: inference.Kind) -> Json:
        ids = RequestIds(f"{self._request_id}-{random_text(8)}")  # the ledger counts each id once
        stop = partial(self.context.engines.stop, ids.server)
        running = self.context.shared(Running)
        return await running.held(self._complete(body, ids, kind), self.caller, Scope.JOBS_WRITE, stop)

    async def _complete(self, body: Json, ids: RequestIds, kind: inference.Kind) -> Json:
        admitted = await inference.admit(self.context, self.caller, ids, kind, body)
        return await inference.complete(self.context, admitted)

    async def ask_elsewhere(self, body: Json) -> Json:
        running = self.context.shared(Running)
        return await running.held(super().ask_elsewhere(body), self.caller, Scope.JOBS_WRITE)

    async def check_rights(self) -> None:
        """Each of a multi grader's parts is run for who may ask for it then."""

        def look() -> None:
            with read(self.context.database) as conn:
                check_still(conn, self.caller, Scope.JOBS_WRITE, self.context.clock())

        await self.context.look(look)


def _request(grader: ScoreModel | LabelModel, values: Json, wanted: str, form: Json) -> Json:
    """The grader's messages, then the form of the answer, which the engine enforces."""
    messages = [{"role": message.role, "content": render(message.text, values)} for message in grader.input]
    sampling = grader.sampling_params.model_dump(exclude_none=True) if grader.sampling_params else {}
    if "max_completions_tokens" in sampling:
        sampling["max_completion_tokens"] = sampling.pop("max_completions_tokens")
    schema = {"type": "object", "properties": {"result": form}, "required": ["result"], "additionalProperties": False}
    return {
        "model": grader.model,
        "messages": [*messages, {"role": "system", "content": wanted}],
        "max_completion_tokens": 64,
        **sampling,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "verdict", "strict": True, "schema": schema},
        },
    }
