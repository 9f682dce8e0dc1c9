"""Chat templates, compiled in Jinja's sandbox with the filters and globals that transformers gives them.

A template is code that came with somebody's weights: it sees messages, and nothing of this process.
"""

from collections.abc import Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tunery.chat.marks import as_json
from tunery.domain.errors import InvalidRequest
from tunery.texts import say


class RenderError(InvalidRequest):
    """These messages cannot be rendered with the base model's chat template."""


class _Generation(Extension):
    """`{% generation %}` marks the assistant's part for transformers' masks. Its body is rendered as it stands."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own interface

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes HTML, which would put `\\u003c` into prompts."""
    return as_json(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


# What a template's own code can come to when it meets messages it was not written for.
_FAILURES = (TemplateError, TypeError, LookupError, ValueError, AttributeError, ArithmeticError, RecursionError)


NO_THOUGHTS = {"enable_thinking": False}
"""What templates of models that can think first are told: an answer begins at once. Others do not ask for it."""


class ChatTemplate:
    """A compiled template with the special tokens of its tokenizer."""

    def __init__(self, source: str, special_tokens: dict[str, str]) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        self.source = source
        self._special_tokens = special_tokens
        self._template = environment.from_string(source)

    def render(
        self,
        messages: Sequence[dict[str, Any]],
        tools: list[dict[str, Any]] | None = None,
        *,
        add_generation_prompt: bool = False,
    ) -> str:
        try:
            return self._render(messages, tools, add_generation_prompt, NO_THOUGHTS)
        except _FAILURES as exc:
            raise RenderError(say("error.template_cannot_render", reason=exc), param="messages") from exc

    def _render(
        self,
        messages: Sequence[dict[str, Any]],
        tools: list[dict[str, Any]] | None,
        add_generation_prompt: bool,
        variables: dict[str, Any],
    ) -> str:
        given = {**self._special_tokens, **variables}
        return self._template.render(
            messages=messages, tools=tools, add_generation_prompt=add_generation_prompt, **given
        )

    @cached_property
    def no_thought(self) -> str:
        """The empty thought that the generation prompt ends with, so that none follows: Qwen 3's `<think></think>`. ""
        in a template that knows of no thoughts."""
        asked = [{"role": "user", "content": "."}]
        try:
            thinking, silent = (self._render(asked, None, True, given) for given in ({}, NO_THOUGHTS))
        except _FAILURES:
            return ""
        return silent[len(thinking) :] if silent.startswith(thinking) else ""


def load_template(model_dir: Path, config: dict[str, Any]) -> str:
    """The source of a model directory's template. `config` is its tokenizer_config.json.

    Raises FileNotFoundError when the model has none: then it is no chat model.
    """
    file = model_dir / "chat_template.jinja"
    if file.exists():
        return file.read_text("utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):  # several by name: the one called `default` is meant for chats
        template = next((entry["template"] for entry in template if entry["name"] == "default"), None)
    if not template:
        raise FileNotFoundError(f"{model_dir} has no chat template (chat_template.jinja)")
    return template
