import re
from email.message import EmailMessage
from typing import Any

import pytest

from tunery.domain.hyperparameters import Hyperparameters
from tunery.domain.jobs import FineTuningJob, JobStatus
from tunery.notify.mail import render_mail, render_text_mail
from tunery.notify.summary import Amount, JobSummary, Problem, summarise
from tunery.texts import reference, say, translator
from tunery.texts.amounts import duration


def summary(**changes: object) -> JobSummary:
    values: dict[str, object] = {
        "job_id": "ftjob-1",
        "status": "succeeded",
        "model": "gpt-4o-mini-2024-07-18",
        "method": "supervised",
        "duration_s": 250,
        "training_file": "file-1",
        "fine_tuned_model": "ft:gpt-4o-mini-2024-07-18:personal:marv:abcdefgh",
        "trained_tokens": 12_345,
        "cost": Amount(0.037035, "usd"),
        "metrics": {"train_loss": 0.41256, "full_valid_loss": 0.7},
    }
    return JobSummary.from_json(JobSummary(**{**values, **changes}).to_json())  # type: ignore[arg-type]


FAILED = {
    "status": "failed",
    "fine_tuned_model": None,
    "trained_tokens": None,
    "cost": None,
    "metrics": {},
    "error_code": "invalid_training_file",
    "error_message": "Example 3, message 2 has <b>no</b> role",
    "problems": (Problem(3, "message 2 has <b>no</b> role", "Add a role."),),
}


def render(of: JobSummary, attempt: str = "mail_1", language: str = "en") -> EmailMessage:
    return render_mail(
        of,
        translator(language),
        link="http://127.0.0.1:8000/jobs/ftjob-1",
        sender="Tunery <t@example.org>",
        recipient="a@example.org",
        mail_id="out_1",
        attempt_id=attempt,
        now=0,
    )


def parts(mail: EmailMessage) -> tuple[str, str]:
    text, html = mail.get_body(("plain",)), mail.get_body(("html",))
    assert text is not None
    assert html is not None
    return text.get_content(), html.get_content()


def test_mail_of_a_success_tells_model_duration_tokens_cost_metrics_and_link() -> None:
    mail = render(summary())
    assert "succeeded" in mail["Subject"]
    for body in parts(mail):
        for fact in (
            "ft:gpt-4o-mini-2024-07-18:personal:marv:abcdefgh",
            "4 min 10 s",
            "12,345",
            "0.0370 USD",
            "0.4126",
            "0.7000",
            "http://127.0.0.1:8000/jobs/ftjob-1",
        ):
            assert fact in body


def test_mail_of_a_failure_tells_reason_line_and_cure() -> None:
    text, _ = parts(render(summary(**FAILED)))
    assert "Line 3 of file-1: message 2 has <b>no</b> role" in text
    assert "What to do: Add a role." in text
    assert "None" not in text


def test_text_from_a_file_is_not_markup_in_the_html_part() -> None:
    _, html = parts(render(summary(**FAILED)))
    assert "<b>no</b>" not in html
    assert "&lt;b&gt;no&lt;/b&gt;" in html


@pytest.mark.parametrize("odd", ["\n", "\r\n", "\x0b", "\x1c", "\x85", "\u2028"])
def test_a_name_with_a_line_in_it_stands_in_a_subject_as_its_escape(odd: str) -> None:
    envelope: Any = {"sender": "tunery@x", "recipient": "a@x", "mail_id": "m", "attempt_id": "m-1", "now": 0.0}
    mail = render_text_mail(f"project a{odd}Bcc: b@x has spent 90 %", "text", **envelope)
    assert mail["Bcc"] is None
    assert mail["Subject"].startswith("project a\\") and mail["Subject"].endswith("Bcc: b@x has spent 90 %")


def test_message_id_stays_and_attempt_id_changes() -> None:
    first, second = render(summary(), "mail_1"), render(summary(), "mail_2")
    assert first["Message-ID"] == second["Message-ID"] == "<out_1@example.org>"
    assert first["X-Tunery-Attempt"] != second["X-Tunery-Attempt"]


def test_durations_are_spoken_in_the_two_largest_units() -> None:
    assert [duration(s, translator("en")) for s in (9, 250, 3900, -1)] == [
        "9 s",
        "4 min 10 s",
        "1 h 5 min",
        "0 s",
    ]


def test_pauses_are_no_part_of_the_duration() -> None:
    ended = {"status": JobStatus.FAILED, "created_at": 1_000, "started_at": 1_050}
    for finished_at, paused_s, spoken in ((1_250, 0, "4 min 10 s"), (8_200, 7_000, "3 min 20 s"), (1_010, 10, "0 s")):
        job = make_job(**ended, finished_at=finished_at, paused_s=paused_s)
        lasted = summarise(job, cost=None, metrics={}, problems=()).duration_s
        assert duration(lasted, translator("en")) == spoken


def make_job(**values: Any) -> FineTuningJob:
    return FineTuningJob(
        id="ftjob-1",
        project_id="proj-1",
        organization_id="org-1",
        model="tiny-1",
        base_model="tiny-1",
        training_file="file-1",
        validation_file=None,
        method="supervised",
        hyperparameters=Hyperparameters(),
        seed=1,
        **values,
    )


ROLE = {"message": say("problem.unknown_role", role="'boss'"), "suggestion": say("mend.unknown_role")}
LOST = say("job_error.invalid_training", detail=say("job_error.missing_key", example=3, name="messages"))


@pytest.mark.parametrize("status", ["succeeded", "failed", "cancelled"])
def test_a_mail_is_worded_in_the_language_that_was_set(status: str) -> None:
    problem = Problem(3, ROLE["message"], ROLE["suggestion"], reference(ROLE))
    failure = {"error_message": str(LOST), "error_text": reference(LOST), "problems": (problem,)}
    mail = render(summary(status=status, **failure if status == "failed" else {}), language="ja")
    for body in (mail["Subject"], *(re.sub("<pre.*?</pre>|<[^>]+>", " ", part) for part in parts(mail))):
        assert re.search("[ぁ-ん]", body)
        assert not re.search(r"[A-Za-z]+ [a-z]+ [a-z]+", body), body
    assert mail.get_body(("html",)).get_content().count('lang="ja"') == 1  # type: ignore[union-attr]


def test_a_mail_from_before_its_sentences_were_kept_comes_as_it_was() -> None:
    old = {name: value for name, value in summary(**FAILED).to_json().items() if name != "error_text"}
    for problem in old["problems"]:
        del problem["texts"]
    text, _ = parts(render(JobSummary.from_json(old), language="ja"))
    assert "理由：Example 3, message 2 has <b>no</b> role" in text and "対処方法：Add a role." in text
