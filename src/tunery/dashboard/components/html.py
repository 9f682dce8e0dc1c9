"""Pieces of HTML as text. Everything that is put in is escaped: a name with markup in it stays a name."""

import math
import time
from datetime import UTC, datetime

from markupsafe import Markup
from nicegui import ui

from tunery.texts import Translator, amounts

DASH = "–"
NO_BREAK = "\u00a0"
LONG_VALUE = 10  # characters, set smaller
COLOURED_AS = {
    "completed": "succeeded",
    "incomplete": "paused",
    "in_progress": "running",
    "validating": "validating_files",
    "finalizing": "running",
    "cancelling": "paused",
    "canceled": "cancelled",
    "pass": "succeeded",
    "fail": "failed",
    "error": "paused",
    "expired": "failed",
}
OLD_S = 100 * 86_400  # from here on a date says more than a number of days
MAX_WHOLE = 24  # a longer part of a name may break: it must fit on a phone


def show(markup: str, *, tag: str = "div") -> ui.html:
    return ui.html(markup, sanitize=False, tag=tag)


def icon(name: str) -> Markup:
    return Markup('<i class="material-icons" aria-hidden="true">{}</i>').format(name)


def link(href: str, text: str | Markup) -> Markup:
    return Markup('<a href="{}">{}</a>').format(href, text)


def button_link(href: str, text: str, *, primary: bool = False, symbol: str = "") -> Markup:
    css = "button primary" if primary else "button"
    return Markup('<a class="{}" href="{}">{}<span>{}</span></a>').format(
        css, href, icon(symbol) if symbol else "", text
    )


def code(text: str) -> Markup:
    return Markup('<code title="{}">{}</code>').format(text, text)


def unbroken(text: str) -> Markup:
    """Japanese breaks anywhere: in a narrow column, a word would."""
    return Markup('<span class="whole">{}</span>').format(text)


def model_name(name: str) -> Markup:
    """Breaks between the parts of an `ft:` name, not inside its date."""
    parts = [f"{part}:" for part in name.split(":")[:-1]] + name.split(":")[-1:]
    shown = Markup("<wbr>").join(unbroken(part) if len(part) <= MAX_WHOLE else part for part in parts)
    return Markup('<span class="wrap">{}</span>').format(shown)


def status_chip(status: str, t: Translator) -> Markup:
    """A dot and the word: colour is never the only sign."""
    colour = COLOURED_AS.get(status, status)
    return Markup('<span class="chip {}"><span class="dot"></span>{}</span>').format(colour, t(f"status.{status}"))


def percent(done: int, total: int) -> int:
    return min(100, round(100 * done / total))


def progress(done: int | None, total: int | None, t: Translator) -> Markup:
    if done is None or not total:
        return Markup(DASH)
    return Markup(
        '<span class="progress"><progress max="100" value="{0}" aria-label="{1}"></progress><span>{0} %</span></span>'
    ).format(percent(done, total), t("job.progress"))


def when(timestamp: float | None, t: Translator) -> Markup:
    """How long ago, with the exact time to hover."""
    if not timestamp:
        return Markup(DASH)
    exact, passed = datetime.fromtimestamp(timestamp, UTC), time.time() - timestamp
    shown = exact.strftime("%Y-%m-%d") if abs(passed) > OLD_S else ago(passed, t)
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        exact.isoformat(), exact.strftime("%Y-%m-%d %H:%M:%S UTC"), shown
    )


def ago(seconds: float, t: Translator) -> str:
    future = seconds < -30
    size = abs(seconds)
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if size >= length:
            return t(f"time.in_{unit}" if future else f"time.{unit}_ago", n=int(size // length))
    return t("time.now")


def duration(seconds: float | None, t: Translator) -> str:
    return DASH if seconds is None else amounts.duration(seconds, t)


def time_range(least_s: float, most_s: float, t: Translator) -> str:
    """Both ends rounded: an estimate is no stopwatch."""
    low, high = (_rough(seconds, t).replace(" ", NO_BREAK) for seconds in (least_s, most_s))
    return low if low == high else f"{low} – {high}"


def _rough(seconds: float, t: Translator) -> str:
    if seconds < 90:
        return t("time.seconds", n=max(1, round(seconds)))
    if seconds < 5400:
        return t("time.about_minutes", n=round(seconds / 60))
    return t("time.about_hours", n=f"{seconds / 3600:.1f}")


def currency_sign(currency: str) -> str:
    return {"usd": "$", "eur": "€", "jpy": "¥"}.get(currency.lower(), f"{currency.upper()} ")


def money(amount: float | None, currency: str = "usd") -> str:
    """Small sums need digits: a completion may cost a thousandth of a cent."""
    if amount is None:
        return DASH
    sign = currency_sign(currency)
    if amount == 0:
        return f"{sign}0"
    if amount >= 1:
        return f"{sign}{amount:,.2f}"
    decimals = min(12, 2 - math.floor(math.log10(abs(amount))))  # three digits that say something
    return f"{sign}{amount:.{decimals}f}".rstrip("0")


def number(value: float | str | None) -> str:
    """A word in a number's place, such as `auto`, stays."""
    if isinstance(value, str):
        return value
    if value is None:
        return DASH
    return f"{value:,.0f}" if isinstance(value, int) or float(value).is_integer() else f"{value:,.4g}"


def two_lines(first: str | Markup, second: str | Markup) -> Markup:
    """A cell with a smaller second line."""
    return Markup('{}<span class="sub">{}</span>').format(first, second)


def tiles_markup(items: list[tuple[str, str | Markup, str]]) -> Markup:
    """Name, value, remark: the numbers that matter most, in a row."""
    tile = Markup(
        '<div class="tile"><div class="name">{}</div><div class="value{}">{}</div><div class="name">{}</div></div>'
    )
    return Markup("").join(
        tile.format(name, " long" if len(value) > LONG_VALUE and not isinstance(value, Markup) else "", value, remark)
        for name, value, remark in items
    )


def tiles(items: list[tuple[str, str | Markup, str]]) -> ui.html:
    return show(tiles_markup(items)).classes("tiles")


def facts(pairs: list[tuple[str, str | Markup]]) -> Markup:
    """A list of names and values."""
    rows = Markup("").join(Markup("<div><dt>{}</dt><dd>{}</dd></div>").format(name, value) for name, value in pairs)
    return Markup('<dl class="facts">{}</dl>').format(rows)
