"""`tunery improve`: what a finished job says of a better one. The model is random and tiny, what it learns is real."""

import json
import random
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.dashboard.browsing import Visitor
from tests.dashboard.conftest import visit
from tests.dashboard.test_stored import check_page
from tests.e2e.conftest import BASE, Served
from tests.e2e.test_estimate import ours
from tunery.cli.connection import get_own, post_own
from tunery.improve.alike import odds
from tunery.improve.asking import NUM_ASKED
from tunery.improve.jobs import Server

pytestmark = pytest.mark.e2e

KEYS = "pqrs"  # the last letter of a question decides on its label
NUM_WRONG = 10


def write_rows(path: Path, number: int, *, wrong: int = 0) -> list[int]:
    """The lines whose label was changed on purpose."""
    rng = random.Random(7)
    labels = [KEYS[n % 4].upper() for n in range(number)]
    changed = rng.sample(range(number), wrong)
    for position in changed:
        labels[position] = rng.choice([key.upper() for key in KEYS if key.upper() != labels[position]])
    with path.open("w") as file:
        for n, label in enumerate(labels):
            question = "".join(rng.choice("abcdefgh") for _ in range(6)) + f" {KEYS[n % 4]}"
            messages = [{"role": "user", "content": question}, {"role": "assistant", "content": label}]
            file.write(json.dumps({"messages": messages}) + "\n")
    return sorted(position + 1 for position in changed)


def improve(served: Served, *arguments: str) -> Any:
    done = served.tunery("improve", *arguments, "--json", timeout_s=900)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.timeout(900)
def test_a_finished_job_is_improved_on(served: Served, browser: Browser, tmp_path: Path) -> None:
    training, held_back = tmp_path / "letters.jsonl", tmp_path / "held-back.jsonl"
    wrong = write_rows(training, 240, wrong=NUM_WRONG)
    write_rows(held_back, 40)
    rate = ("--epochs", "3", "--batch-size", "4", "--learning-rate-multiplier", "45", "--seed", "1")
    created = served.tunery("jobs", "create", str(training), "--validation", str(held_back), *rate, "--json")
    job_id = json.loads(created.stdout)["id"]
    early = served.tunery("improve", job_id)
    assert (early.returncode, "only a job that has succeeded" in early.stderr) == (1, True)
    assert served.tunery("jobs", "watch", job_id, timeout_s=600).returncode == 0
    client = served.client()
    job = client.fine_tuning.jobs.retrieve(job_id)

    told = {entry["what"]: entry for entry in improve(served, job_id)}
    assert {what: len(entry["jobs"]) for what, entry in told.items()} == {
        "rows": 2,
        "curve": 4,
        "sweep": 3,
        "prompt": 0,
    }
    assert all(entry["cost"] > 0 and 0 <= entry["min_s"] < entry["max_s"] for entry in told.values())
    cost = ours(served).get(f"/tunery/v1/jobs/{job_id}").json()["cost"]
    assert told["curve"]["cost"] == pytest.approx(1.5 * cost, rel=0.02)
    declined = served.tunery("improve", job_id, "curve")
    assert (declined.returncode, "give --yes" in declined.stderr) == (1, True)
    assert "4 new jobs (quarter 1, quarter 2, half 1, half 2)" in declined.stderr
    assert not made_for(client, job_id)

    doubted = improve(served, job_id, "rows", "--yes")["rows"]
    assert set(wrong) <= {doubt["line"] for doubt in doubted}
    assert len(doubted) == 30 and all(0 < doubt[said] < 1 for doubt in doubted for said in ("likelihood", "alike"))

    curve = improve(served, job_id, "curve", "--yes")  # the halves are there
    assert [part["num_rows"] for part in curve["parts"]] == [60, 60, 120, 120, 240]
    assert curve["parts"][-1]["job_id"] == job_id
    assert curve["expected"]["low"] < curve["expected"]["mean"] < curve["expected"]["high"]
    made = made_for(client, job_id)
    assert sorted(each.metadata["improve_part"] for each in made) == ["half 1", "half 2", "quarter 1", "quarter 2"]
    for each in made:
        assert (each.model, each.seed, each.validation_file) == (BASE, job.seed, job.validation_file)
        assert each.hyperparameters == job.hyperparameters
    assert sum(each.trained_tokens for each in made) == pytest.approx(1.5 * (job.trained_tokens or 0), rel=0.02)
    again = served.tunery("improve", job_id, "curve", "--yes")
    assert "No new jobs" in again.stderr and "Twice the rows" in again.stdout

    prompts = improve(served, job_id, "prompt", "--yes")
    assert prompts["num_rows"] == 40 and len(prompts["base"]) == 6
    gain = prompts["tuned"]["correct"]["mean"] - prompts["base"][0]["correct"]["mean"]
    assert prompts["difference"]["mean"] == pytest.approx(gain)
    assert len(made_for(client, job_id)) == 4
    for visitor in visit(browser, served.base_url.removesuffix("/v1"), locale="en-US"):
        look_at_the_page(visitor, served, job, doubted)
    assert len(made_for(client, job_id)) == 4


def look_at_the_page(visitor: Visitor, served: Served, job: Any, doubted: list[dict[str, Any]]) -> None:
    """All jobs are there: the page says so before it starts, and finds what the command found."""
    visitor.sign_in(served.key)
    page = visitor.go(f"/jobs/{job.id}")
    page.get_by_role("link", name="Improve").click()
    page.wait_for_url("**/improve")
    panels = page.locator(".panel")
    expect(panels.get_by_role("button", name="Start")).to_have_count(4)
    rows, curve, sweep, prompt = (panels.nth(number) for number in range(4))
    expect(rows).to_contain_text("none: those that it needs")
    expect(sweep).to_contain_text("3 new: learning rate 0.5, learning rate 1, learning rate 2")
    for panel in panels.all():
        expect(panel).to_contain_text("at most $")
    measure_the_time(page, served)
    for panel in (rows, curve, prompt):
        panel.get_by_role("button").click()
    expect(rows.locator("tbody tr:visible")).to_have_count(30)
    expect(rows.locator(".note")).to_contain_text("The 30 most doubtful of 240 rows")
    expect(curve.locator(".chart canvas")).to_be_visible()
    expect(curve.locator("tbody tr:visible")).to_have_count(5)
    expect(prompt.locator("tbody tr:visible")).to_have_count(7)
    assert [row["line"] for row in doubted[:3]] == [
        int(text.split()[-1]) for text in rows.locator("tbody tr:visible td:first-child").all_inner_texts()[:3]
    ]
    check_page(page, 1280)
    rows.locator("tbody a:visible").first.click()
    page.wait_for_url(f"**/datasets/{job.training_file}?line=*")
    expect(page.locator(".example .line").first).to_contain_text(f"Line {doubted[0]['line']}")


def measure_the_time(page: Page, served: Served) -> None:
    """Nobody is asked before the button is pressed; then nine rows are, and the times that hung on it are there."""
    rows, curve, sweep, prompt = (page.locator(".panel").nth(number) for number in range(4))
    expect(page.get_by_text(f"{NUM_ASKED} rows are asked, for at most $")).to_be_visible()
    expect(sweep).to_contain_text(", and the questions to models")
    for panel in (rows, prompt):
        expect(panel).to_contain_text("that of the questions to models")
    before, button = num_requests(served), page.get_by_role("button", name="Measure the time")
    button.click()
    expect(button).to_be_hidden()
    for panel in (rows, curve, sweep, prompt):
        expect(panel).not_to_contain_text("the questions to models")
        expect(panel).to_contain_text(re.compile(r"\d+\s(s|min)"))
    assert num_requests(served) == before + NUM_ASKED


def num_requests(served: Served) -> int:
    asked = {"start_time": int(time.time()) - 86_400, "bucket_width": "1d"}
    with ours(served) as client:
        page = client.get("/v1/organization/usage/completions", params=asked).raise_for_status().json()
    return sum(result["num_model_requests"] for day in page["data"] for result in day["results"])


def made_for(client: Any, job_id: str) -> list[Any]:
    return list(client.fine_tuning.jobs.list(metadata={"improve_of": job_id}))


@pytest.mark.timeout(900)
def test_a_job_without_a_validation_file_is_measured_on_rows_that_are_held_back(served: Served, tmp_path: Path) -> None:
    write_rows(training := tmp_path / "letters.jsonl", 50)
    options = ("--epochs", "1", "--batch-size", "4", "--learning-rate-multiplier", "20", "--watch", "--json")
    created = served.tunery("jobs", "create", str(training), *options)
    job_id = json.loads(created.stdout.strip().split("\n")[-1])["id"]
    told = {entry["what"]: entry for entry in improve(served, job_id)}
    assert told["rows"]["jobs"] == ["half 1 of all", "half 2 of all"]
    assert told["prompt"]["jobs"] == ["all rows"] and told["curve"]["jobs"][0] == "all rows"

    sweep = improve(served, job_id, "sweep", "--yes")
    made = {each.metadata["improve_part"]: each for each in made_for(served.client(), job_id)}
    assert set(made) == {"all rows", "learning rate 0.5", "learning rate 1", "learning rate 2"}
    whole = made["all rows"]
    assert (whole.hyperparameters.n_epochs, whole.metadata.get("early_stopping")) == (1, None)
    for name, rate in (("0.5", 10), ("1", 20), ("2", 40)):
        tried = made[f"learning rate {name}"]
        assert (tried.training_file, tried.validation_file) == (whole.training_file, whole.validation_file)
        assert (tried.hyperparameters.n_epochs, tried.hyperparameters.learning_rate_multiplier) == (2, rate)
        assert tried.metadata["early_stopping"] == "true"
    losses = [tried["best"]["loss"] for tried in sweep["tried"]]
    assert losses == sorted(losses) and {each["job_id"] for each in sweep["tried"]} < set(sweep["jobs"])
    assert sweep["as_it_was"]["model"] == whole.fine_tuned_model
    gain = sweep["as_it_was"]["loss"] - losses[0]  # a token of all answers: here each has as many
    assert sweep["difference"]["mean"] == pytest.approx(gain, abs=0.05)


def test_without_an_embedding_model_no_row_is_asked(
    start: Callable[..., Served], tiny_settings: dict[str, str]
) -> None:
    """Rows are then judged by the halves' models alone, as where the model cannot be fetched."""
    catalog = Path(tiny_settings["TUNERY_CATALOG"])
    gone = catalog.with_name("gone.toml")
    gone.write_text(re.sub(r'(encoder\]\nsource = )"[^"]+"', r'\1"path:/nowhere"', catalog.read_text()))
    client = start(TUNERY_CATALOG=str(gone)).client()
    server = Server(client, partial(get_own, client), partial(post_own, client))
    assert odds(server, ["a", "b"], ["A", "B"]) is None
