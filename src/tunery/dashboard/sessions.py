"""Who is signed in. The browser holds a random token and nothing else; the server, a file that is useless without it.

The file is encrypted and authenticated (Fernet) with a key made from the token, which is never stored: neither the
disk alone nor the file's name gives the API key away, and a file that was changed opens nothing.
"""

import base64
import hashlib
import json
import re
import secrets
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken

from tunery import atomic
from tunery.domain.clock import Clock

COOKIE = "tunery_session"
LIFETIME_S = 7 * 24 * 3600


@dataclass(frozen=True)
class Session:
    token: str
    key: str  # the API key, in memory only
    expires_at: float
    language: str = ""  # "" = what the browser asks for
    theme: str = "auto"  # auto, light, dark
    project: str = ""  # "" = the key's own project


class Sessions:
    """One small file a session in `folder`, readable by the server's user only."""

    def __init__(self, folder: Path, clock: Clock = time.time) -> None:
        self.folder = folder
        self.clock = clock

    def open(self, key: str) -> Session:
        self._sweep()
        session = Session(secrets.token_urlsafe(32), key, self.clock() + LIFETIME_S)
        self._write(session)
        return session

    def find(self, token: str | None) -> Session | None:
        """None when the token is unknown, malformed or has expired, or when its file is not as it was written."""
        if not token or not re.fullmatch(r"[A-Za-z0-9_-]{20,128}", token):
            return None
        try:
            sealed = self._path(token).read_bytes()
            session = Session(token, **json.loads(_cipher(token).decrypt(sealed)))
        except FileNotFoundError:
            return None
        except (InvalidToken, ValueError, TypeError):  # an earlier version's, or damaged
            self.close(token)
            return None
        if session.expires_at <= self.clock():
            self.close(token)
            return None
        return session

    def change(self, session: Session, **values: str) -> Session:
        """Keeps new preferences (language, theme, project) under the same token."""
        changed = replace(session, **values)
        self._write(changed)
        return changed

    def close(self, token: str) -> None:
        self._path(token).unlink(missing_ok=True)

    def _path(self, token: str) -> Path:
        return self.folder / f"{hashlib.sha256(token.encode()).hexdigest()}.json"

    def _write(self, session: Session) -> None:
        content = {name: value for name, value in asdict(session).items() if name != "token"}
        atomic.write_private(self._path(session.token), _cipher(session.token).encrypt(json.dumps(content).encode()))

    def _sweep(self) -> None:
        for path in self.folder.glob("*.json"):
            if path.stat().st_mtime < self.clock() - LIFETIME_S:
                path.unlink(missing_ok=True)


def _cipher(token: str) -> Fernet:
    """The token holds 256 random bits, so one hash makes a good key of it."""
    return Fernet(base64.urlsafe_b64encode(hashlib.sha256(b"tunery dashboard session\0" + token.encode()).digest()))
