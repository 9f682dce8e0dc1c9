"""Text of a user stays text: what spells a control token of the base is tokenized as the characters it is made of.

A chat template writes one string, in which the marks that it writes itself (`<|im_start|>`) and those that somebody
typed look alike. So the texts are guarded before they are rendered and told apart afterwards:

    guard    each mark in a text, and a piece of one where it might be joined to another piece, becomes a private
             sequence: _ESCAPE and an index. No filter of a template changes it; the user's own _ESCAPE is escaped too.
    settle   the private sequences become the user's characters again, and it is noted where they stand.
    encode   a text without such places goes to the base's tokenizer as it is, which is nearly every one. In any other
             the template's marks become aliases that no text can hold, and a tokenizer encodes it that knows the marks
             by their aliases alone.
"""

import json
import re
import secrets
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import orjson
from tokenizers import Encoding, Tokenizer

_ESCAPE = "\ufdd0"  # a noncharacter: meant for use inside a program, in no text that is meant to be exchanged
_FIRST_INDEX = 0xF0000  # index n is the character _FIRST_INDEX + n, of the private use area
_BREAK, _OWN = 0, 1  # indices: nothing, where a mark would else be joined from two texts; _ESCAPE itself
_FIRST_MARK = 2
_SEQUENCE = re.compile(f"{_ESCAPE}(.?)", re.DOTALL)
# JSON Schema's types: short words that may stand inside a mark, and that templates compare.
_COMPARED = frozenset(("string", "number", "integer", "boolean", "array", "object", "null", "function"))
_MIN_LENGTH = 2  # a mark of one character cannot be told from punctuation


@dataclass(frozen=True, slots=True)
class Settled:
    """A rendered text as people see it."""

    text: str
    quoted: tuple[tuple[int, int], ...] = ()  # where characters that spell a mark are text; empty where two texts meet
    shifts: tuple[tuple[int, int], ...] = ()  # see `_moved`: from the guarded text to this one

    def position(self, guarded: int) -> int:
        return _moved(guarded, self.shifts)

    def cut(self, start: int, end: int) -> "Settled":
        within = ((max(a, start) - start, min(b, end) - start) for a, b in self.quoted if a < end and b > start)
        return Settled(self.text[start:end], tuple(within))


@dataclass(frozen=True, slots=True)
class Encoded:
    """Tokens of a text. `encoding` counts the characters of the text under aliases, to which `shifts` lead."""

    encoding: Encoding
    shifts: tuple[tuple[int, int], ...] = ()

    @property
    def ids(self) -> list[int]:
        return self.encoding.ids

    def position(self, position: int) -> int:
        return _moved(position, self.shifts)

    def begin_of(self, token: int) -> int | None:
        """Where the token's first character stands in the text."""
        held = self.encoding.token_to_chars(token)
        return _moved(held[0], tuple((to, at) for at, to in self.shifts)) if held else None


class Marks:
    """The control tokens of a tokenizer: all special ones, and those others that a template writes of its own.

    `source`: all that it may write, as code. `spoken`: what it writes for a plain conversation."""

    def __init__(self, tokenizer: Tokenizer, source: str, spoken: str) -> None:
        written = source + spoken
        added = tokenizer.get_added_tokens_decoder().values()
        others = {token.content for token in added if not token.special and _steers(token.content, written)}
        texts = {token.content for token in added if token.special and len(token.content) >= _MIN_LENGTH} | others
        self.texts = tuple(sorted(texts))
        self._tokenizer = tokenizer
        # What the model writes inside of its answer, for people to read: <think>, <tool_call>, and what ends them.
        tags = {text for text in others if _partner(text) in others and text not in spoken}
        self._in_text = _any_of([*self.texts, _ESCAPE])
        self._in_answer = _any_of([*(text for text in self.texts if text not in tags), _ESCAPE])
        self._mark = _any_of(self.texts)
        self._index = {_ESCAPE: _OWN, **{text: _FIRST_MARK + n for n, text in enumerate(self.texts)}}
        self._beginnings = frozenset(text[:end] for text in self.texts for end in range(1, len(text)))
        self._first_letters = frozenset(text[0] for text in self.texts)
        self._longest = max(map(len, self.texts), default=0) - 1
        # Whether the template puts a mark together around somebody's text, as in '<|' + role + '|>'.
        self._joins = any(re.search(re.escape(text) + r"""(['"]|\{[{%])""", written) for text in self._beginnings)
        # A tokenizer that looks for marks in normalised text finds some that are spelt otherwise.
        normalised = any(token.normalized and token.content in texts for token in added)
        self._always = normalised and self._same_under_aliases(spoken)

    def guard(self, text: str, *, answer: bool = False) -> str:
        """`answer`: the text is the assistant's own, where tags that it may write keep their meaning."""
        guarded = (self._in_answer if answer else self._in_text).sub(
            lambda found: _private(self._index[found[0]]), text
        )
        core = guarded.rstrip()
        if self._ends_in_a_beginning(core):
            guarded = core + _private(_BREAK) + guarded[len(core) :]
        if self._joins and core and self._goes_on_a_mark(core.lstrip()):
            space = len(guarded) - len(guarded.lstrip())
            guarded = guarded[:space] + _private(_BREAK) + guarded[space:]
        return guarded

    def guard_all(self, value: Any) -> Any:
        """Every text of a JSON value, the keys of its objects too."""
        if isinstance(value, str):
            return self.guard(value)
        if isinstance(value, list):
            return [self.guard_all(item) for item in value]
        if isinstance(value, dict):
            return {self._guard_key(key): self.guard_all(item) for key, item in value.items()}
        return value

    def settle(self, guarded: str) -> Settled:
        """The text with the user's characters in their places."""
        if _ESCAPE not in guarded:
            return Settled(guarded)
        pieces: list[str] = []
        quoted: list[tuple[int, int]] = []
        shifts: list[tuple[int, int]] = []
        position = length = 0
        for found in _SEQUENCE.finditer(guarded):
            meant = self._meant(found[1])
            pieces += [guarded[position : found.start()], meant]
            length += found.start() - position
            quoted.append((length, length + len(meant)))
            length, position = length + len(meant), found.end()
            shifts.append((position, length))
        return Settled("".join([*pieces, guarded[position:]]), tuple(quoted), tuple(shifts))

    def encode(self, settled: list[Settled]) -> list[Encoded]:
        """Raises what the tokenizer raises for text that is no Unicode."""
        aliased = {n: self._aliased(each) for n, each in enumerate(settled) if each.quoted or self._always}
        plain = [each.text for n, each in enumerate(settled) if n not in aliased]
        encodings = iter(self._tokenizer.encode_batch(plain, add_special_tokens=False) if plain else [])
        if not aliased:
            return [Encoded(encoding) for encoding in encodings]
        by_alias = iter(self._by_alias.encode_batch([text for text, _ in aliased.values()], add_special_tokens=False))
        return [
            Encoded(next(by_alias), aliased[n][1]) if n in aliased else Encoded(next(encodings))
            for n in range(len(settled))
        ]

    def _same_under_aliases(self, text: str) -> bool:
        """False for a normalizer that puts something before each text, which no mark inside of one has before it."""
        expected = self._tokenizer.encode(text, add_special_tokens=False).ids
        return self._by_alias.encode(self._aliased(Settled(text))[0], add_special_tokens=False).ids == expected

    def _meant(self, index: str) -> str:
        """What a private sequence stands for. A template that cut it in two leaves nothing of it."""
        number = ord(index) - _FIRST_INDEX if index else _BREAK
        if number == _OWN:
            return _ESCAPE
        if _FIRST_MARK <= number < _FIRST_MARK + len(self.texts):
            return self.texts[number - _FIRST_MARK]
        return "" if number == _BREAK else index

    def _guard_key(self, key: str) -> str:
        """Only whole marks: a template asks for keys by name."""
        return self._in_text.sub(lambda found: _private(self._index[found[0]]), key)

    def _ends_in_a_beginning(self, text: str) -> bool:
        end = text[-self._longest :]
        if self._first_letters.isdisjoint(end):  # nearly every text
            return False
        return any(end[start:] in self._beginnings for start in range(len(end)))

    def _goes_on_a_mark(self, text: str) -> bool:
        if text in _COMPARED:
            return False
        inside = len(text) <= self._longest and any(text in mark for mark in self.texts)
        return inside or any(
            mark[start:] == text[: len(mark) - start] for mark in self.texts for start in range(1, len(mark))
        )

    def _aliased(self, settled: Settled) -> tuple[str, tuple[tuple[int, int], ...]]:
        """The text for `_by_alias`, and how positions lead there."""
        pieces: list[str] = []
        shifts: list[tuple[int, int]] = []
        position = length = 0
        for start, end in (*settled.quoted, (len(settled.text), len(settled.text))):
            for found in self._mark.finditer(settled.text, position, start):
                alias = self._aliases[found[0]]
                pieces += [settled.text[position : found.start()], alias]
                length += found.start() - position + len(alias)
                position = found.end()
                shifts.append((position, length))
            pieces.append(settled.text[position:end])
            length, position = length + end - position, end
        return "".join(pieces), tuple(shifts)

    @cached_property
    def _aliases(self) -> dict[str, str]:
        """By mark."""
        return aliases_of(self.texts)

    @cached_property
    def _by_alias(self) -> Tokenizer:
        return under_aliases(self._tokenizer, self._aliases)


def aliases_of(texts: Iterable[str]) -> dict[str, str]:
    """A name for each of the marks, drawn by lot, so that no text can spell one."""
    nonce = secrets.token_hex(8)
    return {text: f"\ufdd1{nonce}.{n}\ufdd1" for n, text in enumerate(texts)}


def under_aliases(tokenizer: Tokenizer, aliases: dict[str, str]) -> Tokenizer:
    """The same tokenizer with each mark under its alias: in its vocabulary too, from which Unigram would take a mark
    that is spelt out, and without the merges that would lead to one."""
    document = orjson.loads(tokenizer.to_str())
    model = document["model"]
    for token in document["added_tokens"]:
        if token["content"] in aliases:
            token.update(content=aliases[token["content"]], normalized=False, single_word=False)
    if isinstance(model["vocab"], dict):
        model["vocab"] = {aliases.get(text, text): number for text, number in model["vocab"].items()}
    else:
        model["vocab"] = [[aliases.get(text, text), score] for text, score in model["vocab"]]
    if model.get("unk_token") in aliases:
        model["unk_token"] = aliases[model["unk_token"]]
    if model.get("merges"):
        model["merges"] = [pair for pair in model["merges"] if not _leads_to_mark(pair, aliases)]
    renamed = Tokenizer.from_str(orjson.dumps(document).decode())
    for text, alias in aliases.items():
        if renamed.token_to_id(alias) != tokenizer.token_to_id(text):
            raise ValueError(f"The tokenizer gives {text!r} another number under another name.")
    return renamed


def without_special(tokenizer: Tokenizer) -> Tokenizer:
    """The same tokenizer, in which no text becomes a special token."""
    special = (token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special)
    return under_aliases(tokenizer, aliases_of(special))


def _moved(position: int, shifts: tuple[tuple[int, int], ...]) -> int:
    """A position in a text whose pieces were replaced: (end of a piece, its end in the other text) of each, in order.
    One inside of a replaced piece is taken for its beginning."""
    index = bisect_right(shifts, position, key=lambda shift: shift[0])
    at, to = shifts[index - 1] if index else (0, 0)
    return to + position - at


def as_json(value: Any, *, ensure_ascii: bool, **options: Any) -> str:
    """`json.dumps` that leaves private sequences whole."""
    text = json.dumps(value, ensure_ascii=False, **options)
    if not ensure_ascii:
        return text
    return re.sub(rf"{_SEQUENCE.pattern}|[^\x00-\x7e]", _in_ascii, text, flags=re.DOTALL)


def _in_ascii(found: re.Match[str]) -> str:
    return found[0] if found[1] is not None else json.dumps(found[0])[1:-1]


def _private(index: int) -> str:
    return _ESCAPE + chr(_FIRST_INDEX + index)


def _partner(tag: str) -> str:
    """`</x>` of `<x>` and the other way round."""
    return f"<{tag[2:]}" if tag.startswith("</") else f"</{tag[1:]}" if tag.startswith("<") else ""


def _steers(text: str, written: str) -> bool:
    """Whether a token that is not special is a mark. Others are words or runs of spaces with a token of their own."""
    return len(text) >= _MIN_LENGTH and re.search(r"[^\w\s▁]", text) is not None and text in written


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """The longest of those that begin at a place, as tokenizers take it."""
    return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or r"(?!)")


def _leads_to_mark(pair: str | list[str], marks: dict[str, str]) -> bool:
    left, right = pair.split(" ", 1) if isinstance(pair, str) else pair
    return left + right in marks or left in marks or right in marks
