"""The languages say the same things."""

import re
import string

import pytest

from tunery.dashboard import text
from tunery.domain.jobs import JobStatus

SOURCES = list(text.TEXTS.parent.rglob("*.py"))
# Keys that are put together: t(f"status.{…}"). Their second halves are values of the product.
BUILT = (
    "compare",
    "create",
    "dataset",
    "limits",
    "method",
    "metric",
    "move",
    "nav",
    "role",
    "signin",
    "status",
    "theme",
    "time",
    "usage",
)


def fields(sentence: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(sentence) if name}


@pytest.mark.parametrize("language", sorted(set(text.LANGUAGES) - {"en"}))
def test_a_language_has_the_keys_of_english(language: str) -> None:
    assert text.load(language).keys() == text.load("en").keys()


@pytest.mark.parametrize("language", sorted(set(text.LANGUAGES) - {"en"}))
def test_a_sentence_takes_the_same_values_in_every_language(language: str) -> None:
    other = text.load(language)
    assert [key for key, sentence in text.load("en").items() if fields(sentence) != fields(other[key])] == []


def test_every_key_that_the_code_asks_for_exists() -> None:
    asked = {key for path in SOURCES for key in re.findall(r"\bt\(\s*\"([a-z_.]+)\"", path.read_text())}
    assert asked - text.load("en").keys() == set()
    assert len(asked) > 150


def test_every_key_is_asked_for() -> None:
    code = "\n".join(path.read_text() for path in SOURCES)
    unused = [key for key in text.load("en") if f'"{key}"' not in code and key.split(".")[0] not in BUILT]
    assert unused == []


def test_every_status_has_a_word() -> None:
    assert all(f"status.{status}" in text.load("en") for status in JobStatus)


@pytest.mark.parametrize(
    ("wish", "accepted", "chosen"),
    [("", "ja,en;q=0.8", "ja"), ("", "fr-FR, ja;q=0.5", "ja"), ("", "fr", "en"), ("en", "ja", "en"), ("xx", "", "en")],
)
def test_the_language_is_the_wish_then_the_browser_then_english(wish: str, accepted: str, chosen: str) -> None:
    assert text.choose_language(wish, accepted) == chosen
