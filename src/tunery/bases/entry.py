"""Entries of the owner's catalog: written and removed. The rest of the file, its comments too, stays as it is."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import tomlkit
from filelock import FileLock

from tunery import atomic
from tunery.domain.errors import InvalidRequest, NotFound
from tunery.domain.usage import Price
from tunery.models.catalog import Catalog, CatalogModel
from tunery.settings import Settings
from tunery.texts import say


@dataclass(frozen=True)
class Entry:
    """What is written of a base, with what is said of it in a comment."""

    model: CatalogModel
    files: dict[str, str]  # name → SHA-256 of what was fetched
    remark: str  # a line for who reads the file
    rate_remark: str = ""  # where its learning rate is from


def add_entry(settings: Settings, catalog: Catalog, entry: Entry) -> None:
    """Raises InvalidRequest where the file has one of its names already, or cannot be read."""
    with _changing(settings, catalog) as document:
        names = {name for row in document.get("models", ()) for name in (row["name"], *row.get("aliases", ()))}
        if clash := next((name for name in (entry.model.name, *entry.model.aliases) if name in names), None):
            raise taken(clash)
        bases = document.setdefault("bases", tomlkit.table(is_super_table=True))
        key = _key(entry.model, catalog, bases)
        if key not in bases:
            bases.append(key, _base(entry))
            document.setdefault("artifacts", tomlkit.aot()).append(_artifact(entry))
        document.setdefault("models", tomlkit.aot()).append(_model(entry.model, key))


def remove_entry(settings: Settings, catalog: Catalog, name: str) -> str | None:
    """The source of its weights when no other entry of the file stands on them, else None. Raises NotFound, and
    InvalidRequest where the file cannot be read."""
    with _changing(settings, catalog) as document:
        rows = document.get("models", [])
        index = next((index for index, row in enumerate(rows) if row.get("name") == name), None)
        if index is None:
            raise NotFound(say("base.not_own", name=name), param="model", code="model_not_found")
        key = rows[index]["base"]
        del rows[index]
        bases = document.get("bases", {})
        if key not in bases or any(row.get("base") == key for row in rows):
            return None
        source = str(bases[key]["source"])
        del bases[key]
        artifacts = document.get("artifacts", [])
        for at in [at for at, row in enumerate(artifacts) if row.get("source") == source]:
            del artifacts[at]
        for part in ("bases", "models", "artifacts"):
            if part in document and not document[part]:
                del document[part]
    return source


def change_rate(settings: Settings, catalog: Catalog, name: str, rate: float, remark: str) -> None:
    """Of the weights that `name` stands on. Raises NotFound, and InvalidRequest where the file cannot be read."""
    with _changing(settings, catalog) as document:
        key = next((row["base"] for row in document.get("models", ()) if row.get("name") == name), None)
        if key not in document.get("bases", {}):
            raise NotFound(say("base.rate_not_own", name=name), param="model", code="model_not_found")
        document["bases"][key]["learning_rate"] = _rate(rate, remark)


def taken(name: str) -> InvalidRequest:
    return InvalidRequest(say("base.name_taken", name=name), param="name", code="name_taken")


@contextmanager
def _changing(settings: Settings, catalog: Catalog) -> Iterator[Any]:
    """The file as a document, written back whole at the end of the block, unless it could not be used then."""
    path = settings.own_catalog
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        try:
            text = path.read_text("utf-8") if path.exists() else ""
        except (OSError, UnicodeDecodeError) as exc:
            raise InvalidRequest(say("catalog.unreadable", file=path, reason=exc)) from exc
        catalog.check(text)
        document = tomlkit.parse(text)
        yield document
        text = tomlkit.dumps(document)
        catalog.check(text)
        atomic.write_text(path.resolve(), text)


def _key(model: CatalogModel, catalog: Catalog, bases: Any) -> str:
    """That of an entry with the same weights, else one that no other weights have."""
    same = next((key for key in bases if bases[key].get("source") == model.source), None)
    if same is not None:
        return same
    known = {each.weights for each in catalog} | set(bases)
    key, number = model.weights, 2
    while key in known:
        key, number = f"{model.weights}-{number}", number + 1
    return key


def _base(entry: Entry) -> Any:
    model, table = entry.model, tomlkit.table()
    table.comment(entry.remark)
    table["source"] = model.source
    table["licence"] = model.licence
    table["context_length"] = model.context_length
    table["learning_rate"] = _rate(model.base_learning_rate * model.default_multiplier, entry.rate_remark)
    table["lora_rank"], table["lora_alpha"] = model.lora_rank, model.lora_alpha
    if model.languages:
        table["languages"] = list(model.languages)
    if model.pinned:
        table["pinned"] = True
    return table


def _rate(rate: float, remark: str) -> Any:
    item = tomlkit.item(float(f"{rate:.3g}"))
    return item.comment(remark) if remark else item


def _artifact(entry: Entry) -> Any:
    table = tomlkit.table()
    table["source"] = entry.model.source
    files = tomlkit.table()
    files.update(entry.files)
    table["files"] = files
    return table


def _model(model: CatalogModel, key: str) -> Any:
    table = tomlkit.table()
    table["name"] = model.name
    if model.aliases:
        table["aliases"] = list(model.aliases)
    table["base"] = key
    table["owned_by"] = model.owned_by
    if model.max_example_tokens != model.context_length:
        table["max_example_tokens"] = model.max_example_tokens
    table["multiplier"] = model.default_multiplier
    if model.price is not None:
        table["price"] = _price(model.price)
    return table


def _price(price: Price) -> Any:
    table = tomlkit.inline_table()
    table.update(vars(price))
    return table
