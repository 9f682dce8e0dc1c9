"""Which language a data set is in, and what its texts cost with a base's tokenizer.

A base that was made for other languages needs several tokens for what is one to it otherwise: a job and its answers
then take and cost several times as much, and the model is worse at them.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from tunery.chat.render import Renderer
from tunery.models.catalog import BaseLanguages
from tunery.texts import LANGUAGES, Text, load, say

MOST = 20_000  # characters that are looked at
_PIECE = 500  # characters whose language is guessed at once
LEAST = 200  # characters; less is as often a list of labels as a language
_DOMINATES = 0.5  # of the pieces


@dataclass(frozen=True)
class Language:
    """Of most of the texts."""

    code: str | None  # ISO 639-1; None: none that dominates, or too little text
    tokens_per_character: float | None  # with the base's tokenizer; None: no base was given
    usual_tokens_per_character: float | None  # of sentences in a language that the base was made for; None: not known


def look_at(texts: Iterable[str], renderer: Renderer | None, base: BaseLanguages | None) -> Language | None:
    """`texts` of the examples, in any order. None where there is too little of them."""
    text = _beginning(texts)
    if len(text) < LEAST:
        return None
    return Language(
        _dominating(text),
        _cost(renderer, text) if renderer else None,
        _usual_cost(renderer, base) if renderer and base else None,
    )


def language_name(code: str) -> Text | str:
    """For people, where there is a word for it."""
    return say(f"language.{code}") if f"language.{code}" in load("en") else code


def _beginning(texts: Iterable[str]) -> str:
    found, length = list[str](), 0
    for text in texts:
        found.append(text[: MOST - length])
        length += len(found[-1]) + 1
        if length >= MOST:
            break
    return "\n".join(found)


def _dominating(text: str) -> str | None:
    from py3langid import classify  # reads its model, a second that only who asks waits for

    pieces = [text[start : start + _PIECE] for start in range(0, len(text), _PIECE)]
    guesses = Counter(str(classify(piece)[0]) for piece in pieces if len(piece) >= LEAST)
    code, count = guesses.most_common(1)[0] if guesses else (None, 0)
    return code if count > _DOMINATES * guesses.total() else None


def _cost(renderer: Renderer, text: str) -> float:
    return round(len(renderer.encode(text)) / len(text), 3)


def _usual_cost(renderer: Renderer, base: BaseLanguages) -> float | None:
    """Of the sentences of this program in a language of the base."""
    code = next((code for code in base.own if code in LANGUAGES), None)
    return None if code is None else _cost(renderer, " ".join(islice(load(code).values(), 200)))
