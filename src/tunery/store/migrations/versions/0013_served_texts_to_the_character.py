"""What was sent and answered is kept as it was: Postgres' JSONB has no U+0000 and no half of a surrogate pair."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

COLUMNS = (
    ("stored_completions", "request"),
    ("stored_completions", "response"),
    ("responses", "body"),
    ("response_items", "item"),
    ("response_events", "events"),
    ("batches", "errors"),
)

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if op.get_bind().dialect.name != "postgresql":  # SQLite keeps all JSON as text
        return
    for table, column in COLUMNS:
        op.alter_column(
            table, column, type_=sa.JSON(), existing_type=postgresql.JSONB(), postgresql_using=f"{column}::json"
        )
