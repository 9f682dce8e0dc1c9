"""Comparisons that run in this process. They belong to the key that started them, not to a tab."""

import time
from collections import OrderedDict

from nicegui import background_tasks

from tunery.dashboard.comparison import Comparison, Plan, Runner
from tunery.dashboard.connection import Connection, SessionEnded, explain
from tunery.dashboard.models import Model
from tunery.domain.ids import random_text
from tunery.texts import Translator

MAX_KEPT = 50

Owner = tuple[str, str | None]  # key and project

_running: OrderedDict[str, tuple[Owner, Comparison]] = OrderedDict()


def start(connection: Connection, models: dict[str, Model], plan: Plan, t: Translator) -> Comparison:
    """Raises SessionEnded."""
    if not connection.is_open():
        raise SessionEnded
    background = connection.for_background()
    comparison = Comparison(f"run-{random_text(12)}", plan, time.time())
    _running[comparison.id] = (_owner(connection), comparison)
    while len(_running) > MAX_KEPT:
        _running.popitem(last=False)

    async def run() -> None:
        try:
            await Runner(background, models, comparison).run()
        except ValueError:
            comparison.error = t("compare.no_examples")
        except Exception as error:
            comparison.error = explain(error, t)

    background_tasks.create(run(), name=comparison.id)
    return comparison


def find(connection: Connection, comparison_id: str) -> Comparison | None:
    owner, comparison = _running.get(comparison_id, (None, None))
    return comparison if owner == _owner(connection) else None


def of(connection: Connection) -> list[Comparison]:
    """Those of this key that have not ended, newest first."""
    mine = [comparison for owner, comparison in _running.values() if owner == _owner(connection)]
    return [comparison for comparison in reversed(mine) if not comparison.stored_as]


def _owner(connection: Connection) -> Owner:
    return connection.client.api_key, connection.client.project
