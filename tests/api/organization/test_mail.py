"""Where mail goes and where it went, for who runs the server."""

from collections.abc import Callable
from dataclasses import replace

from tests.api.conftest import NOW, Api
from tunery.domain.jobs import JobStatus
from tunery.domain.tenants import Role
from tunery.notify.announce import announce_end
from tunery.store import outbox, tenants
from tunery.store.database import write

MAIL = "/tunery/v1/organization/mail"


def announce(api: Api, project_id: str, email: str = "someone@example.com") -> str:
    """A mail in the outbox about a job of this project; its id."""
    with write(api.engine) as conn:
        payload = {"subject": "Half of the budget is spent", "text": "…"}
        return outbox.insert_outbox(
            conn, "email", "budget.threshold", payload, project_id=project_id, now=NOW, recipient=email
        )


def test_without_a_server_the_folder_is_named(api: Api) -> None:
    settings = api.client.get(f"{MAIL}/settings").json()
    assert settings["transport"] == "folder"
    assert settings["folder"] == str(api.context.settings.home / "outbox")
    assert settings["host"] is None


def test_no_secret_is_shown(make_api: Callable[..., Api]) -> None:
    values = {"smtp_host": "mail.example.com", "smtp_username": "postmaster-name", "smtp_password": "very-secret"}
    api = make_api(**values)
    answer = api.client.get(f"{MAIL}/settings")
    assert "very-secret" not in answer.text and "postmaster-name" not in answer.text
    shown = answer.json()
    assert (shown["transport"], shown["host"], shown["port"], shown["security"]) == (
        "smtp",
        "mail.example.com",
        587,
        "starttls",
    )
    assert shown["signs_in"] and shown["folder"] is None


def test_states_of_mails_of_all_projects(api: Api) -> None:
    sent = announce(api, api.project_id)
    refused = announce(api, api.make_project(), "nobody@example.com")
    waiting = announce(api, api.project_id)
    with write(api.engine) as conn:
        outbox.claim_due(conn, "sender", now=NOW, lease_s=10)
        outbox.mark_delivered(conn, sent, now=NOW + 1)
        outbox.mark_dead(conn, refused, now=NOW + 2, error="550 no such user")
        outbox.mark_retry(conn, waiting, next_attempt_at=NOW + 5, error="ConnectionRefusedError: refused")
    mails = api.client.get(MAIL).json()["data"]
    assert [mail["id"] for mail in mails] == [waiting, refused, sent]
    assert [mail["status"] for mail in mails] == ["pending", "dead", "delivered"]
    assert mails[0]["next_attempt_at"] == NOW + 5 and mails[1]["next_attempt_at"] is None
    assert mails[1]["error"] == "550 no such user" and mails[1]["recipient"] == "nobody@example.com"
    assert mails[2]["subject"] == "Half of the budget is spent" and mails[2]["finished_at"] == NOW + 1


def test_subject_of_a_mail_about_a_job(api: Api) -> None:
    job = api.make_job(status=JobStatus.FAILED)
    with write(api.engine) as conn:
        user = tenants.list_users(conn, api.organization_id).items[0]
        tenants.update_user(conn, user.id, email="someone@example.com")
        announce_end(conn, replace(job, created_by=user.id), now=NOW)
    mail = api.client.get(MAIL).json()["data"][0]
    assert mail["subject"] == f"Fine-tuning job {job.id} failed" and mail["recipient"] == "someone@example.com"


def test_pages(api: Api) -> None:
    ids = [announce(api, api.project_id) for _ in range(3)]
    first = api.client.get(MAIL, params={"limit": 2}).json()
    assert first["has_more"] and [mail["id"] for mail in first["data"]] == [ids[2], ids[1]]
    rest = api.client.get(MAIL, params={"limit": 2, "after": first["last_id"]}).json()
    assert [mail["id"] for mail in rest["data"]] == [ids[0]]


def test_only_for_who_runs_the_server(api: Api) -> None:
    announce(api, api.project_id)
    plain = api.as_key(api.make_key(role=Role.MEMBER))
    assert api.client.get(MAIL, headers=plain).status_code == 403
    assert api.client.get(f"{MAIL}/settings", headers=plain).status_code == 403
    assert api.client.get(MAIL, headers={"authorization": "Bearer sk-wrong"}).status_code == 401
    stranger = api.as_key(api.make_stranger(is_admin=True))
    answer = api.client.get(MAIL, headers=stranger)
    assert answer.status_code == 200 and answer.json()["data"] == []
