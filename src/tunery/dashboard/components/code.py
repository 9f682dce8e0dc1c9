"""Code to copy: highlighted, never run."""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from markupsafe import Markup
from nicegui import ui
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name

from tunery.dashboard.components.blocks import button, dialog_box, note
from tunery.dashboard.components.html import show
from tunery.texts import Translator

LANGUAGES = {"Python": "python", "Node": "javascript", "curl": "bash", "Shell": "bash"}


def block(text: str, language: str) -> None:
    rendered = highlight(text, get_lexer_by_name(language), HtmlFormatter(nowrap=True))
    show(Markup('<pre class="code" tabindex="0"><code>{}</code></pre>').format(Markup(rendered)))


def tabs(t: Translator, snippets: Mapping[str, str]) -> None:
    """One tab a language, each with a button to copy."""

    def show_one(name: str) -> None:
        block(snippets[name], LANGUAGES[name])
        copy_button(t, snippets[name])

    _tabs(snippets, show_one)


def both_apis(t: Translator, root: str, model: str, messages: list[dict[str, Any]], **more: Any) -> None:
    """The same conversation as the call of either API; `more` is what both name alike."""
    programs = {
        "Chat Completions": chat(root, model, messages, **more),
        "Responses": response(root, model, messages, **more),
    }
    _tabs(programs, lambda api: tabs(t, programs[api]))


def _tabs(names: Iterable[str], show_one: Callable[[str], None]) -> None:
    with ui.tabs().props("dense no-caps align=left") as bar:
        for name in names:
            ui.tab(name)
    with ui.tab_panels(bar, value=next(iter(names))).props(remove="animated"):
        for name in names:
            with ui.tab_panel(name):
                show_one(name)


def copy_button(t: Translator, text: str) -> None:
    def copy() -> None:
        ui.clipboard.write(text)
        ui.notify(t("action.copied"), type="positive", timeout=1500)

    button(t("action.copy"), copy, symbol="content_copy")


def show_once(t: Translator, title: str, warning: str, secret: str) -> None:
    """A dialog with a secret that is shown now and never again."""
    with dialog_box(title) as dialog:
        note(warning, kind="warn")
        ui.label(secret).classes("mono wrap")
        with ui.element("div").classes("buttons end"):
            copy_button(t, secret)
            button(t("action.done"), dialog.close, primary=True)
    dialog.open()


def create_job(root: str, body: Mapping[str, Any], *, validation_share: float | None = None) -> dict[str, str]:
    """A job's creation in three languages, with the very same values; with a share, a split of its file before it."""
    if validation_share is not None:
        return _create_split_job(root, body, validation_share)
    python = f"job = client.fine_tuning.jobs.create(\n{_arguments(for_library(body))})\nprint(job.id)\n"
    node = f"const job = await client.fineTuning.jobs.create({_json(body)});\nconsole.log(job.id);\n"
    return _programs(root, python, node, _curl(f"{root}/v1/fine_tuning/jobs", _data(body)))


def for_library(body: Mapping[str, Any]) -> dict[str, Any]:
    """The body as arguments of OpenAI's library, which takes what OpenAI's request does not know beside it."""
    own = {name: value for name, value in body.items() if name == "sample_prompts"}
    known = {name: value for name, value in body.items() if name not in own}
    return {**known, **({"extra_body": own} if own else {})}


def _create_split_job(root: str, body: Mapping[str, Any], share: float) -> dict[str, str]:
    url = f"{root}/tunery/v1/files/{body['training_file']}/split"
    rest = {name: value for name, value in body.items() if name != "training_file"}
    python = (
        f'parts = client.post("{url}", body={{"validation_share": {share}}}, cast_to=object)\n'
        "job = client.fine_tuning.jobs.create(\n"
        '    training_file=parts["training_file"],\n    validation_file=parts["validation_file"],\n'
        f"{_arguments(for_library(rest))})\nprint(job.id)\n"
    )
    node = (
        f'const parts = await client.post("{url}", {{ body: {{ validation_share: {share} }} }});\n'
        "const job = await client.fineTuning.jobs.create({\n"
        "  training_file: parts.training_file,\n  validation_file: parts.validation_file,\n"
        f"  ...{_json(rest)},\n}});\nconsole.log(job.id);\n"
    )
    curl = (
        f"parts=$({_curl(url, _data({'validation_share': share})).rstrip()})\n"
        f"rest={_shell_quoted(_json(rest))}\n"
        """jq -n --argjson parts "$parts" --argjson rest "$rest" \\\n"""
        """  '$rest + ($parts | {training_file, validation_file})' |\n"""
        f"{_curl(f'{root}/v1/fine_tuning/jobs', '@-')}"
    )
    return _programs(root, python, node, curl)


def chat(root: str, model: str, messages: list[dict[str, Any]], **more: Any) -> dict[str, str]:
    body = {"model": model, "messages": messages, **more}
    python = (
        f"answer = client.chat.completions.create(\n{_arguments(body)})\nprint(answer.choices[0].message.content)\n"
    )
    node = (
        f"const answer = await client.chat.completions.create({_json(body)});\n"
        "console.log(answer.choices[0].message.content);\n"
    )
    return _programs(root, python, node, _curl(f"{root}/v1/chat/completions", _data(body)))


def response(root: str, model: str, messages: list[dict[str, Any]], **more: Any) -> dict[str, str]:
    """The system messages that a conversation begins with are its instructions."""
    said = [message["role"] != "system" for message in messages]
    begins = said.index(True) if True in said else len(messages)
    head = [message["content"] for message in messages[:begins]]
    instructions = {"instructions": "\n".join(head)} if head else {}
    body = {"model": model, **instructions, "input": [_input_item(message) for message in messages[begins:]], **more}
    python = f"answer = client.responses.create(\n{_arguments(body)})\nprint(answer.output_text)\n"
    node = f"const answer = await client.responses.create({_json(body)});\nconsole.log(answer.output_text);\n"
    return _programs(root, python, node, _curl(f"{root}/v1/responses", _data(body)))


def _input_item(message: Mapping[str, Any]) -> dict[str, Any]:
    """Parts have names of their own in this API."""
    content = message["content"]
    if isinstance(content, list):
        kind = "output_text" if message["role"] == "assistant" else "input_text"
        content = [{"type": kind, "text": part["text"]} for part in content]
    return {"role": message["role"], "content": content}


def _programs(root: str, python: str, node: str, curl: str) -> dict[str, str]:
    """With the client before what it is asked."""
    return {
        "Python": f'from openai import OpenAI\n\nclient = OpenAI(base_url="{root}/v1", api_key="sk-…")\n{python}',
        "Node": 'import OpenAI from "openai";\n\n'
        f'const client = new OpenAI({{ baseURL: "{root}/v1", apiKey: "sk-…" }});\n{node}',
        "curl": curl,
    }


def _arguments(body: Mapping[str, Any]) -> str:
    return "".join(f"    {name}={_python(value)},\n" for name, value in body.items())


def _curl(url: str, data: str) -> str:
    return (
        f'curl {url} \\\n  -H "Authorization: Bearer $OPENAI_API_KEY" \\\n'
        f'  -H "Content-Type: application/json" \\\n  -d {data}\n'
    )


def _data(body: Mapping[str, Any]) -> str:
    return _shell_quoted(_json(body))


def _shell_quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def _python(value: Any) -> str:
    """JSON is Python but for its three names, which none of what is shown here holds."""
    return _json(value).replace("\n", "\n    ") if isinstance(value, str | dict | list) else repr(value)
