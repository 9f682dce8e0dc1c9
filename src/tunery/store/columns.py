"""The columns that many tables have, and the naming of what the database makes of them.

Apart because `tables.py` then holds the tables alone.
"""

from sqlalchemy import JSON, BigInteger, Boolean, Column, ForeignKey, Integer, MetaData, String, text
from sqlalchemy.dialects.postgresql import JSONB

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
Sequence = BigInteger().with_variant(Integer, "sqlite")  # only INTEGER PRIMARY KEY counts by itself there


def seq() -> Column[int]:
    return Column("seq", Sequence, primary_key=True, autoincrement=True)


def row_id() -> Column[str]:
    return Column("id", String, nullable=False, unique=True)


def created_at() -> Column[int]:
    return Column("created_at", BigInteger, nullable=False)


def organization_id() -> Column[str]:
    return Column("organization_id", ForeignKey("organizations.id"), nullable=False)


def project_id() -> Column[str]:
    return Column("project_id", ForeignKey("projects.id"), nullable=False)


def flag(name: str) -> Column[bool]:
    return Column(name, Boolean, nullable=False, server_default=text("false"))


def count(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False, server_default=text("0"))
