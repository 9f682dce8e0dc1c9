"""Every table. Times are Unix seconds; `seq` is the order of insertion, which created_at alone does not tell.

Migrations, not this file, make the schema; a test holds the two equal.
"""

from sqlalchemy import BigInteger, Boolean, Column, ForeignKey, Index, Integer, String, UniqueConstraint, text

from tunery.store import eval_tables, file_tables, job_tables
from tunery.store.columns import (
    counts,
    created_at,
    flags,
    floats,
    integers,
    jsons,
    organization_id,
    project_id,
    seq,
    seq_and_id,
    served_jsons,
    small_integers,
    strings,
    table,
)

# ---- tenants
organizations = table("organizations", seq_and_id(), strings("name", "slug"), created_at())

projects = table(
    "projects",
    seq_and_id(),
    organization_id(),
    strings("name"),
    created_at(),
    integers("archived_at", null=True),
    floats("last_claimed_at", null=True),  # when a job of it last came to a worker: who has waited longest is next
    Index(None, "organization_id", "created_at", "seq"),
)

users = table(
    "users",
    seq_and_id(),
    organization_id(),
    strings("name", "email", "role"),
    created_at(),
    flags("is_service_account"),
    Column("project_id", String, ForeignKey("projects.id")),
    Index(None, "organization_id", "created_at", "seq"),
)

memberships = table(
    "memberships",
    project_id(key=True),
    Column("user_id", String, ForeignKey("users.id"), primary_key=True),
    strings("role"),
    created_at(),
)

api_keys = table(
    "api_keys",
    seq_and_id(),
    organization_id(),
    Column("project_id", String, ForeignKey("projects.id")),
    Column("user_id", String, ForeignKey("users.id")),
    strings("name"),
    Column("prefix", String, nullable=False, unique=True),
    strings("hash", "hint"),
    created_at(),
    strings("role"),
    jsons("scopes"),
    integers("expires_at", "revoked_at", "last_used_at", null=True),
    flags("is_admin"),
    Index(None, "project_id", "created_at", "seq"),
    Index(None, "organization_id", "created_at", "seq"),
)

# ---- files
files = table(
    "files",
    seq_and_id(),
    project_id(),
    created_at(),
    strings("filename", "purpose"),
    integers("bytes"),
    strings("sha256", "blob"),
    integers("expires_at", null=True),
    strings("status"),
    strings("status_details", null=True),
    integers("num_rows", null=True),
    jsons("split_from", null=True),
    Index(None, "project_id", "created_at", "seq"),
    Index(None, "project_id", "purpose", "created_at", "seq"),
    Index("ix_files_expires_at", "expires_at"),
)

storage_reservations = table(
    "storage_reservations",
    Column("id", String, primary_key=True),
    project_id(),
    integers("bytes", "expires_at"),
    Index(None, "project_id"),
)

# ---- jobs
jobs = table(
    "jobs",
    seq_and_id(),
    project_id(),
    organization_id(),
    created_at(),
    strings("status", "model", "base_model", "training_file"),
    strings("validation_file", null=True),
    strings("method"),
    jsons("hyperparameters"),
    integers("seed"),
    strings("suffix", "display_name", "notes", "created_by", null=True),
    Column("tags", String, nullable=False, server_default=""),  # one a line, so that they are searched as they read
    integers("finished_at", "started_at", "estimated_finish", null=True),
    strings("fine_tuned_model", null=True),
    integers("trained_tokens", null=True),
    jsons("result_files"),
    jsons("error", "metadata", "integrations", "sample_prompts", null=True),
    flags("cancel_requested", "pause_requested"),
    integers("paused_at", null=True),
    counts("paused_s"),
    flags("resumable"),
    flags("validated"),  # where a paused job goes when it is resumed
    strings("worker_id", null=True),
    floats("lease_expires_at", null=True),
    counts("attempts"),
    integers("died_at_step", null=True),
    counts("step"),
    integers("total_steps", null=True),
    jsons("details"),
    Index(None, "project_id", "created_at", "seq"),
    Index(None, "status", "created_at", "seq"),
)

job_events = table(
    "job_events",
    seq_and_id(),
    Column("job_id", String, ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    created_at(),
    strings("level", "type", "message"),
    jsons("data", null=True),
    jsons("text", null=True),  # what the message was made from: its key and values
    Index(None, "job_id", "seq"),
)

checkpoints = table(
    "checkpoints",
    seq_and_id(),
    Column("job_id", String, ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    created_at(),
    integers("step_number"),
    strings("fine_tuned_model_checkpoint"),
    jsons("metrics"),
    UniqueConstraint("job_id", "step_number"),
)

idempotency_keys = table(
    "idempotency_keys",
    project_id(key=True),
    Column("key", String, primary_key=True),
    strings("request_hash", "job_id"),
    created_at(),
)

workers = table("workers", Column("id", String, primary_key=True), strings("host"), floats("started_at", "seen_at"))

# ---- models
models = table(
    "models",
    seq_and_id(),
    Column("name", String, nullable=False, unique=True),
    project_id(),
    created_at(),
    strings("base_model", "source"),
    Column("job_id", String, index=True),
    integers("step_number", null=True),
    strings("blob", "owned_by"),
    counts("trained_tokens", "num_bytes"),
    strings("display_name", "card", null=True),
    jsons("base_sha256", null=True),
    Index(None, "project_id", "created_at", "seq"),
)

checkpoint_permissions = table(
    "checkpoint_permissions",
    seq_and_id(),
    Column("model_name", String, ForeignKey("models.name", ondelete="CASCADE"), nullable=False),
    project_id(),
    created_at(),
    UniqueConstraint("model_name", "project_id"),
    Index(None, "project_id"),
)

aliases = table(
    "aliases",
    project_id(key=True),
    Column("name", String, primary_key=True),
    strings("target"),
    integers("updated_at"),
    created_at(),
)

alias_changes = table(
    "alias_changes",
    seq(),
    project_id(),
    strings("name"),
    strings("target", null=True),  # null: the alias was removed
    strings("reason"),
    strings("changed_by", null=True),
    created_at(),
    Index(None, "project_id", "name", "seq"),
)

# ---- outbox
outbox = table(
    "outbox",
    seq_and_id(),
    project_id(),
    created_at(),
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
    Index(None, "status", "next_attempt_at"),
    Index(None, "project_id", "seq"),
)

deliveries = table(
    "deliveries",
    seq_and_id(),
    Column("outbox_id", String, ForeignKey("outbox.id", ondelete="CASCADE"), nullable=False),
    strings("endpoint_id", null=True),
    created_at(),
    small_integers("attempt"),
    small_integers("status_code", null=True),  # null: no answer, or a mail
    strings("error", null=True),
    jsons("error_text", null=True),
    integers("duration_ms"),
    Index(None, "outbox_id", "seq"),
    Index(None, "endpoint_id", "seq"),
)

webhook_endpoints = table(
    "webhook_endpoints",
    seq_and_id(),
    project_id(),
    strings("name", "url"),
    jsons("event_types"),
    created_at(),
    integers("updated_at", null=True),
    strings("secret"),  # encrypted: store.secrets
    strings("old_secret", null=True),  # encrypted
    integers("old_secret_expires_at", null=True),
    Index(None, "project_id", "created_at", "seq"),
)

secrets_proof = table(
    "secrets_proof",
    Column("id", Integer, primary_key=True, autoincrement=False),  # 1: there is one row
    strings("proof"),  # known words, encrypted with the key that the secrets have
)

# ---- inference
stored_completions = table(
    "stored_completions",
    seq_and_id(),
    project_id(),
    created_at(),
    strings("model"),
    served_jsons("request", "response"),
    jsons("metadata", null=True),
    counts("bytes"),
    Index(None, "project_id", "created_at", "seq"),
    Index(None, "project_id", "bytes"),
)

responses = table(
    "responses",
    seq_and_id(),
    project_id(),
    created_at(),
    strings("model", "status"),
    served_jsons("body"),  # without its output, which lies in response_items
    jsons("metadata", null=True),
    strings("previous_response_id", null=True),  # may be gone
    flags("is_background"),
    integers("seen_at", null=True),  # of those under way: when their process last said that it works on them
    counts("bytes"),
    Index(None, "project_id", "created_at", "seq"),
    Index(None, "project_id", "bytes"),
    Index(None, "created_at"),
    Index(
        "ix_responses_under_way",
        "seen_at",
        sqlite_where=text("status IN ('queued', 'in_progress')"),
        postgresql_where=text("status IN ('queued', 'in_progress')"),
    ),
)

batches = table(
    "batches",
    seq_and_id(),
    project_id(),
    created_at(),
    strings("status", "endpoint", "input_file_id"),
    integers("expires_at"),
    strings("api_key_id"),
    strings("created_by", null=True),
    integers("output_lifetime_s"),
    jsons("metadata", null=True),
    strings("model", null=True),
    served_jsons("errors"),
    strings("output_file_id", "error_file_id", null=True),
    integers("in_progress_at", "finalizing_at", "completed_at", "failed_at", "expired_at", null=True),
    integers("cancelling_at", "cancelled_at", null=True),
    counts("num_requests", "num_completed", "num_failed", "input_tokens", "cached_tokens", "output_tokens"),
    strings("worker_id", null=True),
    floats("lease_expires_at", null=True),
    Index(None, "project_id", "created_at", "seq"),
    Index(None, "status", "created_at"),
)

batch_results = table(
    "batch_results",  # of batches that have not ended: then they lie in files
    Column("batch_id", String, ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True),
    Column("line", Integer, primary_key=True),
    flags("is_failed"),
    strings("content"),
    counts("bytes"),
)

transfers = table(
    "transfers",
    seq_and_id(),
    project_id(),
    created_at(),
    strings("kind", "status"),  # export, import, base; queued, running, succeeded, failed
    served_jsons("asked"),
    strings("created_by", "model", "file_id", "worker_id", null=True),
    jsons("progress", "error", "result", null=True),
    integers("finished_at", null=True),
    counts("attempts"),
    floats("lease_expires_at", null=True),
    Index(None, "project_id", "created_at", "seq"),
    Index(None, "status", "created_at"),
)

conversations = table(
    "conversations",
    seq_and_id(),
    project_id(),
    created_at(),
    jsons("metadata", null=True),
    strings("used_by", null=True),  # the response that is being answered in it
    integers("used_until", null=True),
    Index(None, "project_id", "created_at", "seq"),
)

response_items = table(
    "response_items",
    seq(),
    strings("id"),  # not unique: an answer's items come back as input
    project_id(),
    created_at(),
    strings("response_id", null=True),
    strings("direction"),  # input, output
    strings("conversation_id", null=True),  # may be gone
    served_jsons("item"),
    counts("bytes"),
    Index(None, "project_id", "id"),
    Index(None, "response_id", "seq"),
    Index(None, "conversation_id", "created_at", "seq"),
    Index(None, "project_id", "bytes"),
)

response_events = table(
    "response_events",
    seq(),
    Column("response_id", String, ForeignKey("responses.id", ondelete="CASCADE"), nullable=False),
    integers("last_number"),  # sequence_number of the last of these events
    served_jsons("events"),
    Index(None, "response_id", "last_number"),
)

# ---- metering
usage_records = table(
    "usage_records",
    seq(),
    Column("request_id", String, nullable=False, unique=True),  # the server's own: a repeated write counts once
    strings("client_request_id", null=True),  # the client's: its retry of an answer that it never got replaces this row
    flags("is_delivered"),
    strings("kind"),  # completion, training
    project_id(),
    strings("user_id", "api_key_id", "model"),
    flags("is_batch"),
    created_at(),
    counts("input_tokens"),  # cached ones included
    counts("cached_tokens", "output_tokens", "trained_tokens"),
    counts("input_cost"),  # costs: millionths of a millionth of the currency, so that they are exact
    counts("cached_cost", "output_cost", "training_cost"),
    strings("currency"),
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

usage_rollups = table(
    "usage_rollups",
    Column("width_s", Integer, primary_key=True),  # 60, 3600 or 86400
    Column("start_time", BigInteger, primary_key=True),
    project_id(key=True),
    Column("user_id", String, primary_key=True),
    Column("api_key_id", String, primary_key=True),
    Column("model", String, primary_key=True),
    Column("is_batch", Boolean, primary_key=True),
    counts("num_requests", "input_tokens", "cached_tokens", "output_tokens", "trained_tokens"),
    counts("input_cost", "cached_cost", "output_cost", "training_cost"),
    strings("currency"),
    Index(None, "project_id", "width_s", "start_time"),
)

limits = table(
    "limits",
    Column("subject_id", String, primary_key=True),  # a project's or a key's id; null below: the setting decides
    integers("requests_per_minute", "tokens_per_minute", "max_running_jobs", "max_jobs_per_day", null=True),
    integers("max_storage_bytes", null=True),
    integers("monthly_budget", null=True),  # millionths of the currency
    small_integers("warning_percent", null=True),
    integers("updated_at"),
)

budget_warnings = table(
    "budget_warnings",
    project_id(key=True),
    Column("month", BigInteger, primary_key=True),  # its first second
    Column("percent", Integer, primary_key=True),
    created_at(),
)

rate_buckets = table(
    "rate_buckets",
    Column("subject_id", String, primary_key=True),  # a project's or a key's id
    Column("unit", String, primary_key=True),  # requests or tokens
    floats("left", "updated_at"),
)

audit_log = table(
    "audit_log",
    seq_and_id(),
    organization_id(),
    strings("project_id", null=True),
    created_at(),
    strings("type"),
    jsons("actor"),
    strings("resource_id", null=True),
    jsons("details"),
    Index(None, "organization_id", "created_at", "seq"),
    Index(None, "project_id"),
)

dashboard_values = table(
    "dashboard_values",
    Column("owner", String, primary_key=True),
    Column("name", String, primary_key=True),
    strings("value"),
    floats("expires_at"),
    Index("ix_dashboard_values_expires_at", "expires_at"),
)
metadata = (eval_tables.evals, file_tables.uploads, job_tables.job_samples)[0].metadata  # of all, theirs included
