"""Every sentence of the dashboard, one JSON file a language in `texts/`. English is the reference."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

TEXTS = Path(__file__).with_name("texts")
LANGUAGES = {"en": "English", "ja": "日本語"}

Translator = Callable[..., str]


@cache
def load(language: str) -> dict[str, str]:
    return json.loads((TEXTS / f"{language}.json").read_text(encoding="utf-8"))


def translator(language: str) -> Translator:
    """`t("job.steps", step=3, total=9)`: the sentence with its values put in. An unknown key is an error of ours."""
    texts = load(language)

    def t(key: str, **values: Any) -> str:
        return texts[key].format(**values) if values else texts[key]

    return t


def choose_language(wish: str, accept_language: str) -> str:
    """The session's wish, else the first language of the browser's list that there is, else English."""
    if wish in LANGUAGES:
        return wish
    for part in accept_language.split(","):
        code = part.split(";")[0].strip().split("-")[0].lower()
        if code in LANGUAGES:
            return code
    return "en"
