from pathlib import Path

import pytest

from tunery.domain.errors import InvalidRequest
from tunery.domain.usage import Price
from tunery.migrate.capture import (
    ModelAnswer,
    estimate_cost,
    read_answers,
    read_prompts,
    to_training_rows,
    write_answers,
)
from tunery.migrate.deadlines import base_of, end_of, load_deadlines
from tunery.migrate.retrain import equivalent, request_for

OLD = {
    "id": "ftjob-1",
    "model": "gpt-4o-mini-2024-07-18",
    "fine_tuned_model": "ft:gpt-4o-mini-2024-07-18:acme:support:AbC12345",
    "training_file": "file-1",
    "hyperparameters": {"n_epochs": 4, "batch_size": 2, "learning_rate_multiplier": 3.6},
    "seed": 9,
}


def test_the_learning_rate_carries_over_as_distance_from_the_default() -> None:
    assert equivalent(OLD) == {"n_epochs": 4, "batch_size": 2, "learning_rate_multiplier": 2.0}
    assert "learning_rate_multiplier" not in equivalent({**OLD, "hyperparameters": {"learning_rate_multiplier": 1.8}})


def test_a_dpo_job_without_top_level_hyperparameters_keeps_its_beta() -> None:
    method = {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.2, "n_epochs": 2}}}
    request = request_for({**OLD, "hyperparameters": None, "method": method}, base="base")
    assert request["method"] == {"type": "dpo", "dpo": {"hyperparameters": {"n_epochs": 2, "beta": 0.2}}}


def test_a_repeated_job_names_its_origin_and_keeps_its_suffix() -> None:
    request = request_for(OLD, base="smol")
    assert request["metadata"] == {"retrained_from": "ftjob-1"}
    assert (request["suffix"], request["seed"], request["model"]) == ("support", 9, "smol")


def test_deadlines_go_by_the_longest_name() -> None:
    deadlines = load_deadlines()
    assert str(end_of("ft:gpt-4.1-nano-2025-04-14:a:b:12345678", deadlines)) == "2026-10-23"
    assert str(end_of("gpt-4.1-2025-04-14", deadlines)) == "2027-01-14"
    assert end_of("smollm2-135m-instruct", deadlines) is None
    assert base_of("ft:gpt-4o-mini:acemeco:suffix:abc123") == "gpt-4o-mini"


def test_prompts_lose_their_answer_and_keep_it_as_expected(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(
        '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho", "weight": 1}]}\n\n'
        '{"messages": [{"role": "user", "content": "Who?"}]}\n'
    )
    first, second = read_prompts(path)
    assert (first.expected, second.expected, second.row) == ("Ho", None, 3)
    assert first.messages == [{"role": "user", "content": "Hi"}]


def test_a_line_that_is_no_example_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "Hi"}]}\nnonsense\n')
    with pytest.raises(InvalidRequest, match="Line 2"):
        read_prompts(path)


def test_the_estimate_errs_upwards(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "' + "word " * 400 + '"}]}\n')
    cost = estimate_cost(read_prompts(path), Price(input=300_000, output=1_200_000), max_tokens=100)
    assert cost >= 400 * 300_000 + 100 * 1_200_000


def test_a_second_capture_replaces_a_failed_row(tmp_path: Path) -> None:
    path = tmp_path / "golden.jsonl"
    messages = [{"role": "user", "content": "q"}]
    write_answers(path, [ModelAnswer(1, messages, "m", error="503"), ModelAnswer(2, messages, "m", answer="two")])
    write_answers(path, [ModelAnswer(1, messages, "m", answer="one")])
    assert [answer.answer for answer in read_answers(path)] == ["one", "two"]
    assert len(list(to_training_rows(read_answers(path)))) == 2
