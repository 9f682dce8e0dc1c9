"""Mail into a real SMTP server, with STARTTLS and login, and into the folder without one."""

import asyncio
import os
import re
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from email import message_from_bytes
from email.message import EmailMessage, Message
from email.policy import default
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

from tests.jobs.waiting import wait_for
from tests.notify.conftest import SUCCEEDED, Post
from tests.notify.test_mail import summary
from tunery.settings import Settings
from tunery.texts import say, with_texts

ENDED = say("mail.budget.refused")
USER, PASSWORD = "mailer", "s3cret pass"


class Mailbox:
    def __init__(self) -> None:
        self.mails: list[Message] = []
        self.logins: list[str] = []
        self.answer = "250 OK"
        self.delay_s = 0.0

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.logins.append(session.auth_data.login.decode() if session.auth_data else "")
        assert session.ssl
        self.mails.append(message_from_bytes(envelope.content, policy=default))
        await asyncio.sleep(self.delay_s)
        return self.answer

    def login(self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        right = isinstance(data, LoginPassword) and (data.login, data.password) == (USER.encode(), PASSWORD.encode())
        return AuthResult(success=right, handled=False, auth_data=data)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert, "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    return key, cert


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox()


@pytest.fixture
def smtp_port(mailbox: Mailbox, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    key, cert = certificate
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))  # OpenSSL's own way to trust a certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    controller = Controller(
        mailbox, hostname="127.0.0.1", port=port, tls_context=context, require_starttls=True, auth_required=True,
        authenticator=mailbox.login,
    )  # fmt: skip
    controller.start()
    yield port
    controller.stop()


def with_smtp(post: Post, port: int, **changes: Any) -> Settings:
    values = {"smtp_host": "localhost", "smtp_port": port, "smtp_username": USER, "smtp_password": PASSWORD}
    return Settings(**{**post.settings.model_dump(), **values, **changes})


def test_mail_arrives_through_starttls_and_login(post: Post, mailbox: Mailbox, smtp_port: int) -> None:
    with post.dispatcher(with_smtp(post, smtp_port)):
        notice = post.mail(SUCCEEDED, summary().to_json())
        post.wait(notice, "delivered")
    mail = mailbox.mails[0]
    assert isinstance(mail, EmailMessage)
    assert mailbox.logins == [USER]
    assert mail["To"] == "a@example.org"
    assert mail["Message-ID"] == f"<{notice}@example.org>"
    text = mail.get_body(("plain",))
    assert text is not None
    assert "http://127.0.0.1:8000/dashboard/jobs/ftjob-1" in text.get_content()
    assert mail.get_body(("html",)) is not None


def test_mail_goes_out_in_the_language_of_the_settings(post: Post, mailbox: Mailbox, smtp_port: int) -> None:
    text = say("mail.budget.text", name="p", project="proj_1", spent="4", budget="5", currency="USD", end=ENDED)
    warning = with_texts({"subject": say("mail.budget.subject", name="p", percent=80), "text": text})
    with post.dispatcher(with_smtp(post, smtp_port, mail_language="ja")):
        for topic, payload in ((SUCCEEDED, summary().to_json()), ("budget.warning", warning)):
            post.wait(post.mail(topic, payload), "delivered")
    about_job, about_budget = mailbox.mails
    assert "完了しました" in about_job["Subject"] and "月間予算の 80 %" in about_budget["Subject"]
    for mail in mailbox.mails:
        assert isinstance(mail, EmailMessage)
        body = mail.get_body(("plain",))
        assert body is not None
        assert re.search("[ぁ-ん]", body.get_content())
        assert "refused" not in body.get_content() and "Duration" not in body.get_content()


def test_wrong_password_is_told_in_the_log_and_tried_again(post: Post, mailbox: Mailbox, smtp_port: int) -> None:
    with post.dispatcher(with_smtp(post, smtp_port, smtp_password="wrong")):
        notice = post.mail(SUCCEEDED, summary().to_json())
        row = post.wait_for_attempt(notice, 1)
    assert row.status == "pending"
    assert "535" in row.last_error
    assert mailbox.mails == []


def test_mail_that_the_server_refuses_for_good_is_given_up(post: Post, mailbox: Mailbox, smtp_port: int) -> None:
    mailbox.answer = "550 no such mailbox"
    with post.dispatcher(with_smtp(post, smtp_port)):
        row = post.wait(post.mail(SUCCEEDED, summary().to_json()), "dead")
    assert "no such mailbox" in row.last_error


def test_mail_that_the_server_defers_is_tried_again_with_the_same_message_id(
    post: Post, mailbox: Mailbox, smtp_port: int
) -> None:
    mailbox.answer = "451 later"
    with post.dispatcher(with_smtp(post, smtp_port)):
        notice = post.mail(SUCCEEDED, summary().to_json())
        post.wait_for_attempt(notice, 1)
        mailbox.answer = "250 OK"
        post.watch.ahead_s = 30
        post.wait(notice, "delivered")
    first, second = mailbox.mails
    assert first["Message-ID"] == second["Message-ID"]
    assert (first["X-Tunery-Attempt"], second["X-Tunery-Attempt"]) == (f"{notice}-1", f"{notice}-2")


def test_dispatcher_killed_while_it_sends_never_sends_that_attempt_again(
    post: Post, mailbox: Mailbox, smtp_port: int
) -> None:
    settings = with_smtp(post, smtp_port)
    mailbox.delay_s = 20
    notice = post.mail(SUCCEEDED, summary().to_json())
    script = Path(__file__).parent / "dispatcher_process.py"
    process = subprocess.Popen([sys.executable, str(script)], env={**os.environ, **settings.as_environment()})
    try:
        wait_for(lambda: True if mailbox.mails else None)
    finally:
        process.kill()
        process.wait()
    mailbox.delay_s = 0
    post.watch.ahead_s = 121
    with post.dispatcher(settings):
        post.wait(notice, "delivered")
    assert [mail["X-Tunery-Attempt"] for mail in mailbox.mails] == [f"{notice}-1", f"{notice}-2"]
    assert len({mail["Message-ID"] for mail in mailbox.mails}) == 1


def test_mail_lies_in_the_outbox_folder_without_a_server(post: Post, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    with post.dispatcher():
        notice = post.mail(SUCCEEDED, summary().to_json())
        post.wait(notice, "delivered")
    file = post.settings.home / "outbox" / f"{notice}.eml"
    mail = message_from_bytes(file.read_bytes(), policy=default)
    assert mail["To"] == "a@example.org"
    assert str(file) in caplog.text


def test_mail_of_another_topic_is_its_subject_and_text(post: Post) -> None:
    with post.dispatcher():
        notice = post.mail("budget.warning", {"subject": "80 % used", "text": "Eighty percent."})
        post.wait(notice, "delivered")
    mail = message_from_bytes((post.settings.home / "outbox" / f"{notice}.eml").read_bytes(), policy=default)
    assert mail["Subject"] == "80 % used"
