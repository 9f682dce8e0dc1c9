"""Policy of limits. Every change is in the audit log as rate_limit.updated."""

from dataclasses import replace
from typing import Any

from sqlalchemy import Connection

from tunery.api.context import Context
from tunery.api.keys.service import get_key
from tunery.api.trail import Operator, record
from tunery.domain.errors import InvalidRequest, NotFound
from tunery.domain.limits import Limits
from tunery.domain.usage import MICRO
from tunery.metering.limits import month_start, project_limits
from tunery.store import limits as store
from tunery.store import tenants
from tunery.store.database import read, write
from tunery.store.storage import Stored, stored_bytes
from tunery.store.usage import spent_since
from tunery.texts import say

CENT = MICRO // 100
RATE_LIMIT = "rl-all-models"  # limits are a project's, whatever the model


def own_limits(context: Context, operator: Operator, project_id: str) -> Limits:
    with read(context.database) as conn:
        return _own(conn, operator, project_id)


def effective_limits(context: Context, operator: Operator, project_id: str) -> Limits:
    with read(context.database) as conn:
        _own(conn, operator, project_id)
        return project_limits(conn, context.settings, project_id)


def spent_this_month(context: Context, project_id: str) -> int:
    """Millionths of the currency, rounded down."""
    with read(context.database) as conn:
        return spent_since(conn, project_id, month_start(context.clock())) // MICRO


def stored(context: Context, project_id: str) -> Stored:
    with read(context.database) as conn:
        return stored_bytes(conn, project_id)


def _own(conn: Connection, operator: Operator, project_id: str) -> Limits:
    tenants.get_project(conn, project_id, operator.organization_id)
    return store.get_limits(conn, project_id).get(project_id, Limits())


def change_limits(context: Context, operator: Operator, project_id: str, changes: dict[str, Any]) -> Limits:
    """`changes` by the names of Limits; those not named stay."""
    with write(context.database) as conn:
        tenants.get_active_project(conn, project_id, operator.organization_id)
        limits = replace(_own(conn, operator, project_id), **changes)
        store.set_limits(conn, project_id, limits, context.clock())
        record(
            conn,
            operator,
            "rate_limit.updated",
            now=context.clock(),
            resource_id=project_id,
            project_id=project_id,
            details={"changes_requested": changes},
        )
    return limits


def get_key_limits(context: Context, operator: Operator, project_id: str, key_id: str) -> Limits:
    get_key(context, operator, project_id, key_id)
    with read(context.database) as conn:
        return store.get_limits(conn, key_id).get(key_id, Limits())


def set_key_limits(
    context: Context, operator: Operator, project_id: str, key_id: str, changes: dict[str, Any]
) -> Limits:
    get_key(context, operator, project_id, key_id)
    with write(context.database) as conn:
        tenants.get_active_project(conn, project_id, operator.organization_id)
        limits = replace(store.get_limits(conn, key_id).get(key_id, Limits()), **changes)
        store.set_limits(conn, key_id, limits, context.clock())
        record(
            conn,
            operator,
            "rate_limit.updated",
            now=context.clock(),
            resource_id=key_id,
            project_id=project_id,
            details={"changes_requested": changes},
        )
    return limits


def check_rate_limit_id(rate_limit_id: str) -> None:
    if rate_limit_id != RATE_LIMIT:
        raise NotFound(
            say("error.no_such_rate_limit", rate_limit_id=rate_limit_id, rate_limit=RATE_LIMIT),
            param="rate_limit_id",
        )


def get_budget(context: Context, operator: Operator, project_id: str) -> int:
    """Millionths. Raises NotFound when the project has none of its own."""
    budget = own_limits(context, operator, project_id).monthly_budget
    if not budget:
        raise NotFound(say("error.no_spend_limit"), param="project_id")
    return budget


def set_budget(context: Context, operator: Operator, project_id: str, *, cents: int, currency: str) -> int:
    if currency.lower() != context.prices.currency:
        raise InvalidRequest(
            say("error.other_currency", upper=context.prices.currency.upper(), currency=currency),
            param="currency",
        )
    change_limits(context, operator, project_id, {"monthly_budget": cents * CENT})
    return cents * CENT


def delete_budget(context: Context, operator: Operator, project_id: str) -> None:
    get_budget(context, operator, project_id)
    change_limits(context, operator, project_id, {"monthly_budget": None})
