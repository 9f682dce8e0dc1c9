"""Reads a multipart form as it arrives, so that a file goes to the blob store in pieces and never lies in memory.

Starlette's own form reader writes each file to a temporary folder first, which may be memory and doubles the writing.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from email.utils import collapse_rfc2231_value
from typing import Any

import anyio.from_thread
from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from tunery.domain.errors import InvalidRequest
from tunery.texts import say

MAX_FIELD_BYTES = 64 * 1024
MAX_PARTS = 32
NOT_A_FORM = "This request needs a body of type multipart/form-data with a boundary."


def form(required: list[str], fields: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What the OpenAPI document says of a form: its fields' schemas by name."""
    schema = {"type": "object", "required": required, "properties": fields}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


@dataclass(frozen=True)
class PartHead:
    name: str
    filename: str | None  # None: an ordinary field


@dataclass(frozen=True)
class PartData:
    data: bytes


@dataclass(frozen=True)
class PartEnd:
    pass


Event = PartHead | PartData | PartEnd


class _Collector:
    """The parser calls back; this keeps what it said, in order, until somebody asks."""

    def __init__(self) -> None:
        self.events: deque[Event] = deque()
        self._header_name = b""
        self._header_value = b""
        self._disposition = b""
        self._num_parts = 0

    def callbacks(self) -> dict:
        return {
            "on_part_begin": self._part_begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value_part,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": lambda data, start, end: self.events.append(PartData(bytes(data[start:end]))),
            "on_part_end": lambda: self.events.append(PartEnd()),
        }

    def _part_begin(self) -> None:
        self._disposition = b""
        self._num_parts += 1
        if self._num_parts > MAX_PARTS:
            raise InvalidRequest(say("error.form_too_many_parts", most=MAX_PARTS))

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _header_value_part(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _header_end(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = self._header_value
        self._header_name = self._header_value = b""

    def _headers_finished(self) -> None:
        options = _disposition_options(self._disposition)
        if "name" not in options:
            raise InvalidRequest(say("error.form_part_unnamed"))
        self.events.append(PartHead(options["name"], options.get("filename")))


def _disposition_options(value: bytes) -> dict[str, str]:
    """RFC 7578 forbids `filename*=utf-8''…` here, but urllib3 before 2 and .NET send it: it wins, as in RFC 6266."""
    header = Message()
    header["content-disposition"] = value.decode("latin-1")
    options: dict[str, str] = {}
    for name, option in header.get_params(failobj=[], header="content-disposition")[1:]:
        if isinstance(option, tuple):
            options[name] = collapse_rfc2231_value(option)
        else:
            options.setdefault(name, option.encode("latin-1").decode("utf-8", "replace"))
    return options


def body_chunks(request: Request) -> Iterator[bytes]:
    """The body as it arrives, for a handler that runs in a thread."""
    stream = request.stream()
    while True:
        try:
            chunk = anyio.from_thread.run(anext, stream, b"")
        except ClientDisconnect as exc:
            raise InvalidRequest(say("error.body_incomplete")) from exc
        if not chunk:
            return
        yield chunk


def content_length(request: Request) -> int | None:
    """None when the body comes in chunks, or a server let a number pass that is none."""
    sent = request.headers.get("content-length", "")
    return int(sent) if sent.isascii() and sent.isdigit() and len(sent) < 16 else None


def read_events(request: Request) -> Iterator[Event]:
    """The form's parts in the order of the body. Raises InvalidRequest on a body that is not a complete form."""
    kind, options = parse_options_header(request.headers.get("content-type"))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise InvalidRequest(NOT_A_FORM)
    collector, complete = _Collector(), False

    def on_end() -> None:
        nonlocal complete
        complete = True

    try:
        parser = MultipartParser(boundary, {**collector.callbacks(), "on_end": on_end})  # pyright: ignore[reportArgumentType]
        for chunk in body_chunks(request):
            parser.write(chunk)
            while collector.events:
                yield collector.events.popleft()
    except FormParserError as exc:
        raise InvalidRequest(say("error.form_unreadable", reason=exc)) from exc
    if not complete:
        raise InvalidRequest(say("error.form_incomplete"))


def field_text(events: Iterator[Event]) -> str:
    """The value of the ordinary field whose PartHead was just read."""
    data = b""
    for event in events:
        if isinstance(event, PartEnd):
            break
        if isinstance(event, PartData):
            data += event.data
            if len(data) > MAX_FIELD_BYTES:
                raise InvalidRequest(say("error.field_too_long"))
    try:
        return data.decode()
    except UnicodeDecodeError as exc:
        raise InvalidRequest(say("error.field_not_utf8")) from exc


def file_chunks(events: Iterator[Event]) -> Iterator[bytes]:
    """The content of the file whose PartHead was just read."""
    for event in events:
        if isinstance(event, PartEnd):
            return
        if isinstance(event, PartData):
            yield event.data
