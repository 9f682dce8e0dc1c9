"""The dashboard's values in the database that all apis share. Apart because the dashboard itself knows no database."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sqlalchemy import Connection, Engine

from tunery.domain.clock import Clock, system_clock
from tunery.store import dashboard_values as rows
from tunery.store.database import read, write

T = TypeVar("T")


class DatabaseValues:
    """One thread for all of them: what was typed is there when the next page asks for it."""

    def __init__(self, database: Engine, clock: Clock = system_clock) -> None:
        self._database, self._clock = database, clock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="dashboard-values")

    async def put(self, owner: str, name: str, value: str, *, until: float) -> None:
        await self._write(lambda conn: rows.put_value(conn, owner, name, value, until=until))

    async def find(self, owner: str, name: str) -> str | None:
        return await self._read(lambda conn: rows.find_value(conn, owner, name, now=self._clock()))

    async def list(self, owner: str) -> rows.Values:
        return await self._read(lambda conn: rows.list_values(conn, owner, now=self._clock()))

    async def remove(self, owner: str, name: str | None = None) -> None:
        await self._write(lambda conn: rows.remove_values(conn, owner, name))

    async def remove_ended(self) -> None:
        await self._write(lambda conn: rows.remove_ended(conn, now=self._clock()))

    async def _read(self, look: Callable[[Connection], T]) -> T:
        def looked() -> T:
            with read(self._database) as conn:
                return look(conn)

        return await asyncio.get_running_loop().run_in_executor(self._thread, looked)

    async def _write(self, act: Callable[[Connection], None]) -> None:
        def acted() -> None:
            with write(self._database) as conn:
                act(conn)

        await asyncio.get_running_loop().run_in_executor(self._thread, acted)
