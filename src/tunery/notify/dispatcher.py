"""Empties the outbox: claims what is due, sends it, and writes down how it went.

Claimed before it is sent, in a transaction of its own: a process that dies in between has used up that attempt's id
and never sends it again; the next attempt, after the lease, has another.
"""

import logging
import smtplib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.message import EmailMessage

from sqlalchemy import Engine

from tunery.addresses import of_webhooks
from tunery.domain.clock import Clock, system_clock
from tunery.domain.ids import new_id
from tunery.domain.notices import Notice, WebhookEndpoint
from tunery.notify.mail import render_mail, render_text_mail
from tunery.notify.schedule import next_attempt
from tunery.notify.smtp import MailFolder, SmtpServer, is_final
from tunery.notify.summary import JOB_TOPICS, JobSummary
from tunery.notify.troubles import explained
from tunery.notify.webhooks import deliver, encode_event
from tunery.settings import Settings
from tunery.store import outbox, tenants, webhooks
from tunery.store.database import read, write
from tunery.texts import say, translator

log = logging.getLogger(__name__)

LEASE_S = 120.0  # longer than any one attempt: connecting, and each of a mail's exchanges, has its own timeout
POLL_S = 0.5
BATCH = 16


@dataclass(frozen=True)
class Attempt:
    """How one attempt went. `is_final`: another one would be of no use."""

    delivered: bool
    status_code: int | None = None
    error: str | None = None
    is_final: bool = False


class Dispatcher:
    def __init__(
        self, settings: Settings, engine: Engine, *, clock: Clock = system_clock, worker_id: str | None = None
    ) -> None:
        self._settings, self._engine, self._clock = settings, engine, clock
        self._worker_id = worker_id or new_id("delivery")

    def run(self, stop: threading.Event) -> None:
        """Until stop is set. An error of the database is logged and met with patience."""
        with ThreadPoolExecutor(BATCH, thread_name_prefix="outbox") as senders:
            while not stop.is_set():
                try:
                    num_sent = self.send_due(senders)
                except Exception:
                    log.exception("the outbox could not be read")
                    num_sent = 0
                if num_sent < BATCH:
                    stop.wait(POLL_S)

    def send_due(self, senders: ThreadPoolExecutor) -> int:
        """Send what is due now, side by side: one receiver that does not answer holds up no other."""
        with read(self._engine) as conn:
            if not outbox.has_due(conn, now=self._clock()):
                return 0
        with write(self._engine) as conn:
            notices = outbox.claim_due(conn, self._worker_id, now=self._clock(), lease_s=LEASE_S, limit=BATCH)
        for _ in senders.map(self._send, notices):
            pass
        return len(notices)

    def _send(self, notice: Notice) -> None:
        started = time.monotonic()
        try:
            attempt = self._webhook(notice) if notice.kind == "webhook" else self._mail(notice)
        except Exception:
            log.exception("notice %s could not be sent", notice.id)
            attempt = Attempt(False, error=say("delivery.internal"))
        self._record(notice, attempt, duration_ms=round((time.monotonic() - started) * 1000))

    def _webhook(self, notice: Notice) -> Attempt:
        endpoint = self._endpoint(notice)
        if endpoint is None:
            return Attempt(False, error=say("delivery.deleted"), is_final=True)
        now = self._clock()
        answer = deliver(
            url=endpoint.url,
            secrets=endpoint.secrets_at(now),
            webhook_id=notice.id,
            body=encode_event(notice.payload),
            now=now,
            private=of_webhooks(self._settings),
        )
        return Attempt(answer.delivered, answer.status, answer.error)

    def _endpoint(self, notice: Notice) -> WebhookEndpoint | None:
        with read(self._engine) as conn:
            if tenants.get_project(conn, notice.project_id).archived_at is not None:
                return None
            return webhooks.find_endpoint(conn, notice.endpoint_id or "", notice.project_id)

    def _mail(self, notice: Notice) -> Attempt:
        try:
            self._mail_transport().send(self._render(notice))
        except (OSError, smtplib.SMTPException) as exc:
            return Attempt(False, error=explained(exc), is_final=is_final(exc))
        return Attempt(True)

    def _render(self, notice: Notice) -> EmailMessage:
        envelope = {
            "sender": self._settings.smtp_from,
            "recipient": notice.recipient or "",
            "mail_id": notice.id,
            "attempt_id": f"{notice.id}-{notice.attempts}",
            "now": self._clock(),
        }
        t = translator(self._settings.mail_language)
        if notice.topic.startswith(JOB_TOPICS):
            summary = JobSummary.from_json(notice.payload)
            link = f"{self._settings.base_url}/dashboard/jobs/{summary.job_id}"
            return render_mail(summary, t, link=link, **envelope)
        return render_text_mail(t.word(notice.payload, "subject"), t.word(notice.payload, "text"), **envelope)

    def _mail_transport(self) -> SmtpServer | MailFolder:
        return SmtpServer.of(self._settings) or MailFolder(self._settings.mail_folder)

    def _record(self, notice: Notice, attempt: Attempt, *, duration_ms: int) -> None:
        now = self._clock()
        with write(self._engine) as conn:
            outbox.add_delivery(
                conn,
                notice,
                now=now,
                duration_ms=duration_ms,
                status_code=attempt.status_code,
                error=attempt.error,
            )
            if attempt.delivered:
                outbox.mark_delivered(conn, notice.id, now=now)
                return
            error = attempt.error or "unknown"
            again = next_attempt(first_at=notice.created_at, attempt=notice.attempts, now=now)
            if attempt.is_final or again is None:
                log.warning("%s %s is given up after %d attempts: %s", notice.kind, notice.id, notice.attempts, error)
                outbox.mark_dead(conn, notice.id, now=now, error=error)
            else:
                outbox.mark_retry(conn, notice.id, next_attempt_at=again, error=error)
