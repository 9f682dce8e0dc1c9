"""How the processes log: lines for people, or one JSON object a line for programs. Never prompts, answers or keys."""

import json
import logging
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal

Format = Literal["json", "text"]

_ids: ContextVar[dict[str, str] | None] = ContextVar("ids", default=None)


@contextmanager
def about(**ids: str) -> Iterator[None]:
    """Every record inside the block carries these ids, such as `job_id`."""
    token = _ids.set({**(_ids.get() or {}), **ids})
    try:
        yield
    finally:
        _ids.reset(token)


def configure(log_format: Format, level: int = logging.INFO) -> None:
    """Send the records of this process to stderr. Called once, by the process's entry point."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_add_ids)
    handler.setFormatter(_JsonFormatter() if log_format == "json" else _TextFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # It tells the address of every request that it makes.
    logging.getLogger("httpx").setLevel(logging.WARNING)


def _add_ids(record: logging.LogRecord) -> bool:
    for name, value in (_ids.get() or {}).items():
        record.__dict__.setdefault(name, value)
    return True


# What every record has; the rest came with `about` or `extra`.
_PLAIN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "color_message"}


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in record.__dict__.items() if name not in _PLAIN and value is not None}


# What may change how a line is shown or where it ends: control and format characters, separators of lines, surrogates.
_ODD = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
CONTROL = frozenset({"Cc"})


def escaped(text: str, odd: frozenset[str] = _ODD) -> str:
    """`text` on one line, as it is: each character that could forge a line or its look, written as its escape."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escape(char) if unicodedata.category(char) in odd else char for char in text)


def _escape(char: str) -> str:
    return json.dumps(char)[1:-1] if char != "\x7f" else "\\u007f"


class _TextFormatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        extras = " ".join(f"{name}={value}" for name, value in _extras(record).items())
        return escaped(super().formatMessage(record) + (f" [{extras}]" if extras else ""))

    def formatException(self, ei: Any) -> str:
        """Its lines stay lines; the message of an error may hold what a client sent, so that they are indented."""
        lines = super().formatException(ei).split("\n")
        return "\n".join("  " + escaped(line) for line in lines)


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_extras(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        # In JSON an escape is part of the text: only what JSON itself leaves as it is has to be escaped.
        return escaped(json.dumps(line, ensure_ascii=False, default=str))
