"""What is different between two rows of a dataset, word by word: what was taken away struck out, what came marked."""

import json
import re
from collections.abc import Mapping
from difflib import SequenceMatcher
from typing import Any

from markupsafe import Markup

from tunery.dashboard.components.conversation import example, message, raw_line, text_of
from tunery.texts import Translator

MAX_WORDS = 2_000  # of two texts together: longer ones stand one below the other
_WORDS = re.compile(r"\s+|\w+|[^\w\s]")
Turn = tuple[str, str]  # role and text


def row_difference(difference: Mapping[str, Any], t: Translator) -> Markup:
    """Of `kind`, `line`, `new_line`, `before` and `after`, as the API gives it."""
    line, kind = difference["new_line"] or difference["line"], difference["kind"]
    head = Markup('<div class="line"><span>{}</span><span>{}</span></div>').format(
        t("dataset.line", n=f"{line:,}"), t(f"edit.{kind}")
    )
    before, after = difference["before"], difference["after"]
    if kind == "changed" and before is not None:
        return Markup("{}{}").format(head, _changed(before, after, t))
    whole = before if kind == "removed" else after
    return Markup('{}<div class="{}">{}</div>').format(head, kind, _whole(whole, t))


def _whole(row: Any, t: Translator) -> Markup:
    if row is None:
        return Markup('<p class="muted small">{}</p>').format(t("edit.before_gone"))
    return raw_line(row) if isinstance(row, str) else example(row, t)


def _changed(before: Any, after: Any, t: Translator) -> Markup:
    old, new = _turns(before, t), _turns(after, t)
    if old is None or new is None:
        return Markup('<pre class="raw">{}</pre>').format(marked(_plain(before), _plain(after)))
    parts = []
    for tag, from_, to, first, last in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag == "equal":
            continue
        left, right = old[from_:to], new[first:last]
        for at in range(max(len(left), len(right))):
            was, now = (turns[at] if at < len(turns) else ("", "") for turns in (left, right))
            name = now[0] or was[0]
            parts.append(message(name.split(" ")[0], name, marked(was[1], now[1])))
    return Markup('<div class="conversation">{}</div>').format(Markup("").join(parts))


def _turns(row: Any, t: Translator) -> list[Turn] | None:
    """All messages of a row with role and weight; None when it has none."""
    if not isinstance(row, Mapping):
        return None
    if "prompt" in row and "completion" in row:
        return [("user", text_of(row["prompt"])), ("assistant", text_of(row["completion"]))]
    asked = row.get("input")
    lists = [row.get("messages"), asked.get("messages") if isinstance(asked, Mapping) else None]
    lists += [row.get("preferred_output"), row.get("non_preferred_output")]
    found = [each for listed in lists if isinstance(listed, list) for each in listed]
    return [_turn(each, t) for each in found] if found else None


def _turn(entry: Any, t: Translator) -> Turn:
    if not isinstance(entry, Mapping):
        return "?", _plain(entry)
    role = text_of(entry.get("role", "?"))
    name = f"{role} ({t('dataset.untrained')})" if entry.get("weight") == 0 else role
    more = {key: value for key, value in entry.items() if key not in ("role", "content", "weight")}
    return name, "\n".join(filter(None, [text_of(entry.get("content")), _plain(more) if more else ""]))


def _plain(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=1)
    return text.encode("utf-8", "replace").decode()


def marked(before: str, after: str) -> Markup:
    """One text with what has changed in it."""
    old, new = _WORDS.findall(before), _WORDS.findall(after)
    if len(old) + len(new) > MAX_WORDS:
        return Markup("{}{}").format(_taken(before), _come(after))
    parts = []
    for tag, from_, to, first, last in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag == "equal":
            parts.append(Markup("{}").format("".join(old[from_:to])))
        else:
            parts += [_taken("".join(old[from_:to])), _come("".join(new[first:last]))]
    return Markup("").join(parts)


def _taken(text: str) -> Markup:
    return Markup("<del>{}</del>").format(text) if text else Markup("")


def _come(text: str) -> Markup:
    return Markup("<ins>{}</ins>").format(text) if text else Markup("")
