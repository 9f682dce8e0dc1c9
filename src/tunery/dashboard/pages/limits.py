"""What the project may use: requests and tokens a minute, jobs, storage, a monthly budget."""

from nicegui import ui


async def build(visit) -> None:
    ui.label("limits")
