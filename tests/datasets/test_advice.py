"""Advice comes with its evidence and lines, and only when there is reason."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.datasets.conftest import chat_row
from tunery.chat.render import Renderer
from tunery.datasets.report import Advice
from tunery.datasets.secrets import find_secrets
from tunery.datasets.validate import validate_file

Write = Callable[..., Path]
WORDS = ("river stone cloud ember quiet signal harbor violet maple engine garden winter copper lantern meadow").split()  # noqa: SIM905 - fifteen quoted words would take fifteen lines


def distinct(count: int) -> list[dict[str, Any]]:
    """Rows that are not alike."""
    return [
        chat_row(
            f"Tell me about {WORDS[n % 15]} and {WORDS[(n // 15 + n) % 15]}, number {n * n}.",
            f"{WORDS[(n * 7) % 15].title()} {n} is {WORDS[(n * 3 + n // 15) % 15]}, as {WORDS[(n * 5) % 15]} knows.",
        )
        for n in range(count)
    ]


def advice_on(rows: list[Any], write: Write, **options: Any) -> dict[str, Advice]:
    return {advice.code: advice for advice in validate_file(write(rows), **options).advice}


def test_a_good_file_gets_no_advice(write_rows: Write, renderer: Renderer) -> None:
    assert advice_on(distinct(60), write_rows, renderer=renderer, max_example_tokens=8192) == {}


def test_few_examples(write_rows: Write) -> None:
    assert advice_on(distinct(49), write_rows)["few_examples"].count == 49


def test_missing_instructions(write_rows: Write) -> None:
    bare = [{"messages": row["messages"][1:]} for row in distinct(60)]
    assert advice_on(bare, write_rows)["no_system_message"].message == "No example has a system message."
    some = advice_on([*distinct(60), *bare[:2]], write_rows)["no_system_message"]
    assert (some.count, some.lines) == (2, [61, 62])


def with_system(row: dict[str, Any], system: str) -> dict[str, Any]:
    return {"messages": [{"role": "system", "content": system}, *row["messages"][1:]]}


def test_different_instructions(write_rows: Write) -> None:
    rows = distinct(60)
    rows[7] = with_system(rows[7], "Write a poem about whatever comes up.")
    found = advice_on(rows, write_rows)
    assert found["several_system_messages"].lines == [8]
    assert "instructions_differ" not in found


def test_instructions_that_differ_by_a_slip(write_rows: Write) -> None:
    rows = [with_system(row, "Answer briefly, in the tone of a sailor.") for row in distinct(60)]
    rows[7] = with_system(rows[7], "Answer briefly, in the tone of a sailor!")
    assert advice_on(rows, write_rows)["instructions_differ"].lines == [8]


def test_copies_and_contradictions(write_rows: Write) -> None:
    rows = distinct(60)
    contradiction = {"messages": [*rows[3]["messages"][:2], {"role": "assistant", "content": "The opposite."}]}
    found = advice_on([*rows, rows[5], contradiction], write_rows)
    assert found["duplicates"].lines == [61]
    assert found["contradictory_answers"].lines == [62]
    assert found["contradictory_answers"].evidence == ["line 62 asks what line 4 asks"]


def test_near_copies(write_rows: Write) -> None:
    rows = distinct(60)
    near = chat_row(
        rows[5]["messages"][1]["content"].replace("Tell", "  TELL"), rows[5]["messages"][2]["content"] + "!"
    )
    found = advice_on([*rows, near], write_rows)["near_duplicates"]
    assert found.lines == [61]
    assert found.evidence[0].endswith("line 6")


def test_one_answer_for_everything(write_rows: Write) -> None:
    rows = [
        chat_row(row["messages"][1]["content"], "No." if n % 2 else f"Yes {n}.") for n, row in enumerate(distinct(60))
    ]
    found = advice_on(rows, write_rows)["dominating_answer"]
    assert (found.count, found.evidence) == (30, ["'No.'"])


def test_the_same_answer_to_everything_and_balanced_labels(write_rows: Write) -> None:
    def labelled(labels: list[str]) -> list[dict[str, Any]]:
        return [chat_row(row["messages"][1]["content"], labels[n % len(labels)]) for n, row in enumerate(distinct(60))]

    assert advice_on(labelled(["Yes."]), write_rows)["dominating_answer"].count == 60
    assert "dominating_answer" not in advice_on(labelled(["Yes.", "No."]), write_rows)


def test_cut_answers(write_rows: Write) -> None:
    whole = "This is a sentence. And this is another one. " * 6
    rows = distinct(60)
    rows[9] = chat_row("Go on.", whole + "But then, as they")
    rows[10] = chat_row("Go on, please.", whole.strip())
    assert advice_on(rows, write_rows)["answers_look_cut"].lines == [10]


def test_examples_beyond_the_limit(write_rows: Write, renderer: Renderer) -> None:
    rows = distinct(60)
    rows[2] = chat_row("Go on.", "word " * 200)
    found = advice_on(rows, write_rows, renderer=renderer, max_example_tokens=100)
    assert found["truncated_examples"].lines == [3]


def test_uneven_lengths(write_rows: Write, renderer: Renderer) -> None:
    rows = distinct(60)
    rows[2] = chat_row("Go on.", "word " * 2000)
    found = advice_on(rows, write_rows, renderer=renderer, max_example_tokens=8192)
    assert found["uneven_lengths"].lines[0] == 3


def test_rows_in_both_files(write_rows: Write) -> None:
    rows = distinct(60)
    training = validate_file(write_rows(rows))
    near = chat_row(rows[8]["messages"][1]["content"].upper() + "?", rows[8]["messages"][2]["content"])
    held = write_rows([rows[4], near, chat_row("Something else?", "Yes.")], "valid.jsonl")
    found = {a.code: a for a in validate_file(held, role="validation", against=training).advice}
    assert found["rows_in_both_files"].lines == [1]
    assert found["rows_nearly_in_both_files"].lines == [2]


def test_secrets_and_personal_data(write_rows: Write) -> None:
    rows = distinct(60)
    rows[1] = chat_row("My key is sk-proj-abcdEFGH1234abcdEFGH1234", "Keep it to yourself.")
    rows[2] = chat_row("Mail me at jane.roe@gmail.com", "Done.")
    rows[3] = chat_row("My card is 4111 1111 1111 1111", "Thanks.")
    found = advice_on(rows, write_rows)
    assert found["secrets"].lines == [2]
    assert found["personal_data"].evidence == ["j…@gmail.com"]
    assert found["card_numbers"].lines == [4]
    assert "4111 1111" not in str(found)


@pytest.mark.parametrize(
    "text",
    [
        "Write to someone@example.com or me@corp.test.",
        "The number 1234 5678 9012 3456 is no card.",
        "Call +49 170 1234567 between 10 and 12.",
        "sk-short, gh issue, task-force",
        "pi is 3.14159265358979323846",
        "0000 0000 0000 0000",
    ],
)
def test_what_only_resembles_a_secret_is_left_alone(text: str) -> None:
    assert list(find_secrets(text)) == []
