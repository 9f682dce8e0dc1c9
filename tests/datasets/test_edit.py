"""Rows of a dataset changed, removed and added; differences, and edits that are carried over to a newer version."""

import json
import random
from typing import Any

import pytest

from tests.datasets.conftest import chat_row, pair_row
from tunery.datasets.edit import Carrier, ChangedToo, Difference, Edits, Replacement, Step, carry_over, edit
from tunery.datasets.lines import Line, read_lines
from tunery.domain.errors import InvalidRequest

ROWS = [chat_row(f"q{n}", f"a{n}") for n in range(6)]


def as_lines(rows: list[Any]) -> list[Line]:
    return list(read_lines(["".join(json.dumps(row) + "\n" for row in rows).encode()]))


def after(steps: list[Step]) -> list[Any]:
    return [json.loads(step.after) for step in steps if step.kind != "removed" and step.after]


def made(rows: list[Any], edits: Edits) -> tuple[list[Any], Difference]:
    steps = list(edit(as_lines(rows), edits))
    difference = Difference()
    for step in steps:
        difference.note(step)
    return after(steps), difference


def test_rows_are_changed_removed_and_added_and_all_else_keeps_its_bytes() -> None:
    new, edits = chat_row("new", "row"), {}
    edits = Edits({2: new}, frozenset({3, 4}), {0: [new], 6: [new, ROWS[0]]})
    rows, difference = made(ROWS, edits)
    assert rows == [new, ROWS[0], new, ROWS[4], ROWS[5], new, ROWS[0]]
    assert difference.counts == (3, 2, 1)
    assert (difference.removed, difference.changed, difference.added) == ([[3, 2]], [[2, 3, 1]], [[1, 1], [6, 2]])
    odd = [Line(1, 1, b'{"a" :1}', 8), Line(2, 0, b"", 0), Line(3, 2, b"no json", 7)]
    kept = list(edit(odd, Edits(replacement=Replacement("x", "y", "all"))))
    assert [(step.kind, step.after) for step in kept] == [("kept", line.content) for line in odd]


def test_a_line_that_is_not_there_is_refused() -> None:
    for edits in (Edits({9: ROWS[0]}), Edits(removed=frozenset({7})), Edits(added={7: [ROWS[0]]})):
        with pytest.raises(InvalidRequest, match="no row in line"):
            list(edit(as_lines(ROWS), edits))


@pytest.mark.parametrize(
    ("where", "any_case", "count"), [("system", False, 1), ("system", True, 2), ("user", False, 2), ("all", False, 4)]
)
def test_a_text_is_replaced_where_it_is_meant(where: Any, any_case: bool, count: int) -> None:
    row = {
        "messages": [
            {"role": "system", "content": "Be Marv. MARV is kind."},
            {"role": "user", "content": [{"type": "text", "text": "Marv? Marv!"}]},
            {"role": "assistant", "content": "Marv."},
        ]
    }
    (step,) = edit(as_lines([row]), Edits(replacement=Replacement("Marv", r"\1 Éva", where, any_case)))
    assert step.num_replaced == count
    assert step.after.decode().count(r"\\1 Éva") == count


def test_pairs_and_completions_are_replaced_in_too() -> None:
    pair = pair_row("Is it red?", "red", "blue")
    rows, difference = made(
        [pair, {"prompt": "red?", "completion": "red"}], Edits(replacement=Replacement("red", "green", "assistant"))
    )
    assert rows[0]["preferred_output"][0]["content"] == "green" and "red" in json.dumps(rows[0]["input"])
    assert rows[1] == {"prompt": "red?", "completion": "green"}
    assert difference.counts == (0, 0, 2)


def test_lines_are_carried_as_the_rows_themselves_went() -> None:
    """Against the obvious way: rows that are told apart, looked up in the file that came of it."""
    draw = random.Random(1)
    for _ in range(200):
        rows = [chat_row(f"q{n}", "a") for n in range(draw.randrange(1, 12))]
        lines = range(1, len(rows) + 1)
        removed = frozenset(line for line in lines if draw.random() < 0.3)
        added = {line: [chat_row("new", "x")] * draw.randrange(3) for line in (0, *lines)}
        new, difference = made(rows, Edits({}, removed, added))
        carrier = Carrier(difference)
        for line, row in enumerate(rows, 1):
            expected = None if line in removed else new.index(row) + 1
            assert carrier.carry(line) == expected


def test_edits_of_two_meet_row_by_row() -> None:
    theirs = Edits({2: chat_row("theirs", "2")}, frozenset({4}), {0: [chat_row("theirs", "0")]})
    newer, difference = made(ROWS, theirs)
    free = carry_over(Edits({1: chat_row("mine", "1")}, frozenset({6}), {4: [chat_row("mine", "4")]}), difference, None)
    rows, _ = made(newer, free)
    asked = [row["messages"][-2]["content"] for row in rows]
    assert asked == ["theirs", "mine", "theirs", "q2", "mine", "q4"]
    both = Edits({2: chat_row("mine", "2"), 4: chat_row("mine", "4")})
    with pytest.raises(ChangedToo, match="Rows 2, 4 were"):
        carry_over(both, difference, None)
    rows, _ = made(newer, carry_over(both, difference, "mine"))
    assert [row["messages"][-2]["content"] for row in rows] == ["theirs", "q0", "mine", "q2", "mine", "q4", "q5"]
    assert carry_over(both, difference, "theirs") == Edits({}, frozenset(), {})
