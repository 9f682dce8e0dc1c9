"""The proposals by name: what each would take, and the module that carries it out. For command line and page alike.

Those modules are imported late, with numpy: the command line's help needs the names alone.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, partial
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from tunery.domain.errors import InvalidRequest

if TYPE_CHECKING:
    from tunery.improve.jobs import Part, Price, Subject


class What(StrEnum):
    ROWS = "rows"
    CURVE = "curve"
    SWEEP = "sweep"
    PROMPT = "prompt"


@dataclass(frozen=True)
class Forecast:
    parts: "list[Part]"  # the jobs that are still to be made
    price: "Price"  # of those and of what models are asked


def act_of(what: What) -> ModuleType:
    """With its `plan`, `num_tokens`, `start` and `read`."""
    return import_module(f"tunery.improve.{what}")


def forecasts(subject: "Subject", wanted: Iterable[What] = What) -> "dict[What, Forecast | InvalidRequest]":
    """Of each what it would take, or why it cannot be. A few rows are asked, once for all, for the time they take."""
    from tunery.improve.asking import price_of_asking, seconds_a_token
    from tunery.improve.jobs import missing, price_of

    pace = cache(partial(seconds_a_token, subject))
    found: dict[What, Forecast | InvalidRequest] = {}
    for what in wanted:
        act = act_of(what)
        try:
            parts = missing(subject, act.plan(subject))
            asking = price_of_asking(subject, act.num_tokens(subject), pace)
            found[what] = Forecast(parts, price_of(subject, parts) + asking)
        except InvalidRequest as refused:
            found[what] = refused
    return found
