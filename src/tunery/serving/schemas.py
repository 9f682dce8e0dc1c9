"""A client's JSON Schema as the grammar engine takes it.

A schema stands by itself in a request, but not in the grammar, where its `#` would be another's root. So every
reference is followed to what it means in its own document, and what it names becomes a definition of the result:

    {"$ref": "https://x/y#/definitions/A", …}  →  {"$ref": "#/$defs/0", "$defs": {"0": {…}}}

Where an object leaves `additionalProperties` out, the result closes it: JSON Schema allows any further property there,
and a model that is allowed them invents some.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin

from tunery.texts import say

Schema = dict[str, Any]

_TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
# What says nothing about the value, or is said by the result in another way. `x-guidance` would speak to the engine.
_IDENTIFIERS = ("$id", "id", "$anchor", "$dynamicAnchor", "$recursiveAnchor", "$schema", "$vocabulary", "x-guidance")
_NOTES = ("title", "description", "default", "example", "examples", "deprecated", "readOnly", "writeOnly", "$comment")
_LEFT_OUT = frozenset((*_IDENTIFIERS, *_NOTES, "$defs", "definitions"))
_MAPS = ("properties", "patternProperties")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_ONES = ("additionalProperties", "additionalItems", "items")
# Keywords whose schemas speak of the same value as the schema they stand in.
_SAME_VALUE = ("allOf", "anyOf", "oneOf")
_CONDITIONS = ("if", "then", "else", "dependentSchemas")
# Beside one of these, another schema is no longer all that is said of the value.
_OWN = (*_MAPS, *_ONES, *_CONDITIONS, "prefixItems", "unevaluatedProperties")
# A grammar for multiples has a state for every remainder.
_MAX_MULTIPLE = 10_000
# What other schemas of the same value may say of: names of its properties, `_ITEMS`, or `_ALL`.
Described = frozenset[str | int]
_ITEMS, _ALL = 0, 1
_ANYTHING: Described = frozenset((_ALL,))
_ITEM_KEYWORDS = ("prefixItems", "additionalItems", "items")
_MAX_PARTS = 200  # that are looked at for what a schema describes
_MAX_PATTERNS = 10  # that hold for one value: each more doubles what combining them takes, and 20 take for ever
_MAX_LOOKED_AT = 30_000  # parts of a schema, for patterns that hold for one value
_MAX_VARIANTS = 4  # of one definition, by what others describe; after those it stays as open as it came
_NO_PROPERTIES: Schema = {"type": "object", "properties": {}, "additionalProperties": False}


# What is kept first of a schema that cannot be kept whole.
_MATTERS = ("type", "properties", "items", "additionalProperties", "enum", "const", "$ref", "anyOf", "required")


class SchemaProblem(ValueError):
    """What is wrong with a schema, for the one who sent it."""


def arguments_schema(parameters: Schema | None, *, is_strict: bool) -> Schema:
    """Of a function's arguments: an object. Without parameters it is the empty one. Raises SchemaProblem."""
    if not parameters:
        return _NO_PROPERTIES
    given = parameters.get("type", "object")
    if given != "object" and not (isinstance(given, list) and "object" in given):
        raise SchemaProblem(say("schema.not_an_object", given=_shown(given)))
    return _Rewriter(parameters, is_strict).result(is_arguments=True)


def answer_schema(schema: Schema | None, *, is_strict: bool) -> Schema:
    """Of an answer in a response format; any object where none is given. Raises SchemaProblem."""
    return _Rewriter(schema or {"type": "object"}, is_strict).result(is_arguments=False)


class _Document:
    """Finds what references mean."""

    def __init__(self, root: Schema) -> None:
        self._resources: dict[str, Schema] = {"": root}
        self._anchors: dict[tuple[str, str], Schema] = {}
        self._bases: dict[int, str] = {}
        waiting: list[tuple[Any, str]] = [(root, "")]
        while waiting:
            node, base = waiting.pop()
            if isinstance(node, dict):
                base = self._enter(node, base)
                waiting += [(value, base) for value in node.values()]
            elif isinstance(node, list):
                waiting += [(item, base) for item in node]

    def _enter(self, node: Schema, base: str) -> str:
        for key in ("$id", "id"):
            given = node.get(key)
            if isinstance(given, str) and given.startswith("#"):
                self._anchors[base, given[1:]] = node
            elif isinstance(given, str):
                base = urldefrag(_joined(base, given))[0]
                self._resources.setdefault(base, node)
        for key in ("$anchor", "$dynamicAnchor"):
            if isinstance(node.get(key), str):
                self._anchors[base, node[key]] = node
        self._bases[id(node)] = base
        return base

    def find(self, node: Schema) -> Schema | bool | None:
        """What the node's `$ref` names; None when that is not in this document."""
        ref, base = node["$ref"], self._bases[id(node)]
        uri, fragment = (base, ref[1:]) if ref.startswith("#") else urldefrag(_joined(base, ref))
        fragment = unquote(fragment)
        if fragment and not fragment.startswith("/"):
            return self._anchors.get((uri, fragment))
        # A part that was pasted in with its own `$id` often still counts from the root of where it stands now.
        for resource in (self._resources.get(uri), self._resources[""] if ref.startswith("#") else None):
            found = _at(resource, fragment)
            if isinstance(found, dict | bool):
                return found
        return None


def _joined(base: str, ref: str) -> str:
    try:
        return urljoin(base, ref)
    except ValueError:
        return ref


def _at(node: Any, pointer: str) -> Any:
    for part in pointer.split("/")[1:]:
        part = part.replace("~1", "/").replace("~0", "~")
        if isinstance(node, dict):
            node = node.get(part)
        elif isinstance(node, list) and part.isdecimal() and len(part) < 9 and int(part) < len(node):
            node = node[int(part)]
        else:
            return None
    return node


class _Rewriter:
    def __init__(self, root: Schema, is_strict: bool) -> None:
        self._root = root
        self._is_strict = is_strict
        self._document = _Document(root)
        self._numbers: dict[tuple[int, Described | None], int] = {}  # of definitions: (node, what others describe)
        self._num_variants: Counter[int] = Counter()
        self._waiting: list[tuple[Schema, Described | None, str]] = []
        self._descriptions: dict[int, Described] = {}
        self._multiple = 1
        self._num_looked_at = 0
        self._weights: dict[int, int] = {}
        self._endless = self._endless_references()

    def result(self, *, is_arguments: bool) -> Schema:
        written = self._schema(self._root, None, "")
        assert isinstance(written, dict)
        if is_arguments:
            has_others = any(key in written for key in ("$ref", *_SAME_VALUE))
            written = {**(written if has_others else self._closed(self._root, written)), "type": "object"}
        definitions: Schema = {}
        while self._waiting:
            node, elsewhere, where = self._waiting.pop(0)
            definitions[str(len(definitions))] = self._schema(node, elsewhere, where)
        return {**written, "$defs": definitions} if definitions else written

    def _schema(self, node: Any, elsewhere: Described | None, where: str) -> Schema | bool:
        """`elsewhere`: what other schemas of the same value describe. None: there are none, so that an object may be
        closed by this one."""
        if isinstance(node, bool):
            return node
        if not isinstance(node, dict):
            raise _problem(where, "no_schema", node)
        _check_shapes(node, where)
        self._check_patterns(node, where)
        others = [key for key in ("$ref", *_SAME_VALUE) if key in node]
        is_other_whole = len(others) == 1 and not any(key in node for key in _OWN)
        if others == ["allOf"] and len(node["allOf"]) > 1:
            is_other_whole = False
        written: Schema = {}
        for key, value in node.items():
            if key not in _LEFT_OUT:
                known = elsewhere if is_other_whole or not others else self._beside(node, key, elsewhere)
                written.update(self._keyword(node, key, value, known, f"{where}/{key}"))
        if elsewhere is not None or is_other_whole or not ("properties" in node or (others and self._names(node))):
            return written
        return self._closed(node, written)

    def _keyword(self, node: Schema, key: str, value: Any, elsewhere: Described | None, where: str) -> Schema:
        if key == "$ref":
            return self._reference(node, elsewhere, where)
        if key in _MAPS:
            inner = {name: _inner(elsewhere, name if key == "properties" else _ALL) for name in value}
            return {key: {name: self._schema(item, inner[name], f"{where}/{name}") for name, item in value.items()}}
        if key == "allOf" and len(value) > 1:
            return {key: self._all_of(value, elsewhere, where)}
        if key in _LISTS or (key == "items" and isinstance(value, list)):
            known = elsewhere if key in _SAME_VALUE else _inner(elsewhere, _ITEMS)
            return {key: [self._schema(item, known, f"{where}/{number}") for number, item in enumerate(value)]}
        if key in _ONES:
            inner_key = _ALL if key == "additionalProperties" else _ITEMS
            return {key: self._schema(value, _inner(elsewhere, inner_key), where)}
        if key == "multipleOf" and not self._can_count(value):
            if self._is_strict:
                raise _problem(where, "too_many_digits", value)
            return {}
        return {key: value}

    def _all_of(self, parts: list[Any], elsewhere: Described | None, where: str) -> list[Schema | bool]:
        descriptions = [self._description(part) for part in parts]
        counts = Counter(what for description in descriptions for what in description)
        written = []
        for number, (part, own) in enumerate(zip(parts, descriptions, strict=True)):
            others = {what for what, count in counts.items() if count > (what in own)}
            written.append(self._schema(part, (elsewhere or frozenset()).union(others), f"{where}/{number}"))
        return written

    def _check_patterns(self, node: Schema, where: str) -> None:
        """Raises SchemaProblem when more of them hold for the node's value, or for one inside it, than are combined in
        time. A value that one schema alone describes is looked at when its schema is."""
        waiting, seen = [[node]], set[frozenset[int]]()
        while waiting and self._num_looked_at < _MAX_LOOKED_AT:
            parts = self._held_together(waiting.pop())
            known = frozenset(map(id, parts))
            if len(parts) < 2 or known in seen:
                continue
            seen.add(known)
            given = {(key, repr(part[key])) for part in parts for key in ("pattern", "format") if key in part}
            if len(given) > _MAX_PATTERNS:
                raise _problem(where, "too_many_patterns", len(given), limit=str(_MAX_PATTERNS))
            inside = defaultdict[tuple[str, str], list[Any]](list)
            for part in parts:
                for key, name, item in _inside(part):
                    inside[key, name].append(item)
            waiting += [items for items in inside.values() if len(items) > 1]

    def _held_together(self, nodes: list[Any]) -> list[Schema]:
        """The nodes and what holds for their value with them; of alternatives the one with the most patterns."""
        waiting, found = [*nodes], dict[int, Schema]()
        while waiting:
            part = waiting.pop()
            if not isinstance(part, dict) or id(part) in found:
                continue
            found[id(part)] = part
            if isinstance(part.get("$ref"), str):
                waiting.append(self._document.find(part))
            for key in _SAME_VALUE:
                items = part[key] if isinstance(part.get(key), list) else []
                waiting += items if key == "allOf" else sorted(items, key=self._weight)[-1:]
        self._num_looked_at += len(found)
        return list(found.values())

    def _weight(self, node: Any) -> int:
        """How many patterns stand in the node."""
        if id(node) not in self._weights:
            members = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
            own = sum(key in node for key in ("pattern", "format")) if isinstance(node, dict) else 0
            self._weights[id(node)] = own + sum(self._weight(item) for item in members if isinstance(item, dict | list))
        return self._weights[id(node)]

    def _reference(self, node: Schema, elsewhere: Described | None, where: str) -> Schema:
        target = None if id(node) in self._endless else self._document.find(node)
        if target is None:
            if self._is_strict:
                raise _problem(where, "leads_nowhere", node["$ref"])
            return {}
        if isinstance(target, bool):
            return {} if target else {"enum": []}
        if elsewhere is not None and (id(target), elsewhere) not in self._numbers:
            self._num_variants[id(target)] += 1
            if self._num_variants[id(target)] > _MAX_VARIANTS:
                elsewhere = _ANYTHING
        known = (id(target), elsewhere)
        if known not in self._numbers:
            self._numbers[known] = len(self._numbers)
            self._waiting.append((target, elsewhere, node["$ref"]))
        return {"$ref": f"#/$defs/{self._numbers[known]}"}

    def _beside(self, node: Schema, key: str, elsewhere: Described | None) -> Described:
        """What is said of the node's value outside of this keyword of it."""
        is_own = key not in ("$ref", *_SAME_VALUE)
        rest = [self._description(part) for part in self._parts(node, without=key)]
        return (elsewhere or frozenset()).union(frozenset() if is_own else _own_description(node), *rest)

    def _description(self, node: Any) -> Described:
        """What the schema says something of, by itself and by those that it takes in."""
        if id(node) not in self._descriptions:
            self._descriptions[id(node)] = self._described(node)
        return self._descriptions[id(node)]

    def _described(self, node: Any) -> Described:
        found: set[str | int] = set()
        waiting, seen = [node], set()
        while waiting and _ALL not in found:
            part = waiting.pop()
            if not isinstance(part, dict) or id(part) in seen:
                continue
            seen.add(id(part))
            found |= _ANYTHING if len(seen) > _MAX_PARTS else _own_description(part)
            waiting += self._parts(part)
        return frozenset(found)

    def _can_count(self, value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            return True  # the engine says what is wrong with it
        digits = "".join(map(str, Decimal(str(value)).normalize().as_tuple().digits))
        multiple = math.lcm(self._multiple, int(digits))
        if multiple > _MAX_MULTIPLE:
            return False
        self._multiple = multiple
        return True

    def _closed(self, node: Schema, written: Schema) -> Schema:
        names = self._names(node)
        if names is None or written.get("additionalProperties") is False or (not names and "minProperties" in node):
            return written
        properties = {**written.get("properties", {})}
        for name in names:
            properties.setdefault(name, True)
        return {**written, "properties": properties, "additionalProperties": False}

    def _names(self, node: Schema) -> list[str] | None:
        """Of the properties that the schemas of one value name, in their order; None when they allow others, too."""
        names: dict[str, None] = {}
        waiting, seen = [node], set()
        while waiting:
            part = waiting.pop(0)
            if not isinstance(part, dict) or id(part) in seen:
                continue
            seen.add(id(part))
            others = (part.get("additionalProperties", False), part.get("unevaluatedProperties", False))
            if any(other is not False for other in others) or part.get("patternProperties") or "propertyNames" in part:
                return None
            names.update(dict.fromkeys(part.get("properties") or ()))
            names.update(dict.fromkeys(name for name in part.get("required") or () if isinstance(name, str)))
            waiting += self._parts(part)
        return list(names)

    def _parts(self, node: Schema, without: str = "") -> Iterator[Any]:
        """The schemas that speak of the same value. `without`: a keyword whose schemas are left out."""
        if isinstance(node.get("$ref"), str) and without != "$ref":
            yield self._document.find(node)
        for key in _SAME_VALUE:
            yield from node[key] if isinstance(node.get(key), list) and key != without else ()
        for key in ("then", "else"):
            yield node.get(key)
        dependent = node.get("dependentSchemas")
        yield from dependent.values() if isinstance(dependent, dict) else ()

    def _endless_references(self) -> set[int]:
        """References through which a value would be described by itself: `{"$ref": "#"}`."""
        endless: set[int] = set()
        done: set[int] = set()
        for start in _schemas(self._root):
            if "$ref" not in start or id(start) in done:
                continue
            path: dict[int, tuple[Schema, Iterator[Any]]] = {id(start): (start, self._parts(start))}
            while path:
                key, (_, parts) = next(reversed(path.items()))
                part = next((item for item in parts if isinstance(item, dict) and id(item) not in done), None)
                if part is None:
                    done.add(key)
                    del path[key]
                elif id(part) not in path:
                    path[id(part)] = (part, self._parts(part))
                else:
                    circle = list(path)[list(path).index(id(part)) :]
                    endless.update(one for one in circle if "$ref" in path[one][0])
        return endless


def _schemas(root: Any) -> Iterator[Schema]:
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            yield node
        waiting += node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()


def _inside(node: Schema) -> Iterator[tuple[str, str, Any]]:
    """Schemas of what is in the node's value, by keyword and name: equal ones speak of the same part of it."""
    for key in _MAPS:
        yield from ((key, name, item) for name, item in (node[key] if isinstance(node.get(key), dict) else {}).items())
    for key in (*_ONES, "prefixItems"):
        items = node.get(key)
        yield from ((key, str(at), item) for at, item in enumerate(items if isinstance(items, list) else [items]))


def _own_description(node: Schema) -> Described:
    """What the schema says something of by itself."""
    if isinstance(node.get("additionalProperties"), dict) or node.get("patternProperties"):
        return _ANYTHING
    names = node["properties"] if isinstance(node.get("properties"), dict) else ()
    return frozenset((*names, *((_ITEMS,) if any(key in node for key in _ITEM_KEYWORDS) else ())))


def _inner(elsewhere: Described | None, what: str | int) -> Described | None:
    """`elsewhere` for a part of the value: anything may be said there of a part that is described there, too."""
    if not elsewhere or not (what in elsewhere or what == _ALL or _ALL in elsewhere):
        return None
    return _ANYTHING


def _check_shapes(node: Schema, where: str) -> None:
    """Raises SchemaProblem for what is no JSON Schema of any version."""
    given = node.get("type", "object")
    for name in given if isinstance(given, list) and given else [given]:
        if name not in _TYPES:
            raise _problem(f"{where}/type", "unknown_type", name, types=", ".join(_TYPES))
    for key in (*_MAPS, "$defs", "definitions"):
        if not isinstance(node.get(key, {}), dict):
            raise _problem(f"{where}/{key}", "no_schemas", node[key])
    for key in ("enum", "required", *_LISTS):
        if not isinstance(node.get(key, []), list) or (key in _SAME_VALUE and node.get(key) == []):
            raise _problem(f"{where}/{key}", "no_array", node[key])
    if not isinstance(node.get("$ref", ""), str):
        raise _problem(f"{where}/$ref", "no_text", node["$ref"])


def _problem(where: str, kind: str, given: Any, **more: str) -> SchemaProblem:
    path = ", ".join(repr(part) for part in where.split("/") if part)[:400]
    return SchemaProblem(say("schema.at", path=path, what=say(f"schema.at.{kind}", given=_shown(given), **more)))


def _shown(value: Any) -> str:
    return repr(value)[:80]


def loosened(schema: Schema, accepts: Callable[[Schema], bool]) -> Schema:
    """The schema without what the engine does not accept, which is tried: a pattern here, a contradiction there.

    The parts are tried by themselves, the smallest first. Where nothing helps, any value is allowed.
    """
    if accepts(schema):
        return schema
    definitions = schema.get("$defs", {})
    free = dict.fromkeys(definitions, True)

    def alone(part: Schema) -> bool:
        return accepts({**part, "$defs": free} if free else part)

    root = _loosened_part({key: value for key, value in schema.items() if key != "$defs"}, alone)
    assert isinstance(root, dict)
    kept = {name: _loosened_part(part, alone) for name, part in definitions.items()}
    result = {**root, "$defs": kept} if kept else root
    return result if accepts(result) else {"type": schema["type"]} if isinstance(schema.get("type"), str) else {}


def _loosened_part(part: Any, accepts: Callable[[Schema], bool]) -> Schema | bool:
    if isinstance(part, bool) or accepts(part):
        return part
    for key in (*_MAPS, *_LISTS, *_ONES):
        value = part.get(key)
        if key in _MAPS and isinstance(value, dict):
            part = {**part, key: {name: _loosened_part(item, accepts) for name, item in value.items()}}
        elif isinstance(value, list):
            part = {**part, key: [_loosened_part(item, accepts) for item in value]}
        elif isinstance(value, dict):
            part = {**part, key: _loosened_part(value, accepts)}
    kept: Schema = {}
    for key in sorted(part, key=lambda key: _MATTERS.index(key) if key in _MATTERS else len(_MATTERS)):
        if accepts({**kept, key: part[key]}):
            kept[key] = part[key]
    return kept
