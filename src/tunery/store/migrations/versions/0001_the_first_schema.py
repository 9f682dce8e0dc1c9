"""The first schema."""

from collections.abc import Iterable
from itertools import chain
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
SEQUENCE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
AMOUNTS = (
    *(f"{kind}_tokens" for kind in ("input", "cached", "output", "trained")),
    *(f"{kind}_cost" for kind in ("input", "cached", "output", "training")),
)

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


# Columns as they were then: what `store.columns` makes today may change, and this schema must not. The names of keys
# and indexes follow the metadata's rule.
def table(name: str, *parts: Iterable[Any]) -> None:
    op.create_table(name, *chain.from_iterable(parts))


def columns(type_: Any, names: Iterable[str], *, null: bool = False, **more: Any) -> list[sa.Column[Any]]:
    return [sa.Column(name, type_, nullable=null, **more) for name in names]


def strings(*names: str, **more: Any) -> list[sa.Column[Any]]:
    return columns(sa.String(), names, **more)


def integers(*names: str, **more: Any) -> list[sa.Column[Any]]:
    return columns(sa.BigInteger(), names, **more)


def small_integers(*names: str, **more: Any) -> list[sa.Column[Any]]:
    return columns(sa.Integer(), names, **more)


def floats(*names: str, **more: Any) -> list[sa.Column[Any]]:
    return columns(sa.Float(), names, **more)


def jsons(*names: str, **more: Any) -> list[sa.Column[Any]]:
    return columns(JSON, names, **more)


def flags(*names: str) -> list[sa.Column[Any]]:
    return columns(sa.Boolean(), names, server_default=sa.text("(false)"))


def counts(*names: str) -> list[sa.Column[Any]]:
    return columns(sa.BigInteger(), names, server_default=sa.text("0"))


def sequence() -> sa.Column[Any]:
    return sa.Column("seq", SEQUENCE, primary_key=True, autoincrement=True)


def seq_and_id() -> list[sa.Column[Any]]:
    return [sequence(), *strings("id", unique=True)]


def refers(name: str, to: str, *, null: bool = False, cascade: bool = False, **more: Any) -> list[sa.Column[Any]]:
    key = sa.ForeignKey(to, ondelete="CASCADE" if cascade else None)
    return [sa.Column(name, sa.String(), key, nullable=null, **more)]


def upgrade() -> None:
    table(
        "limits",
        strings("subject_id", primary_key=True),
        integers("requests_per_minute", "tokens_per_minute", "max_running_jobs", "max_jobs_per_day", null=True),
        integers("max_storage_bytes", "monthly_budget", null=True),
        small_integers("warning_percent", null=True),
        integers("updated_at"),
    )
    table("organizations", seq_and_id(), strings("name", "slug"), integers("created_at"))
    table("rate_buckets", strings("subject_id", "unit", primary_key=True), floats("left", "updated_at"))
    table("workers", strings("id", primary_key=True), strings("host"), floats("started_at", "seen_at"))
    table(
        "audit_log",
        seq_and_id(),
        refers("organization_id", "organizations.id"),
        strings("project_id", null=True),
        integers("created_at"),
        strings("type"),
        jsons("actor"),
        strings("resource_id", null=True),
        jsons("details"),
    )
    op.create_index(None, "audit_log", ["organization_id", "created_at", "seq"])
    table(
        "projects",
        seq_and_id(),
        refers("organization_id", "organizations.id"),
        strings("name"),
        integers("created_at"),
        integers("archived_at", null=True),
        floats("last_claimed_at", null=True),
    )
    op.create_index(None, "projects", ["organization_id", "created_at", "seq"])
    table(
        "alias_changes",
        [sequence()],
        refers("project_id", "projects.id"),
        strings("name"),
        strings("target", null=True),
        strings("reason"),
        strings("changed_by", null=True),
        integers("created_at"),
    )
    op.create_index(None, "alias_changes", ["project_id", "name", "seq"])
    table(
        "aliases",
        refers("project_id", "projects.id", primary_key=True),
        strings("name", primary_key=True),
        strings("target"),
        integers("updated_at", "created_at"),
    )
    table(
        "budget_warnings",
        refers("project_id", "projects.id", primary_key=True),
        integers("month", primary_key=True),
        small_integers("percent", primary_key=True),
        integers("created_at"),
    )
    table(
        "files",
        seq_and_id(),
        refers("project_id", "projects.id"),
        integers("created_at"),
        strings("filename", "purpose"),
        integers("bytes"),
        strings("sha256", "blob"),
        integers("expires_at", null=True),
        strings("status"),
        strings("status_details", null=True),
    )
    op.create_index("ix_files_expires_at", "files", ["expires_at"])
    op.create_index(None, "files", ["project_id", "created_at", "seq"])
    table(
        "idempotency_keys",
        refers("project_id", "projects.id", primary_key=True),
        strings("key", primary_key=True),
        strings("request_hash", "job_id"),
        integers("created_at"),
    )
    table(
        "jobs",
        seq_and_id(),
        refers("project_id", "projects.id"),
        refers("organization_id", "organizations.id"),
        integers("created_at"),
        strings("status", "model", "base_model", "training_file"),
        strings("validation_file", null=True),
        strings("method"),
        jsons("hyperparameters"),
        integers("seed"),
        strings("suffix", "created_by", null=True),
        integers("finished_at", "started_at", "estimated_finish", null=True),
        strings("fine_tuned_model", null=True),
        integers("trained_tokens", null=True),
        jsons("result_files"),
        jsons("error", "metadata", "integrations", null=True),
        flags("cancel_requested", "pause_requested", "validated"),
        strings("worker_id", null=True),
        floats("lease_expires_at", null=True),
        counts("attempts", "step"),
        integers("total_steps", null=True),
        jsons("details"),
    )
    op.create_index(None, "jobs", ["project_id", "created_at", "seq"])
    op.create_index(None, "jobs", ["status", "created_at", "seq"])
    table(
        "models",
        seq_and_id(),
        strings("name", unique=True),
        refers("project_id", "projects.id"),
        integers("created_at"),
        strings("base_model", "source"),
        strings("job_id", null=True),
        integers("step_number", null=True),
        strings("blob", "owned_by"),
        counts("trained_tokens"),
    )
    op.create_index(None, "models", ["job_id"])
    op.create_index(None, "models", ["project_id", "created_at", "seq"])
    table(
        "outbox",
        seq_and_id(),
        refers("project_id", "projects.id"),
        integers("created_at"),
        strings("kind", "topic"),
        jsons("payload"),
        strings("endpoint_id", "recipient", null=True),
        strings("status"),
        counts("attempts"),
        floats("next_attempt_at"),
        strings("worker_id", null=True),
        floats("lease_expires_at", null=True),
        integers("finished_at", null=True),
        strings("last_error", null=True),
    )
    op.create_index(None, "outbox", ["project_id", "seq"])
    op.create_index(None, "outbox", ["status", "next_attempt_at"])
    table(
        "stored_completions",
        seq_and_id(),
        refers("project_id", "projects.id"),
        integers("created_at"),
        strings("model"),
        jsons("request", "response"),
        jsons("metadata", null=True),
    )
    op.create_index(None, "stored_completions", ["project_id", "created_at", "seq"])
    table(
        "uploads",
        seq_and_id(),
        refers("project_id", "projects.id"),
        integers("created_at", "expires_at"),
        strings("filename", "purpose"),
        integers("bytes"),
        strings("mime_type", "status"),
        strings("file_id", null=True),
        integers("file_expires_after_s", null=True),
    )
    op.create_index(None, "uploads", ["status", "expires_at"])
    table(
        "usage_records",
        [sequence()],
        strings("request_id", unique=True),
        strings("client_request_id", null=True),
        flags("is_delivered"),
        strings("kind"),
        refers("project_id", "projects.id"),
        strings("user_id", "api_key_id", "model"),
        flags("is_batch"),
        integers("created_at"),
        counts(*AMOUNTS),
        strings("currency"),
    )
    op.create_index(None, "usage_records", ["project_id", "created_at", "seq"])
    part = sa.text("client_request_id IS NOT NULL AND NOT is_delivered")
    name, columns_of_it = "uq_usage_records_undelivered", ["project_id", "client_request_id"]
    op.create_index(name, "usage_records", columns_of_it, unique=True, sqlite_where=part, postgresql_where=part)
    table(
        "usage_rollups",
        small_integers("width_s", primary_key=True),
        integers("start_time", primary_key=True),
        refers("project_id", "projects.id", primary_key=True),
        strings("user_id", "api_key_id", "model", primary_key=True),
        columns(sa.Boolean(), ["is_batch"], primary_key=True),
        counts("num_requests", *AMOUNTS),
        strings("currency"),
    )
    op.create_index(None, "usage_rollups", ["project_id", "width_s", "start_time"])
    table(
        "users",
        seq_and_id(),
        refers("organization_id", "organizations.id"),
        strings("name", "email", "role"),
        integers("created_at"),
        flags("is_service_account"),
        refers("project_id", "projects.id", null=True),
    )
    op.create_index(None, "users", ["organization_id", "created_at", "seq"])
    table(
        "webhook_endpoints",
        seq_and_id(),
        refers("project_id", "projects.id"),
        strings("name", "url"),
        jsons("event_types"),
        integers("created_at"),
        integers("updated_at", null=True),
        strings("secret"),
        strings("old_secret", null=True),
        integers("old_secret_expires_at", null=True),
    )
    op.create_index(None, "webhook_endpoints", ["project_id", "created_at", "seq"])
    table(
        "api_keys",
        seq_and_id(),
        refers("organization_id", "organizations.id"),
        refers("project_id", "projects.id", null=True),
        refers("user_id", "users.id", null=True),
        strings("name"),
        strings("prefix", unique=True),
        strings("hash", "hint"),
        integers("created_at"),
        strings("role"),
        jsons("scopes"),
        integers("expires_at", "revoked_at", "last_used_at", null=True),
        flags("is_admin"),
    )
    op.create_index(None, "api_keys", ["organization_id", "created_at", "seq"])
    op.create_index(None, "api_keys", ["project_id", "created_at", "seq"])
    table(
        "checkpoint_permissions",
        seq_and_id(),
        refers("model_name", "models.name", cascade=True),
        refers("project_id", "projects.id"),
        integers("created_at"),
        [sa.UniqueConstraint("model_name", "project_id")],
    )
    op.create_index(None, "checkpoint_permissions", ["project_id"])
    table(
        "checkpoints",
        seq_and_id(),
        refers("job_id", "jobs.id", cascade=True),
        integers("created_at", "step_number"),
        strings("fine_tuned_model_checkpoint"),
        jsons("metrics"),
        [sa.UniqueConstraint("job_id", "step_number")],
    )
    table(
        "deliveries",
        seq_and_id(),
        refers("outbox_id", "outbox.id", cascade=True),
        strings("endpoint_id", null=True),
        integers("created_at"),
        small_integers("attempt"),
        small_integers("status_code", null=True),
        strings("error", null=True),
        integers("duration_ms"),
    )
    op.create_index(None, "deliveries", ["endpoint_id", "seq"])
    op.create_index(None, "deliveries", ["outbox_id", "seq"])
    table(
        "job_events",
        seq_and_id(),
        refers("job_id", "jobs.id", cascade=True),
        integers("created_at"),
        strings("level", "type", "message"),
        jsons("data", null=True),
    )
    op.create_index(None, "job_events", ["job_id", "seq"])
    table(
        "memberships",
        refers("project_id", "projects.id", primary_key=True),
        refers("user_id", "users.id", primary_key=True),
        strings("role"),
        integers("created_at"),
    )
    table(
        "upload_parts",
        seq_and_id(),
        refers("upload_id", "uploads.id", cascade=True),
        integers("created_at", "bytes"),
        strings("blob"),
    )
    op.create_index(None, "upload_parts", ["upload_id"])
    make_audit_log_append_only()


def make_audit_log_append_only() -> None:
    """The database itself refuses to change or remove what was logged."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'audit_log is append-only'; END $$"
        )
        op.execute(
            "CREATE TRIGGER audit_log_append_only BEFORE UPDATE OR DELETE ON audit_log "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
        return
    for verb in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER audit_log_no_{verb.lower()} BEFORE {verb} ON audit_log "
            "BEGIN SELECT RAISE(ABORT, 'audit_log is append-only'); END"
        )
