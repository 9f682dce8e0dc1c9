import pytest

from tests.jobs.conftest import ROWS, Site
from tests.jobs.test_worker import SCRIPTED
from tunery.domain.evals import Eval
from tunery.domain.jobs import JobStatus
from tunery.jobs.endings import step_metrics_csv
from tunery.store import evals
from tunery.store.database import read, write


def test_result_file_has_openais_header_five_decimals_and_blanks() -> None:
    rows = [
        {"step": 1, "train_loss": 1.23456789, "train_mean_token_accuracy": 0.5},
        {"step": 2, "train_loss": 1, "train_mean_token_accuracy": 1, "valid_loss": 2, "valid_mean_token_accuracy": 0},
    ]
    assert step_metrics_csv(rows).decode() == (
        "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy\n"
        "1,1.23457,0.50000,,\n"
        "2,1.00000,1.00000,2.00000,0.00000\n"
    )


def test_step_trained_twice_stands_once_in_order_of_steps() -> None:
    rows = [
        {"step": 2, "train_loss": 0.1},
        {"step": 1, "train_loss": 0.2},
        {"step": 2, "train_loss": 0.3},
    ]
    assert [line.split(",")[:2] for line in step_metrics_csv(rows).decode().split()[1:]] == [
        ["1", "0.20000"],
        ["2", "0.30000"],
    ]


@pytest.mark.parametrize("method", ["supervised", "dpo"])
def test_a_job_with_an_eval_ends_with_a_run_for_each_model(site: Site, method: str) -> None:
    config = {"type": "logs", "schema": {"properties": {"item": {"type": "object"}}}}
    same = {"type": "string_check", "name": "same", "id": "same-1"}
    with write(site.engine) as conn:
        evals.insert_eval(conn, Eval("eval_1", site.caller.project_id, 1, 1, "", config, [same]))
    preferred = [{"role": "assistant", "content": "Yes."}]
    pair = {"input": {"messages": ROWS[0]["messages"][:1]}, "preferred_output": preferred}
    pairs = [{**pair, "non_preferred_output": [{"role": "assistant", "content": f"No {n}."}]} for n in range(12)]
    files = [site.add_file(ROWS if method == "supervised" else pairs) for _ in range(2)]
    wished = {"training_file": files[0], "validation_file": files[1], "metadata": {"run_eval": "eval_1"}}
    with site.worker(SCRIPTED):
        job = site.wait(site.create(method=method, **wished).id)
    assert job.status is JobStatus.SUCCEEDED, job.error
    with read(site.engine) as conn:
        runs = evals.runs_of_job(conn, job.id)
    assert [(run.job_role, run.model) for run in runs] == [("base", "tiny-1"), ("new", job.fine_tuned_model)]
    assert {run.data_source["source"]["id"] for run in runs} == {files[1]}
    assert {run.api_key_id for run in runs} == {site.caller.key_id}
    assert "The eval eval_1 runs on the base, the previous and the new model." in site.messages(job.id)
