"""The endpoints that the dashboard asks beyond OpenAI's."""

from typing import Any

import pytest
from openai import NotFoundError

from tests.dashboard.rows import finished_job, insert_curve, insert_jobs, organization_and_project
from tests.dashboard.stand import Stand
from tunery.domain.jobs import FineTuningJob, JobStatus


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


def test_the_session_tells_who_the_key_is(stand: Stand) -> None:
    who = get(stand, stand.key, "/session")
    assert who["organization"] == "personal" and who["is_owner"] and who["role"] == "owner"
    assert who["project_id"] in [project["id"] for project in who["projects"]]


def test_a_project_key_knows_its_own_project_only(stand: Stand) -> None:
    ident, key = stand.new_project("alone")
    who = get(stand, key, "/session")
    assert who["projects"] == [{"id": ident, "name": "alone"}] and who["project_id"] == ident
