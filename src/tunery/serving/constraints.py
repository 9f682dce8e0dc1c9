"""Grammars that a model's answer must follow, through llguidance."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLTokenizer

from tunery.domain.errors import InvalidRequest

# Any layout a model may have learned, but no endless white space, into which small models like to fall.
_JSON_OPTIONS: dict[str, Any] = {"whitespace_flexible": True, "whitespace_pattern": r"[ \n]{0,20}"}


def json_grammar(schema: dict[str, Any]) -> str:
    """The grammar of a JSON text that obeys the schema."""
    return LLMatcher.grammar_from_json_schema({**schema, "x-guidance": _JSON_OPTIONS})


def calls_grammar(schema: dict[str, Any], *, opening: str, closing: str, is_parallel: bool) -> str:
    """One call, or one and more, each an object of the schema between the two marks."""
    start = 'call ("\\n" call)*' if is_parallel else "call"
    return LLMatcher.grammar_from_lark(
        f"start: {start}\ncall: {json.dumps(opening)} /\\n/ object /\\n/ {json.dumps(closing)}\n{_object(schema)}"
    )


def text_or_calls_grammar(schema: dict[str, Any], *, opening: str, closing: str, is_parallel: bool) -> str:
    """Free text in which everything that begins like a call is one."""
    start = "call* TEXT" if is_parallel else "call | TEXT"
    return LLMatcher.grammar_from_lark(
        f"start: {start}\nTEXT: /(.|\\n)*/\nhead[lazy]: TEXT {json.dumps(opening)}\n"
        f"call: head /\\n/ object /\\n/ {json.dumps(closing)}\n{_object(schema)}"
    )


def _object(schema: dict[str, Any]) -> str:
    return f"object: %json {json.dumps({**schema, 'x-guidance': _JSON_OPTIONS})}\n"


class Grammars:
    """Compiles grammars against one tokenizer."""

    def __init__(self, model_dir: Path, vocab_size: int, eos_ids: frozenset[int]) -> None:
        self._tokenizer = LLTokenizer(
            str(model_dir / "tokenizer.json"), n_vocab=vocab_size, eos_token=sorted(eos_ids) or None
        )

    def check(self, grammar: str, param: str) -> None:
        """Raises InvalidRequest, naming the parameter the grammar was made from."""
        is_error, messages = LLMatcher.validate_grammar_with_warnings(grammar, self._tokenizer)
        if is_error:
            raise InvalidRequest(
                f"Invalid schema for {param!r}: {messages[0]}", param=param, code="invalid_json_schema"
            )

    def accepts(self, grammar: str) -> bool:
        return not LLMatcher.validate_grammar_with_warnings(grammar, self._tokenizer)[0]

    def start(self, grammar: str) -> "Constraint":
        return Constraint(LLMatcher(self._tokenizer, grammar))


class Constraint:
    """Where one answer stands in its grammar."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    def allowed(self, vocab_size: int) -> np.ndarray:
        """A boolean for every token [V]."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        return np.unpackbits(bits, bitorder="little")[:vocab_size].astype(bool)

    def advance(self, token_id: int) -> None:
        self._matcher.consume_token(token_id)

    @property
    def is_complete(self) -> bool:
        """Nothing may follow but the end. Also true after a failure, which ends the answer as well."""
        return self._matcher.is_stopped()
