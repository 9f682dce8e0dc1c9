"""Evals, their runs, and what came of each row."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

SERVED_JSON = sa.JSON(none_as_null=True)
JSON = SERVED_JSON.with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
SEQUENCE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def _strings(*names: str, null: bool = False) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.String(), nullable=null) for name in names]


def _jsons(*names: str, served: bool = False, null: bool = False) -> list[sa.Column[Any]]:
    return [sa.Column(name, SERVED_JSON if served else JSON, nullable=null) for name in names]


def _integers(*names: str, null: bool = False) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.BigInteger(), nullable=null) for name in names]


def _counts(*names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.BigInteger(), server_default=sa.text("0"), nullable=False) for name in names]


def _owned(table: str) -> list[sa.Constraint]:
    return [
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f(f"fk_{table}_project_id")),
        sa.PrimaryKeyConstraint("seq", name=op.f(f"pk_{table}")),
        sa.UniqueConstraint("id", name=op.f(f"uq_{table}_id")),
    ]


def _parent(table: str, column: str, parent: str) -> sa.Constraint:
    return sa.ForeignKeyConstraint([column], [f"{parent}.id"], name=op.f(f"fk_{table}_{column}"), ondelete="CASCADE")


def _index(table: str, *columns: str) -> None:
    op.create_index(op.f(f"ix_{table}_{'_'.join(columns)}"), table, list(columns), unique=False)


def upgrade() -> None:
    op.create_table(
        "evals",
        sa.Column("seq", SEQUENCE, autoincrement=True, nullable=False),
        *_strings("id", "project_id"),
        *_integers("created_at", "updated_at"),
        *_strings("name"),
        *_jsons("data_source_config", "testing_criteria", served=True),
        *_jsons("metadata", null=True),
        *_owned("evals"),
    )
    _index("evals", "project_id", "created_at", "seq")
    op.create_table(
        "eval_runs",
        sa.Column("seq", SEQUENCE, autoincrement=True, nullable=False),
        *_strings("id", "eval_id", "project_id"),
        *_integers("created_at"),
        *_strings("status", "name", "model"),
        *_jsons("data_source", served=True),
        *_strings("api_key_id"),
        *_strings("created_by", null=True),
        *_jsons("metadata", "error", null=True),
        *_integers("started_at", "finished_at", null=True),
        *_jsons("answer_ids", null=True),
        *_counts("num_rows", "num_passed", "num_failed", "num_errored"),
        *_jsons("criteria", "usage", served=True),
        *_counts("bytes"),
        *_strings("worker_id", null=True),
        sa.Column("lease_expires_at", sa.Float(), nullable=True),
        _parent("eval_runs", "eval_id", "evals"),
        *_owned("eval_runs"),
    )
    for columns in (("eval_id", "created_at", "seq"), ("status", "created_at"), ("project_id", "bytes")):
        _index("eval_runs", *columns)
    op.create_table(
        "eval_output_items",
        sa.Column("seq", SEQUENCE, autoincrement=True, nullable=False),
        *_strings("id", "run_id", "project_id"),
        *_integers("created_at"),
        *_strings("status"),
        *_integers("row"),
        *_jsons("item", "results", "sample", served=True),
        *_counts("bytes"),
        _parent("eval_output_items", "run_id", "eval_runs"),
        *_owned("eval_output_items"),
        sa.UniqueConstraint("run_id", "row", name=op.f("uq_eval_output_items_run_id_row")),
    )
    for columns in (("run_id", "created_at", "seq"), ("project_id", "bytes")):
        _index("eval_output_items", *columns)
