"""Why a server elsewhere could not be reached, in words of our own; a library's words stand behind them as a detail."""

import errno
import smtplib
import socket
import ssl

import httpx

from tunery.texts import Text, say

MAX_DETAIL = 400  # characters
# X.509's, as OpenSSL's verification numbers them.
CERTIFICATES = {10: "certificate_expired", 18: "certificate_own", 19: "certificate_own", 62: "certificate_of_other"}
UNREACHABLE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN)
# What of the chain of causes says most comes first: an SSLError is an OSError, too.
KINDS: tuple[tuple[type[BaseException], str], ...] = (
    (ssl.SSLCertVerificationError, "certificate"),
    (ssl.SSLEOFError, "closed"),
    (ssl.SSLError, "tls"),
    (socket.gaierror, "no_host"),
    (ConnectionRefusedError, "refused"),
    (ConnectionError, "closed"),
    (smtplib.SMTPServerDisconnected, "closed"),
    (httpx.RemoteProtocolError, "closed"),
    (smtplib.SMTPAuthenticationError, "sign_in"),
    (smtplib.SMTPNotSupportedError, "no_starttls"),
    (smtplib.SMTPRecipientsRefused, "recipient"),
    (smtplib.SMTPSenderRefused, "sender"),
    (smtplib.SMTPException, "mail"),
)


def explained(exc: Exception) -> Text:
    """Of what httpx, smtplib or a socket raised."""
    chain = _causes(exc)
    name, detail = type(exc).__name__, " ".join(_detail(exc).split())[:MAX_DETAIL]
    if any(isinstance(cause, TimeoutError | httpx.TimeoutException) for cause in chain):
        return say("delivery.timeout", name=name)
    kind = _kind(chain)
    if kind is None:
        return say("delivery.failed", name=name, reason=detail)
    return say("delivery.trouble", what=say(f"delivery.trouble.{kind}"), name=name, detail=detail)


def _detail(exc: Exception) -> str:
    """What a mail server answered is bytes, which `str` would show as Python writes them."""
    answers = exc.recipients.values() if isinstance(exc, smtplib.SMTPRecipientsRefused) else ()
    if isinstance(exc, smtplib.SMTPResponseException):
        answers = [(exc.smtp_code, exc.smtp_error)]
    said = [f"{code} {text.decode(errors='replace') if isinstance(text, bytes) else text}" for code, text in answers]
    return "; ".join(said) or str(exc)


def _kind(chain: list[BaseException]) -> str | None:
    for cause in chain:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return CERTIFICATES.get(cause.verify_code, "certificate")
        if isinstance(cause, OSError) and cause.errno in UNREACHABLE:
            return "unreachable"
    return next((kind for type_, kind in KINDS if any(isinstance(cause, type_) for cause in chain)), None)


def _causes(exc: BaseException) -> list[BaseException]:
    """Itself first: libraries wrap what the system said."""
    chain = [exc]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    return chain
