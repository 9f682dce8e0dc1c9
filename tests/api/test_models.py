"""Models, checkpoint permissions and who sees what."""

from collections.abc import Callable
from hashlib import sha256
from urllib.parse import quote

import pytest

from tests.api.conftest import BASE, EXAMPLE, NOW, Api, an_eval
from tunery.domain.evals import EvalRun, RunStatus
from tunery.domain.job_details import JobDetails, StoredCheckpoint
from tunery.domain.jobs import JobStatus
from tunery.domain.tenants import Caller, Role
from tunery.domain.usage import TokenUsage
from tunery.metering.ledger import RequestIds, record_completion
from tunery.store import evals
from tunery.store.database import write
from tunery.store.models import set_alias

NAMES = [f"ft:{BASE}:personal::AbCd1234", f"ft:{BASE}:org:my-suffix:AbCd1234:ckpt-step-80", "ft:a/b:org:x:AbCd1234"]


@pytest.mark.parametrize("name", NAMES)
def test_name_may_stand_in_the_path_plain_or_quoted(api: Api, name: str) -> None:
    api.make_model(name)
    for path in (name, quote(name, safe=":"), quote(name, safe="")):
        answer = api.client.get(f"/v1/models/{path}")
        assert answer.json() == {
            "object": "model",
            "id": name,
            "created": answer.json()["created"],
            "owned_by": api.organization_id,
            "shutdown_date": None,
            "warm": False,
        }


def test_list_has_own_models_and_bases(api: Api) -> None:
    api.make_model(NAMES[0])
    names = [model["id"] for model in api.client.get("/v1/models").json()["data"]]
    assert names[0] == NAMES[0]
    assert BASE in names


def test_alias_of_a_base_is_a_model(api: Api) -> None:
    assert api.client.get("/v1/models/gpt-4o-mini").json()["id"] == "gpt-4o-mini"


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_unknown_model_has_openais_words(api: Api, method: str) -> None:
    answer = api.client.request(method, "/v1/models/ft:nope:x::AbCd1234")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"


def test_deleted_model_is_gone_with_its_weights(api: Api) -> None:
    model = api.make_model(NAMES[1])
    api.context.blobs.put(f"{model.blob}/adapter_config.json", b"{}")
    assert api.client.delete(f"/v1/models/{NAMES[1]}").json()["deleted"] is True
    assert api.client.get(f"/v1/models/{NAMES[1]}").status_code == 404
    assert api.context.blobs.list("adapters") == ()


def test_base_model_cannot_be_deleted(api: Api) -> None:
    assert api.client.delete(f"/v1/models/{BASE}").status_code == 400


def test_permission_lets_another_project_use_a_checkpoint(api: Api) -> None:
    api.make_model(NAMES[2])
    other = api.make_project()
    reader = api.as_key(api.make_key(project_id=other))
    path = f"/v1/fine_tuning/checkpoints/{quote(NAMES[2], safe=':')}/permissions"
    assert api.client.get(f"/v1/models/{NAMES[2]}", headers=reader).status_code == 404
    made = api.client.post(path, json={"project_ids": [other]}).json()["data"]
    assert [permission["project_id"] for permission in made] == [other]
    assert api.client.get(f"/v1/models/{NAMES[2]}", headers=reader).status_code == 200
    # To use is not to own.
    assert api.client.delete(f"/v1/models/{NAMES[2]}", headers=reader).status_code == 404
    assert api.client.delete(f"{path}/{made[0]['id']}").json()["deleted"] is True
    assert api.client.get(f"/v1/models/{NAMES[2]}", headers=reader).status_code == 404


def test_permissions_page_in_both_orders(api: Api) -> None:
    api.make_model(NAMES[0])
    projects = [api.make_project() for _ in range(3)]
    path = f"/v1/fine_tuning/checkpoints/{NAMES[0]}/permissions"
    api.client.post(path, json={"project_ids": projects})
    rising = api.client.get(path, params={"order": "ascending", "limit": 2}).json()
    assert [item["project_id"] for item in rising["data"]] == projects[:2]
    assert (rising["has_more"], rising["last_id"]) == (True, rising["data"][1]["id"])
    falling = api.client.get(path).json()
    assert [item["project_id"] for item in falling["data"]] == projects[::-1]
    one = api.client.get(path, params={"project_id": projects[0]}).json()["data"]
    assert [item["project_id"] for item in one] == projects[:1]


def test_sharing_needs_an_owner_and_a_project_of_the_organisation(api: Api) -> None:
    api.make_model(NAMES[0])
    path = f"/v1/fine_tuning/checkpoints/{NAMES[0]}/permissions"
    member = api.as_key(api.make_key(role=Role.MEMBER))
    assert api.client.post(path, json={"project_ids": [api.make_project()]}, headers=member).status_code == 403
    assert api.client.post(path, json={"project_ids": ["proj_unknown"]}).status_code == 404
    assert api.client.get(path).json()["data"] == []
    assert api.client.delete(f"{path}/cp_unknown").status_code == 404


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", ["o9", "gpt-4o-mini-2024", "ft:o9-2030-01-01:acme::00000001"])
def test_an_alias_whose_model_has_lost_its_price_is_refused_before_anybody_is_asked(
    make_api: Callable[..., Api], model: str, stream: bool
) -> None:
    """It was made while the price table still had a row for the model, or by a version that did not ask for one."""
    api = make_api(upstream_api_key="sk-upstream", upstream_base_url="http://127.0.0.1:9/v1")
    with write(api.engine) as conn:
        set_alias(conn, api.project_id, "old", f"openai:{model}", now=NOW)
        set_alias(conn, api.project_id, "priced", "openai:gpt-4o-mini", now=NOW)
    sent = {"messages": [{"role": "user", "content": "Hi"}], "stream": stream}
    refused = api.client.post("/v1/chat/completions", json={"model": "old", **sent})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "model_has_no_price"), refused.text
    assert refused.json()["error"]["param"] == "model"
    assert api.client.post("/v1/chat/completions", json={"model": "priced", **sent}).status_code == 503  # it was asked


@pytest.mark.parametrize("model", ["text-embedding-3-small", "text-embedding-3-large", "text-embedding-ada-002"])
def test_a_price_for_what_is_read_alone_is_one_for_embeddings_only(make_api: Callable[..., Api], model: str) -> None:
    api = make_api(upstream_api_key="sk-upstream", upstream_base_url="http://127.0.0.1:9/v1")
    made = api.client.post("/tunery/v1/aliases", json={"name": "vectors", "target": f"openai:{model}"})
    assert made.status_code == 200, made.text
    chat = {"model": "vectors", "messages": [{"role": "user", "content": "Hi"}]}
    for path, sent in (("/v1/chat/completions", chat), ("/v1/completions", {"model": "vectors", "prompt": "Hi"})):
        refused = api.client.post(path, json=sent)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "model_has_no_price"), refused.text
    assert (
        api.client.post("/v1/embeddings", json={"model": "vectors", "input": "Hi"}).status_code == 503
    )  # it was asked


def test_a_tuned_model_tells_what_it_was_made_of_and_what_depends_on_it(api: Api) -> None:
    data = api.make_file()
    checkpoint = StoredCheckpoint(3, "model_3", {"train_loss": 0.5}, published=True)
    job = api.make_job(
        status=JobStatus.SUCCEEDED,
        training_file=data["id"],
        validation_file="file-gone",
        details=JobDetails(metrics={"train_loss": 0.25}, checkpoints=(checkpoint,)),
    )
    base_sha256 = {"model.safetensors": "ab" * 32}
    model = api.make_model(NAMES[2], job_id=job.id, step_number=6, base_sha256=base_sha256, num_bytes=7)
    sibling = api.make_model(f"{NAMES[2]}:ckpt-step-3", job_id=job.id, step_number=3)
    going_on = api.make_job(model=model.name, display_name="Goes on")
    api.client.post("/tunery/v1/aliases", json={"name": "support", "target": model.name})
    eval_id = api.client.post("/v1/evals", json={**an_eval(), "name": "Held out"}).json()["id"]
    asks = {"name": "", "model": model.name, "data_source": {}, "api_key_id": "key_1", "created_by": None}
    counts = {"num_passed": 3, "num_failed": 1}
    run = EvalRun("evalrun_1", eval_id, api.project_id, 1, RunStatus.QUEUED, **asks, **counts)  # type: ignore[arg-type]
    with write(api.engine) as conn:
        evals.insert_run(conn, run)
        caller = Caller("key_1", api.organization_id, api.project_id, None, Role.OWNER)
        used = TokenUsage(input_tokens=9, cached_tokens=4, output_tokens=2)
        for days, request in ((0, "r1"), (29, "r2"), (31, "r3")):
            record_completion(
                conn, caller, RequestIds(request), prices=api.context.prices, model=model.name, usage=used,
                now=NOW - days * 86_400,
            )  # fmt: skip
    route = f"/tunery/v1/models/{quote(model.name, safe=':')}"
    card = {"card": "# For support", "display_name": "Support"}
    assert api.client.post(route, json=card).status_code == 200
    assert api.client.post(route, json={"card": "# For support, too"}).json()["display_name"] == "Support"
    told = api.client.get(route).json()
    assert (told["card"], told["is_own"], told["num_bytes"]) == ("# For support, too", True, 7)
    assert (told["base_sha256"], told["aliases"]) == (base_sha256, ["support"])
    made = told["made_by"]
    assert made["training_file"] == {
        "id": data["id"],
        "filename": "train.jsonl",
        "version": 1,
        "sha256": sha256(EXAMPLE * 12).hexdigest(),
    }
    assert made["validation_file"] == {"id": "file-gone", "filename": None, "version": None, "sha256": None}
    assert (made["metrics"], "beta" in made["hyperparameters"]) == ({"train_loss": 0.25}, False)
    assert [each["name"] for each in told["checkpoints"]] == [sibling.name]
    (evaluation,) = told["evaluations"]
    assert (evaluation["eval_name"], evaluation["passed"], evaluation["graded"]) == ("Held out", 3, 4)
    assert evaluation["share"]["low"] < 0.75 < evaluation["share"]["high"]
    assert [(day["num_requests"], day["input_tokens"], day["cached_tokens"]) for day in told["usage"]] == [
        (1, 9, 4)
    ] * 2
    jobs = [{"id": going_on.id, "display_name": "Goes on", "status": "queued"}]
    depends = {"aliases": ["support"], "jobs": jobs, "num_unfinished_runs": 1, "num_projects": 0}
    assert told["dependents"] == depends
    of_checkpoint = api.client.get(f"/tunery/v1/models/{quote(sibling.name, safe=':')}").json()
    assert of_checkpoint["made_by"]["metrics"] == {"train_loss": 0.5}


def test_a_shared_model_tells_its_user_nothing_of_its_owner(api: Api) -> None:
    job = api.make_job(status=JobStatus.SUCCEEDED)
    model = api.make_model(job_id=job.id)
    other = api.make_project(organization_id=api.organization_id)
    reader = api.as_key(api.make_key(project_id=other))
    route = f"/tunery/v1/models/{model.name}"
    assert api.client.get(route, headers=reader).status_code == 404
    api.client.post(f"/v1/fine_tuning/checkpoints/{model.name}/permissions", json={"project_ids": [other]})
    told = api.client.get(route, headers=reader).json()
    hidden = (told["is_own"], told["made_by"], told["dependents"], told["checkpoints"])
    assert hidden == (False, None, None, [])
    assert api.client.post(route, json={"card": "Mine."}, headers=reader).status_code == 404
    assert api.client.get(route).json()["dependents"]["num_projects"] == 1
    assert api.client.get(f"/tunery/v1/models/{BASE}").status_code == 404
