"""What leaves the server by itself: webhook endpoints and the messages that wait to be sent."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from tunery.texts import Reference

NoticeKind = Literal["webhook", "email"]


class NoticeStatus(StrEnum):
    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"  # given up


@dataclass(frozen=True)
class Notice:
    """One row of the outbox: one message to one receiver."""

    id: str
    project_id: str
    created_at: int
    kind: NoticeKind
    topic: str  # such as fine_tuning.job.succeeded
    payload: dict[str, Any]
    endpoint_id: str | None = None  # webhook: where to
    recipient: str | None = None  # email: whom to
    status: NoticeStatus = NoticeStatus.PENDING
    attempts: int = 0
    next_attempt_at: float = 0
    finished_at: int | None = None
    last_error: str | None = None


@dataclass(frozen=True)
class Delivery:
    """One attempt to send a notice."""

    id: str
    outbox_id: str
    endpoint_id: str | None
    created_at: int
    attempt: int
    status_code: int | None
    error: str | None
    duration_ms: int
    error_text: Reference | None = None


@dataclass(frozen=True)
class WebhookEndpoint:
    id: str
    project_id: str
    name: str
    url: str
    event_types: tuple[str, ...]
    created_at: int
    secret: str  # whsec_…
    updated_at: int | None = None
    old_secret: str | None = None
    old_secret_expires_at: int | None = None

    @property
    def secret_hint(self) -> str:
        return f"whsec_...{self.secret[-4:]}"

    def secrets_at(self, now: float) -> tuple[str, ...]:
        """Those that sign now: two for a while after a rotation."""
        if self.old_secret is None or (self.old_secret_expires_at or 0) <= now:
            return (self.secret,)
        return (self.secret, self.old_secret)
