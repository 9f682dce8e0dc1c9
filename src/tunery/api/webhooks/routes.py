from typing import Any

from sqlalchemy import Connection

from tunery.addresses import PrivateTarget, RefusedTarget, of_webhooks, resolve_targets
from tunery.api.access import WebhooksReader, WebhooksWriter
from tunery.api.context import Context, ContextDep
from tunery.api.paging import After, CursorListing, Limit
from tunery.api.routing import Router
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
)
from tunery.domain.audit import EventType
from tunery.domain.errors import InvalidRequest, NotFound
from tunery.domain.ids import new_id
from tunery.domain.notices import WebhookEndpoint
from tunery.domain.tenants import Caller
from tunery.notify.signing import new_secret
from tunery.notify.webhooks import deliver, event_body
from tunery.store import outbox, tenants
from tunery.store import webhooks as store
from tunery.store.audit import record
from tunery.store.database import read, write
from tunery.texts import reference, say

router = Router(tags=["Webhooks"])

OLD_SECRET_LIFETIME_S = 24 * 3600


@router.post("/v1/webhook_endpoints")
def create_endpoint(body: EndpointCreate, caller: WebhooksWriter, context: ContextDep) -> EndpointWithSecret:
    _refuse_private(body.url, context)
    now = context.now()
    endpoint = WebhookEndpoint(
        id=new_id("webhook"),
        project_id=caller.project_id,
        name=body.name,
        url=body.url,
        event_types=tuple(dict.fromkeys(body.event_types)),
        created_at=now,
        secret=new_secret(),
        updated_at=now,
    )
    with write(context.database) as conn:
        tenants.get_active_project(conn, caller.project_id)
        store.insert_endpoint(conn, endpoint)
        _record(conn, context, caller, "webhook_endpoint.created", endpoint)
    return EndpointWithSecret.of(endpoint)


def _refuse_private(url: str, context: Context) -> None:
    """At what nothing would ever be sent to. A host that is not known may come to be, and is looked up then."""
    try:
        resolve_targets(url, private=of_webhooks(context.settings))
    except PrivateTarget as exc:
        message = say("error.invalid_param", param="url", reason=exc.args[0])
        raise InvalidRequest(message, param="url", code="invalid_value") from exc
    except RefusedTarget:
        return


def _record(conn: Connection, context: Context, caller: Caller, event: EventType, endpoint: WebhookEndpoint) -> None:
    made = {"name": endpoint.name, "url": endpoint.url}
    record(conn, caller, event, now=context.clock(), resource_id=endpoint.id, made=made)


@router.get("/v1/webhook_endpoints")
def list_endpoints(
    caller: WebhooksReader,
    context: ContextDep,
    after: After = None,
    limit: Limit = 20,
) -> CursorListing[Endpoint]:
    with read(context.database) as conn:
        page = store.list_endpoints(conn, caller.project_id, after=after, limit=limit)
    return CursorListing[Endpoint].of(page, Endpoint.of)


@router.get("/v1/webhook_endpoints/{endpoint_id}")
def retrieve_endpoint(endpoint_id: str, caller: WebhooksReader, context: ContextDep) -> Endpoint:
    with read(context.database) as conn:
        return Endpoint.of(store.get_endpoint(conn, endpoint_id, caller.project_id))


@router.post("/v1/webhook_endpoints/{endpoint_id}")
def update_endpoint(
    endpoint_id: str, caller: WebhooksWriter, context: ContextDep, body: EndpointUpdate | None = None
) -> Endpoint:
    wanted: dict[str, Any] = {} if body is None else body.model_dump(exclude_none=True)
    if "url" in wanted:
        _refuse_private(wanted["url"], context)
    if "event_types" in wanted:
        wanted["event_types"] = tuple(dict.fromkeys(wanted["event_types"]))
    with write(context.database) as conn:
        endpoint = store.get_endpoint(conn, endpoint_id, caller.project_id)
        changed = {name: value for name, value in wanted.items() if getattr(endpoint, name) != value}
        if changed:  # an update that changes nothing does not move `updated_at`
            endpoint = store.update_endpoint(conn, endpoint_id, caller.project_id, now=context.now(), **changed)
            _record(conn, context, caller, "webhook_endpoint.updated", endpoint)
    return Endpoint.of(endpoint)


@router.delete("/v1/webhook_endpoints/{endpoint_id}")
def delete_endpoint(endpoint_id: str, caller: WebhooksWriter, context: ContextDep) -> DeletedEndpoint:
    with write(context.database) as conn:
        store.delete_endpoint(conn, endpoint_id, caller.project_id)
        record(conn, caller, "webhook_endpoint.deleted", now=context.clock(), resource_id=endpoint_id)
    return DeletedEndpoint(id=endpoint_id)


@router.post("/v1/webhook_endpoints/{endpoint_id}/rotate_secret")
def rotate_secret(
    endpoint_id: str, caller: WebhooksWriter, context: ContextDep, body: RotateSecret | None = None
) -> EndpointWithSecret:
    keep_old_s = OLD_SECRET_LIFETIME_S if body is not None and body.keep_old_secret_active_for_24_hours else 0
    with write(context.database) as conn:
        endpoint = store.rotate_secret(
            conn, endpoint_id, caller.project_id, secret=new_secret(), now=context.now(), keep_old_s=keep_old_s
        )
        _record(conn, context, caller, "webhook_endpoint.secret_rotated", endpoint)
    return EndpointWithSecret.of(endpoint)


@router.post("/v1/webhook_endpoints/{endpoint_id}/test")
def test_endpoint(endpoint_id: str, body: TestDelivery, caller: WebhooksWriter, context: ContextDep) -> TestResult:
    with read(context.database) as conn:
        endpoint = store.get_endpoint(conn, endpoint_id, caller.project_id)
    now, event_type = context.clock(), body.event_type
    sample_id = new_id("job") if event_type.startswith("fine_tuning.") else "sample_id"
    answer = deliver(
        url=endpoint.url,
        secrets=endpoint.secrets_at(now),
        webhook_id=new_id("delivery"),
        body=event_body(
            event_id=new_id("webhook_event"), event_type=event_type, created_at=int(now), data={"id": sample_id}
        ),
        now=now,
        private=of_webhooks(context.settings),
    )
    if answer.status is None:
        raise InvalidRequest(say("error.endpoint_silent", url=endpoint.url, error=answer.error), param="url")
    return TestResult(event_type=event_type, status_code=answer.status, webhook_endpoint_id=endpoint_id)


@router.get("/v1/webhook_event_types")
def list_event_types(caller: WebhooksReader) -> EventTypeList:
    return EventTypeList(data=list(SENT))


@router.post("/tunery/v1/webhook_addresses")
def judge_address(body: Address, caller: WebhooksWriter, context: ContextDep) -> JudgedAddress:
    """Whether an address could be called, before an endpoint is made of it. Sends nothing there."""
    try:
        resolve_targets(body.url, private=of_webhooks(context.settings))
    except RefusedTarget as exc:
        texts, is_refused = reference({"problem": exc.args[0]}), isinstance(exc, PrivateTarget)
        return JudgedAddress(url=body.url, problem=exc.args[0], refused=is_refused, texts=texts)
    return JudgedAddress(url=body.url, problem=None, refused=False, texts={})


@router.get("/tunery/v1/webhook_endpoints/{endpoint_id}/deliveries")
def list_deliveries(
    endpoint_id: str,
    caller: WebhooksReader,
    context: ContextDep,
    after: After = None,
    limit: Limit = 20,
) -> CursorListing[Attempt]:
    with read(context.database) as conn:
        store.get_endpoint(conn, endpoint_id, caller.project_id)
        page = outbox.list_deliveries(conn, caller.project_id, endpoint_id=endpoint_id, after=after, limit=limit)
    return CursorListing[Attempt].of(page, wire_attempt)


@router.post("/tunery/v1/webhook_deliveries/{webhook_id}/resend")
def resend_delivery(webhook_id: str, caller: WebhooksWriter, context: ContextDep) -> Resent:
    with write(context.database) as conn:
        if not outbox.resend(conn, webhook_id, caller.project_id, now=context.clock()):
            raise NotFound(say("error.no_finished_delivery", webhook_id=webhook_id), param="webhook_id")
    return Resent(webhook_id=webhook_id)
