"""Evals and the events of background responses count towards the storage of their project."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("evals", sa.Column("bytes", sa.BigInteger(), server_default=sa.text("0"), nullable=False))
    op.execute(
        "UPDATE evals SET bytes = length(CAST(data_source_config AS TEXT)) + length(CAST(testing_criteria AS TEXT))"
    )
    events = "SELECT SUM(length(CAST(events AS TEXT))) FROM response_events WHERE response_id = responses.id"
    op.execute(f"UPDATE responses SET bytes = bytes + COALESCE(({events}), 0) WHERE is_background")
