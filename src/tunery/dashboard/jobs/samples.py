"""Sample prompts: chosen when a job is created, and what its checkpoints answered to them while it trains."""

from typing import Any

from markupsafe import Markup
from nicegui import ui

from tunery.dashboard.components import blocks, html
from tunery.dashboard.components.conversation import conversation, message, shortened
from tunery.dashboard.visit import Visit, notify
from tunery.texts import Translator

FROM_FILE = 3  # of its first rows
Prompt = list[dict[str, Any]]


class SampleFields:
    """Questions, an empty line between two, under one system message. A conversation of an earlier job that is not of
    this form is asked as it was."""

    def __init__(self, visit: Visit, given: list[Prompt]) -> None:
        self.visit, self.t = visit, visit.t
        system = next((each["content"] for prompt in given for each in prompt if each["role"] == "system"), "")
        questions = [_question(prompt, system) for prompt in given]
        self.kept = [prompt for prompt, question in zip(given, questions, strict=True) if not question]
        ui.label(self.t("samples.text")).classes("muted small")
        self.system = ui.textarea(self.t("samples.system"), value=system)
        self.system.props("outlined dense autogrow maxlength=20000")
        self.questions = ui.textarea(self.t("samples.questions"), value="\n\n".join(filter(None, questions)))
        self.questions.props(f'outlined dense autogrow hint="{self.t("samples.hint")}"')
        if self.kept:
            ui.label(self.t("samples.kept", n=len(self.kept))).classes("muted small")

    def prompts(self) -> list[Prompt]:
        system = (self.system.value or "").strip()
        before = [{"role": "system", "content": system}] if system else []
        asked = [part.strip() for part in (self.questions.value or "").split("\n\n") if part.strip()]
        return [[*before, {"role": "user", "content": question}] for question in asked] + self.kept

    async def take_from(self, file_id: str) -> None:
        """The questions of the file's first rows, and the first one's system message."""
        rows = await self.visit.connection.get(f"/tunery/v1/files/{file_id}/rows", limit=FROM_FILE)
        found = [_asked(row["example"] or {}) for row in rows["data"]]
        found = [prompt for prompt in found if prompt]
        if not found:
            notify(self.t("samples.none_in_file"), bad=True)
            return
        self.system.value = next((each["content"] for each in found[0] if each["role"] == "system"), "")
        questions = [prompt[-1]["content"].replace("\n\n", "\n") for prompt in found]
        self.questions.value = "\n\n".join(questions)


def _question(prompt: Prompt, system: str) -> str:
    """Of a prompt that the fields can hold."""
    turns = prompt[1:] if prompt[0] == {"role": "system", "content": system} else prompt
    holds = len(turns) == 1 and bool(system) == (len(prompt) == 2) and "\n\n" not in turns[0]["content"].strip()
    return turns[0]["content"].strip() if holds else ""


def _asked(example: dict[str, Any]) -> Prompt:
    """A row's last question, after its system message; nothing of a row that holds no such as text."""
    asked = example.get("input")
    given = example.get("messages") or (asked.get("messages") if isinstance(asked, dict) else None) or []
    texts = [each for each in given if isinstance(each, dict) and isinstance(each.get("content"), str)]
    questions = [each for each in texts if each.get("role") == "user" and each["content"].strip()]
    system = [{"role": "system", "content": each["content"]} for each in texts if each.get("role") == "system"][:1]
    return [*system, {"role": "user", "content": questions[-1]["content"]}] if questions else []


class SampleAnswers:
    """On a job's page. Only what is new is asked for."""

    def __init__(self, visit: Visit, job_id: str) -> None:
        self.visit, self.t, self.job_id = visit, visit.t, job_id
        self.prompts: list[Prompt] = []
        self.answers: list[dict[str, Any]] = []

    async def load(self) -> None:
        after = self.answers[-1]["step"] if self.answers else -1
        found = await self.visit.connection.get(f"/tunery/v1/jobs/{self.job_id}/samples", after_step=after)
        self.prompts, self.answers = found["prompts"], self.answers + found["data"]

    def draw(self) -> None:
        with blocks.panel(self.t("samples.title")) as self.panel:
            self.content = html.show("").classes("stack")

    def show(self) -> None:
        self.panel.visible = bool(self.prompts)
        told = [_answered(number, prompt, self.answers, self.t) for number, prompt in enumerate(self.prompts)]
        self.content.set_content(Markup("").join(told))


def _answered(number: int, prompt: Prompt, answers: list[dict[str, Any]], t: Translator) -> Markup:
    """A prompt, and what the checkpoints answered to it, the newest first."""
    own = [answer for answer in reversed(answers) if answer["prompt"] == number]
    parts = [message("assistant", t("samples.step", step=each["step"]), _text(each, t)) for each in own]
    waiting = Markup('<p class="muted">{}</p>').format(t("samples.waiting"))
    return Markup(
        '<div class="samples">{}'
        '<div class="conversation answers" tabindex="0" role="region" aria-label="{}">{}</div></div>'
    ).format(
        conversation(prompt, t, mark_trained=False),
        t("samples.answers_to", n=number + 1),
        Markup("").join(parts) or waiting,
    )


def _text(answer: dict[str, Any], t: Translator) -> str:
    text = shortened(answer["answer"]) or t("samples.empty")
    return f"{text} …" if answer["finish_reason"] == "length" else text
