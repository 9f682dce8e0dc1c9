"""A job with an eval: what is refused, which models answer when it has succeeded, and what is told of it."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import update
from typer.testing import CliRunner

from tests.api.conftest import BASE, EXAMPLE, SECRET, Api
from tests.api.test_evals import SAME, inline, items, make, quick, row, served, start, until, worker  # noqa: F401
from tests.migrate.installations import Installation
from tests.rows import notices
from tunery.cli.main import app
from tunery.domain.intervals import bootstrap, bootstrap_counts, share
from tunery.domain.jobs import FineTuningJob, JobStatus
from tunery.jobs.evaluation import start_evaluation
from tunery.notify.mail import render_text_mail
from tunery.store import evals, events, jobs
from tunery.store.database import read, write
from tunery.store.tables import users
from tunery.texts import translator

Json = dict[str, Any]
OPEN = {"type": "custom", "item_schema": {}, "include_sample_schema": True}
EXPECTED: Json = {**SAME, "reference": "{{item.expected}}"}
ASKING: Json = {
    "type": "completions",
    "model": BASE,
    "source": {"type": "file_content", "content": [{"item": {"q": str(number), "a": "x"}} for number in range(4)]},
    "input_messages": {"type": "template", "template": [{"role": "user", "content": "Say {{item.q}}."}]},
    "sampling_params": {"temperature": 0, "max_completion_tokens": 4},
}
NAMES = {role: f"ft:{BASE}:personal:{role}:AbCd1234" for role in ("previous", "new")}


def create(api: Api, metadata: Json | None, **values: Any) -> Any:
    body = {"model": BASE, "training_file": api.make_file()["id"], "metadata": metadata, **values}
    return api.client.post("/v1/fine_tuning/jobs", json=body)


def created(api: Api, metadata: Json, **values: Any) -> FineTuningJob:
    answer = create(api, metadata, **values)
    assert answer.status_code == 200, answer.text
    with read(api.engine) as conn:
        return jobs.get_job(conn, answer.json()["id"])


def end(api: Api, job: FineTuningJob, model: str = NAMES["new"]) -> None:
    """As a worker ends it, from where its model is made."""
    done = replace(job, status=JobStatus.SUCCEEDED, fine_tuned_model=model, finished_at=int(api.clock()))
    with write(api.engine) as conn:
        conn.execute(
            update(jobs.jobs)
            .where(jobs.jobs.c.id == job.id)
            .values(status=done.status, fine_tuned_model=model, finished_at=done.finished_at)
        )
        assert done.details.eval_key_id is not None
        start_evaluation(conn, done, done.details.eval_key_id, now=api.clock())


def runs_of(api: Api, job: FineTuningJob) -> dict[str, Any]:
    with read(api.engine) as conn:
        return {run.job_role or "": run for run in evals.runs_of_job(conn, job.id)}


def told(api: Api, job: FineTuningJob) -> list[str]:
    with read(api.engine) as conn:
        return [event.message for event in events.list_events(conn, job.id, limit=100).items]


def evaluation(api: Api, job: FineTuningJob) -> Json:
    answer = api.client.get(f"/tunery/v1/jobs/{job.id}/evaluation")
    assert answer.status_code == 200, answer.text
    return answer.json()


# ---- what is refused, and that nothing is made of it


def an_eval_of_others(api: Api) -> Json:
    stranger = api.as_key(api.make_stranger())
    body = {"data_source_config": OPEN, "testing_criteria": [EXPECTED]}
    return {"run_eval": api.client.post("/v1/evals", json=body, headers=stranger).json()["id"]}


def an_eval_of_given_answers(api: Api) -> Json:
    eval_id = make(api, config=OPEN)
    start(api, eval_id, inline(row("yes")))
    return {"run_eval": eval_id}


def a_file_that_is_gone(api: Api) -> Json:
    file_id = api.make_file(purpose="evals")["id"]
    eval_id = make(api, config=OPEN)
    start(api, eval_id, {**ASKING, "source": {"type": "file_id", "id": file_id}})
    assert api.client.delete(f"/v1/files/{file_id}").status_code == 200
    return {"run_eval": eval_id}


REFUSED: dict[str, tuple[Callable[[Api], Json], str]] = {
    "unknown": (lambda _: {"run_eval": "eval_none"}, "metadata.run_eval"),
    "of another project": (an_eval_of_others, "metadata.run_eval"),
    "never run": (lambda api: {"run_eval": make(api)}, "metadata.run_eval"),
    "run on given answers alone": (an_eval_of_given_answers, "metadata.run_eval"),
    "its rows are gone": (a_file_that_is_gone, "metadata.run_eval"),
    "no file": (lambda api: {"run_eval": make(api), "run_eval_file": "file-none"}, "metadata.run_eval_file"),
    "a file without an eval": (lambda api: {"run_eval_file": api.make_file()["id"]}, "metadata.run_eval"),
    "conversations for other rows": (
        lambda api: {"run_eval": make(api), "run_eval_file": api.make_file()["id"]},
        "metadata.run_eval_file",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_could_not_be_run_is_refused_with_the_job(api: Api, case: str) -> None:
    make_metadata, param = REFUSED[case]
    answer = create(api, make_metadata(api))
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text
    assert api.client.get("/v1/fine_tuning/jobs").json()["data"] == []


def test_a_python_criterion_needs_the_sandbox_when_the_job_is_created(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    eval_id = make(api, config=OPEN)
    with write(api.engine) as conn:
        python = {"id": "p-1", "name": "p", "type": "python", "source": "def grade(sample, item): return 1.0"}
        conn.execute(update(evals.evals).values(testing_criteria=[python]))
    monkeypatch.setenv("PATH", "/nowhere")  # where there is no bubblewrap
    from tunery.sandbox import walls

    walls.probe.cache_clear()
    answer = create(api, {"run_eval": eval_id, "run_eval_file": api.make_file()["id"]})
    walls.probe.cache_clear()
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "metadata.run_eval"), answer.text


def test_a_key_without_the_right_to_evals_makes_no_job_with_one(api: Api) -> None:
    eval_id = make(api, EXPECTED, config=OPEN)
    only_jobs = api.as_key(api.make_key(scopes=("api.fine_tuning.jobs.write", "api.files.read")))
    body = {"model": BASE, "training_file": api.make_file()["id"], "metadata": {"run_eval": eval_id}}
    assert api.client.post("/v1/fine_tuning/jobs", json=body, headers=only_jobs).status_code == 403
    del body["metadata"]
    assert api.client.post("/v1/fine_tuning/jobs", json=body, headers=only_jobs).status_code == 200


# ---- which models answer, and which rows


def test_the_rows_are_those_of_the_newest_run_that_asked_a_model(api: Api) -> None:
    eval_id = make(api)
    start(api, eval_id, ASKING)
    start(api, eval_id, inline(row("yes")))
    job = created(api, {"run_eval": eval_id})
    end(api, job)
    found = runs_of(api, job)
    assert {role: run.model for role, run in found.items()} == {"base": BASE, "new": NAMES["new"]}
    for run in found.values():
        assert run.data_source["source"] == ASKING["source"]
        assert run.data_source["sampling_params"] == ASKING["sampling_params"]
        assert run.data_source["model"] == run.model
        assert run.metadata == {"job_id": job.id, "role": run.job_role}


@pytest.mark.parametrize("method", ["supervised", "dpo"])
def test_the_validation_file_or_a_chosen_one_gives_the_rows(api: Api, method: str) -> None:
    eval_id, valid, chosen = make(api, EXPECTED, config=OPEN), api.make_file()["id"], api.make_file()["id"]
    own = api.make_file(json.dumps({"item": {"q": "1", "a": "x"}}).encode(), purpose="evals")["id"]
    values: Json = {"validation_file": valid, "method": {"type": method, method: {}}}
    by_validation = created(api, {"run_eval": eval_id}, **values)
    by_choice = created(api, {"run_eval": eval_id, "run_eval_file": chosen}, **values)
    start(api, eval_id, ASKING)
    as_before = created(api, {"run_eval": eval_id, "run_eval_file": own}, **values)
    for job, file_id, asked in (
        (by_choice, chosen, {"type": "item_reference", "item_reference": "item.input"}),
        (as_before, own, ASKING["input_messages"]["type"]),
    ):
        end(api, job)
        source = runs_of(api, job)["new"].data_source
        assert source["source"] == {"type": "file_id", "id": file_id}
        assert asked in (source["input_messages"], source["input_messages"]["type"])
    end(api, by_validation)
    assert runs_of(api, by_validation)["new"].data_source["source"] == ASKING["source"], "its own rows, by then"


def continued(api: Api) -> Json:
    return {"model": api.make_model(NAMES["previous"]).name}


def by_alias(api: Api) -> Json:
    for number, name in enumerate((f"ft:{BASE}:personal:mine:AbCd0001", NAMES["previous"], f"ft:{BASE}:x::AbCd0002")):
        api.make_model(name)
        api.client.post("/tunery/v1/aliases", json={"name": f"alias {number}", "target": name})
    return {"suffix": "previous"}


def gone_by_then(api: Api) -> Json:
    return {"model": api.make_model(NAMES["previous"]).name, "metadata": {"gone": "yes"}}


@pytest.mark.parametrize(("prepare", "previous"), [(continued, True), (by_alias, True), (gone_by_then, False)])
def test_the_previous_model_is_what_the_job_went_on_from_or_what_an_alias_leads_to(
    api: Api, prepare: Callable[[Api], Json], previous: bool
) -> None:
    eval_id = make(api, EXPECTED, config=OPEN)
    values = prepare(api)
    metadata = values.pop("metadata", {})
    job = created(api, {"run_eval": eval_id, "run_eval_file": api.make_file()["id"], **metadata}, **values)
    if not previous:
        assert api.client.delete(f"/v1/models/{NAMES['previous']}").status_code == 200
    end(api, job)
    expected = {"base": BASE, **({"previous": NAMES["previous"]} if previous else {}), "new": NAMES["new"]}
    assert {role: run.model for role, run in runs_of(api, job).items()} == expected


@pytest.mark.parametrize("act", ["delete the eval", "delete the file"])
def test_what_is_gone_by_the_end_is_told_and_ends_no_job(api: Api, act: str) -> None:
    eval_id, file_id = make(api, EXPECTED, config=OPEN), api.make_file()["id"]
    job = created(api, {"run_eval": eval_id, "run_eval_file": file_id})
    path = f"/v1/evals/{eval_id}" if act == "delete the eval" else f"/v1/files/{file_id}"
    assert api.client.delete(path).status_code == 200
    end(api, job)
    assert runs_of(api, job) == {}
    assert told(api, job)[0].startswith("The eval was not run: ")
    found = evaluation(api, job)
    assert (found["is_over"], found["models"], found["changes"]) == (True, [], [])


def test_a_job_that_is_cancelled_runs_no_eval(api: Api) -> None:
    job = created(api, {"run_eval": make(api, EXPECTED, config=OPEN), "run_eval_file": api.make_file()["id"]})
    assert evaluation(api, job)["is_over"] is False
    assert api.client.post(f"/v1/fine_tuning/jobs/{job.id}/cancel").status_code == 200
    found = evaluation(api, job)
    assert (found["is_over"], found["models"]) == (True, [])
    without = api.make_job()
    assert api.client.get(f"/tunery/v1/jobs/{without.id}/evaluation").status_code == 404


# ---- what came of it


def answered(api: Api, run: Any, passed: list[bool]) -> None:
    """As the worker leaves a run, whose rows came to this."""
    from tests.api.conftest import NOW
    from tunery.domain.evals import OutputItem, RunStatus
    from tunery.domain.ids import new_id

    with write(api.engine) as conn:
        assert evals.LEASES.claim(conn, "w", now=NOW, lease_s=10**9) is not None
        conn.execute(update(evals.runs).where(evals.runs.c.id == run.id).values(worker_id="w"))
        evals.start_run(conn, run.id, "w", NOW, num_rows=len(passed), answer_ids=None)
        came = [
            OutputItem(new_id("output_item"), run.id, run.project_id, 1, "pass" if one else "fail", n, {}, [], {})
            for n, one in enumerate(passed)
        ]
        evals.add_items(conn, run.id, "w", [evals.Graded(item) for item in came])
        conn.execute(
            update(evals.runs).where(evals.runs.c.id == run.id).values(status=RunStatus.COMPLETED, worker_id=None)
        )


def test_the_three_are_told_with_intervals_and_the_rows_that_changed_sides(api: Api) -> None:
    job = created(
        api,
        {"run_eval": make(api, EXPECTED, config=OPEN, name="Tickets"), "run_eval_file": api.make_file()["id"]},
        **continued(api),
    )
    end(api, job)
    runs = runs_of(api, job)
    outcomes = {"base": [False] * 40, "previous": [True] * 20 + [False] * 20, "new": [False] * 2 + [True] * 38}
    for role, passed in outcomes.items():
        answered(api, runs[role], passed)
    found = evaluation(api, job)
    assert (found["eval_name"], found["is_over"]) == ("Tickets", True)
    assert [(each["role"], each["passed"], each["graded"]) for each in found["models"]] == [
        ("base", 0, 40),
        ("previous", 20, 40),
        ("new", 38, 40),
    ]
    previous = found["models"][1]["share"]
    assert previous["mean"] == 0.5 and 0.3 < previous["low"] < 0.4 and 0.6 < previous["high"] < 0.7
    request = api.client.get(f"/tunery/v1/jobs/{job.id}").json()["request"]
    assert set(request["metadata"]) == {"run_eval", "run_eval_file"}, "the job as code has its eval"
    base, previous = found["changes"]
    assert (base["gained"], base["lost"]) == (38, 0)
    assert (previous["gained_rows"], previous["lost_rows"]) == (list(range(20, 40)), [0, 1])
    assert previous["difference"]["mean"] == pytest.approx(0.45) and previous["difference"]["low"] > 0.2
    assert previous["url"].endswith(
        f"/evals/{runs['new'].eval_id}?run_id={runs['new'].id}&against={runs['previous'].id}"
    )


def test_a_few_rows_that_all_pass_say_little() -> None:
    all_of, none_of, half = share(4, 4), share(0, 4), share(20, 40)
    assert (all_of.mean, all_of.high) == (1.0, 1.0) and all_of.low == pytest.approx(0.51, abs=0.005)
    assert (none_of.mean, none_of.low) == (0.0, 0.0) and none_of.high == pytest.approx(0.49, abs=0.005)
    assert (half.low, half.high) == (pytest.approx(0.352, abs=0.001), pytest.approx(0.648, abs=0.001))
    assert share(0, 0).high == 0.0


def test_levels_and_rows_give_the_same_interval() -> None:
    import numpy as np

    values = np.array([1.0] * 30 + [0.0] * 60 + [-1.0] * 10)
    by_rows, by_levels = bootstrap(values), bootstrap_counts({1.0: 30, 0.0: 60, -1.0: 10})
    assert by_levels.mean == pytest.approx(by_rows.mean)
    assert by_levels.low == pytest.approx(by_rows.low, abs=0.02)
    assert by_levels.high == pytest.approx(by_rows.high, abs=0.02)
    assert bootstrap_counts({1.0: 0, 0.0: 0}) == bootstrap(np.array([]))


def test_a_real_run_ends_with_one_mail_of_all_three(served: Api) -> None:  # noqa: F811
    """The rows are a training file's; the model that was to be made is another name of the base, which answers."""
    with write(served.engine) as conn:
        conn.execute(update(users).values(email="owner@example.com"))
    eval_id = make(served, {**EXPECTED, "operation": "ne"}, config=OPEN, name="Tickets")
    file = served.make_file(EXAMPLE * 3)
    job = created(served, {"run_eval": eval_id, "run_eval_file": file["id"]})
    assert job.created_by is not None
    served.client.post("/tunery/v1/aliases", json={"name": "made", "target": BASE})
    end(served, job, "made")
    runs = runs_of(served, job)
    with worker(served.context):
        for run in runs.values():
            ended = until(served, {"id": run.id, "eval_id": eval_id}, "completed", "failed")
            assert ended["status"] == "completed" and ended["result_counts"]["total"] == 3, ended
    first = items(served, {"id": runs["new"].id, "eval_id": eval_id})[0]
    assert first["datasource_item"] == {"input": [{"role": "user", "content": "Hi"}], "expected": "Hello."}
    with read(served.engine) as conn:
        mails = [each for each in notices(conn, served.project_id) if each.topic == "fine_tuning.evaluation"]
    assert len(mails) == 1
    for language, word in (("en", "Base"), ("ja", "ベース")):
        t = translator(language)
        text = t.word(mails[0].payload, "text")
        assert all(name in text for name in (word, BASE, "made", "Tickets", job.id, "against="))
        subject = t.word(mails[0].payload, "subject")
        render_text_mail(subject, text, sender="a@b", recipient="c@d", mail_id="m", attempt_id="m-1", now=1.0)


@pytest.mark.parametrize("act", ["cancel", "delete"])
def test_the_mail_comes_also_when_the_last_run_is_ended_by_hand(make_each_api: Callable[..., Api], act: str) -> None:
    api = make_each_api()
    with write(api.engine) as conn:
        conn.execute(update(users).values(email="owner@example.com"))
    job = created(api, {"run_eval": make(api, EXPECTED, config=OPEN), "run_eval_file": api.make_file()["id"]})
    end(api, job)
    runs = runs_of(api, job)
    answered(api, runs["base"], [True])
    path = f"/v1/evals/{runs['new'].eval_id}/runs/{runs['new'].id}"
    for _ in range(2):
        api.client.post(f"{path}/cancel") if act == "cancel" else api.client.delete(path)
    with read(api.engine) as conn:
        topics = [each.topic for each in notices(conn, api.project_id)]
    assert topics.count("fine_tuning.evaluation") == 1


def test_whoever_waits_for_an_eval_that_is_deleted_is_told(make_each_api: Callable[..., Api]) -> None:
    """By the job's events and by the mail; nobody is, where all runs had ended."""
    api = make_each_api()
    with write(api.engine) as conn:
        conn.execute(update(users).values(email="owner@example.com"))
    file_id = api.make_file()["id"]
    jobs = []
    for _ in range(2):
        job = created(api, {"run_eval": make(api, EXPECTED, config=OPEN), "run_eval_file": file_id})
        end(api, job)
        jobs.append(job)
    waiting, over = (runs_of(api, job) for job in jobs)
    answered(api, waiting["base"], [True])
    for run in over.values():
        answered(api, run, [True])
    for runs in (waiting, over):
        assert api.client.delete(f"/v1/evals/{runs['new'].eval_id}").status_code == 200
    with read(api.engine) as conn:
        mails = [each for each in notices(conn, api.project_id) if each.topic == "fine_tuning.evaluation"]
    assert len(mails) == 1
    told = mails[0].payload
    assert "was deleted" in told["text"] and jobs[0].id in told["text"]
    assert "削除" in translator("ja").word(told, "text")
    events = api.client.get(f"/v1/fine_tuning/jobs/{jobs[0].id}/events").json()["data"]
    assert any("was deleted before its runs had ended" in each["message"] for each in events)
    evaluation = api.client.get(f"/tunery/v1/jobs/{jobs[0].id}/evaluation").json()
    assert (evaluation["is_over"], evaluation["models"]) == (True, [])


def test_the_command_line_makes_such_a_job_and_shows_what_came_of_it(api: Api, tmp_path: Any) -> None:
    context = api.context
    here = Installation(context.settings, api.engine, context.blobs, api.project_id, api.organization_id, SECRET)
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes(EXAMPLE * 12)
    eval_id = make(api, EXPECTED, config=OPEN)
    start(api, eval_id, ASKING)
    with here.serving() as client:
        root = ["--base-url", str(client.base_url), "--api-key", SECRET, "jobs"]
        wanted = ["--eval", eval_id, "--eval-file", str(rows), "--metadata", "team=x"]
        done = CliRunner().invoke(app, [*root, "create", str(rows), "--model", BASE, *wanted])
        assert done.exit_code == 0, done.output
        job_id = done.stdout.strip().splitlines()[-1]
        with read(api.engine) as conn:
            job = jobs.get_job(conn, job_id)
        assert (job.metadata or {})["run_eval"] == eval_id and (job.metadata or {})["team"] == "x"
        assert "Its eval runs when it has succeeded" in CliRunner().invoke(app, [*root, "get", job_id]).stdout
        end(api, job)
        for run, passed in zip(runs_of(api, job).values(), ([False, True], [True, True]), strict=True):
            answered(api, run, passed)
        shown = CliRunner().invoke(app, [*root, "get", job_id]).stdout
        assert "new against base: +50.0 %" in shown and "1 rows gained, 0 lost" in shown, shown
        refused = CliRunner().invoke(app, [*root, "create", str(rows), "--eval-file", str(rows)])
        assert refused.exit_code == 2
