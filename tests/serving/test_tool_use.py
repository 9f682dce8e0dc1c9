from pathlib import Path

import pytest
from tokenizers import Tokenizer

from tunery.datasets.tools import CALL_CLOSE, CALL_OPEN, call_schema, write_call
from tunery.domain.errors import InvalidRequest
from tunery.serving.constraints import Constraint, Grammars, text_or_calls_grammar
from tunery.serving.http.schemas import ChatRequest
from tunery.serving.http.tool_use import CallStream, policy_of

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS = [{"type": "function", "function": {"name": name, "parameters": SCHEMA}} for name in ("weather", "map")]
CALL = write_call("weather", '{"city": "Paris"}')


def split(text: str, size: int) -> tuple[str, list[tuple[str, str]]]:
    """The words and the calls that a stream of pieces of `size` characters comes to."""
    stream = CallStream()
    pieces = [piece for start in range(0, len(text), size) for piece in stream.push(text[start : start + size])]
    pieces += stream.finish()
    words = "".join(piece.text for piece in pieces)
    return words, [(piece.call.name, piece.call.arguments) for piece in pieces if piece.call]


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_calls_are_found_however_the_text_is_cut(size: int) -> None:
    words, calls = split(f"Let me look.\n{CALL}\n{write_call('map', '{}')}", size)

    assert words == "Let me look.\n"
    assert calls == [("weather", '{"city": "Paris"}'), ("map", "{}")]


@pytest.mark.parametrize("size", [1, 5, 1000])
@pytest.mark.parametrize("text", ["plain", "a < b", "<tool_cal", "<tool_call> is a mark", "", "x <tool_call>\n{broken"])
def test_text_that_is_no_call_stays_text(text: str, size: int) -> None:
    assert split(text, size) == (text, [])


def test_a_call_without_its_closing_mark_counts() -> None:
    assert split(CALL.removesuffix(f"\n{CALL_CLOSE}"), 4)[1] == [("weather", '{"city": "Paris"}')]


@pytest.fixture
def constraint(tiny_model_dir: Path) -> Constraint:
    grammar = text_or_calls_grammar(call_schema(TOOLS), opening=CALL_OPEN, closing=CALL_CLOSE, is_parallel=True)
    return Grammars(tiny_model_dir, 259, frozenset({2})).start(grammar)


def feed(constraint: Constraint, tokenizer: Tokenizer, text: str) -> str | None:
    """The first character that is not allowed, or None."""
    for token_id in tokenizer.encode(text).ids:
        if not constraint.allowed(259)[token_id]:
            return tokenizer.decode([token_id])
        constraint.advance(token_id)
    return None


def test_free_text_may_hold_calls_and_end_anywhere(constraint: Constraint, tiny_model_dir: Path) -> None:
    tokenizer = Tokenizer.from_file(str(tiny_model_dir / "tokenizer.json"))

    assert feed(constraint, tokenizer, f"Well, 1 < 2.\n{CALL}\nDone") is None
    assert constraint.allowed(259)[2]


def test_what_begins_like_a_call_must_be_one(constraint: Constraint, tiny_model_dir: Path) -> None:
    tokenizer = Tokenizer.from_file(str(tiny_model_dir / "tokenizer.json"))

    assert feed(constraint, tokenizer, f'Hm {CALL_OPEN}\n{{"name": "w') is None
    assert feed(constraint, tokenizer, "x") == "x"
    assert not constraint.allowed(259)[2]


def request(**members: object) -> ChatRequest:
    return ChatRequest.model_validate({"model": "m", "messages": [{"role": "user", "content": "x"}], **members})


def test_an_unknown_function_cannot_be_forced() -> None:
    named = {"type": "function", "function": {"name": "fly"}}
    with pytest.raises(InvalidRequest, match="'fly'"):
        policy_of(request(tools=TOOLS, tool_choice=named))


@pytest.mark.parametrize(
    ("choice", "reason"),
    [("auto", "tool_calls"), ("required", "tool_calls"), ({"type": "function", "function": {"name": "map"}}, "stop")],
)
def test_the_finish_reason_is_openais(choice: object, reason: str) -> None:
    policy = policy_of(request(tools=TOOLS, tool_choice=choice))

    assert policy.finish_reason("stop", True) == reason
    assert policy.finish_reason("length", True) == "length"
    assert policy.finish_reason("stop", False) == "stop"


def test_no_tool_may_be_called_when_the_choice_is_none() -> None:
    assert policy_of(request(tools=TOOLS, tool_choice="none")).grammar() is None
