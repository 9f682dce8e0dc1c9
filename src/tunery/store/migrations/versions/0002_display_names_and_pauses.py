"""Display names of jobs and models, a job's pauses, and what a failed job goes on from."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("display_name", sa.String(), nullable=True))
    op.add_column("jobs", sa.Column("paused_at", sa.BigInteger(), nullable=True))
    op.add_column("jobs", sa.Column("paused_s", sa.BigInteger(), server_default=sa.text("0"), nullable=False))
    op.add_column("jobs", sa.Column("resumable", sa.Boolean(), server_default=sa.text("(false)"), nullable=False))
    op.add_column("jobs", sa.Column("died_at_step", sa.BigInteger(), nullable=True))
    op.add_column("models", sa.Column("display_name", sa.String(), nullable=True))
    # They were starts until now; from here on they are deaths of the trainer.
    op.execute("UPDATE jobs SET attempts = 0")
