"""The worker with a scripted trainer: a real process without a model. What the real one learns is in test_training."""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from tests.jobs.conftest import ROWS, Site
from tests.jobs.processes import children_of
from tests.jobs.waiting import wait_for
from tunery.domain.errors import InvalidRequest
from tunery.domain.hyperparameters import Hyperparameters
from tunery.domain.jobs import JobStatus
from tunery.export.spec import gather
from tunery.jobs import verbs
from tunery.models.sources import cache as sources
from tunery.store import events, files, models
from tunery.store.database import read, write
from tunery.store.tables import outbox, usage_records

SCRIPTED = (sys.executable, str(Path(__file__).parent / "scripted_trainer.py"))


def script(monkeypatch: pytest.MonkeyPatch, **values: Any) -> None:
    monkeypatch.setenv("SCRIPT", json.dumps(values))


def test_job_succeeds_with_the_events_that_clients_look_for(site: Site) -> None:
    job = site.create(suffix="marv", validation_file=site.add_file(ROWS))
    with site.worker(SCRIPTED):
        done = site.wait(job.id)
    assert done.status is JobStatus.SUCCEEDED
    name = done.fine_tuned_model
    assert name is not None
    assert name.startswith("ft:tiny-1:personal:marv:")
    messages = site.messages(job.id)
    assert messages[:5] == [
        f"Created fine-tuning job: {job.id}",
        f"Validating training file: {job.training_file} and validation file: {job.validation_file}",
        "Files validated, moving job to queued state",
        "Fine-tuning job started",
        "Hyperparameters: n_epochs=8 (12 examples: 8 passes over them); "
        "batch_size=4 (about 0.2 % of 12 examples, at least 4); "
        "learning_rate_multiplier=1 (the base model's usual rate)",
    ]
    assert messages[5] == "Step 1/30: training loss=0.01"
    assert messages[34] == "Step 30/30: training loss=4.65"
    assert messages[35].startswith("Checkpoint created at step 10 with Snapshot ID: ft:tiny-1:personal:marv:")
    assert messages[35].endswith(":ckpt-step-10")
    assert messages[37] == f"Checkpoint created at step 30 with Snapshot ID: {name}"
    assert messages[38] == f"New fine-tuned model created: {name}"
    assert not any("usage policies" in message for message in messages)  # no engine: nothing was evaluated
    assert messages[-1] == "The job has successfully completed"


def test_success_leaves_models_checkpoints_result_file_usage_and_mail(site: Site) -> None:
    job = site.create()
    with site.worker(SCRIPTED):
        done = site.wait(job.id)
    assert done.trained_tokens == 1000
    assert done.hyperparameters == Hyperparameters(8, 4, 1.0, 0.1)
    assert done.estimated_finish is None
    with read(site.engine) as conn:
        checkpoints = events.list_checkpoints(conn, job.id).items
        made = models.list_models_of_job(conn, job.id)
        result = files.get_file(conn, done.result_files[0], job.project_id)
        bill = conn.execute(select(usage_records)).one()
        mail = conn.execute(select(outbox)).one()
    assert [checkpoint.step_number for checkpoint in checkpoints] == [30, 20, 10]
    assert checkpoints[0].fine_tuned_model_checkpoint == done.fine_tuned_model
    assert len({checkpoint.fine_tuned_model_checkpoint.split(":")[4] for checkpoint in checkpoints}) == 3
    for model in made:
        assert model.num_bytes == sum(len(site.blobs.read(path)) for path in site.blobs.list(model.blob)) > 0
    assert [model.name for model in made] == [checkpoint.fine_tuned_model_checkpoint for checkpoint in checkpoints]
    assert site.blobs.read(f"{made[0].blob}/adapter_model.safetensors") == b"weights of step 30"
    assert (result.filename, result.purpose) == ("step_metrics.csv", "fine-tune-results")
    assert len(site.blobs.read(result.blob).splitlines()) == 31
    assert (bill.trained_tokens, bill.training_cost) == (1000, 3_000_000_000)
    assert (mail.kind, mail.recipient, mail.payload["cost"]["value"]) == ("email", "owner@localhost", 0.003)


def test_success_leaves_nothing_else(site: Site) -> None:
    job = site.create()
    with site.worker(SCRIPTED):
        site.wait(job.id)
    assert list((site.settings.home / "work").iterdir()) == []
    assert site.blobs.list("jobs") == ()
    assert job.status is JobStatus.VALIDATING_FILES


def test_file_with_too_few_examples_fails_the_job_in_openais_words(site: Site) -> None:
    job = site.create(training_file=site.add_file(ROWS[:7]))
    with site.worker(SCRIPTED):
        done = site.wait(job.id)
    assert done.error is not None
    assert (done.error.code, done.error.param) == ("invalid_n_examples", "training_file")
    assert done.error.message == "Training file has 7 example(s), but must have at least 10 examples"
    last = site.events(job.id)[-1]
    assert (last.level, last.message) == ("error", done.error.message)


def test_bad_line_is_named_in_the_mail_with_what_to_do(site: Site) -> None:
    rows = [*ROWS[:9], {"messages": [{"content": "who?"}]}, *ROWS[9:]]
    job = site.create(training_file=site.add_file(rows))
    with site.worker(SCRIPTED):
        done = site.wait(job.id)
    assert done.status is JobStatus.FAILED
    with read(site.engine) as conn:
        problem = conn.execute(select(outbox)).one().payload["problems"][0]
    assert problem["line"] == 10
    assert problem["suggestion"] == "Add the role: system, user, assistant or tool."


def calling(arguments: Any) -> dict[str, Any]:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [call]}]}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (calling({"n": 5}), '"arguments": "{\\"n\\": 5}"'),
        (calling(json.dumps(json.dumps({"n": 5}))), '"arguments": "{\\"n\\": 5}"'),
        (calling(""), '"arguments": "{}"'),
        ({"prompt": "a", "completion": "b"}, "each is trained as a user's message and its answer"),
        ({"messages": [{"role": "user", "content": "word " * 9000}, ROWS[0]["messages"][-1]]}, "are left out"),
    ],
)
def test_what_is_read_otherwise_than_it_stands_is_told_in_the_job(site: Site, row: dict[str, Any], said: str) -> None:
    rows = [row] * 12 if "prompt" in row else [*ROWS, row, row]
    job = site.create(training_file=site.add_file(rows))
    with site.worker(SCRIPTED):
        site.wait(job.id)
    _, _, warning, validated, *_ = site.messages(job.id)
    assert validated.startswith("Files validated")
    assert said in warning and f"{12 if 'prompt' in row else 2} " in warning


def test_file_deleted_before_the_job_starts_fails_it_with_the_reason(site: Site) -> None:
    job = site.create()
    with write(site.engine) as conn:
        files.delete_file(conn, job.training_file, job.project_id)
    with site.worker(SCRIPTED):
        done = site.wait(job.id)
    assert done.error is not None
    assert done.error.param == "training_file"
    assert "deleted" in done.error.message


def test_running_job_is_cancelled_at_once_and_its_trainer_ends_within_two_seconds(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, steps=3000)
    job = site.create()
    with site.worker(SCRIPTED):
        site.wait_for_step(job.id, 12)
        done = site.verb(verbs.cancel_job, job.id)
        assert done.status is JobStatus.CANCELLED
        wait_for(lambda: True if not children_of(os.getpid(), "scripted_trainer") else None, 2.5)
    assert done.finished_at is not None
    assert site.messages(job.id)[-1] == "Fine-tuning job cancelled"
    assert site.blobs.list("jobs") == ()
    assert not (site.settings.home / "work" / job.id).exists()


def test_paused_job_goes_on_where_it_stopped_and_ends_as_if_never_paused(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, step_s=0.05, steps=90)
    job = site.create()
    with site.worker(SCRIPTED):
        site.wait_for_step(job.id, 7)
        site.verb(verbs.pause_job, job.id)
        paused = site.wait(job.id, JobStatus.PAUSED)
        assert paused.status is JobStatus.PAUSED
        assert 7 <= paused.step < 90
        site.verb(verbs.resume_job, job.id)
        done = site.wait(job.id)
    assert done.status is JobStatus.SUCCEEDED
    steps = [event.data["step"] for event in site.events(job.id) if event.type == "metrics" and event.data]
    assert steps == list(range(1, 91))
    assert done.details.metrics["train_loss"] == pytest.approx(sum(range(91)) / 100)
    assert f"Fine-tuning job continues from step {paused.step}" in site.messages(job.id)


def test_worker_that_shuts_down_gives_its_job_back_and_the_next_one_ends_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, step_s=0.05, steps=90)
    job = site.create()
    with site.worker(SCRIPTED):
        site.wait_for_step(job.id, 8)
    waiting = site.job(job.id)
    assert (waiting.status, waiting.worker_id, waiting.attempts) == (JobStatus.QUEUED, None, 0)
    with site.worker(SCRIPTED):
        done = site.wait(job.id)
    assert done.details.metrics["train_loss"] == pytest.approx(sum(range(91)) / 100)


def test_state_in_the_blobs_is_enough_for_another_machine(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, step_s=0.05, steps=90)
    job = site.create()
    with site.worker(SCRIPTED):
        site.wait_for_step(job.id, 12)
    shutil.rmtree(site.settings.home / "work")
    with site.worker(SCRIPTED):
        done = site.wait(job.id)
    assert done.details.metrics["train_loss"] == pytest.approx(sum(range(91)) / 100)
    assert continued_from(site, job.id) >= 12


def continued_from(site: Site, job_id: str) -> int:
    before = "Fine-tuning job continues from step "
    (step,) = [int(text.removeprefix(before)) for text in site.messages(job_id) if text.startswith(before)]
    return step


def test_trainer_that_is_killed_once_goes_on_from_its_state(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, fault={"kind": "kill", "step": 17, "once": True})
    job = site.create()
    with site.worker(SCRIPTED):
        done = site.wait(job.id)
    assert done.status is JobStatus.SUCCEEDED
    assert done.details.metrics["train_loss"] == pytest.approx(4.65)
    assert any("memory ran out" in message for message in site.messages(job.id))
    assert "Fine-tuning job continues from step 15" in site.messages(job.id)


def test_trainer_that_always_dies_fails_the_job_with_its_last_words(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, fault={"kind": "exit", "step": 2})
    job = site.create()
    with site.worker(SCRIPTED):
        done = site.wait(job.id)
    assert done.error is not None
    assert done.error.code == "training_failed"
    assert "5 times" in done.error.message
    assert "free lunch" in done.error.message
    with read(site.engine) as conn:
        log, _ = events.find_trainer_log(conn, job.id) or ("", 0)
    assert log.count("free lunch") == 5


def test_failure_that_the_trainer_explains_is_the_jobs_and_keeps_the_checkpoints(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, fault={"kind": "failed", "step": 15})
    job = site.create()
    with site.worker(SCRIPTED):
        done = site.wait(job.id)
    assert done.error is not None
    assert done.error.code == "out_of_memory"
    with read(site.engine) as conn:
        kept = models.list_models_of_job(conn, job.id)
    assert [model.step_number for model in kept] == [10]
    assert kept[0].name.endswith(":ckpt-step-10")


def test_job_continues_from_the_adapter_of_a_model(site: Site) -> None:
    first = site.create()
    with site.worker(SCRIPTED):
        model = site.wait(first.id).fine_tuned_model
        second = site.create(model=model, suffix="again")
        done = site.wait(second.id)
    assert done.model == model
    assert done.base_model == "tiny-1"
    assert str(done.fine_tuned_model).startswith("ft:tiny-1:personal:again:")


def test_a_base_that_has_changed_since_is_neither_continued_nor_exported(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A job from a model, one that was paused before, and exports; a new job from the base is none of these. Files that
    only got other names are no change."""
    script(monkeypatch, step_s=0.1)
    folder = sources.ensure(site.catalog.resolve("tiny-1").source, site.settings.models_dir)
    first, paused = site.create(), site.create()
    with site.worker(SCRIPTED):
        site.wait_for_step(paused.id, 2)
        site.verb(verbs.pause_job, paused.id)
        done = site.wait(first.id)
    assert site.job(paused.id).status is JobStatus.PAUSED
    with read(site.engine) as conn:
        model = models.list_models_of_job(conn, first.id)[0]
    assert model.base_sha256 == sources.hashes_of(folder) != {}

    def gathered() -> None:
        about = {"engine": site.engine, "blobs": site.blobs, "catalog": site.catalog, "settings": site.settings}
        gather(model, "merged", tmp_path, progress=lambda *_: None, **about)

    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    weights.unlink()  # a link to the base of all tests
    (folder / "renamed.safetensors").write_bytes(content)
    gathered()
    content[-1] ^= 1
    (folder / "renamed.safetensors").write_bytes(content)
    with pytest.raises(InvalidRequest, match="SHA-256 has changed"):
        gathered()
    continued, new = site.create(model=done.fine_tuned_model), site.create()
    with site.worker(SCRIPTED):
        site.verb(verbs.resume_job, paused.id)
        for job in (continued, paused):
            failed = site.wait(job.id)
            assert failed.status is JobStatus.FAILED
            assert failed.error is not None
            assert failed.error.param == "model"
            assert "SHA-256 has changed" in failed.error.message
        assert site.wait(new.id).status is JobStatus.SUCCEEDED


def test_job_is_cancelled_at_once_while_its_trainer_still_loads(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, load_s=60)
    job = site.create()
    with site.worker(SCRIPTED):
        site.wait(job.id, JobStatus.RUNNING)
        site.verb(verbs.cancel_job, job.id)
        done = wait_for(lambda: j if (j := site.job(job.id)).is_terminal else None, 5)
    assert done.status is JobStatus.CANCELLED


PAIRS = [
    {
        "input": {"messages": [{"role": "user", "content": f"Say number {n}."}]},
        "preferred_output": [{"role": "assistant", "content": f"Number {n}."}],
        "non_preferred_output": [{"role": "assistant", "content": "No."}],
    }
    for n in range(12)
]


def test_preference_job_tells_its_beta_and_refuses_a_chat_file(site: Site) -> None:
    good = site.create(method="dpo", training_file=site.add_file(PAIRS))
    bad = site.create(method="dpo")
    with site.worker(SCRIPTED):
        assert site.wait(good.id).status is JobStatus.SUCCEEDED
        failed = site.wait(bad.id)
    assert any("beta=0.1 (" in message for message in site.messages(good.id))
    assert failed.error is not None
    assert "not using 'supervised' as the training method (provided method=dpo)" in failed.error.message


def test_two_jobs_run_side_by_side(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, step_s=0.05)
    first, second = site.create(), site.create()
    with site.worker(SCRIPTED):
        wait_for(lambda: True if site.job(first.id).status == site.job(second.id).status == JobStatus.RUNNING else None)
        assert site.wait(first.id).status is JobStatus.SUCCEEDED
        assert site.wait(second.id).status is JobStatus.SUCCEEDED


def test_usage_is_billed_once(site: Site) -> None:
    job = site.create()
    with site.worker(SCRIPTED):
        site.wait(job.id)
    with read(site.engine) as conn:
        assert len(conn.execute(select(usage_records)).all()) == 1
