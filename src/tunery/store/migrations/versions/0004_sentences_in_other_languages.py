"""Of the sentences that the server keeps their keys and values, from which they can be worded in another language."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")


def upgrade() -> None:
    op.add_column("job_events", sa.Column("text", JSON, nullable=True))
    op.add_column("deliveries", sa.Column("error_text", JSON, nullable=True))
