"""What the pages of stored answers share: which of them are meant, and how one is shown."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from markupsafe import Markup

from tunery.dashboard.components import html
from tunery.dashboard.visit import BASE, Visit
from tunery.texts import Translator

PATH = "/tunery/v1/stored_answers"
DRAFT = "stored_dataset"
FILTERS = ("api", "model", "since", "until", "key", "value", "search")
APIS = {"chat": "Chat Completions", "responses": "Responses"}
DAY_S = 86_400


def filters_of(visit: Visit) -> dict[str, str]:
    """As the page's address has them."""
    return {name: value for name in FILTERS if (value := visit.query(name))}


def address(filters: Mapping[str, str]) -> str:
    return f"{BASE}/stored" + (f"?{urlencode(filters)}" if filters else "")


def wanted(filters: Mapping[str, str]) -> dict[str, Any]:
    """As the server takes them in a body: whole days, the last one included. What is no day bounds nothing."""
    since, until = (_midnight(filters.get(name, "")) for name in ("since", "until"))
    given = {
        **{name: filters[name] for name in ("api", "model", "search") if filters.get(name)},
        "since": since,
        "until": None if until is None else until + DAY_S,
        "metadata": {filters["key"]: filters["value"]} if filters.get("key") and filters.get("value") else None,
    }
    return {name: value for name, value in given.items() if value is not None}


def as_query(filters: Mapping[str, str]) -> dict[str, Any]:
    """The same in an address."""
    query = wanted(filters)
    return query | {f"metadata[{key}]": value for key, value in query.pop("metadata", {}).items()}


def _midnight(day: str) -> int | None:
    try:
        return int(datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC).timestamp())
    except ValueError:
        return None


def state_cell(answer: Mapping[str, Any], t: Translator) -> Markup:
    """How it ended, and why it is no training row as it is."""
    chip = html.status_chip(answer["status"], t)
    return html.two_lines(chip, t(f"stored.problem_{answer['problem']}")) if answer["problem"] else chip


def tokens_text(usage: Mapping[str, int] | None, t: Translator) -> str:
    if usage is None:
        return html.DASH
    prompt, cached, completion = (usage[f"{name}_tokens"] for name in ("input", "cached", "output"))
    return t("playground.tokens", prompt=prompt, cached=cached, completion=completion)
