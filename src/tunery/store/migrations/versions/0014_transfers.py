"""Exports and imports of models."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

SERVED = sa.JSON(none_as_null=True)
JSON = SERVED.with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
SEQUENCE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "transfers",
        sa.Column("seq", SEQUENCE, autoincrement=True, nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        *(sa.Column(name, sa.String(), nullable=False) for name in ("kind", "status")),
        sa.Column("asked", SERVED, nullable=False),
        *(sa.Column(name, sa.String(), nullable=True) for name in ("created_by", "model")),
        *(sa.Column(name, JSON, nullable=True) for name in ("progress", "error", "result")),
        sa.Column("file_id", sa.String(), nullable=True),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.Column("attempts", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("worker_id", sa.String(), nullable=True),
        sa.Column("lease_expires_at", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_transfers_project_id")),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_transfers")),
        sa.UniqueConstraint("id", name=op.f("uq_transfers_id")),
    )
    for columns in (("project_id", "created_at", "seq"), ("status", "created_at")):
        op.create_index(op.f(f"ix_transfers_{'_'.join(columns)}"), "transfers", list(columns), unique=False)
