"""What a job and its model are called: the name before the start, what was sent, and words of one's own."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.api.conftest import BASE, Api


def create(api: Api, **values: Any) -> dict[str, Any]:
    body = {"model": "gpt-4o-mini", "training_file": api.make_file()["id"], **values}
    answer = api.client.post("/v1/fine_tuning/jobs", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize("suffix", ["夏の新メニュー", "my suffix", "Größe: v2", "🚀"])
def test_the_suffix_is_given_back_exactly_as_it_was_sent(api: Api, suffix: str) -> None:
    job = create(api, suffix=suffix)
    assert job["user_provided_suffix"] == suffix
    assert api.client.get(f"/v1/fine_tuning/jobs/{job['id']}").json()["user_provided_suffix"] == suffix
    assert api.client.get(f"/tunery/v1/jobs/{job['id']}").json()["request"]["suffix"] == suffix


def preview(api: Api, **query: str) -> dict[str, Any]:
    return api.client.get("/tunery/v1/model_name", params={"model": "gpt-4o-mini", **query}).json()


def test_the_models_name_is_told_before_the_start(api: Api) -> None:
    assert preview(api, suffix="夏の 新メニュー")["name"] == f"ft:{BASE}:personal:夏の-新メニュー:…"
    assert preview(api, suffix="a:b")["suffix"] == "a-b"
    assert preview(api)["name"] == f"ft:{BASE}:personal::…"
    tuned = api.make_model()
    assert preview(api, model=tuned.name, suffix="again")["name"] == f"ft:{BASE}:personal:again:…"


def test_a_name_that_cannot_be_is_refused_as_the_create_would_refuse_it(api: Api) -> None:
    assert preview(api, suffix="x" * 65)["error"]["param"] == "suffix"
    assert preview(api, model="gpt-9")["error"]["code"] == "model_not_available"


def job_route(api: Api) -> str:
    return f"/tunery/v1/jobs/{api.make_job().id}"


def model_route(api: Api) -> str:
    return f"/tunery/v1/models/{api.make_model().name}"


@pytest.mark.parametrize("make", [job_route, model_route])
def test_a_display_name_is_set_changed_and_removed(api: Api, make: Callable[[Api], str]) -> None:
    route = make(api)
    for sent, kept in [("  サポート夏 ", "サポート夏"), ("Support: the second / best", None), (None, None)]:
        answer = api.client.post(route, json={"display_name": sent})
        assert answer.status_code == 200, answer.text
        assert answer.json()["display_name"] == (kept or sent)
    stranger = api.as_key(api.make_stranger())
    assert api.client.post(route, json={"display_name": "mine"}, headers=stranger).status_code == 404
    assert api.client.post(route, json={"display_name": "   "}).status_code == 400
    assert api.client.post(route, json={"display_name": "x" * 201}).status_code == 400


def test_jobs_are_found_by_their_display_name_and_models_show_theirs(api: Api) -> None:
    job, model = api.make_job(), api.make_model()
    api.make_job()
    api.client.post(f"/tunery/v1/jobs/{job.id}", json={"display_name": "Summer menu"})
    api.client.post(f"/tunery/v1/models/{model.name}", json={"display_name": "The best so far"})
    found = api.client.get("/tunery/v1/jobs", params={"search": "summer"}).json()["data"]
    assert [(each["id"], each["display_name"]) for each in found] == [(job.id, "Summer menu")]
    entries = api.client.get("/tunery/v1/catalog").json()["data"]
    assert [each["display_name"] for each in entries if each["name"] == model.name] == ["The best so far"]


def test_a_jobs_words_are_kept_changed_one_by_one_and_found(api: Api) -> None:
    job = create(api, metadata={"team": "support", "early_stopping": "true"})
    create(api, metadata={"team": "sales"})
    route = f"/tunery/v1/jobs/{job['id']}"
    words = {"notes": "Labels of 第3週 mended.\n50 % more rows", "tags": [" nightly ", "請求"]}
    assert api.client.post(route, json=words).json()["tags"] == ["nightly", "請求"]
    kept = api.client.post(route, json={"metadata": {"team": "support", "ticket": "T=1"}}).json()
    assert kept["notes"] == words["notes"] and kept["tags"] == ["nightly", "請求"]
    assert kept["metadata"] == {"early_stopping": "true", "team": "support", "ticket": "T=1"}
    assert kept["request"]["metadata"] == kept["metadata"]
    assert api.client.get(f"/v1/fine_tuning/jobs/{job['id']}").json()["metadata"] == kept["metadata"]

    def found(**query: str) -> list[str]:
        path = "/tunery/v1/jobs" if "search" in query else "/v1/fine_tuning/jobs"
        return [each["id"] for each in api.client.get(path, params=query).json()["data"]]

    for text in ("第3週", "NIGHTLY", "請求", "50 %", "team=support", "ticket=T=1"):
        assert found(search=text) == [job["id"]], text
    assert found(search="team=purchase") == [] and len(found(search="team")) == 0
    assert found(**{"metadata[ticket]": "T=1"}) == [job["id"]]
    assert api.client.post(route, json={"tags": [], "notes": "x" * 20_000}).json()["tags"] == []
    told = api.client.get("/v1/organization/audit_logs", params={"every_type": True}).json()["data"][0][
        "fine_tuning.job.renamed"
    ]
    assert told["changes_requested"] == {"tags": [], "notes": "x" * 600 + "…"}
    assert api.client.post(route, json={"notes": None}).json()["notes"] is None
    assert found(search="nightly") == []


@pytest.mark.parametrize(
    ("words", "param"),
    [
        ({"metadata": {"early_stopping": "false"}}, "metadata.early_stopping"),
        ({"metadata": {"run_eval": "eval_1"}}, "metadata.run_eval"),
        ({"metadata": {str(n): "" for n in range(16)}}, "metadata"),
        ({"metadata": {"k": "x" * 513}}, "metadata.k"),
        ({"tags": ["two\nlines"]}, "tags[0]"),
        ({"tags": ["x"] * 17}, "tags"),
        ({"notes": "x" * 20_001}, "notes"),
        ({"note": "x"}, "note"),
    ],
)
def test_words_out_of_bounds_are_refused(api: Api, words: dict[str, Any], param: str) -> None:
    route = f"/tunery/v1/jobs/{create(api, metadata={'early_stopping': 'true'})['id']}"
    answer = api.client.post(route, json=words)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param
    assert api.client.get(route).json()["metadata"] == {"early_stopping": "true"}


@pytest.mark.parametrize("name", ["n_epochs", "batch_size"])
@pytest.mark.parametrize("form", ["hyperparameters", "supervised", "dpo"])
def test_a_whole_number_may_come_as_a_float(api: Api, form: str, name: str) -> None:
    def request(value: Any) -> dict[str, Any]:
        chosen = {"hyperparameters": {name: value}}
        return chosen if form == "hyperparameters" else {"method": {"type": form, form: chosen}}

    job = create(api, seed=7.0, **request(3.0))
    assert (job["hyperparameters"][name], job["seed"]) == (3, 7)
    assert isinstance(job["hyperparameters"][name], int)
    for wrong in (3.5, "3", True, -1.0, 1e300):
        body = {"model": BASE, "training_file": "file-1", **request(wrong)}
        answer = api.client.post("/v1/fine_tuning/jobs", json=body)
        assert answer.status_code == 400
        assert answer.json()["error"]["param"].endswith(name)
