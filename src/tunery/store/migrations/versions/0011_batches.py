"""Batches, and what came of their requests until it lies in files."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
SEQUENCE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIMES = ("in_progress_at", "finalizing_at", "completed_at", "failed_at", "expired_at", "cancelling_at", "cancelled_at")
COUNTS = ("num_requests", "num_completed", "num_failed", "input_tokens", "cached_tokens", "output_tokens")

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "batches",
        sa.Column("seq", SEQUENCE, autoincrement=True, nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        *(sa.Column(name, sa.String(), nullable=False) for name in ("status", "endpoint", "input_file_id")),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("api_key_id", sa.String(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=True),
        sa.Column("output_lifetime_s", sa.BigInteger(), nullable=False),
        sa.Column("metadata", JSON, nullable=True),
        sa.Column("model", sa.String(), nullable=True),
        sa.Column("errors", JSON, nullable=False),
        *(sa.Column(name, sa.String(), nullable=True) for name in ("output_file_id", "error_file_id")),
        *(sa.Column(name, sa.BigInteger(), nullable=True) for name in TIMES),
        *(sa.Column(name, sa.BigInteger(), server_default=sa.text("0"), nullable=False) for name in COUNTS),
        sa.Column("worker_id", sa.String(), nullable=True),
        sa.Column("lease_expires_at", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_batches_project_id")),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_batches")),
        sa.UniqueConstraint("id", name=op.f("uq_batches_id")),
    )
    for columns in (("project_id", "created_at", "seq"), ("status", "created_at")):
        op.create_index(op.f(f"ix_batches_{'_'.join(columns)}"), "batches", list(columns), unique=False)
    op.create_table(
        "batch_results",
        sa.Column("batch_id", sa.String(), nullable=False),
        sa.Column("line", sa.Integer(), nullable=False),
        sa.Column("is_failed", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("content", sa.String(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.ForeignKeyConstraint(
            ["batch_id"], ["batches.id"], name=op.f("fk_batch_results_batch_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("batch_id", "line", name=op.f("pk_batch_results")),
    )
