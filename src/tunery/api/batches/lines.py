"""The input file of a batch: its requests by where they stand, in the order that they are sent, and what is wrong with
it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from tunery.api.body import MAX_PROMPT_BYTES
from tunery.api.inference import PATHS
from tunery.domain.batches import MAX_INPUT_BYTES, MAX_REQUESTS
from tunery.domain.errors import InvalidRequest
from tunery.domain.json_body import as_list, as_object, read_json
from tunery.texts import say, with_texts

Json = dict[str, Any]

MAX_PROBLEMS = 100  # that are told
MAX_CUSTOM_ID = 512
PREFIX_BYTES = 512  # of prompts, by which those that begin alike come to stand together


@dataclass(frozen=True)
class Place:
    """Where a request stands: its line, from 1, and its bytes."""

    line: int
    offset: int
    num_bytes: int

    def read(self, path: Path) -> bytes:
        with path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.num_bytes)


@dataclass
class Input:
    path: Path
    endpoint: str
    places: list[Place] = field(default_factory=list[Place])
    problems: list[Json] = field(default_factory=list[Json])  # as `errors.data` tells them
    model: str = ""  # that every request names
    num_texts: int = 0  # to be embedded

    def request(self, place: Place) -> Json:
        """`custom_id` and `body` of it."""
        return read_json(place.read(self.path))


def problem(code: str, message: str, *, line: int | None = None, param: str | None = None) -> Json:
    return with_texts({"code": code, "message": message, "param": param, "line": line})


def examine(path: Path, endpoint: str) -> Input:
    """Reads the whole file once and keeps none of it."""
    found = Input(path, endpoint)
    if path.stat().st_size > MAX_INPUT_BYTES:
        found.problems.append(problem("file_too_large", say("error.batch_file_size", most=MAX_INPUT_BYTES)))
        return found
    prompts: dict[int, bytes] = {}  # by line
    known: set[str] = set()
    for place, raw in read_places(path):
        if len(found.places) >= MAX_REQUESTS:
            found.problems = [problem("too_many_tasks", say("error.batch_requests", most=MAX_REQUESTS))]
            return found
        found.places.append(place)
        try:
            prompts[place.line] = _check(raw, known, found)
        except InvalidRequest as exc:
            code = exc.code or "invalid_request"
            found.problems.append(problem(code, exc.message, line=place.line, param=exc.param))
            if len(found.problems) == MAX_PROBLEMS:
                return found
    if not found.places:
        found.problems.append(problem("empty_file", say("error.batch_empty")))
    if not found.problems:
        found.places.sort(key=lambda place: prompts[place.line])
    return found


def read_places(path: Path) -> Iterator[tuple[Place, bytes]]:
    """Those that are not blank. Of one that is too long, only its beginning, which is too long as well."""
    offset, number = 0, 0
    with path.open("rb") as file:
        while raw := file.readline(MAX_PROMPT_BYTES + 1):
            number += 1
            if raw.strip():
                yield Place(number, offset, len(raw)), raw
            while raw and not raw.endswith(b"\n"):
                raw = file.readline(MAX_PROMPT_BYTES + 1)
            offset = file.tell()


def _check(raw: bytes, known: set[str], found: Input) -> bytes:
    """The beginning of the request's prompt. Raises InvalidRequest. What is wrong inside a body is its own answer."""
    if len(raw) > MAX_PROMPT_BYTES:
        raise InvalidRequest(say("error.batch_line_size", most=MAX_PROMPT_BYTES), code="invalid_request")
    try:
        document = read_json(raw.strip())
    except InvalidRequest as exc:
        raise InvalidRequest(say("error.batch_line_json"), code="invalid_json_line") from exc
    line = as_object(document)
    custom_id, url, body = line.get("custom_id"), line.get("url"), line.get("body")
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= MAX_CUSTOM_ID:
        raise InvalidRequest(say("error.batch_custom_id", most=MAX_CUSTOM_ID), param="custom_id")
    if custom_id in known:
        message = say("error.batch_custom_id_twice", custom_id=custom_id)
        raise InvalidRequest(message, param="custom_id", code="duplicate_custom_id")
    known.add(custom_id)
    if line.get("method") != "POST":
        raise InvalidRequest(say("error.batch_method"), param="method")
    if url != found.endpoint:
        message = say("error.batch_url", url=repr(url)[:200], endpoint=found.endpoint)
        raise InvalidRequest(message, param="url", code="url_mismatch")
    if not isinstance(body, dict):
        raise InvalidRequest(say("error.batch_body"), param="body")
    return _check_body(as_object(body), found)


def _check_body(body: Json, found: Input) -> bytes:
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise InvalidRequest(say("error.missing_parameter", param="body.model"), param="body.model")
    found.model = found.model or model
    if model != found.model:
        message = say("error.batch_models", model=model[:200], first=found.model[:200])
        raise InvalidRequest(message, param="body.model", code="model_mismatch")
    for name in ("stream", "background"):
        if body.get(name):
            raise InvalidRequest(say("error.batch_not_streamed", name=name), param=f"body.{name}")
    prompt = body.get("messages") or body.get("input") or body.get("prompt")
    if found.endpoint == PATHS["embedding"]:
        found.num_texts += sum(not isinstance(each, int) for each in as_list(prompt)) or 1
        if found.num_texts > MAX_REQUESTS:
            raise InvalidRequest(say("error.batch_texts", most=MAX_REQUESTS), param="body.input", code="too_many_tasks")
    beginning = [body.get("instructions"), prompt]
    return orjson.dumps(beginning)[:PREFIX_BYTES]
