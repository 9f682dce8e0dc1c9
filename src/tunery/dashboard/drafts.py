"""What a visitor has typed but not sent, kept beside the session and as long: a restart or a reload loses nothing,
whichever api answers."""

from typing import Any

from tunery.dashboard.sessions import Session, owner_of, seal, unseal
from tunery.dashboard.values import Values

DRAFT = "draft "  # before the page's name


class Drafts:
    def __init__(self, values: Values) -> None:
        self._values = values

    async def load(self, session: Session) -> dict[str, dict[str, Any]]:
        """By page."""
        found = await self._values.list(owner_of(session.token))
        drafts = {name: value for name, (value, _) in found.items() if name.startswith(DRAFT)}
        return {name.removeprefix(DRAFT): unseal(session.token, value) or {} for name, value in drafts.items()}

    async def save(self, session: Session, page: str, draft: dict[str, Any]) -> None:
        sealed = seal(session.token, draft)
        await self._values.put(owner_of(session.token), DRAFT + page, sealed, until=session.expires_at)
