"""The look that an upload gets while it streams by: is every line a JSON object? All else is for validation."""

import orjson

from tunery.datasets.encodings import narrow_encoding, said, wide_encoding
from tunery.datasets.jsonline import BOM, decode
from tunery.datasets.lines import MAX_LINE_BYTES, Line, LineSplitter
from tunery.datasets.problems import Findings
from tunery.texts import say

_HINT_CHARACTERS = 20
# What keeps a line from being a dictionary at all. NaN, double keys and the like are reported with a path later.
_REFUSED = {"invalid_utf8", "invalid_json", "not_an_object"}


class UploadCheck:
    """Feed it the chunks; `finish` gives the sentence for the 400, or None. Memory: one line."""

    def __init__(self) -> None:
        self._splitter = LineSplitter()
        self._problem: str | None = None
        self.num_rows = 0  # lines that are not blank, of a file with a problem those before it
        self._wide: str | None = None

    def feed(self, chunk: bytes) -> None:
        if not self.num_rows and chunk:
            self._wide = self._wide or wide_encoding(chunk)
        if self._problem is None:
            for line in self._splitter.feed(chunk):
                self._look(line)

    def finish(self) -> str | None:
        if self._problem is None:
            for line in self._splitter.finish():
                self._look(line)
        if self._problem is None and not self.num_rows:
            return say("error.file_empty")
        return self._problem

    def _look(self, line: Line) -> None:
        if line.is_blank or self._problem is not None:
            return
        self.num_rows += 1
        if line.is_too_long:
            self._problem = f"Line {line.number} has {line.size:,} bytes; a line may have {MAX_LINE_BYTES:,}."
        elif not _is_object(line.content):
            encoding = self._wide or _encoding(line.content)
            if encoding is not None:
                self._problem = say("error.file_not_utf8", encoding=said(encoding))
                return
            start = line.content[: 4 * _HINT_CHARACTERS].decode("utf-8", "replace")[:_HINT_CHARACTERS]
            self._problem = say("error.line_not_an_object", line=line.number, start=start)


def _encoding(content: bytes) -> str | None:
    """Of a line that is not UTF-8."""
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return narrow_encoding(content)
    return None


def _is_object(content: bytes) -> bool:
    try:
        return isinstance(orjson.loads(content.removeprefix(BOM)), dict)
    except orjson.JSONDecodeError:
        findings = Findings(0)
        decode(content, findings)
        return not any(problem.code in _REFUSED for problem in findings.problems)
