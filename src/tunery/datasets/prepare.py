"""Tables and other people's formats → chat JSONL: which column is asked, which answers, which instructions stand
before them.
"""

import json
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, time
from itertools import chain, islice
from typing import Any

from tunery.chat.examples import Message
from tunery.datasets.tables import Record
from tunery.domain.errors import InvalidRequest

# What people call their columns, the most telling first, as `_plain` writes it.
_QUESTIONS = (
    "user", "prompt", "question", "instruction", "input", "query", "text", "source",
    "質問", "問い合わせ", "問題", "問い", "ユーザー", "プロンプト", "指示", "入力", "原文", "件名", "本文",
    "问题", "提问", "用户", "输入", "指令", "問句", "질문", "문제", "사용자", "입력",
    "frage", "eingabe", "pregunta", "entrada", "pergunta", "domanda", "question posée", "vraag", "pytanie", "вопрос",
)  # fmt: skip
_ANSWERS = (
    "assistant", "completion", "answer", "output", "response", "reply", "label", "target", "category",
    "回答", "答え", "返答", "返信", "応答", "解答", "正解", "出力", "訳文", "分類", "ラベル", "カテゴリ",
    "アシスタント",
    "答案", "答复", "回复", "输出", "标签", "답변", "대답", "정답", "출력",
    "antwort", "ausgabe", "respuesta", "salida", "réponse", "resposta", "risposta", "antwoord", "odpowiedź", "ответ",
)  # fmt: skip
_SYSTEMS = ("system", "system prompt", "system message", "システム", "システムプロンプト", "系统", "系统提示", "시스템")
# The dialect of ShareGPT.
_SPEAKERS = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_BESIDE_MESSAGES = ("tools", "parallel_tool_calls", "functions")  # what else a chat row may hold
_SAMPLE = 50  # records that are looked at before a column is chosen
_MAX_SHOWN = 40


@dataclass(frozen=True)
class Mapping:
    """Column names. A record with `messages` or `conversations` needs none of them."""

    user: str = ""
    assistant: str = ""
    system: str = ""  # a column; "" when there is none
    context: str = ""  # a column that follows the user's text: `input` of instruction data


@dataclass(frozen=True)
class Skipped:
    row: int  # 1-based, the header not counted
    reason: str


class UnclearColumns(InvalidRequest):
    """No column is telling. `columns`: each name with the first thing it holds, for whoever can be asked."""

    def __init__(self, columns: dict[str, str]) -> None:
        self.columns = columns
        shown = ", ".join(f"{name!r} ({value})" if value else repr(name) for name, value in columns.items())
        super().__init__(
            "Which column is the question and which the answer? Name them with --user and --assistant. "
            f"Columns: {shown}."
        )


@dataclass
class Prepared:
    """The chat rows of a table, made while they are iterated, once. A row that lacks its question or answer is left
    out and stands in `skipped`. Raises InvalidRequest at the end when no row was left."""

    mapping: Mapping
    _records: Iterator[Record]
    _system: str = ""
    skipped: list[Skipped] = field(default_factory=list)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        num_rows = 0
        for number, record in enumerate(self._records, 1):
            try:
                row = _row(record, self.mapping, self._system)
            except _Incomplete as exc:
                self.skipped.append(Skipped(number, str(exc)))
                continue
            num_rows += 1
            yield row
        if not num_rows:
            why = f" Row {self.skipped[0].row}: {self.skipped[0].reason}" if self.skipped else ""
            raise InvalidRequest(f"The table has no row with a question and an answer.{why}")


def prepare(records: Iterable[Record], mapping: Mapping | None = None, *, system: str = "") -> Prepared:
    """Chat rows. Without `mapping.user` question and answer are guessed from names and contents of the first records.
    `system` stands before every row that brings no system message of its own. Raises InvalidRequest for a column that
    is not there, and UnclearColumns."""
    rest = iter(records)
    sample = list(islice(rest, _SAMPLE))
    mapping = mapping or Mapping()
    if not mapping.user:
        guessed = guess_mapping(sample)
        mapping = replace(guessed, system=mapping.system or guessed.system)
    for name in (mapping.user, mapping.assistant, mapping.system):
        if name and sample and not any(name in record for record in sample):
            raise InvalidRequest(f"There is no column {name!r}; there are {', '.join(map(repr, sample[0]))}.")
    return Prepared(mapping, chain(sample, rest), system)


def guess_mapping(sample: Sequence[Record]) -> Mapping:
    """By the columns' names first, then by what they hold: where two columns of text remain, the left one asks."""
    columns = list(dict.fromkeys(name for record in sample for name in record))
    if not columns or "messages" in columns or "conversations" in columns:
        return Mapping()
    texts = [name for name in columns if _holds_text(name, sample)]
    answer = _named(_ANSWERS, columns, texts)
    question = _named(_QUESTIONS, [name for name in columns if name != answer], texts)
    system = _named(_SYSTEMS, [name for name in columns if name not in (question, answer)], texts)
    left = [name for name in texts if name not in (question, answer, system)]
    if not question and not answer and len(left) == 2:
        question, answer = left
    elif len(left) == 1 and (question or answer):
        question, answer = question or left[0], answer or left[0]
    if not question or not answer:
        raise UnclearColumns({name: _first(name, sample) for name in columns})
    context = (
        next((name for name in columns if _plain(name) == "input"), "") if _plain(question) == "instruction" else ""
    )
    return Mapping(question, answer, system, "" if context == answer else context)


def _named(known: Sequence[str], columns: Sequence[str], texts: Sequence[str]) -> str:
    """A column that is called so; else one of text whose name holds such a word."""
    plain = {name: _plain(name) for name in columns}
    for word in known:
        for name in columns:
            if plain[name] == word:
                return name
    for word in known:
        for name in columns:
            if name in texts and _has_word(plain[name], word):
                return name
    return ""


def _has_word(name: str, word: str) -> bool:
    return word in name if not word.isascii() else word in name.split(" ")


def _plain(name: str) -> str:
    """`User_Question` → `user question`; full-width letters become ordinary ones."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    return " ".join("".join(letter if letter.isalnum() else " " for letter in folded).split())


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
    pass


def _row(record: Record, mapping: Mapping, system: str) -> dict[str, Any]:
    messages = _messages(record, mapping)
    if system and not (isinstance(messages[0], dict) and messages[0].get("role") == "system"):
        messages = [{"role": "system", "content": system}, *messages]
    if mapping.user:
        return {"messages": messages}
    return {"messages": messages, **{name: record[name] for name in _BESIDE_MESSAGES if name in record}}


def _messages(record: Record, mapping: Mapping) -> list[Message]:
    if not mapping.user:
        if "messages" in record:
            return _list_of(record, "messages")
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
    value = record.get(name)
    if isinstance(value, str):  # a list that went through CSV
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
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
    text = _text(record.get(column))
    if not text:
        raise _Incomplete(f"the column {column!r} is empty.")
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
