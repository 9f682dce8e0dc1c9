"""Who did what to which object, from where."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Actor:
    """The key that was used and, when it has one, its owner."""

    api_key_id: str | None = None
    user_id: str | None = None
    user_email: str | None = None
    is_service_account: bool = False
    ip_address: str | None = None
    user_agent: str | None = None


@dataclass(frozen=True)
class AuditEvent:
    id: str
    organization_id: str
    project_id: str | None
    created_at: int
    type: str  # OpenAI's names, such as api_key.created; ours for what OpenAI does not log: file.deleted
    actor: Actor
    resource_id: str | None = None
    details: dict[str, Any] = field(default_factory=dict[str, Any])  # what was asked for; no secret, no prompt
