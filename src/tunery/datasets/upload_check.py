"""The look that an upload gets while it streams by: is every line a JSON object? All else is for validation."""

import orjson

from tunery.datasets.encodings import encoding_name, is_binary, narrow_encoding, wide_encoding
from tunery.datasets.jsonline import BOM, decode
from tunery.datasets.lines import MAX_LINE_BYTES, Line, LineSplitter
from tunery.datasets.problems import Findings, Problem
from tunery.texts import say

_HINT_CHARACTERS = 20
# What keeps a line from being a dictionary at all. NaN, double keys and the like are reported with a path later.
_REFUSED = {"invalid_utf8", "invalid_json", "wrong_line_ends", "not_an_object"}


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
            if not self._wide and is_binary(chunk):
                self._problem = say("error.file_binary")
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
        if line.joined:
            self._problem = say("problem.wrong_line_ends", ends=line.joined)
        elif line.is_too_long:
            self._problem = say("error.line_too_long", line=line.number, size=line.size, most=MAX_LINE_BYTES)
        elif (problem := _refused(line.content)) is not None:
            self._problem = self._sentence(line, problem)

    def _sentence(self, line: Line, problem: Problem) -> str:
        if self._wide or problem.code == "invalid_utf8":
            return say("error.file_not_utf8", encoding=encoding_name(self._wide or narrow_encoding(line.content)))
        if problem.code == "wrong_line_ends":
            return problem.message
        start = line.content[: 4 * _HINT_CHARACTERS].decode("utf-8", "replace")[:_HINT_CHARACTERS]
        return say("error.line_not_an_object", line=line.number, start=start)


def _refused(content: bytes) -> Problem | None:
    """Why the line is no object."""
    try:
        if isinstance(orjson.loads(content.removeprefix(BOM)), dict):
            return None
    except orjson.JSONDecodeError:
        pass
    findings = Findings(0)
    decode(content, findings)
    return next((problem for problem in findings.problems if problem.code in _REFUSED), None)
