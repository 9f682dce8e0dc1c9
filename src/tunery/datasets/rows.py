"""Examples of a file as people look at them: what is context, what is trained, what is cut."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from tunery.chat.examples import Example, PreferenceExample
from tunery.chat.render import Measured, Renderer
from tunery.datasets.jsonline import decode
from tunery.datasets.lines import Line, read_lines
from tunery.datasets.parse import parse_line
from tunery.datasets.problems import Findings, Problem

MAX_TEXT_BYTES = 2_000

Kind = Literal["context", "trained", "cut"]


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of the rendered text. `cut` is beyond the model's limit for an example."""

    kind: Kind
    text: str


@dataclass(frozen=True)
class Row:
    line: int  # 1-based
    example: dict[str, Any] | None  # the line's object; None when it is none
    problems: list[Problem]
    num_tokens: int | None = None  # as Measured counts; None without a renderer or with an error
    num_trained_tokens: int | None = None
    segments: tuple[Segment, ...] = ()
    text: str | None = None  # of a line that is no example at all: its beginning


def read_rows(
    chunks: Iterable[bytes],
    renderer: Renderer | None = None,
    max_example_tokens: int | None = None,
    *,
    after: int = 0,
    search: str = "",
    only: frozenset[int] | None = None,
    problem: str = "",
) -> Iterator[Row]:
    """Rows behind line `after` whose text holds `search`, whatever its case; of the lines `only`, and with a `problem`
    of this code, where these are given."""
    wanted, last = search.casefold(), max(only or (0,))
    for line in read_lines(chunks):
        if only is not None and line.number > last:
            return
        if line.number <= after or line.is_blank or (only is not None and line.number not in only):
            continue
        if problem and not any(each.code == problem for each in parse_line(line).problems):
            continue
        row = decode(line.content, Findings(line.number)) if line.content else None
        if not wanted or wanted in _text(row, line):
            yield _row(line, row, renderer, max_example_tokens)


def _text(row: dict[str, Any] | None, line: Line) -> str:
    if row is None:
        return line.content.decode("utf-8", "replace").casefold()
    return "\n".join(_strings(row)).casefold()


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _strings(item)


def _row(line: Line, row: dict[str, Any] | None, renderer: Renderer | None, max_tokens: int | None) -> Row:
    parsed = parse_line(line)
    if row is None:
        return Row(line.number, None, parsed.problems, text=line.content[:MAX_TEXT_BYTES].decode("utf-8", "replace"))
    if parsed.example is None or renderer is None:
        return Row(line.number, row, parsed.problems)
    example = renderer.as_trained(parsed.example)
    measured = renderer.measure_batch([example], max_tokens)[0]
    if not isinstance(measured, Measured):
        findings = Findings(line.number, line.example)
        findings.add("cannot_render", "", measured.message)
        return Row(line.number, row, [*parsed.problems, *findings.problems])
    return Row(
        line.number,
        row,
        parsed.problems,
        measured.num_tokens,
        measured.num_loss_tokens,
        tuple(segments(example, renderer, max_tokens)),
    )


def segments(example: Example, renderer: Renderer, max_tokens: int | None = None) -> Iterator[Segment]:
    """The rendered text in pieces; of a preference example the prompt and both answers. Raises RenderError."""
    if isinstance(example, PreferenceExample):
        prompt, preferred, other = renderer.pair_texts(example)
        yield Segment("context", prompt.text)
        yield Segment("trained", preferred.text[len(prompt.text) :])
        yield Segment("trained", other.text[len(prompt.text) :])
        return
    layout = renderer.layout(example)
    kept = renderer.length_within(layout, max_tokens)
    position = 0
    for span in [span for span in layout.spans if span.weight]:
        yield from _pieces(layout.text, position, span.start, kept, "context")
        yield from _pieces(layout.text, span.start, span.end, kept, "trained")
        position = span.end
    yield from _pieces(layout.text, position, len(layout.text), kept, "context")


def _pieces(text: str, start: int, end: int, kept: int, kind: Kind) -> Iterator[Segment]:
    if start < min(end, kept):
        yield Segment(kind, text[start : min(end, kept)])
    if max(start, kept) < end:
        yield Segment("cut", text[max(start, kept) : end])
