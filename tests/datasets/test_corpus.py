"""Every bad line gets its code, at its line, with something to do about it; and every code has its bad line."""

import json
from pathlib import Path

import pytest

from tunery.datasets.lines import MAX_LINE_BYTES, Line, read_lines
from tunery.datasets.parse import parse_line
from tunery.datasets.problems import CODES

CORPUS = Path(__file__).parent / "corpus" / "bad_lines.txt"
ANSWER = b'{"role": "assistant", "content": "b"}'
# Of the whole file, or of its rendering: tested with files in test_validate.py.
OF_FILES = {
    "empty_file",
    "binary_file",
    "too_few_examples",
    "mixed_formats",
    "nothing_to_train",
    "wrong_format",
    "cannot_render",
    "wrong_encoding",
    "turned_into_chat",
    "answer_cut",
}


def _from_text() -> list[tuple[str, bytes]]:
    entries = [line for line in CORPUS.read_text("utf-8").splitlines() if line and not line.startswith("#")]
    return [(code, line.encode()) for code, line in (entry.split(" | ", 1) for entry in entries)]


# What a text file of ours cannot hold.
FROM_CODE = [
    ("invalid_utf8", b'{"messages": [{"role": "user", "content": "caf\xe9"}, ' + ANSWER + b"]}"),
    ("invalid_utf8", b'{"messages": [{"role": "user", "content": "\xed\xa0\x80"}, ' + ANSWER + b"]}"),
    ("invalid_utf8", b"\xc0\xaf"),
    ("byte_order_mark", b'\xef\xbb\xbf{"messages": [' + ANSWER + b"]}"),
    ("invalid_json", b'{"messages": [{"role": "user", "content": "a\x01"}, ' + ANSWER + b"]}"),
    ("invalid_json", b'{"messages": [{"role": "user", "content": "tab\there"}, ' + ANSWER + b"]}"),
    ("wrong_line_ends", b'{"messages": [' + ANSWER + b']}\r{"messages": [' + ANSWER + b"]}\r"),
    ("wrong_line_ends", b'{"messages": [' + ANSWER + b']} \r\r {"messages": ['),
    ("nesting_too_deep", b'{"messages": ' + b"[" * 100 + b"]" * 100 + b"}"),
    ("nesting_too_deep", b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    ("nesting_too_deep", b'{"a":' * 5000 + b"1" + b"}" * 5000),
    ("number_too_large", b'{"messages": ' + b"9" * 100_000 + b"}"),
    ("line_too_long", b'{"messages": "' + b"x" * MAX_LINE_BYTES + b'"}'),
    (
        "invalid_functions",
        b'{"messages": [' + ANSWER + b'], "functions": [' + b'{"name":"f"},' * 128 + b'{"name":"g"}]}',
    ),
]
BAD_LINES = [*_from_text(), *FROM_CODE]


def test_the_corpus_is_large_enough() -> None:
    assert len(BAD_LINES) >= 60


def test_every_code_has_a_bad_line() -> None:
    assert {code for code, _ in BAD_LINES} | OF_FILES == set(CODES)


@pytest.mark.parametrize(("code", "content"), BAD_LINES, ids=[f"{code}-{i}" for i, (code, _) in enumerate(BAD_LINES)])
def test_a_bad_line_gets_its_code(code: str, content: bytes) -> None:
    (line,) = [line for line in read_lines([b"\n\n", content]) if not line.is_blank]
    assert (line.number, line.example) == (3, 1)
    parsed = parse_line(line)
    found = {problem.code: problem for problem in parsed.problems}
    assert code in found, parsed.problems
    problem = found[code]
    assert problem.line == 3
    assert problem.message.endswith((".", "…")) and len(problem.message) < 300
    assert problem.suggestion
    assert (parsed.example is None) == any(p.severity == "error" for p in parsed.problems)


def test_a_bad_line_has_no_other_error() -> None:
    """One slip is one problem: a list of followers would hide it."""
    for code, content in BAD_LINES:
        line = Line(1, 1, b"" if code == "line_too_long" else content, len(content))
        errors = {problem.code for problem in parse_line(line).problems if problem.severity == "error"}
        assert errors <= {code}, (errors, content[:200])


ANSWERED = {"role": "assistant", "content": "b"}


@pytest.mark.parametrize(
    ("messages", "path"),
    [
        ([{"role": "user", "content": 5}, ANSWERED], "messages[0].content"),
        ([{"content": "a"}, ANSWERED], "messages[0]"),
        ([{"role": "boss", "content": "a"}, ANSWERED], "messages[0].role"),
        ([{"role": "user", "content": "a"}, {**ANSWERED, "weight": 3}], "messages[1].weight"),
        ([{"role": "user", "content": [{"type": "text"}]}, ANSWERED], "messages[0].content[0]"),
    ],
)
def test_the_path_leads_to_the_place(messages: list[dict], path: str) -> None:
    for row, prefix in (({"messages": messages}, ""), ({"input": {"messages": messages}}, "input.")):
        content = json.dumps(row).encode()
        problems = parse_line(Line(1, 1, content, len(content))).problems
        assert prefix + path in [problem.path for problem in problems]
