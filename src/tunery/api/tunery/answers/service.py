"""Stored answers read as chats, looked through, and written as rows of a training file."""

from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import orjson
from sqlalchemy import Connection

from tunery.api.context import Context
from tunery.api.tunery.answers.schemas import AnswerDetail, AnswerOut, Correction, DatasetCreate, UsedOut
from tunery.datasets.answers import Exchange, of_completion, of_response, own_part, said, training_row
from tunery.domain.errors import InvalidRequest, NotFound
from tunery.domain.files import MAX_FILE_BYTES
from tunery.domain.ids import PREFIXES
from tunery.domain.json_body import as_object
from tunery.domain.responses import StoredResponse
from tunery.domain.usage import PICO
from tunery.engines.pool import Target, resolve
from tunery.store import answers, completions, conversations, responses
from tunery.store.answers import Listed, Wanted
from tunery.store.database import read
from tunery.texts import say

MAX_SHOWN = 300  # characters of question and answer in a list
BATCH = 100  # answers that are listed at once
ALL = 10**9
# One request looks through no more: whoever searches on asks for the next page.
MAX_SEARCHED = 1_000
MAX_SEARCHED_CHARACTERS = 16 * 1024 * 1024


@dataclass(frozen=True)
class Found:
    listed: Listed
    exchange: Exchange
    metadata: dict[str, str]


@dataclass(frozen=True)
class Answers:
    """A page, and where the next one begins."""

    items: list[Found]
    next: str | None
    num_searched: int


def find(conn: Connection, project_id: str, answer_id: str) -> Found:
    """With all that the model was to see. Raises NotFound."""
    if not answer_id.startswith(PREFIXES["response"]):
        return _completion(conn, project_id, answer_id)
    stored = responses.get_response(conn, answer_id, project_id)
    earlier, is_whole = _earlier(conn, stored)
    own, output = (responses.items_of(conn, answer_id, direction=way) for way in ("input", "output"))
    return _response(stored, of_response(stored, earlier + own, output, is_whole=is_whole))


def _completion(conn: Connection, project_id: str, answer_id: str) -> Found:
    stored = completions.get_completion(conn, answer_id, project_id)
    listed = Listed(stored.id, "chat", stored.created_at, stored.model)
    return Found(listed, of_completion(stored), stored.metadata or {})


def _response(stored: StoredResponse, exchange: Exchange) -> Found:
    return Found(Listed(stored.id, "responses", stored.created_at, stored.model), exchange, stored.metadata or {})


def _earlier(conn: Connection, stored: StoredResponse) -> tuple[list[dict[str, object]], bool]:
    """What came before a response's own input, and whether all of it is still there."""
    if stored.previous_response_id is not None:
        links = responses.chain(conn, stored.previous_response_id, stored.project_id)
        is_whole = bool(links) and links[-1].previous_response_id is None
        return responses.items_of(conn, *(link.id for link in links)), is_whole
    conversation = as_object(stored.body.get("conversation")).get("id")
    if conversation is None:
        return [], True
    try:
        conversations.get_conversation(conn, conversation, stored.project_id)
    except NotFound:  # its items go when the janitor comes
        return [], False
    return conversations.items_before(conn, conversation, stored.id), True


def _own_part(conn: Connection, project_id: str, listed: Listed) -> Found:
    if listed.api == "chat":
        return _completion(conn, project_id, listed.id)
    stored = responses.get_response(conn, listed.id, project_id)
    own, output = (responses.items_of(conn, listed.id, direction=way) for way in ("input", "output"))
    return _response(stored, own_part(stored, own, output))


def page(conn: Connection, project_id: str, wanted: Wanted, search: str, after: str | None, limit: int) -> Answers:
    """Newest first. A search ends where it has looked at as much as one request may."""
    found: list[Found] = []
    needle, num_searched, num_characters, last = search.casefold(), 0, 0, after
    while limit:
        batch = answers.list_answers(conn, project_id, wanted, after=last, limit=BATCH if needle else limit)
        for index, listed in enumerate(batch.items, 1):
            one = _own_part(conn, project_id, listed)
            texts = one.exchange.texts
            last, num_searched, num_characters = listed.id, num_searched + 1, num_characters + sum(map(len, texts))
            if not needle or any(needle in text.casefold() for text in texts):
                found.append(one)
            is_enough = num_searched == MAX_SEARCHED or num_characters > MAX_SEARCHED_CHARACTERS
            if len(found) == limit or (needle and is_enough):
                has_more = index < len(batch.items) or batch.has_more
                return Answers(found, last if has_more else None, num_searched)
        if not batch.has_more:
            break
    return Answers(found, None, num_searched)


# ---- on the wire


class Names:
    """What the names of models mean today; each is looked up once."""

    def __init__(self, context: Context, conn: Connection, project_id: str) -> None:
        self._context, self._conn, self._project_id = context, conn, project_id
        self._known: dict[str, Target | None] = {}

    def wire(self, found: Found) -> AnswerOut:
        exchange, target = found.exchange, self._target(found.listed.model)
        asked = exchange.texts[:-1]
        usage, prices = exchange.usage, self._context.prices
        price = prices.price_of(target.weights_name if target else found.listed.model, found.listed.created_at)
        is_here = target is not None and target.upstream is None
        return AnswerOut(
            **found.listed._asdict(),
            answered_by=target.weights_name if target else None,
            weights=self._context.catalog.weights_of(target.source) if target and is_here else None,
            status=exchange.status,
            problem=exchange.problem,
            asked=asked[-1][:MAX_SHOWN] if asked else "",
            answered=exchange.texts[-1][:MAX_SHOWN],
            metadata=found.metadata,
            usage=UsedOut.model_validate(usage, from_attributes=True) if usage else None,
            cost=price.cost(usage).total / PICO if usage else None,
            currency=prices.currency,
        )

    def wire_whole(self, found: Found) -> AnswerDetail:
        exchange = found.exchange
        tools = exchange.request.get("tools") or [
            {"type": "function", "function": function} for function in exchange.request.get("functions") or ()
        ]
        return AnswerDetail(
            **self.wire(found).model_dump(),
            messages=exchange.request["messages"],
            answer=exchange.answer,
            tools=tools,
            error=exchange.error,
        )

    def _target(self, model: str) -> Target | None:
        if model not in self._known:
            try:
                self._known[model] = resolve(self._conn, self._context.catalog, model, self._project_id)
            except NotFound:  # it was deleted since
                self._known[model] = None
        return self._known[model]


# ---- as a training file


def write_rows(rows: Iterator[Exchange | str], path: Path, left_out: Counter[str]) -> Generator[int, None, int]:
    """A line for each that can be one; the others, and those of which only the reason is known, are counted in
    `left_out`. Yields the bytes written so far, returns the number of lines. Raises InvalidRequest when they are more
    than a file may have."""
    num_bytes, num_rows = 0, 0
    with path.open("wb") as file:
        for exchange in rows:
            if reason := exchange if isinstance(exchange, str) else exchange.problem:
                left_out[reason] += 1
            elif not isinstance(exchange, str):
                line = orjson.dumps(training_row(exchange.request, exchange.answer)) + b"\n"
                num_bytes, num_rows = num_bytes + len(line), num_rows + 1
                if num_bytes > MAX_FILE_BYTES:
                    raise InvalidRequest(say("error.rows_too_large", most=MAX_FILE_BYTES), code="file_too_large")
                file.write(line)
            yield num_bytes
    return num_rows


def chosen(context: Context, project_id: str, asked: DatasetCreate) -> Iterator[Exchange | str]:
    """As they were corrected, or why one is not there. Each in a short transaction of its own."""
    not_chosen = set(asked.without)
    ids = list(dict.fromkeys(asked.ids)) if asked.ids is not None else _matching(context, project_id, asked)
    for answer_id in ids:
        if answer_id in not_chosen:
            yield "not_chosen"
            continue
        with read(context.database) as conn:
            try:
                exchange = find(conn, project_id, answer_id).exchange
            except NotFound:
                exchange = "gone"
        correction = asked.corrections.get(answer_id)
        yield _corrected(exchange, correction) if correction and isinstance(exchange, Exchange) else exchange


def _matching(context: Context, project_id: str, asked: DatasetCreate) -> list[str]:
    """The ids of all, of one moment: what is deleted meanwhile ends no page early."""
    ids: list[str] = []
    after: str | None = None
    with read(context.database) as conn:
        if not asked.search:
            return [listed.id for listed in answers.list_answers(conn, project_id, asked.wanted, limit=ALL).items]
        while True:
            batch = page(conn, project_id, asked.wanted, asked.search, after, BATCH)
            ids += [found.listed.id for found in batch.items]
            if batch.next is None:
                return ids
            after = batch.next


def _corrected(exchange: Exchange, correction: Correction) -> Exchange:
    """Still no row without its question: that an earlier part is gone no answer mends."""
    changed = correction.model_dump(exclude_none=True)
    replaced = ("function_call",) if "tool_calls" in changed else ("refusal",)
    kept = {name: value for name, value in exchange.answer.items() if name not in replaced}
    answer = {"role": "assistant", "content": None, **kept, **changed}
    problem = "earlier_gone" if exchange.problem == "earlier_gone" else None if said(answer) else "no_answer"
    return replace(exchange, answer=answer, problem=problem)
