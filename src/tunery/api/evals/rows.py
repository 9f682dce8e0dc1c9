"""The rows of a run: given with it, of a file, or stored answers. A row is read when it is graded; where it stands is
known from the run's start, so that who goes on with a run grades the same rows."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from tunery.api.batches.lines import Place, read_places
from tunery.api.body import MAX_PROMPT_BYTES
from tunery.api.context import Context
from tunery.api.graders.template import sample_of
from tunery.api.tunery.answers.service import ALL, find
from tunery.datasets.answers import Exchange, said
from tunery.datasets.conversations import as_conversation
from tunery.datasets.lines import Line
from tunery.datasets.parse import readable_example
from tunery.datasets.problems import Problem
from tunery.domain.errors import InvalidRequest, NotFound
from tunery.domain.evals import MAX_ROWS, EvalRun
from tunery.domain.json_body import as_list, as_object, read_json
from tunery.domain.responses import StoredResponse
from tunery.store import answers, files, responses
from tunery.store.answers import Wanted
from tunery.store.database import read
from tunery.texts import say

Json = dict[str, Any]


@dataclass(frozen=True)
class EvalRow:
    """`item` and, where the answer is there already, `sample`: what templates name."""

    item: Json
    sample: Json | None = None


@dataclass(frozen=True)
class Rows:
    number: int
    read: Callable[[int], EvalRow]  # raises InvalidRequest, NotFound for what the row itself is wrong in
    answer_ids: list[str] | None = None  # where the rows are stored answers


def open_rows(context: Context, run: EvalRun, config: Json, folder: Path) -> Rows:
    """Raises InvalidRequest for a run that has none, or too many, and NotFound for a file that is gone."""
    source = run.data_source["source"]
    if source["type"] == "file_content":
        content = source["content"]
        rows = Rows(len(content), lambda number: _row(content[number]))
    elif source["type"] == "file_id":
        rows = _of_file(context, run, source["id"], folder)
    else:
        rows = _of_answers(context, run, config)
    if not rows.number:
        raise InvalidRequest(say("error.run_without_rows"), code="no_rows")
    if rows.number > MAX_ROWS:
        raise InvalidRequest(say("error.run_rows", most=MAX_ROWS), code="too_many_rows")
    return rows


def _of_file(context: Context, run: EvalRun, file_id: str, folder: Path) -> Rows:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "rows.jsonl"
    try:
        with read(context.database) as conn:
            file = files.get_file(conn, file_id, run.project_id)
        context.blobs.fetch(file.blob, path)
    except NotFound as exc:
        raise NotFound(say("error.run_file_gone", file_id=file_id), code="file_not_found") from exc
    places: list[Place] = []
    for place, _ in read_places(path):
        places.append(place)
        if len(places) > MAX_ROWS:
            break
    return Rows(len(places), lambda number: _of_line(places[number].read(path)))


def _of_line(raw: bytes) -> EvalRow:
    if len(raw) > MAX_PROMPT_BYTES:
        raise InvalidRequest(say("error.row_size", most=MAX_PROMPT_BYTES), code="invalid_row")
    try:
        found = read_json(raw.strip())
    except InvalidRequest as exc:
        raise InvalidRequest(say("error.row_json"), code="invalid_row") from exc
    if "item" not in as_object(found):
        example = readable_example(Line(1, 1, raw.strip(), len(raw)))
        if not isinstance(example, Problem):  # a row of a training file
            return EvalRow(as_conversation(example).item)
    return _row(found)


def _row(found: Any) -> EvalRow:
    item, sample = as_object(found).get("item"), as_object(found).get("sample")
    if not isinstance(item, dict) or not isinstance(sample, dict | None):
        raise InvalidRequest(say("error.row_no_item"), code="invalid_row")
    return EvalRow(as_object(item), None if sample is None else _completed(as_object(sample)))


def _completed(sample: Json) -> Json:
    """A sample that was given with its row, and what follows from its text."""
    text = sample.get("output_text")
    return {**sample_of(text), **sample} if isinstance(text, str) else sample


# ---- stored answers


def _of_answers(context: Context, run: EvalRun, config: Json) -> Rows:
    ids = run.answer_ids
    if ids is None:
        with read(context.database) as conn:
            ids = _chosen(conn, run, config)

    def row(number: int) -> EvalRow:
        with read(context.database) as conn:
            try:
                found = find(conn, run.project_id, ids[number])
            except NotFound as exc:
                message = say("error.row_answer_gone", answer_id=ids[number])
                raise NotFound(message, code="answer_not_found") from exc
        return EvalRow(_item(found.exchange, found.metadata), _sample(found.exchange))

    return Rows(len(ids), row, ids)


def _chosen(conn: Connection, run: EvalRun, config: Json) -> list[str]:
    """Newest first. Of stored answers those that were there when the run was created."""
    source = run.data_source["source"]
    api = "responses" if source["type"] == "responses" else "chat"
    before = source.get("created_before")
    until = run.created_at if before is None else min(before, run.created_at)
    pairs = {**(config.get("metadata") or {}), **(source.get("metadata") or {})}
    wanted = Wanted(api, source.get("model"), source.get("created_after"), until + 1, pairs)
    most = source.get("limit") or MAX_ROWS + 1
    listed = answers.list_answers(conn, run.project_id, wanted, limit=ALL).items
    if api == "chat":
        return [each.id for each in listed][:most]
    return [each.id for each in listed if _is_meant(conn, run.project_id, each.id, source)][:most]


def _is_meant(conn: Connection, project_id: str, response_id: str, source: Json) -> bool:
    """By what only a response's own object tells."""
    asked = ("instructions_search", "temperature", "top_p", "tools", "users", "reasoning_effort")
    if not any(source.get(name) is not None for name in asked):
        return True
    stored: StoredResponse | None = responses.find_response(conn, response_id, project_id)
    if stored is None:
        return False
    body, search = stored.body, source.get("instructions_search")
    names = {as_object(tool).get("name") for tool in as_list(body.get("tools"))}
    effort = as_object(body.get("reasoning")).get("effort")
    equal = all(source.get(name) in (None, body.get(name)) for name in ("temperature", "top_p"))
    return (
        equal
        and source.get("reasoning_effort") in (None, effort)
        and (search is None or search.casefold() in str(body.get("instructions") or "").casefold())
        and set(source.get("tools") or ()) <= names
        and (not source.get("users") or body.get("user") in source["users"])
    )


def _item(exchange: Exchange, metadata: dict[str, str]) -> Json:
    """`input` has the messages, as OpenAI's rows of stored answers do."""
    request = {name: value for name, value in exchange.request.items() if name != "messages"}
    return {"input": exchange.request["messages"], **request, "metadata": metadata}


def _sample(exchange: Exchange) -> Json | None:
    """None: nothing was answered."""
    if not exchange.answer:
        return None
    content = exchange.answer.get("content")
    return sample_of(content if isinstance(content, str) else said(exchange.answer), exchange.answer)
