"""Who did what to which object from where. Append-only; the newest first."""

from typing import Any

from markupsafe import Markup
from openai import omit

from tunery.dashboard.components import blocks, html
from tunery.dashboard.components.choices import NOTHING, Known, known_models, with_weights
from tunery.dashboard.components.table import Column, Page, PagedTable, Row
from tunery.dashboard.visit import Visit

PAGE = 50
OF_MODELS = ("model.", "alias.")
CORE = {"id", "type", "effective_at", "actor", "project"}  # what every entry has; the rest says what was changed


async def build(visit: Visit) -> None:
    page = AuditPage(visit)
    first = await page.fetch()
    blocks.heading(visit.t("audit.title"), visit.t("audit.subtitle"))
    if not first[0]:
        blocks.empty("fact_check", visit.t("audit.empty"), visit.t("audit.empty_text"))
        return
    page.draw(first)


class AuditPage:
    def __init__(self, visit: Visit) -> None:
        self.visit, self.t = visit, visit.t
        self.models: Known = NOTHING

    async def fetch(self, after: str = "") -> Page:
        logs = self.visit.connection.client.admin.organization.audit_logs
        every = {"every_type": "true"}  # files and jobs too, for which OpenAI's API has no name
        page = await logs.list(limit=PAGE, after=after or omit, extra_query=every)
        named = [_model_of(part) for entry in page.data if entry.type.startswith(OF_MODELS) for part in _parts(entry)]
        self.models = await known_models(self.visit, named, self.models)
        return [self.row(entry) for entry in page.data], bool(page.has_more)

    def draw(self, first: Page) -> None:
        columns = [
            Column(self.t("audit.when")),
            Column(self.t("audit.event")),
            Column(self.t("audit.actor"), wide=True),
            Column(self.t("audit.object")),
            Column(self.t("audit.address")),
        ]
        PagedTable(self.visit, self.t("audit.title"), columns, first, self.fetch)

    def row(self, entry: Any) -> Row:
        name, address = _actor(entry)
        return Row(
            entry.id,
            [
                html.when(entry.effective_at, self.t),
                self._event(entry.type),
                name,
                self._object(entry),
                html.unbroken(address or html.DASH),
            ],
        )

    def _event(self, type: str) -> str | Markup:
        """In words, and as the API names it: that is what logs are searched for."""
        word = self.t.named("audit.type", type)
        return html.two_lines(html.unbroken(word), html.code(type)) if word != type else html.code(type)

    def _object(self, entry: Any) -> str | Markup:
        """The id inside the event's own part, which carries the event's name; of a model, or of what an alias was
        pointed at, the weights too."""
        for part in _parts(entry):
            if not entry.type.startswith(OF_MODELS):
                return html.code(str(part["id"]))
            named = with_weights(_model_of(part), self.models, self.t)
            is_alias = _model_of(part) != part["id"]
            return html.two_lines(html.model_name(part["id"]), Markup("→ {}").format(named)) if is_alias else named
        return html.DASH


def _parts(entry: Any) -> list[dict[str, Any]]:
    parts = (part for name, part in entry.to_dict().items() if name not in CORE)
    return [part for part in parts if isinstance(part, dict) and part.get("id")]


def _model_of(part: dict[str, Any]) -> str:
    """The model, or what an alias was pointed at."""
    return (part.get("data") or {}).get("target") or part["id"]


def _actor(entry: Any) -> tuple[str, str]:
    """The name of who did it, and the address it came from."""
    raw = entry.actor.to_dict() if entry.actor else {}
    session = raw.get("session") or {}
    key = raw.get("api_key") or {}
    user = session.get("user") or key.get("user") or key.get("service_account") or {}
    name = user.get("email") or user.get("id") or key.get("id") or html.DASH
    return str(name), str(session.get("ip_address") or key.get("ip_address") or "")
