"""Trained and served model against each other, with the real trainer and the real engine."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from tests.engine_process import start_engine
from tests.jobs.conftest import Site
from tests.jobs.test_worker import SCRIPTED
from tunery.domain.hyperparameters import Hyperparameters
from tunery.domain.jobs import MAX_SAMPLE_TOKENS, JobStatus
from tunery.engines.scoring import EngineScorer
from tunery.jobs import endings
from tunery.jobs.endings import ParityBroken, check_parity, compare
from tunery.jobs.hold import TRAINER
from tunery.store import events, models
from tunery.store.database import read
from tunery.store.tables import usage_records
from tunery.training.protocol import Sample, write_samples

QUESTION = [{"role": "user", "content": "Say number 7."}]


@pytest.fixture(scope="module")
def engine_url(tiny_model_dir: Path) -> Iterator[str]:
    engine = start_engine(tiny_model_dir, name=f"path:{tiny_model_dir}")
    yield engine.url
    engine.kill()


class Told:
    """A scorer that gives what it was told."""

    def __init__(self, logprobs: list[float]) -> None:
        self.logprobs = logprobs

    def score(self, model: str, token_ids: list[int]) -> list[float]:
        return self.logprobs


def test_differences_are_taken_at_the_trained_tokens_only() -> None:
    sample = Sample([5, 6, 7, 8], 2, [-1.0, -2.0])
    parity = compare([sample], Told([-9.0, -1.5, -2.0]), "m")
    assert (parity.num_tokens, parity.mean_difference, parity.max_difference) == (2, 0.25, 0.5)


def test_a_difference_that_doubt_explains_is_none_where_the_model_was_sure() -> None:
    sure, doubting = Sample([5, 6, 7], 1, [-0.01, -0.01]), Sample([5, 6, 7], 1, [-4.0, -4.0])
    assert not compare([sure], Told([-0.21, -0.21]), "m").holds
    assert compare([doubting], Told([-4.2, -4.2]), "m").holds
    assert not compare([doubting], Told([-4.5, -4.5]), "m").holds


def test_a_number_that_is_none_never_passes_for_parity() -> None:
    assert not compare([Sample([5, 6], 1, [-1.0])], Told([float("nan")]), "m").holds
    assert not compare([Sample([5, 6, 7], 1, [-1.0, -1.0])], Told([float("nan"), -1.0]), "m").holds


def test_job_ends_with_proof_that_the_engine_serves_what_was_trained(
    site: Site, engine_url: str, tmp_path: Path
) -> None:
    site.settings = site.settings.model_copy(update={"engine_urls": [engine_url]})
    prompts = [[{"role": "system", "content": "Count."}, {"role": "user", "content": "Say number 3."}], QUESTION]
    chosen = Hyperparameters(n_epochs=6, batch_size=4)
    job = site.create(hyperparameters=chosen, seed=1, sample_prompts=prompts)
    with site.worker(TRAINER):
        done = site.wait(job.id, timeout_s=240)
    assert done.status is JobStatus.SUCCEEDED, done.error
    assert (done.details.parity or {})["num_tokens"] > 50
    # Trainer and engine compute in bf16 in another order: 8 significant bits of numbers around 5.
    assert (done.details.parity or {})["max_difference"] < 0.1
    told = site.messages(job.id)
    evaluated = next(index for index, message in enumerate(told) if "usage policies" in message)
    assert told[evaluated + 1].startswith("Served and trained model agree")
    _check_samples(site, job.id, engine_url)
    _prove_that_a_wrong_scale_is_noticed(site, job.id, engine_url, tmp_path)


def _check_samples(site: Site, job_id: str, engine_url: str) -> None:
    """Both prompts at each of six epochs; the last answers are the model's; paid as a tuned model's, once a step."""
    with read(site.engine) as conn:
        answers = events.list_samples(conn, job_id)
        model = models.list_models_of_job(conn, job_id)[0]
        records = [row for row in conn.execute(select(usage_records)) if "-samples-" in row.request_id]
    assert [(answer.step, answer.prompt) for answer in answers] == [(3 * n, at) for n in range(1, 7) for at in (0, 1)]
    assert sum("Answered 2 sample prompts" in message for message in site.messages(job_id)) == 6
    assert [row.output_tokens for row in records] == [
        sum(answer.completion_tokens for answer in answers[at : at + 2]) for at in range(0, 12, 2)
    ]
    engine, folder = EngineScorer(engine_url), site.settings.home / "last"
    site.blobs.download_dir(model.blob, folder)
    with engine.adapter("last", folder):
        again = engine.answer("last", QUESTION, max_tokens=MAX_SAMPLE_TOKENS)
    assert answers[-1].answer == again["choices"][0]["message"]["content"] != answers[1].answer


def test_an_engine_that_is_away_costs_the_samples_and_not_the_job(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endings, "WAIT_FOR_ENGINE_S", 0.0)
    site.settings = site.settings.model_copy(update={"engine_urls": ["http://127.0.0.1:9"]})
    job = site.create(sample_prompts=[QUESTION])
    with site.worker(SCRIPTED):
        done = site.wait(job.id)
    assert done.status is JobStatus.SUCCEEDED, done.error
    warned = [event.level for event in site.events(job.id) if "were not answered" in event.message]
    assert warned == ["warn"] * 3  # a checkpoint an epoch
    with read(site.engine) as conn:
        assert events.list_samples(conn, job.id) == []


def _prove_that_a_wrong_scale_is_noticed(site: Site, job_id: str, engine_url: str, folder: Path) -> None:
    with read(site.engine) as conn:
        model = models.list_models_of_job(conn, job_id)[0]
    site.blobs.download_dir(model.blob, folder)
    engine, token_ids = EngineScorer(engine_url), list(range(3, 60))
    with engine.adapter("right", folder):
        samples = [Sample(token_ids, 1, engine.score("right", token_ids))]
    file = folder / "parity.json"
    write_samples(file, samples)
    asked = {"source": model.source, "engines": [engine_url], "catalog": site.catalog}
    check_parity(file, folder, "same", **asked)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": config["lora_alpha"] * 4}))
    with pytest.raises(ParityBroken, match="does not serve the model as it was trained"):
        check_parity(file, folder, "other", **asked)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunery.jobs.endings.WAIT_FOR_ENGINE_S", 0)


@pytest.mark.usefixtures("impatient")
def test_engine_that_cannot_be_asked_costs_the_check_and_not_the_job(site: Site, tmp_path: Path) -> None:
    nobody = ["http://127.0.0.1:9"]
    source = site.catalog.sources()[0]
    report = check_parity(tmp_path / "none.json", tmp_path, "m", source=source, engines=nobody, catalog=site.catalog)
    assert report.level == "warn"
    assert "no engine with" in report.message


@pytest.mark.usefixtures("impatient")
def test_engine_of_another_base_is_not_asked(site: Site, engine_url: str, tmp_path: Path) -> None:
    urls = ["http://127.0.0.1:9", engine_url]
    report = check_parity(
        tmp_path / "none.json", tmp_path, "m", source="path:/other", engines=urls, catalog=site.catalog
    )
    assert "no engine with path:/other" in report.message
