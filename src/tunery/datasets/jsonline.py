"""One line's bytes → a JSON object, stricter than Python's own reader: what another reader may take otherwise is an
error here, since then the model would be trained on something else than its owner sees.
"""

import json
import re
from typing import Any

from tunery.datasets.encodings import encoding_name, narrow_encoding, wide_encoding
from tunery.datasets.problems import Findings, shown
from tunery.domain.json_body import is_deep
from tunery.texts import say

MAX_DEPTH = 64
MAX_INTEGER = 2**64 - 1

BOM = b"\xef\xbb\xbf"


class _Reject(Exception):
    def __init__(self, code: str, message: str, value: str = "") -> None:
        super().__init__(message)
        self.code, self.message, self.value = code, message, value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        double = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise _Reject("duplicate_key", say("problem.duplicate_key", key=shown(double)), double)
    return result


def _constant(name: str) -> Any:
    raise _Reject("non_finite_number", say("problem.non_finite_number", name=name), name)


def _integer(digits: str) -> int:
    if len(digits) > 21 or abs(int(digits)) > MAX_INTEGER:
        raise _Reject("number_too_large", say("problem.number_too_large", number=shown(digits, 24)))
    return int(digits)


def _float(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise _Reject("number_too_large", say("problem.number_beyond_readers", number=shown(digits, 24)))
    return value


_decoder = json.JSONDecoder(
    object_pairs_hook=_object, parse_constant=_constant, parse_int=_integer, parse_float=_float, strict=True
)


def decode(content: bytes, findings: Findings) -> dict[str, Any] | None:
    """The object, or None with the reason added to `findings`."""
    if content.startswith(BOM):
        content = content[len(BOM) :]
        findings.add("byte_order_mark", "", say("problem.byte_order_mark"))
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as exc:
        guess = encoding_name(wide_encoding(content) or narrow_encoding(content))
        message = say("problem.invalid_utf8", byte=exc.start + 1, found=content[exc.start], guess=guess)
        findings.add("invalid_utf8", "", message)
        return None
    value = _decode_text(text, findings)
    if value is None:
        return None
    if not isinstance(value, dict):
        findings.add("not_an_object", "", say("problem.not_an_object", kind=say(f"kind.{_kind(value)}")))
        return None
    if "\\u" in text and (path := _surrogate_path(value)) is not None:
        findings.add("lone_surrogate", path, say("problem.lone_surrogate"))
        return None
    return value


_NULL = object()

# Python's words for what is wrong with JSON
_REASONS = {
    "Expecting property name enclosed in double quotes": "json.property_name",
    "Expecting ',' delimiter": "json.comma",
    "Expecting ':' delimiter": "json.colon",
    "Expecting value": "json.value",
    "Extra data": "json.extra_data",
    "Unterminated string starting at": "json.unterminated",
    "Invalid control character at": "json.control_character",
    "Invalid \\escape": "json.escape",
    "Invalid \\uXXXX escape": "json.unicode_escape",
    "Illegal trailing comma before end of object": "json.trailing_comma",
    "Illegal trailing comma before end of array": "json.trailing_comma_in_array",
}


def _reason(exc: json.JSONDecodeError) -> str:
    key = _REASONS.get(exc.msg.removesuffix(": "))
    what = say(key) if key else exc.msg
    return say("json.at", what=what, line=exc.lineno, column=exc.colno, char=exc.pos)


# Unicode's line ends besides the line feed. Only the first is white space of JSON.
_LINE_ENDS = {"\r": "CR (\\r)", "\x85": "NEL (U+0085)", "\u2028": "U+2028", "\u2029": "U+2029"}


def _other_line_end(exc: json.JSONDecodeError) -> str:
    """What stands between one value and the next on this line, if that is a line end of another kind."""
    if not exc.msg.startswith("Extra data"):
        return ""
    between = re.compile(r"\s*").match(exc.doc, len(exc.doc[: exc.pos].rstrip()))
    return next((name for end, name in _LINE_ENDS.items() if between and end in between[0]), "")


def joined_by(head: bytes) -> str:
    """The line end of another kind that stands between the first values of a line that is too long to be one."""
    if not any(end.encode() in head for end in _LINE_ENDS):
        return ""
    try:
        _decoder.decode(head.removeprefix(BOM).decode("utf-8", "ignore"))
    except json.JSONDecodeError as exc:
        return _other_line_end(exc)
    except (_Reject, RecursionError):
        pass
    return ""


def _decode_text(text: str, findings: Findings) -> Any:
    """The value, or None after a finding. JSON's own null comes back as a marker, which is no object either."""
    try:
        value = _decoder.decode(text)
    except _Reject as exc:
        findings.add(exc.code, "", exc.message, value=exc.value)
        return None
    except json.JSONDecodeError as exc:
        if ends := _other_line_end(exc):
            findings.add("wrong_line_ends", "", say("problem.wrong_line_ends", ends=ends))
        else:
            findings.add("invalid_json", "", say("problem.invalid_json", reason=_reason(exc)), value=str(exc))
        return None
    except RecursionError:
        findings.add("nesting_too_deep", "", say("problem.nesting_too_deep", most=MAX_DEPTH))
        return None
    if text.count("{") + text.count("[") > MAX_DEPTH and is_deep(value, MAX_DEPTH):
        findings.add("nesting_too_deep", "", say("problem.nesting_too_deep", most=MAX_DEPTH))
        return None
    return _NULL if value is None else value


_SURROGATE = re.compile("[\ud800-\udfff]")


def _surrogate_path(value: Any, path: str = "") -> str | None:
    """Where the first half pair stands. The value is no deeper than MAX_DEPTH."""
    if isinstance(value, str):
        return path if _SURROGATE.search(value) else None
    if isinstance(value, list):
        found = (_surrogate_path(item, f"{path}[{i}]") for i, item in enumerate(value))
    elif isinstance(value, dict):
        found = (
            path if _SURROGATE.search(key) else _surrogate_path(item, f"{path}.{key}" if path else key)
            for key, item in value.items()
        )
    else:
        return None
    return next((hit for hit in found if hit is not None), None)


def _kind(value: Any) -> str:
    names = {list: "list", str: "string", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null")
