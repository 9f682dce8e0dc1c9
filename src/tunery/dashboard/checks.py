"""Our own endpoints about datasets: report, forecast, rows, split."""

from collections.abc import Callable
from typing import Any

from tunery.dashboard.connection import Connection

Progress = Callable[[int, int], None]
"""Bytes checked so far, and bytes in all."""


async def validate(
    connection: Connection, *, file_id: str, model: str = "", method: str = "", on_progress: Progress | None = None
) -> dict[str, Any]:
    """The report on a file; with a model its tokens are counted as that model's base counts them."""
    given = {"file": file_id, "model": model, "method": method}
    body: dict[str, Any] = {name: value for name, value in given.items() if value}
    report: dict[str, Any] = {}
    async for event in await connection.events("/tunery/v1/validations", body | {"stream": True}):
        if "valid" in event:
            report = event
        elif on_progress is not None:
            on_progress(event["num_bytes"], event["total_bytes"])
    return report


async def estimate(connection: Connection, job: dict[str, Any]) -> dict[str, Any]:
    """What the job that `job` would create comes to. Creates nothing."""
    return await connection.post("/tunery/v1/estimates", job)


async def rows(
    connection: Connection, file_id: str, *, model: str = "", search: str = "", after: int = 0, limit: int = 20
) -> dict[str, Any]:
    """Examples after line `after`, whose text contains `search`."""
    path = f"/tunery/v1/files/{file_id}/rows"
    return await connection.get(path, model=model, search=search, after=after, limit=limit)


async def split(connection: Connection, file_id: str, share: float) -> dict[str, str]:
    """Two new files without near-duplicates across them: `training_file` and `validation_file`."""
    return await connection.post(f"/tunery/v1/files/{file_id}/split", {"validation_share": share})
