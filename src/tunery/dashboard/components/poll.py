"""Looking again, as long as something may change and somebody sees it."""

from collections.abc import Awaitable, Callable

from nicegui import ui
from nicegui.events import GenericEventArguments

LEAST_S = 1.0  # between two looks


class Poll:
    """`look` says whether anything may still change; one look at a time. A hidden tab waits. Shown again it looks at
    once, also when nothing was to change: it may have been changed elsewhere. With `looks_hidden` it looks on in a
    hidden tab, for somebody who waits to be told."""

    looks_hidden = False

    def __init__(self, look: Callable[[], Awaitable[bool]], *, every_s: float = LEAST_S) -> None:
        self.look, self.is_looking, self.is_over, self.is_shown = look, False, False, True
        self.timer = ui.timer(max(every_s, LEAST_S), self._tick, immediate=False)
        ui.on("tab", self._on_tab)

    def stop(self) -> None:
        self.is_over = True
        self.timer.deactivate()

    def again(self) -> None:
        """Something was done: what had ended may go on."""
        self.is_over = False
        self.timer.activate()

    async def _tick(self) -> None:
        if self.is_looking:
            return
        self.is_looking = True
        try:
            self.is_over = not await self.look()
        finally:
            self.is_looking = False
        self._settle()

    async def _on_tab(self, event: GenericEventArguments) -> None:
        self.is_shown = bool(event.args)
        self._settle()
        if self.is_shown:
            await self._tick()

    def _settle(self) -> None:
        self.timer.active = (self.is_shown or self.looks_hidden) and not self.is_over
