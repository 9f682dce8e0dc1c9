"""What a visitor has typed but not sent, kept on the server, so that a restart or a reload loses nothing.

One file a session and page, readable by the server's user only; signing out removes them.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from tunery import atomic


class Drafts:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self, token: str, page: str) -> dict[str, Any]:
        try:
            return json.loads(self._path(token, page).read_text())
        except (FileNotFoundError, ValueError):
            return {}

    def save(self, token: str, page: str, draft: dict[str, Any]) -> None:
        atomic.write_private(self._path(token, page), json.dumps(draft, ensure_ascii=False).encode())

    def clear(self, token: str) -> None:
        for path in self.folder.glob(f"{_name(token)}-*.json"):
            path.unlink(missing_ok=True)

    def _path(self, token: str, page: str) -> Path:
        return self.folder / f"{_name(token)}-{page}.json"


def _name(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
