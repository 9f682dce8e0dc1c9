"""Our own endpoints about datasets: their report, and splitting them."""

import asyncio
from collections.abc import Callable
from typing import IO, Any

from tunery.dashboard.connection import Connection
from tunery.datasets.lines import CHUNK_BYTES
from tunery.datasets.validate import validate_file

MAX_PROBLEMS = 50  # shown of a report
_one_at_a_time = asyncio.Semaphore(1)  # a report on a large file takes a core for a while

Progress = Callable[[int, int], None]
"""Bytes checked so far, and bytes in all."""


async def validate(
    connection: Connection,
    *,
    file_id: str,
    model: str = "",
    method: str = "",
    validation_share: float | None = None,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """The report on a file, or on what is left of it when a share is held back; with a model its tokens are counted as
    that model's base counts them."""
    given = {"file": file_id, "model": model, "method": method, "validation_share": validation_share}
    body: dict[str, Any] = {name: value for name, value in given.items() if value}
    return await report_from(connection, "/tunery/v1/validations", body | {"stream": True}, on_progress)


async def report_from(
    connection: Connection, path: str, body: dict[str, Any], on_progress: Progress | None = None
) -> dict[str, Any]:
    """Of an endpoint that tells how far it is before it gives the report."""
    report: dict[str, Any] = {}
    async for event in await connection.events(path, body):
        if "total_bytes" not in event:
            report = event
        elif on_progress is not None:
            on_progress(event["num_bytes"], event["total_bytes"])
    return report


async def report_of(file: IO[bytes]) -> dict[str, Any]:
    """The report on a file that the server does not take, as `tunery data check` gives it."""

    def check() -> dict[str, Any]:
        file.seek(0)
        chunks = iter(lambda: file.read(CHUNK_BYTES), b"")
        report = validate_file(chunks, method=None, num_processes=1)
        return report.to_dict() | {"object": "tunery.validation"}

    async with _one_at_a_time:
        return await asyncio.to_thread(check)


async def split(connection: Connection, file_id: str, share: float) -> dict[str, str]:
    """Two new files without near-duplicates across them: `training_file` and `validation_file`."""
    made = await connection.post(f"/tunery/v1/files/{file_id}/split", {"validation_share": share})
    return {name: made[name] for name in ("training_file", "validation_file")}
