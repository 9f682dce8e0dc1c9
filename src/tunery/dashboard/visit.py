"""One page being shown to one person: what every page function receives."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from nicegui import background_tasks, ui
from starlette.requests import Request

from tunery.dashboard.connection import Connection, Failure, ask
from tunery.dashboard.drafts import Drafts
from tunery.dashboard.sessions import Session
from tunery.texts import Translator

BASE = "/dashboard"

T = TypeVar("T")


@dataclass(frozen=True)
class Visit:
    request: Request
    session: Session
    connection: Connection
    drafts: Drafts
    typed: dict[str, dict[str, Any]]  # by page, what was not sent when this one was asked for
    language: str
    t: Translator
    end_session: Callable[[], Awaitable[None]]  # for all its pages

    def param(self, name: str) -> str:
        return self.request.path_params[name]

    def query(self, name: str) -> str:
        return self.request.query_params.get(name, "")

    def load_draft(self, page: str) -> dict[str, Any]:
        return self.typed.get(page, {})

    def save_draft(self, page: str, draft: dict[str, Any]) -> None:
        """Soon; drafts are saved in the order in which they come."""
        background_tasks.create(self._save_draft(page, draft), name=f"draft of {page}")

    @background_tasks.await_on_shutdown
    async def _save_draft(self, page: str, draft: dict[str, Any]) -> None:
        if await self.connection.is_open():
            await self.drafts.save(self.session, page, draft)

    async def ask(self, request: Awaitable[T]) -> T | Failure:
        """The answer, or why there is none. A key that opens nothing any more ends the session and all its pages."""
        answer = await ask(request)
        if isinstance(answer, Failure) and answer.is_expired:
            await self.end_session()
        return answer

    async def attempt(self, action: Awaitable[object], *, done: str = "") -> bool:
        """Awaits an action of the visitor's, says `done` or what went wrong. False when it went wrong."""
        client = ui.context.client
        answer = await self.result_of(action)
        if done and not isinstance(answer, Failure):
            with client:
                notify(done)
        return not isinstance(answer, Failure)

    async def result_of(self, action: Awaitable[T]) -> T | Failure:
        """The same for an action that gives something; what went wrong is said here."""
        client = ui.context.client
        answer = await self.ask(action)
        if isinstance(answer, Failure):
            with client:
                notify(answer.message(self.t), bad=True)
        return answer


def notify(message: str, *, bad: bool = False) -> None:
    ui.notify(
        message,
        type="negative" if bad else "positive",
        position="bottom",
        close_button=bad,
        timeout=8000 if bad else 3000,
        multi_line=True,
    )


Body = Callable[[Visit], Awaitable[None]]


@dataclass(frozen=True)
class PageSpec:
    """What the frame has to know of a page."""

    path: str  # below the dashboard's own address; `{name}` is a parameter
    title: str  # key of its text
    build: Body
    section: str  # the entry of the navigation that is marked
