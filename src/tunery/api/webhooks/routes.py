from tunery.api.auth import WebhooksReader, WebhooksWriter
from tunery.api.paging import After, CursorListing, Limit, cursor_listing
from tunery.api.routing import Router
from tunery.api.services import ServicesDep
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
def create_endpoint(body: EndpointCreate, caller: WebhooksWriter, services: ServicesDep) -> EndpointWithSecret:
    return wire_endpoint_with_secret(service.create(services, caller, body))


@router.get("/v1/webhook_endpoints")
def list_endpoints(
    caller: WebhooksReader,
    services: ServicesDep,
    after: After = None,
    limit: Limit = 20,
) -> CursorListing[Endpoint]:
    page = service.list_endpoints(services, caller, after=after, limit=limit)
    return CursorListing[Endpoint](**cursor_listing([wire_endpoint(item) for item in page.items], page.has_more))


@router.get("/v1/webhook_endpoints/{endpoint_id}")
def retrieve_endpoint(endpoint_id: str, caller: WebhooksReader, services: ServicesDep) -> Endpoint:
    return wire_endpoint(service.get(services, caller, endpoint_id))


@router.post("/v1/webhook_endpoints/{endpoint_id}")
def update_endpoint(
    endpoint_id: str, caller: WebhooksWriter, services: ServicesDep, body: EndpointUpdate | None = None
) -> Endpoint:
    return wire_endpoint(service.update(services, caller, endpoint_id, body or EndpointUpdate()))


@router.delete("/v1/webhook_endpoints/{endpoint_id}")
def delete_endpoint(endpoint_id: str, caller: WebhooksWriter, services: ServicesDep) -> DeletedEndpoint:
    service.delete(services, caller, endpoint_id)
    return DeletedEndpoint(id=endpoint_id)


@router.post("/v1/webhook_endpoints/{endpoint_id}/rotate_secret")
def rotate_secret(
    endpoint_id: str, caller: WebhooksWriter, services: ServicesDep, body: RotateSecret | None = None
) -> EndpointWithSecret:
    keep_old = body is not None and body.keep_old_secret_active_for_24_hours
    return wire_endpoint_with_secret(service.rotate(services, caller, endpoint_id, keep_old=keep_old))


@router.post("/v1/webhook_endpoints/{endpoint_id}/test")
def test_endpoint(endpoint_id: str, body: TestDelivery, caller: WebhooksWriter, services: ServicesDep) -> TestResult:
    status = service.send_test(services, caller, endpoint_id, body.event_type)
    return TestResult(event_type=body.event_type, status_code=status, webhook_endpoint_id=endpoint_id)


@router.get("/v1/webhook_event_types")
def list_event_types(caller: WebhooksReader) -> EventTypeList:
    return EventTypeList(data=list(SENT))


@router.post("/tunery/v1/webhook_addresses")
def judge_address(body: Address, caller: WebhooksWriter, services: ServicesDep) -> JudgedAddress:
    """Whether an address could be called, before an endpoint is made of it. Sends nothing there."""
    problem = service.problem_of(services, body.url)
    known = reference(problem)
    return JudgedAddress(url=body.url, problem=problem, texts={"problem": known} if known else {})


@router.get("/tunery/v1/webhook_endpoints/{endpoint_id}/deliveries")
def list_deliveries(
    endpoint_id: str,
    caller: WebhooksReader,
    services: ServicesDep,
    after: After = None,
    limit: Limit = 20,
) -> CursorListing[Attempt]:
    page = service.list_attempts(services, caller, endpoint_id, after=after, limit=limit)
    return CursorListing[Attempt](**cursor_listing([wire_attempt(item) for item in page.items], page.has_more))


@router.post("/tunery/v1/webhook_deliveries/{webhook_id}/resend")
def resend_delivery(webhook_id: str, caller: WebhooksWriter, services: ServicesDep) -> Resent:
    service.resend(services, caller, webhook_id)
    return Resent(webhook_id=webhook_id)
