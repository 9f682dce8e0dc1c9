"""Who did what to which object, from where."""

from dataclasses import dataclass, field
from typing import Any, Literal

OpenAIEvent = Literal[
    "api_key.created",
    "api_key.updated",
    "api_key.deleted",
    "project.created",
    "project.updated",
    "project.archived",
    "user.added",
    "user.updated",
    "user.deleted",
    "service_account.created",
    "service_account.updated",
    "service_account.deleted",
    "rate_limit.updated",
    "login.failed",
    "checkpoint.permission.created",
    "checkpoint.permission.deleted",
]
OwnEvent = Literal[
    "permission.refused",
    "file.created",
    "file.deleted",
    "fine_tuning.job.created",
    "fine_tuning.job.cancelled",
    "fine_tuning.job.paused",
    "fine_tuning.job.resumed",
    "fine_tuning.job.renamed",
    "model.export.created",
    "model.export.cancelled",
    "model.import.created",
    "model.import.cancelled",
    "base.added",
    "base.removed",
    "model.renamed",
    "model.deleted",
    "webhook_endpoint.created",
    "webhook_endpoint.updated",
    "webhook_endpoint.deleted",
    "webhook_endpoint.secret_rotated",
    "alias.updated",
    "alias.reverted",
    "alias.deleted",
    "batch.created",
    "batch.cancelled",
    "eval.created",
    "eval.updated",
    "eval.deleted",
    "eval.run.created",
    "eval.run.canceled",
    "eval.run.deleted",
    "chat.completion.updated",
    "chat.completion.deleted",
    "response.deleted",
    "conversation.updated",
    "conversation.deleted",
    "conversation.item.deleted",
]
"""Of what OpenAI's API has no name for."""
EventType = OpenAIEvent | OwnEvent


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
