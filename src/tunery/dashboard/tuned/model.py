"""One tuned model: what it was made of, what it came to, how it is used, its card, who may use it, and its end."""

from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from markdown_it import MarkdownIt
from markupsafe import Markup
from nicegui import ui

from tunery.dashboard.components import blocks, html
from tunery.dashboard.components.chart import bars
from tunery.dashboard.components.choices import HASH, file_cell
from tunery.dashboard.components.metrics import LOSSES, METRICS, metric_label
from tunery.dashboard.components.poll import Poll
from tunery.dashboard.components.table import Column, Row, Table
from tunery.dashboard.connection import Failure
from tunery.dashboard.models import playground_path
from tunery.dashboard.tuned.page import model_path
from tunery.dashboard.tuned.sharing import Sharing
from tunery.dashboard.visit import BASE, Visit
from tunery.dashboard.weights.exports import Exports
from tunery.texts.amounts import size

MAX_CARD = 50_000
POLL_S = 5.0
TOP = 3  # the level of a card's own first heading: the page and its panel have those above
# Without HTML of the writer's, and without pictures, which would be fetched from elsewhere.
_cards = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")


async def build(visit: Visit) -> None:
    page = ModelPage(visit)
    await page.load()
    await page.draw()


class ModelPage:
    def __init__(self, visit: Visit) -> None:
        self.visit, self.t, self.name = visit, visit.t, visit.param("name")
        self.path = f"/tunery/v1/models/{quote(self.name, safe=':')}"
        self.facts: dict[str, Any] = {}
        self.is_owner = False

    async def load(self) -> None:
        self.facts = await self.visit.connection.get(self.path)

    # ---- the page
    async def draw(self) -> None:
        t = self.t
        who = await self.visit.ask(self.visit.connection.get("/tunery/v1/session"))
        self.is_owner = not isinstance(who, Failure) and who["is_owner"]
        self.gone = ui.element("div").classes("stack").props("role=alert")
        self._draw_head()
        self.tiles = html.show("").classes("tiles")
        with blocks.panel(t("models.card")):
            self.card = html.show("").classes("card")
            if self.facts["is_own"]:
                blocks.button(t("models.write_card"), self.ask_words, symbol="edit")
        with ui.element("div").classes("columns"):
            with blocks.panel(t("models.made_of")):
                self.made_of = html.show("")
            with blocks.panel(t("models.came_to")):
                self.came_to = html.show("")
        with blocks.panel(t("models.evaluations")) as self.runs_panel:
            columns = [
                Column(t("models.evaluation"), wide=True),
                Column(t("jobs.status")),
                Column(t("models.passed")),
                Column(t("jobs.created")),
            ]
            self.runs = Table(t("models.evaluations"), columns)
        with blocks.panel(t("models.usage")):
            self.usage = ui.element("div")
        with blocks.panel(t("job.checkpoints")) as self.checkpoint_panel:
            columns = [
                Column(t("job.step"), numeric=True),
                Column(t("jobs.model"), wide=True),
                Column(t("action.open")),
            ]
            self.checkpoints = Table(t("job.checkpoints"), columns)
        self.exports = Exports(self.visit)
        if self.facts["is_own"]:
            await Sharing(self.visit, self.name, who if isinstance(who, dict) else {}, self.is_owner).draw()
        self.shown_usage: Any = None
        self.show()
        await self.exports.show([self.name])
        Poll(self.refresh, every_s=POLL_S)

    def _draw_head(self) -> None:
        t, facts = self.t, self.facts
        with ui.element("div").classes("heading"):
            self.title = html.show("")
            with ui.element("div").classes("buttons") as self.buttons:
                play = playground_path(facts["base"], self.name)
                html.show(html.button_link(play, t("job.play"), primary=True, symbol="forum"))
                if facts["training"]:
                    go_on = f"{BASE}/jobs/new?model={quote(self.name, safe='')}"
                    html.show(html.button_link(go_on, t("models.go_on"), symbol="tune"))
                blocks.button(t("export.button"), lambda: self.exports.ask(), symbol="download")
                if facts["is_own"]:
                    blocks.button(t("job.rename"), self.ask_words, symbol="edit")
                if facts["is_own"] and self.is_owner:
                    blocks.button(t("action.delete"), self.ask_delete, danger=True, symbol="delete")

    def show(self) -> None:
        t, facts = self.t, self.facts
        names = [self.name, *facts["aliases"]] if facts["display_name"] else facts["aliases"]
        shared = "" if facts["is_own"] else t("models.shared_with_you")
        self.title.set_content(
            Markup('<h1>{}</h1><p>{}</p><p class="muted small">{} {}</p>').format(
                html.model_name(facts["display_name"] or self.name),
                Markup(" ").join(html.code(name) for name in names),
                t("models.tuned_weights", weights=facts["weights"]["name"]),
                shared,
            )
        )
        self.tiles.set_content(html.tiles_markup(self._tiles()))
        nothing = Markup('<p class="muted">{}</p>').format(t("models.no_card"))
        self.card.set_content(as_markup(facts["card"]) if facts["card"] else nothing)
        self.made_of.set_content(self._made_of())
        self.came_to.set_content(self._came_to())
        self.runs.update([self._run_row(run) for run in facts["evaluations"]])
        self.runs_panel.visible = bool(facts["evaluations"])
        self.checkpoints.update([self._checkpoint_row(each) for each in facts["checkpoints"]])
        self.checkpoint_panel.visible = bool(facts["checkpoints"])
        self._show_usage()

    def _tiles(self) -> list[tuple[str, str | Markup, str]]:
        t, days, price = self.t, self.facts["usage"], self.facts["price"]
        counted = ("num_requests", "input_tokens", "output_tokens", "cost")
        total = {name: sum(day[name] for day in days) for name in counted}
        read, written = (html.money(price[name], price["currency"]) for name in ("input", "output"))
        return [
            (t("models.requests"), html.number(total["num_requests"]), t("models.days")),
            (t("models.tokens"), html.number(total["input_tokens"] + total["output_tokens"]), t("models.days")),
            (t("job.cost"), html.money(total["cost"], price["currency"]), t("models.days")),
            (t("models.price"), f"{read} / {written}", t("models.price_text")),
        ]

    def _made_of(self) -> Markup:
        t, facts, job = self.t, self.facts, self.facts["made_by"]
        hashes = [f"{name}: {sha256[:HASH]}" for name, sha256 in (facts["base_sha256"] or {}).items()]
        pairs: list[tuple[str, str | Markup]] = [
            (t("jobs.base"), html.two_lines(html.model_name(facts["base"]), facts["weights"]["name"])),
            (t("models.hash"), Markup("<br>").join(map(html.code, hashes)) if hashes else html.DASH),
            (t("models.adapter"), size(facts["num_bytes"]) if facts["num_bytes"] else html.DASH),
        ]
        if job is not None:
            started = html.model_name(job["model"])
            pairs += [
                (t("models.job"), html.link(f"{BASE}/jobs/{job['id']}", job["display_name"] or job["id"])),
                (
                    t("models.started_from"),
                    html.link(model_path(job["model"]), started) if job["model"].startswith("ft:") else started,
                ),
                (t("create.training"), file_cell(job["training_file"], t)),
                (t("create.validation"), file_cell(job["validation_file"], t)),
                (t("create.method"), t(f"method.{job['method']}")),
                *((t(f"create.{name}"), html.number(value)) for name, value in job["hyperparameters"].items()),
            ]
        return html.facts([*pairs, (t("jobs.created"), html.when(facts["created_at"], t))])

    def _came_to(self) -> Markup:
        """Losses and accuracies where its checkpoint was made."""
        t, job = self.t, self.facts["made_by"]
        if job is None:
            return Markup('<p class="muted">{}</p>').format(t("models.imported"))
        pairs: list[tuple[str, str | Markup]] = [
            (metric_label(name, t), f"{value:.4f}" if name in LOSSES else f"{100 * value:.1f} %")
            for name, value in job["metrics"].items()
            if name in METRICS
        ]
        pairs += [
            (t("job.tokens"), html.number(job["trained_tokens"])),
            (t("job.cost"), html.money(job["cost"], self.facts["price"]["currency"])),
        ]
        return html.facts(pairs)

    def _run_row(self, run: dict[str, Any]) -> Row:
        t, share = self.t, run["share"]
        name = html.link(f"{BASE}/evals/{run['eval_id']}?run_id={run['run_id']}", run["eval_name"] or run["eval_id"])
        passed = t("evals.of_rows", n=f"{run['passed']:,}", total=f"{run['graded']:,}")
        interval = {end: f"{100 * share[end]:.1f}" for end in ("mean", "low", "high")}
        return Row(
            run["run_id"],
            [
                name,
                html.status_chip(run["status"], t),
                html.two_lines(t("evaluation.interval", **interval), passed) if run["graded"] else html.DASH,
                html.when(run["created_at"], t),
            ],
        )

    def _checkpoint_row(self, each: dict[str, Any]) -> Row:
        link = html.link(model_path(each["name"]), html.model_name(each["name"]))
        play = html.link(playground_path(self.name, each["name"]), self.t("job.play"))
        return Row(each["name"], [html.number(each["step_number"]), link, play])

    def _show_usage(self) -> None:
        days = self.facts["usage"]
        if days == self.shown_usage:
            return
        self.shown_usage = days
        self.usage.clear()
        with self.usage:
            if not any(day["num_requests"] for day in days):
                ui.label(self.t("models.unused")).classes("muted")
                return
            named = [datetime.fromtimestamp(day["start_time"], UTC).strftime("%m-%d") for day in days]
            stacks: dict[str, list[float]] = {
                self.t("usage.input"): [day["input_tokens"] - day["cached_tokens"] for day in days],
                self.t("usage.cached"): [day["cached_tokens"] for day in days],
                self.t("usage.output"): [day["output_tokens"] for day in days],
            }
            bars(self.t, self.t("models.usage"), named, stacks)

    # ---- what is done
    async def refresh(self) -> bool:
        """Whether to look again: not once the model is no more, which is told here."""
        found = await self.visit.ask(self.load())
        if isinstance(found, Failure):
            if found.status == 404:
                self._tell_gone()
            return found.status != 404
        self.show()
        return True

    def _tell_gone(self) -> None:
        """What the page shows stays, to be read; there is nothing left to act on."""
        self.buttons.visible = False
        self.gone.clear()
        with self.gone:
            blocks.note(self.t("models.gone"), kind="warn")
            html.show(html.button_link(f"{BASE}/models", self.t("error.to_list", name=self.t("nav.models"))))

    def ask_words(self) -> None:
        """The dialog stays, with what was typed, until the server has it."""
        t = self.t
        with blocks.dialog_box(t("job.rename")) as dialog:
            name = ui.input(t("create.display_name"), value=self.facts["display_name"] or "")
            name.props("outlined dense maxlength=200")
            card = ui.textarea(t("models.card"), value=self.facts["card"] or "")
            card.props(f"outlined dense autogrow maxlength={MAX_CARD}").props(f'hint="{t("models.card_hint")}"')

            async def save() -> None:
                words = {"display_name": (name.value or "").strip() or None, "card": (card.value or "").strip() or None}
                if await self.visit.attempt(self.visit.connection.post(self.path, words), done=t("action.saved")):
                    dialog.close()
                    await self.refresh()

            with ui.element("div").classes("buttons end"):
                blocks.button(t("action.back"), dialog.close)
                blocks.button(t("action.save"), save, primary=True)
        dialog.open()

    async def ask_delete(self) -> None:
        """With what depends on it as of now."""
        t = self.t
        if isinstance(await self.visit.result_of(self.load()), Failure):
            await self.refresh()
            return
        with blocks.dialog_box(t("models.delete_title")) as dialog:
            ui.label(t("models.delete_text"))
            for sentence in self._what_depends():
                blocks.note(sentence, kind="warn")

            async def delete() -> None:
                dialog.close()
                if await self.visit.attempt(self.visit.connection.client.models.delete(self.name)):
                    ui.navigate.to("/models")

            with ui.element("div").classes("buttons end"):
                blocks.button(t("action.back"), dialog.close)
                blocks.button(t("action.delete"), delete, danger=True)
        dialog.open()

    def _what_depends(self) -> list[str]:
        t, known = self.t, self.facts["dependents"]
        going_on = [job["display_name"] or job["id"] for job in known["jobs"]]
        told = {
            "models.depend_aliases": ", ".join(known["aliases"]),
            "models.depend_jobs": ", ".join(going_on),
            "models.depend_runs": html.number(known["num_unfinished_runs"] or None),
            "models.depend_projects": html.number(known["num_projects"] or None),
        }
        return [t(key, names=what) for key, what in told.items() if what not in ("", html.DASH)]


def as_markup(card: str) -> Markup:
    """Of Markdown that people wrote."""
    tokens = _cards.parse(card)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1]) + TOP - 1)}"
    return Markup(_cards.renderer.render(tokens, _cards.options, {}))
