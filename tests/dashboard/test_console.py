"""The endpoints that the dashboard asks beyond OpenAI's."""

from dataclasses import replace
from typing import Any

import pytest
from openai import BadRequestError, NotFoundError
from sqlalchemy import delete, update

from tests.dashboard.rows import (
    BASE,
    finished_job,
    insert_curve,
    insert_jobs,
    insert_model,
    organization_and_project,
)
from tests.dashboard.stand import Stand
from tunery.domain.files import example_file
from tunery.domain.ids import new_id
from tunery.domain.jobs import FineTuningJob, JobStatus
from tunery.domain.tenants import Project
from tunery.store import jobs, models, tenants
from tunery.store.database import write
from tunery.store.tables import jobs as jobs_table
from tunery.store.tables import projects

SEEN = b'{"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]}\n' * 12


@pytest.fixture(scope="module")
def project(stand: Stand) -> tuple[str, list[FineTuningJob]]:
    """The key of a project with three jobs."""
    organization, _ = organization_and_project(stand.database)
    ident, key = stand.new_project("console")
    made = [
        finished_job(ident, organization, suffix="alpha", created_at=1_700_000_001),
        finished_job(ident, organization, suffix="be_ta%", created_at=1_700_000_002),
        finished_job(ident, organization, suffix="gamma", created_at=1_700_000_003, status=JobStatus.FAILED),
    ]
    insert_jobs(stand.database, made)
    return key, made


def get(stand: Stand, key: str, path: str, **query: Any) -> Any:
    return stand.client(key).get(f"{stand.url}/tunery/v1{path}", cast_to=object, options={"params": query})


def suffixes(page: dict[str, Any]) -> list[str]:
    return [job["suffix"] for job in page["data"]]


def test_jobs_come_newest_first_in_pages(stand: Stand, project: tuple[str, list[FineTuningJob]]) -> None:
    key, _ = project
    first = get(stand, key, "/jobs", limit=2)
    assert suffixes(first) == ["gamma", "be_ta%"] and first["has_more"]
    second = get(stand, key, "/jobs", limit=2, after=first["data"][-1]["id"])
    assert suffixes(second) == ["alpha"] and not second["has_more"]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"search": "ALPH"}, ["alpha"]),
        ({"search": "%"}, ["be_ta%"]),
        ({"search": "_"}, ["be_ta%"]),
        ({"status": "failed"}, ["gamma"]),
        ({"search": "nothing like it"}, []),
    ],
)
def test_a_search_is_text_not_a_pattern(
    stand: Stand, project: tuple[str, list[FineTuningJob]], query: dict[str, str], found: list[str]
) -> None:
    assert suffixes(get(stand, project[0], "/jobs", **query)) == found


def test_only_a_job_that_succeeded_costs(stand: Stand, project: tuple[str, list[FineTuningJob]]) -> None:
    key, (alpha, _, gamma) = project
    assert get(stand, key, f"/jobs/{alpha.id}")["cost"] == pytest.approx(11_742 * 3 / 1e6)  # OpenAI's last price
    assert get(stand, key, f"/jobs/{gamma.id}")["cost"] is None


def test_a_recipe_creates_the_job_again(stand: Stand, project: tuple[str, list[FineTuningJob]]) -> None:
    key, (alpha, _, _) = project
    request = get(stand, key, f"/jobs/{alpha.id}")["request"]
    chosen = {"n_epochs": 3, "batch_size": 4, "learning_rate_multiplier": 1.8}
    assert request["method"] == {"type": "supervised", "supervised": {"hyperparameters": chosen}}
    assert (request["training_file"], request["suffix"], request["seed"]) == (alpha.training_file, "alpha", 7)


def test_a_curve_has_every_step_when_they_are_few(stand: Stand, project: tuple[str, list[FineTuningJob]]) -> None:
    key, (alpha, _, _) = project
    insert_curve(stand.database, alpha, 30)
    curves = get(stand, key, f"/jobs/{alpha.id}/curves")
    assert [step for step, _ in curves["train_loss"]] == list(range(1, 31))
    assert [step for step, _ in curves["valid_loss"]] == [10, 20, 30]


def test_another_projects_job_does_not_exist(stand: Stand, project: tuple[str, list[FineTuningJob]]) -> None:
    _, (alpha, _, _) = project
    for path in (f"/jobs/{alpha.id}", f"/jobs/{alpha.id}/curves"):
        with pytest.raises(NotFoundError):
            get(stand, stand.key, path)


def test_the_catalog_tells_limits_and_prices(stand: Stand) -> None:
    entries = {entry["name"]: entry for entry in get(stand, stand.key, "/catalog")["data"]}
    mini = entries["gpt-4o-mini-2024-07-18"]
    assert mini["kind"] == "base" and mini["training"] and "gpt-4o-mini" in mini["aliases"]
    assert (mini["price"]["training"], mini["price"]["input"], mini["price"]["currency"]) == (3, 0.15, "usd")


def catalog(stand: Stand, key: str, **query: Any) -> dict[str, dict[str, Any]]:
    return {entry["name"]: entry for entry in get(stand, key, "/catalog", **query)["data"]}


@pytest.mark.parametrize("search", ["gpt-4o-mini-2024-07-18", "4O-MINI", "gpt-4o-mini"])
def test_the_same_weights_are_told_whatever_was_searched_for(stand: Stand, search: str) -> None:
    every, found = catalog(stand, stand.key), catalog(stand, stand.key, search=search)
    assert len(found) < len(every) and every[BASE]["same_weights"]
    assert found[BASE]["same_weights"] == every[BASE]["same_weights"]


def test_names_lead_to_their_models_and_to_no_others(stand: Stand) -> None:
    organization, _ = organization_and_project(stand.database)
    project, key = stand.new_project("named")
    made = [finished_job(project, organization, suffix=suffix) for suffix in ("one", "two", "three")]
    insert_jobs(stand.database, made)
    for job in made:
        insert_model(stand.database, job)
    one, two, _ = (str(job.fine_tuned_model) for job in made)
    stand.client(key).post(f"{stand.url}/tunery/v1/aliases", body={"name": "bot", "target": two}, cast_to=object)
    every = catalog(stand, key)
    found = catalog(stand, key, names=[one, "bot", "gpt-4o-mini", "gone"])
    assert found == {name: every[name] for name in (one, two, BASE)}
    with pytest.raises(BadRequestError):
        catalog(stand, key, names=["x"] * 101)


def test_aliases_are_searched_shown_and_take_names(stand: Stand) -> None:
    """An alias is found as its target. One that has the name of a model answers in place of it."""
    organization, _ = organization_and_project(stand.database)
    ident, key = stand.new_project("renamed")
    seen = stand.client(key).files.create(file=("seen.jsonl", SEEN), purpose="fine-tune")
    job = finished_job(ident, organization, suffix="mine", training_file=seen.id)
    insert_jobs(stand.database, [job])
    insert_model(stand.database, job)
    assert job.fine_tuned_model is not None
    own = {"Support bot": job.fine_tuned_model, "old base": "gpt-4o-mini", "gpt-4o-2024-08-06": job.fine_tuned_model}
    for name, target in own.items():
        body = {"name": name, "target": target}
        stand.client(key).post(f"{stand.url}/tunery/v1/aliases", cast_to=object, body=body)
    every = catalog(stand, key)
    tuned, base, taken = every[job.fine_tuned_model], every[BASE], every["gpt-4o-2024-08-06"]
    assert tuned["aliases"] == ["Support bot", "gpt-4o-2024-08-06"] and "old base" in base["aliases"]
    assert list(catalog(stand, key, search="support")) == [job.fine_tuned_model]
    assert list(catalog(stand, key, search="old base")) == [BASE]
    assert taken["answered_by"] == tuned["weights"] and taken["weights"]["adapter"] is None
    assert [learned["id"] for learned in taken["learned_from"]] == [seen.id]
    assert "gpt-4o-2024-08-06" not in base["same_weights"] and base["answered_by"] is None


@pytest.mark.parametrize("gone", [False, True])
def test_a_model_knows_the_content_that_it_and_its_forebears_were_trained_on(stand: Stand, gone: bool) -> None:
    """Of the model, its checkpoint, and one that goes on from it; also when the file was deleted and uploaded again."""
    client = stand.client()
    organization, project = organization_and_project(stand.database)
    seen = client.files.create(file=("seen.jsonl", SEEN), purpose="fine-tune")
    created = client.fine_tuning.jobs.create(model=BASE, training_file=seen.id)
    with write(stand.database) as conn:
        first = jobs.get_job(conn, created.id, project)
        assert first.details.training_sha256 is not None
    name = f"ft:{BASE}:personal::seen{int(gone)}"
    later = finished_job(project, organization, suffix="later", model=f"{name}:ckpt-step-3")
    insert_jobs(stand.database, [later])
    for made in (replace(first, fine_tuned_model=name), replace(first, fine_tuned_model=f"{name}:ckpt-step-3"), later):
        insert_model(stand.database, made)
    client.fine_tuning.jobs.cancel(created.id)
    if gone:
        client.files.delete(seen.id)
        with write(stand.database) as conn:  # what the last one goes on from is no more, either
            conn.execute(update(jobs_table).where(jobs_table.c.id == created.id).values(fine_tuned_model=name))
            models.delete_model(conn, f"{name}:ckpt-step-3", project)
    again = client.files.create(file=("other.jsonl", SEEN), purpose="fine-tune")
    (file,) = get(stand, stand.key, "/files", search=again.id)["data"]
    every = catalog(stand, stand.key)
    left = [name, later.fine_tuned_model, *([] if gone else [f"{name}:ckpt-step-3"])]
    for model in left:
        assert file["sha256"] in [learned["sha256"] for learned in every[str(model)]["learned_from"]]


def test_a_model_that_was_trained_on_a_part_has_seen_the_whole(stand: Stand) -> None:
    """Of a file that was split, and of a part that was split again."""
    client = stand.client()
    _, project = organization_and_project(stand.database)
    whole = client.files.create(
        file=("whole.jsonl", example_file("tickets_train.jsonl").read_bytes()), purpose="fine-tune"
    )
    root = stand.client().base_url.copy_with(path="/tunery/v1/files/")
    part = client.post(f"{root}{whole.id}/split", cast_to=object, body={"validation_share": 0.2})
    smaller = client.post(f"{root}{part['training_file']}/split", cast_to=object, body={"validation_share": 0.2})
    by_id = {file["id"]: file["sha256"] for file in get(stand, stand.key, "/files")["data"]}
    for number, (trained, seen) in enumerate([(part, [whole.id]), (smaller, [part["training_file"], whole.id])]):
        created = client.fine_tuning.jobs.create(model=BASE, training_file=trained["training_file"])
        with write(stand.database) as conn:
            job = jobs.get_job(conn, created.id, project)
        name = f"ft:{BASE}:personal::part{number}"
        insert_model(stand.database, replace(job, fine_tuned_model=name))
        client.fine_tuning.jobs.cancel(created.id)
        learned = [known["sha256"] for known in catalog(stand, stand.key)[name]["learned_from"]]
        assert {by_id[file_id] for file_id in [trained["training_file"], *seen]} <= set(learned)
        assert by_id[trained["validation_file"]] not in learned


def test_all_projects_are_listed(stand: Stand) -> None:
    organization, _ = organization_and_project(stand.database)
    with write(stand.database) as conn:
        for number in range(1_003):
            tenants.insert_project(conn, Project(new_id("project"), organization, f"of a thousand {number}", 1))
    admin = stand.admin_client().admin.organization.admin_api_keys.create(name="all of them")
    names = [project["name"] for project in get(stand, admin.value, "/session")["projects"]]
    with write(stand.database) as conn:
        conn.execute(delete(projects).where(projects.c.name.startswith("of a thousand ")))
    assert len([name for name in names if name.startswith("of a thousand ")]) == 1_003


def test_the_session_tells_who_the_key_is(stand: Stand) -> None:
    who = get(stand, stand.key, "/session")
    assert who["organization"] == "personal" and who["is_owner"] and who["role"] == "owner"
    assert who["project_id"] in [project["id"] for project in who["projects"]]


def test_a_project_key_knows_its_own_project_only(stand: Stand) -> None:
    ident, key = stand.new_project("alone")
    who = get(stand, key, "/session")
    assert who["projects"] == [{"id": ident, "name": "alone"}] and who["project_id"] == ident
