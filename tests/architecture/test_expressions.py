"""No regular expression of ours backtracks: the texts they run on are mostly the clients'.

Python's `re` tries every way to share a text between two repeats that take the same characters. Every expression in the
source is found by its syntax tree and taken apart; what could take more than linear time is refused:

- a repeat of anything but one set of characters (so none inside another);
- two repeats behind each other that share a character;
- a repeat without an end (or longer than 64) that shares a character with what follows it;
- in a search, such a repeat with something behind it that could begin at every character of its own run.

Pydantic's `pattern=` runs in Rust, in linear time whatever it says, and is not looked at.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from re import _constants as op  # pyright: ignore[reportAttributeAccessIssue]
from re import _parser  # pyright: ignore[reportAttributeAccessIssue]
from typing import Any

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "tunery"
ANCHORED = {"match", "fullmatch"}
SEARCHES = {"compile", "search", "sub", "subn", "split", "findall", "finditer"}
SHORT = 64  # repeats up to here cost a constant
ALPHABET = [chr(code) for code in (*range(0x250), 0x2003, 0x3042, 0xD800, 0x1F600)]


@dataclass(frozen=True)
class Found:
    where: str
    pattern: str | None  # None: made at run time, of `parts` and of texts that are escaped
    is_anchored: bool
    parts: tuple[str, ...] = ()

    @property
    def may_repeat(self) -> bool:
        """Whether what is made at run time holds a repeat outside a set."""
        bare = [re.sub(r"\[[^\]]*\]", "", re.sub(r"\\.", "", part)) for part in self.parts]
        return any(sign in part for part in bare for sign in "*+{")


@dataclass(frozen=True)
class Element:
    """One set of characters, `low` to `high` times."""

    chars: frozenset[str]
    low: int
    high: float

    @property
    def varies(self) -> bool:
        return self.low != self.high and self.high > 1

    @property
    def is_long(self) -> bool:
        return self.varies and self.high > SHORT


def expressions() -> Iterator[Found]:
    for path in sorted(SOURCE.rglob("*.py")):
        tree = ast.parse(path.read_text())
        matched = _only_matched(tree)
        for node in ast.walk(tree):
            where = f"{path.relative_to(SOURCE)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.ImportFrom) and node.module in ("re", "regex"):
                raise AssertionError(f"{where}: import re, so that its expressions can be found")
            if isinstance(node, ast.Call) and _is_re(node.func):
                name = node.func.attr  # pyright: ignore[reportAttributeAccessIssue]
                if name in ANCHORED | SEARCHES:
                    yield Found(
                        where, _constant(node.args[0]), name in ANCHORED or node in matched, _parts(node.args[0])
                    )


def _only_matched(tree: ast.AST) -> set[ast.expr]:
    """The `re.compile(…)` whose names are used with `match` and `fullmatch` and nothing else."""
    names = {
        node.targets[0].id: node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    used: dict[str, set[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in names:
            used.setdefault(node.value.id, set()).add(node.attr)
    return {names[name] for name, how in used.items() if how <= ANCHORED}


def _is_re(func: ast.expr) -> bool:
    return isinstance(func, ast.Attribute) and isinstance(func.value, ast.Name) and func.value.id in ("re", "regex")


def _constant(node: ast.expr) -> str | None:
    value = node.value if isinstance(node, ast.Constant) else None
    return value.decode("latin-1") if isinstance(value, bytes) else value if isinstance(value, str) else None


def _parts(node: ast.expr) -> tuple[str, ...]:
    inside = (part.value for part in ast.walk(node) if isinstance(part, ast.Constant))
    return tuple(value for value in inside if isinstance(value, str))


def faults(pattern: str, *, is_anchored: bool) -> list[str]:
    """Why the expression may take more than linear time."""
    found = []
    for path in _paths(list(_parser.parse(pattern))):
        if path is None:
            return ["repeats something that is not one set of characters"]
        for index, element in enumerate(path):
            if not element.varies:
                continue
            behind = list(_next(path[index + 1 :]))
            if any(element.chars & other.chars and other.varies for other in behind):
                found.append("two repeats share a character")
            is_alone = is_anchored and sum(other.varies for other in path) == 1  # then giving back is done once
            if element.is_long and not is_alone and any(element.chars & other.chars for other in behind):
                found.append("a long repeat shares a character with what follows")
            if element.is_long and behind and not is_anchored and not _begins_elsewhere(path[:index], element):
                found.append("a search for a long repeat begins at every character of it")
    return found


def _next(rest: list[Element]) -> Iterator[Element]:
    """What may stand directly behind: up to and with the first that must be there."""
    for element in rest:
        yield element
        if element.low:
            return


def _begins_elsewhere(before: list[Element], element: Element) -> bool:
    """Whether something that is no part of the run must stand before it."""
    return any(other.low and not other.chars & element.chars for other in before)


def _paths(parsed: list[Any]) -> list[list[Element] | None]:
    """Every way through the branches; None for a repeat that is not of one set."""
    paths: list[list[Element] | None] = [[]]
    for code, value in parsed:
        longer: list[list[Element] | None] = []
        for tail in _ways(code, value):
            longer += [None if path is None or tail is None else path + tail for path in paths]
        paths = longer
    return paths


def _ways(code: Any, value: Any) -> list[list[Element] | None]:
    if code is op.SUBPATTERN:
        return _paths(list(value[3]))
    if code is op.BRANCH:
        return [path for branch in value[1] for path in _paths(list(branch))]
    if code in (op.AT, op.ASSERT, op.ASSERT_NOT):
        return [[]]
    if code in (op.MAX_REPEAT, op.MIN_REPEAT):
        return _repeated(*value)
    return [[Element(_chars(code, value), 1, 1)]]


def _repeated(low: int, high: Any, body: Any) -> list[list[Element] | None]:
    inner = _paths(list(body))
    if high == 1:  # there or not there
        return [[], *inner]
    if len(inner) != 1 or inner[0] is None or len(inner[0]) != 1 or inner[0][0].low != 1 or inner[0][0].high != 1:
        return [None]
    return [[Element(inner[0][0].chars, low, float("inf") if high is op.MAXREPEAT else high)]]


@lru_cache
def _matching(single: str) -> frozenset[str]:
    return frozenset(char for char in ALPHABET if re.fullmatch(single, char, re.S))


def _chars(code: Any, value: Any) -> frozenset[str]:
    if code is op.LITERAL:
        return frozenset({chr(value)})
    if code is op.IN:
        inside = frozenset().union(*(_chars(*item) for item in value if item[0] is not op.NEGATE))
        return frozenset(ALPHABET) - inside if value[0][0] is op.NEGATE else inside
    if code is op.RANGE:
        return frozenset(chr(number) for number in range(value[0], min(value[1], 0x24F) + 1)) or frozenset(
            {chr(value[0])}
        )
    single = {op.ANY: ".", op.NOT_LITERAL: f"[^{re.escape(chr(value))}]" if isinstance(value, int) else ""}.get(code)
    single = single or CATEGORIES[value]
    return _matching(single)


CATEGORIES = {
    op.CATEGORY_DIGIT: r"\d",
    op.CATEGORY_NOT_DIGIT: r"\D",
    op.CATEGORY_SPACE: r"\s",
    op.CATEGORY_NOT_SPACE: r"\S",
    op.CATEGORY_WORD: r"\w",
    op.CATEGORY_NOT_WORD: r"\W",
}

BACKTRACKING = [
    r"\{\{\s*([^{}]*?)\s*\}\}",
    r"(a+)+",
    r"(?:a|a)*b",
    r"(\w+\s?)*$",
    r"a*a*b",
    r"\s*[ ]*x",
    r"\d{1,40}[0-9a]{1,40}!",
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    r"\d(?:[ -]?\d){12,18}",
    r"[a-z]{1,63}(?:\.[a-z]{1,63}){0,4}",
    r"\s+$x",
    r"[^@\s]+@[^@\s]+",
    r"x?[ab]+[bc]+",
    r".*foo",
]
LINEAR = [r"[a-z]+", r"\[(\d+)\]", r"<0x([0-9A-F]{2})>", r"-\d{4}-\d{2}$", r"sk-(?:a-|b-)?[a-z-]{20,}", r"a{0,40}abc"]


@pytest.mark.parametrize("pattern", BACKTRACKING)
def test_the_check_knows_expressions_that_backtrack(pattern: str) -> None:
    assert faults(pattern, is_anchored=False)


@pytest.mark.parametrize("pattern", LINEAR)
def test_the_check_lets_linear_expressions_pass(pattern: str) -> None:
    assert faults(pattern, is_anchored=False) == []


def test_no_expression_in_the_source_can_backtrack() -> None:
    found = list(expressions())
    made = [each for each in found if each.pattern is None]
    wrong = [f"{each.where}: made at run time, with a repeat" for each in made if each.may_repeat]
    for each in found:
        reasons = faults(each.pattern, is_anchored=each.is_anchored) if each.pattern is not None else []
        wrong += [f"{each.where}: {each.pattern!r} {reason}" for reason in reasons]
    assert not wrong, "\n".join(wrong)
    assert len(found) > 15


@pytest.mark.timeout(120)
def test_every_expression_reads_a_long_run_of_each_of_its_characters() -> None:
    """What the check above believes, tried: what is worse than quadratic would not end within the time."""
    for each in expressions():
        if each.pattern is None:
            continue
        expression = re.compile(each.pattern)
        for char in {" ", "\n", *(char for char in each.pattern if char.isprintable())}:
            for end in ("", "\0", char + "\0"):
                expression.search(each.pattern[:3] + char * 4_000 + end)
                expression.search(char * 4_000 + end)
