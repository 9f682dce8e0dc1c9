"""The job that a run of an eval is run for."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name in ("job_id", "job_role"):
        op.add_column("eval_runs", sa.Column(name, sa.String(), nullable=True))
    op.create_index(op.f("ix_eval_runs_job_id"), "eval_runs", ["job_id"], unique=False)
