"""Bytes of stored completions, and of what is arriving, so that a project's storage limit holds for them."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "stored_completions", sa.Column("bytes", sa.BigInteger(), server_default=sa.text("0"), nullable=False)
    )
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    size = "length(CAST({0} AS BLOB))" if is_sqlite else "octet_length(CAST({0} AS TEXT))"
    op.execute(f"UPDATE stored_completions SET bytes = {size.format('request')} + {size.format('response')}")
    op.create_index(
        op.f("ix_stored_completions_project_id_bytes"), "stored_completions", ["project_id", "bytes"], unique=False
    )
    op.create_table(
        "storage_reservations",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_storage_reservations_project_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_storage_reservations")),
    )
    op.create_index(op.f("ix_storage_reservations_project_id"), "storage_reservations", ["project_id"], unique=False)
