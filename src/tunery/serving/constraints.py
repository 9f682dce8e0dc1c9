"""Grammars that a model's answer must follow, through llguidance.

What a request asks for (`Rules`) becomes a grammar's text, then a `Grammar`, of which every answer gets a `Constraint`
of its own. The second step may take a second and a hundred megabytes, so it is made neither in the event loop nor in
the engine's thread, a few at a time, within a time limit, and what was made is kept for the next request. What may take
for ever is tried first in a process that can be ended.
"""

import asyncio
import hashlib
import json
import logging
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from tokenizers import Tokenizer

from tunery.chat.marks import without_special
from tunery.domain.errors import InvalidRequest
from tunery.domain.schemas import RequestSchema
from tunery.serving.schemas import Schema, SchemaProblem, answer_schema, arguments_schema, loosened
from tunery.serving.trial import Trials, Turns, needs_trial
from tunery.texts import say

log = logging.getLogger(__name__)

# Any layout a model may have learned, but no endless white space, into which small models like to fall.
_JSON_OPTIONS: dict[str, Any] = {"whitespace_flexible": True, "whitespace_pattern": r"[ \n]{0,20}"}
# Of a step: some 7 ms of the lexer's work. States take 2 kB each.
_LIMITS = LLParserLimits(step_lexer_fuel=100_000, max_lexer_states=20_000, verbose_errors=False)

MAX_MAKING = 3  # grammars at once: more would take the processor from the engine
MAX_MAKING_OF_ONE = 2  # of one project
MAX_MAKING_S = 10.0
MAX_LOOSENING_S = 1.0
# A grammar takes up to 150 times its text in memory.
MAX_KEPT = 256
MAX_KEPT_CHARACTERS = 1_000_000


@dataclass(frozen=True)
class CallMarks:
    """Text around the JSON object of a call."""

    opening: str
    closing: str


@dataclass(frozen=True)
class Function:
    name: str
    parameters: RequestSchema


@dataclass(frozen=True)
class Rules:
    """What an answer must be: calls of these functions, a text of this format, or where it may choose, either."""

    marks: CallMarks
    functions: tuple[Function, ...] = ()
    must_call: bool = False
    is_parallel: bool = False
    answer: RequestSchema | None = None

    @property
    def is_strict(self) -> bool:
        return any(schema.is_strict for schema in self.schemas)

    @property
    def key(self) -> bytes:
        """Equal for rules that make the same grammar and the same errors."""
        schemas = [[item.owner, item.param, item.schema, item.is_strict] for item in self.schemas]
        shape = [self.marks.opening, self.marks.closing, self.must_call, self.is_parallel, self.answer is None]
        return hashlib.sha256(orjson.dumps([shape, [item.name for item in self.functions], schemas])).digest()

    @property
    def schemas(self) -> list[RequestSchema]:
        return [item.parameters for item in self.functions] + ([self.answer] if self.answer else [])


class Constraint:
    """Where one answer stands in its grammar.

    A grammar may turn out to be too much in the middle of an answer. Where it was asked for as strict, the answer has
    then failed; else it goes on without it.
    """

    def __init__(self, matcher: LLMatcher, *, is_strict: bool) -> None:
        self._matcher = matcher
        self._is_strict = is_strict
        self._is_lost = False

    def allowed(self, vocab_size: int) -> np.ndarray:
        """A boolean for every token [V]."""
        if not self._is_lost:
            bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
            self._is_lost = self._matcher.is_error()
            if not self._is_lost:
                return np.unpackbits(bits, bitorder="little")[:vocab_size].astype(bool)
        return np.ones(vocab_size, dtype=bool)

    def advance(self, token_id: int) -> None:
        if not self._is_lost:
            self._is_lost = not self._matcher.consume_token(token_id)

    @property
    def is_complete(self) -> bool:
        """Nothing may follow but the end."""
        return not self._is_lost and self._matcher.is_stopped()

    @property
    def has_failed(self) -> bool:
        return self._is_lost and self._is_strict


class Grammar:
    """Made once, followed by any number of answers."""

    def __init__(self, matcher: LLMatcher, text: str, *, is_strict: bool) -> None:
        self._matcher = matcher  # never advanced itself
        self._is_strict = is_strict
        self.text = text  # what it was made from, in llguidance's language

    def start(self) -> Constraint:
        return Constraint(self._matcher.deep_copy(), is_strict=self._is_strict)


class Grammars:
    """Makes grammars against one tokenizer, and keeps those that were last asked for."""

    def __init__(self, model_dir: Path, vocab_size: int, eos_ids: frozenset[int]) -> None:
        # llguidance tokenizes what a schema fixes, such as a name: there, too, text is never a control token.
        tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
        ends = sorted(eos_ids) or None
        self._tokenizer = LLTokenizer(without_special(tokenizer).to_str(), n_vocab=vocab_size, eos_token=ends)
        self._kept: OrderedDict[bytes, Grammar | InvalidRequest] = OrderedDict()
        self._making: dict[tuple[str, bytes], asyncio.Task[Grammar | InvalidRequest]] = {}
        self._turns = Turns(MAX_MAKING, MAX_MAKING_OF_ONE)
        self.trials = Trials(_maker, (model_dir, vocab_size, eos_ids))

    async def get(self, rules: Rules, project: str = "") -> Grammar:
        """`project`: who asks, and waits for no other one's grammars. Raises InvalidRequest that names the schema which
        cannot be held to."""
        key = rules.key
        found = self._kept.get(key)
        if found is None:
            if (project, key) not in self._making:
                self._making[project, key] = asyncio.create_task(self._make_in_turn(project, key, rules))
            found = await asyncio.shield(self._making[project, key])
        else:
            self._kept.move_to_end(key)
        if isinstance(found, InvalidRequest):
            raise InvalidRequest(found.message, param=found.param, code=found.code)
        return found

    def close(self) -> None:
        """End the process of the trials."""
        self.trials.close()

    async def _make_in_turn(self, project: str, key: bytes, rules: Rules) -> Grammar | InvalidRequest:
        try:
            if any(needs_trial(item.schema) for item in rules.schemas) and not await self.trials.passes(rules, project):
                found = _too_much(rules, say("schema.too_much_at_once"))
            else:
                async with self._turns.take(project):
                    found = await self._make_in_time(rules)
            self._keep(key, found)
            return found
        finally:
            del self._making[project, key]

    async def _make_in_time(self, rules: Rules) -> Grammar | InvalidRequest:
        made: Future[Grammar | InvalidRequest] = Future()
        made.set_running_or_notify_cancel()
        threading.Thread(target=self._make_into, args=(made, rules), name="grammar", daemon=True).start()
        try:
            return await asyncio.wait_for(asyncio.wrap_future(made), MAX_MAKING_S)
        except TimeoutError:
            log.warning("a grammar was given up after %s s", MAX_MAKING_S)
            return _too_much(rules, say("schema.takes_too_long", seconds=f"{MAX_MAKING_S:.0f}"))

    def _make_into(self, made: "Future[Grammar | InvalidRequest]", rules: Rules) -> None:
        try:
            made.set_result(self.make(rules))
        except InvalidRequest as exc:
            made.set_result(exc)
        except BaseException as exc:
            made.set_exception(exc)

    def _keep(self, key: bytes, found: Grammar | InvalidRequest) -> None:
        self._kept[key] = found
        while len(self._kept) > MAX_KEPT or (len(self._kept) > 1 and self.num_kept_characters > MAX_KEPT_CHARACTERS):
            self._kept.popitem(last=False)

    @property
    def num_kept_characters(self) -> int:
        return sum(len(item.text) for item in self._kept.values() if isinstance(item, Grammar))

    def make(self, rules: Rules) -> Grammar:
        """Takes its time. Raises InvalidRequest."""
        text = self._text(rules)
        matcher = self._matcher(LLMatcher.grammar_from_lark(text))
        if matcher.is_error():
            # Each schema was accepted by itself, so what is wrong is their sum.
            log.info("a grammar was refused: %s", matcher.get_error()[:200])
            raise _too_much(rules, say("schema.together_too_large"))
        return Grammar(matcher, text, is_strict=rules.is_strict)

    def _text(self, rules: Rules) -> str:
        lines: list[str] = []
        repeated = 'call ("\\n" call)*' if rules.is_parallel else "call"
        opening, closing = json.dumps(rules.marks.opening), json.dumps(rules.marks.closing)
        head = opening
        if not rules.functions:
            lines += ["start: answer"]
        elif rules.must_call:
            lines += [f"start: {repeated}"]
        elif rules.answer is not None:
            lines += [f"start: {repeated} | answer"]
        else:
            # Free text in which everything that begins like a call is one.
            lines += [f"start: {'call* TEXT' if rules.is_parallel else 'call | TEXT'}"]
            lines += ["TEXT: /(.|\\n)*/", f"head[lazy]: TEXT {opening}"]
            head = "head"
        if rules.functions:
            objects = " | ".join(f"object{index}" for index in range(len(rules.functions)))
            lines += [f"call: {head} /\\n/ ({objects}) /\\n/ {closing}"]
            lines += [f"object{index}: {self._call(item)}" for index, item in enumerate(rules.functions)]
        if rules.answer is not None and not rules.must_call:
            lines += [f"answer: {self._held(rules.answer, is_arguments=False)}"]
        return "\n".join(lines) + "\n"

    def _call(self, function: Function) -> str:
        """The JSON object of one call."""
        return self._held(function.parameters, is_arguments=True, name=function.name)

    def _held(self, wanted: RequestSchema, *, is_arguments: bool, name: str | None = None) -> str:
        """The schema in the grammar's text, in a form that the engine accepts. Raises InvalidRequest."""
        convert = arguments_schema if is_arguments else answer_schema
        try:
            schema = convert(wanted.schema, is_strict=wanted.is_strict)
        except SchemaProblem as exc:
            raise wanted.invalid(exc.args[0]) from exc
        if wanted.is_strict:
            matcher = self._matcher(_json_grammar(schema, is_strict=True))
            if matcher.is_error():
                raise wanted.invalid(_problem(matcher.get_error()))
        else:
            deadline = time.monotonic() + MAX_LOOSENING_S
            schema = loosened(schema, lambda part: time.monotonic() < deadline and self._accepts(part))
        if name is not None:
            schema = _call_schema(name, schema)
        return "%json " + json.dumps(_with_options(schema, wanted.is_strict))

    def _accepts(self, schema: Schema) -> bool:
        return not self._matcher(_json_grammar(schema, is_strict=False)).is_error()

    def _matcher(self, grammar: str) -> LLMatcher:
        return LLMatcher(self._tokenizer, grammar, log_level=0, limits=_LIMITS)


def _maker(model_dir: Path, vocab_size: int, eos_ids: frozenset[int]) -> Callable[[Rules], object]:
    """`Grammars.make` of another process; what is refused there is refused here, too."""
    grammars = Grammars(model_dir, vocab_size, eos_ids)

    def make(rules: Rules) -> None:
        with suppress(InvalidRequest):
            grammars.make(rules)

    return make


def _json_grammar(schema: Schema, *, is_strict: bool) -> str:
    return LLMatcher.grammar_from_json_schema(_with_options(schema, is_strict))


def _with_options(schema: Schema, is_strict: bool) -> Schema:
    """`lenient`: what the engine knows of and cannot do is left out."""
    return {**schema, "x-guidance": {**_JSON_OPTIONS, "lenient": not is_strict}}


def _call_schema(name: str, arguments: Schema) -> Schema:
    definitions = arguments.get("$defs")
    arguments = {key: value for key, value in arguments.items() if key != "$defs"}
    return {
        "type": "object",
        "properties": {"name": {"const": name}, "arguments": arguments},
        "required": ["name", "arguments"],
        "additionalProperties": False,
        **({"$defs": definitions} if definitions else {}),
    }


def _too_much(rules: Rules, problem: str) -> InvalidRequest:
    schema = rules.answer or max((item.parameters for item in rules.functions), key=lambda item: len(str(item.schema)))
    return schema.invalid(problem)


_KNOWN_PROBLEMS = re.compile(
    r"(Unknown format|Unsatisfiable schema|Expected |Invalid |min/maxProperties|patternProperty|Value for"
    r"|\w{1,64} must be)"
)


def _problem(error: str) -> str:
    """The engine's error in words about the schema. What it says of its own insides is not passed on."""
    first = error.strip().splitlines()[0] if error.strip() else ""
    if unknown := re.match(r"Unimplemented keys: (\[.*\])", first):
        return say("schema.not_in_strict", keywords=", ".join(map(repr, json.loads(unknown[1]))))
    if first.startswith("oneOf"):
        return say("schema.one_of")
    if first.startswith("regex parse error"):
        reason = next((line for line in error.splitlines() if line.startswith("error: ")), "error: it is not valid")
        return say("schema.pattern", reason=reason.removeprefix("error: "))
    if "too large" in first or "too big" in first or "limit" in first:
        return say("schema.too_large")
    return say("schema.of_engine", error=first[:200]) if _KNOWN_PROBLEMS.match(first) else say("schema.not_enforced")
