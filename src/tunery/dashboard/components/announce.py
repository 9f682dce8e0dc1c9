"""How far something is, told to who listens to a page: at each tenth of the way and at the end, not at each step.

Apart because pages that differ in everything else tell it in the same way.
"""

from nicegui import ui

from tunery.texts import Translator

TENTHS = 10


class Announcer:
    """Nothing is told when the page opens: what stands there is read anyway."""

    def __init__(self, t: Translator) -> None:
        self.t = t
        self.label = ui.label("").classes("sr").props("aria-live=polite")
        self.last: int | str | None = None

    def tell(self, done: int | None, total: int | None, counted: str, *, end: str = "") -> None:
        """`counted`: how many of how many, in words; `end`: what it came to, once it has ended."""
        tenth = TENTHS * (done or 0) // total if total else 0
        reached = end or tenth
        if self.last not in (None, reached):
            self.label.text = end or self.t("announce.done", share=100 * tenth // TENTHS, counted=counted)
        self.last = reached
