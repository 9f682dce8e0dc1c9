"""The example files are what the README says of them."""

import json
from collections import Counter

from rapidfuzz import fuzz, process

from tunery.cli.tasks import MARV_QUESTIONS, load_task
from tunery.domain.files import example_file


def messages_of(name: str) -> list[list[dict[str, str]]]:
    return [json.loads(line)["messages"] for line in example_file(name).read_text("utf-8").splitlines()]


def test_marv_begins_with_the_guides_three_rows() -> None:
    rows = messages_of("marv.jsonl")
    assert len(rows) >= 60
    assert [row[1]["content"] for row in rows[:3]] == [
        "What's the capital of France?",
        "Who wrote 'Romeo and Juliet'?",
        "How far is the Moon from Earth?",
    ]
    assert {row[0]["content"] for row in rows} == {"Marv is a factual chatbot that is also sarcastic."}
    assert all([message["role"] for message in row] == ["system", "user", "assistant"] for row in rows)


def test_demo_asks_marv_nothing_from_the_file() -> None:
    trained = [row[1]["content"] for row in messages_of("marv.jsonl")]
    assert not set(MARV_QUESTIONS) & set(trained)
    assert len(set(trained)) == len(trained)


def test_tickets_have_a_dozen_labels_in_both_files() -> None:
    train, test = messages_of("tickets_train.jsonl"), messages_of("tickets_test.jsonl")
    labels = Counter(row[-1]["content"] for row in train)
    assert len(train) >= 120 and len(test) >= 60 and len(labels) == 12
    assert set(labels) == {row[-1]["content"] for row in test}
    assert {row[0]["content"] for row in train} == {row[0]["content"] for row in test}


def test_no_held_out_ticket_resembles_a_trained_one() -> None:
    trained = [row[1]["content"] for row in messages_of("tickets_train.jsonl")]
    for row in messages_of("tickets_test.jsonl"):
        match, score, _ = process.extractOne(row[1]["content"], trained, scorer=fuzz.ratio)
        assert score < 85, f"{row[1]['content']!r} is nearly {match!r}"


def test_few_shot_prompt_shows_every_label_once() -> None:
    question = load_task("tickets").questions[0]
    shown = [message["content"] for message in question.shots if message["role"] == "assistant"]
    assert len(shown) == len(set(shown)) == 12
