"""Where mail goes, as the server's settings say, and what became of the organisation's mail."""

from typing import Any

from markupsafe import Markup
from nicegui import ui

from tunery.dashboard.components import blocks, html
from tunery.dashboard.components.table import Column, Page, PagedTable, Row
from tunery.dashboard.visit import Visit

PATH = "/tunery/v1/organization/mail"
PAGE = 50
CHIPS = {"pending": "queued", "delivered": "delivered", "dead": "failed"}


async def build(visit: Visit) -> None:
    page = MailPage(visit)
    settings = await visit.connection.get(f"{PATH}/settings")
    first = await page.fetch()
    blocks.heading(visit.t("mails.title"), visit.t("mails.subtitle"))
    page.draw(settings, first)


class MailPage:
    def __init__(self, visit: Visit) -> None:
        self.visit, self.t = visit, visit.t

    async def fetch(self, after: str = "") -> Page:
        page = await self.visit.connection.get(PATH, limit=PAGE, after=after)
        return [self.row(mail) for mail in page["data"]], page["has_more"]

    def draw(self, settings: dict[str, Any], first: Page) -> None:
        self._draw_settings(settings)
        if not first[0]:
            blocks.empty("mail", self.t("mails.empty"), self.t("mails.empty_text"))
            return
        columns = [
            Column(self.t("jobs.status")),
            Column(self.t("mails.recipient"), wide=True),
            Column(self.t("mails.about")),
            Column(self.t("webhooks.attempts"), numeric=True),
            Column(self.t("audit.when")),
        ]
        PagedTable(self.visit, self.t("mails.sent"), columns, first, self.fetch)

    def _draw_settings(self, settings: dict[str, Any]) -> None:
        t = self.t
        with blocks.panel(t("mails.settings")):
            if settings["host"] is None:
                blocks.note(t("mails.no_server", folder=settings["folder"]), kind="warn")
                html.show(Markup("<pre class='code'>{}</pre>").format("\n".join(EXAMPLE)))
                return
            server = f"{settings['host']}:{settings['port']}"
            facts = [(t("mails.server"), server), (t("mails.security"), settings["security"].upper())]
            html.show(html.facts([*facts, (t("mails.sender"), settings["sender"])]))
            ui.label(t("mails.settings_text")).classes("muted small")

    def row(self, mail: dict[str, Any]) -> Row:
        error = self.t.word(mail, "error")
        recipient = html.two_lines(mail["recipient"], error) if error else mail["recipient"]
        about = self.t.named("event_type", mail["topic"])
        chip = html.status_chip(CHIPS[mail["status"]], self.t)
        return Row(
            mail["id"],
            [chip, recipient, about, html.number(mail["attempts"]), html.when(mail["created_at"], self.t)],
        )


EXAMPLE = (
    "TUNERY_SMTP_HOST=mail.example.com",
    "TUNERY_SMTP_PORT=587",
    "TUNERY_SMTP_SECURITY=starttls",
    "TUNERY_SMTP_USERNAME=tunery",
    "TUNERY_SMTP_PASSWORD=…",
    "TUNERY_SMTP_FROM=tunery@example.com",
)
