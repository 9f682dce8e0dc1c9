"""What real servers that cannot be reached come to, in words of our own."""

import smtplib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.fixtures_services import free_port
from tunery.notify.troubles import explained
from tunery.texts import reference, translator

Answer = Callable[[socket.socket], None]
DAY = timedelta(days=1)


@contextmanager
def serving(answer: Answer) -> Iterator[int]:
    """A port whose connections are answered, and closed, until the block ends."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    try:
                        answer(connection)
                    except OSError:
                        continue

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def certificate(folder: Path, *, name: str, age: timedelta = timedelta()) -> Path:
    """Key and certificate in one file, signed by itself, that ran out `age` ago."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 20 * DAY)
        .not_valid_after(now - age if age else now + DAY)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    file = folder / f"{name}.pem"
    file.write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))
    with file.open("ab") as more:
        more.write(made.public_bytes(serialization.Encoding.PEM))
    return file


def encrypted(file: Path) -> Answer:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)

    def answer(connection: socket.socket) -> None:
        context.wrap_socket(connection, server_side=True).close()

    return answer


def trouble_of(call: Callable[[], object]) -> dict:
    """Key and values of what the call's error is told as."""
    with pytest.raises((httpx.HTTPError, smtplib.SMTPException, OSError)) as raised:
        call()
    told = explained(raised.value)
    sentence = translator("ja").reword(told, reference(told))
    assert sentence != told
    return reference(told)


def kind_of(told: dict) -> str:
    assert told["key"] == "delivery.trouble" and told["params"]["detail"]
    return told["params"]["what"]["key"].removeprefix("delivery.trouble.")


@pytest.mark.parametrize(
    ("name", "age", "is_trusted", "kind"),
    [
        ("localhost", timedelta(), False, "certificate_own"),
        ("localhost", 3 * DAY, True, "certificate_expired"),
        ("elsewhere.example", timedelta(), True, "certificate_of_other"),
    ],
)
def test_a_certificate_says_what_is_wrong_with_it(
    tmp_path: Path, name: str, age: timedelta, is_trusted: bool, kind: str
) -> None:
    file = certificate(tmp_path, name=name, age=age)
    context = ssl.create_default_context(cafile=str(file) if is_trusted else None)
    with serving(encrypted(file)) as port:
        address = f"https://localhost:{port}/"
        assert kind_of(trouble_of(lambda: httpx.post(address, verify=context, trust_env=False))) == kind
        mail = kind_of(trouble_of(lambda: smtplib.SMTP_SSL("localhost", port, context=context)))
        assert mail == kind


def test_a_port_where_nothing_listens_refuses() -> None:
    port = free_port()
    assert kind_of(trouble_of(lambda: httpx.get(f"http://127.0.0.1:{port}"))) == "refused"
    assert kind_of(trouble_of(lambda: smtplib.SMTP("127.0.0.1", port))) == "refused"


def test_a_host_without_an_address() -> None:
    assert kind_of(trouble_of(lambda: httpx.get("http://no-such-host.invalid/"))) == "no_host"
    assert kind_of(trouble_of(lambda: smtplib.SMTP("no-such-host.invalid", 25))) == "no_host"


def test_a_connection_that_is_closed_without_an_answer() -> None:
    with serving(lambda connection: None) as port:
        assert kind_of(trouble_of(lambda: httpx.get(f"http://127.0.0.1:{port}"))) == "closed"
        assert kind_of(trouble_of(lambda: smtplib.SMTP("127.0.0.1", port))) == "closed"


def test_a_port_that_speaks_no_tls() -> None:
    with serving(lambda connection: connection.sendall(b"220 plain text here\r\n" * 10)) as port:
        assert kind_of(trouble_of(lambda: httpx.get(f"https://127.0.0.1:{port}", trust_env=False))) == "tls"
        assert kind_of(trouble_of(lambda: smtplib.SMTP_SSL("127.0.0.1", port))) == "tls"


def test_a_server_that_never_answers_ran_out_of_time() -> None:
    stop = threading.Event()
    with serving(lambda connection: stop.wait() and None) as port:
        told = trouble_of(lambda: httpx.get(f"http://127.0.0.1:{port}", timeout=0.2))
        assert told["key"] == "delivery.timeout"
        stop.set()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (smtplib.SMTPAuthenticationError(535, b"no"), "sign_in"),
        (smtplib.SMTPRecipientsRefused({"a@example.com": (550, b"no")}), "recipient"),
        (smtplib.SMTPSenderRefused(550, b"no", "b@example.com"), "sender"),
        (smtplib.SMTPNotSupportedError("STARTTLS extension not supported by server."), "no_starttls"),
        (smtplib.SMTPDataError(554, b"spam"), "mail"),
        (OSError(113, "No route to host"), "unreachable"),
    ],
)
def test_what_a_mail_server_says_has_a_kind(error: Exception, kind: str) -> None:
    told = reference(explained(error))
    assert kind_of(told) == kind
    assert "b'" not in str(told["params"]["detail"])


def test_what_has_no_kind_is_told_as_it_is() -> None:
    assert reference(explained(httpx.InvalidURL("odd")))["key"] == "delivery.failed"
