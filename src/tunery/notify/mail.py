"""Turns a job's summary into a mail with a text and an HTML part."""

from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime, parseaddr
from typing import TypedDict, Unpack

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from tunery.logs import escaped
from tunery.notify.summary import JobSummary
from tunery.texts import Translator
from tunery.texts.amounts import duration

_templates = Environment(
    loader=PackageLoader("tunery.notify"),
    autoescape=select_autoescape(["html"]),
    undefined=StrictUndefined,
    keep_trailing_newline=True,
)


class Envelope(TypedDict):
    sender: str
    recipient: str
    mail_id: str  # the same at every attempt
    attempt_id: str  # another one at each
    now: float


def render_mail(summary: JobSummary, t: Translator, *, link: str, **envelope: Unpack[Envelope]) -> EmailMessage:
    """The mail about a job that ended, in the translator's language."""
    values = {
        "t": t,
        "job": summary,
        "subject": summary.subject(t),
        "error": summary.error(t),
        "problems": summary.problem_lines(t),
        "facts": _facts(summary, t),
        "link": link,
    }
    text = _templates.get_template("job_ended.txt").render(values)
    mail = render_text_mail(values["subject"], text, **envelope)
    mail.add_alternative(_templates.get_template("job_ended.html").render(values), subtype="html")
    return mail


def render_text_mail(subject: str, text: str, **envelope: Unpack[Envelope]) -> EmailMessage:
    """A mail ready to send. Message-ID is the same at every attempt, so that a mailbox that gets two shows one;
    X-Tunery-Attempt tells the attempts apart."""
    mail = EmailMessage()
    mail["From"] = envelope["sender"]
    mail["To"] = envelope["recipient"]
    mail["Subject"] = escaped(subject)  # a name in it may have several lines, and a header has one
    mail["Date"] = format_datetime(datetime.fromtimestamp(envelope["now"], UTC))
    mail["Message-ID"] = f"<{envelope['mail_id']}@{_domain(envelope['sender'])}>"
    mail["X-Tunery-Attempt"] = envelope["attempt_id"]
    mail["Auto-Submitted"] = "auto-generated"  # asks out-of-office robots not to answer (RFC 3834)
    mail.set_content(text)
    return mail


def _facts(summary: JobSummary, t: Translator) -> list[tuple[str, str]]:
    facts: list[tuple[str, str | None]] = [
        (t("jobs.model"), summary.fine_tuned_model),
        (t("jobs.base"), summary.model),
        (t("mail.weights"), summary.weights),
        (t("create.method"), t(f"method.{summary.method}")),
        (t("create.training"), summary.training_file),
        (t("mail.duration"), duration(summary.duration_s, t)),
        (t("job.tokens"), None if summary.trained_tokens is None else f"{summary.trained_tokens:,}"),
        (t("job.cost"), str(summary.cost) if summary.cost else None),
        *summary.metric_lines(t),
    ]
    return [(label, value) for label, value in facts if value]


def _domain(sender: str) -> str:
    return parseaddr(sender)[1].rpartition("@")[2] or "localhost"
