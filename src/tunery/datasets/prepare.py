"""Tables and other people's formats → chat JSONL, or pairs where one answer was chosen and one rejected: which column
is asked, which answers, which instructions stand before them.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, time
from itertools import chain, islice
from typing import Any

from tunery.chat.examples import Message
from tunery.datasets.columns import has_word, is_part, known_names, plain
from tunery.datasets.message_rules import KEYS
from tunery.datasets.tables import Record
from tunery.domain.errors import InvalidRequest
from tunery.domain.json_body import as_object
from tunery.texts import Text, say

_ABBREVIATED = ("q", "a")  # too short to tell anything but side by side
_SAID = re.compile(r"(?:^|\n\n)(Human|Assistant):")
# ShareGPT's names of speakers, and those of transcripts.
_SPEAKERS = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_SPEAKERS |= dict.fromkeys(("customer", "client", "q", "ユーザー", "お客様", "顧客", "質問", "用户", "客户"), "user")
_SPEAKERS |= dict.fromkeys(
    ("agent", "ai", "bot", "support", "a", "アシスタント", "担当者", "回答", "助手"), "assistant"
)
_SPEAKER = re.compile(rf"(?im)^({'|'.join(map(re.escape, _SPEAKERS))})[:：]")
_BESIDE_MESSAGES = ("tools", "parallel_tool_calls", "functions")  # what else a chat row may hold
SAMPLE = 50  # records that are looked at before a column is chosen
_MAX_SHOWN = 40
_LEAST_WORDS = 3  # of a cell that says something; where no spaces stand, so many letters:
_LEAST_LETTERS = 6
_QUESTION_MARKS = ("?", "？", "؟", "か。", "か")


@dataclass(frozen=True)
class Mapping:
    """Column names. A record with `messages` or `conversations` needs none of them."""

    user: str = ""
    assistant: str = ""
    system: str = ""  # a column; "" when there is none
    context: str = ""  # a column that follows the user's text: `input` of instruction data
    rejected: str = ""  # a column of worse answers, which makes pairs; the others then may hold whole conversations
    history: str = ""  # a column of earlier turns, between the instructions and the question


@dataclass(frozen=True)
class Skipped:
    row: int  # 1-based, the header not counted
    reason: Text


class UnclearColumns(InvalidRequest):
    """No column is telling. `columns`: each name with the first thing it holds, for whoever can be asked."""

    def __init__(self, columns: dict[str, str]) -> None:
        self.columns = columns
        shown = ", ".join(f"{name!r} ({value})" if value else repr(name) for name, value in columns.items())
        super().__init__(say("table.unclear", columns=shown), param="columns")


@dataclass
class Prepared:
    """The rows that a table makes, made while they are iterated, once. A row that lacks its question or answer is left
    out and stands in `skipped`. Raises InvalidRequest at the end when no row was left."""

    mapping: Mapping
    _records: Iterator[Record]
    _system: str = ""
    skipped: list[Skipped] = field(default_factory=list)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        num_rows = 0
        for _, made in self.outcomes():
            if isinstance(made, Skipped):
                self.skipped.append(made)
                continue
            num_rows += 1
            yield made
        if not num_rows:
            raise no_rows(self.skipped[0] if self.skipped else None)

    def outcomes(self) -> Iterator[tuple[Record, dict[str, Any] | Skipped]]:
        """Each row of the table with what it makes, or why it makes nothing. Nothing is counted."""
        make = _pair if self.mapping.rejected else _row
        for number, record in enumerate(self._records, 1):
            try:
                yield record, make(record, self.mapping, self._system)
            except _Incomplete as exc:
                yield record, Skipped(number, exc.reason)


def no_rows(first: Skipped | None) -> InvalidRequest:
    """`first`: of those that were left out."""
    if first is None:
        return InvalidRequest(say("table.no_rows"), code="no_rows")
    return InvalidRequest(say("table.no_rows_because", row=first.row, reason=first.reason), code="no_rows")


def prepare(records: Iterable[Record], mapping: Mapping | None = None, *, system: str = "") -> Prepared:
    """Chat rows or pairs. Without `mapping.user` question and answer are guessed from names and contents of the first
    records. `system` stands before every row that brings no system message of its own. Raises InvalidRequest for a
    column that is not there, and UnclearColumns."""
    rest = iter(records)
    sample = list(islice(rest, SAMPLE))
    mapping = mapping or Mapping()
    if not mapping.user:
        guessed = guess_mapping(sample)
        kept = {name: getattr(mapping, name) for name in ("system", "rejected", "history")}
        mapping = replace(guessed, **{name: value for name, value in kept.items() if value})
    for name in vars(mapping).values():
        if name and sample and not any(name in record for record in sample):
            known = ", ".join(map(repr, sample[0]))
            raise InvalidRequest(say("table.no_column", column=name, columns=known), param="columns")
    return Prepared(mapping, chain(sample, rest), system)


def guess_mapping(sample: Sequence[Record]) -> Mapping:
    """By the columns' names first, then by what they hold: which one asks, which ones say more than a word, and where
    two are left, the left one asks."""
    columns = list(dict.fromkeys(name for record in sample for name in record))
    history = next((name for name in columns if _holds_history(name, sample)), "")
    columns = [name for name in columns if name != history]
    texts = [name for name in columns if _holds_text(name, sample)]
    sayings = [name for name in texts if _share(_says_something, name, sample) > 0.5]
    chosen, rejected = (
        next((name for name in columns if plain(name) in known_names()[role]["telling"]), "")
        for role in ("chosen", "rejected")
    )
    if chosen and rejected:
        left = [name for name in columns if name not in (chosen, rejected)]
        question, system = (_named(role, left, texts, sayings) for role in ("question", "system"))
        return Mapping(question, chosen, system, _context(question, left), rejected, history)
    if not columns or "messages" in columns or "conversations" in columns:
        return Mapping()
    question, answer = (next((name for name in columns if plain(name) == each), "") for each in _ABBREVIATED)
    if not question or not answer:
        answer = _named("answer", columns, texts, sayings)
        question = _named("question", [name for name in columns if name != answer], texts, sayings)
    system = _named("system", [name for name in columns if name not in (question, answer)], texts, sayings)
    left = [name for name in texts if name not in (question, answer, system)]
    asking = [name for name in left if _share(_asks, name, sample) > 0.5]
    if not question and len(asking) == 1:
        (question,) = asking
        left.remove(question)
    for pool in (left, [name for name in left if name in sayings]):
        if not question and not answer and len(pool) == 2:
            question, answer = pool
        elif len(pool) == 1 and (question or answer):
            question, answer = question or pool[0], answer or pool[0]
    if not question or not answer:
        raise UnclearColumns({name: _first(name, sample) for name in columns})
    context = _context(question, columns)
    return Mapping(question, answer, system, "" if context == answer else context, history=history)


def _context(question: str, columns: Sequence[str]) -> str:
    """`input` of instruction data."""
    return next((name for name in columns if plain(name) == "input" and plain(question) == "instruction"), "")


def _named(role: str, columns: Sequence[str], texts: Sequence[str], sayings: Sequence[str]) -> str:
    """A column that is called so; else one of text whose name holds such a word. See columns.toml."""
    known, plainly = known_names()[role], {name: plain(name) for name in columns}
    tries = [("telling", columns, str.__eq__)]
    tries += [("telling", pool, fits) for fits in (has_word, is_part) for pool in (sayings, texts)]
    tries += [("others", sayings, fits) for fits in (str.__eq__, has_word, is_part)]
    tries += [("short", texts, fits) for fits in (str.__eq__, has_word)]
    for kind, pool, fits in tries:
        for word in known.get(kind, ()):
            for name in columns:
                if name in pool and fits(plainly[name], word):
                    return name
    return ""


def _share(is_so: Callable[[str], bool], column: str, sample: Sequence[Record]) -> float:
    """Of the cells that are filled. 0 when none is."""
    cells = [cell for record in sample if (cell := _text(record.get(column)))]
    return sum(map(is_so, cells)) / len(cells) if cells else 0.0


def _says_something(cell: str) -> bool:
    return len(cell.split()) >= _LEAST_WORDS or (not cell.isascii() and len(cell) >= _LEAST_LETTERS)


def _asks(cell: str) -> bool:
    return cell.endswith(_QUESTION_MARKS)


def _holds_text(column: str, sample: Sequence[Record]) -> bool:
    """Words, not numbers, dates or codes, in more than half of the cells."""
    cells = [_text(record.get(column)) for record in sample]
    return 2 * sum(any(map(str.isalpha, cell)) and not _is_code(cell) for cell in cells) > len(cells)


def _is_code(cell: str) -> bool:
    """`A-17`, `2026-01-02T10:00Z`."""
    return cell.isascii() and len(cell.split()) == 1 and any(map(str.isdigit, cell))


def _first(column: str, sample: Sequence[Record]) -> str:
    text = next(filter(None, (" ".join(_text(record.get(column)).split()) for record in sample)), "")
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 1] + "…"


class _Incomplete(Exception):
    def __init__(self, key: str, **values: str) -> None:
        self.reason = say(f"table.{key}", **values)


def _row(record: Record, mapping: Mapping, system: str) -> dict[str, Any]:
    messages = _messages(record, mapping, mapping.assistant, system)
    beside = {} if mapping.user else {name: record[name] for name in _BESIDE_MESSAGES if name in record}
    return {"messages": messages, **beside}


def _pair(record: Record, mapping: Mapping, system: str) -> dict[str, Any]:
    answers = (mapping.assistant, mapping.rejected)
    (*asked, chosen), (*also_asked, rejected) = (_messages(record, mapping, name, system) for name in answers)
    if asked != also_asked:
        raise _Incomplete("two_conversations")
    if not asked or asked[-1].get("role") not in ("user", "tool"):
        raise _Incomplete("no_question")
    if not chosen.get("role") == rejected.get("role") == "assistant":
        raise _Incomplete("no_assistant")
    given = _decoded(record.get(mapping.user))
    beside = {**record, **(given if isinstance(given, dict) else {})}
    tools = {name: beside[name] for name in _BESIDE_MESSAGES if name in beside}
    return {
        "input": {"messages": asked, **tools},
        "preferred_output": [chosen],
        "non_preferred_output": [rejected],
    }


def _messages(record: Record, mapping: Mapping, answer: str, system: str) -> list[Message]:
    """`answer`: the column of the answer, which may be the whole conversation."""
    if mapping.user or mapping.rejected:
        messages = _conversation(record, answer, "assistant")
        if len(messages) == 1 and mapping.user:
            asked = _conversation(record, mapping.user, "user")
            messages = [*_history(record.get(mapping.history), mapping.history), *asked, *messages]
        context = _text(record.get(mapping.context)) if mapping.context else ""
        if context:
            question = messages[-2]
            messages[-2] = {**question, "content": f"{question['content']}\n\n{context}"}
        system = (_text(record.get(mapping.system)) if mapping.system else "") or system
    else:
        messages = _conversation(record, "messages" if "messages" in record else "conversations", "")
    if system and messages[0].get("role") != "system":
        return [{"role": "system", "content": system}, *messages]
    return messages


def _conversation(record: Record, column: str, role: str) -> list[Message]:
    """The messages that a cell holds, of OpenAI's or ShareGPT's form; of plain text one, said by `role`."""
    value = _decoded(record.get(column))
    turns = value.get("messages", [value]) if isinstance(value, dict) else value
    if isinstance(turns, list) and turns and all(map(_is_turn if role else as_object, turns)):
        return [turn if "role" in turn else _from_sharegpt(turn) for turn in turns]
    if not role:
        raise _Incomplete("no_messages", column=column)
    return [{"role": role, "content": _cell(record, column)}]


def _history(cell: Any, column: str) -> list[Message]:
    """A list of messages or of pairs, as JSON or as it is, or a transcript with a name before each turn."""
    if not _text(cell):
        return []
    value = _decoded(cell)
    if isinstance(value, list):
        if all(map(_is_pair, value)):
            roles = ("user", "assistant")
            turns = [{"role": role, "content": said} for pair in value for role, said in zip(roles, pair, strict=True)]
            return [turn for turn in turns if turn["content"]]
        if all(map(_is_turn, value)):
            return [turn if "role" in turn else _from_sharegpt(turn) for turn in value]
    first, *said = _SPEAKER.split(value.strip()) if isinstance(value, str) else ("?",)
    if first or not said:
        raise _Incomplete("no_history", column=column)
    turns = zip(said[::2], said[1::2], strict=True)
    return [{"role": _SPEAKERS[who.casefold()], "content": what.strip()} for who, what in turns if what.strip()]


def _holds_history(column: str, sample: Sequence[Record]) -> bool:
    if plain(column) not in known_names()["history"]["telling"]:
        return False
    cells = [cell for record in sample if _text(cell := record.get(column))]
    try:
        return bool(cells) and all(_history(cell, column) for cell in cells)
    except _Incomplete:
        return False


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(each, str) for each in value)


def _is_turn(value: Any) -> bool:
    """An answer may be an object, too."""
    turn = as_object(value)
    return {"from", "value"} <= turn.keys() or ("content" in turn and str(turn.get("role")) in KEYS)


def _decoded(value: Any) -> Any:
    """A list of messages that was written as text: as JSON, or as in `hh-rlhf`."""
    text = value.lstrip() if isinstance(value, str) else ""
    if text[:1] in ("[", "{"):
        with suppress(ValueError, RecursionError):
            return json.loads(text)
    if text.startswith("Human:") and len(said := _SAID.split(text)) > 3:
        return [{"from": who.lower(), "value": what.strip()} for who, what in zip(said[1::2], said[2::2], strict=True)]
    return value


def _from_sharegpt(turn: Message) -> Message:
    speaker = turn.get("from")
    if not isinstance(speaker, str) or speaker not in _SPEAKERS or not isinstance(turn.get("value"), str):
        raise _Incomplete("odd_turn", turn=str(turn)[:60])
    return {"role": _SPEAKERS[speaker], "content": turn["value"]}


def _cell(record: Record, column: str) -> str:
    text = _text(record.get(column))
    if not text:
        raise _Incomplete("empty_cell", column=column)
    return text


def _text(value: Any) -> str:
    """As people write it. Whole numbers in spreadsheets come as 3.0, dates as midnight: nobody wants to teach that."""
    match value:
        case None:
            return ""
        case str():
            return value.strip()
        case bool() | dict() | list():
            return json.dumps(value, ensure_ascii=False, default=_text)
        case float():
            return "" if value != value else str(int(value)) if value.is_integer() else str(value)
        case datetime():
            return str(value if value.time() != time() else value.date())
        case bytes():
            return value.decode("utf-8", "replace").strip()
    return str(value)
