"""What a project or a key may use. Every change is in the audit log as rate_limit.updated."""

from dataclasses import asdict, replace
from typing import Any

from sqlalchemy import Connection

from tunery.api.access import Admin
from tunery.api.context import Context, ContextDep
from tunery.api.keys.routes import project_key
from tunery.api.limits.schemas import (
    UNLIMITED,
    Enforcement,
    KeyLimitsBody,
    KeyLimitsOut,
    LimitsBody,
    LimitsOut,
    RateLimitOut,
    RateLimitUpdate,
    SpendLimitDeleted,
    SpendLimitOut,
    SpendLimitUpdate,
    StoredOut,
)
from tunery.api.paging import After, CursorListing, Limit
from tunery.api.routing import Router
from tunery.domain.errors import InvalidRequest, NotFound
from tunery.domain.limits import Limits
from tunery.domain.tenants import Caller
from tunery.domain.usage import MICRO
from tunery.metering.limits import month_start, project_limits
from tunery.store import limits as store
from tunery.store import tenants
from tunery.store.audit import record
from tunery.store.database import read, write
from tunery.store.paging import Page
from tunery.store.storage import stored_bytes
from tunery.store.usage import spent_since
from tunery.texts import say

router = Router(tags=["Limits"])

PROJECT = "/v1/organization/projects/{project_id}"
OURS = "/tunery/v1/organization/projects/{project_id}"
CENT = MICRO // 100
RATE_LIMIT = "rl-all-models"  # limits are a project's, whatever the model


def _own(conn: Connection, caller: Caller, project_id: str) -> Limits:
    tenants.get_project(conn, project_id, caller.organization_id)
    return store.get_limits(conn, project_id).get(project_id, Limits())


def _change(
    conn: Connection, context: Context, caller: Caller, project_id: str, subject_id: str, changed: dict[str, Any]
) -> Limits:
    """Of a project or of one of its keys. `changed` by the names of Limits; those not named stay."""
    now = context.clock()
    tenants.get_active_project(conn, project_id, caller.organization_id)
    limits = replace(store.get_limits(conn, subject_id).get(subject_id, Limits()), **changed)
    store.set_limits(conn, subject_id, limits, now)
    event = "rate_limit.updated"
    record(conn, caller, event, now=now, resource_id=subject_id, project_id=project_id, changed=changed)
    return limits


def _spent_this_month(conn: Connection, context: Context, project_id: str) -> int:
    """Millionths of the currency, rounded down."""
    return spent_since(conn, project_id, month_start(context.clock())) // MICRO


# ---- OpenAI's rate limits
@router.get(PROJECT + "/rate_limits")
def list_rate_limits(
    project_id: str,
    caller: Admin,
    context: ContextDep,
    after: After = None,
    before: After = None,
    limit: Limit = 100,
) -> CursorListing[RateLimitOut]:
    with read(context.database) as conn:
        found = _rate_limit(conn, context, caller, project_id)
    return CursorListing[RateLimitOut].of(Page(() if after or before or not limit else (found,)), lambda item: item)


@router.post(PROJECT + "/rate_limits/{rate_limit_id}")
def update_rate_limit(
    project_id: str,
    rate_limit_id: str,
    caller: Admin,
    context: ContextDep,
    body: RateLimitUpdate | None = None,
) -> RateLimitOut:
    wanted = body or RateLimitUpdate()
    named = {
        "requests_per_minute": wanted.max_requests_per_1_minute,
        "tokens_per_minute": wanted.max_tokens_per_1_minute,
    }
    changed = {name: value for name, value in named.items() if value is not None}
    with write(context.database) as conn:
        tenants.get_project(conn, project_id, caller.organization_id)
        if rate_limit_id != RATE_LIMIT:
            raise NotFound(
                say("error.no_such_rate_limit", rate_limit_id=rate_limit_id, rate_limit=RATE_LIMIT),
                param="rate_limit_id",
            )
        if changed:
            _change(conn, context, caller, project_id, project_id, changed)
        return _rate_limit(conn, context, caller, project_id)


def _rate_limit(conn: Connection, context: Context, caller: Caller, project_id: str) -> RateLimitOut:
    tenants.get_project(conn, project_id, caller.organization_id)
    limits = project_limits(conn, context.settings, project_id)
    return RateLimitOut(
        id=RATE_LIMIT,
        model="*",
        max_requests_per_1_minute=limits.requests_per_minute or UNLIMITED,
        max_tokens_per_1_minute=limits.tokens_per_minute or UNLIMITED,
    )


# ---- OpenAI's spend limit
@router.get(PROJECT + "/spend_limit")
def retrieve_spend_limit(project_id: str, caller: Admin, context: ContextDep) -> SpendLimitOut:
    with read(context.database) as conn:
        return _spend_limit(conn, context, project_id, _budget(conn, caller, project_id))


@router.post(PROJECT + "/spend_limit")
def update_spend_limit(project_id: str, body: SpendLimitUpdate, caller: Admin, context: ContextDep) -> SpendLimitOut:
    own = context.prices.currency
    if body.currency.lower() != own:
        raise InvalidRequest(say("error.other_currency", upper=own.upper(), currency=body.currency), param="currency")
    budget = body.threshold_amount * CENT
    with write(context.database) as conn:
        _change(conn, context, caller, project_id, project_id, {"monthly_budget": budget})
        return _spend_limit(conn, context, project_id, budget)


@router.delete(PROJECT + "/spend_limit")
def delete_spend_limit(project_id: str, caller: Admin, context: ContextDep) -> SpendLimitDeleted:
    with write(context.database) as conn:
        _budget(conn, caller, project_id)
        _change(conn, context, caller, project_id, project_id, {"monthly_budget": None})
    return SpendLimitDeleted()


def _budget(conn: Connection, caller: Caller, project_id: str) -> int:
    """Millionths. Raises NotFound when the project has none of its own."""
    budget = _own(conn, caller, project_id).monthly_budget
    if not budget:
        raise NotFound(say("error.no_spend_limit"), param="project_id")
    return budget


def _spend_limit(conn: Connection, context: Context, project_id: str, budget: int) -> SpendLimitOut:
    is_spent = _spent_this_month(conn, context, project_id) >= budget
    return SpendLimitOut(
        currency=context.prices.currency.upper(),
        threshold_amount=budget // CENT,
        enforcement=Enforcement(status="enforcing" if is_spent else "inactive"),
    )


# ---- ours, which hold everything
@router.get(OURS + "/limits")
def retrieve_limits(project_id: str, caller: Admin, context: ContextDep) -> LimitsOut:
    with read(context.database) as conn:
        return _limits(conn, context, caller, project_id)


@router.post(OURS + "/limits")
def update_limits(project_id: str, body: LimitsBody, caller: Admin, context: ContextDep) -> LimitsOut:
    """Only the limits that are named change; null takes one back."""
    with write(context.database) as conn:
        _change(conn, context, caller, project_id, project_id, body.model_dump(exclude_unset=True))
        return _limits(conn, context, caller, project_id)


def _limits(conn: Connection, context: Context, caller: Caller, project_id: str) -> LimitsOut:
    own, stored = _own(conn, caller, project_id), stored_bytes(conn, project_id)
    return LimitsOut(
        project_id=project_id,
        own=LimitsBody(**asdict(own)),
        effective=LimitsBody(**asdict(project_limits(conn, context.settings, project_id))),
        spent_this_month=_spent_this_month(conn, context, project_id),
        currency=context.prices.currency,
        stored=StoredOut(**asdict(stored), total=stored.total),
    )


@router.get(OURS + "/api_keys/{api_key_id}/limits")
def retrieve_key_limits(project_id: str, api_key_id: str, caller: Admin, context: ContextDep) -> KeyLimitsOut:
    with read(context.database) as conn:
        project_key(conn, caller, project_id, api_key_id)
        return _key_limits(api_key_id, store.get_limits(conn, api_key_id).get(api_key_id, Limits()))


@router.post(OURS + "/api_keys/{api_key_id}/limits")
def update_key_limits(
    project_id: str, api_key_id: str, body: KeyLimitsBody, caller: Admin, context: ContextDep
) -> KeyLimitsOut:
    changed = body.model_dump(exclude_unset=True)
    with write(context.database) as conn:
        project_key(conn, caller, project_id, api_key_id)
        return _key_limits(api_key_id, _change(conn, context, caller, project_id, api_key_id, changed))


def _key_limits(key_id: str, limits: Limits) -> KeyLimitsOut:
    return KeyLimitsOut(
        api_key_id=key_id,
        requests_per_minute=limits.requests_per_minute,
        tokens_per_minute=limits.tokens_per_minute,
    )
