"""Who is signed in. The browser holds a random token and nothing else; the server, a file that is useless without it.

The key in the file is sealed with a stream made from the token, which is never stored: neither the disk alone nor the
file's name gives the key away. The token is random and used for one key, so the stream is never used twice.
"""

import hashlib
import json
import os
import re
import secrets
import time
from dataclasses import dataclass, replace
from pathlib import Path

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

    def open(self, key: str, *, language: str = "", theme: str = "auto") -> Session:
        self._sweep()
        session = Session(secrets.token_urlsafe(32), key, self.clock() + LIFETIME_S, language, theme)
        self._write(session)
        return session

    def find(self, token: str | None) -> Session | None:
        """None when the token is unknown, malformed or has expired."""
        if not token or not re.fullmatch(r"[A-Za-z0-9_-]{20,128}", token):
            return None
        try:
            stored = json.loads(self._path(token).read_text())
        except (FileNotFoundError, ValueError):
            return None
        if stored["expires_at"] <= self.clock():
            self.close(token)
            return None
        key = _seal(bytes.fromhex(stored["sealed"]), token).decode()
        return Session(token, key, stored["expires_at"], stored["language"], stored["theme"], stored["project"])

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
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        stored = {
            "sealed": _seal(session.key.encode(), session.token).hex(),
            "expires_at": session.expires_at,
            "language": session.language,
            "theme": session.theme,
            "project": session.project,
        }
        path = self._path(session.token)
        part = path.with_suffix(f".{secrets.token_hex(4)}.part")
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(stored, file)
        part.replace(path)

    def _sweep(self) -> None:
        for path in self.folder.glob("*.json"):
            if path.stat().st_mtime < self.clock() - LIFETIME_S:
                path.unlink(missing_ok=True)


def _seal(data: bytes, token: str) -> bytes:
    """Seals and unseals: exclusive or with a stream from the token."""
    stream = hashlib.shake_256(b"tunery dashboard session\0" + token.encode()).digest(len(data))
    return bytes(a ^ b for a, b in zip(data, stream, strict=True))
