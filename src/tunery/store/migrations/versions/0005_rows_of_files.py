"""How many rows a file has, and its lists by purpose."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("files", sa.Column("num_rows", sa.BigInteger(), nullable=True))
    columns = ["project_id", "purpose", "created_at", "seq"]
    op.create_index(op.f("ix_files_project_id_purpose_created_at_seq"), "files", columns, unique=False)
