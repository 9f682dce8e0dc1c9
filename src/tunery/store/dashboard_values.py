"""What the dashboard keeps of its visitors, for every api alike: values by owner and name, each until its time.

The dashboard says what owners and values are; what is nobody's business here comes encrypted. Apart because the store's
other tables have meanings of their own.
"""

from sqlalchemy import Connection, delete, select

from tunery.store.tables import dashboard_values
from tunery.store.upsert import insert_or

Values = dict[str, tuple[str, float]]  # name -> value and when it ends


def put_value(conn: Connection, owner: str, name: str, value: str, *, until: float) -> None:
    row = {"value": value, "expires_at": until}
    statement = insert_or(conn, dashboard_values).values(owner=owner, name=name, **row)
    conn.execute(statement.on_conflict_do_update(index_elements=["owner", "name"], set_=row))


def find_value(conn: Connection, owner: str, name: str, *, now: float) -> str | None:
    table = dashboard_values
    query = select(table.c.value).where(table.c.owner == owner, table.c.name == name, table.c.expires_at > now)
    return conn.execute(query).scalar_one_or_none()


def list_values(conn: Connection, owner: str, *, now: float) -> Values:
    """The ones that end first come first."""
    table = dashboard_values
    query = (
        select(table).where(table.c.owner == owner, table.c.expires_at > now).order_by(table.c.expires_at, table.c.name)
    )
    return {row.name: (row.value, row.expires_at) for row in conn.execute(query)}


def remove_values(conn: Connection, owner: str, name: str | None = None) -> None:
    """All of the owner's, or the one of this name."""
    mine = dashboard_values.c.owner == owner
    conn.execute(delete(dashboard_values).where(mine if name is None else mine & (dashboard_values.c.name == name)))


def remove_ended(conn: Connection, *, now: float) -> None:
    conn.execute(delete(dashboard_values).where(dashboard_values.c.expires_at <= now))
