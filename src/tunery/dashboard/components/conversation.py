"""An example or a chat as a conversation. What training teaches is marked, what it only reads is not."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from tunery.texts import Translator

MAX_SHOWN = 600  # characters of an answer; the file has all of it


def message(css: str, name: str, content: str | Markup, badge: str | Markup = "") -> Markup:
    return Markup('<div class="message {}"><div class="role">{}{}</div><div class="content">{}</div></div>').format(
        css, name, badge, content
    )


def shortened(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]} …"


def conversation(messages: Sequence[Mapping[str, Any]], t: Translator, *, mark_trained: bool = True) -> Markup:
    parts = [_message(each, t, mark_trained) for each in messages if isinstance(each, Mapping)]
    return Markup('<div class="conversation">{}</div>').format(Markup("").join(parts))


def example(row: Mapping[str, Any], t: Translator) -> Markup:
    """A line of a training file: chat, preference pair or completion; anything else as text."""
    if isinstance(row.get("messages"), list):
        return conversation(row["messages"], t)
    if isinstance(row.get("input"), Mapping):
        return _preference(row, t)
    if "prompt" in row and "completion" in row:
        messages = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]
        return conversation(messages, t)
    return Markup("<pre>{}</pre>").format(str(row))


def _preference(row: Mapping[str, Any], t: Translator) -> Markup:
    def answers(name: str, css: str) -> Markup:
        messages = row.get(name) or []
        shown = conversation(messages if isinstance(messages, list) else [], t, mark_trained=False)
        return Markup('<div class="answer {}"><p>{}</p>{}</div>').format(css, t(f"dataset.{css}"), shown)

    asked = conversation(row["input"].get("messages") or [], t, mark_trained=False)
    return Markup('{}<div class="pair">{}{}</div>').format(
        asked, answers("preferred_output", "preferred"), answers("non_preferred_output", "rejected")
    )


def _message(said: Mapping[str, Any], t: Translator, mark_trained: bool) -> Markup:
    role = str(said.get("role", "?"))
    trained = mark_trained and role == "assistant" and said.get("weight", 1) != 0
    badge = Markup('<span class="badge">{}</span>').format(t("dataset.trained")) if trained else ""
    if mark_trained and role == "assistant" and not trained:
        badge = Markup('<span class="badge muted">{}</span>').format(t("dataset.untrained"))
    css = role if role.isalpha() else "other"
    return message(f"{css} trained" if trained else css, role, _content(said), badge)


def _content(message: Mapping[str, Any]) -> Markup:
    content = message.get("content")
    text = (
        content
        if isinstance(content, str)
        else "\n".join(
            str(part.get("text", part.get("type", ""))) for part in content or [] if isinstance(part, Mapping)
        )
    )
    calls = [call.get("function", {}) for call in message.get("tool_calls") or [] if isinstance(call, Mapping)]
    if isinstance(message.get("function_call"), Mapping):
        calls.append(message["function_call"])
    shown = Markup("").join(
        Markup('<code class="call">{}({})</code>').format(call.get("name", "?"), call.get("arguments", ""))
        for call in calls
    )
    return Markup("{}{}").format(text or "", shown)
