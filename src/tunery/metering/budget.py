"""A project's monthly budget: a mail when most of it is spent, then a hard stop."""

from typing import Any

from sqlalchemy import Connection

from tunery.domain.errors import RateLimited
from tunery.domain.limits import Limits
from tunery.domain.tenants import Role
from tunery.domain.usage import MICRO, PICO
from tunery.metering.limits import WARNING_PERCENT, month_start
from tunery.store import limits as store
from tunery.store import outbox, tenants, usage
from tunery.texts import say, with_texts

TOPIC = "budget.warning"


def check_budget(conn: Connection, project_id: str, limits: Limits, *, now: float) -> None:
    """Raises RateLimited when the month's budget is spent. Looked at before each request: requests that run at the
    same time may each go past it once."""
    if not limits.monthly_budget:
        return
    if usage.spent_since(conn, project_id, month_start(now)) >= limits.monthly_budget * MICRO:
        raise RateLimited(
            say("error.quota_exceeded"),
            type="insufficient_quota",
            code="insufficient_quota",
            headers={"x-should-retry": "false"},
        )


def warn_about_budget(conn: Connection, project_id: str, limits: Limits, *, currency: str, now: float) -> None:
    """After something was spent: one mail to each owner when the threshold is crossed, one at the end."""
    if not limits.monthly_budget:
        return
    month = month_start(now)
    spent = usage.spent_since(conn, project_id, month)
    for percent in sorted({limits.warning_percent or WARNING_PERCENT, 100}):
        crossed = spent * 100 >= limits.monthly_budget * MICRO * percent
        if crossed and store.note_warning(conn, project_id, month=month, percent=percent, now=now):
            _send(conn, project_id, _mail(conn, project_id, spent, limits.monthly_budget, percent, currency), now)


def _mail(conn: Connection, project_id: str, spent: int, budget: int, percent: int, currency: str) -> dict[str, Any]:
    name = tenants.get_project(conn, project_id).name
    text = say(
        "mail.budget.text",
        name=name,
        project=project_id,
        spent=f"{spent / PICO:,.2f}",
        budget=f"{budget / MICRO:,.2f}",
        currency=currency.upper(),
        end=say("mail.budget.refused") if percent >= 100 else say("mail.budget.ahead"),
    )
    return with_texts({"subject": say("mail.budget.subject", name=name, percent=percent), "text": text})


def _send(conn: Connection, project_id: str, payload: dict[str, Any], now: float) -> None:
    organization_id = tenants.get_project(conn, project_id).organization_id
    people = tenants.list_users(conn, organization_id, limit=1000).items
    members = tenants.list_members(conn, project_id, limit=1000).items
    owners = {user.email for user in people if user.role is Role.OWNER}
    owners |= {member.user.email for member in members if member.role is Role.OWNER}
    for address in sorted(owner for owner in owners if owner):
        outbox.insert_outbox(conn, "email", TOPIC, payload, project_id=project_id, now=now, recipient=address)
