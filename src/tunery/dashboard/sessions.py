"""Who is signed in. The browser holds a random token and nothing else; the server, values that are useless without it.

They are encrypted and authenticated (Fernet) with a key made from the token, which is never stored: the database alone
gives no API key away, and a value that was changed opens nothing.
"""

import base64
import hashlib
import json
import re
import secrets
from dataclasses import asdict, dataclass, replace
from typing import Any

from cryptography.fernet import Fernet, InvalidToken

from tunery.dashboard.values import Values
from tunery.domain.clock import Clock, system_clock

COOKIE = "tunery_session"
LIFETIME_S = 7 * 24 * 3600
SESSION = "session"  # the name of the value that holds it


@dataclass(frozen=True)
class Session:
    token: str
    key: str  # the API key, in memory only
    expires_at: float
    language: str = ""  # "" = what the browser asks for
    theme: str = "auto"  # auto, light, dark
    project: str = ""  # "" = the key's own project


class Sessions:
    def __init__(self, values: Values, clock: Clock = system_clock) -> None:
        self._values, self._clock = values, clock

    async def open(self, key: str) -> Session:
        await self._values.remove_ended()
        session = Session(secrets.token_urlsafe(32), key, self._clock() + LIFETIME_S)
        await self._write(session)
        return session

    async def find(self, token: str | None) -> Session | None:
        """None when the token is unknown, malformed or has expired, or when its value is not as it was written."""
        if not token or not re.fullmatch(r"[A-Za-z0-9_-]{20,128}", token):
            return None
        sealed = await self._values.find(owner_of(token), SESSION)
        content = None if sealed is None else unseal(token, sealed)
        if content is None:
            return None
        try:
            return Session(token, **content)
        except TypeError:  # another version's
            return None

    async def change(self, session: Session, **values: str) -> Session:
        """Keeps new preferences (language, theme, project) under the same token."""
        changed = replace(session, **values)
        await self._write(changed)
        return changed

    async def close(self, token: str) -> None:
        """With all that was kept for it."""
        await self._values.remove(owner_of(token))

    async def _write(self, session: Session) -> None:
        content = {name: value for name, value in asdict(session).items() if name != "token"}
        owner, sealed = owner_of(session.token), seal(session.token, content)
        await self._values.put(owner, SESSION, sealed, until=session.expires_at)


def owner_of(token: str) -> str:
    """By what name its values are kept: it does not tell the token."""
    return hashlib.sha256(token.encode()).hexdigest()


def seal(token: str, content: dict[str, Any]) -> str:
    return _cipher(token).encrypt(json.dumps(content, ensure_ascii=False).encode()).decode()


def unseal(token: str, sealed: str) -> dict[str, Any] | None:
    """None when it was not sealed with this token, or has been changed since."""
    try:
        return json.loads(_cipher(token).decrypt(sealed))
    except (InvalidToken, ValueError):
        return None


def _cipher(token: str) -> Fernet:
    """The token holds 256 random bits, so one hash makes a good key of it."""
    return Fernet(base64.urlsafe_b64encode(hashlib.sha256(b"tunery dashboard session\0" + token.encode()).digest()))
