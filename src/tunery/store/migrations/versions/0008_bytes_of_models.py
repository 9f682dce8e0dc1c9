"""Bytes of each model's adapter, so that a project's storage limit counts them."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("models", sa.Column("num_bytes", sa.BigInteger(), server_default=sa.text("0"), nullable=False))
