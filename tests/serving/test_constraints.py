"""Schemas as clients write them, and what answers the grammars made from them allow."""

import asyncio
import functools
import json
from pathlib import Path
from typing import Any

import pytest
from llguidance import LLParserLimits

from tests.loops import run
from tunery.domain.errors import InvalidRequest
from tunery.domain.schemas import RequestSchema, check_cost, format_schema, function_schema, repeats
from tunery.serving import constraints
from tunery.serving.constraints import CallMarks, Function, Grammars, Rules
from tunery.serving.schemas import answer_schema
from tunery.serving.trial import MAX_BYTES, SLOW_FOR_S, Trials, Turns, needs_trial

MARKS = CallMarks("<tool_call>", "</tool_call>")
VOCAB_SIZE, EOS = 259, 2
TEXT = {"type": "string"}


def with_a(schema: Any, **others: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": schema}, "required": ["a"], **others}


@pytest.fixture(scope="module")
def grammars(tiny_model_dir: Path) -> Grammars:
    return Grammars(tiny_model_dir, VOCAB_SIZE, frozenset({EOS}))


def function(schema: Any, *, strict: bool | None = None, name: str = "f") -> Function:
    return Function(name, function_schema({"name": name, "parameters": schema, "strict": strict}, "tools[0].function"))


def takes(grammars: Grammars, rules: Rules, text: str) -> bool:
    """Whether the text is a whole answer."""
    constraint = grammars.make(rules).start()
    for token_id in grammars._tokenizer.tokenize_str(text):
        if not constraint.allowed(VOCAB_SIZE)[token_id]:
            return False
        constraint.advance(token_id)
    return constraint.is_complete or bool(constraint.allowed(VOCAB_SIZE)[EOS])


def takes_arguments(grammars: Grammars, schema: Any, arguments: str, *, strict: bool | None = None) -> bool:
    call = f'<tool_call>\n{{"name": "f", "arguments": {arguments}}}\n</tool_call>'
    return takes(grammars, Rules(MARKS, (function(schema, strict=strict),), must_call=True), call)


def takes_answer(grammars: Grammars, schema: Any, text: str, *, strict: bool | None = None) -> bool:
    return takes(grammars, Rules(MARKS, answer=format_schema({"schema": schema, "strict": strict})), text)


NUMBER = {"type": "integer"}
REFERENCES = {
    "$defs": with_a({"$ref": "#/$defs/A"}, **{"$defs": {"A": NUMBER}}),
    "definitions": with_a({"$ref": "#/definitions/A"}, definitions={"A": NUMBER}),
    "somewhere else": {
        "type": "object",
        "properties": {"b": NUMBER, "a": {"$ref": "#/properties/b"}},
        "required": ["a"],
    },
    "$id": {"$id": "https://e.org/s", **with_a({"$ref": "https://e.org/s#/$defs/A"}, **{"$defs": {"A": NUMBER}})},
    "relative $id": with_a({"$ref": "item"}, **{"$defs": {"A": {"$id": "item", **NUMBER}}}),
    "$anchor": with_a({"$ref": "#one"}, **{"$defs": {"A": {"$anchor": "one", **NUMBER}}}),
    "escapes": with_a({"$ref": "#/$defs/A~1B%20c"}, **{"$defs": {"A/B c": NUMBER}}),
    "at the top": {"$ref": "#/$defs/P", "$defs": {"P": with_a({"$ref": "#/$defs/A"}), "A": NUMBER}},
    "through another": with_a({"$ref": "#/$defs/B"}, **{"$defs": {"A": NUMBER, "B": {"$ref": "#/$defs/A"}}}),
    "allOf of one": with_a({"allOf": [{"$ref": "#/$defs/A"}], "description": "x"}, **{"$defs": {"A": NUMBER}}),
}


@pytest.mark.parametrize("strict", [True, False, None])
@pytest.mark.parametrize("schema", REFERENCES.values(), ids=REFERENCES)
def test_references_mean_what_they_mean_in_their_own_schema(
    grammars: Grammars, schema: dict[str, Any], strict: bool | None
) -> None:
    for check in (takes_arguments, takes_answer):
        assert check(grammars, schema, '{"a": 12}', strict=strict)
        assert not check(grammars, schema, '{"a": "x"}', strict=strict)


def test_definitions_of_one_name_in_two_tools_stay_apart(grammars: Grammars) -> None:
    tools = {
        name: with_a({"$ref": "#/$defs/A"}, **{"$id": "https://e.org/same", "$defs": {"A": kind}})
        for name, kind in (("number", NUMBER), ("text", TEXT))
    }
    functions = tuple(function(schema, name=name) for name, schema in tools.items())
    rules = Rules(MARKS, functions, must_call=True, is_parallel=True, answer=None)

    def call(name: str, value: str) -> str:
        return f'<tool_call>\n{{"name": "{name}", "arguments": {{"a": {value}}}}}\n</tool_call>'

    assert takes(grammars, rules, f"{call('number', '1')}\n{call('text', json.dumps('x'))}")
    assert not takes(grammars, rules, call("number", '"x"'))
    assert not takes(grammars, rules, call("text", "1"))


RECURSIVE = {
    "list": {
        "$defs": {"T": {"type": "object", "properties": {"k": {"type": "array", "items": {"$ref": "#/$defs/T"}}}}},
        "$ref": "#/$defs/T",
    },
    "root": {"type": "object", "properties": {"k": {"type": "array", "items": {"$ref": "#"}}}},
    "dynamic names": {
        "type": "object",
        "properties": {"k": {"type": "array", "items": {"$ref": "#/$defs/N"}}},
        "$defs": {"N": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
    },
}


@pytest.mark.parametrize("schema", RECURSIVE.values(), ids=RECURSIVE)
def test_recursive_schemas_are_followed(grammars: Grammars, schema: dict[str, Any]) -> None:
    assert takes_arguments(grammars, schema, '{"k": [{"k": [{}, {"k": []}]}]}', strict=True)
    assert not takes_arguments(grammars, schema, '{"k": [{"k": [1]}]}', strict=True)


# (schema, an answer that it must allow when it is not strict)
BEYOND_THE_ENGINE = {
    "uniqueItems": (with_a({"type": "array", "items": TEXT, "uniqueItems": True}), '{"a": ["x"]}'),
    "contains": (with_a({"type": "array", "items": NUMBER, "contains": {"minimum": 3}}), '{"a": [4]}'),
    "not": (with_a({"not": {"type": "null"}}), '{"a": 1}'),
    "if": (with_a(TEXT, **{"if": {"required": ["b"]}, "then": {"required": ["c"]}}), '{"a": "x", "c": 1}'),
    "propertyNames": ({"type": "object", "propertyNames": {"pattern": "^a"}}, '{"ab": 1}'),
    "dependentRequired": (with_a(TEXT, dependentRequired={"a": ["a"]}), '{"a": "x"}'),
    "dependentSchemas": (with_a(TEXT, dependentSchemas={"a": {"properties": {"b": TEXT}}}), '{"a": "x", "b": "y"}'),
    "unevaluatedProperties": (with_a(TEXT, unevaluatedProperties=False), '{"a": "x"}'),
    "unevaluatedItems": (with_a({"type": "array", "items": TEXT, "unevaluatedItems": False}), '{"a": ["x"]}'),
    "$dynamicRef": (with_a({"$dynamicRef": "#node"}), '{"a": 1}'),
    "external": (with_a({"$ref": "https://example.org/a.json"}), '{"a": 1}'),
    "dangling": (with_a({"$ref": "#/components/schemas/A"}), '{"a": 1}'),
    "circle": (with_a({"$ref": "#/$defs/A"}, **{"$defs": {"A": {"$ref": "#/$defs/A"}}}), '{"a": 1}'),
    "look-ahead": (with_a({"type": "string", "pattern": r"^(?!x)\d*$"}), '{"a": "12"}'),
    "back-reference": (with_a({"type": "string", "pattern": r"^(.)\1$"}), '{"a": "xx"}'),
    "no pattern at all": (with_a({"type": "string", "pattern": "["}), '{"a": "xx"}'),
    "format": (with_a({"type": "string", "format": "path"}), '{"a": "/x"}'),
    "deep": (with_a({"type": "array", "items": with_a({"type": "string", "format": "color"})}), '{"a": [{"a": "x"}]}'),
    "definition": (
        with_a({"$ref": "#/$defs/A"}, **{"$defs": {"A": {"type": "string", "pattern": "(?=a)b"}}}), '{"a": "x"}'
    ),
    "two at once": (with_a({"type": "string", "pattern": "(?=a)", "format": "nope"}), '{"a": "x"}'),
    "patterns that meet": (
        {"type": "object", "properties": {"q": TEXT}, "patternProperties": {"^a.*b$": TEXT, "^a1.*b$": TEXT}},
        '{"q": "1"}',
    ),
    "contradiction": (with_a({"type": "string", "minLength": 3, "maxLength": 1}), '{"a": "xyz"}'),
    "multipleOf": (with_a({"type": "integer", "multipleOf": 999_983}), '{"a": 7}'),
    "multiples that meet": (
        with_a({"anyOf": [{"type": "integer", "multipleOf": 9_990 + index} for index in range(9)]}), '{"a": 7}'
    ),
    "minProperties": (
        {"type": "object", "minProperties": 2, "properties": {"b": TEXT, "c": TEXT, "d": TEXT}}, '{"b": "x", "c": "y"}'
    ),
}  # fmt: skip


@pytest.mark.parametrize(("schema", "answer"), BEYOND_THE_ENGINE.values(), ids=BEYOND_THE_ENGINE)
def test_what_the_engine_cannot_hold_is_an_error_only_when_strict(
    grammars: Grammars, schema: dict[str, Any], answer: str
) -> None:
    for check in (takes_arguments, takes_answer):
        for strict in (False, None):
            assert check(grammars, schema, answer, strict=strict)
            assert not check(grammars, schema, "[1]", strict=strict)
        with pytest.raises(InvalidRequest) as refused:
            check(grammars, schema, answer, strict=True)
        assert refused.value.code in ("invalid_function_parameters", "invalid_json_schema")
        assert "%json" not in refused.value.message and "x-guidance" not in refused.value.message
        assert len(refused.value.message) < 400


def test_what_can_be_held_beside_it_still_is(grammars: Grammars) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": "(?=x)"}, "b": NUMBER}}

    assert takes_arguments(grammars, schema, '{"a": "y", "b": 1}')
    assert not takes_arguments(grammars, schema, '{"a": "y", "b": "1"}')
    assert not takes_arguments(grammars, schema, '{"a": 1, "b": 1}')


@pytest.mark.parametrize(
    "schema",
    [{"type": "nonsense"}, with_a({"type": 3}), with_a({"type": []}), {"properties": []}, {"required": "a"},
     with_a({"anyOf": []}), with_a({"enum": "x"}), with_a("text"), with_a({"$ref": 1}), {"type": "array"}],
)  # fmt: skip
def test_what_is_no_schema_is_refused_strict_or_not(grammars: Grammars, schema: Any) -> None:
    for strict in (True, False):
        with pytest.raises(InvalidRequest, match=r"^Invalid schema for function 'f'") as refused:
            takes_arguments(grammars, schema, "{}", strict=strict)
        assert refused.value.param == "tools[0].function.parameters"


MARK = "<|im_end|>"  # which ends an answer, as a token
# With a choice before it: the engine asks its tokenizer for what must follow one.
SPELT = {
    "enum": (with_a({"enum": [MARK, "b"]}), {"a": MARK}),
    "const": (with_a({"anyOf": [{"const": f"x{MARK}y"}, {"const": "b"}]}), {"a": f"x{MARK}y"}),
    "name": ({"type": "object", "properties": {MARK: NUMBER, "b": NUMBER}}, {MARK: 1}),
    "pattern": (with_a({"type": "string", "pattern": r"^(<\|endoftext\|>|b)$"}), {"a": "<|endoftext|>"}),
    "definition": (
        with_a({"$ref": "#/$defs/A"}, **{"$defs": {"A": {"enum": ["<|im_start|>", 1]}}}),
        {"a": "<|im_start|>"},
    ),
}


@pytest.mark.parametrize(("schema", "value"), SPELT.values(), ids=SPELT)
def test_what_a_schema_fixes_is_text_where_it_spells_a_control_token(
    grammars: Grammars, schema: dict[str, Any], value: dict[str, Any]
) -> None:
    for check in (takes_arguments, takes_answer):
        for strict in (False, None):
            assert check(grammars, schema, json.dumps(value), strict=strict)


EMPTY = [None, {}, {"type": "object"}, {"type": "object", "properties": {}}, {"properties": {}, "required": []}]


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("schema", EMPTY)
def test_a_function_without_parameters_takes_an_empty_object(
    grammars: Grammars, schema: dict[str, Any] | None, strict: bool
) -> None:
    assert takes_arguments(grammars, schema, "{}", strict=strict)
    assert not takes_arguments(grammars, schema, '{"host": "x"}', strict=strict)


INNER = {"type": "object", "properties": {"x": TEXT}}
CLOSED = {
    "plain": (with_a(TEXT), '{"a": "x"}', '{"a": "x", "b": 1}'),
    "nested": (with_a(INNER), '{"a": {"x": "y"}}', '{"a": {"y": 1}}'),
    "items": (with_a({"type": "array", "items": INNER}), '{"a": [{"x": "y"}]}', '{"a": [{"y": 1}]}'),
    "or null": (with_a({"anyOf": [INNER, {"type": "null"}]}), '{"a": {"x": "y"}}', '{"a": {"y": 1}}'),
    "referenced": (with_a({"$ref": "#/$defs/I"}, **{"$defs": {"I": INNER}}), '{"a": {"x": "y"}}', '{"a": {"y": 1}}'),
    "required only": ({"type": "object", "required": ["a"]}, '{"a": 1}', '{"a": 1, "b": 1}'),
    "joined": ({"allOf": [with_a(TEXT), {"properties": {"b": NUMBER}}]}, '{"a": "x", "b": 1}', '{"a": "x", "c": 1}'),
    "extended": (
        {"$ref": "#/$defs/I", "properties": {"b": NUMBER}, "$defs": {"I": INNER}}, '{"x": "y", "b": 1}', '{"c": 1}'
    ),
}  # fmt: skip


@pytest.mark.parametrize(("schema", "named", "other"), CLOSED.values(), ids=CLOSED)
def test_only_named_properties_are_written(grammars: Grammars, schema: dict[str, Any], named: str, other: str) -> None:
    assert takes_arguments(grammars, schema, named)
    assert not takes_arguments(grammars, schema, other)


X = {"type": "object", "properties": {"x": NUMBER}}
TOGETHER = {
    "allOf": (with_a({"allOf": [{"properties": {"p": X}}, {"properties": {"q": NUMBER}}]}), '{"p": {"x": 1}, "q": 2}'),
    "of references": (
        with_a({"allOf": [{"$ref": "#/$defs/P"}, {"$ref": "#/$defs/Q"}]})
        | {"$defs": {"P": {"properties": {"p": X}}, "Q": {"properties": {"q": NUMBER}}}},
        '{"p": {"x": 1}, "q": 2}',
    ),
    "anyOf beside": (
        with_a({"properties": {"p": X}, "anyOf": [{"required": ["p"]}, {"required": ["q"]}]}),
        '{"p": {"x": 1}}',
    ),
    "a reference beside": (
        with_a({"properties": {"q": NUMBER}, "$ref": "#/$defs/P"}) | {"$defs": {"P": {"properties": {"p": X}}}},
        '{"q": 2, "p": {"x": 1}}',
    ),
    "items": (with_a({"allOf": [{"type": "array", "items": X}, {"minItems": 1}]}), '[{"x": 1}]'),
}


@pytest.mark.parametrize(("schema", "value"), TOGETHER.values(), ids=TOGETHER)
def test_an_object_inside_schemas_that_hold_together_is_closed(
    grammars: Grammars, schema: dict[str, Any], value: str
) -> None:
    for check in (takes_arguments, takes_answer):
        assert check(grammars, schema, f'{{"a": {value}}}')
        assert not check(grammars, schema, f'{{"a": {value}}}'.replace('"x": 1', '"x": 1, "z": 1'))


def test_an_object_that_two_of_them_describe_takes_what_either_names(grammars: Grammars) -> None:
    both = [{"properties": {"p": {"type": "object", "properties": {name: NUMBER}}}} for name in "xy"]
    for schema in (with_a({"allOf": both}), with_a({**both[0], "allOf": both[1:]}), with_a({"allOf": [*both, {}]})):
        assert takes_arguments(grammars, schema, '{"a": {"p": {"x": 1, "y": 2}}}')
        assert not takes_arguments(grammars, schema, '{"a": {"p": {"x": 1, "y": "2"}}}')


def test_a_definition_that_stands_in_many_places_is_written_a_few_times() -> None:
    """Each level has the next one twice, beside different properties: 2 ** 40 ways to the last."""
    definitions: dict[str, Any] = {"L40": NUMBER}
    for level in range(40):
        next_one = {"$ref": f"#/$defs/L{level + 1}"}
        ways = [{"allOf": [{"properties": {f"{name}{level}": NUMBER}}, next_one]} for name in "pq"]
        definitions[f"L{level}"] = {"anyOf": ways}
    written = answer_schema({"$ref": "#/$defs/L0", "$defs": definitions}, is_strict=False)
    assert len(written["$defs"]) < 41 * 10


@pytest.mark.parametrize(
    "schema",
    [with_a({}, additionalProperties=True), with_a({}, additionalProperties=TEXT),
     with_a({}, patternProperties={"^b": {}}), with_a({"type": "object"}),
     with_a({"type": "object", "additionalProperties": TEXT})],
)  # fmt: skip
def test_objects_with_free_names_stay_free(grammars: Grammars, schema: dict[str, Any]) -> None:
    free = "a" if schema["properties"]["a"] else "b"
    value = '{"b": "x"}' if free == "a" else '1, "b": "x"'
    assert takes_arguments(grammars, schema, f'{{"a": {value}}}')


def test_any_object_answers_json_object(grammars: Grammars) -> None:
    assert takes_answer(grammars, None, '{"anything": [1, {"x": null}]}')
    assert not takes_answer(grammars, None, "[]")


def tree(depth: int, width: int) -> dict[str, Any]:
    if not depth:
        return TEXT
    return {"type": "object", "properties": {f"k{index}": tree(depth - 1, width) for index in range(width)}}


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = TEXT
    for _ in range(depth):
        schema = with_a(schema)
    return schema


def names(count: int) -> dict[str, Any]:
    return {f"p{index}": TEXT for index in range(count)}


TOO_MUCH = {
    "properties": ({"type": "object", "properties": names(5001), "required": [*names(5001)]}, "5,000"),
    "optional": ({"type": "object", "properties": names(401)}, "400"),
    "definitions": ({"$defs": names(5001), "type": "object"}, "5,000"),
    "depth": (nested(60), "100"),
    "enum": (with_a({"enum": list(range(10_001))}), "10,000"),
    "one long value": (with_a({"enum": ["x" * 5_001]}), "5,000"),
    "long values": (with_a({"enum": [f"{index:0500}" for index in range(600)]}), "250,000"),
    "const": (with_a({"const": dict.fromkeys(map(str, range(5_001)), 1)}), "5,000"),
    "names": ({"type": "object", "patternProperties": {f"^a{index}x$": {} for index in range(51)}}, "50"),
    "repetitions": (with_a({"type": "string", "pattern": "(a{1000}){1000}"}), "10,000"),
    "repeated classes": (with_a({"type": "string", "pattern": r"([)\]]{101}){101}"}), "10,000"),
    "repetitions of names": ({"type": "object", "patternProperties": {"((a{9,99}){99}){99}": {}}}, "10,000"),
    "below other names": (with_a({"properties": {"enum": {"properties": names(401)}}}), "400"),
    "below unknown keywords": (with_a({"components": {"x": [{"properties": names(401)}]}}), "400"),
    "branches": (with_a({"anyOf": [{}] * 20_001}), "20,000"),
}


@pytest.mark.parametrize(("schema", "limit"), TOO_MUCH.values(), ids=TOO_MUCH)
def test_a_schema_beyond_a_limit_is_refused_by_it(schema: dict[str, Any], limit: str) -> None:
    with pytest.raises(InvalidRequest, match=f"limit of {limit} ") as refused:
        check_cost([function(schema).parameters])
    assert refused.value.param == "tools[0].function.parameters"


def test_limits_are_of_all_schemas_of_a_request_together() -> None:
    schema = tree(3, 3)
    check_cost([function(schema).parameters] * 100)
    with pytest.raises(InvalidRequest, match="5,000 properties"):
        check_cost([function(schema).parameters] * 129)


def test_a_schema_of_any_depth_is_measured_without_recursion() -> None:
    deep: Any = TEXT
    for _ in range(50_000):
        deep = [deep]
    with pytest.raises(InvalidRequest, match="100 levels"):
        check_cost([RequestSchema("function 'f'", "p", {"anyOf": deep})])


@pytest.mark.parametrize(
    ("pattern", "times"),
    [("a", 1), ("(a{2}b){3}", 6), ("a{3}b{4}", 4), (r"\{5\}", 1), ("[({5}]{3}", 3), ("(x{3}?){4}", 12), ("a{2,7}", 7),
     ("(a{10}[)]b){10}", 100), (r"(a{10}[^\])]b){10}", 100), ("((a|b{5}){7}c){2}", 70), ("(a{3}", 3)],
)  # fmt: skip
def test_repetitions_inside_repetitions_multiply(pattern: str, times: int) -> None:
    assert repeats(pattern) == times


def test_the_largest_schemas_that_are_taken_become_grammars(grammars: Grammars) -> None:
    required = {"type": "object", "properties": names(5000), "required": [*names(5000)]}
    optional = {"type": "object", "properties": names(400)}
    blow_up = {
        f"D{i}": {"properties": {"a": {"$ref": f"#/$defs/D{i + 1}"}, "b": {"$ref": f"#/$defs/D{i + 1}"}}}
        for i in range(40)
    }
    doubled = {"type": "object", "$ref": "#/$defs/D0", "$defs": {**blow_up, "D40": TEXT}}
    for schema in (required, optional, doubled, nested(48), tree(4, 5), with_a({"enum": list(range(10_000))})):
        wanted = function(schema)
        check_cost([wanted.parameters])
        constraint = grammars.make(Rules(MARKS, (wanted,), must_call=True)).start()
        assert constraint.allowed(VOCAB_SIZE).any() and not constraint.is_complete


def test_a_grammar_is_made_once_and_kept_within_bounds(grammars: Grammars, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Rules] = []
    make = grammars.make
    monkeypatch.setattr(grammars, "make", lambda rules: made.append(rules) or make(rules))
    monkeypatch.setattr(constraints, "MAX_KEPT", 3)

    async def ask() -> None:
        wanted = [Rules(MARKS, (function(with_a({"const": index})),), must_call=True) for index in range(5)]
        await asyncio.gather(*(grammars.get(wanted[0]) for _ in range(4)))
        assert len(made) == 1
        for rules in wanted:
            await grammars.get(rules)
        assert len(made) == 5 and len(grammars._kept) == 3
        await grammars.get(wanted[0])
        assert len(made) == 6
        broken = Rules(MARKS, (function({"type": "nonsense"}),), must_call=True)
        for _ in range(2):
            with pytest.raises(InvalidRequest):
                await grammars.get(broken)
        assert len(made) == 7

    run(ask())


def test_making_a_grammar_stops_neither_the_loop_nor_the_others(
    grammars: Grammars, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A grammar that takes for ever is given up, and one that is asked for meanwhile is made."""
    never = constraints.threading.Event()
    make = grammars.make
    slow, slower, quick = (
        Rules(MARKS, (function(with_a({"const": name})),), must_call=True) for name in ("slow", "slower", "quick")
    )
    monkeypatch.setattr(grammars, "make", lambda rules: (rules == quick or never.wait(60)) and make(rules))
    monkeypatch.setattr(constraints, "MAX_MAKING_S", 60)

    async def ask() -> None:
        waiting = asyncio.create_task(grammars.get(slow))
        await asyncio.sleep(0)
        await grammars.get(quick)
        assert not waiting.done()
        monkeypatch.setattr(constraints, "MAX_MAKING_S", 0.1)
        with pytest.raises(InvalidRequest, match="limit of"):
            await grammars.get(slower)
        assert not waiting.done()
        never.set()
        await waiting

    run(ask())


@pytest.mark.parametrize("strict", [True, False, None])
def test_a_grammar_that_is_too_much_midway_ends_a_strict_answer_only(
    grammars: Grammars, monkeypatch: pytest.MonkeyPatch, strict: bool | None
) -> None:
    few = LLParserLimits(step_lexer_fuel=200, max_lexer_states=20_000, verbose_errors=False)
    monkeypatch.setattr(constraints, "_LIMITS", few)
    schema = with_a({"type": "string", "pattern": "^(a|b)*a(a|b){12}$"}, additionalProperties=False)
    constraint = grammars.make(Rules(MARKS, answer=format_schema({"schema": schema, "strict": strict}))).start()
    for token_id in grammars._tokenizer.tokenize_str('{"a": "abbaabbaabba'):
        allowed = constraint.allowed(VOCAB_SIZE)
        constraint.advance(token_id)

    assert allowed.all() and not constraint.is_complete
    assert constraint.has_failed == (strict is True)


def pattern(text: str) -> dict[str, Any]:
    return {"type": "string", "pattern": text}


def combined(count: int) -> list[Any]:
    return [pattern(f"a{{{number}}}.*b{{{number}}}") for number in range(1, count)]


def definitions(parts: list[Any]) -> dict[str, Any]:
    return {"$defs": {str(number): part for number, part in enumerate(parts)}}


def references(count: int) -> list[Any]:
    return [{"$ref": f"#/$defs/{number}"} for number in range(count)]


def chain(parts: list[Any]) -> list[Any]:
    return [{**part, **link} for part, link in zip(parts, references(len(parts) + 1)[1:], strict=True)] + [TEXT]


def hidden(count: int) -> dict[str, Any]:
    """Behind alternatives that are references, beside others that look heavier: what no count sees through."""
    links = [[link, {"properties": {"x": pattern("a")}}] for link in references(count + 1)[1:]]
    parts = [{**part, "anyOf": link} for part, link in zip(combined(count + 1), links, strict=True)]
    return with_a({"$ref": "#/$defs/0"}, **definitions([*parts, TEXT]))


MANY = combined(12)  # 11 of them
TOO_MANY_PATTERNS = {
    "allOf": with_a({"allOf": MANY}),
    "nested": with_a({"allOf": [{"allOf": MANY[:6]}, {"allOf": MANY[6:]}]}),
    "definitions": with_a({"allOf": references(11)}, **definitions(MANY)),
    "one after the other": with_a({"$ref": "#/$defs/0"}, **definitions(chain(MANY))),
    "beside": with_a({"pattern": "a", "format": "date", "allOf": MANY[:9]}),
    "alternatives": with_a({"allOf": [{"anyOf": [TEXT, part]} for part in MANY]}),
    "of a property": {"allOf": [with_a(part) for part in MANY]},
    "of items": with_a({"allOf": [{"type": "array", "items": part} for part in MANY]}),
    "of items of a property": {"allOf": [with_a({"items": [part]}) for part in MANY]},
    "of named properties": {"allOf": [{"patternProperties": {"^x": part}} for part in MANY]},
    "below": with_a({"type": "array", "items": with_a({"oneOf": [{"allOf": MANY}]})}),
}


@pytest.mark.parametrize("strict", [True, False, None])
@pytest.mark.parametrize("schema", TOO_MANY_PATTERNS.values(), ids=TOO_MANY_PATTERNS)
def test_patterns_that_hold_for_one_value_are_bounded_before_they_are_combined(
    grammars: Grammars, monkeypatch: pytest.MonkeyPatch, schema: dict[str, Any], strict: bool | None
) -> None:
    made: list[str] = []
    monkeypatch.setattr(grammars, "_matcher", made.append)
    for check in (takes_arguments, takes_answer):
        with pytest.raises(InvalidRequest, match="more than 10 patterns"):
            check(grammars, schema, "{}", strict=strict)
    assert not made


def test_patterns_that_hold_for_values_of_their_own_are_not(grammars: Grammars) -> None:
    apart = {f"p{number}": part for number, part in enumerate(MANY)}
    for schema in (
        {"type": "object", "properties": apart, "required": [*apart]},
        with_a({"anyOf": MANY}),
        with_a({"allOf": [{"anyOf": MANY}, {"minLength": 1}]}),
        with_a({"allOf": [pattern("^a+$")] * 20}),
        {"allOf": [{"properties": {name: part}} for name, part in apart.items()]},
    ):
        answer_schema(schema, is_strict=True)


EXPLODING = [hidden(count) for count in (40, 50, 60)]


@pytest.mark.timeout(300)
def test_schemas_that_are_too_much_to_be_combined_are_ended_and_hold_up_nobody(
    grammars: Grammars, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No thread of ours ever makes them: they would go on for hours, and take all memory."""
    made: list[Rules] = []
    make = grammars.make
    monkeypatch.setattr(grammars, "make", lambda rules: made.append(rules) or make(rules))
    plain = Rules(MARKS, (function(with_a({"const": "x"})),), must_call=True)
    mild = Rules(MARKS, (function(with_a({"allOf": combined(4)})),), must_call=True)

    async def ask() -> None:
        await grammars.get(mild)
        assert made == [mild]
        grammars.trials.time_limit_s = 1.0
        schemas = zip(EXPLODING, (True, False, None), strict=True)
        hostile = [Rules(MARKS, answer=format_schema({"schema": each, "strict": strict})) for each, strict in schemas]
        asked = [asyncio.create_task(grammars.get(rules)) for rules in hostile]
        await asyncio.sleep(0)
        await grammars.get(plain)
        assert not any(each.done() for each in asked)
        for each in asked:
            with pytest.raises(InvalidRequest, match="too much to be combined"):
                await each
        grammars.trials.time_limit_s = 5.0
        await grammars.get(Rules(MARKS, (function(with_a({"allOf": combined(3)})),), must_call=True))

    run(ask())
    assert len(made) == 3
    grammars.close()


@pytest.mark.timeout(300)
def test_a_project_whose_schemas_take_long_holds_up_no_other(grammars: Grammars) -> None:
    """Neither in the trials nor behind them."""
    grammars.trials.time_limit_s = 4.0
    hostile = [hidden(count) for count in (60, 61, 62, 63)]
    others = [
        with_a({"allOf": combined(5)}),
        with_a({"enum": ["x", "y"], "type": "string", "pattern": "^x"}),
        with_a(TEXT),
    ]

    async def ask() -> None:
        await grammars.get(Rules(MARKS, answer=format_schema({"schema": others[0]})), "c")  # the processes run
        asked = [
            asyncio.create_task(grammars.get(Rules(MARKS, answer=format_schema({"schema": each})), "a"))
            for each in hostile
        ]
        await asyncio.sleep(0)
        for schema in others:
            await grammars.get(Rules(MARKS, answer=format_schema({"schema": schema, "strict": True})), "b")
        assert sum(each.done() for each in asked) < 2
        for each in asked:
            with pytest.raises(InvalidRequest, match="too much to be combined"):
                await each

    run(ask())
    grammars.close()


@pytest.mark.parametrize(
    ("asked", "most", "of_one"), [("aaaab", 2, 1), ("aabbc", 2, 1), ("abcdabcd", 2, 1), ("aaaab", 3, 2)]
)
def test_turns_go_round_the_projects(asked: str, most: int, of_one: int) -> None:
    turns, inside, entered = Turns(most, of_one), list[str](), list[str]()

    async def work(project: str) -> None:
        async with turns.take(project):
            entered.append(project)
            inside.append(project)
            assert len(inside) <= most and inside.count(project) <= of_one
            await asyncio.sleep(0.01)
            inside.remove(project)

    async def ask() -> None:
        await asyncio.gather(*map(work, asked))

    run(ask())
    assert sorted(entered) == sorted(asked)
    assert set(entered[: of_one * len(set(asked))]) == set(asked), "each project's first goes before any other's second"


@pytest.mark.parametrize("asked", ["abcc", "abcd", "aabbcd", "abab"])
def test_those_that_were_slow_leave_a_place_to_the_others(asked: str) -> None:
    now = 0.0
    turns, inside, free = Turns(2, 1, lambda: now), list[str](), list[bool]()
    for project in "ab":
        turns.was_slow(project)

    async def work(project: str) -> None:
        async with turns.take(project):
            inside.append(project)
            free.append(sum(each in "ab" for each in inside) < 2)
            await asyncio.sleep(0.01)
            inside.remove(project)

    async def ask() -> None:
        nonlocal now
        await asyncio.gather(*map(work, asked))
        assert len(free) == len(asked) and all(free)
        now = SLOW_FOR_S + 1
        await asyncio.gather(*map(work, asked))
        assert not all(free), "they are forgiven"

    run(ask())


@pytest.mark.timeout(300)
def test_a_trial_that_takes_too_much_memory_is_ended_and_the_next_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    trials = Trials(functools.partial, (eval,))
    trials.time_limit_s = 60
    slow: list[str] = []
    monkeypatch.setattr(trials._turns, "was_slow", slow.append)
    pieces = ("bytearray({})", "[0] * ({} // 8)", "[bytes(100_000 + each) for each in range({} // 100_000)]")

    async def ask() -> None:
        for piece in pieces:
            assert await trials.passes(piece.format(MAX_BYTES // 4))
            assert not await trials.passes(piece.format(MAX_BYTES * 3 // 2))
        assert slow == [""] * len(pieces)
        assert not await trials.passes("__import__('os').abort()", "a")
        assert await trials.passes("next(t for t in iter(__import__('time').process_time, None) if t > 4)", "b")
        assert await trials.passes(pieces[0].format(MAX_BYTES // 4), "c")
        assert slow[-2:] == ["a", "b"]

    try:
        run(ask())
    finally:
        trials.close()


@pytest.mark.parametrize(
    ("schema", "is_combined"),
    [
        (with_a(TEXT, description="x"), False),
        (with_a({"type": "string", "minLength": 1, "maxLength": 9}), False),
        (with_a({"anyOf": [TEXT, {"type": "null"}]}), False),
        (with_a({"$ref": "#/$defs/A", "description": "x"}, **{"$defs": {"A": {"enum": ["a", "b"]}}}), False),
        (with_a(pattern("a+")), False),
        (with_a({"allOf": [pattern("a"), pattern("b")]}), True),
        (with_a({"pattern": "a", "maxLength": 9}), True),
        (with_a({"$ref": "#/$defs/A", "pattern": "a"}), True),
        (with_a({"anyOf": [TEXT], "oneOf": [TEXT]}), True),
        (with_a({"anyOf": [TEXT], "properties": {}}), True),
        ({"type": "object", "patternProperties": {"a": {}, "b": {}}}, True),
        (with_a({"not": pattern("a")}), True),
        ({"$defs": {"A": {"if": {}, "then": {}}}}, True),
        ({"type": "array", "prefixItems": [{"items": {"allOf": [{}]}}]}, True),
    ],
)
def test_schemas_that_say_one_thing_of_each_value_need_no_trial(schema: Any, is_combined: bool) -> None:
    assert needs_trial(schema) is is_combined
