"""The usage ledger and its sums by minute, hour and day, which change in the same transaction and so never differ."""

from dataclasses import fields
from functools import cache
from typing import Any

from sqlalchemy import Connection, Row, func, select, update

from tunery.domain.usage import Cost, TokenUsage, UsageRecord, UsageSum
from tunery.store.tables import projects, usage_records, usage_rollups
from tunery.store.upsert import insert_for

WIDTHS_S = (60, 3600, 86400)
GROUPS = ("project_id", "user_id", "api_key_id", "model", "is_batch")
TOKENS = ("input_tokens", "cached_tokens", "output_tokens", "trained_tokens")
COSTS = ("input", "cached", "output", "training")
_KEY = ("width_s", "start_time", *GROUPS)
_SUMS = ("num_requests", *TOKENS, *(f"{name}_cost" for name in COSTS))


def record_usage(conn: Connection, record: UsageRecord, *, replaces: str | None = None) -> bool:
    """Count the record once. False when its request_id was counted before.

    `replaces`: the request_id of a record whose answer did not arrive, see `find_undelivered`. Its client asked again
    because it had got nothing; when it is still there and undelivered, the new one takes its place.
    """
    if replaces is not None and (replaced := _replace_undelivered(conn, record, replaces)) is not None:
        _add_to_rollups(conn, (replaced, -1), (record, 1))
        return True
    if _insert(conn, record):
        _add_to_rollups(conn, (record, 1))
        return True
    return False


def _insert(conn: Connection, record: UsageRecord) -> bool:
    """False when the request_id is there. One undelivered record at most stands under a client's id: where two of its
    requests run at once, the second one stands under its own alone and can never be replaced."""
    row = _to_row(record)
    if conn.execute(_record_insert(conn.dialect.name), row).first() is not None:
        return True
    if record.client_request_id is None:
        return False
    return conn.execute(_record_insert(conn.dialect.name), row | {"client_request_id": None}).first() is not None


def find_undelivered(conn: Connection, project_id: str, client_request_id: str) -> str | None:
    """The request_id of the record under the client's id whose answer may not have arrived."""
    table = usage_records
    return conn.execute(
        select(table.c.request_id).where(
            table.c.project_id == project_id,
            table.c.client_request_id == client_request_id,
            ~table.c.is_delivered,
        )
    ).scalar_one_or_none()


def _replace_undelivered(conn: Connection, record: UsageRecord, request_id: str) -> UsageRecord | None:
    """The record that stood there."""
    table = usage_records
    row = conn.execute(
        select(table).where(table.c.request_id == request_id, ~table.c.is_delivered).with_for_update()
    ).first()
    if row is None:
        return None
    conn.execute(update(table).where(table.c.seq == row.seq).values(_to_row(record)))
    return _to_record(row)


def mark_delivered(conn: Connection, request_ids: list[str]) -> None:
    """Their answers went out whole: a later request with the same client_request_id is another one."""
    conn.execute(update(usage_records).where(usage_records.c.request_id.in_(request_ids)).values(is_delivered=True))


def _add_to_rollups(conn: Connection, *changes: tuple[UsageRecord, int]) -> None:
    """In the order of their keys, so that two transactions never wait for each other."""
    sums: dict[tuple[Any, ...], dict[str, int]] = {}
    for record, sign in changes:
        amounts, group = _amounts(record), _group_of(record)
        for width in WIDTHS_S:
            key = (width, record.created_at - record.created_at % width, *group)
            known = sums.setdefault(key, dict.fromkeys(_SUMS, 0))
            for name in _SUMS:
                known[name] += sign * amounts[name]
    currency = changes[-1][0].currency
    rows = [dict(zip(_KEY, key, strict=True)) | sums[key] | {"currency": currency} for key in sorted(sums)]
    conn.execute(_rollup_upsert(conn.dialect.name), rows)


# Made once a dialect: building them took longer than running them, in every completion.


@cache
def _record_insert(dialect: str) -> Any:
    return insert_for(dialect, usage_records).on_conflict_do_nothing().returning(usage_records.c.seq)


@cache
def _rollup_upsert(dialect: str) -> Any:
    statement = insert_for(dialect, usage_rollups)
    added = {name: usage_rollups.c[name] + statement.excluded[name] for name in _SUMS}
    return statement.on_conflict_do_update(index_elements=list(_KEY), set_=added)


def _group_of(record: UsageRecord) -> tuple[Any, ...]:
    return (record.project_id, record.user_id, record.api_key_id, record.model, record.is_batch)


def _amounts(record: UsageRecord) -> dict[str, int]:
    costs = {f"{name}_cost": value for name, value in vars(record.cost).items()}
    return {"num_requests": int(record.kind == "completion")} | vars(record.usage) | costs


def sum_usage(
    conn: Connection,
    organization_id: str,
    *,
    width_s: int,
    start: int,
    end: int,
    group_by: tuple[str, ...] = (),
    filters: dict[str, tuple[Any, ...]] | None = None,
    without_models: tuple[str, ...] = (),
) -> tuple[UsageSum, ...]:
    """By bucket of `width_s` and by the columns `group_by` (of GROUPS), buckets that start in [start, end), in order.

    `filters`: by column, the values that count. Training counts tokens but no request.
    """
    table = usage_rollups
    keys = [table.c.start_time, *(table.c[name] for name in group_by)]
    query = (
        select(*keys, *(func.sum(table.c[name]).label(name) for name in _SUMS), func.min(table.c.currency))
        .join(projects, projects.c.id == table.c.project_id)
        .where(
            projects.c.organization_id == organization_id,
            table.c.width_s == width_s,
            table.c.start_time >= start,
            table.c.start_time < end,
            *(table.c[name].in_(values) for name, values in (filters or {}).items()),
            table.c.model.not_in(without_models),
        )
        .group_by(*keys)
        .order_by(*keys)
    )
    return tuple(_to_sum(row, group_by) for row in conn.execute(query))


def spent_since(conn: Connection, project_id: str, start: int) -> int:
    """Millionths of a millionth of the currency; `start` at the beginning of a day (UTC)."""
    table = usage_rollups
    total = sum((table.c[f"{name}_cost"] for name in COSTS[1:]), start=table.c.input_cost)
    query = select(func.coalesce(func.sum(total), 0)).where(
        table.c.project_id == project_id, table.c.width_s == 86400, table.c.start_time >= start
    )
    return int(conn.execute(query).scalar_one())


def _to_row(record: UsageRecord) -> dict[str, Any]:
    plain = {name: value for name, value in vars(record).items() if name not in ("usage", "cost")}
    return plain | {name: value for name, value in _amounts(record).items() if name != "num_requests"}


def _to_record(row: Row[Any]) -> UsageRecord:
    plain = {
        field.name: getattr(row, field.name) for field in fields(UsageRecord) if field.name not in ("usage", "cost")
    }
    return UsageRecord(**plain, usage=_usage_of(row), cost=_cost_of(row))


def _to_sum(row: Row[Any], group_by: tuple[str, ...]) -> UsageSum:
    return UsageSum(
        start_time=row.start_time,
        group={name: getattr(row, name) for name in group_by},
        num_requests=int(row.num_requests),
        usage=_usage_of(row),
        cost=_cost_of(row),
        currency=row[-1],
    )


def _usage_of(row: Row[Any]) -> TokenUsage:
    return TokenUsage(*(int(getattr(row, name)) for name in TOKENS))


def _cost_of(row: Row[Any]) -> Cost:
    return Cost(*(int(getattr(row, f"{name}_cost")) for name in COSTS))
