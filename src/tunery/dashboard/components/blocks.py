"""Headings, panels, empty pages, buttons and dialogs: the same everywhere."""

import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from markupsafe import Markup, escape
from nicegui import ui

from tunery.dashboard.components.html import icon, show
from tunery.texts import Translator

Action = Callable[[], Awaitable[Any] | Any]


def heading(title: str, subtitle: str = "", *, actions: str = "") -> None:
    """The page's one h1; `actions` is markup at its right."""
    show(
        Markup('<div class="heading"><div><h1>{}</h1>{}</div><div class="buttons">{}</div></div>').format(
            title, Markup("<p>{}</p>").format(subtitle) if subtitle else "", Markup(actions)
        )
    )


def show_title(title: str, subtitle: str = "") -> None:
    """The h1 of a heading that has live buttons beside it."""
    show(Markup("<h1>{}</h1><p>{}</p>").format(title, subtitle))


def panel(title: str = "", *, css: str = "") -> ui.element:
    """A section with a heading, to be used in a `with`."""
    section = ui.element("section").classes(f"panel {css}")
    if title:
        with section:
            show(escape(title), tag="h2")
    return section


def show_heading(title: str) -> None:
    """A heading between panels."""
    show(escape(title), tag="h2")


def empty(symbol: str, title: str, text: str, *, action: str = "", is_page: bool = False) -> None:
    """An empty page says what to do next. `is_page`: there is no other heading."""
    show(
        Markup(
            '<section class="empty"><div class="empty-icon">{icon}</div><{tag} class="empty-title">{title}</{tag}>'
            "<p>{text}</p>{action}</section>"
        ).format(icon=icon(symbol), tag="h1" if is_page else "p", title=title, text=text, action=Markup(action))
    )


def note(text: str, *, kind: str = "info") -> ui.html:
    """A remark in a box: info, good, warn or bad."""
    symbol = {"info": "info", "good": "check_circle", "warn": "warning", "bad": "error"}[kind]
    role = "alert" if kind == "bad" else "status"
    return show(Markup('<div class="note {}" role="{}">{}<div>{}</div></div>').format(kind, role, icon(symbol), text))


def button(text: str, action: Action, *, primary: bool = False, danger: bool = False, symbol: str = "") -> ui.button:
    """A button that cannot be pressed twice while its action runs."""

    async def press() -> None:
        element.disable()
        try:
            result = action()
            if inspect.iscoroutine(result):
                await result
        finally:
            if not element.is_deleted:
                element.enable()

    element = ui.button(text, icon=symbol or None, on_click=press, color=None).props("unelevated no-caps dense")
    element.classes("btn" + (" btn-primary" if primary else "") + (" btn-danger" if danger else ""))
    return element


def danger_button(t: Translator, name: str, action: Action, *, title: str, text: str, symbol: str = "") -> ui.button:
    """A button that asks before it does what cannot be undone: `title` and `text` are the question."""

    def ask() -> None:
        async def go() -> None:
            dialog.close()
            result = action()
            if inspect.iscoroutine(result):
                await result

        with dialog_box(title) as dialog:
            ui.label(text)
            with ui.element("div").classes("buttons end"):
                button(t("action.back"), dialog.close)
                button(name, go, danger=True)
        dialog.open()

    return button(name, ask, danger=True, symbol=symbol)


class dialog_box:
    """A dialog with a title; what is made inside the `with` is its content."""

    def __init__(self, title: str) -> None:
        self.dialog = ui.dialog().props(f'aria-label="{escape(title)}"')
        with self.dialog:
            self.box = ui.element("div").classes("dialog")
        with self.box:
            show(escape(title), tag="h2")

    def __enter__(self) -> ui.dialog:
        self.box.__enter__()
        return self.dialog

    def __exit__(self, *error: object) -> None:
        self.box.__exit__(*error)


def steps(items: Sequence[tuple[str, str, str]]) -> None:
    """A numbered start: title, sentence, markup of its button."""
    body = Markup("").join(
        Markup('<li><div><h3>{}</h3><p>{}</p></div><div class="buttons">{}</div></li>').format(
            title, text, Markup(action)
        )
        for title, text, action in items
    )
    show(Markup('<ol class="steps">{}</ol>').format(body))
