"""Who is signed in at the dashboard, for every api alike."""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "dashboard_values",
        *(sa.Column(name, sa.String(), nullable=False) for name in ("owner", "name", "value")),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("owner", "name", name=op.f("pk_dashboard_values")),
    )
    op.create_index("ix_dashboard_values_expires_at", "dashboard_values", ["expires_at"])
