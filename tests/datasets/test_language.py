"""Which language a file is in, what that costs with the base's tokenizer, and the advice about it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tunery.chat.render import Renderer
from tunery.datasets.report import Report
from tunery.datasets.validate import validate_file
from tunery.models.catalog import BaseLanguages, Catalog
from tunery.texts import translator

Write = Callable[..., Path]
ENGLISH_BASE = BaseLanguages("the-base", ("en",), {"en": ["gpt-en"]})
TEXTS = {
    "en": ("My parcel {n} has not arrived yet. Where is it now?", "I am sorry. It will be with you tomorrow."),
    "ja": ("荷物 {n} がまだ届きません。今どこにありますか。", "申し訳ございません。明日お届けする予定です。"),
    "ko": ("소포 {n}이 아직 도착하지 않았습니다. 지금 어디에 있나요?", "죄송합니다. 내일 도착할 예정입니다."),
    "es": ("El paquete {n} todavía no ha llegado. ¿Dónde está?", "Lo siento mucho. Llegará mañana por la mañana."),
}


def rows(language: str, *, preference: bool = False) -> list[dict[str, Any]]:
    question, answer = TEXTS[language]
    asked = [{"role": "user", "content": question.format(n=n)} for n in range(12)]
    said = {"role": "assistant", "content": answer}
    if preference:
        worse = {"role": "assistant", "content": answer[:10]}
        return [
            {"input": {"messages": [user]}, "preferred_output": [said], "non_preferred_output": [worse]}
            for user in asked
        ]
    return [{"messages": [user, said]} for user in asked]


def report_on(given: list[dict[str, Any]], write_rows: Write, renderer: Renderer, **values: Any) -> Report:
    return validate_file(write_rows(given), renderer=renderer, max_example_tokens=8192, **values)


@pytest.mark.parametrize("language", ["ja", "ko", "es"])
@pytest.mark.parametrize("preference", [False, True])
def test_texts_in_another_language_than_the_base(
    language: str, preference: bool, write_rows: Write, renderer: Renderer
) -> None:
    method = "dpo" if preference else "supervised"
    given = rows(language, preference=preference)
    report = report_on(given, write_rows, renderer, method=method, languages=ENGLISH_BASE)
    assert (report.is_valid, report.language) == (True, language)
    first = report.advice[0]
    assert first.code == "base_of_another_language"
    assert report.tokens is not None and report.tokens.tokens_per_character is not None
    assert f"{report.tokens.tokens_per_character:.2f} tokens a character, 0.2" in first.evidence[0]


def test_japanese_costs_several_times_what_english_does(write_rows: Write, renderer: Renderer) -> None:
    costs = {}
    for language in ("en", "ja"):
        tokens = report_on(rows(language), write_rows, renderer).tokens
        assert tokens is not None and tokens.tokens_per_character is not None
        costs[language] = tokens.tokens_per_character
    assert 0.15 < costs["en"] < 0.35 and costs["ja"] > 5 * costs["en"]


@pytest.mark.parametrize(
    ("given", "base"),
    [
        (rows("en"), ENGLISH_BASE),
        (rows("ja"), BaseLanguages("both", ("ja", "en"), {})),
        (rows("ja"), BaseLanguages("not said", (), {})),
        (rows("ja")[:3] + rows("en")[:9], ENGLISH_BASE),
        (
            [{"messages": [{"role": "user", "content": "請求"}, {"role": "assistant", "content": "b"}]}] * 10,
            ENGLISH_BASE,
        ),
    ],
    ids=["its own", "one of its own", "a base of no language", "a few rows", "labels"],
)
def test_no_advice(given: list[dict[str, Any]], base: BaseLanguages, write_rows: Write, renderer: Renderer) -> None:
    report = report_on(given, write_rows, renderer, languages=base)
    assert "base_of_another_language" not in [advice.code for advice in report.advice]


def test_who_knows_it_is_named_in_the_readers_language(write_rows: Write, renderer: Renderer) -> None:
    base = BaseLanguages("the-base", ("en",), {"ja": ["gpt-ja", "gpt-ja-mini"]})
    advice = report_on(rows("ja"), write_rows, renderer, languages=base).advice[0]
    assert advice.suggestion == "Choose one whose base was made for it: gpt-ja, gpt-ja-mini."
    japanese = translator("ja")
    assert "テキストの大半は日本語ですが" in japanese.word(advice.to_dict(), "message")
    assert "gpt-ja-mini" in japanese.word(advice.to_dict(), "suggestion")
    assert "1 文字あたり" in japanese.word_all(advice.to_dict(), "evidence")[0]


def test_without_a_base_the_language_alone(write_rows: Write) -> None:
    report = validate_file(write_rows(rows("ja")))
    assert (report.language, report.tokens, report.to_dict()["language"]) == ("ja", None, "ja")


def test_the_catalog_says_who_speaks_what(tmp_path: Path) -> None:
    added = tmp_path / "catalog.toml"
    added.write_text(
        '[bases.mine]\nsource = "path:/mine"\ncontext_length = 512\nlanguages = ["ja"]\n'
        '[[models]]\nname = "my-ja"\nbase = "mine"\n'
        '[[models]]\nname = "my-ja-served"\nbase = "mine"\ntraining = false\n'
    )
    catalog = Catalog.load(added)
    found = catalog.languages_of(catalog.resolve("gpt-4o-mini"))
    assert (found.weights, found.own, found.speakers["ja"]) == ("smollm2-135m-instruct", ("en",), ["my-ja"])
    assert "gpt-4o-mini-2024-07-18" in found.speakers["en"]
