"""A model that scores another's answer: one of this server, or of the endpoint that `judge_url` names. And one that
tells by their vectors how alike two texts are."""

import json
import math
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import orjson

from tunery.api import inference
from tunery.api.access import check_still
from tunery.api.context import Context
from tunery.api.delivery import Running
from tunery.api.graders.schemas import ScoreModel
from tunery.api.graders.similarity import check_length
from tunery.api.graders.template import render
from tunery.domain.errors import NotFound, TuneryError
from tunery.domain.ids import random_text
from tunery.domain.tenants import Caller, Scope
from tunery.metering.ledger import RequestIds
from tunery.store.database import read

EMBEDDER = "text-embedding-3-large"  # what OpenAI's cosine is taken of
ErrorKind = Literal["model_grader_parse_error", "model_grader_refusal_error", "model_grader_server_error"]


@dataclass(frozen=True)
class Verdict:
    score: float
    usage: dict[str, int]


class JudgeFailed(Exception):
    def __init__(self, kind: ErrorKind, details: str | None = None) -> None:
        super().__init__(kind)
        self.kind: ErrorKind = kind
        self.details = details


@dataclass(frozen=True)
class Judge:
    context: Context
    caller: Caller
    request_id: str

    def _next_ids(self) -> RequestIds:
        """The ledger counts each id once, and one request may ask several judges."""
        return RequestIds(f"{self.request_id}-{random_text(8)}")

    async def score(self, grader: ScoreModel, values: dict[str, Any]) -> Verdict:
        """Raises UnknownVariable for the templates, JudgeFailed for the model, NotFound when nobody serves it."""
        lowest, highest = grader.range or (0.0, 1.0)
        answer = await self._ask(_request(grader, values, lowest, highest))
        message = answer["choices"][0]["message"]
        if message.get("refusal"):
            raise JudgeFailed("model_grader_refusal_error")
        number = _number(message.get("content") or "")
        usage = answer.get("usage") or {}
        counts = {name: usage[name] for name in ("prompt_tokens", "completion_tokens", "total_tokens") if name in usage}
        return Verdict(min(highest, max(lowest, number)), counts)

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

    async def _ask(self, body: dict[str, Any], kind: inference.Kind = "chat") -> dict[str, Any]:
        ids, running = self._next_ids(), self.context.shared(Running)
        stop = partial(self.context.engines.stop, ids.server)
        try:
            return await running.held(self._answer(body, ids, kind), self.caller, Scope.JOBS_WRITE, stop)
        except NotFound:
            if not self.context.settings.judge_url or kind != "chat":
                raise
            return await running.held(self._ask_elsewhere(body), self.caller, Scope.JOBS_WRITE)

    async def _answer(self, body: dict[str, Any], ids: RequestIds, kind: inference.Kind) -> dict[str, Any]:
        try:
            admitted = await inference.admit(self.context, self.caller, ids, kind, body)
            return await inference.complete(self.context, admitted)
        except TuneryError as exc:
            if exc.status < 500:
                raise
            raise JudgeFailed("model_grader_server_error", exc.message) from exc

    async def check_rights(self) -> None:
        """Each of a multi grader's parts is run for who may ask for it then."""

        def look() -> None:
            with read(self.context.database) as conn:
                check_still(conn, self.caller, Scope.JOBS_WRITE, self.context.clock())

        await self.context.look(look)

    async def _ask_elsewhere(self, body: dict[str, Any]) -> dict[str, Any]:
        try:
            async with self.context.judges.ask(inference.PATHS["chat"], body) as given:
                return orjson.loads(await given.read())
        except (TuneryError, ValueError) as exc:
            raise JudgeFailed("model_grader_server_error", str(exc)[:500]) from exc


def _request(grader: ScoreModel, values: dict[str, Any], lowest: float, highest: float) -> dict[str, Any]:
    """The grader's messages, then the form of the answer, which the engine enforces."""
    form = f'Reply with a JSON object {{"result": NUMBER}} where NUMBER is from {lowest:g} to {highest:g}.'
    messages = [{"role": message.role, "content": render(message.text, values)} for message in grader.input]
    sampling = grader.sampling_params.model_dump(exclude_none=True) if grader.sampling_params else {}
    if "max_completions_tokens" in sampling:
        sampling["max_completion_tokens"] = sampling.pop("max_completions_tokens")
    return {
        "model": grader.model,
        "messages": [*messages, {"role": "system", "content": form}],
        "max_completion_tokens": 64,
        **sampling,
        "response_format": {
            "type": "json_schema",
            "json_schema": {
                "name": "score",
                "strict": True,
                "schema": {
                    "type": "object",
                    "properties": {"result": {"type": "number"}},
                    "required": ["result"],
                    "additionalProperties": False,
                },
            },
        },
    }


def _number(text: str) -> float:
    try:
        value = json.loads(text)["result"]
        if isinstance(value, bool) or not math.isfinite(number := float(value)):
            raise ValueError("not a number")
        return number
    except (ValueError, KeyError, TypeError) as exc:
        raise JudgeFailed("model_grader_parse_error") from exc
