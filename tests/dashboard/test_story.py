"""The whole loop without code: a small random model, but real training, a real engine and a real browser."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from openai import BadRequestError
from playwright.sync_api import Browser, Page, expect

from tests.dashboard.accessibility import violations
from tests.dashboard.browsing import Visitor
from tests.dashboard.conftest import visit
from tests.dashboard.latin import sentences
from tests.dashboard.stand import Stand
from tests.migrate.reports import OLD, answers
from tunery.dashboard.comparison import read_result, verdicts
from tunery.migrate.capture import write_answers
from tunery.texts import translator

MARV = Path(__file__).parents[2] / "examples" / "marv.jsonl"
NUM_EXAMPLES = 12
T = translator("ja")


@pytest.fixture
def marv(tmp_path: Path) -> Path:
    path = tmp_path / "marv.jsonl"
    path.write_text("".join(MARV.read_text().splitlines(keepends=True)[:NUM_EXAMPLES]))
    return path


@pytest.mark.e2e
def test_from_a_file_to_a_comparison(browser: Browser, server: Stand, marv: Path) -> None:
    for visitor in visit(browser, server.url):
        visitor.sign_in(server.key)
        page = visitor.go("/")
        _read_the_report(visitor, marv)
        address = _create_the_job(page)
        _close_the_tab_and_find_it_finished(visitor, address)
        _chat_side_by_side(visitor)
        _compare(visitor, server)
        _see_the_cost(visitor)


def _choose(page: Page, label: str, option: str) -> None:
    page.get_by_role("combobox", name=label).click()
    page.get_by_role("option", name=option).first.click()


def _read_the_report(visitor: Visitor, marv: Path) -> None:
    page = visitor.go("/jobs/new")
    _choose(page, "Base model", "tiny")
    page.locator("input[type=file]").set_input_files(marv)
    expect(page.locator(".report")).to_contain_text(f"Ready to train: {NUM_EXAMPLES} examples")
    expect(page.locator(".report .tiles")).to_contain_text("Cost")
    expect(page.locator(".report")).to_contain_text("12 examples: 8 passes over them")


def _create_the_job(page: Page) -> str:
    page.get_by_label("Suffix").fill("story")
    page.get_by_label("Epochs").fill("4")
    page.get_by_role("button", name="Take from the file").click()
    expect(page.get_by_label("System message")).to_have_value("Marv is a factual chatbot that is also sarcastic.")
    page.get_by_label("Questions").fill("What's the capital of France?\n\nHow many legs\nhas a spider?")
    expect(page.locator(".report")).to_contain_text("8 answers to sample prompts")
    expect(page.locator(".report")).to_contain_text("chosen by you")
    page.get_by_role("button", name="Start fine-tuning").click()
    page.wait_for_url("**/jobs/ftjob-*")
    expect(page.locator(".events")).to_contain_text("Step 2/")
    expect(page.locator(".chart canvas").first).to_be_visible()
    return page.url


def _close_the_tab_and_find_it_finished(visitor: Visitor, address: str) -> None:
    visitor.page.close()
    visitor.page = visitor.open_tab()
    visitor.page.goto(address)
    expect(visitor.page.locator(".chip").first).to_have_text("Succeeded", timeout=120_000)
    expect(visitor.page.locator("h1")).to_contain_text("ft:tiny:personal:story:")
    expect(visitor.page.locator(".samples")).to_have_count(2)
    for told in visitor.page.locator(".samples .answers").all():
        expect(told.locator(".message")).to_have_count(4)  # a checkpoint an epoch, the newest first
        expect(told.locator(".message .role").first).to_have_text("Step 12")
    assert violations(visitor.page) == []


def _chat_side_by_side(visitor: Visitor) -> None:
    page = visitor.page
    page.get_by_role("link", name="Open in playground").first.click()
    expect(page.locator(".lane")).to_have_count(2)
    page.get_by_label("Longest answer").fill("16")
    page.get_by_label("Your message").fill("What's the capital of France?")
    page.keyboard.press("Enter")
    expect(page.locator(".stats", has_text="prompt tokens")).to_have_count(2)
    page.get_by_role("button", name="Save as example").last.click()
    expect(page.get_by_label("Answer as it should be")).to_be_visible()
    page.wait_for_timeout(500)  # the dialog opens with a transition
    assert violations(page) == []
    page.get_by_label("Answer as it should be").fill("Paris, as everyone knows.")
    page.locator(".dialog").get_by_role("button", name="Save").click()
    expect(page.locator(".q-notification")).to_contain_text("one example more")
    expect(page.locator(".dialog")).not_to_be_visible()
    expect(page.locator(".q-notification")).to_have_count(0)
    assert violations(page) == []


def _compare(visitor: Visitor, server: Stand) -> None:
    """Goes on over a restart of the server; what is downloaded is the same comparison."""
    page = visitor.go("/compare")
    page.get_by_role("button", name="Compare", exact=True).click()
    page.wait_for_url("**/compare/eval_*")
    server.stop("web", kill=True)
    server.start_web()
    expect(page.get_by_text("Similarity", exact=True)).to_be_visible(timeout=120_000)
    visitor.errors.clear()  # Chromium logs each refused connection itself
    expect(page.locator("[role=table] tbody tr")).to_have_count(3)
    expect(page.get_by_text("prompt tokens fewer in every request")).to_be_visible()
    expect(page.locator(".note .lead")).to_have_count(2)  # the tuned model against either other
    expect(page.locator(".note .lead").first).to_contain_text("instead of")
    expect(page.locator(".note").first).to_contain_text("95 % interval")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    kept = read_result("file-x", download.value.path().read_text())
    num_rows = NUM_EXAMPLES + 1  # with the answer that was corrected in the playground
    assert [len(row["answers"]) for row in kept.rows] == [3] * num_rows
    assert [contestant.shots for contestant in kept.plan.contestants] == [0, 0, 5]
    assert verdicts(kept)[0].rows == num_rows
    page = visitor.go("/compare")
    page.locator("table").get_by_role("link", name="marv.jsonl").click()
    expect(page.get_by_text("Answers, differing ones first")).to_be_visible()
    assert violations(page) == []


def _see_the_cost(visitor: Visitor) -> None:
    page = visitor.go("/usage")
    expect(page.get_by_text("ft:tiny:personal:story:").first).to_be_visible()


def _report(server: Stand, key: str, golden: Path) -> tuple[dict[str, Any], str]:
    """What the command prints for programs, and what it remarks."""
    write_answers(golden, answers(32, 0.9, model=OLD))
    server_options = ["--base-url", f"{server.url}/v1", "--api-key", key]
    options = ["--base", "tiny", "--max-tokens", "4", "--out", str(golden.with_suffix(".html")), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "tunery", *server_options, "migrate", "openai", "report", str(golden), "tiny", *options],
        env={**os.environ, "TUNERY_HOME": str(golden.parent)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


@pytest.mark.e2e
def test_what_the_engine_refuses_is_told_in_japanese(browser: Browser, server: Stand) -> None:
    for visitor in visit(browser, server.url, locale="ja-JP"):
        visitor.sign_in(server.key)
        page = visitor.go("/playground?models=tiny")
        page.get_by_label(T("playground.prompt"), exact=True).fill("word " * 3000)
        page.get_by_role("button", name=T("playground.send"), exact=True).click()
        expect(page.get_by_role("alert")).to_contain_text("2048 トークン")
        assert sentences(page) == []


@pytest.mark.e2e
def test_the_report_command_leads_to_its_page(browser: Browser, server: Stand, tmp_path: Path) -> None:
    told, _ = _report(server, server.key, tmp_path / "old.golden.jsonl")
    assert told["object"] == "tunery.parity_report" and len(told["rows"]) == 32
    assert told["costs"]["old"] and told["costs"]["new"] == {"amount": 0, "currency": "usd"}  # an own base is free
    kept = server.client().files.retrieve(told["file_id"])
    assert (kept.filename, kept.purpose) == ("parity-tiny.jsonl", "evals")
    for visitor in visit(browser, server.url):
        visitor.sign_in(server.key)
        page = visitor.go("/")
        page.goto(told["dashboard"])
        expect(page.locator("#main .note").first).to_contain_text("No, do not switch")
        expect(page.locator("#main .note").first).to_contain_text("no better than the untrained base")
        page = visitor.go("/move")
        expect(page.locator("tbody")).to_contain_text(OLD)


@pytest.mark.e2e
def test_a_report_that_the_server_refuses_is_not_lost(server: Stand, tmp_path: Path) -> None:
    project, key = server.new_project("full")
    limits = f"{server.url}/tunery/v1/organization/projects/{project}/limits"
    server.client().post(limits, cast_to=object, body={"max_storage_bytes": 1})
    told, remarks = _report(server, key, tmp_path / "old.golden.jsonl")
    assert "file_id" not in told and "The dashboard does not have this report" in remarks
    assert "Safe to switch: no" in (tmp_path / "old.golden.html").read_text()


@pytest.mark.e2e
def test_a_restart_of_the_server_loses_nothing(browser: Browser, server: Stand) -> None:
    """The page that was open comes back by itself, with what was typed."""
    for visitor in visit(browser, server.url):
        visitor.sign_in(server.key)
        page = visitor.go("/playground")
        page.get_by_label("System message").fill("Be brief.")
        page.get_by_label("Your message").fill("An unsent thought")
        page.wait_for_timeout(500)  # typing travels to the server
        server.stop("web", kill=True)
        expect(page.locator("#popup")).to_be_visible()
        server.start_web()
        expect(page.get_by_label("System message")).to_have_value("Be brief.")
        expect(page.get_by_label("Your message")).to_have_value("An unsent thought")
        expect(page.locator("#popup")).not_to_be_visible()
        visitor.errors.clear()  # Chromium logs each refused connection itself


@pytest.mark.e2e
def test_a_score_is_what_transformers_computes(server: Stand, tiny_model_dir: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    question, answer = "What's the capital of France?", "Paris, of course."
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    score = server.client().post(
        f"{server.url}/tunery/v1/scores", body={"model": "tiny", "messages": messages}, cast_to=dict
    )
    prompt = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    start, ids = len(tokenizer(prompt)["input_ids"]), tokenizer(f"{prompt}{answer}<|im_end|>")["input_ids"]
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(tiny_model_dir)(torch.tensor([ids])).logits[0, start - 1 : -1]
    logprobs = logits.float().log_softmax(-1)
    chosen = torch.tensor(ids[start:])
    assert score["num_tokens"] == len(chosen)
    assert score["num_greedy_tokens"] == (logprobs.argmax(-1) == chosen).sum().item()
    # The engine computes in bf16: 8 significant bits of logits around 5.
    expected = logprobs.gather(1, chosen[:, None]).mean().item()
    assert score["mean_logprob"] == pytest.approx(expected, abs=0.02)


@pytest.mark.e2e
def test_a_score_needs_an_answer(server: Stand) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}
    with pytest.raises(BadRequestError, match="assistant's answer"):
        server.client().post(f"{server.url}/tunery/v1/scores", body=body, cast_to=dict)
