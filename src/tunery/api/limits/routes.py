from dataclasses import asdict

from tunery.api.context import Context, ContextDep
from tunery.api.limits import service
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
from tunery.api.paging import After, CursorListing, Limit, cursor_listing
from tunery.api.routing import Router
from tunery.api.trail import Operator, OperatorDep
from tunery.domain.limits import Limits

router = Router(tags=["Limits"])

PROJECT = "/v1/organization/projects/{project_id}"
OURS = "/tunery/v1/organization/projects/{project_id}"


@router.get(PROJECT + "/rate_limits")
def list_rate_limits(
    project_id: str,
    operator: OperatorDep,
    context: ContextDep,
    after: After = None,
    before: After = None,
    limit: Limit = 100,
) -> CursorListing[RateLimitOut]:
    found = [_rate_limit(service.effective_limits(context, operator, project_id))]
    return CursorListing[RateLimitOut](**cursor_listing([] if after or before or not limit else found, False))


@router.post(PROJECT + "/rate_limits/{rate_limit_id}")
def update_rate_limit(
    project_id: str,
    rate_limit_id: str,
    operator: OperatorDep,
    context: ContextDep,
    body: RateLimitUpdate | None = None,
) -> RateLimitOut:
    service.own_limits(context, operator, project_id)
    service.check_rate_limit_id(rate_limit_id)
    wanted = body or RateLimitUpdate()
    named = {
        "requests_per_minute": wanted.max_requests_per_1_minute,
        "tokens_per_minute": wanted.max_tokens_per_1_minute,
    }
    changes = {name: value for name, value in named.items() if value is not None}
    if changes:
        service.change_limits(context, operator, project_id, changes)
    return _rate_limit(service.effective_limits(context, operator, project_id))


def _rate_limit(limits: Limits) -> RateLimitOut:
    return RateLimitOut(
        id=service.RATE_LIMIT,
        model="*",
        max_requests_per_1_minute=limits.requests_per_minute or UNLIMITED,
        max_tokens_per_1_minute=limits.tokens_per_minute or UNLIMITED,
    )


@router.get(PROJECT + "/spend_limit")
def retrieve_spend_limit(project_id: str, operator: OperatorDep, context: ContextDep) -> SpendLimitOut:
    return _spend_limit(context, project_id, service.get_budget(context, operator, project_id))


@router.post(PROJECT + "/spend_limit")
def update_spend_limit(
    project_id: str, body: SpendLimitUpdate, operator: OperatorDep, context: ContextDep
) -> SpendLimitOut:
    budget = service.set_budget(context, operator, project_id, cents=body.threshold_amount, currency=body.currency)
    return _spend_limit(context, project_id, budget)


@router.delete(PROJECT + "/spend_limit")
def delete_spend_limit(project_id: str, operator: OperatorDep, context: ContextDep) -> SpendLimitDeleted:
    service.delete_budget(context, operator, project_id)
    return SpendLimitDeleted()


def _spend_limit(context: Context, project_id: str, budget: int) -> SpendLimitOut:
    is_spent = service.spent_this_month(context, project_id) >= budget
    return SpendLimitOut(
        currency=context.prices.currency.upper(),
        threshold_amount=budget // service.CENT,
        enforcement=Enforcement(status="enforcing" if is_spent else "inactive"),
    )


@router.get(OURS + "/limits")
def retrieve_limits(project_id: str, operator: OperatorDep, context: ContextDep) -> LimitsOut:
    return _limits(context, operator, project_id)


@router.post(OURS + "/limits")
def update_limits(project_id: str, body: LimitsBody, operator: OperatorDep, context: ContextDep) -> LimitsOut:
    """Only the limits that are named change; null takes one back."""
    service.change_limits(context, operator, project_id, body.model_dump(exclude_unset=True))
    return _limits(context, operator, project_id)


def _limits(context: Context, operator: Operator, project_id: str) -> LimitsOut:
    own = service.own_limits(context, operator, project_id)
    effective = service.effective_limits(context, operator, project_id)
    stored = service.stored(context, project_id)
    return LimitsOut(
        project_id=project_id,
        own=LimitsBody(**asdict(own)),
        effective=LimitsBody(**asdict(effective)),
        spent_this_month=service.spent_this_month(context, project_id),
        currency=context.prices.currency,
        stored=StoredOut(**asdict(stored), total=stored.total),
    )


@router.get(OURS + "/api_keys/{api_key_id}/limits")
def retrieve_key_limits(project_id: str, api_key_id: str, operator: OperatorDep, context: ContextDep) -> KeyLimitsOut:
    return _key_limits(api_key_id, service.get_key_limits(context, operator, project_id, api_key_id))


@router.post(OURS + "/api_keys/{api_key_id}/limits")
def update_key_limits(
    project_id: str, api_key_id: str, body: KeyLimitsBody, operator: OperatorDep, context: ContextDep
) -> KeyLimitsOut:
    changes = body.model_dump(exclude_unset=True)
    return _key_limits(api_key_id, service.set_key_limits(context, operator, project_id, api_key_id, changes))


def _key_limits(key_id: str, limits: Limits) -> KeyLimitsOut:
    return KeyLimitsOut(
        api_key_id=key_id,
        requests_per_minute=limits.requests_per_minute,
        tokens_per_minute=limits.tokens_per_minute,
    )
