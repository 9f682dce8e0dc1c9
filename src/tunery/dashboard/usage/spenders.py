"""Cost by key and by person; apart because names of keys and their owners come from elsewhere than the sums."""

import asyncio
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from tunery.dashboard.components import blocks, html
from tunery.dashboard.components.table import Column, Row, Table
from tunery.dashboard.visit import Visit

PAGE = 100  # of keys and users in one request; all are fetched


@dataclass(frozen=True)
class Spender:
    """Of a key in a project: `key` and `owner` are names, or the ids where no name is left."""

    key_id: str
    key: str
    owner_id: str
    owner: str
    amount: float


async def fetch_spenders(visit: Visit, start: int, days: int) -> list[Spender]:
    organization = visit.connection.client.admin.organization
    groups: Any = ["project_id", "user_id", "api_key_id"]
    costs: Any = await organization.usage.costs(start_time=start, bucket_width="1d", group_by=groups, limit=days)
    sums: dict[tuple[str, str, str], float] = defaultdict(float)
    for bucket in costs.data:
        for result in bucket.results:
            user = str(result.to_dict().get("user_id") or "")
            sums[result.project_id or "", user, result.api_key_id or ""] += result.amount.value or 0
    projects = {project for project, _, key in sums if project and key}
    users = await _users(visit)
    keys = await asyncio.gather(*(_keys(visit, project) for project in sorted(projects)))
    known = {key.id: key for some in keys for key in some}
    return [_spender(user, key_id, known.get(key_id), users, amount) for (_, user, key_id), amount in sums.items()]


async def _users(visit: Visit) -> dict[str, str]:
    users = visit.connection.client.admin.organization.users
    return {user.id: user.name or user.email or user.id async for user in users.list(limit=PAGE)}


async def _keys(visit: Visit, project: str) -> list[Any]:
    keys = visit.connection.client.admin.organization.projects.api_keys
    return [key async for key in keys.list(project, limit=PAGE)]


def _spender(user: str, key_id: str, key: Any, users: dict[str, str], amount: float) -> Spender:
    """A key of a service account has no user: the account stands for the person."""
    account = key.owner.service_account if key else None
    owner_id = user or (account.id if account else "")
    owner = users.get(user, user) or (account.name if account else "")
    return Spender(key_id, (key.name if key else "") or key_id, owner_id, owner, amount)


def show_spenders(visit: Visit, spenders: list[Spender], currency: str) -> None:
    t = visit.t
    cost = Column(t("job.cost"), numeric=True)
    people: dict[str, tuple[str, float]] = {}
    for each in spenders:
        people[each.owner_id] = (each.owner, each.amount + people.get(each.owner_id, ("", 0.0))[1])
    nobody = t("usage.nobody")
    with blocks.panel(t("usage.by_person")):
        rows = [
            Row(owner_id or "-", [owner or nobody, html.money(amount, currency)])
            for owner_id, (owner, amount) in sorted(people.items(), key=lambda item: -item[1][1])
        ]
        Table(t("usage.by_person"), [Column(t("usage.person"), wide=True), cost], rows)
    with blocks.panel(t("usage.by_key")):
        rows = [
            Row(
                f"{each.key_id} {each.owner_id}",
                [each.key or html.DASH, each.owner or nobody, html.money(each.amount, currency)],
            )
            for each in sorted(spenders, key=lambda each: -each.amount)
        ]
        Table(t("usage.by_key"), [Column(t("keys.name"), wide=True), Column(t("keys.owner")), cost], rows)
