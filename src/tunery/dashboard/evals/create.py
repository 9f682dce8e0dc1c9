"""Making an evaluation: what is asked, of whom, and what its answers must be. A grader can be tried on five rows."""

import asyncio
import re
from collections.abc import Awaitable
from typing import Any, TypeVar

from markupsafe import Markup
from nicegui import ui

from tunery.dashboard.components import blocks, html
from tunery.dashboard.components.choices import FIRST, MAX_HELD_BYTES, Choice, Files, Models, weights_line
from tunery.dashboard.components.conversation import shortened
from tunery.dashboard.components.table import Column, Row, Table
from tunery.dashboard.connection import Failure
from tunery.dashboard.evals.parts import INPUT, SCHEMA, row_file
from tunery.dashboard.lines import chat_examples
from tunery.dashboard.models import list_models
from tunery.dashboard.visit import BASE, Visit, notify
from tunery.datasets.conversations import Conversation

ROWS = (20, 50, 100, 500)
TRIED = 5
MAX_TOKENS = 256  # of an answer
ANSWER, REFERENCE = "{{ sample.output_text }}", "{{ item.expected }}"
OPERATIONS = ("eq", "ne", "like", "ilike")
METRICS = ("fuzzy_match", "bleu", "gleu", "meteor", "rouge_1", "rouge_2", "rouge_l", "cosine")
KINDS = ("string_check", "text_similarity", "score_model", "label_model", "python")
JUDGED = ("score_model", "label_model")
WITH_SCORE = ("text_similarity", "score_model", "python")  # and a threshold from which on that passes
PYTHON = 'def grade(sample, item):\n    return float(item["expected"].strip() in sample["output_text"])\n'
OF_A_GRADER = re.compile(r"(?:grader|testing_criteria\[0\])(?:\.(\w+))?")
"""A `param` of the server, with the part of the grader that is wrong."""
Json = dict[str, Any]
T = TypeVar("T")


async def build(visit: Visit) -> None:
    t = visit.t
    files = Files(visit, max_bytes=MAX_HELD_BYTES)
    listed, _ = await asyncio.gather(list_models(visit.connection, limit=FIRST), files.find())
    if (wanted := visit.query("file")) and wanted not in files.known:
        await files.fetch(wanted)
    blocks.heading(t("evals.new"), t("evals.new_text"))
    if not files.known:
        action = html.button_link(f"{BASE}/datasets", t("compare.to_datasets"), primary=True)
        blocks.empty("rule", t("compare.empty"), t("compare.empty_text"), action=action)
        return
    EvalForm(visit, Models(visit, listed), files).draw()


class EvalForm:
    def __init__(self, visit: Visit, models: Models, files: Files) -> None:
        self.visit, self.t, self.models, self.files = visit, visit.t, models, files

    def draw(self) -> None:
        t = self.t
        with blocks.panel(t("evals.asked")):
            with ui.element("div").classes("fields"):
                self.name = ui.input(t("evals.name")).props("outlined dense maxlength=200")
                labels = self.files.labels()
                wanted = self.visit.query("file")
                first = wanted if wanted in labels else next(iter(labels))
                self.file = Choice(self.visit, t("compare.file"), self.files.find, labels, value=first)
                self.rows = ui.select({n: str(n) for n in ROWS}, value=ROWS[0], label=t("compare.rows"))
                self.rows.props("outlined dense options-dense")
            labels = self.models.labels()
            find = self.models.find
            self.model = Choice(
                self.visit, t("jobs.model"), find, labels, value=next(iter(labels)), on_change=self.show_weights
            )
            self.weights = html.show("").classes("muted small")
        with blocks.panel(t("evals.grader")):
            self._draw_grader()
            with ui.element("div").classes("buttons"):
                blocks.button(t("evals.try", n=TRIED), self.try_out, symbol="science")
                blocks.button(t("evals.start"), self.start, primary=True, symbol="play_arrow")
            self.tried = ui.element("div").classes("stack").props("aria-live=polite")
        self.show_weights()

    def _draw_grader(self) -> None:
        t = self.t
        with ui.element("div").classes("fields"):
            kinds = {kind: t(f"grader.{kind}") for kind in KINDS}
            self.kind = ui.select(kinds, value=KINDS[0], label=t("evals.kind")).props("outlined dense options-dense")
            self.threshold = ui.number(t("evals.threshold"), value=0.5, step=0.1).props("outlined dense")
            self.threshold.bind_visibility_from(self.kind, "value", lambda kind: kind in WITH_SCORE)
            operations = {each: t(f"operation.{each}") for each in OPERATIONS}
            self.operation = self._of("string_check", ui.select(operations, value="eq", label=t("evals.operation")))
            metrics = {each: each for each in METRICS}
            self.metric = self._of("text_similarity", ui.select(metrics, value=METRICS[0], label=t("evals.metric")))
            labels = self.models.labels()
            find = self.models.find
            judge = Choice(self.visit, t("evals.judge"), find, labels, value=next(iter(labels)))
            self.judge = self._of(JUDGED, judge)
        places = f"{t('compare.expected')}: {REFERENCE}\n{t('evals.answer')}: {ANSWER}"
        self.prompts = {
            kind: self._of(kind, ui.textarea(t("evals.prompt"), value=f"{told}\n\n{places}"))
            for kind, told in (("score_model", t("evals.judge_prompt")), ("label_model", t("evals.label_prompt")))
        }
        with ui.element("div").classes("fields"):
            both = t("evals.labels_given").split()
            self.labels = self._of("label_model", ui.textarea(t("evals.labels"), value="\n".join(both)))
            self.passing = self._of("label_model", ui.textarea(t("evals.passing_labels"), value=both[0]))
        self.source = self._of("python", ui.textarea(t("evals.source"), value=PYTHON))
        self.source.props("input-class=mono")
        for field in (*self.prompts.values(), self.labels, self.passing, self.source):
            field.props("rows=5")  # not `autogrow`, which is one line high when it was drawn hidden
        named = Markup("{} <code>{}</code> <code>{}</code>").format(t("evals.places"), ANSWER, REFERENCE)
        self._of(JUDGED, html.show(named).classes("muted small"))

    def _of(self, kinds: str | tuple[str, ...], field: Any) -> Any:
        field.props("outlined dense options-dense")
        return field.bind_visibility_from(self.kind, "value", lambda chosen: chosen in kinds)

    def show_weights(self) -> None:
        model = self.models.known.get(str(self.model.value))
        self.weights.set_content(weights_line(model, self.t) if model else "")

    def criterion(self) -> Json:
        kind = str(self.kind.value)
        given: Json = {"type": kind, "name": self.t(f"grader.{kind}")}
        if kind == "string_check":
            return given | {"input": ANSWER, "reference": REFERENCE, "operation": self.operation.value}
        if kind in WITH_SCORE:
            given["pass_threshold"] = 0.5 if self.threshold.value is None else self.threshold.value
        if kind == "text_similarity":
            return given | {"input": ANSWER, "reference": REFERENCE, "evaluation_metric": self.metric.value}
        if kind == "python":
            return given | {"source": self.source.value or ""}
        asked = [{"role": "user", "content": self.prompts[kind].value or ""}]
        given |= {"model": str(self.judge.value), "input": asked}
        if kind == "label_model":
            given |= {"labels": _lines(self.labels), "passing_labels": _lines(self.passing)}
        return given

    # ---- what is wrong with it
    def field_of(self, part: str) -> Any:
        """Where the part of the grader is written; None for what no field here can be wrong about."""
        kind = str(self.kind.value)
        fields = {"source": self.source, "labels": self.labels, "passing_labels": self.passing}
        fields |= {"pass_threshold": self.threshold, "model": self.judge}
        return fields.get(part, self.prompts.get(kind))

    async def graded_by(self, work: Awaitable[T]) -> T | Failure:
        """What it gives. An error of the grader is said beside its field, any other below the page."""
        for field in (*self.prompts.values(), self.source, self.labels, self.passing, self.threshold, self.judge):
            field.error = None
        answer = await self.visit.ask(work)
        if isinstance(answer, Failure) and not self.blame(answer):
            notify(answer.message(self.t), bad=True)
        return answer

    def blame(self, failure: Failure) -> bool:
        """Says at the field what is wrong with it; False where it is none of these."""
        found = OF_A_GRADER.match(getattr(failure.error, "param", None) or "")
        field = self.field_of(found[1] or "") if found else None
        if field is None:
            return False
        field.error = failure.message(self.t)
        return True

    async def examples(self, most: int) -> list[Conversation]:
        """The first of the file. Empty, and said so, when a model could be asked none of its rows."""
        content = await self.visit.result_of(self.visit.connection.client.files.content(str(self.file.value)))
        found = [] if isinstance(content, Failure) else chat_examples(content.text, most)
        if not found and not isinstance(content, Failure):
            notify(self.t("evals.no_rows"), bad=True)
        return found

    # ---- trying it
    async def try_out(self) -> None:
        examples = await self.examples(TRIED)
        self.tried.clear()
        rows: list[Row] = []
        for number, example in enumerate(examples):
            row = await self.graded_by(self._tried_row(number, example))
            if isinstance(row, Failure):
                return
            rows.append(row)
        if rows:
            t = self.t
            columns = [
                Column(t("compare.expected")),
                Column(t("evals.answer"), wide=True),
                Column(t("evals.score"), numeric=True),
                Column(t("evals.verdict")),
            ]
            with self.tried:
                Table(t("evals.try", n=TRIED), columns, rows)

    async def _tried_row(self, number: int, example: Conversation) -> Row:
        client, item, criterion = self.visit.connection.client, example.item, self.criterion()
        request: Json = {"model": str(self.model.value), "messages": item[INPUT], "temperature": 0}
        completion = await client.chat.completions.create(max_completion_tokens=MAX_TOKENS, **request)
        answer = completion.choices[0].message.content or ""
        body = {"grader": criterion, "model_sample": answer, "item": item}
        graded = await self.visit.connection.post("/v1/fine_tuning/alpha/graders/run", body)
        passed = graded["reward"] >= criterion.get("pass_threshold", 1)
        self._point_at(graded["metadata"]["errors"])
        errors = {name: value for name, value in graded["metadata"]["errors"].items() if value}
        verdict = html.status_chip("error" if errors else "pass" if passed else "fail", self.t)
        if errors:
            told = next((value for value in errors.values() if isinstance(value, str)), next(iter(errors)))
            verdict = html.two_lines(verdict, html.model_name(shortened(told)))
        expected = example.answer_text or ""
        return Row(str(number), [shortened(expected), shortened(answer), html.number(graded["reward"]), verdict])

    def _point_at(self, errors: Json) -> None:
        """The field whose text cannot be used with this row."""
        prompt = self.prompts.get(str(self.kind.value))
        if errors["invalid_variable_error"] and prompt is not None:
            prompt.error = self.t("evals.unknown_place")
        if told := errors["python_grader_runtime_error_details"]:
            self.source.error = shortened(told)

    # ---- starting it
    async def start(self) -> None:
        examples = await self.examples(int(self.rows.value or ROWS[0]))
        if not examples:
            return
        made = await self.graded_by(self._create(examples))
        if not isinstance(made, Failure):
            ui.navigate.to(f"/evals/{made[0]}?run_id={made[1]}")

    async def _create(self, examples: list[Conversation]) -> tuple[str, str]:
        """The ids of the evaluation and of its first run."""
        client, filename = self.visit.connection.client, self.files.name(str(self.file.value))
        name = (self.name.value or "").strip() or filename.rsplit(".", 1)[0][:200]
        post = self.visit.connection.post
        config = {"type": "custom", "item_schema": SCHEMA, "include_sample_schema": True}
        body = {"name": name, "data_source_config": config, "testing_criteria": [self.criterion()]}
        evaluation = await post("/v1/evals", body)
        rows = await client.files.create(file=(f"rows-{filename}", row_file(examples)), purpose="evals")
        source = {
            "type": "completions",
            "source": {"type": "file_id", "id": rows.id},
            "model": str(self.model.value),
            "input_messages": {"type": "item_reference", "item_reference": f"item.{INPUT}"},
            "sampling_params": {"temperature": 0, "max_completion_tokens": MAX_TOKENS},
        }
        run = await post(f"/v1/evals/{evaluation['id']}/runs", {"data_source": source})
        return evaluation["id"], run["id"]


def _lines(field: ui.textarea) -> list[str]:
    """What stands in it, a line each."""
    return [line for each in (field.value or "").split("\n") if (line := each.strip())]
