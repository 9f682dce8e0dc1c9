"""The price table: a TOML file with a day beside each price. The one shipped holds OpenAI's last public prices."""

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from importlib import resources
from pathlib import Path
from typing import Any

from tunery.domain.errors import InvalidRequest
from tunery.domain.names import parse_name
from tunery.domain.usage import Price
from tunery.models.catalog import Catalog
from tunery.settings import SettingsError
from tunery.texts import say

TUNED = ("training", "input", "cached_input", "output")
BASE = ("base_input", "base_cached_input", "base_output")


class PriceTableError(SettingsError):
    """The price table cannot be used; the message names the file, the line and what to change. Stops the start."""


@dataclass(frozen=True)
class ModelPrices:
    """What one model costs from a day on."""

    since: date
    tuned: Price  # a fine-tune of the model, and the training
    base: Price  # the model itself


class PriceTable:
    def __init__(
        self, currency: str, batch_percent: int, models: dict[str, tuple[ModelPrices, ...]], default: Price | None
    ) -> None:
        self.currency = currency  # three small letters, as OpenAI writes it
        self._batch_percent = batch_percent
        self._models = models  # oldest day first
        self._default = default
        self._catalog: Catalog | None = None  # whose own prices hold where the table names no model

    @classmethod
    def load(
        cls, path: Path | None = None, models: Iterable[str] = (), *, catalog: Catalog | None = None
    ) -> "PriceTable":
        """The file, or the shipped table, and below it what `catalog` says of its models. Raises PriceTableError, also
        when one of `models` would have no price."""
        if path is None:
            source = resources.files("tunery.metering") / "prices.toml"
            table = _Reader(source.read_text(), "the shipped price table").table()
        else:
            try:
                text = path.read_text()
            except OSError as exc:
                raise PriceTableError(f"The price table {path} cannot be read: {exc.strerror}.") from exc
            table = _Reader(text, str(path)).table()
        table._catalog = catalog
        table._require(models, where=str(path))
        return table

    def _require(self, models: Iterable[str], *, where: str) -> None:
        missing = sorted(name for name in models if name not in self._models and self._of_catalog(name) is None)
        if missing and self._default is None:
            raise PriceTableError(
                f"{where} has no price for {', '.join(missing)}: add a [[prices]] entry for it, or a [default]."
            )

    def price_of(self, model: str, at: float, *, is_batch: bool = False) -> Price:
        """For a base's snapshot name or an `ft:` name, at a moment (Unix seconds; days begin at midnight UTC)."""
        name = parse_name(model)
        entry = self._entry(name.base if name else model, at)
        price = self._otherwise(name.base if name else model)
        if entry is not None:
            price = entry.tuned if name else entry.base
        return price.scaled(self._batch_percent) if is_batch else price

    def tuned_price(self, base_model: str, at: float) -> Price:
        """Of a model tuned on this base that has no name yet."""
        entry = self._entry(base_model, at)
        return self._otherwise(base_model) if entry is None else entry.tuned

    def training_price(self, base_model: str, at: float) -> int:
        """Millionths of the currency for a million trained tokens on this base's snapshot name."""
        entry = self._entry(base_model, at)
        return self._otherwise(base_model).training if entry is None else entry.tuned.training

    def _otherwise(self, base_model: str) -> Price:
        return self._of_catalog(base_model) or self._default or Price()

    def _of_catalog(self, base_model: str) -> Price | None:
        found = self._catalog.find(base_model) if self._catalog else None
        return found.price if found else None

    def charges(self, model: str, at: float, *, generates: bool = True) -> bool:
        """Whether an answer of the model costs anything, read and written; of what only embeds, read."""
        price = self.price_of(model, at)
        return price.input > 0 and (price.output > 0 or not generates)

    def check_upstream(self, model: str, at: float, *, param: str, generates: bool) -> None:
        """The upstream's answers cost real money: without a price no budget would ever end. Raises InvalidRequest."""
        if not self.charges(model, at, generates=generates):
            raise InvalidRequest(
                say("error.upstream_without_price", model=model),
                param=param,
                code="model_has_no_price",
            )

    def _newest_snapshot(self, model: str) -> tuple[ModelPrices, ...] | None:
        """`gpt-4o-mini` costs what its newest dated snapshot does."""
        dated = [name for name in self._models if _is_day(name.removeprefix(f"{model}-"))]
        return self._models[max(dated)] if dated else None

    def _entry(self, model: str, at: float) -> ModelPrices | None:
        entries = self._models.get(model) or self._newest_snapshot(model)
        if not entries:
            return None
        day = datetime.fromtimestamp(at, UTC).date()
        return next((entry for entry in reversed(entries) if entry.since <= day), entries[0])


def _is_day(text: str) -> bool:
    try:
        return len(text) == 10 and bool(date.fromisoformat(text))
    except ValueError:
        return False


class _Reader:
    """Reads the TOML text and knows on which line each thing stands, which tomllib does not tell."""

    def __init__(self, text: str, where: str) -> None:
        self._lines = text.splitlines()
        self._where = where
        try:
            self._document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as exc:
            raise PriceTableError(f"{where} is not valid TOML: {exc}") from exc

    def table(self) -> PriceTable:
        document = self._document
        for key in document:
            if key not in ("currency", "batch_percent", "default", "prices"):
                raise self._error(self._line(0, key), f"unknown key {key!r}")
        currency = document.get("currency")
        if not isinstance(currency, str) or not re.fullmatch(r"[a-zA-Z]{3}", currency):
            raise self._error(self._line(0, "currency"), 'currency must be three letters, such as "usd"')
        percent = document.get("batch_percent", 100)
        if type(percent) is not int or not 0 <= percent <= 100:
            raise self._error(self._line(0, "batch_percent"), f"batch_percent must be 0 to 100, not {percent!r}")
        return PriceTable(currency.lower(), percent, self._models(), self._default())

    def _default(self) -> Price | None:
        if "default" not in self._document:
            return None
        start = self._header("[default]", 0)
        row = self._document["default"]
        self._refuse_unknown(row, start, TUNED)
        return Price(**{name: self._amount(row, name, start) for name in TUNED})

    def _models(self) -> dict[str, tuple[ModelPrices, ...]]:
        found: dict[str, list[ModelPrices]] = {}
        for number, row in enumerate(self._document.get("prices", [])):
            start = self._header("[[prices]]", number)
            model, entry = self._entry(row, start)
            if any(known.since == entry.since for known in found.get(model, [])):
                raise self._error(start, f"a second price for {model} from {entry.since}")
            found.setdefault(model, []).append(entry)
        return {model: tuple(sorted(entries, key=lambda entry: entry.since)) for model, entries in found.items()}

    def _entry(self, row: dict[str, Any], start: int) -> tuple[str, ModelPrices]:
        self._refuse_unknown(row, start, ("model", "from", *TUNED, *BASE))
        model, since = row.get("model"), row.get("from")
        if not isinstance(model, str) or not model:
            raise self._error(self._line(start, "model"), "this entry has no model")
        if not isinstance(since, date) or isinstance(since, datetime):
            raise self._error(self._line(start, "from"), f"{model} needs from, a day such as 2024-07-18")
        tuned = Price(**{name: self._amount(row, name, start) for name in TUNED})
        base = Price(**{name.removeprefix("base_"): self._amount(row, name, start) for name in BASE})
        return model, ModelPrices(since, tuned, base)

    def _amount(self, row: dict[str, Any], name: str, start: int) -> int:
        value = row.get(name)
        line = self._line(start, name)
        if value is None:
            raise self._error(line, f"{name} is missing")
        if type(value) is not int:
            raise self._error(line, f"{name} must be a whole number of millionths, not {value!r}")
        if value < 0:
            raise self._error(line, f"{name} must not be negative, it is {value}")
        return value

    def _refuse_unknown(self, row: dict[str, Any], start: int, known: Iterable[str]) -> None:
        for key in row:
            if key not in known:
                raise self._error(self._line(start, key), f"unknown key {key!r}")

    def _header(self, header: str, number: int) -> int:
        lines = [index for index, line in enumerate(self._lines) if line.split("#")[0].strip() == header]
        return lines[number] if number < len(lines) else 0

    def _line(self, start: int, key: str) -> int:
        """Where the key stands in the table that begins at line `start`, else that line."""
        for index in range(start, len(self._lines)):
            line = self._lines[index].strip()
            if index > start and line.startswith("["):
                break
            name, _, rest = line.replace('"', "").partition(key)
            if not name and rest.lstrip()[:1] in ("=", "."):
                return index
        return start

    def _error(self, line: int, problem: str) -> PriceTableError:
        return PriceTableError(f"{self._where}, line {line + 1}: {problem}.")
