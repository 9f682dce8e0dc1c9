"""How the processes log: lines for people, or one JSON object a line for programs. Never prompts, answers or keys."""

import json
import logging
import sys
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


class _TextFormatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        extras = " ".join(f"{name}={value}" for name, value in _extras(record).items())
        return super().formatMessage(record) + (f" [{extras}]" if extras else "")


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
        return json.dumps(line, ensure_ascii=False, default=str)
