"""Notes and tags of jobs, cards of models, answers to their sample prompts, and the log of a trainer that failed."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("notes", sa.String(), nullable=True))
    op.add_column("jobs", sa.Column("tags", sa.String(), server_default="", nullable=False))
    op.add_column("jobs", sa.Column("sample_prompts", JSON, nullable=True))
    op.add_column("models", sa.Column("card", sa.String(), nullable=True))
    op.create_table(
        "job_samples",
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("prompt", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        *(sa.Column(name, sa.String(), nullable=False) for name in ("answer", "finish_reason")),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in ("prompt_tokens", "completion_tokens")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_job_samples_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "step", "prompt", name=op.f("pk_job_samples")),
    )
    op.create_table(
        "trainer_logs",
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("log", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_trainer_logs_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_trainer_logs")),
    )
