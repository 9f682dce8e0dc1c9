"""Comparisons that run in this process. They belong to the key that started them, not to a tab."""

import logging
import time
from collections import OrderedDict
from typing import Any

from nicegui import background_tasks

from tunery.dashboard.comparison import Comparison, Hopeless, NoExamples, Plan, Runner
from tunery.dashboard.connection import Connection, Owner, SessionEnded, explain
from tunery.dashboard.models import Model
from tunery.domain.ids import random_text
from tunery.texts import Translator

log = logging.getLogger(__name__)

MAX_KEPT = 50

_running: OrderedDict[str, tuple[Owner, Comparison]] = OrderedDict()


def start(connection: Connection, models: dict[str, Model], plan: Plan, t: Translator) -> Comparison:
    """Raises SessionEnded."""
    if not connection.is_open():
        raise SessionEnded
    background = connection.for_background()
    comparison = Comparison(f"run-{random_text(12)}", plan, time.time())
    _running[comparison.id] = (connection.owner, comparison)
    while len(_running) > MAX_KEPT:
        _running.popitem(last=False)

    async def run() -> None:
        try:
            await Runner(background, models, comparison, t).run()
        except* NoExamples:
            comparison.error = t("compare.no_examples")
        except* Hopeless as errors:
            comparison.error = t("compare.hopeless", reason=_first(errors))
        except* Exception as errors:
            log.exception("a comparison failed")
            comparison.error = explain(_first(errors), t)

    background_tasks.create(run(), name=comparison.id)
    return comparison


def _first(errors: BaseExceptionGroup[Any]) -> Any:
    first = errors.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


def find(connection: Connection, comparison_id: str) -> Comparison | None:
    owner, comparison = _running.get(comparison_id, (None, None))
    return comparison if owner == connection.owner else None


def of(connection: Connection) -> list[Comparison]:
    """Those of this key that have not ended, newest first."""
    mine = [comparison for owner, comparison in _running.values() if owner == connection.owner]
    return [comparison for comparison in reversed(mine) if not comparison.stored_as]
