"""Tables and other people's formats → chat JSONL: which column is asked, which answers, which instructions stand
before them.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from tunery.datasets.examples import Message
from tunery.datasets.tables import Record
from tunery.domain.errors import InvalidRequest

# Pairs of column names that people use, the most specific first.
_QUESTIONS = ("user", "prompt", "question", "instruction", "input", "query", "text", "source")
_ANSWERS = ("assistant", "completion", "answer", "output", "response", "label", "target")
_SYSTEMS = ("system", "system_prompt", "system_message")
# The dialect of ShareGPT.
_SPEAKERS = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


@dataclass(frozen=True)
class Mapping:
    """Column names. A record with `messages` or `conversations` needs none of them."""

    user: str = ""
    assistant: str = ""
    system: str = ""  # a column; "" when there is none
    context: str = ""  # a column that follows the user's text: `input` of instruction data


def guess_mapping(record: Record) -> Mapping:
    """From the names of the columns. Raises InvalidRequest that lists them when none is telling."""
    if "messages" in record or "conversations" in record:
        return Mapping()
    by_name = {name.strip().casefold(): name for name in record}
    answer = next((by_name[name] for name in _ANSWERS if name in by_name), "")
    question = next((by_name[name] for name in _QUESTIONS if name in by_name and by_name[name] != answer), "")
    if not question or not answer:
        columns = ", ".join(repr(name) for name in record)
        raise InvalidRequest(
            "Which column is the question and which the answer? Name them with --user and --assistant. "
            f"Columns: {columns}."
        )
    context = by_name.get("input", "") if question.casefold() == "instruction" else ""
    system = next((by_name[name] for name in _SYSTEMS if name in by_name), "")
    return Mapping(question, answer, system, context)


def prepare(
    records: Iterable[Record], mapping: Mapping | None = None, *, system: str = ""
) -> Iterator[dict[str, list[Message]]]:
    """Chat rows. `mapping`: None guesses it from the first record. `system` stands before every row that brings no
    system message of its own. Raises InvalidRequest with the number of a record without a question or an answer, and
    when there is no record at all."""
    number = 0
    for number, record in enumerate(records, 1):
        mapping = mapping or guess_mapping(record)
        try:
            messages = _messages(record, mapping)
        except _Incomplete as exc:
            raise InvalidRequest(f"Row {number}: {exc}") from exc
        if system and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": system}, *messages]
        yield {"messages": messages}
    if not number:
        raise InvalidRequest("The table has no rows.")


class _Incomplete(Exception):
    pass


def _messages(record: Record, mapping: Mapping) -> list[Message]:
    if "messages" in record and not mapping.user:
        return _list_of(record, "messages")
    if "conversations" in record and not mapping.user:
        return [_from_sharegpt(turn) for turn in _list_of(record, "conversations")]
    question, answer = _cell(record, mapping.user), _cell(record, mapping.assistant)
    context = _text(record.get(mapping.context)) if mapping.context else ""
    messages = [
        {"role": "user", "content": f"{question}\n\n{context}" if context else question},
        {"role": "assistant", "content": answer},
    ]
    system = _text(record.get(mapping.system)) if mapping.system else ""
    return [{"role": "system", "content": system}, *messages] if system else messages


def _list_of(record: Record, name: str) -> list[Any]:
    value = record[name]
    if isinstance(value, str):  # a list that went through CSV
        try:
            value = json.loads(value)
        except ValueError:
            value = None
    if not isinstance(value, list) or not value:
        raise _Incomplete(f"{name!r} holds no list of messages.")
    return value


def _from_sharegpt(turn: Any) -> Message:
    speaker = turn.get("from") if isinstance(turn, dict) else None
    if not isinstance(speaker, str) or speaker not in _SPEAKERS or not isinstance(turn.get("value"), str):
        raise _Incomplete(f"this turn is not {{'from': ..., 'value': ...}}: {str(turn)[:60]}")
    return {"role": _SPEAKERS[speaker], "content": turn["value"]}


def _cell(record: Record, column: str) -> str:
    if column not in record:
        raise _Incomplete(f"there is no column {column!r}; there are {', '.join(map(repr, record))}.")
    text = _text(record[column])
    if not text:
        raise _Incomplete(f"the column {column!r} is empty.")
    return text


def _text(value: Any) -> str:
    """Whole numbers in spreadsheets come as 3.0: nobody wants to teach that."""
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value.strip() if isinstance(value, str) else str(value)
