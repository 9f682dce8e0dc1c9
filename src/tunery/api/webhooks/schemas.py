"""Webhook endpoints on the wire."""

import unicodedata
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, Field

from tunery.api.body import Body, Texts
from tunery.api.paging import Resource
from tunery.domain.notices import Delivery
from tunery.texts import say

# All that OpenAI has, so that a set-up script runs unchanged; SENT says which ones happen here.
EventType = Literal[
    "batch.completed",
    "batch.failed",
    "batch.expired",
    "batch.cancelled",
    "response.completed",
    "response.failed",
    "response.cancelled",
    "response.incomplete",
    "eval.run.succeeded",
    "eval.run.failed",
    "eval.run.canceled",
    "fine_tuning.job.succeeded",
    "fine_tuning.job.failed",
    "fine_tuning.job.cancelled",
    "realtime.call.incoming",
    "video.completed",
    "video.failed",
    "agent.environment.ready",
    "agent.environment.failed",
    "agent.environment.suspended",
    "agent.environment.expired",
    "agent.session.created",
    "agent.session.action_required",
    "agent.session.in_progress",
    "agent.session.idle",
    "agent.session.failed",
    "safety.alert.created",
]
SENT: tuple[EventType, ...] = (
    "fine_tuning.job.succeeded",
    "fine_tuning.job.failed",
    "fine_tuning.job.cancelled",
    "batch.completed",
    "batch.failed",
    "batch.expired",
    "batch.cancelled",
    "eval.run.succeeded",
    "eval.run.failed",
    "eval.run.canceled",
)


def web_address(url: str) -> str:
    # Where the host lies is looked at when an endpoint is made of it, and at each delivery: a name may come to point
    # elsewhere after this.
    if not url.startswith(("https://", "http://")):
        raise ValueError(say("error.url_scheme"))
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        host.encode("idna")
    except ValueError as exc:  # brackets without end, a port that is none, a name with an empty or a long part
        raise ValueError(say("error.url_unreadable")) from exc
    # A bare `https://`, for an endpoint whose address is to come, is taken as OpenAI takes it: nothing is sent there.
    if port == 0 or (not host and url != "https://"):
        raise ValueError(say("error.url_host"))
    if any(char <= " " or unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp") for char in url):
        raise ValueError(say("error.url_characters"))
    return url


Url = Annotated[str, Field(max_length=2048), AfterValidator(web_address)]
Name = Annotated[str, Field(min_length=1, max_length=256)]
EventTypes = Annotated[list[EventType], Field(min_length=1, max_length=64)]


class EndpointCreate(Body):
    name: Name
    url: Url
    event_types: EventTypes


class Address(Body):
    url: Url


class JudgedAddress(BaseModel):
    """What a delivery to the address would meet now; names may come to point elsewhere later."""

    object: Literal["tunery.webhook_address"] = "tunery.webhook_address"
    url: str
    problem: str | None = Field(description="Why nothing would be sent there. Null: it can be called.")
    refused: bool = Field(description="Whether no endpoint can be made of it, and not only nothing sent there now.")
    texts: Texts


class EndpointUpdate(Body):
    name: Name | None = None
    url: Url | None = None
    event_types: EventTypes | None = None


class RotateSecret(Body):
    keep_old_secret_active_for_24_hours: bool = False


class TestDelivery(Body):
    event_type: EventType


class Endpoint(Resource):
    object: Literal["webhook_endpoint"] = "webhook_endpoint"
    id: str
    created_at: int
    updated_at: int | None
    name: str
    url: str
    event_types: list[str]
    signing_secret_hint: str | None = Field(validation_alias="secret_hint")


class EndpointWithSecret(Endpoint):
    signing_secret: str = Field(validation_alias="secret", description="Shown here and never again.")


class DeletedEndpoint(BaseModel):
    object: Literal["webhook_endpoint.deleted"] = "webhook_endpoint.deleted"
    id: str
    deleted: bool = True


class TestResult(BaseModel):
    object: Literal["webhook_endpoint.test"] = "webhook_endpoint.test"
    event_type: str
    status_code: int = Field(description="What the endpoint answered.")
    success: Literal[True] = True
    webhook_endpoint_id: str


class EventTypeList(BaseModel):
    object: Literal["list"] = "list"
    data: list[str]


class Attempt(Resource):
    """One attempt at one delivery."""

    object: Literal["webhook_delivery"] = "webhook_delivery"
    id: str
    webhook_id: str = Field(
        validation_alias="outbox_id",
        description="The same for every attempt at one event: the receiver's key for duplicates.",
    )
    webhook_endpoint_id: str | None = Field(validation_alias="endpoint_id")
    created_at: int
    attempt: int
    status_code: int | None = Field(description="Null when there was no answer.")
    error: str | None
    latency_ms: int = Field(validation_alias="duration_ms")
    texts: Texts


class Resent(BaseModel):
    object: Literal["webhook_delivery.resent"] = "webhook_delivery.resent"
    webhook_id: str


def wire_attempt(delivery: Delivery) -> Attempt:
    return Attempt.of({**vars(delivery), "texts": {"error": delivery.error_text} if delivery.error_text else {}})
