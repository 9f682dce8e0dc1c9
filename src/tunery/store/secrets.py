"""Secrets that rows must give back, such as what signs webhooks: encrypted in the database (Fernet), by keys that lie
outside it.

The keys are those of the setting `secrets_key`, then the lines of a file beside the database. The first one encrypts,
all decrypt. A text in the database that the key encrypted, the proof, tells a wrong or a lost key from a new database:
a key is made only where there is no proof.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Self

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from sqlalchemy import Connection, insert, select, update
from sqlalchemy.engine import make_url

from tunery import atomic
from tunery.domain.errors import Unavailable
from tunery.settings import Settings, SettingsError
from tunery.store.tables import secrets_proof, webhook_endpoints
from tunery.texts import say

FILE = "secrets.key"
OPTION = "tunery_secrets"  # execution option: every connection of an engine knows the keys
PROOF = "tunery"
COLUMNS = (webhook_endpoints.c.secret, webhook_endpoints.c.old_secret)
HOW_TO_MAKE = "python -c 'from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())'"


class SecretsKeyError(SettingsError):
    """The key is missing, malformed or another one. The message says what to restore."""


class Secrets:
    """The keys of one process. Nothing of them is printed."""

    def __init__(self, file: Path, given: str = "") -> None:
        """`given`: keys parted by commas, the newest first. Raises SecretsKeyError for a malformed one."""
        self._file = file
        self._given = _keys(given.split(","), "The setting secrets_key")
        self._keys = self._given + self._read()

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The file lies beside the database: in home, unless SQLite's lies elsewhere."""
        url = make_url(settings.resolved_database_url)
        beside = Path(url.database).parent if url.get_backend_name() == "sqlite" and url.database else settings.home
        return cls(beside / FILE, settings.secrets_key.get_secret_value() if settings.secrets_key else "")

    def prepare(self, conn: Connection) -> None:
        """Make the key of a database that has none, encrypt what an earlier version left in clear, and again what an
        older key encrypted. `conn` is alone: it holds the migration's lock. Raises SecretsKeyError."""
        proof = conn.execute(select(secrets_proof.c.proof)).scalar_one_or_none()
        if not self._keys:
            self._keys = self._read()  # another process may have made it meanwhile
        if not self._keys and proof is None:
            self._make()
        ring = self._ring()
        if proof is None:
            _replace_all(conn, lambda text: ring.encrypt(text.encode()).decode())
            conn.execute(insert(secrets_proof).values(id=1, proof=self.seal(PROOF)))
        elif not _opens(ring, proof):
            raise SecretsKeyError(
                f"The database's secrets were encrypted with another key than that of {self._source()}: restore the "
                f"one they were encrypted with, from the backup or from another machine of this installation."
            )
        elif not _opens(Fernet(self._keys[0]), proof):
            _replace_all(conn, lambda token: ring.rotate(token.encode()).decode())
            conn.execute(update(secrets_proof).values(proof=self.seal(PROOF)))

    def seal(self, text: str) -> str:
        return self._ring().encrypt(text.encode()).decode()

    def open(self, token: str) -> str:
        """Raises Unavailable for what these keys did not encrypt."""
        try:
            return self._ring().decrypt(token).decode()
        except InvalidToken:
            raise Unavailable(say("error.secret_cannot_be_decrypted")) from None

    def _ring(self) -> MultiFernet:
        if not self._keys:
            raise SecretsKeyError(
                f"The key of the database's secrets is missing: restore {self._file} from the backup or from another "
                f"machine of this installation, or set secrets_key."
            )
        return MultiFernet([Fernet(key) for key in self._keys])

    def _read(self) -> list[str]:
        try:
            return _keys(self._file.read_text("utf-8").split("\n"), str(self._file))
        except FileNotFoundError:
            return []
        except (OSError, UnicodeDecodeError) as exc:
            raise SecretsKeyError(f"The key of the database's secrets cannot be read: {self._file}: {exc}.") from exc

    def _make(self) -> None:
        key = Fernet.generate_key().decode()
        atomic.write_private(self._file, f"{key}\n".encode())
        self._keys = [key]

    def _source(self) -> str:
        return "the setting secrets_key" if self._given else str(self._file)


def secrets_of(conn: Connection) -> Secrets:
    """Those that the connection's database was opened with."""
    found = conn.get_execution_options().get(OPTION)
    if found is None:
        raise RuntimeError("the database was opened without its secrets' keys: use open_database")
    return found


def _replace_all(conn: Connection, change: Callable[[str], str]) -> None:
    for column in COLUMNS:
        rows = conn.execute(select(column.table.c.id, column).where(column.is_not(None))).all()
        for row_id, value in rows:
            conn.execute(update(column.table).where(column.table.c.id == row_id).values({column: change(value)}))


def _opens(ring: Fernet | MultiFernet, token: str) -> bool:
    try:
        ring.decrypt(token)
    except InvalidToken:
        return False
    return True


def _keys(lines: list[str], source: str) -> list[str]:
    keys = [line.strip() for line in lines if line.strip()]
    for number, key in enumerate(keys, 1):
        try:
            Fernet(key)
        except ValueError as exc:
            raise SecretsKeyError(
                f"{source} holds no key of Fernet (entry {number}): 32 bytes as 44 characters of URL-safe base64. "
                f"Restore the right one; a new installation's is made with: {HOW_TO_MAKE}"
            ) from exc
    return keys
