import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from tunery.chat.tools import CALL_CLOSE, CALL_OPEN, write_call
from tunery.domain.errors import InvalidRequest
from tunery.serving.constraints import Constraint, Grammars
from tunery.serving.http.schemas import ChatRequest
from tunery.serving.http.tool_use import CallStream, policy_of, rules_of

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


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("mark", [CALL_CLOSE, CALL_OPEN, f"{CALL_OPEN}\n{{}}\n{CALL_CLOSE}"])
def test_a_mark_in_an_argument_is_data(mark: str, size: int) -> None:
    arguments = json.dumps({"city": f"x {mark} y"})

    assert split(f"{write_call('weather', arguments)}\n{CALL}", size) == (
        "",
        [("weather", arguments), ("weather", '{"city": "Paris"}')],
    )


def test_a_call_without_its_closing_mark_counts() -> None:
    assert split(CALL.removesuffix(f"\n{CALL_CLOSE}"), 4)[1] == [("weather", '{"city": "Paris"}')]


@pytest.fixture(scope="module")
def grammars(tiny_model_dir: Path) -> Grammars:
    return Grammars(tiny_model_dir, 259, frozenset({2}))


@pytest.fixture
def constraint(grammars: Grammars) -> Constraint:
    return start(grammars, tools=TOOLS)


def start(grammars: Grammars, **members: object) -> Constraint:
    wanted = request(**members)
    rules = rules_of(wanted, policy_of(wanted))
    assert rules is not None
    return grammars.make(rules).start()


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

    assert policy.finish_reason("stop", has_calls=True, is_cut=False) == reason
    assert policy.finish_reason("length", has_calls=True, is_cut=False) == "length"
    assert policy.finish_reason("stop", has_calls=True, is_cut=True) == "length"
    assert policy.finish_reason("stop", has_calls=False, is_cut=False) == "stop"


def test_no_tool_may_be_called_when_the_choice_is_none() -> None:
    wanted = request(tools=TOOLS, tool_choice="none")
    assert rules_of(wanted, policy_of(wanted)) is None


FORMATS = [
    {"type": "json_object"},
    {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}},
    {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA, "strict": True}},
]


@pytest.mark.parametrize("wanted", FORMATS)
@pytest.mark.parametrize("text", ['{"city": "Paris"}', CALL, f"{CALL}\n{CALL}"])
def test_beside_a_format_the_answer_is_calls_or_of_the_format(
    grammars: Grammars, tiny_model_dir: Path, wanted: dict[str, object], text: str
) -> None:
    tokenizer = Tokenizer.from_file(str(tiny_model_dir / "tokenizer.json"))
    constraint = start(grammars, tools=TOOLS, response_format=wanted)

    assert feed(constraint, tokenizer, text) is None
    assert constraint.is_complete or constraint.allowed(259)[2]
    assert feed(start(grammars, tools=TOOLS, response_format=wanted), tokenizer, "Well") == "W"


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_a_mark_in_an_answer_of_the_format_is_data(size: int) -> None:
    text = f'{{"note": "{CALL_OPEN} begins a call"}}'
    stream = CallStream(["map"], has_format=True)
    pieces = [piece for start in range(0, len(text), size) for piece in stream.push(text[start : start + size])]
    pieces += stream.finish(is_cut=True)

    assert "".join(piece.text for piece in pieces) == text
    assert not any(piece.call for piece in pieces)


def cut(text: str, size: int, **settings: bool) -> tuple[str, list[tuple[str, str]], bool]:
    stream = CallStream(["weather", "map"], **settings)
    pieces = [piece for start in range(0, len(text), size) for piece in stream.push(text[start : start + size])]
    pieces += stream.finish(is_cut=True)
    calls = [(piece.call.name, piece.call.arguments) for piece in pieces if piece.call]
    return "".join(piece.text for piece in pieces), calls, any(piece.is_cut for piece in pieces)


WHOLE = f"Let me look.\n{CALL}\n{write_call('map', '{}')}"


@pytest.mark.parametrize("size", [1, 4, 1000])
def test_an_answer_that_is_cut_anywhere_shows_no_markup(size: int) -> None:
    for length in range(len(WHOLE)):
        words, calls, is_cut = cut(WHOLE[:length], size)

        assert "Let me look.\n".startswith(words) and "<" not in words
        assert all('{"city": "Paris"}'.startswith(arguments) for name, arguments in calls if name == "weather")
        assert len(calls) < 2 or calls[1] in (("map", "{}"), ("map", "{"), ("map", ""), ("weather", ""))
        num_begun = WHOLE[:length].count(CALL_OPEN)
        assert len(calls) == num_begun
        # The end of the object is enough for a whole call.
        assert is_cut == (num_begun > WHOLE[:length].count("}}"))


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(
    "text", ["if a < b and", "if a <", "1 <", "a<t", "x <too", "Use the <", "one\ntwo <", "<b>bold</b> <", "a <= b"]
)
def test_text_that_is_cut_stays_text(text: str, size: int) -> None:
    assert cut(text, size) == (text, [], False)


@pytest.mark.parametrize(("text", "words"), [("<", ""), ("Hm\n<", "Hm\n"), ("Hm <tool", "Hm "), ("<tool_cal", "")])
def test_an_opening_mark_that_has_begun_is_no_text(text: str, words: str) -> None:
    assert cut(text, 2) == (words, [], False)


NAMES = ["get_weather", "get_time", "save", "get"]


@pytest.mark.parametrize("must_call", [True, False])
@pytest.mark.parametrize(
    ("begun", "name"),
    [
        ("", "get_weather"),
        ("\n{", "get_weather"),
        ('\n{"name": "', "get_weather"),
        ('\n{"name": "get', "get_weather"),
        ('\n{"name": "get_t', "get_time"),
        ('\n{"name": "s', "save"),
        ('\n{"name": "get"', "get"),
    ],
)
def test_a_call_that_is_cut_before_its_name_has_the_first_that_it_may_be(
    begun: str, name: str, must_call: bool
) -> None:
    stream = CallStream(NAMES, must_call=must_call)
    pieces = [*stream.push(CALL_OPEN + begun), *stream.finish(is_cut=True)]

    assert [(piece.call.name, piece.call.arguments, piece.is_cut) for piece in pieces if piece.call] == [
        (name, "", True)
    ]
    assert not any(piece.text for piece in pieces)


@pytest.mark.parametrize("text", ["", "<", "<tool_ca"])
def test_a_call_that_must_come_is_one_of_several_functions(text: str) -> None:
    stream = CallStream(NAMES, must_call=True)
    pieces = [*stream.push(text), *stream.finish(is_cut=True)]

    assert [(piece.call.name, piece.is_cut) for piece in pieces if piece.call] == [("get_weather", True)]


@pytest.mark.parametrize("text", ["", "<", "<tool_call", "<tool_call>", '<tool_call>\n{"name": "m'])
def test_a_call_that_must_come_is_one_however_soon_it_is_cut(text: str) -> None:
    stream = CallStream(["map"], must_call=True)
    pieces = [*stream.push(text), *stream.finish(is_cut=True)]

    assert [(piece.call.name, piece.call.arguments, piece.text) for piece in pieces if piece.call] == [("map", "", "")]


@pytest.mark.parametrize("text", ["", "<tool_call>", '<tool_call>\n{"name": "map", "arguments": {"a": "x'])
def test_a_call_that_must_come_is_one_where_the_answer_ends_within_it(text: str) -> None:
    """As it may once its grammar became too much."""
    stream = CallStream(["map"], must_call=True)
    pieces = [*stream.push(text), *stream.finish()]

    assert [(piece.call.name, piece.is_cut, piece.text) for piece in pieces if piece.call] == [("map", True, "")]
    assert not any(piece.text for piece in pieces)


def allowed_tools(mode: str, *names: str) -> dict[str, object]:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


@pytest.mark.parametrize(("mode", "before"), [("auto", "Well, "), ("required", "")])
def test_of_allowed_tools_no_other_is_called(grammars: Grammars, tiny_model_dir: Path, mode: str, before: str) -> None:
    tokenizer = Tokenizer.from_file(str(tiny_model_dir / "tokenizer.json"))
    members = {"tools": TOOLS, "tool_choice": allowed_tools(mode, "weather")}

    assert feed(start(grammars, **members), tokenizer, before + CALL) is None
    assert feed(start(grammars, **members), tokenizer, before + write_call("map", '{"city": "x"}')) == "m"
    policy = policy_of(request(**members))
    assert [tool["function"]["name"] for tool in policy.tools] == ["weather", "map"]
    assert policy.finish_reason("stop", has_calls=True, is_cut=False) == "tool_calls"
    assert policy.must_call == (mode == "required")


@pytest.mark.parametrize("names", [("weather", "fly"), ("fly",)])
def test_allowed_tools_must_be_defined(names: tuple[str, ...]) -> None:
    with pytest.raises(InvalidRequest, match="'fly'") as refused:
        policy_of(request(tools=TOOLS, tool_choice=allowed_tools("auto", *names)))
    assert refused.value.param == "tool_choice"
