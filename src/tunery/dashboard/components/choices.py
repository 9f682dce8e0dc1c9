"""Choosing a file or a model of any number: the newest at first, then what the server finds for what is typed."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup
from nicegui import ui
from nicegui.events import GenericEventArguments

from tunery.dashboard.components import html
from tunery.dashboard.connection import Failure
from tunery.dashboard.models import Model, list_models, models_named
from tunery.dashboard.visit import BASE, Visit
from tunery.texts import Translator
from tunery.texts.amounts import size

FIRST = 50  # shown before anything is typed, and for what is typed
HASH = 12  # characters of a file's hash that are shown
MAX_NAMES = 3  # of the same weights
MAX_HELD_BYTES = 64 * 1024 * 1024  # a larger file is not read into memory whole: it is not offered where that happens

Find = Callable[[str], Awaitable[dict[str, str]]]
"""Labels by value of what holds a text."""


class Choice(ui.select):
    """A select with typing. What is chosen stays choosable, whatever the server finds next."""

    def __init__(
        self,
        visit: Visit,
        label: str,
        find: Find,
        options: dict[str, str],
        *,
        value: str | None,
        fixed: dict[str, str] | None = None,
        on_change: Callable[[], Any] | None = None,
    ) -> None:
        self.visit, self.find, self.fixed = visit, find, fixed or {}
        super().__init__(self.fixed | options, value=value, label=label, with_input=True)
        if on_change is not None:
            self.on_value_change(on_change)
        self.props("outlined dense options-dense").props(remove="fill-input hide-selected")
        self._hint(options)
        self.on("input-value", self._search, throttle=0.3, leading_events=False)

    async def _search(self, event: GenericEventArguments) -> None:
        found = await self.visit.ask(self.find(str(event.args or "")))
        if not isinstance(found, Failure):  # else the choices stay as they are
            self.offer(found)

    def offer(self, options: dict[str, str], **value: str) -> None:
        """These to choose from, besides the fixed ones and what is chosen; `value` chooses."""
        kept = {self.value: self.options[self.value]} if self.value in self.options else {}
        offered = self.fixed | options | kept
        if value or offered != self.options:  # else whoever walks through an open list by the keys would begin anew
            self.set_options(offered, **value)
        self._hint(options)

    def _hint(self, options: dict[str, str]) -> None:
        """Where there may be more than these."""
        if len(options) >= FIRST:
            self.props["hint"] = self.visit.t("choices.more")
        else:
            self.props.pop("hint", None)


class Files:
    """The training files of the project, as they were found."""

    def __init__(self, visit: Visit, *, max_bytes: int | None = None) -> None:
        self.visit, self.max_bytes = visit, max_bytes
        self.known: dict[str, dict[str, Any]] = {}
        self.has_larger = False

    async def find(self, text: str = "") -> dict[str, str]:
        page = await self.visit.connection.get("/tunery/v1/files", purpose="fine-tune", search=text, limit=FIRST)
        fitting = [file for file in page["data"] if self.max_bytes is None or file["bytes"] <= self.max_bytes]
        self.has_larger = self.has_larger or len(fitting) < len(page["data"])
        self.known |= {file["id"]: file for file in fitting}
        return {file["id"]: file_label(file, self.visit.t) for file in fitting}

    async def fetch(self, file_id: str) -> dict[str, str]:
        """One by its id, however old. Empty when there is none."""
        await self.find(file_id)
        file = self.known.get(file_id)
        return {file_id: file_label(file, self.visit.t)} if file else {}

    def labels(self) -> dict[str, str]:
        return {file_id: file_label(file, self.visit.t) for file_id, file in self.known.items()}

    def name(self, file_id: str) -> str:
        return self.known[file_id]["filename"]


def file_label(file: dict[str, Any], t: Translator) -> str:
    """Its name, and what tells it from others of that name."""
    made = datetime.fromtimestamp(file["created_at"], UTC).strftime("%Y-%m-%d %H:%M")
    rows = [] if file["num_rows"] is None else [t("datasets.rows", n=f"{file['num_rows']:,}")]
    return " · ".join([*filter(None, [file["filename"], version_text(file, t)]), *rows, size(file["bytes"]), made])


def version_text(file: dict[str, Any], t: Translator) -> str:
    """Of a file that was made by editing another; empty for all others."""
    return t("edit.number", n=file["version"]) if (file["version"] or 1) > 1 else ""


def file_cell(file: dict[str, Any] | None, t: Translator) -> str | Markup:
    """A file that was read: its name, and which version of the data it was."""
    if file is None:
        return html.DASH
    told = " · ".join(filter(None, [version_text(file, t), file["id"], (file["sha256"] or "")[:HASH]]))
    name = file["filename"]
    return html.two_lines(html.link(f"{BASE}/datasets/{file['id']}", name) if name else html.DASH, told)


class Models:
    """The models of the project, as they were found: those that are `wanted`."""

    def __init__(self, visit: Visit, first: list[Model], *, wanted: Callable[[Model], bool] = lambda _: True) -> None:
        self.visit, self.wanted = visit, wanted
        self.known = {model.name: model for model in first}

    async def find(self, text: str = "") -> dict[str, str]:
        found = filter(self.wanted, await list_models(self.visit.connection, search=text, limit=FIRST))
        found = list(found)
        self.known |= {model.name: model for model in found}
        return {model.name: model_label(model) for model in found}

    def labels(self) -> dict[str, str]:
        return {name: model_label(model) for name, model in self.known.items()}


Known = Mapping[str, Model | None] | None
"""Models by the names that are shown, None for a name that leads nowhere. None: the key may not list models."""

NOTHING: Known = {}


async def known_models(visit: Visit, names: Iterable[str], known: Known = NOTHING) -> Known:
    """`known`, and what the names lead to that are not in it: a project has too many models to ask for all."""
    new = [] if known is None else [name for name in names if name not in known]
    found = await visit.ask(models_named(visit.connection, new))
    if known is None or isinstance(found, Failure):
        return None
    return {**known, **dict.fromkeys(new), **found}


def model_label(model: Model) -> str:
    """Its names, and which weights stand under them."""
    return " · ".join(filter(None, [model.name, model.display_name, model.answering["name"]]))


def weights_line(model: Model, t: Translator, *, named: str = "") -> Markup:
    """Under a model, by `named` or its own name: what answers, and under which other names the very same does."""
    lines = [_standing(model.weights, t)]
    names = [name for name in (model.name, *model.aliases, *model.same_weights) if name != (named or model.name)]
    if model.answered_by is not None:
        lines = [t("models.answered_by", answer=_standing(model.answered_by, t), weights=model.weights["name"])]
    elif names:
        shown, more = ", ".join(names[:MAX_NAMES]), len(names) - MAX_NAMES
        lines.append(
            t("models.same_weights_more", names=shown, n=more) if more > 0 else t("models.same_weights", names=shown)
        )
    return Markup('<span title="{}">{}</span>').format(model.weights["source"], " ".join(lines))


def _standing(weights: dict[str, Any], t: Translator) -> str:
    return weights_text(weights["name"], t, is_tuned=bool(weights["adapter"]))


def weights_text(weights: str, t: Translator, *, is_tuned: bool) -> str:
    return t("models.tuned_weights" if is_tuned else "models.weights", weights=weights)


def with_weights(name: str, known: Known, t: Translator, *, href: str = "") -> Markup:
    """A name in a cell, and below it what stands under it."""
    shown = html.link(href, html.model_name(name)) if href else html.model_name(name)
    if known is None:
        return shown
    model = known.get(name)
    line = weights_line(model, t, named=name) if model else t("models.not_here")
    told = Markup('<span class="clamp" title="{}">{}</span>').format(
        line.striptags() if isinstance(line, Markup) else line, line
    )
    return html.two_lines(shown, told)
