"""Every sentence that a person reads, one JSON file a language, `{code}.json`. English is the reference.

    say("problem.unknown_role", role="'boss'")   a Text: the English sentence, which still knows its key and its values
    with_texts({"message": that, ...})           the same document with `texts`, from which a reader words it again
    translator("ja").word(document, "message")   the sentence in the reader's language

The wire carries English, since OpenAI's clients search for its words; beside it our own fields carry key and values.
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

TEXTS = Path(__file__).parent

Reference = dict[str, Any]
"""`{"key": …, "params": {…}}`, as JSON. A value may be a reference itself, or a list of them."""


class Text(str):
    """An English sentence made from the catalogue: a string like any other, that can be worded in another language."""

    key: str
    params: dict[str, Any]

    def __new__(cls, sentence: str, key: str, params: dict[str, Any]) -> "Text":
        text = super().__new__(cls, sentence)
        text.key, text.params = key, params
        return text

    def __reduce__(self) -> tuple[type["Text"], tuple[str, str, dict[str, Any]]]:
        return Text, (str(self), self.key, self.params)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Text":
        return self


@cache
def load(language: str) -> dict[str, str]:
    return json.loads((TEXTS / f"{language}.json").read_text(encoding="utf-8"))


def _languages() -> dict[str, str]:
    """What each calls itself, by code: every file that lies here is a language, English the first."""
    codes = sorted((path.stem for path in TEXTS.glob("*.json")), key=lambda code: (code != "en", code))
    return {code: load(code)["language.own_name"] for code in codes}


LANGUAGES = _languages()


def say(key: str, /, **params: Any) -> Text:
    """The English sentence of `key`. Values: strings, numbers, other Texts, and lists of these. An unknown key or a
    value too few is an error of ours."""
    return Text(_worded(load("en"), key, params), key, params)


def reference(value: Any) -> Any:
    """What is kept of a sentence beside its English: its Reference. Of a list or a mapping with Texts the same shape,
    of anything else None."""
    if isinstance(value, Text):
        return {"key": value.key, "params": {name: _plain(item) for name, item in value.params.items()}}
    if isinstance(value, Mapping):
        found = {name: known for name, item in value.items() if (known := reference(item)) is not None}
        return found or None
    if isinstance(value, list | tuple):
        found = [reference(item) for item in value]
        return found if any(item is not None for item in found) else None
    return None


def restored(known: Reference) -> Text:
    """The sentence of a Reference that another process of ours has written."""
    params = known["params"]
    return say(known["key"], **{name: restored(it) if _is_reference(it) else it for name, it in params.items()})


def _is_reference(value: Any) -> bool:
    return isinstance(value, Mapping) and "key" in value


def with_texts(document: dict[str, Any]) -> dict[str, Any]:
    """The document, and under `texts` the references of the sentences that stand in its fields. Documents inside it
    have their own."""
    own = {name: value for name, value in document.items() if not _holds_documents(value)}
    return {**document, "texts": reference(own) or {}}


def _holds_documents(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(item, Mapping) for item in value)


def _plain(value: Any) -> Any:
    if isinstance(value, Text):
        return reference(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


class Translator:
    """The sentences of one language: `t("job.steps", step=3, total=9)`."""

    def __init__(self, language: str) -> None:
        self.language = language
        self._texts = load(language)

    def __call__(self, key: str, /, **values: Any) -> str:
        """With its values put in. An unknown key is an error of ours."""
        return _worded(self._texts, key, values)

    def named(self, prefix: str, code: str) -> str:
        """The word for a code that the wire carries, at `prefix.code`; the code itself where there is none."""
        return self._texts.get(f"{prefix}.{code}", code)

    def word(self, document: Mapping[str, Any], field: str) -> str:
        """A sentence that came with its reference (`with_texts`); as it came where it has none."""
        return self.reword(document.get(field) or "", (document.get("texts") or {}).get(field))

    def word_all(self, document: Mapping[str, Any], field: str) -> list[str]:
        """The sentences of a list."""
        sentences = document.get(field) or []
        known = (document.get("texts") or {}).get(field) or [None] * len(sentences)
        return [self.reword(*pair) for pair in zip(sentences, known, strict=True)]

    def reword(self, message: str, known: Reference | None) -> str:
        """`message` by its reference. A key of a newer server, or a sentence of somebody else, stays as it came."""
        try:
            worded = self._of(known) if isinstance(known, Mapping) else None
            return worded if isinstance(worded, str) else message
        except (KeyError, ValueError, TypeError, IndexError, AttributeError):
            return message

    def _of(self, known: Any) -> Any:
        if isinstance(known, Mapping) and "key" in known:
            values = {name: self._of(value) for name, value in known["params"].items()}
            return _worded(self._texts, known["key"], values)
        return [self._of(item) for item in known] if isinstance(known, list) else known


def _worded(texts: dict[str, str], key: str, values: Mapping[str, Any]) -> str:
    """Braces are values only in a sentence that is given some; a list is joined as the language does it."""
    if not values:
        return texts[key]
    joined = {
        name: texts["list.separator"].join(map(str, value)) if isinstance(value, list | tuple) else value
        for name, value in values.items()
    }
    return texts[key].format(**joined)


@cache
def translator(language: str) -> Translator:
    return Translator(language)


def choose_language(wish: str, accept_language: str) -> str:
    """The session's wish, else the first language of the browser's list that there is, else English."""
    if wish in LANGUAGES:
        return wish
    for part in accept_language.split(","):
        code = part.split(";")[0].strip().split("-")[0].lower()
        if code in LANGUAGES:
            return code
    return "en"
