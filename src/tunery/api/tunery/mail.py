"""Where mail goes and what became of it. For who runs the server: a member's mail is none of the others'."""

from typing import Literal

from pydantic import BaseModel, Field

from tunery.api.access import Admin
from tunery.api.body import Texts
from tunery.api.context import ContextDep
from tunery.api.paging import After, CursorListing, Limit, Resource
from tunery.api.routing import Router
from tunery.domain.notices import Notice
from tunery.notify.summary import subject_of
from tunery.settings import Settings
from tunery.store.database import read
from tunery.store.outbox import last_errors, list_mails
from tunery.texts import Reference, translator

router = Router(prefix="/tunery/v1/organization/mail", tags=["Administration"])


class MailSettings(BaseModel):
    """Never the password, nor the name it belongs to."""

    object: Literal["mail_settings"] = "mail_settings"
    transport: Literal["smtp", "folder"] = Field(description="folder: no server is set, mails are written to files.")
    sender: str
    host: str | None
    port: int | None
    security: Literal["none", "starttls", "tls"] | None
    signs_in: bool = Field(description="Whether a user name is sent to the SMTP server.")
    folder: str | None = Field(description="On the machine of the worker that sends mail.")
    folder_days: float | None = Field(description="How long a mail stays in the folder.")


class Mail(Resource):
    """One mail to one person, whatever number of attempts it took."""

    object: Literal["mail"] = "mail"
    id: str
    project_id: str
    topic: str = Field(description="Such as fine_tuning.job.succeeded.")
    subject: str
    recipient: str
    created_at: int
    status: Literal["pending", "delivered", "dead"] = Field(description="dead: given up.")
    attempts: int
    next_attempt_at: int | None = Field(description="Null unless pending.")
    finished_at: int | None
    error: str | None = Field(validation_alias="last_error", description="What the last failed attempt said.")
    texts: Texts


@router.get("/settings")
def retrieve_mail_settings(caller: Admin, context: ContextDep) -> MailSettings:
    """How this server sends mail. Changed in its environment, not here."""
    return wire_settings(context.settings)


@router.get("")
def list_mail(caller: Admin, context: ContextDep, after: After = None, limit: Limit = 20) -> CursorListing[Mail]:
    """The mails of all projects, newest first."""
    with read(context.database) as conn:
        page = list_mails(conn, caller.organization_id, after=after, limit=limit)
        known = last_errors(conn, [notice.id for notice in page.items])
    return CursorListing[Mail].of(page, lambda notice: wire_mail(notice, known.get(notice.id)))


def wire_settings(settings: Settings) -> MailSettings:
    smtp = bool(settings.smtp_host)
    return MailSettings(
        transport="smtp" if smtp else "folder",
        sender=settings.smtp_from,
        host=settings.smtp_host if smtp else None,
        port=settings.smtp_port if smtp else None,
        security=settings.smtp_security if smtp else None,
        signs_in=smtp and bool(settings.smtp_username),
        folder=None if smtp else str(settings.mail_folder),
        folder_days=None if smtp else settings.mail_folder_days,
    )


def wire_mail(notice: Notice, error: Reference | None) -> Mail:
    differing = {
        "subject": subject_of(notice.topic, notice.payload, translator("en")),
        "recipient": notice.recipient or "",
        "next_attempt_at": int(notice.next_attempt_at) if notice.status == "pending" else None,
        "texts": {"error": error} if error and notice.last_error else {},
    }
    return Mail.of({**vars(notice), **differing})
