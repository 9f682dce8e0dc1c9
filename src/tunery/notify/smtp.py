"""Hands a mail to an SMTP server, or to a folder where none is configured."""

import logging
import smtplib
import ssl
from dataclasses import dataclass
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path
from typing import Literal

from tunery import atomic

log = logging.getLogger(__name__)

Security = Literal["none", "starttls", "tls"]
TIMEOUT_S = 30.0


class MailRefused(Exception):
    """The server will never take this mail: trying again is of no use."""


@dataclass(frozen=True)
class SmtpServer:
    host: str
    port: int
    security: Security
    username: str = ""
    password: str = ""

    def send(self, mail: EmailMessage) -> None:
        """Raises MailRefused for a permanent refusal (5xx), OSError or SMTPException for what may pass."""
        context = ssl.create_default_context()
        try:
            with self._connect(context) as client:
                if self.security == "starttls":
                    client.starttls(context=context)
                if self.username:
                    client.login(self.username, self.password)
                client.send_message(mail)
        except smtplib.SMTPRecipientsRefused as exc:
            answers = exc.recipients.values()
            if all(code >= 500 for code, _ in answers):
                raise MailRefused("; ".join(f"{code} {text!r}" for code, text in answers)) from exc
            raise
        except (smtplib.SMTPSenderRefused, smtplib.SMTPDataError) as exc:
            if exc.smtp_code >= 500:
                raise MailRefused(f"{exc.smtp_code} {exc.smtp_error!r}") from exc
            raise

    def _connect(self, context: ssl.SSLContext) -> smtplib.SMTP:
        if self.security == "tls":
            return smtplib.SMTP_SSL(self.host, self.port, timeout=TIMEOUT_S, context=context)
        return smtplib.SMTP(self.host, self.port, timeout=TIMEOUT_S)


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
