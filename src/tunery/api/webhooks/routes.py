from tunery.api.access import WebhooksReader, WebhooksWriter
from tunery.api.context import ContextDep
from tunery.api.paging import After, CursorListing, Limit, cursor_listing
from tunery.api.routing import Router
from tunery.api.webhooks import service
from tunery.api.webhooks.schemas import (
    SENT,
    Address,
    Attempt,
    DeletedEndpoint,
    Endpoint,
    EndpointCreate,
    EndpointUpdate,
    EndpointWithSecret,
    EventTypeList,
    JudgedAddress,
    Resent,
    RotateSecret,
    TestDelivery,
    TestResult,
    wire_attempt,
    wire_endpoint,
    wire_endpoint_with_secret,
)
from tunery.texts import reference

router = Router(tags=["Webhooks"])


@router.post("/v1/webhook_endpoints")
def create_endpoint(body: EndpointCreate, caller: WebhooksWriter, context: ContextDep) -> EndpointWithSecret:
    return wire_endpoint_with_secret(service.create(context, caller, body))


@router.get("/v1/webhook_endpoints")
def list_endpoints(
    caller: WebhooksReader,
    context: ContextDep,
    after: After = None,
    limit: Limit = 20,
) -> CursorListing[Endpoint]:
    page = service.list_endpoints(context, caller, after=after, limit=limit)
    return CursorListing[Endpoint](**cursor_listing([wire_endpoint(item) for item in page.items], page.has_more))


@router.get("/v1/webhook_endpoints/{endpoint_id}")
def retrieve_endpoint(endpoint_id: str, caller: WebhooksReader, context: ContextDep) -> Endpoint:
    return wire_endpoint(service.get(context, caller, endpoint_id))


@router.post("/v1/webhook_endpoints/{endpoint_id}")
def update_endpoint(
    endpoint_id: str, caller: WebhooksWriter, context: ContextDep, body: EndpointUpdate | None = None
) -> Endpoint:
    return wire_endpoint(service.update(context, caller, endpoint_id, body or EndpointUpdate()))


@router.delete("/v1/webhook_endpoints/{endpoint_id}")
def delete_endpoint(endpoint_id: str, caller: WebhooksWriter, context: ContextDep) -> DeletedEndpoint:
    service.delete(context, caller, endpoint_id)
    return DeletedEndpoint(id=endpoint_id)


@router.post("/v1/webhook_endpoints/{endpoint_id}/rotate_secret")
def rotate_secret(
    endpoint_id: str, caller: WebhooksWriter, context: ContextDep, body: RotateSecret | None = None
) -> EndpointWithSecret:
    keep_old = body is not None and body.keep_old_secret_active_for_24_hours
    return wire_endpoint_with_secret(service.rotate(context, caller, endpoint_id, keep_old=keep_old))


@router.post("/v1/webhook_endpoints/{endpoint_id}/test")
def test_endpoint(endpoint_id: str, body: TestDelivery, caller: WebhooksWriter, context: ContextDep) -> TestResult:
    status = service.send_test(context, caller, endpoint_id, body.event_type)
    return TestResult(event_type=body.event_type, status_code=status, webhook_endpoint_id=endpoint_id)


@router.get("/v1/webhook_event_types")
def list_event_types(caller: WebhooksReader) -> EventTypeList:
    return EventTypeList(data=list(SENT))


@router.post("/tunery/v1/webhook_addresses")
def judge_address(body: Address, caller: WebhooksWriter, context: ContextDep) -> JudgedAddress:
    """Whether an address could be called, before an endpoint is made of it. Sends nothing there."""
    problem = service.problem_of(context, body.url)
    known = reference(problem)
    return JudgedAddress(url=body.url, problem=problem, texts={"problem": known} if known else {})


@router.get("/tunery/v1/webhook_endpoints/{endpoint_id}/deliveries")
def list_deliveries(
    endpoint_id: str,
    caller: WebhooksReader,
    context: ContextDep,
    after: After = None,
    limit: Limit = 20,
) -> CursorListing[Attempt]:
    page = service.list_attempts(context, caller, endpoint_id, after=after, limit=limit)
    return CursorListing[Attempt](**cursor_listing([wire_attempt(item) for item in page.items], page.has_more))


@router.post("/tunery/v1/webhook_deliveries/{webhook_id}/resend")
def resend_delivery(webhook_id: str, caller: WebhooksWriter, context: ContextDep) -> Resent:
    service.resend(context, caller, webhook_id)
    return Resent(webhook_id=webhook_id)
