"""The columns that many tables have, and the naming of what the database makes of them.

Apart because `tables.py` then holds the tables alone.
"""

from itertools import chain
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.schema import SchemaItem

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

ServedJson = JSON(none_as_null=True)
Json = ServedJson.with_variant(JSONB(none_as_null=True), "postgresql")
Sequence = BigInteger().with_variant(Integer, "sqlite")  # only INTEGER PRIMARY KEY counts by itself there


def table(name: str, *parts: SchemaItem | list[Column[Any]]) -> Table:
    """A table of its columns and what else belongs to it, in this order."""
    items = chain.from_iterable(part if isinstance(part, list) else [part] for part in parts)
    return Table(name, metadata, *items)


def _columns(type_: Any, names: tuple[str, ...], null: bool) -> list[Column[Any]]:
    return [Column(name, type_, nullable=null) for name in names]


def strings(*names: str, null: bool = False) -> list[Column[Any]]:
    return _columns(String, names, null)


def integers(*names: str, null: bool = False) -> list[Column[Any]]:
    return _columns(BigInteger, names, null)


def small_integers(*names: str, null: bool = False) -> list[Column[Any]]:
    return _columns(Integer, names, null)


def floats(*names: str, null: bool = False) -> list[Column[Any]]:
    return _columns(Float, names, null)


def jsons(*names: str, null: bool = False) -> list[Column[Any]]:
    return _columns(Json, names, null)


def served_jsons(*names: str) -> list[Column[Any]]:
    """Of what clients send and models answer, to be given back to the character and never searched: Postgres' JSON
    keeps the text, where its JSONB refuses U+0000 and halves of surrogate pairs."""
    return _columns(ServedJson, names, False)


def flags(*names: str) -> list[Column[Any]]:
    return [Column(name, Boolean, nullable=False, server_default=text("false")) for name in names]


def counts(*names: str) -> list[Column[Any]]:
    return [Column(name, BigInteger, nullable=False, server_default=text("0")) for name in names]


def seq() -> Column[int]:
    return Column("seq", Sequence, primary_key=True, autoincrement=True)


def seq_and_id() -> list[Column[Any]]:
    return [seq(), Column("id", String, nullable=False, unique=True)]


def created_at() -> Column[int]:
    return Column("created_at", BigInteger, nullable=False)


def organization_id() -> Column[str]:
    return Column("organization_id", ForeignKey("organizations.id"), nullable=False)


def project_id(*, key: bool = False) -> Column[str]:
    """`key`: a part of the primary key."""
    return Column("project_id", ForeignKey("projects.id"), nullable=False, primary_key=key)
