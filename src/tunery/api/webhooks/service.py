"""Policy of webhook endpoints. Sending on a job's end is the dispatcher's; a test delivery is sent from here."""

from typing import Any

from tunery.api.context import Context
from tunery.api.webhooks.schemas import EndpointCreate, EndpointUpdate
from tunery.domain.errors import InvalidRequest, NotFound
from tunery.domain.ids import new_id
from tunery.domain.notices import Delivery, WebhookEndpoint
from tunery.domain.tenants import Caller
from tunery.notify.signing import new_secret
from tunery.notify.targets import RefusedTarget, resolve_target
from tunery.notify.webhooks import deliver, event_body
from tunery.store import outbox, tenants
from tunery.store import webhooks as store
from tunery.store.database import read, write
from tunery.store.paging import Page
from tunery.texts import say

OLD_SECRET_LIFETIME_S = 24 * 3600


def create(context: Context, caller: Caller, body: EndpointCreate) -> WebhookEndpoint:
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
    return endpoint


def get(context: Context, caller: Caller, endpoint_id: str) -> WebhookEndpoint:
    with read(context.database) as conn:
        return store.get_endpoint(conn, endpoint_id, caller.project_id)


def list_endpoints(context: Context, caller: Caller, *, after: str | None, limit: int) -> Page[WebhookEndpoint]:
    with read(context.database) as conn:
        return store.list_endpoints(conn, caller.project_id, after=after, limit=limit)


def update(context: Context, caller: Caller, endpoint_id: str, body: EndpointUpdate) -> WebhookEndpoint:
    """An update that changes nothing does not move `updated_at`."""
    with write(context.database) as conn:
        endpoint = store.get_endpoint(conn, endpoint_id, caller.project_id)
        wanted: dict[str, Any] = body.model_dump(exclude_none=True)
        if "event_types" in wanted:
            wanted["event_types"] = tuple(dict.fromkeys(wanted["event_types"]))
        changed = {name: value for name, value in wanted.items() if getattr(endpoint, name) != value}
        if not changed:
            return endpoint
        return store.update_endpoint(conn, endpoint_id, caller.project_id, now=context.now(), **changed)


def delete(context: Context, caller: Caller, endpoint_id: str) -> None:
    with write(context.database) as conn:
        if not store.delete_endpoint(conn, endpoint_id, caller.project_id):
            raise NotFound(say("error.no_such_endpoint", endpoint_id=endpoint_id), param="id")


def rotate(context: Context, caller: Caller, endpoint_id: str, *, keep_old: bool) -> WebhookEndpoint:
    with write(context.database) as conn:
        return store.rotate_secret(
            conn,
            endpoint_id,
            caller.project_id,
            secret=new_secret(),
            now=context.now(),
            keep_old_s=OLD_SECRET_LIFETIME_S if keep_old else 0,
        )


def send_test(context: Context, caller: Caller, endpoint_id: str, event_type: str) -> int:
    """The status that the endpoint answered a sample event with. Raises InvalidRequest when it did not answer."""
    endpoint = get(context, caller, endpoint_id)
    now = context.clock()
    body = event_body(
        event_id=new_id("webhook_event"),
        event_type=event_type,
        created_at=int(now),
        data={"id": sample_id(event_type)},
    )
    result = deliver(
        url=endpoint.url,
        secrets=endpoint.secrets_at(now),
        webhook_id=new_id("delivery"),
        body=body,
        now=now,
        allow_private=context.settings.webhook_allow_private_addresses,
    )
    if result.status is None:
        raise InvalidRequest(say("error.endpoint_silent", url=endpoint.url, error=result.error), param="url")
    return result.status


def problem_of(context: Context, url: str) -> str | None:
    """Why nothing would be sent to this address as it is now; nothing is sent to find out."""
    try:
        resolve_target(url, allow_private=context.settings.webhook_allow_private_addresses)
    except RefusedTarget as exc:
        return exc.args[0]
    return None


def sample_id(event_type: str) -> str:
    return new_id("job") if event_type.startswith("fine_tuning.") else "sample_id"


def list_attempts(
    context: Context, caller: Caller, endpoint_id: str, *, after: str | None, limit: int
) -> Page[Delivery]:
    with read(context.database) as conn:
        store.get_endpoint(conn, endpoint_id, caller.project_id)
        return outbox.list_deliveries(conn, caller.project_id, endpoint_id=endpoint_id, after=after, limit=limit)


def resend(context: Context, caller: Caller, webhook_id: str) -> None:
    with write(context.database) as conn:
        if not outbox.resend(conn, webhook_id, caller.project_id, now=context.clock()):
            raise NotFound(say("error.no_finished_delivery", webhook_id=webhook_id), param="webhook_id")
