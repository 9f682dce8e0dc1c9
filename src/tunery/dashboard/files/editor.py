"""Mending rows of a dataset: a message's text, turns, weights, whole rows. Nothing is changed until it is saved; what
is typed is a draft until then, which a reload or a restart of the server does not lose."""

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from markupsafe import Markup
from nicegui import ui

from tunery.dashboard.components import blocks, html
from tunery.dashboard.components.conversation import ROLES, example
from tunery.dashboard.visit import Visit
from tunery.texts import Translator

Row = dict[str, Any]
MAX_ROW = 200_000  # characters of a row that a browser is given to edit
NEW_ROW: Row = {"messages": [{"role": "user", "content": ""}, {"role": "assistant", "content": ""}]}


@dataclass
class Draft:
    """Edits by the lines of the file that they were made in, kept for whoever has made them."""

    visit: Visit
    file_id: str
    changed: dict[int, Row] = field(default_factory=dict)
    removed: set[int] = field(default_factory=set)
    added: dict[int, list[Row]] = field(default_factory=dict)  # behind this line

    @classmethod
    def of(cls, visit: Visit, file_id: str) -> "Draft":
        kept = visit.load_draft(f"edit-{file_id}")
        changed, added = ({int(line): it for line, it in kept.get(name, {}).items()} for name in ("changed", "added"))
        return cls(visit, file_id, changed, set(kept.get("removed", [])), added)

    @property
    def count(self) -> int:
        return len(self.changed) + len(self.removed) + sum(map(len, self.added.values()))

    def keep(self) -> None:
        kept = {"changed": self.changed, "removed": sorted(self.removed), "added": self.added}
        self.visit.save_draft(f"edit-{self.file_id}", kept if self.count else {})

    def clear(self) -> None:
        self.changed, self.removed, self.added = {}, set(), {}
        self.keep()

    def body(self) -> dict[str, Any]:
        """As the API takes it."""
        return {
            "changed": [{"line": line, "row": row} for line, row in sorted(self.changed.items())],
            "removed": sorted(self.removed),
            "added": [{"after": line, "row": row} for line, rows in sorted(self.added.items()) for row in rows],
        }


class RowCard:
    """A row of the file with what may be done with it, and the rows that were added behind it."""

    def __init__(self, t: Translator, draft: Draft, row: dict[str, Any], about: Markup, on_change: Callable[[], None]):
        self.t, self.draft, self.row, self.about, self.on_change = t, draft, row, about, on_change
        self.line: int = row["line"]
        self.is_open = False
        with ui.element("div").classes("stack"):
            self.place = ui.element("section").classes("example")
            self.behind = ui.element("div").classes("stack")
        self.draw()
        self.draw_added()

    def draw(self) -> None:
        t = self.t
        self.place.clear()
        with self.place:
            if self.line in self.draft.removed:
                self._draw_removed()
                return
            html.show(self.about)
            changed = self.draft.changed.get(self.line)
            row = self.row["example"] if changed is None else changed
            if changed is not None:
                html.show(Markup('<span class="badge">{}</span>').format(t("edit.changed")))
            if self.is_open:
                RowForm(t, deepcopy(row), self.change).draw()
            elif row is not None:
                html.show(example(row, t))
            with ui.element("div").classes("buttons row-actions"):
                self._draw_buttons(row, is_changed=changed is not None)

    def _draw_removed(self) -> None:
        html.show(
            Markup('<span class="badge muted">{}</span>').format(self.t("edit.will_be_removed", n=f"{self.line:,}"))
        )
        with ui.element("div").classes("buttons"):
            blocks.button(self.t("edit.undo"), self.restore, symbol="undo")

    def _draw_buttons(self, row: Row | None, *, is_changed: bool) -> None:
        t = self.t
        if row is not None and len(json.dumps(row)) > MAX_ROW:
            ui.label(t("edit.too_long")).classes("muted small")
        elif row is not None:
            word, symbol = (t("edit.done"), "check") if self.is_open else (t("edit.edit"), "edit")
            self._button(word, self.toggle, symbol)
        if is_changed:
            self._button(t("edit.undo"), self.restore, "undo")
        if row is not None:
            self._button(t("edit.duplicate"), self.duplicate, "content_copy")
        self._button(t("edit.remove"), self.remove, "delete")

    def _button(self, word: str, act: Callable[[], None], symbol: str) -> None:
        name = self.t("edit.row_button", word=word, n=f"{self.line:,}")
        _named(blocks.button(word, act, symbol=symbol), name)

    def draw_added(self) -> None:
        self.behind.clear()
        with self.behind:
            for at, row in enumerate(self.draft.added.get(self.line, [])):
                AddedCard(self, at, row)

    # ---- what is done
    def noted(self) -> None:
        self.draft.keep()
        self.on_change()

    def toggle(self) -> None:
        self.is_open = not self.is_open
        self.draw()

    def change(self, row: Row) -> None:
        if row == self.row["example"]:
            self.draft.changed.pop(self.line, None)
        else:
            self.draft.changed[self.line] = deepcopy(row)
        self.noted()

    def remove(self) -> None:
        self.draft.removed.add(self.line)
        self.is_open = False
        self.noted()
        self.draw()

    def restore(self) -> None:
        self.draft.removed.discard(self.line)
        self.draft.changed.pop(self.line, None)
        self.noted()
        self.draw()

    def duplicate(self) -> None:
        row = self.draft.changed.get(self.line) or self.row["example"]
        self.add(deepcopy(row))

    def add(self, row: Row) -> None:
        self.draft.added.setdefault(self.line, []).insert(0, row)
        self.noted()
        self.draw_added()


class AddedCard:
    """A row that is not in the file yet."""

    def __init__(self, card: RowCard, at: int, row: Row) -> None:
        self.card, self.at, self.row, t = card, at, row, card.t
        with ui.element("section").classes("example added"):
            html.show(Markup('<span class="badge">{}</span>').format(t("edit.new_row")))
            RowForm(t, deepcopy(row), self.change).draw()
            with ui.element("div").classes("buttons row-actions"):
                blocks.button(t("edit.remove"), self.remove, symbol="delete")

    def change(self, row: Row) -> None:
        self.card.draft.added[self.card.line][self.at] = deepcopy(row)
        self.card.noted()

    def remove(self) -> None:
        rows = self.card.draft.added[self.card.line]
        del rows[self.at]
        if not rows:
            del self.card.draft.added[self.card.line]
        self.card.noted()
        self.card.draw_added()


class RowForm:
    """Fields for a row: its turns where it has some, else its JSON."""

    def __init__(self, t: Translator, row: Row, on_change: Callable[[Row], None]) -> None:
        self.t, self.row, self.on_change = t, row, on_change

    def draw(self) -> None:
        self.place = ui.element("div").classes("stack row-form")
        self.redraw()

    def redraw(self) -> None:
        self.place.clear()
        with self.place:
            lists = list(_lists_of(self.row))
            if "prompt" in self.row and "completion" in self.row:
                for name in ("prompt", "completion"):
                    self._text(self.t(f"edit.{name}"), self.row, name)
            elif not lists:
                JsonField(self.t, self.row, self._replace)
            for title, turns in lists:
                if title:
                    ui.label(self.t(f"dataset.{title}")).classes("muted small")
                for at, turn in enumerate(turns):
                    self._turn(turns, at, turn)
                if not title:
                    blocks.button(self.t("edit.add_turn"), partial(self._add_turn, turns), symbol="add")

    def changed(self) -> None:
        self.on_change(self.row)

    def _replace(self, row: Row) -> None:
        self.row.clear()
        self.row.update(row)
        self.changed()

    def _text(self, label: str, holder: Row, key: str) -> None:
        def typed(event: Any) -> None:
            holder[key] = event.value or ""
            self.changed()

        ui.textarea(label, value=holder.get(key) or "", on_change=typed).props("outlined autogrow debounce=300")

    def _turn(self, turns: list[Any], at: int, turn: Any) -> None:
        t, n = self.t, at + 1
        with ui.element("fieldset").classes("turn"):
            html.show(Markup("{}").format(t("edit.turn", n=n)), tag="legend")
            if not _is_simple(turn):
                JsonField(t, turn, partial(turns.__setitem__, at), self.changed)
            else:
                self._role(turn)
                self._text(t("edit.content"), turn, "content")
                if turn.get("role") == "assistant":
                    self._weight(turn)
            with ui.element("div").classes("buttons row-actions"):
                for key, act in (("edit.duplicate", self._duplicate), ("edit.remove", self._remove)):
                    button = blocks.button(t(key), partial(act, turns, at))
                    _named(button, t("edit.turn_button", word=t(key), n=n))

    def _role(self, turn: Row) -> None:
        def chosen(event: Any) -> None:
            turn["role"] = event.value
            if event.value != "assistant":
                turn.pop("weight", None)
            self.changed()
            self.redraw()

        roles = {role: role for role in dict.fromkeys([str(turn.get("role", "user")), *ROLES])}
        role = ui.select(roles, value=turn.get("role"), label=self.t("edit.role"), on_change=chosen)
        role.props("outlined dense options-dense")

    def _weight(self, turn: Row) -> None:
        def ticked(event: Any) -> None:
            turn.pop("weight", None)
            if not event.value:
                turn["weight"] = 0
            self.changed()

        ui.checkbox(self.t("edit.train"), value=turn.get("weight", 1) != 0, on_change=ticked)

    def _add_turn(self, turns: list[Any]) -> None:
        last = turns[-1].get("role") if turns and isinstance(turns[-1], dict) else ""
        turns.append({"role": "user" if last == "assistant" else "assistant", "content": ""})
        self.changed()
        self.redraw()

    def _duplicate(self, turns: list[Any], at: int) -> None:
        turns.insert(at + 1, deepcopy(turns[at]))
        self.changed()
        self.redraw()

    def _remove(self, turns: list[Any], at: int) -> None:
        del turns[at]
        self.changed()
        self.redraw()


class JsonField:
    """What has no fields of its own: calls of tools, parts, rows of other formats."""

    def __init__(
        self, t: Translator, value: Any, put: Callable[[Any], None], on_change: Callable[[], None] = lambda: None
    ) -> None:
        self.t, self.put, self.on_change, self.wanted = t, put, on_change, type(value)
        text = json.dumps(value, ensure_ascii=False, indent=2)
        self.field = ui.textarea(t("edit.json"), value=text, on_change=self.typed, validation=self.problem)
        self.field.props("outlined autogrow debounce=400 input-class=mono")

    def problem(self, text: str) -> str | None:
        try:
            return None if isinstance(json.loads(text), self.wanted) else self.t("edit.no_object")
        except (ValueError, RecursionError):
            return self.t("edit.no_json")

    def typed(self) -> None:
        if self.problem(self.field.value or "") is None:
            self.put(json.loads(self.field.value or ""))
            self.on_change()


def _lists_of(row: Row) -> Any:
    """Lists of turns with the key of their title."""
    if isinstance(row.get("messages"), list):
        yield "", row["messages"]
    if isinstance(asked := row.get("input"), dict) and isinstance(asked.get("messages"), list):
        yield "", asked["messages"]
        for name in ("preferred_output", "non_preferred_output"):
            if isinstance(row.get(name), list):
                yield name, row[name]


def _is_simple(turn: Any) -> bool:
    """Role, text and weight; anything more is edited as JSON."""
    return (
        isinstance(turn, dict)
        and turn.keys() <= {"role", "content", "weight"}
        and isinstance(turn.get("content", ""), str)
        and len(turn.get("content", "")) <= MAX_ROW
    )


def _named(button: ui.button, name: str) -> None:
    """Twenty buttons of one word are told apart by their names."""
    button.props(f'aria-label="{name}"')
