"""The languages say the same things, and a sentence survives its way from where it is made to who reads it."""

import ast
import copy
import json
import pickle
import re
import string
from collections.abc import Iterator
from typing import get_args

import pytest

from tunery import texts
from tunery.api.webhooks.schemas import SENT
from tunery.datasets.problems import CODES
from tunery.datasets.validate import validate_file
from tunery.domain.audit import OpenAIEvent, OwnEvent
from tunery.domain.files import FilePurpose
from tunery.domain.jobs import JobStatus
from tunery.domain.tenants import Role
from tunery.metering.budget import TOPIC as BUDGET
from tunery.texts import Text, reference, say, translator, with_texts

SOURCES = [path for path in texts.TEXTS.parent.rglob("*.py") if "migrations" not in path.parts]
OTHERS = sorted(set(texts.LANGUAGES) - {"en"})
# Keys that are put together: t(f"status.{…}"). Their second halves are values of the product.
BUILT = (
    "audit",
    "batches",
    "compare",
    "create",
    "dataset",
    "edit",
    "event_type",
    "export",
    "grader",
    "improve",
    "limits",
    "list",
    "mail",
    "method",
    "metric",
    "move",
    "nav",
    "operation",
    "purpose",
    "role",
    "signin",
    "status",
    "theme",
    "time",
    "usage",
    "stored",
)


def fields(sentence: str) -> set[str]:
    return {name.split(".")[0].split("[")[0] for _, name, _, _ in string.Formatter().parse(sentence) if name}


def calls(name: str, kind: type[ast.expr] = ast.Constant) -> Iterator[tuple[str, ast.Call]]:
    """Every call of the function whose first argument is a constant, or of another kind, and where it stands."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id == name
                and node.args
                and isinstance(node.args[0], kind)
            ):
                yield f"{path.name}:{node.lineno}", node


@pytest.mark.parametrize("language", OTHERS)
def test_a_language_has_the_keys_of_english(language: str) -> None:
    assert texts.load(language).keys() == texts.load("en").keys()


@pytest.mark.parametrize("language", OTHERS)
def test_a_sentence_takes_the_same_values_in_every_language(language: str) -> None:
    other = texts.load(language)
    takes_values = {key for key, _ in with_values()}
    differs = [
        key
        for key, sentence in texts.load("en").items()
        if (key in takes_values or "{" not in sentence or is_format(sentence))
        and fields_or_none(sentence) != fields_or_none(other[key])
    ]
    assert differs == []


def with_values() -> Iterator[tuple[str, set[str]]]:
    for _, call in calls("say"):
        named = {keyword.arg for keyword in call.keywords if keyword.arg}
        if named:
            yield str(call.args[0].value), named  # type: ignore[attr-defined]


def is_format(sentence: str) -> bool:
    return fields_or_none(sentence) is not None


def fields_or_none(sentence: str) -> set[str] | None:
    """None for a sentence with braces of its own, which is given no values."""
    try:
        found = fields(sentence)
    except ValueError:
        return None
    return found if all(name.isidentifier() for name in found) else None


def test_every_key_that_the_code_asks_for_exists() -> None:
    asked = {key for path in SOURCES for key in re.findall(r"\bt\(\s*\"([a-z_.]+)\"", path.read_text())}
    assert asked - texts.load("en").keys() == set()
    assert len(asked) > 150


def test_every_sentence_of_the_server_is_there_and_gets_the_values_it_takes() -> None:
    english = texts.load("en")
    wrong = [
        where
        for where, call in calls("say")
        if (sentence := english.get(str(call.args[0].value))) is None  # type: ignore[attr-defined]
        or (call.keywords and {keyword.arg for keyword in call.keywords} - {None} != fields_or_none(sentence))
    ]
    assert wrong == []


def test_every_key_is_asked_for() -> None:
    code = "\n".join(path.read_text() for path in SOURCES)
    put_together = re.compile("|".join(pattern(call.args[0]) for _, call in calls("say", ast.JoinedStr)))
    unused = [
        key
        for key in texts.load("en")
        if f'"{key}"' not in code and key.split(".")[0] not in BUILT and not put_together.fullmatch(key)
    ]
    assert unused == []


def pattern(key: ast.expr) -> str:
    """Of `f"mend.{code}"`: what its keys look like."""
    assert isinstance(key, ast.JoinedStr)
    return "".join(re.escape(part.value) if isinstance(part, ast.Constant) else "[a-z0-9_]+" for part in key.values)


@pytest.mark.parametrize(
    ("prefix", "codes"),
    [
        ("status", list(JobStatus)),
        ("purpose", list(FilePurpose)),
        ("role", list(Role)),
        ("event_type", [*SENT, BUDGET]),
        ("audit.type", [*get_args(OpenAIEvent), *get_args(OwnEvent)]),
    ],
)
def test_every_code_has_a_word(prefix: str, codes: list[str]) -> None:
    english = translator("en")
    assert [code for code in codes if f"{prefix}.{code}" not in texts.load("en")] == []
    assert english.named(prefix, "of a newer server") == "of a newer server"


@pytest.mark.parametrize(
    ("wish", "accepted", "chosen"),
    [("", "ja,en;q=0.8", "ja"), ("", "fr-FR, ja;q=0.5", "ja"), ("", "fr", "en"), ("en", "ja", "en"), ("xx", "", "en")],
)
def test_the_language_is_the_wish_then_the_browser_then_english(wish: str, accepted: str, chosen: str) -> None:
    assert texts.choose_language(wish, accepted) == chosen


JAPANESE = translator("ja")
SENTENCE = say("job.steps", step=3, total=9)


@pytest.mark.parametrize("copied", [SENTENCE, copy.deepcopy(SENTENCE), pickle.loads(pickle.dumps(SENTENCE))])
def test_a_text_is_its_english_and_stays_one_when_it_is_copied(copied: Text) -> None:
    assert copied == "step 3 of 9"
    assert json.loads(json.dumps(reference(copied))) == {"key": "job.steps", "params": {"step": 3, "total": 9}}


def test_a_document_is_worded_again_after_json() -> None:
    document = json.loads(json.dumps(with_texts({"message": SENTENCE, "lines": [SENTENCE, "2"], "n": 3})))
    assert document["message"] == "step 3 of 9"
    assert JAPANESE.word(document, "message") == "9 ステップ中 3 ステップ"
    assert JAPANESE.reword("2", document["texts"]["lines"][1]) == "2"


def test_a_sentence_inside_a_sentence_is_worded_too() -> None:
    outer = say("move.points", mean=SENTENCE, low=[SENTENCE, 2], high=1)
    worded = JAPANESE.reword(outer, json.loads(json.dumps(reference(outer))))
    assert worded == "9 ステップ中 3 ステップ ポイント（95 % 区間 9 ステップ中 3 ステップ、2〜1）"


@pytest.mark.parametrize(
    "known",
    [None, {"key": "of.a.newer.server", "params": {}}, {"key": "job.steps", "params": {"step": 1}}, {"key": "x"}, [1]],
)
def test_a_sentence_without_a_usable_reference_stays_as_it_came(known: dict) -> None:
    assert JAPANESE.reword("as it came", known) in ("as it came", [1])


def test_every_problem_says_what_to_do_about_it() -> None:
    assert [code for code in CODES if f"mend.{code}" not in texts.load("en")] == []


def test_a_report_can_be_worded_again() -> None:
    rows = [
        '{"messages": [{"role": "boss", "content": "x"}, {"role": "assistant", "content": "y"}]}',
        '{"messages": [{"role": "user", "content": 3}, {"role": "assistant", "content": "y"}], "extra": 1}',
        '{"messages": [}',
        "[1]",
        '{"input": {"messages": []}, "preferred_output": []}',
        '{"prompt": "a"}',
        *['{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}'] * 12,
    ]
    report = json.loads(json.dumps(validate_file(["\n".join(rows).encode()], method=None).to_dict()))
    sentences = [JAPANESE.word(item, name) for item in report["problems"] for name in ("message", "suggestion")]
    sentences += [JAPANESE.word(item, name) for item in report["advice"] for name in ("message", "suggestion")]
    sentences += [line for item in report["advice"] for line in JAPANESE.word_all(item, "evidence")]
    assert len(report["problems"]) > 6 and len(report["advice"]) > 2
    assert [sentence for sentence in sentences if not re.search("[ぁ-ん]", sentence)] == []
