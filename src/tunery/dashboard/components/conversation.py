"""An example or a chat as a conversation. What training teaches is marked, what it only reads is not.

Whatever JSON stands where a conversation should is shown as it is: an upload takes any object a line.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from markupsafe import Markup

from tunery.texts import Translator

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
MAX_MESSAGES = 100  # of one conversation
MAX_LINE = 20_000  # characters of one message of a dataset
LONG = 2_000  # a longer message scrolls in a place of its own
MAX_SHOWN = 600  # characters of an answer; the file has all of it


def message(css: str, name: str, content: str | Markup, badge: str | Markup = "") -> Markup:
    long = Markup(' long" tabindex="0" role="region" aria-label="{}').format(name) if len(content) > LONG else ""
    return Markup('<div class="message {}"><div class="role">{}{}</div><div class="content{}">{}</div></div>').format(
        css, name, badge, long, content
    )


def shortened(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]} …"


def conversation(messages: Any, t: Translator, *, mark_trained: bool = True) -> Markup:
    if not isinstance(messages, list | tuple):
        return _as_json(messages)
    parts = [
        _message(each, t, mark_trained) if isinstance(each, Mapping) else _as_json(each)
        for each in messages[:MAX_MESSAGES]
    ]
    if len(messages) > MAX_MESSAGES:
        parts.append(Markup('<p class="muted small">{}</p>').format(t("dataset.more", n=len(messages) - MAX_MESSAGES)))
    return Markup('<div class="conversation">{}</div>').format(Markup("").join(parts))


def example(row: Any, t: Translator) -> Markup:
    """A line of a training file: chat, preference pair or completion; anything else as text."""
    if not isinstance(row, Mapping):
        return _as_json(row)
    if isinstance(row.get("messages"), list):
        return conversation(row["messages"], t)
    if isinstance(row.get("input"), Mapping):
        return _preference(row, t)
    if "prompt" in row and "completion" in row:
        messages = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]
        return conversation(messages, t)
    return _as_json(row)


def answer(name: str, text: str, t: Translator, *, is_exact: bool, failed: bool) -> Markup:
    """A model's answer to a row, marked where it is just what was expected, or why there is none."""
    word = "status.failed" if failed else "compare.exact" if is_exact else ""
    badge = Markup('<span class="badge">{}</span>').format(t(word)) if word else ""
    return message("assistant trained" if is_exact else "assistant", name, shortened(text), badge)


def answered(
    line: int, prompt: Any, expected: str | None, answers: Iterable[Markup], t: Translator, *, differs: bool, css: str
) -> Markup:
    """What several models answered to one row. `css`: one below the other (conversation) or side by side (pair)."""
    return Markup('<div class="line"><span>{}</span><span>{}</span></div>{}{}<div class="{}">{}</div>').format(
        t("dataset.line", n=line),
        t("compare.differs") if differs else t("compare.same"),
        conversation(prompt, t, mark_trained=False),
        "" if expected is None else message("expected", t("compare.expected"), shortened(expected)),
        css,
        Markup("").join(answers),
    )


def raw_line(text: str) -> Markup:
    return Markup('<pre class="raw">{}</pre>').format(_printable(text))


def _preference(row: Mapping[str, Any], t: Translator) -> Markup:
    def answers(name: str, css: str) -> Markup:
        shown = conversation(row.get(name) or [], t, mark_trained=False)
        return Markup('<div class="answer {}"><p>{}</p>{}</div>').format(css, t(f"dataset.{name}"), shown)

    asked = conversation(row["input"].get("messages") or [], t, mark_trained=False)
    return Markup('{}<div class="pair">{}{}</div>').format(
        asked, answers("preferred_output", "preferred"), answers("non_preferred_output", "rejected")
    )


def _message(entry: Mapping[str, Any], t: Translator, mark_trained: bool) -> Markup:
    role = text_of(entry.get("role", "?"))
    trained = mark_trained and role == "assistant" and entry.get("weight", 1) != 0
    badge = Markup('<span class="badge">{}</span>').format(t("dataset.trained")) if trained else ""
    if mark_trained and role == "assistant" and not trained:
        badge = Markup('<span class="badge muted">{}</span>').format(t("dataset.untrained"))
    css = role if role in ROLES else "other"
    return message(f"{css} trained" if trained else css, shortened(role), _content(entry), badge)


def _content(message: Mapping[str, Any]) -> Markup:
    calls = [message[name] for name in ("tool_calls", "function_call") if message.get(name)]
    flat = [call for item in calls for call in (item if isinstance(item, list) else [item])]
    shown = Markup("").join(_call(call) for call in flat[:MAX_MESSAGES])
    return Markup("{}{}").format(text_of(message.get("content")), shown)


def _call(call: Any) -> Markup:
    function = call.get("function", call) if isinstance(call, Mapping) else call
    if not isinstance(function, Mapping):
        return Markup('<code class="call">{}</code>').format(text_of(function))
    name, arguments = text_of(function.get("name", "?")), _readable(function.get("arguments", ""))
    return Markup('<code class="call">{}({})</code>').format(name, arguments)


def _readable(arguments: Any) -> str:
    """JSON in a text, with letters where it has escapes: that is how people read it."""
    try:
        return text_of(json.dumps(json.loads(arguments), ensure_ascii=False))
    except (TypeError, ValueError, RecursionError):
        return text_of(arguments)


def text_of(content: Any) -> str:
    """A message's content as people read it: its text, the texts of its parts, else its JSON."""
    if content is None:
        return ""
    if isinstance(content, list):
        return _printable("\n".join(_part(part) for part in content))
    return _printable(content if isinstance(content, str) else json.dumps(content, ensure_ascii=False))


def _part(part: Any) -> str:
    if isinstance(part, Mapping) and isinstance(known := part.get("text", part.get("type")), str):
        return known
    return text_of(part)


def _as_json(value: Any) -> Markup:
    return raw_line(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=1))


def _printable(text: str) -> str:
    """What fits in a page: half surrogate pairs, which JSON can spell, are no text that can be sent."""
    cut = text if len(text) <= MAX_LINE else f"{text[:MAX_LINE]} …"
    return cut.encode("utf-8", "replace").decode()
