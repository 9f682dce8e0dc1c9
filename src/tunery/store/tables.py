"""Every table. Times are Unix seconds; `seq` is the order of insertion, which created_at alone does not tell.

Migrations, not this file, make the schema; a test holds the two equal.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    UniqueConstraint,
    text,
)

from tunery.store.columns import (
    Json,
    count,
    created_at,
    flag,
    metadata,
    organization_id,
    project_id,
    row_id,
    seq,
)

# ---- tenants
organizations = Table(
    "organizations",
    metadata,
    seq(),
    row_id(),
    Column("name", String, nullable=False),
    Column("slug", String, nullable=False),
    created_at(),
)

projects = Table(
    "projects",
    metadata,
    seq(),
    row_id(),
    organization_id(),
    Column("name", String, nullable=False),
    created_at(),
    Column("archived_at", BigInteger),
    Column("last_claimed_at", Float),  # when a job of it last came to a worker: the queue serves the longest waiting
    Index(None, "organization_id", "created_at", "seq"),
)

users = Table(
    "users",
    metadata,
    seq(),
    row_id(),
    organization_id(),
    Column("name", String, nullable=False),
    Column("email", String, nullable=False),
    Column("role", String, nullable=False),
    created_at(),
    flag("is_service_account"),
    Column("project_id", String, ForeignKey("projects.id")),
    Index(None, "organization_id", "created_at", "seq"),
)

memberships = Table(
    "memberships",
    metadata,
    Column("project_id", String, ForeignKey("projects.id"), primary_key=True),
    Column("user_id", String, ForeignKey("users.id"), primary_key=True),
    Column("role", String, nullable=False),
    created_at(),
)

api_keys = Table(
    "api_keys",
    metadata,
    seq(),
    row_id(),
    organization_id(),
    Column("project_id", String, ForeignKey("projects.id")),
    Column("user_id", String, ForeignKey("users.id")),
    Column("name", String, nullable=False),
    Column("prefix", String, nullable=False, unique=True),
    Column("hash", String, nullable=False),
    Column("hint", String, nullable=False),
    created_at(),
    Column("role", String, nullable=False),
    Column("scopes", Json, nullable=False),
    Column("expires_at", BigInteger),
    Column("revoked_at", BigInteger),
    Column("last_used_at", BigInteger),
    flag("is_admin"),
    Index(None, "project_id", "created_at", "seq"),
    Index(None, "organization_id", "created_at", "seq"),
)

# ---- files
files = Table(
    "files",
    metadata,
    seq(),
    row_id(),
    project_id(),
    created_at(),
    Column("filename", String, nullable=False),
    Column("purpose", String, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("sha256", String, nullable=False),
    Column("blob", String, nullable=False),
    Column("expires_at", BigInteger),
    Column("status", String, nullable=False),
    Column("status_details", String),
    Column("num_rows", BigInteger),
    Index(None, "project_id", "created_at", "seq"),
    Index(None, "project_id", "purpose", "created_at", "seq"),
    Index("ix_files_expires_at", "expires_at"),
)

uploads = Table(
    "uploads",
    metadata,
    seq(),
    row_id(),
    project_id(),
    created_at(),
    Column("expires_at", BigInteger, nullable=False),
    Column("filename", String, nullable=False),
    Column("purpose", String, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("mime_type", String, nullable=False),
    Column("status", String, nullable=False),
    Column("file_id", String),
    Column("file_expires_after_s", BigInteger),
    Index(None, "status", "expires_at"),
)

upload_parts = Table(
    "upload_parts",
    metadata,
    seq(),
    row_id(),
    Column("upload_id", String, ForeignKey("uploads.id", ondelete="CASCADE"), nullable=False, index=True),
    created_at(),
    Column("bytes", BigInteger, nullable=False),
    Column("blob", String, nullable=False),
)

storage_reservations = Table(
    "storage_reservations",
    metadata,
    Column("id", String, primary_key=True),
    project_id(),
    Column("bytes", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Index(None, "project_id"),
)

# ---- jobs
jobs = Table(
    "jobs",
    metadata,
    seq(),
    row_id(),
    project_id(),
    organization_id(),
    created_at(),
    Column("status", String, nullable=False),
    Column("model", String, nullable=False),
    Column("base_model", String, nullable=False),
    Column("training_file", String, nullable=False),
    Column("validation_file", String),
    Column("method", String, nullable=False),
    Column("hyperparameters", Json, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("suffix", String),
    Column("display_name", String),
    Column("created_by", String),
    Column("finished_at", BigInteger),
    Column("started_at", BigInteger),
    Column("estimated_finish", BigInteger),
    Column("fine_tuned_model", String),
    Column("trained_tokens", BigInteger),
    Column("result_files", Json, nullable=False),
    Column("error", Json),
    Column("metadata", Json),
    Column("integrations", Json),
    flag("cancel_requested"),
    flag("pause_requested"),
    Column("paused_at", BigInteger),
    count("paused_s"),
    flag("resumable"),
    flag("validated"),  # where a paused job goes when it is resumed
    Column("worker_id", String),
    Column("lease_expires_at", Float),
    count("attempts"),
    Column("died_at_step", BigInteger),
    count("step"),
    Column("total_steps", BigInteger),
    Column("details", Json, nullable=False),
    Index(None, "project_id", "created_at", "seq"),
    Index(None, "status", "created_at", "seq"),
)

job_events = Table(
    "job_events",
    metadata,
    seq(),
    row_id(),
    Column("job_id", String, ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    created_at(),
    Column("level", String, nullable=False),
    Column("type", String, nullable=False),
    Column("message", String, nullable=False),
    Column("data", Json),
    Column("text", Json),  # what the message was made from: its key and values
    Index(None, "job_id", "seq"),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    seq(),
    row_id(),
    Column("job_id", String, ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    created_at(),
    Column("step_number", BigInteger, nullable=False),
    Column("fine_tuned_model_checkpoint", String, nullable=False),
    Column("metrics", Json, nullable=False),
    UniqueConstraint("job_id", "step_number"),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("project_id", String, ForeignKey("projects.id"), primary_key=True),
    Column("key", String, primary_key=True),
    Column("request_hash", String, nullable=False),
    Column("job_id", String, nullable=False),
    created_at(),
)

workers = Table(
    "workers",
    metadata,
    Column("id", String, primary_key=True),
    Column("host", String, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("seen_at", Float, nullable=False),
)

# ---- models
models = Table(
    "models",
    metadata,
    seq(),
    row_id(),
    Column("name", String, nullable=False, unique=True),
    project_id(),
    created_at(),
    Column("base_model", String, nullable=False),
    Column("source", String, nullable=False),
    Column("job_id", String, index=True),
    Column("step_number", BigInteger),
    Column("blob", String, nullable=False),
    Column("owned_by", String, nullable=False),
    count("trained_tokens"),
    Column("display_name", String),
    count("num_bytes"),
    Index(None, "project_id", "created_at", "seq"),
)

checkpoint_permissions = Table(
    "checkpoint_permissions",
    metadata,
    seq(),
    row_id(),
    Column("model_name", String, ForeignKey("models.name", ondelete="CASCADE"), nullable=False),
    project_id(),
    created_at(),
    UniqueConstraint("model_name", "project_id"),
    Index(None, "project_id"),
)

aliases = Table(
    "aliases",
    metadata,
    Column("project_id", String, ForeignKey("projects.id"), primary_key=True),
    Column("name", String, primary_key=True),
    Column("target", String, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    created_at(),
)

alias_changes = Table(
    "alias_changes",
    metadata,
    seq(),
    project_id(),
    Column("name", String, nullable=False),
    Column("target", String),  # null: the alias was removed
    Column("reason", String, nullable=False),
    Column("changed_by", String),
    created_at(),
    Index(None, "project_id", "name", "seq"),
)

# ---- outbox
outbox = Table(
    "outbox",
    metadata,
    seq(),
    row_id(),
    project_id(),
    created_at(),
    Column("kind", String, nullable=False),
    Column("topic", String, nullable=False),
    Column("payload", Json, nullable=False),
    Column("endpoint_id", String),
    Column("recipient", String),
    Column("status", String, nullable=False),
    count("attempts"),
    Column("next_attempt_at", Float, nullable=False),
    Column("worker_id", String),
    Column("lease_expires_at", Float),
    Column("finished_at", BigInteger),
    Column("last_error", String),
    Index(None, "status", "next_attempt_at"),
    Index(None, "project_id", "seq"),
)

deliveries = Table(
    "deliveries",
    metadata,
    seq(),
    row_id(),
    Column("outbox_id", String, ForeignKey("outbox.id", ondelete="CASCADE"), nullable=False),
    Column("endpoint_id", String),
    created_at(),
    Column("attempt", Integer, nullable=False),
    Column("status_code", Integer),  # null: no answer, or a mail
    Column("error", String),
    Column("error_text", Json),
    Column("duration_ms", BigInteger, nullable=False),
    Index(None, "outbox_id", "seq"),
    Index(None, "endpoint_id", "seq"),
)

webhook_endpoints = Table(
    "webhook_endpoints",
    metadata,
    seq(),
    row_id(),
    project_id(),
    Column("name", String, nullable=False),
    Column("url", String, nullable=False),
    Column("event_types", Json, nullable=False),
    created_at(),
    Column("updated_at", BigInteger),
    Column("secret", String, nullable=False),  # encrypted: store.secrets
    Column("old_secret", String),  # encrypted
    Column("old_secret_expires_at", BigInteger),
    Index(None, "project_id", "created_at", "seq"),
)

secrets_proof = Table(
    "secrets_proof",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),  # 1: there is one row
    Column("proof", String, nullable=False),  # known words, encrypted with the key that the secrets have
)

# ---- inference
stored_completions = Table(
    "stored_completions",
    metadata,
    seq(),
    row_id(),
    project_id(),
    created_at(),
    Column("model", String, nullable=False),
    Column("request", Json, nullable=False),
    Column("response", Json, nullable=False),
    Column("metadata", Json),
    count("bytes"),
    Index(None, "project_id", "created_at", "seq"),
    Index(None, "project_id", "bytes"),
)

# ---- metering
usage_records = Table(
    "usage_records",
    metadata,
    seq(),
    Column("request_id", String, nullable=False, unique=True),  # the server's own: a repeated write counts once
    Column("client_request_id", String),  # the client's: its retry of an answer that it never got replaces this row
    flag("is_delivered"),
    Column("kind", String, nullable=False),  # completion, training
    project_id(),
    Column("user_id", String, nullable=False),
    Column("api_key_id", String, nullable=False),
    Column("model", String, nullable=False),
    flag("is_batch"),
    created_at(),
    count("input_tokens"),  # cached ones included
    count("cached_tokens"),
    count("output_tokens"),
    count("trained_tokens"),
    count("input_cost"),  # costs: millionths of a millionth of the currency, so that they are exact
    count("cached_cost"),
    count("output_cost"),
    count("training_cost"),
    Column("currency", String, nullable=False),
    Index(None, "project_id", "created_at", "seq"),
    Index(
        "uq_usage_records_undelivered",
        "project_id",
        "client_request_id",
        unique=True,
        sqlite_where=text("client_request_id IS NOT NULL AND NOT is_delivered"),
        postgresql_where=text("client_request_id IS NOT NULL AND NOT is_delivered"),
    ),
)

usage_rollups = Table(
    "usage_rollups",
    metadata,
    Column("width_s", Integer, primary_key=True),  # 60, 3600 or 86400
    Column("start_time", BigInteger, primary_key=True),
    Column("project_id", String, ForeignKey("projects.id"), primary_key=True),
    Column("user_id", String, primary_key=True),
    Column("api_key_id", String, primary_key=True),
    Column("model", String, primary_key=True),
    Column("is_batch", Boolean, primary_key=True),
    count("num_requests"),
    count("input_tokens"),
    count("cached_tokens"),
    count("output_tokens"),
    count("trained_tokens"),
    count("input_cost"),
    count("cached_cost"),
    count("output_cost"),
    count("training_cost"),
    Column("currency", String, nullable=False),
    Index(None, "project_id", "width_s", "start_time"),
)

limits = Table(
    "limits",
    metadata,
    Column("subject_id", String, primary_key=True),  # a project's or a key's id; null below: the setting decides
    Column("requests_per_minute", BigInteger),
    Column("tokens_per_minute", BigInteger),
    Column("max_running_jobs", BigInteger),
    Column("max_jobs_per_day", BigInteger),
    Column("max_storage_bytes", BigInteger),
    Column("monthly_budget", BigInteger),  # millionths of the currency
    Column("warning_percent", Integer),
    Column("updated_at", BigInteger, nullable=False),
)

budget_warnings = Table(
    "budget_warnings",
    metadata,
    Column("project_id", String, ForeignKey("projects.id"), primary_key=True),
    Column("month", BigInteger, primary_key=True),  # its first second
    Column("percent", Integer, primary_key=True),
    created_at(),
)

rate_buckets = Table(
    "rate_buckets",
    metadata,
    Column("subject_id", String, primary_key=True),  # a project's or a key's id
    Column("unit", String, primary_key=True),  # requests or tokens
    Column("left", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
)

audit_log = Table(
    "audit_log",
    metadata,
    seq(),
    row_id(),
    organization_id(),
    Column("project_id", String),
    created_at(),
    Column("type", String, nullable=False),
    Column("actor", Json, nullable=False),
    Column("resource_id", String),
    Column("details", Json, nullable=False),
    Index(None, "organization_id", "created_at", "seq"),
)
