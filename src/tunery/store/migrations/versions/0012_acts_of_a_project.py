"""How many acts of a project the audit log holds is counted with what the project stores."""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(op.f("ix_audit_log_project_id"), "audit_log", ["project_id"], unique=False)
