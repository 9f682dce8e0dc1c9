"""Graders without a model. Those with a judge are in test_judge."""

import asyncio
import random
from typing import Any

import pytest
from rouge_score.rouge_scorer import RougeScorer

from tests.api.conftest import Api
from tests.loops import run as run_async
from tunery.api.graders import formula
from tunery.api.graders.similarity import MAX_WAITING, MAX_WAITING_OF_ONE, Comparers, similarity
from tunery.api.graders.template import UnknownVariable, render, variables
from tunery.domain.errors import InvalidRequest, Unavailable
from tunery.sandbox import walls

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
        ({"type": "python", "name": "p", "source": "x"}, "grader.source"),
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


def test_rouge_l_agrees_with_the_library_that_takes_longer() -> None:
    words, chance = ["the", "The", "cat,", "cat's", "sat", "on", "a", "mat", "12", "über", "日本"], random.Random(3)
    for _ in range(200):
        one, other = (" ".join(chance.choices(words, k=chance.randint(0, 12))) for _ in range(2))
        slow = RougeScorer(["rougeL"], use_stemmer=False).score(one, other)["rougeL"].fmeasure
        assert similarity("rouge_l", other, one) == pytest.approx(slow)


BOMBS = {
    "spaces": "{{" + " " * 999_000,
    "spaces that end": "{{" + " " * 400_000 + "x" + " " * 400_000 + "}}",
    "openings": "{{" * 499_000,
    "closings": "}}" * 499_000,
    "single braces": "{{a}" * 249_000,
    "crossed": "}}{{" * 249_000,
    "tabs": "{{" + "\t \n" * 300_000 + "}",
    "dots": "{{item" + "." * 900_000 + "}}",
    "brackets": "{{item" + "[" * 900_000 + "}}",
    "an index of 500,000 digits": "{{item.list[" + "9" * 500_000 + "]}}",
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("field", ["input", "reference"])
def test_a_template_of_any_shape_is_read_in_linear_time(api: Api, bomb: str, field: str) -> None:
    """A cubic expression would take days for these: the test would not end."""
    grader = {**check(text="x", reference="x"), field: BOMBS[bomb]}
    for path, more in ((VALIDATE, {}), (RUN, {"model_sample": "x", "item": {"list": [1]}})):
        assert api.client.post(path, json={"grader": grader, **more}).status_code in (200, 400)


def places(template: str) -> list[str]:
    return list(variables(template))


def test_what_is_a_place_in_a_template() -> None:
    assert places("{{item.a}} {{ sample.b }}{{\nc\t}}") == ["item.a", "sample.b", "c"]
    assert places("{{{x}}}") == ["x"] and places("{{a{{b}}") == ["b"] and places("{{}}") == [""]
    assert places("{{a}b}} {x} {{y} }} }} {{") == []
    values = {"item": {"rows": [{"n": 1}, {"n": "two"}], "0": "zero"}}
    assert render("{{item.rows[1].n}}/{{item.rows[0]}}/{{item.0}}", values) == 'two/{"n": 1}/zero'


@pytest.mark.parametrize(
    "path", ["item.none", "item.rows[7]", "item.rows.x", "item[" + "9" * 5000 + "]", "item.rows[²]", "none"]
)
def test_a_path_that_leads_nowhere_is_an_unknown_variable(path: str) -> None:
    with pytest.raises(UnknownVariable):
        render("{{" + path + "}}", {"item": {"rows": [1]}})


def test_a_short_template_cannot_become_a_long_text(api: Api) -> None:
    long = {"text": "x" * 900_000}
    for text in ("{{item.text}}" * 70_000, "{{item}}{{item.text}}", "{{sample.output_text}}{{item.text}}"):
        refused = api.client.post(RUN, json={"grader": check(text=text), "model_sample": "y" * 900_000, "item": long})
        assert refused.status_code == 400 and "1,000,000" in refused.json()["error"]["message"]


def alike(metric: str, **more: str) -> dict[str, Any]:
    given = {"input": "{{sample.output_text}}", "reference": "{{item.answer}}"} | more
    return {"type": "text_similarity", "name": "alike", "evaluation_metric": metric, **given}


@pytest.mark.parametrize("metric", METRICS)
def test_every_similarity_has_a_size_limit_that_is_named(api: Api, metric: str) -> None:
    sample, answer = "word " * 4_000, "other " * 4_001
    for texts in ((sample + "x", "y"), ("y", answer)):
        refused = api.client.post(
            RUN, json={"grader": alike(metric), "model_sample": texts[0], "item": {"answer": texts[1]}}
        )
        assert refused.status_code == 400, refused.text
        assert "20,000" in refused.json()["error"]["message"]
        assert refused.json()["error"]["param"] in ("grader.input", "grader.reference")
    assert run(api, alike(metric), "word " * 100, answer="word " * 100)["reward"] == pytest.approx(1.0, abs=0.01)


def test_a_comparison_that_takes_too_long_is_ended_and_the_next_one_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process is killed and another takes its place. Without the size limit this comparison takes minutes: its
    steps are a character of one text times 64 of the other, of four million each."""
    monkeypatch.setattr("tunery.api.graders.similarity.MAX_LENGTH", 10_000_000)

    async def compare() -> float:
        comparers = Comparers(time_limit_s=0.2)
        try:
            with pytest.raises(InvalidRequest, match=r"longer than the limit of 0\.2 seconds"):
                await comparers.similarity("fuzzy_match", "ab" * 2_000_000, "ba" * 2_000_000, project_id="p")
            comparers.time_limit_s = 60.0
            return await comparers.similarity("fuzzy_match", "a b", "a b", project_id="p")
        finally:
            comparers.close()

    assert run_async(compare()) == pytest.approx(1.0, abs=0.1)


def test_only_so_many_comparisons_wait_and_of_one_project_only_a_part_of_them() -> None:
    async def compare() -> list[Any]:
        comparers = Comparers()
        projects = ["greedy"] * (MAX_WAITING_OF_ONE + 5) + [f"p{number}" for number in range(MAX_WAITING)]
        try:
            many = [comparers.similarity("rouge_l", "a", "a", project_id=project) for project in projects]
            answers = await asyncio.gather(*many, return_exceptions=True)
            assert await comparers.similarity("rouge_l", "a", "a", project_id="greedy") == 1.0
            return answers
        finally:
            comparers.close()

    answers = run_async(compare())
    taken = [answer == 1.0 for answer in answers]
    assert taken[: MAX_WAITING_OF_ONE + 5] == [True] * MAX_WAITING_OF_ONE + [False] * 5
    assert taken[MAX_WAITING_OF_ONE + 5 :].count(True) == MAX_WAITING - MAX_WAITING_OF_ONE
    assert all(isinstance(answer, Unavailable) for answer in answers if answer != 1.0)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "text",
    [
        "(" * 1_000 + "1" + ")" * 999,
        "-" * 1_999 + "1",
        "9" * 2_000,
        "^".join(["9"] * 1_000),
        "*".join(["floor(1e300)"] * 150),
        "+".join(["1"] * 1_000) + "+a.b",
        "max(" * 400 + "1" + ")" * 400,
        "1e308*10",
        "floor(1e400)",
    ],
)
def test_a_formula_costs_little_whatever_it_says(text: str) -> None:
    with pytest.raises(formula.FormulaError):
        node = formula.parse(text)
        formula.check(node)
        formula.evaluate(node, {})


def test_a_multi_grader_has_few_graders(api: Api) -> None:
    graders = {f"g{number}": check() for number in range(33)}
    many = {"type": "multi", "name": "many", "graders": graders, "calculate_output": "g0"}
    refused = api.client.post(VALIDATE, json={"grader": many})
    assert refused.status_code == 400 and "at most 32 graders" in refused.json()["error"]["message"]


def python(source: str, **more: Any) -> dict[str, Any]:
    return {"type": "python", "name": "code", "source": source, **more}


SAME = "def grade(sample, item):\n    return float(sample['output_text'] == item['answer'])"


@pytest.mark.timeout(200)
def test_python_grades_alone_and_inside_multi(api: Api) -> None:
    graded = run(api, python(SAME, image_tag="2025-05-08"), "Paris", answer="Paris")
    assert (graded["reward"], graded["metadata"]["type"]) == (1.0, "python")
    multi = {
        "type": "multi",
        "name": "both",
        "graders": {"code": python(SAME, pass_threshold=0.5), "loose": check("ilike")},
        "calculate_output": "(code + loose) / 2",
    }
    assert run(api, multi, "paris", answer="Paris")["reward"] == 0.5
    sample = "def grade(sample, item): return len(sample['output_json']['list']) + len(sample['choices'])"
    assert run(api, python(sample), '{"list": [1, 2]}')["reward"] == 3.0


@pytest.mark.timeout(200)
def test_python_that_raises_is_worth_nothing_and_says_why(api: Api) -> None:
    for source, problem in (
        ("def grade(sample, item):\n    return item['none']", "KeyError: 'none'"),
        ("def score(sample, item): return 1", "no function `grade"),
        ("def grade(sample, item): return 'good'", "not a number"),
    ):
        graded = run(api, python(source))
        errors = graded["metadata"]["errors"]
        assert graded["reward"] == 0.0 and errors["python_grader_runtime_error"] is True
        assert problem in errors["python_grader_runtime_error_details"]


@pytest.mark.timeout(200)
def test_python_that_can_never_grade_is_400(api: Api) -> None:
    assert api.client.post(VALIDATE, json={"grader": python(SAME)}).json() == {"grader": python(SAME)}
    inside = {"type": "multi", "name": "m", "graders": {"a": python("x =")}, "calculate_output": "a"}
    for grader, param in (
        (python("x = 1"), "grader.source"),
        (python("def grade(sample, item) return 1"), "grader.source"),
        (python("#" * 300_000), "grader.source"),
        (inside, "grader.graders.a.source"),
    ):
        refused = api.client.post(VALIDATE, json={"grader": grader})
        assert refused.status_code == 400 and refused.json()["error"]["param"] == param, refused.text


def test_python_without_a_sandbox_is_refused_with_what_to_install(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    walls.probe.cache_clear()
    monkeypatch.setenv("PATH", "/nowhere")
    try:
        for path, more in ((VALIDATE, {}), (RUN, {"model_sample": "x"})):
            refused = api.client.post(path, json={"grader": python(SAME), **more})
            assert refused.status_code == 400 and "apt-get install bubblewrap" in refused.json()["error"]["message"]
            assert refused.json()["error"]["param"] == "grader.type"
    finally:
        walls.probe.cache_clear()
