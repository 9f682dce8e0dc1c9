"""Graders without a model. Those with a judge are in test_judge."""

from typing import Any

import pytest

from tests.api.conftest import Api
from tunery.api.graders import formula
from tunery.api.graders.similarity import similarity

RUN, VALIDATE = "/v1/fine_tuning/alpha/graders/run", "/v1/fine_tuning/alpha/graders/validate"


def check(operation: str = "eq", text: str = "{{sample.output_text}}", reference: str = "{{item.answer}}") -> dict:
    return {"type": "string_check", "name": "check", "operation": operation, "input": text, "reference": reference}


def run(api: Api, grader: dict[str, Any], sample: str = "Paris", **item: Any) -> dict[str, Any]:
    answer = api.client.post(RUN, json={"grader": grader, "model_sample": sample, "item": item})
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize(
    ("operation", "sample", "reward"),
    [
        ("eq", "Paris", 1.0),
        ("eq", "paris", 0.0),
        ("ne", "London", 1.0),
        ("neq", "Paris", 0.0),
        ("like", "It is Paris.", 1.0),
        ("like", "It is paris.", 0.0),
        ("ilike", "It is paris.", 1.0),
    ],
)
def test_string_check(api: Api, operation: str, sample: str, reward: float) -> None:
    result = run(api, check(operation), sample, answer="Paris")
    assert result["reward"] == reward
    assert (result["metadata"]["name"], result["metadata"]["type"]) == ("check", "string_check")
    assert result["metadata"]["token_usage"] is None
    assert not any(value for name, value in result["metadata"]["errors"].items() if not name.endswith("details"))


def test_json_sample_can_be_looked_into(api: Api) -> None:
    grader = check(text="{{ sample.output_json.places[0].name }}")
    assert run(api, grader, '{"places": [{"name": "Paris"}]}', answer="Paris")["reward"] == 1.0
    missed = run(api, grader, "not JSON", answer="Paris")
    assert missed["reward"] == 0.0
    assert missed["metadata"]["errors"]["invalid_variable_error"] is True
    assert missed["metadata"]["errors"]["sample_parse_error"] is True


def test_templates_are_not_evaluated_twice(api: Api) -> None:
    assert run(api, check(), "{{item.secret}}", answer="{{item.secret}}", secret="x")["reward"] == 1.0


def test_multi_grader_computes_its_formula(api: Api) -> None:
    grader = {
        "type": "multi",
        "name": "both",
        "graders": {"exact": check(), "loose": check("ilike")},
        "calculate_output": "0.25 * exact + 0.75 * min(loose, 1)",
    }
    result = run(api, grader, "paris", answer="Paris")
    assert result["reward"] == 0.75
    assert result["sub_rewards"] == {"exact": 0.0, "loose": 1.0}
    assert run(api, {**grader, "calculate_output": "1 / exact"}, "x", answer="y")["metadata"]["errors"][
        "formula_parse_error"
    ]


def test_validate_echoes_the_grader(api: Api) -> None:
    grader = check()
    assert api.client.post(VALIDATE, json={"grader": grader}).json() == {"grader": grader}


@pytest.mark.parametrize(
    ("grader", "param"),
    [
        ({"type": "python", "name": "p", "source": "x"}, "grader.type"),
        ({"type": "poetry"}, "grader"),
        ({**check(), "operation": "is"}, "grader.operation"),
        (check(text="{{ os.environ }}"), "grader"),
        ({**check(), "type": "text_similarity", "operation": None}, None),
        (
            {"type": "multi", "name": "m", "graders": {"a": check()}, "calculate_output": "a +"},
            "grader.calculate_output",
        ),
        ({"type": "multi", "name": "m", "graders": {"a": check()}, "calculate_output": "b"}, "grader.calculate_output"),
        (
            {"type": "multi", "name": "m", "graders": {"a": check()}, "calculate_output": "__import__('os')"},
            "grader.calculate_output",
        ),
        (
            {
                "type": "text_similarity",
                "name": "t",
                "input": "a",
                "reference": "b",
                "evaluation_metric": "cosine",
            },
            "grader.evaluation_metric",
        ),
    ],
)
def test_grader_that_can_never_judge_is_400(api: Api, grader: dict[str, Any], param: str | None) -> None:
    answer = api.client.post(VALIDATE, json={"grader": grader})
    assert answer.status_code == 400
    if param:
        assert answer.json()["error"]["param"] == param


METRICS = ["fuzzy_match", "bleu", "gleu", "meteor", "rouge_1", "rouge_2", "rouge_3", "rouge_4", "rouge_5", "rouge_l"]


@pytest.mark.parametrize("metric", METRICS)
def test_similarity_is_one_for_equals_and_zero_for_strangers(metric: str) -> None:
    text = "the quick brown fox jumps over the lazy dog"
    assert similarity(metric, text, text) == pytest.approx(1.0, abs=0.01)
    assert similarity(metric, text, "XYZZY") == pytest.approx(0.0, abs=0.2)
    assert 0 <= similarity(metric, "the quick red fox jumps", text) <= 1
    assert 0 <= similarity(metric, "", text) <= 1


def test_rouge_l_is_what_its_definition_says() -> None:
    # Longest common subsequence of 2 words, 3 and 2 words long: 2·(2/3)·1 / (2/3 + 1).
    assert similarity("rouge_l", "the cat sat", "the cat") == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("text", "value"), [("2 ^ 3", 8.0), ("-a + 4", 3.0), ("max(a, sqrt(16))", 4.0), ("abs(-2.5)", 2.5)]
)
def test_formula(text: str, value: float) -> None:
    node = formula.parse(text)
    formula.check(node)
    assert formula.evaluate(node, {"a": 1.0}) == value


@pytest.mark.parametrize(
    "text", ["9 ^ 9 ^ 9", "1 / 0", "log(0)", "a.b", "[1]", "'x'", "lambda: 1", "open('x')", "min()"]
)
def test_formula_never_computes_what_is_no_number(text: str) -> None:
    with pytest.raises(formula.FormulaError):
        node = formula.parse(text)
        formula.check(node)
        formula.evaluate(node, {"a": 1.0})
