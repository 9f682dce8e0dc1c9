"""What could make a finished job's model better: four proposals, each with price and time before it starts, its jobs
while they run, and what was found."""

from typing import Any

from markupsafe import Markup
from nicegui import ui

from tunery.dashboard.components import blocks, html
from tunery.dashboard.components.poll import Poll
from tunery.dashboard.components.table import Column, Row, Table
from tunery.dashboard.connection import Failure
from tunery.dashboard.improve import running
from tunery.dashboard.improve.results import show_found, worded
from tunery.dashboard.improve.running import Improvement, Proposal
from tunery.dashboard.visit import BASE, Visit
from tunery.domain.errors import InvalidRequest
from tunery.domain.jobs import TERMINAL, JobStatus
from tunery.improve.asking import NUM_ASKED
from tunery.improve.proposals import Forecast, What

Json = dict[str, Any]


async def build(visit: Visit) -> None:
    t, job_id = visit.t, visit.param("job_id")
    job = await visit.connection.get(f"/tunery/v1/jobs/{job_id}")
    back = html.button_link(f"{BASE}/jobs/{job_id}", t("improve.to_job"), symbol="arrow_back")
    blocks.heading(t("improve.title"), t("improve.subtitle", name=_name(job)), actions=back)
    if job["status"] != JobStatus.SUCCEEDED:
        blocks.empty("auto_awesome", t("improve.too_early"), t("improve.too_early_text"))
        return
    page = ImprovePage(visit, await running.of(visit.connection, job_id), job)
    ui.timer(0, page.forecast, once=True)  # files are read for it: the page is there before


def _name(job: Json) -> str:
    return job["display_name"] or job["fine_tuned_model"] or job["id"]


class ImprovePage:
    def __init__(self, visit: Visit, improvement: Improvement, job: Json) -> None:
        self.visit, self.t, self.improvement, self.job = visit, visit.t, improvement, job
        with ui.element("div").classes("stack") as self.pace:
            self.pace_text = ui.label().classes("muted")
            self.measure_button = blocks.button(self.t("improve.measure"), self.measure, symbol="timer")
        self.pace.visible = False
        self.panels = {what: Panel(self, what) for what in What}
        self.poll = Poll(self.look)
        self.poll.stop()

    async def forecast(self) -> None:
        """Of all, since what one makes another may use."""
        found = await self.visit.ask(self.improvement.forecasts())
        if isinstance(found, Failure):
            for panel in self.panels.values():
                panel.refuse(found)
            return
        for what, panel in self.panels.items():
            panel.tell(found[what])
        await self._offer(any(isinstance(each, Forecast) and not each.is_timed for each in found.values()))
        if await self.look():
            self.poll.again()

    async def _offer(self, is_unknown: bool) -> None:
        """To measure how long models take, which costs a little."""
        self.pace.visible = False
        if is_unknown:
            price = await self.visit.ask(self.improvement.price_of_pace())
            if not isinstance(price, Failure):
                cost = html.money(price.cost, price.currency)
                self.pace_text.set_text(self.t("improve.measure_text", n=NUM_ASKED, cost=cost))
                self.pace.visible = True

    async def measure(self) -> None:
        self.measure_button.disable()
        await self.visit.attempt(self.improvement.measure())
        self.measure_button.enable()
        await self.forecast()

    async def start(self, what: What) -> None:
        self.improvement.start(what)
        await self.look()
        self.poll.again()

    async def look(self) -> bool:
        """Whether to look again."""
        ended = [panel for panel in self.panels.values() if panel.show()]
        if ended:
            await self.forecast()
        return any(not proposal.is_over for proposal in self.improvement.proposals.values())


class Panel:
    """Of one proposal."""

    def __init__(self, page: ImprovePage, what: What) -> None:
        self.page, self.t, self.what = page, page.t, what
        self.shown: Proposal | None = None  # that is told with its end
        t = self.t
        with blocks.panel(t(f"improve.{what}")):
            ui.label(t(f"improve.{what}_text")).classes("muted")
            self.price = html.show(Markup('<span class="muted">{}</span>').format(t("improve.reckoning")))
            self.button = blocks.button(t("improve.start"), self.start, primary=True, symbol="play_arrow")
            self.button.disable()
            with ui.element("div").classes("stack").props("aria-live=polite") as self.work:
                columns = [Column(t("improve.part"), wide=True), Column(t("jobs.status")), Column(t("job.progress"))]
                self.jobs = Table(t("improve.jobs"), columns)
                self.doing = ui.label(t("improve.asking")).classes("muted")
            self.work.visible = False
            self.found = ui.element("div").classes("stack")

    def tell(self, forecast: Forecast | InvalidRequest) -> None:
        """What it would take, before it starts."""
        t = self.t
        if isinstance(forecast, InvalidRequest):
            self.price.set_content(Markup("<p>{}</p>").format(t.reword(forecast.message, forecast.text)))
            self.button.visible = False
            return
        parts, price = forecast.parts, forecast.price
        names = ", ".join(worded(part.name, t) for part in parts)
        jobs = t("improve.new_jobs", n=len(parts), names=names) if parts else t("improve.no_new_jobs")
        cost = t("improve.at_most", cost=html.money(price.cost, price.currency))
        facts = [(t("improve.jobs"), jobs), (t("improve.price"), cost)]
        facts.append((t("job.time"), self._time(forecast)))
        self.price.set_content(html.facts(list(facts)))
        self.button.enable()

    def _time(self, forecast: Forecast) -> str:
        time = html.time_range(forecast.price.min_s, forecast.price.max_s, self.t)
        if forecast.is_timed:
            return time
        return self.t("improve.untimed", time=time) if forecast.parts else self.t("improve.only_questions")

    def refuse(self, failure: Failure) -> None:
        self.price.set_content(Markup("<p>{}</p>").format(failure.message(self.t)))
        self.button.visible = False

    async def start(self) -> None:
        await self.page.start(self.what)

    def show(self) -> bool:
        """Whether it has ended since the last look."""
        proposal = self.page.improvement.proposals.get(self.what)
        if proposal is None or proposal is self.shown:
            return False
        self.price.visible = self.button.visible = proposal.is_over and proposal.failure is not None
        self.work.visible = not proposal.is_over
        self.jobs.update([self.row(*pair) for pair in zip(proposal.names, proposal.jobs, strict=False)])
        self.doing.visible = bool(proposal.jobs) and all(job["status"] in TERMINAL for job in proposal.jobs)
        if not proposal.is_over:
            self.found.clear()
            return False
        self.shown = proposal
        self.found.clear()
        with self.found:
            if proposal.failure is not None:
                blocks.note(self.why(proposal.failure), kind="bad")
            else:
                show_found(self.page.job, proposal.found, self.t)
        return True

    def row(self, part: str, job: Json) -> Row:
        link = html.link(f"{BASE}/jobs/{job['id']}", worded(part, self.t))
        state = html.status_chip(job["status"], self.t)
        return Row(job["id"], [link, state, html.progress(job["step"], job["total_steps"], self.t)])

    def why(self, failure: Failure) -> str:
        error = failure.error
        return (
            self.t.reword(error.message, error.text) if isinstance(error, InvalidRequest) else failure.message(self.t)
        )
