"""What others wrote, on the terminal of whoever lists it."""

import io

import pytest
from rich.console import Console, RenderableType

from tunery.cli import output
from tunery.cli.output import PlainConsole, facts, styled, table

NAME = "a\x1b]0;title\x07b\x1b[2Jc\x9b31md\re"
PRINTED: dict[str, RenderableType] = {
    "a message": NAME,
    "a cell": table(["file"], [[NAME]], empty="none"),
    "a fact": facts([("name", NAME)]),
    "an error": styled("[red]Error:[/red] {}", NAME),
}


def printed(kind: type[Console], what: RenderableType) -> str:
    """On a terminal with colours."""
    console = kind(file=io.StringIO(), force_terminal=True, width=200, highlight=False, markup=False, emoji=False)
    console.print(what)
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("what", PRINTED)
def test_control_characters_of_others_do_nothing(what: str) -> None:
    text = printed(PlainConsole, PRINTED[what])
    assert "\x1b]" not in text and "\x1b[2J" not in text and "\x9b" not in text and "\x07" not in text
    assert "\\u001b[2Jc\\u009b31md" in text


def test_what_rich_says_itself_stays() -> None:
    plain = table(["file", ">bytes"], [["two\nlines", styled("[red]{}[/red]", 7)]], empty="none")
    assert printed(PlainConsole, plain) == printed(Console, plain)
    assert "\x1b[31m" in printed(PlainConsole, plain)


def test_all_commands_print_so() -> None:
    assert isinstance(output.console, PlainConsole) and isinstance(output.notes, PlainConsole)
