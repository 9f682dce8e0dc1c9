"""The proposals by name: what each would take, and the module that carries it out. For command line and page alike.

Those modules are imported late, with numpy: the command line's help needs the names alone.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
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
    is_timed: bool = True  # False: the time of what models are asked is not in it


def act_of(what: What) -> ModuleType:
    """With its `plan`, `num_tokens`, `start` and `read`."""
    return import_module(f"tunery.improve.{what}")


def forecasts(
    subject: "Subject", pace: Callable[[], float] | None, wanted: Iterable[What] = What
) -> "dict[What, Forecast | InvalidRequest]":
    """Of each what it would take, or why it cannot be. `pace`: seconds a token of a prompt, asked for where models are
    asked; None: it is not known, and nobody is asked."""
    from tunery.improve.asking import price_of_asking
    from tunery.improve.jobs import missing, price_of

    found: dict[What, Forecast | InvalidRequest] = {}
    for what in wanted:
        act = act_of(what)
        try:
            parts = missing(subject, act.plan(subject))
            num_tokens = act.num_tokens(subject)
            asking = price_of_asking(subject, num_tokens, pace)
            found[what] = Forecast(parts, price_of(subject, parts) + asking, pace is not None or not num_tokens)
        except InvalidRequest as refused:
            found[what] = refused
    return found
