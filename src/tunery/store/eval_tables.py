"""The tables of evals. Apart because `tables.py`, which has all others, is as long as a file may be."""

from sqlalchemy import Column, ForeignKey, Index, String, UniqueConstraint

from tunery.store.columns import (
    counts,
    created_at,
    floats,
    integers,
    jsons,
    project_id,
    seq_and_id,
    served_jsons,
    strings,
    table,
)

evals = table(
    "evals",
    seq_and_id(),
    project_id(),
    created_at(),
    integers("updated_at"),
    strings("name"),
    served_jsons("data_source_config", "testing_criteria"),
    jsons("metadata", null=True),
    counts("bytes"),
    Index(None, "project_id", "created_at", "seq"),
)

eval_runs = table(
    "eval_runs",
    seq_and_id(),
    Column("eval_id", String, ForeignKey("evals.id", ondelete="CASCADE"), nullable=False),
    project_id(),
    created_at(),
    strings("status", "name", "model"),
    served_jsons("data_source"),
    strings("api_key_id"),
    strings("created_by", null=True),
    jsons("metadata", "error", null=True),
    strings("job_id", "job_role", null=True),
    integers("started_at", "finished_at", null=True),
    jsons("answer_ids", null=True),
    counts("num_rows", "num_passed", "num_failed", "num_errored"),
    served_jsons("criteria", "usage"),  # counts by a criterion's id, and by a model's name
    counts("bytes"),
    strings("worker_id", null=True),
    floats("lease_expires_at", null=True),
    Index(None, "eval_id", "created_at", "seq"),
    Index(None, "status", "created_at"),
    Index(None, "job_id"),
    Index(None, "project_id", "bytes"),
)

eval_output_items = table(
    "eval_output_items",
    seq_and_id(),
    Column("run_id", String, ForeignKey("eval_runs.id", ondelete="CASCADE"), nullable=False),
    project_id(),
    created_at(),
    strings("status"),
    integers("row"),
    served_jsons("item", "results", "sample"),
    counts("bytes"),
    UniqueConstraint("run_id", "row"),
    Index(None, "run_id", "created_at", "seq"),
    Index(None, "project_id", "bytes"),
)
