"""The pages of evaluations in a real browser: the list, a run's rows with failing ones first, two runs side by side, a
corrected answer, and the form."""

import json
import os
import time
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.dashboard.browsing import Visitor
from tests.dashboard.conftest import visit
from tests.dashboard.latin import sentences
from tests.dashboard.rows import BASE
from tests.dashboard.stand import Stand
from tests.dashboard.test_stored import check_page
from tunery.dashboard.evals.parts import SCHEMA
from tunery.dashboard.lines import chat_examples
from tunery.domain.evals import Eval, EvalRun, OutputItem, RunStatus
from tunery.domain.ids import new_id
from tunery.store import evals
from tunery.store.database import write
from tunery.store.eval_tables import eval_output_items
from tunery.texts import translator

MARKUP = "<b>markup</b> " + "x" * 200
WORDS = {"en-US": translator("en"), "ja": translator("ja")}
SOURCE = {
    "type": "completions",
    "model": BASE,
    "source": {"type": "file_content", "content": [{"item": {"input": [], "expected": ""}}]},
    "input_messages": {"type": "item_reference", "item_reference": "item.input"},
}
CRITERION = {"type": "string_check", "name": MARKUP, "id": f"{MARKUP}-1"}


def keep_eval(stand: Stand, project: str, *, name: str = MARKUP) -> Eval:
    config = {"type": "custom", "schema": {"type": "object", "properties": {"item": SCHEMA}, "required": ["item"]}}
    made = Eval(new_id("eval"), project, int(time.time()), int(time.time()), name, config, [CRITERION])
    with write(stand.database) as conn:
        evals.insert_eval(conn, made)
    return made


def keep_run(stand: Stand, made: Eval, statuses: str, **values: Any) -> EvalRun:
    """A run whose rows came to `statuses`: p, f or e each."""
    counts = {"num_passed": statuses.count("p"), "num_failed": statuses.count("f"), "num_errored": statuses.count("e")}
    source = {"type": "completions", "source": {"type": "file_id", "id": "file-x"}, "model": BASE}
    defaults: dict[str, Any] = {
        "status": RunStatus.COMPLETED, "name": "", "model": BASE, "data_source": source, "api_key_id": "key",
        "created_by": None, "num_rows": len(statuses), **counts,
        "criteria": {CRITERION["id"]: {"passed": 1, "failed": 2, "errored": 0}},
    }  # fmt: skip
    run = EvalRun(new_id("eval_run"), made.id, made.project_id, int(time.time()), **defaults | values)
    rows = [item(run, number, status) for number, status in enumerate(statuses)]
    with write(stand.database) as conn:
        evals.insert_run(conn, run)
        for row in rows:
            conn.execute(eval_output_items.insert().values(vars(row) | {"bytes": evals.num_bytes(row)}))
    return run


def item(run: EvalRun, row: int, status: str) -> OutputItem:
    asked = [{"role": "user", "content": f"Question {row} {MARKUP}"}]
    result: dict[str, Any] = {"name": CRITERION["id"], "score": 1.0 if status == "p" else 0.0, "passed": status == "p"}
    if status == "e":
        result["error"] = {"code": "python_grader_runtime_error", "message": "NameError: no such <name>"}
    sample = {"input": asked, "output": [{"role": "assistant", "content": f"Answer {row} of {run.id}"}], "error": None}
    long = {"p": "pass", "f": "fail", "e": "error"}[status]
    made = new_id("output_item"), run.id, run.project_id, run.created_at
    return OutputItem(*made, long, row, {"input": asked, "expected": f"Right {row}"}, [result], sample)


def test_an_empty_page_leads_to_the_form(visitor: Visitor, stand: Stand) -> None:
    _, key = stand.new_project("no evals")
    visitor.sign_in(key)
    page = visitor.go("/evals")
    expect(page.locator(".empty")).to_contain_text("No evaluations yet")
    page.locator(".empty").get_by_role("link").click()
    expect(page.locator(".empty")).to_be_visible()  # no file to ask either: it says where to add one
    row = '{"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]}\n'
    stand.client(key).files.create(file=("held-out.jsonl", row.encode() * 12), purpose="fine-tune")
    page = visitor.go("/evals/new")
    expect(page.get_by_label("Passes from a score of")).to_be_hidden()  # a check of text passes or does not
    for kind, field in (("Python function", "Python"), ("Score by a model", "What the judge is told")):
        page.get_by_role("combobox", name="Grader").click()
        page.get_by_role("option", name=kind).click()
        expect(page.locator(f'[aria-label="{field}"]:visible')).to_have_count(1)
    page.get_by_role("combobox", name="Grader").click()
    page.get_by_role("option", name="Text check").click()
    page.get_by_role("button", name="Start").click()
    page.wait_for_url("**/evals/eval_*?run_id=*")
    expect(page.locator("h1")).to_have_text("held-out")
    expect(page.locator("#main")).to_contain_text("Queued")
    page.get_by_role("button", name="Cancel run").click()
    expect(page.locator("#main")).to_contain_text("Cancelled")


@pytest.mark.parametrize("locale", ["en-US", "ja-JP"])
def test_what_is_wrong_with_a_grader_stands_beside_its_field(browser: Browser, stand: Stand, locale: str) -> None:
    _, key = stand.new_project(f"graders {locale}")
    row = '{"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]}\n'
    stand.client(key).files.create(file=("held-out.jsonl", row.encode() * 12), purpose="fine-tune")
    is_english = locale == "en-US"
    kind, label, score = (
        ("Grader", "Label by a model", "Score by a model")
        if is_english
        else ("採点方法", "モデルによる分類", "モデルによる採点")
    )
    told, passing = (
        ("What the judge is told", "Those that pass, one a line")
        if is_english
        else ("採点モデルへの指示", "合格とするラベル（1 行に 1 つ）")
    )
    start = "Start" if is_english else "開始"
    for visitor in visit(browser, stand.url, locale=locale):
        visitor.sign_in(key)
        page = visitor.go("/evals/new")

        def refused(field: str, text: str, problem: str, better: str, page: Page = page) -> None:
            shown = page.locator(f'[aria-label="{field}"]:visible')
            shown.fill(text)
            page.get_by_role("button", name=start).click()
            expect(page.locator(".q-field--error:visible")).to_have_count(1)
            expect(page.locator(f'.q-field--error:visible:has([aria-label="{field}"])')).to_contain_text(problem)
            shown.fill(better)

        def choose(grader: str, page: Page = page) -> None:
            page.get_by_role("combobox", name=kind).click()
            page.get_by_role("option", name=grader).click()

        choose(label)
        labels = page.get_by_label(passing, exact=True).input_value()
        refused(passing, "fine", "fine", labels)
        refused(told, "{{ item.nothing }}", "item.nothing", "{{ item.expected }}")
        choose(score)
        refused(told, "{{ items.x }}", "items.x", "{{ item.expected }}")
        assert sentences(page) == [] or is_english
        assert page.locator(".q-notification").count() == 0
        page.get_by_role("button", name=start).click()
        page.wait_for_url("**/evals/eval_*?run_id=*")


def test_failing_rows_come_first_and_two_runs_stand_side_by_side(visitor: Visitor, stand: Stand) -> None:
    project, key = stand.new_project("evals")
    made = keep_eval(stand, project)
    before, run = keep_run(stand, made, "pppf"), keep_run(stand, made, "pfep" + "p" * 30)
    visitor.sign_in(key)
    row = visitor.go("/evals").locator("tbody tr")
    expect(row).to_contain_text("94.1 %")
    page = visitor.go(f"/evals/{made.id}?run_id={run.id}")
    shown = page.locator(".example")
    expect(shown).to_have_count(20)
    for place, text in enumerate(("NameError: no such <name>", f"Answer 1 of {run.id}", f"Answer 0 of {run.id}")):
        expect(shown.nth(place)).to_contain_text(text)
    page.get_by_role("button", name="Show more").click()
    expect(shown).to_have_count(34)
    page.get_by_role("link", name="Side by side").click()
    page.wait_for_url(f"**&against={before.id}")
    expect(page.locator(".example .pair").first).to_contain_text(f"Answer 2 of {before.id}")
    expect(page.locator(".example").nth(1)).to_contain_text(f"Answer 1 of {before.id}")


@pytest.mark.parametrize("locale", ["en-US", "ja"])
def test_a_job_is_created_with_an_evaluation_and_shows_what_it_came_to(
    browser: Browser, stand: Stand, locale: str
) -> None:
    project, key = stand.new_project(f"evals {locale}")
    made = keep_eval(stand, project)
    keep_run(stand, made, "pf", data_source=SOURCE)
    row = '{"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]}\n'
    file = stand.client(key).files.create(file=("train.jsonl", row.encode() * 12), purpose="fine-tune")
    for visitor in visit(browser, stand.url, locale=locale):
        visitor.sign_in(key)
        page = visitor.go(f"/jobs/new?file={file.id}")
        page.get_by_role("combobox", name=WORDS[locale]("create.eval")).click()
        page.get_by_role("option", name="markup").click()
        page.get_by_role("button", name=WORDS[locale]("create.submit")).click()
        page.wait_for_url("**/jobs/ftjob-*")
        panel = page.locator(".panel", has_text=WORDS[locale]("job.evaluation")).first
        expect(panel).to_contain_text(WORDS[locale]("job.evaluation_to_come"))
        job_id = page.url.rpartition("/")[2]
        assert stand.client(key).fine_tuning.jobs.retrieve(job_id).metadata == {"run_eval": made.id}
        roles = {"base": "ffff", "previous": "ppff", "new": "fppp"}
        runs = {role: keep_run(stand, made, rows, job_id=job_id, job_role=role) for role, rows in roles.items()}
        expect(panel).to_contain_text("75.0 %", timeout=20_000)
        expect(panel).to_contain_text("+25.0 %")
        if folder := os.environ.get("PICTURES"):
            page.screenshot(path=f"{folder}/job-{locale}.png", full_page=True)
        links = panel.get_by_role("link", name=WORDS[locale]("evals.beside"))
        expect(links).to_have_count(2)
        links.last.click()
        page.wait_for_url(f"**?run_id={runs['new'].id}&against={runs['previous'].id}")


def test_a_corrected_answer_becomes_an_example(visitor: Visitor, stand: Stand) -> None:
    project, key = stand.new_project("corrected evals")
    made = keep_eval(stand, project)
    run = keep_run(stand, made, "f")
    visitor.sign_in(key)
    page = visitor.go(f"/evals/{made.id}?run_id={run.id}")
    page.get_by_role("button", name="Correct and save as example").click()
    answer = page.locator(".dialog textarea")
    expect(answer).to_have_value("Right 0")
    answer.fill("Quite right")
    page.locator(".dialog").get_by_role("button", name="Save").click()
    expect(page.locator(".q-notification")).to_contain_text("examples.jsonl")
    (file,) = stand.client(key).files.list(purpose="fine-tune").data
    (line,) = stand.client(key).files.content(file.id).text.splitlines()
    assert json.loads(line)["messages"][-1] == {"role": "assistant", "content": "Quite right"}


def test_the_rows_of_a_dataset_become_those_of_an_evaluation() -> None:
    row = {"messages": [{"role": "user", "content": "東京?"}, {"role": "assistant", "content": "はい"}]}
    (example,) = chat_examples(json.dumps(row) + "\n")
    assert example.item == {"input": row["messages"][:1], "expected": "はい"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_of_evaluations_on_a_phone_in_japanese(browser: Browser, stand: Stand, scheme: str) -> None:
    project, key = stand.new_project(f"evals {scheme}")
    made = keep_eval(stand, project)
    error = {"code": "file_not_found", "message": "The file file-x is gone."}
    keep_run(stand, made, "", status=RunStatus.FAILED, error=error)
    keep_run(stand, made, "pf", status=RunStatus.IN_PROGRESS, num_rows=9)
    run = keep_run(stand, made, "pfe")
    for visitor in visit(browser, stand.url, locale="ja", color_scheme=scheme):
        visitor.page.set_viewport_size({"width": 375, "height": 720})
        visitor.sign_in(key)
        for path in ("/evals", "/evals/new", f"/evals/{made.id}", f"/evals/{made.id}?run_id={run.id}"):
            check_page(visitor.go(path), 375)
            assert sentences(visitor.page) == [], path
