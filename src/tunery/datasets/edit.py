"""A dataset with rows changed, removed and added, and text replaced throughout: line by line, whatever its size."""

import json
import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from tunery.datasets.jsonline import BOM
from tunery.datasets.lines import MAX_LINE_BYTES, Line
from tunery.domain.errors import InvalidRequest
from tunery.texts import say

Row = dict[str, Any]
Kind = Literal["kept", "changed", "removed", "added"]
Where = Literal["system", "user", "assistant", "all"]
MAX_RUNS = 20_000  # of a difference: beyond that it is too scattered to be kept
_LISTS = ("messages", "preferred_output", "non_preferred_output")


@dataclass(frozen=True)
class Replacement:
    """Of a text in messages of a role; developer counts as system."""

    find: str
    put: str
    where: Where = "system"
    any_case: bool = False

    @property
    def pattern(self) -> re.Pattern[str]:
        return re.compile(re.escape(self.find), re.IGNORECASE if self.any_case else 0)


@dataclass(frozen=True)
class Edits:
    """By the 1-based lines of the file that was looked at."""

    changed: Mapping[int, Row] = field(default_factory=dict)
    removed: frozenset[int] = frozenset()
    added: Mapping[int, list[Row]] = field(default_factory=dict)  # behind this line; 0: before the first
    replacement: Replacement | None = None

    @property
    def lines(self) -> set[int]:
        return {*self.changed, *self.removed, *self.added} - {0}


@dataclass(frozen=True, slots=True)
class Step:
    """One row on its way. `line` is of the file before, `new_line` of the one after; 0: it is not there."""

    kind: Kind
    line: int
    new_line: int
    before: bytes  # without line break
    after: bytes
    num_replaced: int = 0


def edit(lines: Iterable[Line], edits: Edits) -> Iterator[Step]:
    """Every row in order. Rows that are not touched keep their bytes. Raises InvalidRequest for a line that is not
    there or holds no row, and for a file that cannot be kept as it is."""
    pattern = edits.replacement.pattern if edits.replacement else None
    waiting, new_line = edits.lines, 0

    def write(kind: Kind, line: int, before: bytes, row: Row | None, content: bytes) -> Step:
        nonlocal new_line
        new_line += 1
        num_replaced = 0
        if pattern is not None and edits.replacement is not None:
            known = row if row is not None else as_row(content)
            made, num_replaced = _replaced(known, edits.replacement, pattern) if known is not None else (None, 0)
            row = made if num_replaced else row
        content = content if row is None else _written(row)
        kind = "changed" if kind == "kept" and content != before else kind
        return Step(kind, line, new_line, before, content, num_replaced)

    for row in edits.added.get(0, ()):
        yield write("added", 0, b"", row, b"")
    for line in lines:
        if line.is_too_long:
            raise InvalidRequest(say("edit.line_too_long", line=line.number))
        if line.is_blank and line.number in edits.lines:
            raise InvalidRequest(say("edit.no_line", line=line.number), param="edits")
        waiting.discard(line.number)
        if line.number in edits.removed:
            yield Step("removed", line.number, 0, line.content, b"")
        else:
            yield write("kept", line.number, line.content, edits.changed.get(line.number), line.content)
        for row in edits.added.get(line.number, ()):
            yield write("added", 0, b"", row, b"")
    if waiting:
        raise InvalidRequest(say("edit.no_line", line=min(waiting)), param="edits")


def as_row(content: bytes) -> Row | None:
    try:
        row = orjson.loads(content.removeprefix(BOM)) if content else None
    except orjson.JSONDecodeError:
        return None
    return row if isinstance(row, dict) else None


def _written(row: Row) -> bytes:
    """Half a pair of surrogates stays the escape that it was."""
    content = json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace")
    if len(content) > MAX_LINE_BYTES:
        raise InvalidRequest(say("problem.line_too_long", size=len(content), most=MAX_LINE_BYTES), param="edits")
    return content


def _replaced(row: Row, wish: Replacement, pattern: re.Pattern[str]) -> tuple[Row, int]:
    """The row with the text replaced, and how often."""
    count = 0

    def put(text: Any) -> Any:
        nonlocal count
        if not isinstance(text, str):
            return text
        made, num = pattern.subn(lambda _: wish.put, text)
        count += num
        return made

    def in_part(part: Any) -> Any:
        return {**part, "text": put(part["text"])} if isinstance(part, dict) and "text" in part else part

    def in_message(message: Any) -> Any:
        if not isinstance(message, dict) or not _is_meant(message.get("role"), wish.where):
            return message
        content = message.get("content")
        return {**message, "content": [*map(in_part, content)] if isinstance(content, list) else put(content)}

    made = dict(row)
    for name in _LISTS:
        if isinstance(row.get(name), list):
            made[name] = [*map(in_message, row[name])]
    if isinstance(asked := row.get("input"), dict) and isinstance(asked.get("messages"), list):
        made["input"] = {**asked, "messages": [*map(in_message, asked["messages"])]}
    for name, role in (("prompt", "user"), ("completion", "assistant")):
        if name in row and wish.where in (role, "all"):
            made[name] = put(row[name])
    return made, count


def _is_meant(role: Any, where: Where) -> bool:
    return where == "all" or role == where or (role, where) == ("developer", "system")


# ---- what became another
Runs = list[list[int]]


@dataclass
class Difference:
    """Of a file from the one it was made of. Runs are [first line, number of lines]; of changed rows [line before, line
    after, number]."""

    removed: Runs = field(default_factory=list)
    added: Runs = field(default_factory=list)
    changed: Runs = field(default_factory=list)

    def note(self, step: Step) -> None:
        if step.kind == "removed":
            _extend(self.removed, [step.line])
        elif step.kind == "added":
            _extend(self.added, [step.new_line])
        elif step.kind == "changed":
            _extend(self.changed, [step.line, step.new_line])

    @property
    def counts(self) -> tuple[int, int, int]:
        """Rows added, removed and changed."""
        return tuple(sum(run[-1] for run in runs) for runs in (self.added, self.removed, self.changed))  # type: ignore[return-value]

    @property
    def is_scattered(self) -> bool:
        return len(self.removed) + len(self.added) + len(self.changed) > MAX_RUNS

    def old_lines(self) -> set[int]:
        return {line for first, *_, num in (*self.removed, *self.changed) for line in range(first, first + num)}

    def new_lines(self) -> set[int]:
        runs = [*self.added, *(run[1:] for run in self.changed)]
        return {line for first, num in runs for line in range(first, first + num)}


def _extend(runs: Runs, lines: list[int]) -> None:
    last = runs[-1] if runs else None
    if last is not None and all(line == first + last[-1] for line, first in zip(lines, last, strict=False)):
        last[-1] += 1
    else:
        runs.append([*lines, 1])


class Carrier:
    """Where the lines of a file stand in the one that was made of it."""

    def __init__(self, difference: Difference) -> None:
        self._removed = sorted(line for first, num in difference.removed for line in range(first, first + num))
        added = sorted(line for first, num in difference.added for line in range(first, first + num))
        self._before_added = [line - 1 - at for at, line in enumerate(added)]  # lines from before that stand above it
        self._changed = {line for first, _, num in difference.changed for line in range(first, first + num)}

    def carry(self, line: int) -> int | None:
        """None: it was removed."""
        at = bisect_left(self._removed, line)
        if at < len(self._removed) and self._removed[at] == line:
            return None
        place = line - at  # among the lines that came from before
        return place + bisect_left(self._before_added, place)

    def before(self, line: int) -> int:
        """Of the nearest line at or above this one that is still there; 0: none is."""
        while line:
            if (carried := self.carry(line)) is not None:
                return carried
            line -= 1
        return 0

    def is_changed(self, line: int) -> bool:
        return line in self._changed


Prefer = Literal["mine", "theirs"]


class ChangedToo(InvalidRequest):
    """Somebody else has changed or removed the same rows."""

    def __init__(self, lines: list[int]) -> None:
        shown = ", ".join(map(str, lines[:20])) + (", …" if len(lines) > 20 else "")
        super().__init__(say("edit.changed_too", lines=shown), param="onto", code="rows_changed_too")


def carry_over(edits: Edits, difference: Difference, prefer: Prefer | None) -> Edits:
    """The same edits for the file that came of it. Raises ChangedToo when both have touched a row and none is
    preferred."""
    carrier = Carrier(difference)
    mine = sorted({*edits.changed, *edits.removed})
    both = [line for line in mine if carrier.is_changed(line) or carrier.carry(line) is None]
    both = [line for line in both if not (line in edits.removed and carrier.carry(line) is None)]
    if both and prefer is None:
        raise ChangedToo(both)
    dropped = set(both) if prefer == "theirs" else set()
    changed: dict[int, Row] = {}
    added: defaultdict[int, list[Row]] = defaultdict(list)
    for line, row in sorted(edits.changed.items()):
        if line in dropped:
            continue
        carried = carrier.carry(line)
        if carried is None:
            added[carrier.before(line)].append(row)
        else:
            changed[carried] = row
    for line, rows in sorted(edits.added.items()):
        added[carrier.before(line)] += rows
    removed = {carrier.carry(line) for line in edits.removed if line not in dropped} - {None}
    return Edits(changed, frozenset(removed), dict(added), edits.replacement)  # type: ignore[arg-type]
