"""Notes and tags of jobs."""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("notes", sa.String(), nullable=True))
    op.add_column("jobs", sa.Column("tags", sa.String(), server_default="", nullable=False))
