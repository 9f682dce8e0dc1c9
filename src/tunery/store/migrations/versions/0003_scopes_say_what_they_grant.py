"""A key without scopes could do everything; now `api.all` says that, and no scopes grant nothing."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
api_keys = sa.table("api_keys", sa.column("seq", sa.BigInteger), sa.column("scopes", JSON))


def upgrade() -> None:
    conn = op.get_bind()
    for row in conn.execute(sa.select(api_keys.c.seq, api_keys.c.scopes)).all():
        if not row.scopes:
            conn.execute(sa.update(api_keys).where(api_keys.c.seq == row.seq).values(scopes=["api.all"]))
