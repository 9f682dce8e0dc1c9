"""The ugliest files that the upload takes: every page about them comes, and says what it can."""

import json
import re
import time
from pathlib import Path

import pytest
from markupsafe import escape
from openai import APIStatusError
from playwright.sync_api import expect

from tests import loops
from tests.dashboard.accessibility import violations
from tests.dashboard.browsing import Visitor
from tests.dashboard.rows import BASE, finished_job, insert_jobs, insert_model, organization_and_project
from tests.dashboard.stand import Stand
from tunery.dashboard.comparison import read_result
from tunery.dashboard.components import html
from tunery.dashboard.components.conversation import example
from tunery.dashboard.connection import Connection
from tunery.dashboard.jobs.create import create_split
from tunery.dashboard.lines import chat_examples
from tunery.dashboard.models import Model
from tunery.domain.ids import new_id
from tunery.domain.tenants import ApiKey, Role, User, hash_secret, key_hint, lookup_prefix
from tunery.store import tenants
from tunery.store.database import write
from tunery.texts import translator

PAIR = {
    "input": {"messages": [{"role": "user", "content": "How cold is Rome?"}], "tools": []},
    "preferred_output": [{"role": "assistant", "content": "Mild."}],
    "non_preferred_output": [{"role": "assistant", "content": "Not cold."}],
}
UGLY = {
    "pairs": json.dumps(PAIR),
    "a key twice": '{"messages": [{"role": "user", "role": "user", "content": "a"}]}',
    "numbers as content": '{"messages": [{"role": "user", "content": 1}, {"role": "assistant", "content": [2, true]}]}',
    "no objects as messages": '{"messages": [7, null, "x", [], {"role": ["a"], "tool_calls": [1, {"function": 2}]}]}',
    "half a pair of surrogates": '{"messages": [{"role": "user", "content": "\\ud800"}]}',
    "broken pairs": '{"input": {"messages": "none"}, "preferred_output": 4, "non_preferred_output": null}',
    "anything": '{"prompt": 5, "completion": null, "more": {"deep": [1e400, NaN]}}',
    "a long line": json.dumps({"messages": [{"role": "user", "content": "x" * 300_000}]}),
    "deep": '{"a":' * 70 + "1" + "}" * 70,
}


@pytest.mark.parametrize("rows", [*UGLY.values(), "\n".join(UGLY.values())], ids=[*UGLY, "all of them"])
def test_every_file_that_is_taken_has_its_page(visitor: Visitor, stand: Stand, rows: str) -> None:
    file = stand.client().files.create(file=("ugly <b>.jsonl", rows.encode() + b"\n"), purpose="fine-tune")
    visitor.sign_in(stand.key)
    page = visitor.go(f"/datasets/{file.id}")
    expect(page.locator("h1")).to_have_text("ugly <b>.jsonl")
    expect(page.locator(".example")).to_have_count(rows.count("\n") + 1)
    assert page.get_by_text("Something went wrong").count() == 0


@pytest.mark.parametrize("content", [b"[]\n", b'{"plan": 3}\n', b"\xff\xfe", b'{"plan": {"contestants": []}}\n[]\n'])
def test_a_file_that_is_no_comparison_is_told_so(visitor: Visitor, stand: Stand, content: bytes) -> None:
    file = stand.client().files.create(file=("comparison-x.jsonl", content), purpose="evals")
    visitor.sign_in(stand.key)
    page = visitor.go(f"/compare/{file.id}")
    expect(page.locator("#main")).to_contain_text("not a comparison")
    with pytest.raises(ValueError, match="not a comparison"):
        read_result(file.id, content.decode("utf-8", "replace"))


def test_a_comparison_without_figures_shows_its_answers_on_a_phone_too(visitor: Visitor, stand: Stand) -> None:
    long = f"ft:{BASE}:personal:{'x' * 64}:abcdefgh"
    plan = {"file_id": "f", "filename": "y" * 200, "contestants": [{"model": long, "shots": 0}], "max_rows": 1}
    row = {"line": 1, "prompt": [], "expected": "z" * 300, "answers": [{"text": "a" * 300}], "differs": True}
    content = "\n".join(json.dumps(item) for item in ({"plan": plan, "created_at": 1, "summary": []}, row))
    file = stand.client().files.create(file=("comparison-y.jsonl", content.encode()), purpose="evals")
    visitor.page.set_viewport_size({"width": 375, "height": 720})
    visitor.sign_in(stand.key)
    page = visitor.go(f"/compare/{file.id}")
    expect(page.locator(".example")).to_contain_text("a" * 300)
    assert page.evaluate("document.documentElement.scrollWidth") <= 375


@pytest.mark.parametrize("suffix", ["x" * 64, "<b>" * 20, "名" * 60])
def test_a_comparison_of_long_names_keeps_to_its_place(visitor: Visitor, stand: Stand, suffix: str) -> None:
    contestants = [{"model": f"ft:{BASE}:personal:{suffix}:abcdefg{n}", "shots": 0} for n in range(2)]
    plan = {"file_id": "f", "filename": "a.jsonl", "contestants": contestants, "max_rows": 1, "shots_file": None}
    figures = {
        "exact": 1, "token_accuracy": 1, "mean_logprob": -1, "completion_tokens": 5, "cached_tokens": 0, "seconds": 1,
        "cost": 0.1, "currency": "usd",
    }  # fmt: skip
    summary = [
        one | figures | {"label": one["model"], "prompt_tokens": 20 + 70 * n} for n, one in enumerate(contestants)
    ]
    content = json.dumps({"plan": plan, "created_at": 1, "summary": summary})
    file = stand.client().files.create(file=("comparison-z.jsonl", content.encode()), purpose="evals")
    visitor.sign_in(stand.key)
    page = visitor.go(f"/compare/{file.id}")
    expect(page.locator(".tile", has_text=suffix[:9]).first).to_be_visible()
    for width in (1280, 375):
        page.set_viewport_size({"width": width, "height": 720})
        assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\u0085", "\x0b"])
def test_marks_that_only_look_like_line_ends_are_text(mark: str) -> None:
    row = {"messages": [{"role": "user", "content": f"a{mark}b"}, {"role": "assistant", "content": f"c{mark}d"}]}
    (found,) = chat_examples(json.dumps(row, ensure_ascii=False) + "\n")
    assert (found.line, found.answer_text) == (1, f"c{mark}d")


def test_creating_with_a_tenth_held_back_counts_what_is_left_and_leaves_no_more_than_two_files(
    visitor: Visitor, stand: Stand
) -> None:
    _, key = stand.new_project("held back")
    client = stand.client(key)
    row = (
        '{"messages": [{"role": "user", "content": "Question %d?"}, {"role": "assistant", "content": "Answer %d."}]}\n'
    )
    content = "".join(row % (n, n) for n in range(40)).encode()
    file = client.files.create(file=("questions.jsonl", content), purpose="fine-tune")
    visitor.sign_in(key)
    page = visitor.go(f"/jobs/new?file={file.id}")
    page.get_by_role("combobox", name="Validation file").click()
    page.get_by_role("option", name="Hold back").click()
    expect(page.locator(".report")).to_contain_text("36 examples in 36 lines")
    assert len(client.files.list().data) == 1
    page.get_by_role("button", name="As code").click()
    expect(page.locator(".dialog pre.code")).to_contain_text(f"/tunery/v1/files/{file.id}/split")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Start fine-tuning").click()
    page.wait_for_url("**/jobs/ftjob-*")
    (job,) = client.fine_tuning.jobs.list().data
    assert {job.training_file, job.validation_file, file.id} == {each.id for each in client.files.list().data}


def test_the_method_follows_the_file_and_then_whoever_chooses(visitor: Visitor, stand: Stand) -> None:
    _, key = stand.new_project("methods")
    pairs, texts = json.dumps(PAIR) + "\n", '{"prompt": "Question?", "completion": "Answer."}\n'
    files = {
        name: stand.client(key).files.create(file=(f"{name}.jsonl", content.encode()), purpose="fine-tune")
        for name, content in {"pairs": pairs * 12, "texts": texts * 12, "broken": '{"a": 1}\n'}.items()
    }
    visitor.sign_in(key)
    page = visitor.go(f"/jobs/new?file={files['pairs'].id}")
    method = page.locator(".q-field", has=page.get_by_role("combobox", name="Method"))
    for name, becomes in (("texts", "Supervised"), ("pairs", "DPO"), ("broken", "DPO"), ("texts", "Supervised")):
        page.get_by_role("combobox", name="Training file").click()
        page.get_by_role("option", name=f"{name}.jsonl").click()
        expect(method).to_contain_text(becomes)
        expect(page.locator(".report")).to_contain_text("in 1 lines" if name == "broken" else "12 examples in 12 lines")
    page.get_by_role("combobox", name="Method").click()
    page.get_by_role("option", name="DPO").click()
    expect(page.locator(".report")).to_contain_text("12 errors in 12 lines")
    expect(method).to_contain_text("DPO")


def test_the_report_tells_warnings_from_errors(visitor: Visitor, stand: Stand) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [call]}]}
    wrong = '{"messages": [{"role": "robot", "content": "a"}]}'
    content = f"{json.dumps(row)}\n{wrong}\n"
    file = stand.client().files.create(file=("called.jsonl", content.encode()), purpose="fine-tune")
    visitor.sign_in(stand.key)
    rows = visitor.go(f"/datasets/{file.id}").locator(".panel [role=table] tbody tr")
    expect(rows.filter(has_text="not defined").first).to_contain_text("warning")
    expect(rows.filter(has_text="robot").first).not_to_contain_text("warning")


def test_a_split_whose_job_is_refused_leaves_no_file_behind(stand: Stand) -> None:
    _, key = stand.new_project("refused split")
    client = stand.client(key)
    row = '{"messages": [{"role": "user", "content": "Ask %d?"}, {"role": "assistant", "content": "Say %d."}]}\n'
    content = "".join(row % (n, n) for n in range(40)).encode()
    file = client.files.create(file=("questions.jsonl", content), purpose="fine-tune")
    refused = ({"model": "no-such-model"}, {"model": BASE, "suffix": "x" * 65}, {"model": BASE, "seed": -1})
    for wrong in refused:
        body = {"training_file": file.id, **wrong}
        with pytest.raises(APIStatusError):
            loops.run(_split_by(Connection(stand.url, key), body))
        assert [each.id for each in client.files.list().data] == [file.id]


async def _split_by(connection: Connection, body: dict[str, str]) -> None:
    async with connection.client:
        await create_split(connection, body, 0.1)


@pytest.mark.parametrize("path", ["/datasets", "/jobs/new"])
def test_a_file_that_is_refused_gets_the_whole_report(
    visitor: Visitor, stand: Stand, tmp_path: Path, path: str
) -> None:
    """One report of all lines, as `tunery data check` gives it."""
    file = tmp_path / "broken.jsonl"
    lines = ["not json", '{"messages": []}', '{"messages": [{"role": "robot", "content": "x"}]}', '{"a": 1,}']
    file.write_text("\n".join([*lines, *["{}"] * 60, '{"messages": 4}']))
    visitor.sign_in(stand.key)
    page = visitor.go(path)
    page.locator("input[type=file]").first.set_input_files(file)
    report = page.locator(".report-of-drop")
    for line in ("1", "2", "3", "4", "65"):
        expect(
            report.locator(
                "tbody tr", has=page.get_by_role("cell", name=re.compile(rf"^(Line )?(\d+, )?{line}$"))
            ).first
        ).to_be_visible()
    visitor.errors.clear()  # Chromium logs the refused upload itself


@pytest.mark.parametrize(
    ("suffix", "becomes"), [("Kunden Dienst", "Kunden-Dienst"), ("サポート", "サポート"), ("a_b:c", "a_b-c")]
)
def test_what_the_suffix_becomes_stands_below_it(visitor: Visitor, stand: Stand, suffix: str, becomes: str) -> None:
    visitor.sign_in(stand.key)
    page = visitor.go("/jobs/new")
    page.get_by_label("Suffix").fill(suffix)
    expect(page.locator("main, #main").locator("code", has_text=f":{becomes}:").first).to_be_visible()


def test_a_file_that_a_contestant_learned_from_is_warned_of(visitor: Visitor, stand: Stand) -> None:
    project, key = stand.new_project("learned")
    client = stand.client(key)
    row = b'{"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]}\n'
    seen, _ = (
        client.files.create(file=(f"{name}.jsonl", row * number), purpose="fine-tune")
        for name, number in (("seen", 12), ("fresh", 13))
    )
    organization, _ = organization_and_project(stand.database)
    job = finished_job(project, organization, suffix="learned", training_file=seen.id)
    insert_jobs(stand.database, [job])
    insert_model(stand.database, job)
    visitor.sign_in(key)
    page = visitor.go("/compare")
    chosen = page.get_by_role("combobox", name="Held-out file")
    expect(page.locator(".q-field", has=chosen)).to_contain_text("fresh.jsonl")
    expect(page.locator(".note.warn")).to_have_count(0)
    chosen.click()
    page.get_by_role("option", name="seen.jsonl").first.click()
    expect(page.locator(".note.warn", has_text="learned")).to_be_visible()


@pytest.mark.parametrize("name", ["x" * 180, "ملف " * 30, "<b>" * 50])
def test_a_long_name_pushes_no_button_away(visitor: Visitor, stand: Stand, name: str) -> None:
    organization, project = organization_and_project(stand.database)
    secret = f"sk-long-{hash(name)}"
    with write(stand.database) as conn:
        user = User(new_id("user"), organization, name, f"{'long' * 16}@example.com", Role.MEMBER, 1)
        tenants.insert_user(conn, user)
        key = ApiKey(
            id=new_id("key"), organization_id=organization, project_id=project, user_id=user.id, name=name,
            prefix=lookup_prefix(secret), hash=hash_secret(secret), hint=key_hint(secret), created_at=1,
        )  # fmt: skip
        tenants.insert_key(conn, key)
    visitor.sign_in(stand.key)
    for path in ("/keys", "/members"):
        page = visitor.go(path)
        expect(page.locator("tbody tr", has_text=name.strip()).first).to_be_visible()
        assert page.locator(".table-wrap").evaluate("(table) => table.scrollWidth <= table.clientWidth")
    visitor.go("/keys").locator("tr", has_text=name.strip()).first.get_by_role("button", name="Revoke").click()
    dialog = page.locator(".dialog")
    expect(dialog).to_be_visible()
    assert dialog.evaluate("(element) => element.scrollWidth <= element.clientWidth")


def test_a_model_knows_its_training_file_and_its_copies() -> None:
    learned = [{"id": "file-a", "sha256": "aa"}, {"id": None, "sha256": "bb"}, {"id": "file-gone", "sha256": None}]
    values = dict.fromkeys(Model.__dataclass_fields__) | {"learned_from": learned}
    model = Model(**values)  # type: ignore[arg-type]
    assert model.learned({"id": "file-a", "sha256": "cc"}) and model.learned({"id": "file-copy", "sha256": "aa"})
    assert model.learned({"id": "file-shared", "sha256": "bb"}) and model.learned({"id": "file-gone", "sha256": "dd"})
    assert not model.learned({"id": "file-new", "sha256": "ee"})


def test_a_comparison_without_figures_is_read() -> None:
    plan = {"file_id": "f", "filename": "x", "contestants": [{"model": "m", "shots": 0}], "max_rows": 1}
    head = {"plan": {**plan, "shots_file": None}, "created_at": 1.0, "summary": []}
    row = {"line": 1, "prompt": [], "expected": "a", "answers": [{"text": "b\u2028c"}], "differs": False}
    text = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in (head, row))
    assert read_result("file-x", text).rows[0]["answers"][0]["text"] == "b\u2028c"
    with pytest.raises(ValueError):
        read_result("file-x", text.replace('"answers": [', '"answers": [{"text": "d"}, '))


def test_the_same_mistake_in_many_lines_is_one_row_of_the_report(visitor: Visitor, stand: Stand) -> None:
    lines = ['{"messages": [{"role": "user", "content": "a"}]}'] * 45
    answer = '{"role": "assistant", "content": "b"}'
    lines[20:23] = [f'{{"messages": [{{"role": "robot", "content": "a"}}, {answer}]}}'] * 3
    file = stand.client().files.create(file=("alike.jsonl", "\n".join(lines).encode()), purpose="fine-tune")
    visitor.sign_in(stand.key)
    rows = visitor.go(f"/datasets/{file.id}").locator(".panel [role=table] tbody tr")
    expect(rows.filter(has_text="1–20, 24–45")).to_have_count(1)
    expect(rows.filter(has_text="robot")).to_contain_text("21–23")


def test_a_long_message_scrolls_in_a_place_that_the_keyboard_reaches(visitor: Visitor, stand: Stand) -> None:
    row = {"messages": [{"role": "user", "content": "word " * 3_000}, {"role": "assistant", "content": "short"}]}
    file = stand.client().files.create(file=("long.jsonl", json.dumps(row).encode()), purpose="fine-tune")
    visitor.sign_in(stand.key)
    long, short = visitor.go(f"/datasets/{file.id}").locator(".message .content").all()
    assert long.evaluate("(element) => element.clientHeight < 500 && element.scrollHeight > 500")
    long.focus()
    expect(long).to_be_focused()
    assert short.get_attribute("tabindex") is None
    assert [item for item in violations(visitor.page) if "scrollable" in item] == []


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (json.dumps({"city": "東京"}), '{"city": "東京"}'),
        ('{"city": "東', '{"city": "東'),
        ({"city": "東京"}, '{"city": "東京"}'),
        (None, ""),
    ],
)
def test_arguments_of_a_call_are_read_as_letters(arguments: object, shown: str) -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": arguments}}
    row = {"messages": [{"role": "assistant", "tool_calls": [call]}]}
    assert f"f({escape(shown)})" in example(row, translator("en"))


def test_a_long_time_ago_is_a_date() -> None:
    t, day = translator("en"), 86_400
    assert ">1970-01-01</time>" in html.when(1, t)
    assert ">99 days ago</time>" in html.when(time.time() - 99 * day - 60, t)
    assert ">2100-01-01</time>" in html.when(4_102_444_800, t)


def test_what_is_not_there_has_a_heading_and_leads_to_the_list(visitor: Visitor, stand: Stand) -> None:
    visitor.sign_in(stand.key)
    lists = {"/jobs/ftjob-none": "/", "/datasets/file-none": "/datasets", "/stored/resp_none": "/stored"}
    for path, way in lists.items():
        page = visitor.go(path)
        expect(page.locator("h1")).to_have_count(1)
        expect(page.locator("#main").get_by_role("link")).to_have_attribute("href", f"/dashboard{way}")
