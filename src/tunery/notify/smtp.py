"""Hands a mail to an SMTP server, or to a folder where none is configured."""

import logging
import smtplib
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path
from typing import Literal

from tunery import atomic
from tunery.settings import Settings

log = logging.getLogger(__name__)

Security = Literal["none", "starttls", "tls"]
TIMEOUT_S = 30.0


@dataclass(frozen=True)
class SmtpServer:
    host: str
    port: int
    security: Security
    username: str = ""
    password: str = ""

    @classmethod
    def of(cls, settings: Settings) -> "SmtpServer | None":
        """The one of the settings; None where they name none."""
        if not settings.smtp_host:
            return None
        return cls(
            settings.smtp_host,
            settings.smtp_port,
            settings.smtp_security,
            settings.smtp_username,
            settings.smtp_password.get_secret_value(),
        )

    def send(self, mail: EmailMessage) -> None:
        """Raises OSError or SMTPException; `is_final` says whether trying again is of no use."""
        with self._signed_in() as client:
            client.send_message(mail)

    def greet(self) -> None:
        """All but the mail: connects and signs in. Raises as `send` does."""
        with self._signed_in():
            pass

    @contextmanager
    def _signed_in(self) -> Iterator[smtplib.SMTP]:
        context = ssl.create_default_context()
        with self._connect(context) as client:
            if self.security == "starttls":
                client.starttls(context=context)
            if self.username:
                client.login(self.username, self.password)
            yield client

    def _connect(self, context: ssl.SSLContext) -> smtplib.SMTP:
        if self.security == "tls":
            return smtplib.SMTP_SSL(self.host, self.port, timeout=TIMEOUT_S, context=context)
        return smtplib.SMTP(self.host, self.port, timeout=TIMEOUT_S)


def is_final(exc: Exception) -> bool:
    """Whether the server refused the mail itself for good (5xx), and not this connection to it."""
    if isinstance(exc, smtplib.SMTPRecipientsRefused):
        return all(code >= 500 for code, _ in exc.recipients.values())
    return isinstance(exc, smtplib.SMTPSenderRefused | smtplib.SMTPDataError) and exc.smtp_code >= 500


@dataclass(frozen=True)
class MailFolder:
    """Where mail lies when no SMTP server is configured."""

    folder: Path

    def send(self, mail: EmailMessage) -> None:
        """One file a mail, named by its Message-ID: a second attempt writes over the first."""
        self.folder.mkdir(parents=True, exist_ok=True)
        name = str(mail["Message-ID"]).strip("<>").partition("@")[0]
        path = self.folder / f"{name}.eml"
        with atomic.replacing(path) as part:
            part.write_bytes(mail.as_bytes(policy=SMTP))
        log.info("no SMTP server is configured: mail to %s was written to %s", mail["To"], path)
